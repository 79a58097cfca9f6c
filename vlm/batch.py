"""A file of questions answered row by row; what is answered already is passed over, so a killed run goes on."""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.chat import question_messages
from vlm.errors import ConfigError, UserError
from vlm.infer import Model, is_local, load_for_asking, read_picture, summarize
from vlm.jsonl import append_jsonl, read_jsonl, repair_jsonl
from vlm.reasoning import (
    Thought,
    find_effort,
    think_batch,
    think_served,
    vote_seeds,
    vote_temperature,
    with_style,
)
from vlm.startup import collection_paused

if TYPE_CHECKING:
    from PIL import Image

RESPONSES_AT_ONCE = 32
SETTINGS = ("model", "effort", "style", "votes", "temperature", "seed")


def answer_file(options: argparse.Namespace) -> int:
    """Answer every row of ``options.batch``; see docs/demo.md for the fields of both files.

    Returns:
        The exit code: 1 if a row could not be answered; it has ``status`` ``error`` and ``why``, and is tried again next time.

    Raises:
        UserError: the file is missing or not JSON Lines, or the model does not load.
    """
    source: Path = options.batch
    target: Path = options.out or source.with_suffix(".answers.jsonl")
    rows = read_jsonl(source)
    if target.absolute() == source.absolute():
        raise ConfigError("--out is the file of questions itself: name another one.")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {target.absolute().parent}: make it, or name another --out.")
    vote_seeds(options.seed, options.votes)
    vote_temperature(options.votes, options.temperature)
    repair_jsonl(target)
    settings = {name: getattr(options, name) for name in SETTINGS}
    keys = [_key(row, settings, source.parent) for row in rows]
    done = {row.get("key") for row in (read_jsonl(target) if target.exists() else []) if row.get("status") == "ok"}
    missing = [number for number, key in enumerate(keys) if key not in done]
    print(f"{len(rows)} questions, {len(rows) - len(missing)} answered already", file=sys.stderr)
    if not missing:
        return 0
    with collection_paused():
        model = load_for_asking(options.model, options.api_key_env)
    failed = 0
    at_once = max(1, RESPONSES_AT_ONCE // options.votes)
    for first in range(0, len(missing), at_once):
        numbers = missing[first : first + at_once]
        answered = _answer(model, [rows[number] for number in numbers], options, source.parent)
        named = zip(numbers, answered, strict=True)
        append_jsonl(target, [{"id": rows[n].get("id", n), "key": keys[n], **answer} for n, answer in named])
        failed += sum(answer["status"] == "error" for answer in answered)
        print(f"{min(first + at_once, len(missing))} of {len(missing)} done", file=sys.stderr, flush=True)
    print(f"{target}: {len(missing) - failed} answered, {failed} failed")
    return 1 if failed else 0


def _answer(
    model: Model, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """One answer a row. Where several are refused together, each is asked alone, so that one bad row costs one answer."""
    effort = with_style(find_effort(options.effort), options.style)
    heat = vote_temperature(options.votes, options.temperature)
    asked: list[tuple[int, list[Any], list[Image.Image]]] = []
    answers: list[dict[str, Any]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        try:
            question, names, choices = _fields(row)
            pictures = [read_picture(_beside(folder, name), options.urls) for name in names]
            asked.append((number, question_messages(question, len(pictures), effort.style, choices), pictures))
        except UserError as error:
            answers[number] = {"status": "error", "why": str(error)}
    if not asked:
        return answers
    started = time.perf_counter()
    try:
        thoughts = _think(model, asked, effort, heat, vote_seeds(options.seed, options.votes))
    except UserError as error:
        if len(rows) > 1:
            return [_answer(model, [row], options, folder)[0] for row in rows]
        return [{"status": "error", "why": str(error)}]
    seconds = round((time.perf_counter() - started) / len(asked), 3)
    for place, (number, _, _) in enumerate(asked):
        votes = thoughts[place * options.votes : (place + 1) * options.votes]
        answers[number] = {"status": "ok", **summarize(votes), "seconds": seconds}
    return answers


def _think(model: Model, asked: Sequence[Any], effort: Any, temperature: float, seeds: list[int]) -> list[Thought]:
    """K thoughts a question, those of one question side by side."""
    conversations = [messages for _, messages, _ in asked for _ in seeds]
    images = [pictures for _, _, pictures in asked for _ in seeds]
    every = seeds * len(asked)
    if is_local(model):
        return think_batch(
            model, conversations, images, effort, temperature=temperature, seeds=every, batch_size=RESPONSES_AT_ONCE
        )

    async def ask_all() -> list[Thought]:
        calls = [
            think_served(model, messages, pictures, effort, temperature=temperature, seed=seed)
            for messages, pictures, seed in zip(conversations, images, every, strict=True)
        ]
        try:
            return list(await asyncio.gather(*calls))
        finally:
            await model.aclose()

    return asyncio.run(ask_all())


def _fields(row: Mapping[str, Any]) -> tuple[str, list[str], list[str] | None]:
    """(question, picture paths, choices) of a row, or UserError naming the field."""
    question, choices = row.get("question"), row.get("choices")
    names = row.get("images", [row["image"]] if "image" in row else [])
    if not isinstance(question, str):
        raise UserError("The field 'question' must be a text.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("The field 'images' must be a list of paths (or 'image' one path).")
    if "-" in names:
        raise UserError("A row of a file cannot take its picture from standard input: give a path.")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise UserError("The field 'choices' must be a list of texts.")
    return question, names, choices


def _beside(folder: Path, name: str) -> str:
    return name if "://" in name or Path(name).is_absolute() else str(folder / name)


def _key(row: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> str:
    """16 hexadecimal digits over all that decides the answer; a picture counts by its size and time of change."""
    pictures = []
    for name in row.get("images", [row.get("image")]) if isinstance(row.get("images", []), list) else []:
        try:
            found = Path(_beside(folder, name)).stat()
            pictures.append([name, found.st_size, found.st_mtime_ns])
        except (OSError, TypeError, ValueError):
            pictures.append([str(name), 0, 0])
    asked = [row.get("question"), row.get("choices"), pictures, dict(settings)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
