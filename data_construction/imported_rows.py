"""A row of someone's data set as a problem: by its columns, or as a conversation (``data_construction.conversations``).

A row is untrusted: what cannot be read of it raises ``BadRow`` with the reason, and the rows after it go on.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from configs.errors import UserError
from data_construction.listed_text import parse_listed, read_options
from reward.grade import Gold, gold_option, is_quantity, read_answer
from vlm.placement import PLACEHOLDER
from vlm.problem import DOMAINS, gold_text
from vlm.response import marks_answer

MAX_IMAGES = 64
QUESTIONS = ("question", "query", "problem", "prompt", "instruction", "text")
ANSWERS = ("answer", "gold", "ground_truth", "solution", "label", "target", "output", "response")
IMAGES = ("images", "image", "image_path", "image_paths", "img", "picture", "decoded_image", "file_name", "image_url")
CHOICES = ("choices", "options")
IDS = ("id", "question_id", "qid", "pid", "uid")
HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)
LATEX = re.compile(r"\\[A-Za-z]{2}|\^")
IMAGE_MARK = re.compile(r"<image>|<ImageHere>|<img>([^<>]{1,2000})</img>", re.IGNORECASE)
OPTION_LINE = re.compile(r"[ \t]*\(?([A-Z])[).:][ \t]*(\S.*)")


class BadRow(UserError):
    """A row that cannot be made a problem."""


@dataclass(frozen=True)
class Item:
    """A row's problem before its images are on disk. ``images``: paths, bytes, or ``{"bytes", "path"}`` of ``datasets``."""

    id: str
    domain: str
    question: str
    answer: str
    images: list[Any]
    choices: list[str] | None = None
    family: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    decimal: str = "."


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None finds a usual name. ``domain``, ``decimal``: of every row, instead of a guess or the row's own."""

    question: str | None = None
    answer: str | None = None
    images: Sequence[str] = ()
    choices: str | None = None
    id: str | None = None
    domain: str | None = None
    decimal: str | None = None


class ImagePlaces:
    """The images of a row in the order in which its texts name them.

    ``<image>`` is the place of the next image of the row; it becomes ``<image N>``, as ``vlm.placement`` reads it.
    """

    def __init__(self, images: Sequence[Any], texts: Sequence[str] = ()) -> None:
        # Texts that number their images themselves mean the order of the row.
        numbered = any(PLACEHOLDER.search(text) for text in texts)
        self.images: list[Any] = list(images) if numbered else []
        self._rest = [] if numbered else list(images)

    def mark(self, text: str) -> str:
        """The text with its image marks numbered; ``<img>PATH</img>`` brings its own image."""
        return IMAGE_MARK.sub(lambda found: self.place(found[1].strip() if found[1] else None), text)

    def place(self, image: Any = None) -> str:
        """The mark of an image of its own, or of the next one of the row."""
        if image is None:
            if not self._rest:
                raise BadRow("its text names more images than it has")
            image = self._rest.pop(0)
        self.images.append(image)
        return f"<image {len(self.images)}>"

    def all(self) -> list[Any]:
        """All images of the row; those without a mark come last.

        Raises:
            BadRow: there are more than ``MAX_IMAGES``.
        """
        found = [*self.images, *self._rest]
        if len(found) > MAX_IMAGES:
            raise BadRow(f"it has more than {MAX_IMAGES} images")
        return found


def without_leading_marks(question: str) -> str:
    """The question without the marks at its start: images without a place come before the text anyway."""
    number = 1
    while question.startswith(mark := f"<image {number}>"):
        question = question.removeprefix(mark).lstrip()
        number += 1
    # A mark further on keeps its number, because the images before it count.
    return question


def read_columns(row: Mapping[str, Any], columns: Columns) -> Item:
    """The problem of a row that has its question and its answer in columns.

    Raises:
        BadRow: what it lacks.
    """
    question = _required(row, columns.question, QUESTIONS, "question")
    choices, images = row_choices(row, columns), row_images(row, columns)
    places = ImagePlaces(images, [question, *(choices or ())])
    question = places.mark(question)
    choices = choices and [places.mark(choice) for choice in choices]
    answer = _answer(row, columns)
    meta = row.get("meta")
    decimal = row_decimal(row, columns)
    return Item(
        row_id(row, columns),
        row_domain(row, columns) or guess_domain(question, answer, choices, decimal),
        without_leading_marks(question),
        gold_text(answer),
        places.all(),
        choices,
        meta=dict(meta) if isinstance(meta, Mapping) else {},
        source=row["source"] if isinstance(row.get("source"), str) else "",
        decimal=decimal,
    )


def row_id(row: Mapping[str, Any], columns: Columns) -> str:
    """The id of a row as text; empty where it has none."""
    value = _cell(row, columns.id, IDS)
    if isinstance(value, float) and value.is_integer():  # a table with gaps stores whole numbers so
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""


def row_domain(row: Mapping[str, Any], columns: Columns) -> str | None:
    """The domain that the user gave, or that the row names."""
    value = columns.domain or row.get("domain")
    return value if isinstance(value, str) and value in DOMAINS else None


