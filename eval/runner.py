"""Answer problems with a subject and keep every answer: one append-only log for each model and condition.

A log row is an ``Answer``. Each batch is on disk before the next one is generated, so an interrupted run resumes where it
stopped. Rows are matched by a key over everything that decides the answer, so an answer of another model, prompt or image is
never reused. The grade has a hash of its own (verifier, gold answer): if that changed, a saved response is graded again, not
generated again. A problem that cannot be asked (its image is unreadable) or graded is a row with status ``error``: counted
separately, never as incorrect, and retried by the next run.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.errors import ConfigError, UserError
from configs.jsonl import append_jsonl, is_unicode, read_log, repair_jsonl
from configs.run_dir import RunDir, read_record
from eval.subjects import Subject, Turn, ZoomOffer
from eval.tool_calls import Zoom, record_zoom
from reward.grade import grade, grading_sha256, judge_ahead, judge_fault
from reward.rewards import MIN_REASONING, halves
from vlm.chat import INSTRUCTIONS
from vlm.images import open_image
from vlm.placement import named_images
from vlm.problem import Problem
from vlm.response import count_looks

if TYPE_CHECKING:
    from vlm.generate import Generation

ImageSource = Callable[[Problem], list[Image.Image]]
ToolSource = Callable[[Problem], ZoomOffer]


class Answer(BaseModel):
    """One problem answered under one condition. ``text``, ``tokens`` and the attention are without ``prefix``.

    ``score`` in [0, 1]; None if status is ``error``. ``mass`` and ``lift`` (one value per token, from the token's own query
    row) and their means by halves are set if attention was recorded. The halves are None if they cannot be judged: no image,
    truncated, or fewer than ``MIN_REASONING`` tokens. ``prompt_sha256`` hashes the style's instruction, ``graded`` everything
    except the text that decides the grade; 16 digits each. ``zooms``: the calls of the zoom tool, if it was offered.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    problem_id: str
    key: str
    tag: str
    style: str
    domain: str
    family: str
    prompt_sha256: str = ""
    graded: str = ""
    seed: int = 0
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
    zooms: list[Zoom] | None = None

    @property
    def correct(self) -> bool:
        return self.score is not None and self.score >= 1.0


def open_images(problem: Problem) -> list[Image.Image]:
    """The problem's own images, upright and in RGB."""
    return [open_image(image) for image in problem.images]


def can_be_scored(problem: Problem, answer: Answer | None) -> bool:
    """Whether teacher-forced forwards can judge a response: finished, about an image, at least ``MIN_REASONING`` tokens."""
    return bool(
        problem.images and answer and answer.status == "ok" and not answer.truncated and answer.tokens >= MIN_REASONING
    )


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
    temperature: float = 0.0,
    images: ImageSource = open_images,
    prefixes: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    replies: Mapping[str, tuple[str, str]] | None = None,
    zoom: ToolSource | None = None,
) -> list[Answer]:
    """Answer every problem once; answers that are already in the log are reused.

    Args:
        style: a key of ``vlm.chat.INSTRUCTIONS``.
        log_path: JSON Lines, created if missing. Batches do not depend on its content, so a resumed run generates each
            response beside the same neighbours as an uninterrupted run.
        tag: names the condition; answers under another tag are never reused.
        attention: settings of ``vlm.attention.AttentionMass``; records mass and lift of every token.
        temperature: 0 is greedy. A row's seed comes from its key, so another tag gives another sample.
        images: returns the images to show instead of the problem's own (blank ones, for example). The key does not cover it,
            so ``tag`` must differ between such variants.
        prefixes: problem id -> the start of the response, which the subject continues.
        notes: problem id -> a remark that comes with the question.
        replies: problem id -> (its earlier answer, the image file of the next turn).
        zoom: returns the zoom tool that is offered with a problem. The key covers its limits but not what is done to its crops, so ``tag``
            must differ between such variants.

    Returns:
        One answer per problem, in the order of ``problems``.

    Raises:
        ConfigError: an unknown style.
        UserError: a line of the log is not an answer.
    """
    if style not in INSTRUCTIONS:
        raise ConfigError(f"Unknown prompt style '{style}': choose from {', '.join(INSTRUCTIONS)}.")
    log = Path(log_path)
    log.parent.mkdir(parents=True, exist_ok=True)
    repair_jsonl(log)
    saved = {answer.key: answer for answer in read_answers(log)} if log.exists() else {}
    settings = [subject.fingerprint, tag, style, INSTRUCTIONS[style], max_new_tokens, attention, temperature]
    questions = {problem.id: _Question(problem, style, tag, images) for problem in problems}
    for problem in problems:
        question = questions[problem.id]
        question.prefix = (prefixes or {}).get(problem.id, "")
        question.note = (notes or {}).get(problem.id)
        question.reply, question.again = (replies or {}).get(problem.id, (None, None))
        question.zoom = zoom(problem) if zoom is not None else None
        question.key = _key(question, settings)

    # Responses to one kind of question have similar lengths, so batching them together wastes the fewest steps.
    order = sorted(problems, key=lambda problem: (problem.family, len(problem.question), problem.id))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with _progress() as progress:
        bar = progress.add_task(f"{subject.name}: {tag}", total=len(order))
        for batch in batches:
            asked = [questions[problem.id] for problem in batch]
            missing = {one.key for one in asked if one.key not in saved or _needs_generation(saved[one.key])}
            if missing:
                write = partial(
                    subject.write, max_new_tokens=max_new_tokens, attention=attention, temperature=temperature
                )
                rows = _answer_batch(asked, write)
                new = [row for row in rows if row.key in missing and row != saved.get(row.key)]
                append_jsonl(log, [row.model_dump() for row in new])
                saved.update({row.key: row for row in new})
            progress.advance(bar, len(batch))
    if progress.disable:  # no terminal: one line per condition instead of a bar
        print(f"{subject.name}: {tag}: {len(order)} answered", file=sys.stderr, flush=True)
    return _regrade([(questions[problem.id].problem, saved[questions[problem.id].key]) for problem in problems], log)


