"""Rows of every kind that the viewer shows, for its tests."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def problem(number: int, family: str = "count", **more: Any) -> dict[str, Any]:
    row = {"id": f"p{number}", "source": "scenes", "domain": "count", "images": [f"images/p{number}.png"]}
    return {**row, "question": f"How many? ({number})", "answer": "3", "meta": {"family": family}, **more}


def trace(number: int, status: str = "kept", **more: Any) -> dict[str, Any]:
    rounds = [
        {"request": "How many?", "reply": "blue: 1", "conclusion": "blue: 1.", "answer": "1", "verdict": False},
        {"request": "Check it.", "reply": "blue: 3", "conclusion": "blue: 3.", "answer": "3", "verdict": True},
    ]
    text = "blue: 1. Wait, let me look again. blue: 3."
    head = {
        "schema_version": 1,
        "id": f"p{number}#0",
        "problem_id": f"p{number}",
        "status": status,
        "error": "",
        "why": "",
    }
    rest = {
        "rounds": rounds,
        "trace": text,
        "answer": "3",
        "looks": 1,
        "corrected": [[6, 7]],
        "usage": {"tokens": 40 + number},
    }
    return {**head, **rest, **more}


def sft_row(number: int, image: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    completion = "<think> blue: 1. Wait, let me look again. blue: 3. </think> \\boxed{3}"
    row = {"prompt": said, "completion": completion, "images": [image], "masked": [[14, 15]]}
    return {**row, "mode": "think", "problem_id": f"p{number}", "relooks": 1, **more}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_step(folder: Path, step: int, completions: list[str], **columns: list[Any]) -> Path:
    """A file as TRL writes it for a step: one group of a problem."""
    import pandas as pd

    n = len(completions)
    table = {
        "step": [step] * n,
        "prompt": ["<image>How many?"] * n,
        "completion": completions,
        "accuracy": [1.0, *[0.0] * (n - 1)],
        "format": [0.0] * n,
        "problem": ["p0"] * n,
        "reward": [1.0, *[0.0] * (n - 1)],
        "sentences": [json.dumps([[0, 7, 0.4, 1.5]])] * n,
        "advantage": [0.5, *[-0.5] * (n - 1)],
        **columns,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"completions_{step:05d}.parquet"
    pd.DataFrame(table).to_parquet(path)
    return path


def write_run(folder: Path) -> Path:
    """A run's folder with problems, a build, SFT rows, completions of two steps and a log."""
    problems = [problem(number, family="count" if number % 2 else "place") for number in range(6)]
    write_lines(folder / "problems" / "train" / "problems.jsonl", problems)
    images = folder / "problems" / "train" / "images"
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 90, 200)).save(images / f"p{number}.png")
    statuses = ["kept", "kept", "no_reflection", "wrong", "error", "kept"]
    traces = [trace(number, status) for number, status in enumerate(statuses)]
    traces[3]["why"] = "no correct conclusion in 3 rounds"
    traces[4] |= {"error": "refusal", "why": "it refuses", "rounds": [], "trace": ""}
    traces[5]["trace"] = EVIL
    write_lines(folder / "build" / "traces.jsonl", traces)
    write_lines(folder / "build" / "filtered.jsonl", [{"id": "p1#0", "filter": "near_duplicate"}])
    write_lines(folder / "build" / "sft.jsonl", [sft_row(0, str(images / "p0.png"))])
    reply = {"text": "I cannot see it.", "finish_reason": "stop", "prompt_tokens": 5, "completion_tokens": 4}
    replies = [{"problem_id": "p4", "role": "responder", "round": 0, "attempt": one, "reply": reply} for one in (1, 0)]
    write_lines(folder / "build" / "replies.jsonl", [*replies, {**replies[0], "problem_id": "p40"}])
    (folder / "stages").mkdir()
    (folder / "grpo").mkdir()
    settings = {"settings": {"rewards": {"accuracy": 1.0, "format": {"weight": 0.2, "std": 0.1}}}}
    (folder / "grpo" / "settings.json").write_text(json.dumps(settings))
    for step in (1, 2):
        write_step(folder / "grpo" / "completions", step, ["blue: 3. Wait, let me look again.", EVIL])
    write_lines(
        folder / "grpo" / "log.jsonl", [{"step": n, "seconds": n, "loss": 1 / n, "reward": None} for n in (1, 2, 3)]
    )
    return folder
