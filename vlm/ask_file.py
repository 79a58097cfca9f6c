"""Answers a file of questions row by row. Existing answers are reused, so an interrupted run can be resumed."""

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, UserError
from configs.jsonl import append_jsonl, read_jsonl, read_log, repair_jsonl
from configs.locks import lock_beside
from vlm.asking import Model, load_for_asking, summarize, think_all
from vlm.chat import question_messages
from vlm.foreign_files import refuse_foreign_format
from vlm.identity import model_identity
from vlm.placement import in_place
from vlm.questions import read_image
from vlm.reasoning import (
    find_effort,
    vote_seeds,
    vote_temperature,
    with_style,
)
from vlm.startup import collection_paused

if TYPE_CHECKING:
    from PIL import Image

RESPONSES_AT_ONCE = 32
SETTINGS = ("model", "effort", "style", "votes", "temperature", "seed")


@dataclass(frozen=True)
class _Asked:
    """A row of the file of questions: its id (its number where it has none) and the key of its answer."""

    id: Any
    key: str
    row: Mapping[str, Any]

    @property
    def line(self) -> tuple[str, str]:
        """What its line in the file of answers is found by."""
        return json.dumps(self.id, sort_keys=True), self.key


def answer_file(options: SimpleNamespace) -> int:
    """Answer every row of ``options.batch``; see docs/demo.md for the fields of both files.

    Every row gets a line of its own. A row whose image and question were answered before, under another id or in another
    row, gets a copy of that answer: nothing is generated twice.

    Returns:
        The exit code: 1 if a row could not be answered; it has ``status`` ``error`` and ``why``, and is tried again next time.

    Raises:
        ConfigError: the file of answers holds something else, which stays as it is.
        UserError: the file is missing or not JSON Lines, the model does not load, or another process writes the answers.
    """
    source: Path = options.batch
    target: Path = options.out or source.with_suffix(".answers.jsonl")
    refuse_foreign_format(source, "a file of questions")
    rows = read_jsonl(source)
    if target.absolute() == source.absolute() or (target.exists() and os.path.samefile(source, target)):
        raise ConfigError("--out is the file of questions itself: name another one.")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {target.absolute().parent}: make it, or name another --out.")
    vote_seeds(options.seed, options.votes)
    vote_temperature(options.votes, options.temperature)
    with lock_beside(target.absolute()):
        return _answer_rows(rows, options, target)


def _answer_rows(rows: Sequence[Mapping[str, Any]], options: SimpleNamespace, target: Path) -> int:
    settings = {name: getattr(options, name) for name in SETTINGS}
    if (identity := model_identity(options.model)) is not None:  # else the name says which model it is
        settings["model_sha256"] = identity
    every = [_Asked(_id(row, n), _answer_key(row, settings, options.batch.parent), row) for n, row in enumerate(rows)]
    lines = _read_answers(target)
    answers = {
        line["key"]: {name: value for name, value in line.items() if name not in ("id", "key")}
        for line in lines
        if line["status"] == "ok"
    }
    missing = _without_line(every, lines)
    copies = [one for one in missing if one.key in answers]
    copied = f", {len(copies)} copied from rows with the same image and question" if copies else ""
    print(f"{len(rows)} questions, {len(rows) - len(missing)} answered already{copied}", file=sys.stderr)
    if not missing:
        return 0
    if copies:
        append_jsonl(target, [{"id": one.id, "key": one.key, **answers[one.key]} for one in copies])
    new = [one for one in missing if one.key not in answers]
    failed = _answer_new(new, options, target) if new else 0
    print(f"{target}: {len(missing) - failed} answered, {failed} failed")
    return 1 if failed else 0


