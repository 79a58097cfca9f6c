"""The stages that ``benchmarks/kills.py`` kills: their commands, the files that show progress, and the results to compare.

Every stage runs as a user runs it, ``reflection-v STAGE ...``, on the bundled tiny models and a problem set of
``data_construction``, sized so that an uninterrupted run takes some 20 to 40 seconds of which a good half is work.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from configs.jsonl import read_jsonl, write_text_atomic
from configs.provenance import COMPLETE
from data_construction.sources import write_set
from vlm.chat import question_messages
from vlm.problem import read_problems

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"seconds", "seconds_per_step", "step_time", "load_average"}
"""Keys whose values differ between any two runs."""
OUT = "OUT"
"""Replaces the path of the output folder in values."""


@dataclass(frozen=True)
class KilledStage:
    """A command that can be killed and given again.

    Attributes:
        command: the whole command line, given the output folder.
        rows: globs below the output folder of JSON Lines files that grow while it works.
        ended: whether the output folder holds the whole result.
        result: what must equal that of an uninterrupted run, as JSON values by name.
        faults: what must never be in the folder of a finished run, even if the uninterrupted run has it, too.
        needs: another stage whose uninterrupted run must exist first.
    """

    name: str
    command: Callable[[Path], list[str]]
    rows: tuple[str, ...]
    ended: Callable[[Path], bool]
    result: Callable[[Path], dict[str, Any]]
    faults: Callable[[Path], list[str]] = field(default=lambda folder: [])
    needs: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The files that the commands read."""

    problems: Path
    few: Path
    heldout: Path
    rows: Path
    questions: Path
    sft: Path
    improve: Path


def write_inputs(folder: Path) -> Inputs:
    """Write the problem sets and configs, unless they exist."""
    inputs = Inputs(
        folder / "problems",
        folder / "few",
        folder / "heldout",
        folder / "rows.jsonl",
        folder / "questions.jsonl",
        folder / "sft.yaml",
        folder / "improve.yaml",
    )
    if inputs.improve.exists():  # written last
        return inputs
    families = ["count", "compare", "place"]
    write_set("scenes", 18, 0, "train", inputs.problems, family_names=families)
    write_set("scenes", 6, 0, "train", inputs.few, family_names=families)
    write_set("scenes", 12, 0, "heldout", inputs.heldout, family_names=families, counterfactual=True)
    rows, questions = [], []
    for problem in read_problems(inputs.problems):
        facts = list(problem.meta["facts"].items())[:3]  # short, so that few steps teach to finish the response
        seen = "; ".join(f"{place}: {what}" for place, what in facts)
        prompt = question_messages(problem.question, 1, style="think")
        completion = f"<think> {seen}. </think> \\boxed{{{problem.answer}}}"
        rows.append({"prompt": prompt, "completion": completion, "images": problem.images, "masked": []})
        questions.append({"id": problem.id, "question": problem.question, "images": problem.images})
    for file, some in ((inputs.rows, rows), (inputs.questions, questions)):
        write_text_atomic(file, "".join(json.dumps(row) + "\n" for row in some))
    training = {
        "per_device_train_batch_size": 6,
        "learning_rate": 2e-4,
        "save_steps": 1,
        "save_total_limit": 1,
        "gradient_checkpointing": False,
        "precision": "float32",
        "freeze_vision": True,
    }
    improve = {"sft": "sft.yaml", "rounds": 2, "samples": 2, "batch_size": 8, "max_new_tokens": 64}
    improve |= {"temperature": 0.5, "lift_kept": [0.0], "min_gain": -2.0}
    write_text_atomic(inputs.sft, json.dumps({**training, "max_steps": 4}))  # JSON is YAML
    write_text_atomic(inputs.improve, json.dumps(improve))
    return inputs


