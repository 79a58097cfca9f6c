"""The kept traces as a Hugging Face data set: parquet files with the images inside, and a card."""

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.jsonl import temporary_beside, write_text_atomic
from data_construction.dataset import thinking_row
from data_construction.difficulty import read_difficulty
from data_construction.quality import Chosen
from data_construction.records import Trace
from vlm.problem import Problem

SHARD_ROWS = 2000

CARD = """---
task_categories: [visual-question-answering]
tags: [reflection, chain-of-thought, vision-language, reflection-v]
size_categories: [{size}]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# Visual reflection traces

{n} first-person traces with visual re-looks, built by the agent loop of Reflection-V (arXiv 2509.12132). A text reasoner
that never sees the image asks, and a vision-language model that sees it answers, until the conclusion matches the gold
answer. The transcript is then rewritten as one chain of thought.

- Text reasoner: {reasoner}
- Vision-language model: {responder}
- SHA-256 of the prompts: {prompts}
- Domains: {domains}
- Re-looks per trace: {looks}

| column | |
|---|---|
| `id`, `problem_id`, `source`, `domain` | |
| `images`, `question`, `choices`, `answer` | the problem |
| `completion` | the trace inside `<think>`, then the boxed answer |
| `masked` | character spans of `completion` that a later sentence corrects |
| `looks` | number of re-looks |
| `rounds` | JSON: request, reply, conclusion, answer, verdict and calls of the zoom tool of each round |
| `messages`, `crops` | of a trace with calls of the zoom tool: the response as messages (JSON), and the crops in the order of the calls |
| `cohesion` | who wrote the trace: `model`, or `template` where no rewrite kept the facts |
| `weak_pass_rate`, `strong_pass_rate` | share of samples that a weak and a strong model answered correctly; null where not measured |

Answers were checked, descriptions were not: the vision-language model may have misread an image. Images and questions
keep the licences of their sources.
"""


def export_hf(traces: Sequence[Trace], problems: Mapping[str, Problem], out: Path) -> Path:
    """Write the traces of status ``kept`` to ``out/hf``, which ``datasets.load_dataset`` reads. Returns this folder.

    Raises:
        UserError: no trace was kept, an image is missing, or ``out/hf`` holds something else.
    """
    import datasets

    kept = Chosen(traces, [number for number, trace in enumerate(traces) if trace.status == "kept"])
    if not kept:
        raise UserError(
            f"There is nothing to export: no trace in {out} was kept. Count them: reflection-v build --stats {out}."
        )
    difficulty = read_difficulty(out / "difficulty.jsonl")
    text, strings = datasets.Value("string"), datasets.List(datasets.Value("string"))
    features = datasets.Features(
        dict.fromkeys(
            (
                "id",
                "problem_id",
                "source",
                "domain",
                "question",
                "answer",
                "completion",
                "messages",
                "rounds",
                "cohesion",
            ),
            text,
        )
        | dict.fromkeys(("images", "crops"), datasets.List(datasets.Image()))
        | {"choices": strings}
        | {"masked": datasets.List(datasets.List(datasets.Value("int32"))), "looks": datasets.Value("int32")}
        | dict.fromkeys(("weak_pass_rate", "strong_pass_rate"), datasets.Value("float32"))
    )

    # A function of its arguments alone: datasets pickles it with all that it refers to, to name its cache.
    def rows(chosen: list[tuple[Trace, Problem, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        for trace, problem, rates in chosen:
            yield _exported_row(trace, problem, rates, out)

    if foreign := [path for path in (out / "hf").glob("*") if path.name not in ("README.md", "data")]:
        raise UserError(
            f"{foreign[0]} is not part of an exported data set, which replaces this folder: move it away first."
        )
    folder, shards = out / "hf", math.ceil(len(kept) / SHARD_ROWS)
    with temporary_beside(folder) as scratch:  # renamed at the end, so that the folder is complete or absent
        fresh = scratch / "hf"
        (fresh / "data").mkdir(parents=True)
        for shard in range(shards):
            chosen = []
            for number in range(shard * SHARD_ROWS, min(len(kept), (shard + 1) * SHARD_ROWS)):
                trace = kept[number]
                chosen.append((trace, problems[trace.problem_id], difficulty.get(trace.problem_id, {})))
            data = datasets.Dataset.from_generator(
                rows, features=features, gen_kwargs={"chosen": chosen}, cache_dir=f"{scratch}/cache{shard}"
            )
            data.to_parquet(fresh / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet")
        write_text_atomic(fresh / "README.md", _card(kept, problems))
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return folder


def _exported_row(trace: Trace, problem: Problem, difficulty: dict[str, Any], folder: Path) -> dict[str, Any]:
    called = thinking_row(problem, trace, folder)
    with_calls = "tools" in called
    taught = thinking_row(problem, _text_alone(trace)) if with_calls else called
    try:
        shown = [{"bytes": Path(image).read_bytes(), "path": Path(image).name} for image in called["images"]]
    except OSError as error:
        raise UserError(
            f"The image {error.filename} of problem {problem.id} cannot be read: {error.strerror}."
        ) from None
    images, crops = shown[: len(problem.images)], shown[len(problem.images) :]
    return {
        "id": trace.id,
        "problem_id": problem.id,
        "source": problem.source,
        "domain": problem.domain,
        "question": problem.question,
        "answer": problem.answer,
        "completion": taught["completion"],
        "messages": json.dumps(called["completion"], ensure_ascii=False) if with_calls else "",
        "crops": crops,
        "rounds": json.dumps([round_.model_dump() for round_ in trace.rounds], ensure_ascii=False),
        "cohesion": trace.cohesion,
        "images": images,
        "choices": problem.choices or [],
        "masked": taught["masked"],
        "looks": trace.looks,
        "weak_pass_rate": difficulty.get("weak"),
        "strong_pass_rate": difficulty.get("strong"),
    }


def _text_alone(trace: Trace) -> Trace:
    """The trace as text alone, as if no tool had been called."""
    return trace.model_copy(update={"rounds": [one.model_copy(update={"zooms": []}) for one in trace.rounds]})


def _card(kept: Sequence[Trace], problems: Mapping[str, Problem]) -> str:
    found: dict[str, Counter[Any]] = defaultdict(Counter)
    for trace in kept:
        # The card may be published: it must not name a private server.
        for role in ("reasoner", "responder"):
            found[role][trace.models[role].split("@http", 1)[0]] += 1
        found["prompts"][trace.prompts_sha256] += 1
        found["domains"][problems[trace.problem_id].domain] += 1
        found["looks"][trace.looks] += 1
    listed = {name: ", ".join(f"{value} ({n})" for value, n in one.most_common()) for name, one in found.items()}
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (math.inf, "100K<n<1M"))
    return CARD.format(n=len(kept), size=next(name for most, name in sizes if len(kept) < most), **listed)
