"""Options that a data set keeps as text: a list or an object as JSON, Python or numpy writes it, or one lettered option a line."""

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from vlm.labels import option_index, option_label

MAX_LITERAL = 20_000
MISSING = "(not given)"
# One backslash of LaTeX where the format wants two: "\frac" is read as a form feed and "rac". No option holds these characters.
LATEX = str.maketrans({"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
NUMPY = re.compile(r"array\((.*?)(?:,\s*dtype=[\w<>|']+)?\)", re.DOTALL)
NUMBERS = re.compile(r"\[\s*-?[\d.]+(?:\s+-?[\d.]+)*\s*\]")
LETTERED = re.compile(r"\(?([A-Z]{1,2})[).:]\s*(\S.*)")


def read_options(value: Any) -> list[str] | None:
    """The options of a list, an array, an object by letter, or a text of these; None for none. A missing one keeps its letter.

    Raises:
        ValueError: as ``parse_listed``.
    """
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, str):
        value = parse_listed(value)
    if isinstance(value, Mapping):
        value = _by_letter(value)
    if not isinstance(value, list | tuple) or not value:
        return None
    return [MISSING if _is_missing(one) else str(one).strip() for one in value]


def parse_listed(text: str) -> list[Any] | Mapping[str, Any] | None:
    """The list or object that a text writes; None for any other text. Literals only: nothing is executed.

    Raises:
        ValueError: it begins like a list or an object, but is none, or is longer than ``MAX_LITERAL`` characters.
    """
    body = text.strip()
    if len(body) <= MAX_LITERAL and (inside := NUMPY.fullmatch(body)):
        body = inside[1].strip()
    if not body.startswith(("[", "{", "('", '("')):
        return _lettered_lines(body[:MAX_LITERAL])
    if len(body) > MAX_LITERAL:
        raise ValueError("too long to be read")
    if NUMBERS.fullmatch(body):
        return list(body.strip("[]").split())
    try:
        value = json.loads(body, strict=False)  # not strict: options may contain line breaks
    except (ValueError, RecursionError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "\d", as LaTeX has it, is no escape
            try:
                value = ast.literal_eval(_as_literal(body))
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                raise ValueError("cannot be read") from None
    if isinstance(value, Mapping):
        return {str(key): _unescaped(one) for key, one in value.items()}
    return [_unescaped(one) for one in value] if isinstance(value, list | tuple) else None


def _unescaped(value: Any) -> Any:
    return value.translate(LATEX) if isinstance(value, str) else value


def _as_literal(text: str) -> str:
    """The text with line breaks inside quotes escaped, and with a comma between quotes that only spaces separate.

    numpy prints no commas, and Python would join such texts to one.
    """
    parts: list[str] = []
    quote, escaped, closed = "", False, False
    for letter in text:
        if quote:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == quote:
                quote, closed = "", True
            parts.append({"\n": "\\n", "\r": "\\r"}.get(letter, letter))
            continue
        if letter in "'\"":
            if closed:
                parts.append(",")
            quote, closed = letter, False
        elif not letter.isspace():
            closed = False
        parts.append(letter)
    return "".join(parts)


def _lettered_lines(text: str) -> list[Any] | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [LETTERED.fullmatch(line) for line in lines]
    labels = [one[1] for one in found if one]
    if len(labels) < 2 or len(labels) != len(lines) or labels != list(map(option_label, range(len(labels)))):
        return None
    return [one[2] for one in found if one]


def _by_letter(options: Mapping[str, Any]) -> list[Any]:
    """``{"A": ..., "B": ...}`` as a list; ``{"text": [...], "label": [...]}`` likewise."""
    if isinstance(texts := options.get("text"), list):
        labels = options.get("label")
        if not isinstance(labels, list) or len(labels) != len(texts):
            return texts
        options = dict(zip(map(str, labels), texts, strict=True))
    labels = [str(key).strip("() .") for key in options]
    letters = 1 if len(labels) <= 26 else 2  # "NO" is no label among a few options
    if not all(re.fullmatch(f"[A-Za-z]{{1,{letters}}}", label) for label in labels):
        return list(options.values())
    by_index = dict(zip(map(option_index, labels), options.values(), strict=True))
    # A table of rows with different numbers of options fills up the shorter ones.
    last = max((index for index, text in by_index.items() if not _is_missing(text)), default=-1)
    return [by_index.get(index) for index in range(last + 1)]


def _is_missing(option: Any) -> bool:
    return option is None or not str(option).strip() or (isinstance(option, float) and math.isnan(option))
