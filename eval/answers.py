"""Answer problems with a subject and keep every answer: one append-only log for each model and condition.

A log row is an ``Answer``. A batch is on disk before the next one is generated, so a killed run goes on where it stopped;
rows are matched by a key over everything that decides the answer, so a changed model, prompt or picture is never taken for
the saved one. A problem that cannot be asked (its picture is unreadable) or cannot be graded is a row with status
``error``: counted apart, never as wrong, and tried again by the next run.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.subjects import Subject, Turn
from reward.rewards import MIN_THOUGHT, halves
from reward.verifiers import verify
from vlm.chat import INSTRUCTIONS
from vlm.errors import ConfigError, UserError
from vlm.images import open_image
from vlm.jsonl import append_jsonl, read_jsonl, repair_jsonl
from vlm.problem import Problem
from vlm.response import count_looks, parse_response

if TYPE_CHECKING:
    from vlm.generate import Generation

Pictures = Callable[[Problem], list[Image.Image]]


class Answer(BaseModel):
    """One problem answered under one condition. All fields after ``why`` are of the response's own tokens, without prefix.

    ``score`` in [0, 1]; None if status is ``error``. ``mass`` and ``lift`` (one value a token, row of the token itself) and
    their means by halves are there if attention was recorded; the halves are None where they cannot be judged: no image,
    truncated, or fewer than ``MIN_THOUGHT`` tokens.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    problem_id: str
    key: str
    tag: str
    style: str
    domain: str
    family: str
    status: Literal["ok", "error"] = "ok"
    why: str = ""
    prefix: str = ""
    text: str = ""
    answer: str | None = None
    score: float | None = None
    truncated: bool = False
    tokens: int = 0
    looks: int = 0
    mass: list[float] | None = None
    lift: list[float] | None = None
    mass_halves: tuple[float, float] | None = None
    lift_halves: tuple[float, float] | None = None

    @property
    def right(self) -> bool:
        return self.score is not None and self.score >= 1.0


def open_pictures(problem: Problem) -> list[Image.Image]:
    """The problem's own pictures, as a person sees them."""
    return [open_image(image) for image in problem.images]