def read_answers(log_path: str | Path) -> list[Answer]:
    """All complete rows of a log, oldest first.

    Raises:
        UserError: the log is missing, or a line is not an answer.
    """
    try:
        return [Answer.model_validate(row) for row in read_log(log_path)]
    except ValueError as error:
        raise UserError(f"{log_path} is not a log of answers ({error}): move it away and evaluate again.") from None


def answers_dir(out: str | Path, report: Literal["report", "audit"] = "report") -> RunDir:
    """The folder of an evaluation or, by ``report``, of an audit. It records no identity: each answer's key holds it."""

    def is_ours(folder: Path) -> bool:
        if (folder / "stages").is_dir():  # the folder of ``reflection-v run``, which has a report.json of its own
            return False
        served = folder / "served.json"  # of ``eval.served``
        if report == "audit" and served.exists() and "schema_version" not in read_record(served):
            return False
        if (folder / f"{report}.json").exists():
            return "schema_version" in read_record(folder / f"{report}.json")
        logs = list((folder / "answers").glob("*"))
        unfinished = not (folder / f"{report}.html").exists() and (logs or not (folder / cases).exists())
        return bool(unfinished) and all(map(_is_answer_log, logs))

    cases = {"report": "samples.json", "audit": "cases.json"}[report]
    stage = {"report": "evaluation", "audit": "audit"}[report]
    writes = (f"{report}.json", f"{report}.html", cases, "answers", *(["served.json"] if report == "audit" else []))
    return RunDir(Path(out), stage, writes, is_ours, result=f"{report}.json")


