"""The record of a problem (images, question, answer) and problem sets on disk: ``problems.jsonl`` with images beside it."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from configs.errors import UserError
from configs.jsonl import iter_placed, write_text_atomic
from configs.paths import resolved
from vlm.embedded import is_embedded
from vlm.foreign_files import refuse_foreign_format
from vlm.placement import image_places, renumber_images

Domain = Literal[
    "number", "choice", "text", "expression", "count", "logic", "table", "simulation", "yes_no", "science", "open"
]
SHOWN_FAULTS = 10
DOMAINS: tuple[str, ...] = get_args(Domain)


def gold_text(value: object) -> str:
    """A gold answer as text: a number, a truth value or a list of a JSON file as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text_of_json(value: object) -> object:
    return gold_text(value) if isinstance(value, int | float | list) else value


class Problem(BaseModel):
    """One question about zero or more images. ``domain`` picks the verifier of the answer; ``open`` is for a judge.

    ``answer`` may be a number or a list in the file (``5``, ``["1", "2"]``): it is kept as the text of that JSON.
    ``decimal`` is the decimal mark in the answer and the options, and in what a model answers: with ``","``, ``2,5`` is two and a
    half and ``1.234`` is a thousand and more.

    ``<image 2>`` in the question or an option is the place of the second image. Images are kept in the order in which they stand
    there (those that are not named first), and are numbered so.

    ``meta`` never reaches a model. The bundled sources put there ``family`` (the kind of question), ``facts``
    (place -> what is there, for checks after the run) and ``counterfactual`` (``{"image", "answer"}``: another image
    that gives the same question another answer, for the swap test).
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    id: str = Field(min_length=1)
    source: str
    domain: Domain
    images: list[str] = []
    question: str = Field(min_length=1)
    choices: list[str] | None = None
    answer: Annotated[str, BeforeValidator(_text_of_json)]
    decimal: Literal[".", ","] = "."
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _order_images(self) -> Self:
        """Bring the images into the order in which the question and the options name them, and the names with them."""
        places = image_places([self.question, *(self.choices or ())], len(self.images))
        if any(number != place for number, place in places.items()):
            self.images = [self.images[number - 1] for number in places]
            self.question, self.answer = (renumber_images(text, places) for text in (self.question, self.answer))
            self.choices = self.choices and [renumber_images(choice, places) for choice in self.choices]
        return self

    @property
    def family(self) -> str:
        """The kind of question, for breakdowns; the domain where the source names none."""
        return str(self.meta.get("family", self.domain))

    @property
    def facts(self) -> dict[str, str] | None:
        """What ``meta.facts`` says of the image (place -> what is there); None where it is absent or of another shape."""
        facts = self.meta.get("facts")
        if not isinstance(facts, dict) or not all(isinstance(word, str) for pair in facts.items() for word in pair):
            return None
        return facts or None


def read_problems(path: str | Path) -> list[Problem]:
    """Read a problem set from its folder (or its ``.jsonl``); image paths come back absolute, also those in ``meta``.

    Raises:
        UserError: no such set, rows that are no problems (each is named with its field, up to ``SHOWN_FAULTS``), or an id that
            occurs twice.
    """
    file = problem_file(path)
    return [with_paths(problem, file.parent) for _, problem in iter_valid(file)]


def iter_valid(file: Path) -> Iterator[tuple[int, Problem]]:
    """(offset of its line, problem) of each row; paths are as in the file. Raises as ``read_problems``, after the last row."""
    faults: list[str] = []
    rows = _valid_rows(file, lambda _, number, why: faults.append(f"row {number}: {why}"))
    for number, offset, problem in rows:
        other = problem.meta.get("counterfactual")
        if isinstance(other, dict) and not isinstance(other.get("image", ""), str):
            faults.append(f"row {number}: field 'meta.counterfactual.image' must be a path")
        else:
            yield offset, problem
    if faults:
        more = f"; and {len(faults) - SHOWN_FAULTS:,} more" if len(faults) > SHOWN_FAULTS else ""
        raise UserError(f"{file}, {'; '.join(faults[:SHOWN_FAULTS])}{more}.")


def with_paths(problem: Problem, folder: Path) -> Problem:
    """The same problem, the paths of its images made absolute, also the one in ``meta``."""
    problem.images = [image_path(folder, image) for image in problem.images]
    other = problem.meta.get("counterfactual")
    if isinstance(other, dict) and "image" in other:
        problem.meta["counterfactual"] = {**other, "image": image_path(folder, other["image"])}
    return problem


def read_valid_problems(path: str | Path, reject: Callable[[str, int, str], None]) -> list[Problem]:
    """The valid rows of a problem set. ``meta`` is not resolved: the paths in it are for evaluation, which reads strictly.

    Args:
        reject: called with the reason (``malformed`` or ``duplicate_id``), the row's number from 1, and what is wrong with it.

    Raises:
        UserError: no such set.
    """
    file = problem_file(path)
    problems = [problem for _, _, problem in _valid_rows(file, reject)]
    for problem in problems:
        problem.images = [image_path(file.parent, image) for image in problem.images]
    return problems


def _valid_rows(file: Path, reject: Callable[[str, int, str], None]) -> Iterator[tuple[int, int, Problem]]:
    """(number from 1, offset, problem) of each valid row; see ``read_valid_problems``."""
    if not file.exists():
        raise UserError(f"No problem set at {file}: expected a folder with problems.jsonl (see docs/your-own-data.md).")
    refuse_foreign_format(file, "a problem set")
    seen: set[str] = set()
    number = 0
    for number, (offset, row) in enumerate(iter_placed(file), start=1):
        try:
            problem = Problem.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "row"
            reject("malformed", number, f"field '{field}': {first['msg']}")
            continue
        if problem.id in seen:  # two rows would share one saved answer
            reject("duplicate_id", number, f"the id '{problem.id}' occurs twice; ids must be unique")
            continue
        seen.add(problem.id)
        yield number, offset, problem
    if not number:
        raise UserError(f"{file} holds no rows: expected JSON Lines, one JSON object a line.")


def problem_file(path: str | Path) -> Path:
    """The JSON Lines file of a problem set that is given as such a file or as its folder."""
    path = Path(path)
    return path / "problems.jsonl" if path.is_dir() else path


def write_problems(problems: list[Problem], folder: str | Path) -> Path:
    """Write ``problems.jsonl`` into ``folder`` in one piece; image paths are stored as given. Returns the file's path."""
    file = Path(folder) / "problems.jsonl"
    write_text_atomic(file, "".join(problem.model_dump_json() + "\n" for problem in problems))
    return file


def image_path(folder: Path, image: str) -> str:
    """The absolute path of an image that a file in ``folder`` names, without symbolic links."""
    if image.lower().startswith(("http://", "https://")) or is_embedded(image):  # no path: whoever opens it says so
        return image
    if os.path.isabs(image):
        return image
    inside, name = os.path.split(image)
    place = os.path.join(_resolved_folder(folder, inside), name)
    return str(resolved(folder / image)) if name in ("", ".", "..") or os.path.islink(place) else place


@functools.lru_cache(maxsize=256)  # resolving asks the file system about each part, and most images are in few folders
def _resolved_folder(folder: Path, inside: str) -> Path:
    return resolved(folder / inside)