def answer_problems(
    subject: Subject,
    problems: Sequence[Problem],
    *,
    style: str,
    log_path: str | Path,
    tag: str,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    attention: dict[str, Any] | None = None,
    pictures: Pictures = open_pictures,
    prefixes: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Answer every problem once, greedily; answers already in the log are read from it.

    Args:
        style: a key of ``vlm.chat.INSTRUCTIONS``.
        log_path: JSON Lines, made if missing. Batches do not depend on what it holds, so a resumed run generates each
            of them with the same neighbours as an uninterrupted one.
        tag: names the condition; answers under another tag are never reused.
        attention: settings of ``vlm.attention.AttentionMass``; records mass and lift of every token.
        pictures: what is shown in place of the problem's own pictures (a blank, say). ``tag`` must tell such variants apart.
        prefixes: problem id -> the part of the response that is written already.

    Returns:
        One answer a problem, in the order of ``problems``.

    Raises:
        ConfigError: an unknown style.
        UserError: the log holds a line that is not an answer.
    """
    if style not in INSTRUCTIONS:
        raise ConfigError(f"Unknown prompt style '{style}': choose from {', '.join(INSTRUCTIONS)}.")
    log = Path(log_path)
    log.parent.mkdir(parents=True, exist_ok=True)
    repair_jsonl(log)
    saved = {answer.key: answer for answer in read_answers(log)} if log.exists() else {}
    settings = [subject.fingerprint, tag, style, INSTRUCTIONS[style], max_new_tokens, attention]
    prefixes = prefixes or {}
    keys = {problem.id: _key(problem, settings, prefixes.get(problem.id, "")) for problem in problems}

    # Responses of one kind of question are of like length: batching them together wastes the fewest steps.
    order = sorted(problems, key=lambda problem: (problem.family, len(problem.question), problem.id))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with _progress() as progress:
        bar = progress.add_task(f"{subject.name}: {tag}", total=len(order))
        for batch in batches:
            missing = [
                key for problem in batch if (key := keys[problem.id]) not in saved or saved[key].status == "error"
            ]
            if missing:
                rows = _answer_batch(subject, batch, keys, style, tag, max_new_tokens, attention, pictures, prefixes)
                new = [row for row in rows if row.key in missing and row != saved.get(row.key)]
                append_jsonl(log, [row.model_dump() for row in new])
                saved.update({row.key: row for row in new})
            progress.advance(bar, len(batch))
    if progress.disable:  # no bar in a log file, but a line a condition
        print(f"{subject.name}: {tag}: {len(order)} answered", file=sys.stderr, flush=True)
    return [saved[keys[problem.id]] for problem in problems]


def read_answers(log_path: str | Path) -> list[Answer]:
    """All complete rows of a log, oldest first.

    Raises:
        UserError: the log is missing, or a line is not an answer.
    """
    try:
        return [Answer.model_validate(row) for row in read_jsonl(log_path)]
    except ValueError as error:
        raise UserError(f"{log_path} is not a log of answers ({error}): move it away and evaluate again.") from None


def right_by_id(answers: Iterable[Answer]) -> dict[str, float]:
    """Problem id -> 1.0 for right, 0.0 for wrong; errors are left out."""
    return {answer.problem_id: float(answer.right) for answer in answers if answer.status == "ok"}


def _answer_batch(
    subject: Subject,
    batch: Sequence[Problem],
    keys: Mapping[str, str],
    style: str,
    tag: str,
    max_new_tokens: int,
    attention: dict[str, Any] | None,
    pictures: Pictures,
    prefixes: Mapping[str, str],
) -> list[Answer]:
    rows: list[Answer] = []
    asked: list[tuple[Problem, Answer, Turn]] = []
    for problem in batch:
        prefix = prefixes.get(problem.id, "")
        row = Answer(
            problem_id=problem.id,
            key=keys[problem.id],
            tag=tag,
            style=style,
            domain=problem.domain,
            family=problem.family,
            prefix=prefix,
        )
        rows.append(row)
        try:
            turn = Turn(problem.question, problem.choices, style, pictures(problem), prefix)
        except UserError as error:
            row.status, row.why = "error", str(error)
            continue
        asked.append((problem, row, turn))
    if not asked:
        return rows
    written = _write(subject, [turn for *_, turn in asked], max_new_tokens, attention)
    for (problem, row, turn), generation in zip(asked, written, strict=True):
        if isinstance(generation, UserError):
            row.status, row.why = "error", str(generation)
            continue
        row.text, row.tokens, row.truncated = generation.text, len(generation.token_ids), not generation.finished
        row.looks = count_looks(generation.text)
        if turn.images:
            _record_attention(row, generation)
        _grade(row, problem)
    return rows


def _write(
    subject: Subject, turns: Sequence[Turn], max_new_tokens: int, attention: dict[str, Any] | None
) -> "list[Generation | UserError]":
    """One generation a turn. Where a batch is refused, each turn is asked alone, so that one bad question costs one row."""
    try:
        return list(subject.write(turns, max_new_tokens=max_new_tokens, attention=attention))
    except UserError as error:
        if len(turns) == 1:
            return [error]
        return [result for turn in turns for result in _write(subject, [turn], max_new_tokens, attention)]


def _grade(row: Answer, problem: Problem) -> None:
    response = parse_response(row.prefix + row.text)
    # An unfinished response has no last line: only an answer that it has boxed already counts.
    row.answer = response.answer if response.boxed or not row.truncated else None
    verdict = verify(problem.domain, row.answer, problem.answer, problem.choices)
    row.score, row.why = verdict.score, verdict.why
    if verdict.score is None:
        row.status = "error"


def _record_attention(row: Answer, generation: "Generation") -> None:
    for name in ("mass", "lift"):
        values = getattr(generation, name)
        if values is None:
            continue
        values = values.float().mean(0)  # layers count alike
        if row.truncated:
            values = values[:-1]  # generation never feeds its last token; a finished response ends in the end token
        if not bool(values.isfinite().all()):
            raise RuntimeError(f"{row.problem_id}: the attention {name} of the response is not finite.")
        judged = not row.truncated and len(values) >= MIN_THOUGHT
        setattr(row, name, [round(value, 5) for value in values.tolist()])  # finer than any figure of the report
        setattr(row, f"{name}_halves", halves(values) if judged else None)


def _key(problem: Problem, settings: list[Any], prefix: str) -> str:
    """16 hexadecimal digits over all that decides the answer and its grade."""
    pictures = []
    for image in problem.images:
        try:
            pictures.append(hashlib.sha256(Path(image).read_bytes()).hexdigest())
        except OSError:
            pictures.append("unreadable")
    asked = [problem.id, problem.question, problem.choices, problem.domain, problem.answer, pictures, prefix]
    return hashlib.sha256(json.dumps([settings, asked]).encode()).hexdigest()[:16]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())