def make_stages(inputs: Inputs, model: Path) -> dict[str, KilledStage]:
    """The stages by name.

    Args:
        model: where the uninterrupted ``sft`` leaves its model, which ``grpo`` and ``improve`` start from.
    """
    stages = [
        KilledStage(
            "build",
            # batch_size 1: batches of the in-process model depend on timing, and their rounding on their size.
            _command("build", ROOT / "configs/tiny/build.yaml", problems=inputs.few, concurrency=3, batch_size=1),
            ("replies.jsonl", "traces.jsonl"),
            lambda folder: (folder / "build.json").exists(),
            _build_result,
            _build_faults,
        ),
        KilledStage(
            "shard",
            _command(
                *("build", ROOT / "configs/tiny/build.yaml"),
                problems=inputs.few,
                concurrency=3,
                batch_size=1,
                shard="1/2",
            ),
            ("shard-1-of-2/replies.jsonl", "shard-1-of-2/traces.jsonl"),
            lambda folder: (folder / "shard-1-of-2" / "build.json").exists(),
            lambda folder: _build_result(folder / "shard-1-of-2"),
            lambda folder: _build_faults(folder / "shard-1-of-2"),
        ),
        KilledStage(
            "sft",
            _command(
                *("sft", inputs.sft),
                model="tiny",
                dataset=inputs.rows,
                max_steps=12,
                learning_rate=3e-3,
                lr_scheduler_type="constant",
                dataloader_num_workers=1,
            ),
            ("log.jsonl",),
            lambda folder: (folder / "summary.json").exists(),
            _training_result,
            _training_faults,
        ),
        KilledStage(
            "grpo",
            _command(
                "grpo",
                ROOT / "configs/tiny/grpo.yaml",
                model=model,
                problems=inputs.problems,
                precision="float32",
                max_steps=6,
                save_steps=1,
                per_device_train_batch_size=8,
                num_generations=4,
                max_completion_length=64,
                prompt_selection="{samples: 4, min_right: 1, max_right: 3, candidates: 12, at_least: 6, batch_size: 8}",
            ),
            ("pass_rates.jsonl", "log.jsonl"),
            lambda folder: (folder / "summary.json").exists(),
            _training_result,
            _training_faults,
            needs="sft",
        ),
        KilledStage(
            "improve",
            _command("improve", inputs.improve, model=model, problems=inputs.problems, heldout=inputs.heldout),
            ("round-*/samples.jsonl", "round-*/model/log.jsonl", "round-*/eval/answers/*.jsonl"),
            lambda folder: (folder / "improve.json").exists(),
            _improve_result,
            _improve_faults,
            needs="sft",
        ),
        KilledStage(
            "eval",
            _command(
                *("eval", "tiny"),
                problems=inputs.heldout,
                style="describe",
                batch_size=4,
                max_new_tokens=64,
                k=2,
                temperature=1.0,
            ),
            ("answers/*.jsonl",),
            lambda folder: (folder / "report.html").exists(),
            lambda folder: _answers_result(folder, "report.json", "samples.json"),
            _answers_faults,
        ),
        KilledStage(
            "audit",
            _command(
                *("audit", "tiny"),
                problems=inputs.heldout,
                style="describe",
                **{"batch_size": 4, "max_new_tokens": 64, "k": 2, "cutoff": 8, "samples": 8, "forward": 12},
            ),
            ("answers/*.jsonl",),
            lambda folder: (folder / "audit.html").exists(),
            lambda folder: _answers_result(folder, "audit.json", "cases.json"),
            _answers_faults,
        ),
        KilledStage(
            "ask",
            _ask(inputs.questions),
            ("answers.jsonl",),
            lambda folder: len(_rows(folder / "answers.jsonl")) >= len(_rows(inputs.questions)),
            lambda folder: {"answers.jsonl": _by(_rows(folder / "answers.jsonl"), "id"), "files": _files(folder)},
            lambda folder: _twice("answers.jsonl", (row["id"] for row in _ok(folder / "answers.jsonl"))),
        ),
    ]
    return {stage.name: stage for stage in stages}


def _command(*words: object, **options: object) -> Callable[[Path], list[str]]:
    given = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    start = [sys.executable, "-m", "reflection_v.cli", *map(str, words), *given]
    return lambda folder: [*start, "--out", str(folder)]


def _ask(questions: Path) -> Callable[[Path], list[str]]:
    start = _command("ask", batch=questions, style="describe", votes=8)(Path())[:-2]
    return lambda folder: [*start, "--out", str(folder / "answers.jsonl")]


def environment() -> dict[str, str]:
    """Of the commands: no network, and one thread, since rounding depends on how many there are."""
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **fixed, "PYTHONPATH": str(ROOT)}


def untimed(value: Any) -> Any:
    """A JSON value without the figures of time."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key not in TIMES}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def _json(file: Path, folder: Path) -> Any:
    """A file's value without times, the output folder's path replaced; None where there is no file."""
    if not file.exists():
        return None
    return untimed(json.loads(file.read_text(encoding="utf-8").replace(str(folder), OUT)))


def _rows(file: Path) -> list[dict[str, Any]]:
    return read_jsonl(file) if file.exists() else []


def _ok(file: Path) -> list[dict[str, Any]]:
    return [row for row in _rows(file) if row["status"] == "ok"]


def _by(rows: Iterable[dict[str, Any]], *keys: str) -> dict[str, Any]:
    """Rows without times under the values of ``keys``: their order is the schedule's affair. The last one counts."""
    return {"/".join(str(row[key]) for key in keys): untimed(row) for row in rows}


