"""What the rows of a table can be filtered by: words out of few (facets) and numbers, one entry a row."""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MAX_WORDS = 200
"""Different words of a facet; all further ones count as ``OTHER``."""
MAX_COLUMNS = 400
OTHER = "(other)"


class Entry(NamedTuple):
    """The words and the numbers of one row."""

    words: Mapping[str, str]
    numbers: Mapping[str, float]


class Query(NamedTuple):
    """Which rows are wanted: for each facet one of its words, for each number a range, and a text; ``order`` as in the page."""

    words: Mapping[str, Collection[str]] = {}
    ranges: Mapping[str, tuple[float, float]] = {}
    text: str = ""
    order: str = ""


class Facet:
    """The words of a column, as numbers. A row without a word has 0."""

    def __init__(self, rows: int) -> None:
        self.words: dict[str, int] = {"": 0}
        self.codes = array("i", bytes(4 * rows))

    def add(self, word: str) -> None:
        known = self.words.get(word)
        if known is None:
            known = self.words.setdefault(word if len(self.words) < MAX_WORDS else OTHER, len(self.words))
        self.codes.append(known)


class RowColumns:
    """The columns of a growing table. A column may begin at any row; the rows before have nothing in it."""

    def __init__(self) -> None:
        self.rows = 0
        self.facets: dict[str, Facet] = {}
        self.numbers: dict[str, array[float]] = {}

    def extend(self, entries: Sequence[Entry]) -> None:
        """Add rows."""
        for entry in entries:
            for name in entry.words:
                if name not in self.facets and len(self.facets) < MAX_COLUMNS:
                    self.facets[name] = Facet(self.rows)
            for name in entry.numbers:
                if name not in self.numbers and len(self.numbers) < MAX_COLUMNS:
                    self.numbers[name] = array("d", [math.nan]) * self.rows
            for name, facet in self.facets.items():
                facet.add(entry.words.get(name, ""))
            for name, values in self.numbers.items():
                values.append(entry.numbers.get(name, math.nan))
            self.rows += 1

    def cut(self, rows: int) -> None:
        """Forget all rows but the first ones."""
        for facet in self.facets.values():
            del facet.codes[rows:]
        for values in self.numbers.values():
            del values[rows:]
        self.rows = min(rows, self.rows)

    def number(self, name: str) -> np.ndarray:
        """The numbers of a column, NaN where a row has none."""
        # A copy: an array that a view looks at could not grow.
        return np.array(self.numbers[name]) if name in self.numbers else np.full(self.rows, np.nan)

    def select(self, query: Query, without: str | None = None) -> np.ndarray:
        """Which rows have the wanted words and numbers, as truth values; the facet ``without`` is left out."""
        chosen = np.ones(self.rows, dtype=bool)
        for name, words in query.words.items():
            if name == without:
                continue
            facet = self.facets.get(name)
            codes = np.array(facet.codes) if facet else np.zeros(self.rows, dtype=int)
            known = facet.words if facet else {"": 0}
            chosen &= np.isin(codes, [known[word] for word in words if word in known])
        for name, (low, high) in query.ranges.items():
            values = self.number(name)
            chosen &= (values >= low) & (values <= high)  # false for NaN
        return chosen

    def counts(self, name: str, among: np.ndarray) -> dict[str, int]:
        """How many of the rows ``among`` have each word of a facet; the most frequent first."""
        facet = self.facets[name]
        found = np.bincount(np.array(facet.codes)[among], minlength=len(facet.words))
        counts = {word: int(n) for word, n in zip(facet.words, found, strict=False)}
        return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))

    def bounds(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of each column of numbers that has any."""
        found = {}
        for name in self.numbers:
            values = self.number(name)
            if values.size and not np.isnan(values).all():
                found[name] = (float(np.nanmin(values)), float(np.nanmax(values)))
        return found
