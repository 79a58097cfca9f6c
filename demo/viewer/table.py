"""A table of rows in files: read piece by piece, filtered by its columns, searched for a text. Rows themselves stay on disk."""

import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from demo.viewer.columns import Entry, Query, RowColumns
from demo.viewer.values import cut_text

FAULT = "row"
"""The facet of rows that cannot be read; its words say why. Whole rows have none."""
SEARCHES = 16
"""Texts of which the rows that hold them are remembered."""
STEP = 0.4
"""Seconds that one request reads on, or searches on; the page asks again until all is read."""


class ViewedRow(NamedTuple):
    """A row as it was read: its content, or why there is none and what stands there instead."""

    content: dict[str, Any] | None
    fault: str = ""
    raw: str = ""


class Page(NamedTuple):
    """The numbers of the wanted rows in their order, and how much of the table has been read and searched, in [0, 1]."""

    rows: np.ndarray
    read: float
    searched: float


class Table(ABC):
    """Rows that are read from files as the page asks for them. A file may grow, or be replaced, meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.columns = RowColumns()
        self._found: OrderedDict[str, np.ndarray] = OrderedDict()
        self.changes = 0  # grows with each change that a page should show

    @abstractmethod
    def refresh(self, seconds: float = STEP) -> float:
        """Take in what is new in the files, for so many seconds at most; returns the share that is read by now."""

    @abstractmethod
    def row(self, number: int) -> ViewedRow:
        """The row of a number from 0."""

    @abstractmethod
    def search(self, text: str, first: int) -> Iterator[np.ndarray]:
        """Which rows from ``first`` on hold ``text``, case ignored, as pieces of truth values in the order of the rows."""

    def page(self, query: Query, seconds: float = STEP) -> Page:
        """The rows that a query wants."""
        with self.lock:
            read = self.refresh(seconds)
            searched = self.holding(query.text, seconds)[1] if query.text else 1.0
            return Page(self._ordered(np.flatnonzero(self.select(query)), query.order), read, searched)

    def select(self, query: Query, without: str | None = None) -> np.ndarray:
        """Which rows a query wants, as far as they have been searched; the facet ``without`` is left out."""
        chosen = self.columns.select(query, without)
        if query.text:
            held = self._found.get(query.text.lower(), np.zeros(0, dtype=bool))
            chosen[: len(held)] &= held
            chosen[len(held) :] = False
        return chosen

    def holding(self, text: str, seconds: float = STEP) -> tuple[np.ndarray, float]:
        """Which of the first rows hold a text, and the share of the rows that has been searched."""
        text = text.lower()
        found = self._found.pop(text, np.zeros(0, dtype=bool))
        until, pieces = time.monotonic() + seconds, [found]
        size = len(found)
        if size < self.columns.rows:
            for piece in self.search(text, size):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > until:
                    break
        found = np.concatenate(pieces)[: self.columns.rows]
        self._found[text] = found
        while len(self._found) > SEARCHES:
            self._found.popitem(last=False)
        return found, len(found) / self.columns.rows if self.columns.rows else 1.0

    def cut(self, rows: int) -> None:
        """Forget all rows but the first ones."""
        self.columns.cut(rows)
        self._found = OrderedDict((text, found[:rows]) for text, found in self._found.items())
        self.changes += 1

    def _ordered(self, rows: np.ndarray, order: str) -> np.ndarray:
        """``last`` first for an order of ``-``; a name of numbers rises with them, and falls with a minus before it."""
        if not order:
            return rows
        if order == "-":
            return rows[::-1]
        values = self.columns.number(order.removeprefix("-"))[rows]
        return rows[np.argsort(-values if order.startswith("-") else values, kind="stable")]  # NaN comes last in both


def fault_entry(fault: str) -> Entry:
    """The columns of a row that cannot be read."""
    return Entry({FAULT: fault}, {})


def raw_text(line: bytes) -> str:
    """The beginning of a row that cannot be read, as text."""
    return cut_text(line[:40_000].decode("utf-8", errors="replace"), 4_000)
