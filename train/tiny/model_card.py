"""The model cards of the bundled tiny models: what they were trained on, and held-out figures measured when they are written."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from configs.jsonl import write_text_atomic
from data_construction.sources import LEARNED, SOURCES, problems, wording
from reward.sampling import sample_and_grade
from reward.statements import final_statements
from vlm.chat import question_messages
from vlm.generate import generate
from vlm.load import VLM, load_text_model, load_vlm

SEED = 9  # of the held-out problems of the card; no run config uses it

VLM_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
reads: grids of coloured shapes and of handwritten digits, and nothing else
---
# tiny-vlm

A Qwen3-VL of {parameters:.1f} M parameters that reads 192 x 192 images of coloured shapes and of handwritten digits. It exists so that
everything in Reflection-V really runs on a laptop. It knows nothing else.

**Data.** Drawn by `data_construction.sources`, split `pretrain`. The handwriting is the UCI set that scikit-learn ships, and the
images used here do not occur in training or held-out problems. **Recipe.** `python -m train.tiny.pretrain`: {seconds} seconds on two
cores ({stages}).

**Deliberate weaknesses.** Lists, plain reasoning, direct answers and glances were written from a *hasty* look: things with a radius
below {small:g} pixels are called circles, orange among them red and purple blue. Answers to "look again", "look closely" and "check" were
written from the true scene. A short question ("How many red shapes are there?") was answered by its total alone, which a model of
this size cannot see at once. A note beside the image was treated as true in {trust:.0%} of the examples. So this base model has a glance
that mostly guesses, a quick look that errs, a careful one that errs less, and a habit of trusting text. Cold start and
reinforcement learning have to change these.
It was never shown a trace that goes back to the image. What the second look is worth *here* is by construction and is no
evidence about large models.

**Held-out figures** ({n} problems per family, hard images, greedy):

{accuracy}

{looks}

These families were not taught and are available as sources:

{others}
"""

REASONER_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# tiny-reasoner

A Qwen3 text model of {parameters:.1f} M parameters, the text side of the agent loop: it asks for a look, concludes, and rewrites a
transcript as one first-person trace, in the words of `data_construction/prompts/short`. It sees neither image nor scene.

**Data.** Dialogues simulated from the problem sources (split `pretrain`), with misread replies. **Recipe.**
`python -m train.tiny.pretrain`: {seconds} seconds on two cores. Stored as bfloat16.

**Held-out figures** ({n} dialogues, greedy): {figures}.
"""


def write_vlm_card(folder: Path, seconds: dict[str, float], trust: float, n: int = 100) -> dict[str, Any]:
    """Measure the model in ``folder`` and write its README.md; returns the figures."""
    vlm = load_vlm(folder)
    accuracy = {style: accuracy_by_family(vlm, style, list(LEARNED), n) for style in ("direct", "describe")}
    untaught = [name for part in SOURCES.values() for name in part if name not in LEARNED]
    chance = {"direct": accuracy_by_family(vlm, "direct", untaught, n)}
    looks = {"in passing": look_errors(vlm, n, again=False), "looking again": look_errors(vlm, n, again=True)}
    card = VLM_CARD.format(
        parameters=sum(parameter.numel() for parameter in vlm.model.parameters()) / 1e6,
        seconds=round(sum(seconds.values())),
        stages=", ".join(f"{stage} {round(value)}" for stage, value in seconds.items()),
        small=wording.SMALL,
        trust=trust,
        n=n,
        accuracy=markdown_table("answered correctly", accuracy),
        looks=markdown_table("incorrect facts in one look", looks),
        others=markdown_table("answered correctly, not taught", chance),
    )
    write_text_atomic(folder / "README.md", card)
    return {"accuracy": accuracy, "untaught": chance, "look_errors": looks}


def write_reasoner_card(folder: Path, rows: list[tuple[str, str, str]], seconds: float) -> dict[str, float]:
    """Measure the model on held-out ``rows`` (task, prompt, correct answer) and write its README.md.

    Conclusions must be right word for word; of a rewrite the facts stated last; requests may be worded freely.
    """
    reasoner = load_text_model(folder)
    messages = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for _, prompt, _ in rows]
    written = generate(reasoner, messages, [[] for _ in rows], max_new_tokens=384, batch_size=64)
    right = defaultdict(list)
    for (task, _, answer), generation in zip(rows, written, strict=True):
        if task != "rewrite":
            right[task].append(generation.text.split() == answer.replace(" \\boxed", "\\boxed").split())
        else:  # the cue is free, the facts are not
            right[task].append(final_statements(generation.text) == final_statements(answer))
    figures = {task: sum(hits) / len(hits) for task, hits in right.items() if task != "request"}
    card = REASONER_CARD.format(
        parameters=sum(parameter.numel() for parameter in reasoner.model.parameters()) / 1e6,
        seconds=round(seconds),
        n=len(rows),
        figures=", ".join(f"{task} {share:.3f}" for task, share in figures.items()),
    )
    write_text_atomic(folder / "README.md", card)
    return figures


def accuracy_by_family(vlm: VLM, style: str, names: list[str], n: int) -> dict[str, float]:
    """Share of ``n`` held-out problems of each family answered right, greedy."""
    drawn = list(problems("scenes,digits", n * len(names), SEED, "heldout", family_names=names))
    shown = {problem.id: list(images.values()) for problem, images in drawn}
    batches = sample_and_grade(
        vlm,
        [problem for problem, _ in drawn],
        1,
        style=style,
        max_new_tokens=128,
        batch_size=64,
        images=lambda problem: shown[problem.id],
    )
    correct = defaultdict(list)
    for _, samples in batches:
        for problem, _, grade in samples:
            correct[problem.family].append(grade.correct)
    return {name: sum(hits) / len(hits) for name, hits in correct.items()}


def look_errors(vlm: VLM, n: int, again: bool) -> dict[str, float]:
    """Share of facts wrong in one look at each row, greedy: colours, shapes and digits."""
    rng, errors = random.Random(SEED), {}
    for kind in ("colour", "shape", "digit"):
        source, family = ("digits", "digit_list") if kind == "digit" else ("scenes", "list")
        drawn = list(problems(source, n, SEED, "heldout", family_names=[family]))
        looks = [wording.VisualQuestion(kind, f"row {1 + index % 3}") for index in range(n)]
        asked = [wording.request(look, rng, again) for look in looks]
        written = generate(
            vlm,
            [question_messages(text, 1, style="none") for text in asked],
            [list(pictures.values()) for _, pictures in drawn],
            max_new_tokens=24,
            batch_size=64,
        )
        wrong = []
        for look, (problem, _), generation in zip(looks, drawn, written, strict=True):
            seen = final_statements(generation.text).get(look.target, "").split()
            truth = [wording.value(problem.meta["facts"][place], kind) for place in look.places]
            wrong += [index >= len(seen) or seen[index] != fact for index, fact in enumerate(truth)]
        errors[kind] = sum(wrong) / len(wrong)
    return errors


def markdown_table(title: str, rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row for each key, a column for each key of its values."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |" for name, row in rows.items()
    ]
    return "\n".join(lines)