def _twice(name: str, keys: Iterable[Any]) -> list[str]:
    return [f"{name}: {key} stands {n} times" for key, n in Counter(keys).items() if n > 1]


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): "there" for path in sorted(folder.rglob("*")) if path.is_file()}


def _sha256(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def _weights(folder: Path) -> dict[str, str] | None:
    """Tensor -> hash of its bytes. A resumed run takes the very steps of an uninterrupted one: no tolerance."""
    file = folder / "model.safetensors"
    if not file.exists():
        return None
    return {name: hashlib.sha256(one.tobytes()).hexdigest()[:16] for name, one in load_file(file).items()}


def _build_result(folder: Path) -> dict[str, Any]:
    return {
        "traces": _by((row for row in _rows(folder / "traces.jsonl") if row["status"] != "error"), "problem_id"),
        "replies": _by(_rows(folder / "replies.jsonl"), "problem_id", "key"),
        "sft.jsonl": _sha256(folder / "sft.jsonl"),
        "build.json": _json(folder / "build.json", folder),
        "files": _files(folder),
    }


def _build_faults(folder: Path) -> list[str]:
    finished = [row["problem_id"] for row in _rows(folder / "traces.jsonl") if row["status"] != "error"]
    asked = [(row["problem_id"], row["key"]) for row in _rows(folder / "replies.jsonl")]
    return _twice("traces.jsonl", finished) + _twice("replies.jsonl", asked)


def _training_result(folder: Path) -> dict[str, Any]:
    log = _rows(folder / "log.jsonl")
    return {
        "steps": [row["step"] for row in log],
        "log.jsonl": _by(log, "step"),
        "pass_rates.jsonl": _by(_rows(folder / "pass_rates.jsonl"), "id"),
        **{name: _json(folder / name, folder) for name in ("summary.json", "data.json", "choice.json", "config.json")},
        "weights": _weights(folder),
        "weights of checkpoints": {one.name: _weights(one) for one in sorted(folder.glob("checkpoint-*"))},
        "files": _files(folder),
    }


def _training_faults(folder: Path) -> list[str]:
    torn = [one.name for one in sorted(folder.glob("checkpoint-*")) if not (one / COMPLETE).exists()]
    twice = _twice("log.jsonl", (row["step"] for row in _rows(folder / "log.jsonl")))
    twice += _twice("pass_rates.jsonl", (row["id"] for row in _rows(folder / "pass_rates.jsonl")))
    return [f"{name} is torn" for name in torn] + twice


def _rounds(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*"))


def _improve_result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"improve.json": _json(folder / "improve.json", folder), "files": _files(folder)}
    for one in _rounds(folder):
        samples: dict[str, list[Any]] = {}
        for row in _rows(one / "samples.jsonl"):
            samples.setdefault(row["problem_id"], []).append(row)
        answers = _answers_result(one / "eval")
        del answers["files"]
        found[one.name] = {
            "samples.jsonl": samples,
            "sft.jsonl": _sha256(one / "sft.jsonl"),
            "round.json": _json(one / "round.json", folder),
            "weights": _weights(one / "model"),
            "steps": [row["step"] for row in _rows(one / "model" / "log.jsonl")],
            "eval": answers,
        }
    return found


def _improve_faults(folder: Path) -> list[str]:
    faults = []
    for one in _rounds(folder):
        counts = Counter(row["problem_id"] for row in _rows(one / "samples.jsonl"))
        usual = max(counts.values(), default=0)
        faults += [f"{one.name}/samples.jsonl: {n} of {id_}, not {usual}" for id_, n in counts.items() if n != usual]
        faults += [f"{one.name}/{fault}" for fault in _training_faults(one / "model") + _answers_faults(one / "eval")]
    return faults


def _answers_result(folder: Path, *reports: str) -> dict[str, Any]:
    files = sorted(folder.glob("answers/*.jsonl"))
    answers: dict[str, Any] = {file.name: _by(_rows(file), "key") for file in files}
    return {**answers, **{name: _json(folder / name, folder) for name in reports}, "files": _files(folder)}


def _answers_faults(folder: Path) -> list[str]:
    files = sorted(folder.glob("answers/*.jsonl"))
    return [fault for file in files for fault in _twice(f"answers/{file.name}", (row["key"] for row in _rows(file)))]