def row_decimal(row: Mapping[str, Any], columns: Columns) -> str:
    """The decimal mark of a row's answer: what the user gave, else what the row says, else the point."""
    return "," if (columns.decimal or row.get("decimal")) == "," else "."


def row_choices(row: Mapping[str, Any], columns: Columns) -> list[str] | None:
    """The options of a row: a list, a text of one, ``cat|dog``, or columns ``A``, ``B`` and so on.

    Raises:
        BadRow: there are options, but they cannot be read.
    """
    value = _cell(row, columns.choices, CHOICES)
    if value is None and columns.choices is None:
        letters = {letter: row[letter] for letter in "ABCDEFGHIJ" if not is_missing(row.get(letter))}
        value = letters if len(letters) > 1 else None
    if value is None:
        return None
    if isinstance(value, str) and "|" in value and not value.strip().startswith(("[", "{")):
        value = value.split("|")
    try:
        found = read_options(value)
    except ValueError as error:
        raise BadRow(f"its list of options {error}") from None
    if found is None and isinstance(value, list | tuple | Mapping):  # an empty list: a question without options
        return None
    if found is None:
        raise BadRow("its options cannot be read: write a JSON list, or set them apart with |")
    return found


def row_images(row: Mapping[str, Any], columns: Columns) -> list[Any]:
    """The images of a row as they are stored; empty if it has none."""
    if columns.images:
        cells = [_cell(row, name, ()) for name in columns.images]
    else:
        cells = [_cell(row, None, IMAGES)]
        if cells == [None]:
            cells = [row.get(f"image_{number}") for number in range(1, MAX_IMAGES + 1)]
    found: list[Any] = []
    for cell in cells:
        if isinstance(cell, str) and cell.strip().startswith("["):
            try:
                cell = parse_listed(cell)
            except ValueError as error:
                raise BadRow(f"its list of images {error}") from None
        found += cell if isinstance(cell, list | tuple) else [cell]
    return [image for image in found if not is_missing(image)]


def guess_domain(question: str, answer: Any, choices: Sequence[str] | None, decimal: str) -> str:
    """The kind of an answer, for a row that does not say it."""
    if choices:
        return "choice"
    if isinstance(answer, list):
        return "simulation"  # a sequence
    text = gold_text(answer)
    if text.strip(" .!\n").lower() in ("yes", "no", "true", "false"):
        return "yes_no"
    if is_quantity(text.replace(",", ".") if decimal == "," else text):
        return "count" if HOW_MANY.search(question) and text.strip().isdecimal() else "number"
    return "expression" if LATEX.search(text) else "text"


def split_option_lines(question: str, answer: str) -> tuple[str, list[str] | None]:
    """A question whose options are lines of it (``A. cat``), and these options; None where the answer names none of them."""
    lines = question.splitlines()
    found = [OPTION_LINE.fullmatch(line) for line in lines]
    for start, first in enumerate(found):
        if not first or first[1] != "A":
            continue
        options: list[str] = []
        for match in found[start:]:
            if not match or match[1] != chr(ord("A") + len(options)):
                break
            options.append(match[2].strip())
        rest = "\n".join([*lines[:start], *lines[start + len(options) :]]).strip()
        if len(options) > 1 and rest and gold_option(Gold("choice", answer, options)) is not None:
            return rest, options
    return question, None


def _required(row: Mapping[str, Any], given: str | None, usual: Sequence[str], what: str) -> str:
    value = _cell(row, given, usual)
    if value is None:
        raise BadRow(f"it has no {what}")
    if isinstance(value, Decimal):
        value = str(value)
    if not isinstance(value, str | int | float):
        raise BadRow(f"its {what} is no text but {type(value).__name__}")
    return gold_text(value).strip()


def _answer(row: Mapping[str, Any], columns: Columns) -> Any:
    """The gold answer: text, or a list of texts and numbers. Of a worked solution only its box or ``<answer>`` counts."""
    value = _cell(row, columns.answer, ANSWERS)
    if isinstance(value, list | tuple):
        if not all(isinstance(one, str | int | float) and not is_missing(one) for one in value):
            raise BadRow("its answer is a list of something other than texts and numbers")
        return list(value) if len(value) > 1 else gold_text(value[0])
    answer = _required(row, columns.answer, ANSWERS, "answer")
    return (read_answer(answer, True) or answer) if marks_answer(answer) else answer


def _cell(row: Mapping[str, Any], given: str | None, usual: Sequence[str]) -> Any:
    """The value of the column that was given, or of the first usual name that is not empty; None for no value."""
    if given is not None:
        if given not in row:
            raise BadRow(f"it has no column '{given}'")
        return None if is_missing(row[given]) else row[given]
    lower = {name.lower(): name for name in reversed(list(row)) if isinstance(name, str)}
    names = (lower[name] for name in usual if name in lower)
    return next((row[name] for name in names if not is_missing(row[name])), None)


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: no value, blank text, an empty list, or the NaN that tables write."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | tuple | Mapping | bytes) and not value)