def _is_answer_log(path: Path) -> bool:
    """Whether a file may be a log of answers: its first row has a key, or it has no complete row yet."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with open(path, "rb") as file:
        first = file.readline(1 << 20)
    try:
        return not first.endswith(b"\n") or "key" in json.loads(first)
    except (ValueError, TypeError):
        return False


def correct_by_id(answers: Iterable[Answer]) -> dict[str, float]:
    """Problem id -> 1.0 for correct, 0.0 for incorrect; errors are left out."""
    return {answer.problem_id: float(answer.correct) for answer in answers if answer.status == "ok"}


@dataclass
class _Question:
    """A problem under one condition."""

    problem: Problem
    style: str
    tag: str
    images: ImageSource
    key: str = ""
    prefix: str = ""
    note: str | None = None
    reply: str | None = None
    again: str | None = None
    zoom: ZoomOffer | None = None

    @property
    def seed(self) -> int:
        return int(self.key[:8], 16)

    def row(self) -> Answer:
        instruction = hashlib.sha256(INSTRUCTIONS[self.style].encode()).hexdigest()[:16]
        return Answer(
            problem_id=self.problem.id,
            key=self.key,
            tag=self.tag,
            style=self.style,
            domain=self.problem.domain,
            family=self.problem.family,
            prefix=self.prefix,
            prompt_sha256=instruction,
            seed=self.seed,
        )

    def turn(self) -> Turn:
        """The question as the subject gets it. Raises UserError if an image cannot be read, or a text cannot be tokenized."""
        if not all(map(is_unicode, (self.problem.question, *(self.problem.choices or ())))):
            raise UserError(
                "the question or an option holds half of a surrogate pair, which is no character: write it again"
            )
        again = (open_image(self.again),) if self.again else ()
        problem, images = self.problem, self.images(self.problem)
        shown = (self.prefix, self.note, self.reply, again, self.seed, self.zoom)
        return Turn(problem.question, problem.choices, self.style, images, *shown)


def _answer_batch(batch: Sequence[_Question], write: Callable[..., Any]) -> list[Answer]:
    rows: list[Answer] = []
    asked: list[tuple[Problem, Answer, Turn]] = []
    for question in batch:
        row = question.row()
        rows.append(row)
        if fault := judge_fault(question.problem):
            row.status, row.why = "error", fault
            continue
        try:
            asked.append((question.problem, row, question.turn()))
        except UserError as error:
            row.status, row.why = "error", str(error)
    if not asked:
        return rows
    written = _write(write, [turn for *_, turn in asked])
    judge_ahead(
        (problem, row.prefix + one.text, one.finished)
        for (problem, row, _), one in zip(asked, written, strict=True)
        if not isinstance(one, UserError)
    )
    for (problem, row, turn), generation in zip(asked, written, strict=True):
        if isinstance(generation, UserError):
            row.status, row.why = "error", str(generation)
            continue
        row.text, row.tokens, row.truncated = generation.text, len(generation.token_ids), not generation.finished
        row.looks = count_looks(generation.text)
        if turn.zoom is not None:
            row.zooms = [record_zoom(result, turn.images) for result in generation.zooms or ()]
        if turn.all_images:
            _record_attention(row, generation)
        _grade(row, problem)
    return rows


def _write(write: Callable[..., Any], turns: Sequence[Turn]) -> "list[Generation | UserError]":
    """One generation per turn. If a batch is refused, each turn is asked alone, so that one bad question costs one row."""
    try:
        return list(write(turns))
    except UserError as error:
        if len(turns) == 1:
            return [error]
        return [result for turn in turns for result in _write(write, [turn])]


def _needs_generation(row: Answer) -> bool:
    """Whether a saved row has no response. One that could not be graded is graded again, not generated again."""
    return row.status == "error" and not row.text


def _regrade(rows: Sequence[tuple[Problem, Answer]], log: Path) -> list[Answer]:
    """The rows with grades of the current verifier and gold answers; changed rows are appended to the log."""
    current, changed = [], []
    old = [row.text and (row.status == "error" or row.graded != grading_sha256(problem)) for problem, row in rows]
    judge_ahead((p, row.prefix + row.text, not row.truncated) for (p, row), one in zip(rows, old, strict=True) if one)
    for (problem, row), to_grade in zip(rows, old, strict=True):
        if to_grade:
            graded = row.model_copy(update={"status": "ok"})
            _grade(graded, problem)
            if graded != row:
                changed.append(graded)
            row = graded
        current.append(row)
    if changed:
        append_jsonl(log, [row.model_dump() for row in changed])
    return current


def _grade(row: Answer, problem: Problem) -> None:
    found = grade(problem, row.prefix + row.text, not row.truncated)
    row.answer, row.score, row.why, row.graded = found.answer, found.score, found.reason, grading_sha256(problem)
    if found.score is None:
        row.status = "error"


def _record_attention(row: Answer, generation: "Generation") -> None:
    for name in ("mass", "lift"):
        values = getattr(generation, name)
        if values is None:
            continue
        values = values.float().mean(0)  # all layers have equal weight
        if row.truncated:
            # The last generated token is never fed, so it has no query row. In a finished response that is the end token.
            values = values[:-1]
        if not bool(values.isfinite().all()):
            raise RuntimeError(f"{row.problem_id}: the attention {name} of the response is not finite.")
        judged = not row.truncated and len(values) >= MIN_REASONING
        setattr(row, name, [round(value, 5) for value in values.tolist()])  # more digits than any figure of the report
        setattr(row, f"{name}_halves", halves(values) if judged else None)


def _key(question: _Question, settings: list[Any]) -> str:
    """16 hexadecimal digits over everything that decides the answer (the grade has ``grading_sha256``)."""
    problem = question.problem
    shown = [*problem.images, *([question.again] if question.again else [])]
    continued = [question.prefix, question.note, question.reply]
    asked: list[Any] = [
        problem.id,
        problem.question,
        problem.choices,
        [_sha256(Path(image)) for image in shown],
        continued,
    ]
    if named_images([problem.question, *(problem.choices or ())], len(problem.images)):
        asked.append("images in place")  # earlier versions put them before the text
    if question.zoom is not None:  # only then, so that answers without the tool keep their keys
        asked.append(["zoom", question.zoom.settings.model_dump()])
    return hashlib.sha256(json.dumps([settings, asked]).encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: NUL or half of a surrogate pair in the path
        return "unreadable"


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())