def _answer_new(rows: Sequence[_Asked], options: SimpleNamespace, target: Path) -> int:
    """Answer each key once, a batch at a time, and append the lines of all of its rows. Returns how many rows failed."""
    with collection_paused():
        model = load_for_asking(options.model, options.api_key_env)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(rows):
        rows_of[one.key].append(number)
    keys, failed, done = list(rows_of), 0, 0
    # Answers are saved after each batch: an interruption costs one batch.
    at_once = max(1, RESPONSES_AT_ONCE // options.votes)
    for start in range(0, len(keys), at_once):
        batch = keys[start : start + at_once]
        answers = _answer_question(model, [rows[rows_of[key][0]].row for key in batch], options, options.batch.parent)
        by_key = dict(zip(batch, answers, strict=True))
        answered = [rows[number] for number in sorted(number for key in batch for number in rows_of[key])]
        append_jsonl(target, [{"id": one.id, "key": one.key, **by_key[one.key]} for one in answered])
        failed += sum(by_key[one.key]["status"] == "error" for one in answered)
        done += len(answered)
        print(f"{done} of {len(rows)} done", file=sys.stderr, flush=True)
    return failed


def _without_line(every: Sequence[_Asked], lines: Sequence[Mapping[str, Any]]) -> list[_Asked]:
    """The rows that have no answer among the last lines of their id.

    A reader takes the last line of an id for its answer. So where rows without an id have changed places, or another file
    with the same ids was answered in between, the line is written again (as a copy).
    """
    wanted = Counter(one.line for one in every)
    by_id: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_id[json.dumps(line["id"], sort_keys=True)].append(line)
    found: Counter[tuple[str, str]] = Counter()
    for name, own in by_id.items():
        for line in reversed(own):
            place = name, line["key"]
            if not wanted[place]:
                break
            if line["status"] == "error":  # tried again, now or in a line further down
                continue
            if found[place] == wanted[place]:
                break
            found[place] += 1
    missing = []
    for one in every:
        if found[one.line]:
            found[one.line] -= 1
        else:
            missing.append(one)
    return missing


def _read_answers(file: Path) -> list[dict[str, Any]]:
    """The lines of earlier calls; a torn last one is cut. A file that this command did not write is left as it is.

    Raises:
        ConfigError: it is such a file.
    """
    if not file.exists():
        return []
    if not file.is_file():
        raise ConfigError(f"--out {file} is not a file: name one.")
    where = f"{file}, "
    try:
        lines = read_log(file)
    except UserError as error:
        if not str(error).startswith(where):
            raise
        lines, fault = [], str(error).removeprefix(where).partition(" (")[0].rstrip(".")
    else:
        fault = next((f"row {n} is no answer" for n, line in enumerate(lines, start=1) if not _is_answer(line)), "")
        if not fault and not _may_be_torn(file.read_bytes().rpartition(b"\n")[2]):
            fault = "its last line is no answer"
    if fault:
        raise ConfigError(
            f"{file} holds something other than answers of 'ask --batch' ({fault}): name another --out. It was not changed."
        )
    repair_jsonl(file)
    return lines


def _is_answer(line: Mapping[str, Any]) -> bool:
    key = line.get("key")
    is_key = isinstance(key, str) and re.fullmatch("[0-9a-f]{16}", key) is not None
    return is_key and "id" in line and line.get("status") in ("ok", "error")


def _may_be_torn(tail: bytes) -> bool:
    """Whether what follows the last newline is the beginning of an answer, or a whole row, which ``_is_answer`` has seen."""
    text, start, key = tail.decode("utf-8", "ignore"), '{"id": ', ', "key": "'
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    if not text.startswith(start):
        return start.startswith(text)
    rest = text[len(start) :]
    if re.fullmatch(r"[-+.\w]*", rest):  # cut inside an id that is a number or a word
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):  # cut inside an id that is a text, a list or an object
        return rest.startswith(('"', "[", "{"))
    return rest[end:].startswith(key) or key.startswith(rest[end:])


def _answer_question(
    model: Model, rows: Sequence[Mapping[str, Any]], options: SimpleNamespace, folder: Path
) -> list[dict[str, Any]]:
    """One answer a row. Where several are refused together, each is asked alone, so that one bad row costs one answer."""
    effort = with_style(find_effort(options.effort), options.style)
    temperature = vote_temperature(options.votes, options.temperature)
    asked: list[tuple[int, list[Any], list[Image.Image]]] = []
    answers: list[dict[str, Any]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        try:
            question, names, choices = _line_fields(row)
            names, question, choices = in_place(names, question, choices)
            opened = [read_image(_path_beside(folder, name), options.urls) for name in names]
            asked.append((number, question_messages(question, len(opened), effort.style, choices), opened))
        except UserError as error:
            answers[number] = {"status": "error", "why": str(error)}
    if not asked:
        return answers
    started, seeds = time.perf_counter(), vote_seeds(options.seed, options.votes)
    try:
        conversations = [messages for _, messages, _ in asked for _ in seeds]  # those of one question side by side
        images = [opened for _, _, opened in asked for _ in seeds]
        responses = think_all(model, conversations, images, effort, temperature, seeds * len(asked))
    except UserError as error:
        if len(rows) > 1:
            return [_answer_question(model, [row], options, folder)[0] for row in rows]
        return [{"status": "error", "why": str(error)}]
    seconds = round((time.perf_counter() - started) / len(asked), 3)
    for place, (number, _, _) in enumerate(asked):
        votes = responses[place * options.votes : (place + 1) * options.votes]
        answers[number] = {"status": "ok", **summarize(votes), "seconds": seconds}
    return answers


def _line_fields(row: Mapping[str, Any]) -> tuple[str, list[str], list[str] | None]:
    """(question, image paths, choices) of a row, or UserError naming the field."""
    question, choices = row.get("question"), row.get("choices")
    names = row.get("images", [row["image"]] if "image" in row else [])
    if not isinstance(question, str):
        raise UserError("The field 'question' must be a text.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("The field 'images' must be a list of paths (or 'image' one path).")
    if "-" in names:
        raise UserError("A row of a file cannot take its image from standard input: give a path.")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise UserError("The field 'choices' must be a list of texts.")
    return question, names, choices


def _path_beside(folder: Path, name: str) -> str:
    return name if "://" in name or name.lower().startswith("data:") or Path(name).is_absolute() else str(folder / name)


def _id(row: Mapping[str, Any], number: int) -> Any:
    return number if row.get("id") is None else row["id"]


def _answer_key(row: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> str:
    """16 hexadecimal digits over all that decides the answer; an image counts by its size and time of change."""
    images = []
    for name in row.get("images", [row.get("image")]) if isinstance(row.get("images", []), list) else []:
        try:
            if not isinstance(name, str):
                raise ValueError
            found = Path(_path_beside(folder, name)).stat()
            images.append([name, found.st_size, found.st_mtime_ns])
        except (OSError, ValueError):
            images.append([str(name), 0, 0])
    asked = [row.get("question"), row.get("choices"), images, dict(settings)]
    try:
        _line_fields(row)
    except UserError as error:  # a row that cannot be asked must not share the answer of one that can
        asked.append(str(error))
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
