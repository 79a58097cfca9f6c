"""Facts as they stand in text: ``row 2: red none blue`` or ``B2: red star``, found by one pattern and compared by key."""

import functools
import re
from typing import NamedTuple

# Key and value have bounded lengths, so that the pattern runs in linear time on any text.
STATEMENT = re.compile(r"(?<![\w:])([A-Za-z][\w ]{0,23}?): ([^\n:;.,]{1,80})(?=[\n;.,]|$)")


class Statement(NamedTuple):
    """``key: value`` with the span of the value in the text it was read from."""

    key: str
    value: str
    start: int
    end: int


def statements(text: str) -> list[Statement]:
    """All ``key: value`` statements of a text, in order; keys and values lower-cased with single spaces."""
    return list(_statements(text))


@functools.lru_cache(maxsize=64)  # an episode's texts are read again by each check of its trace
def _statements(text: str) -> tuple[Statement, ...]:
    found = []
    for match in STATEMENT.finditer(text):
        value = match.group(2)
        stripped = value.strip()
        if stripped:
            start = match.start(2) + value.index(stripped)
            found.append(Statement(_folded(match.group(1)), _folded(stripped), start, start + len(stripped)))
    return tuple(found)


def corrected_spans(text: str) -> list[tuple[int, int]]:
    """Spans of the values that a later statement with the same key contradicts: what the text itself takes back."""
    found = statements(text)
    return [
        (earlier.start, earlier.end)
        for index, earlier in enumerate(found)
        if any(later.key == earlier.key and later.value != earlier.value for later in found[index + 1 :])
    ]


def final_statements(text: str) -> dict[str, str]:
    """Key -> the last value stated for it."""
    return {statement.key: statement.value for statement in statements(text)}


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
