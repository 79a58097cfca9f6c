"""JSON Lines as a table: the offset of each row and its columns are kept, and rows are read again when they are shown."""

import codecs
import json
import os
import re
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from demo.viewer.columns import Entry
from demo.viewer.table import STEP, Table, ViewedRow, fault_entry, raw_text

MAX_LINE = 8 * 2**20
"""Bytes of a row; longer ones are named, not read."""
BLOCK = 4 * 2**20
"""Bytes that are searched at once."""
AT_ONCE = 256
_STRUCTURE = re.compile(r"[\s{}\[\],:]+")
_REST_OF_KEY = r'(?:[^"\\]|\\.)*"\s*:'
"""What follows a place inside a key, up to its colon."""
_KEY, _KEY_BYTES = re.compile(_REST_OF_KEY), re.compile(_REST_OF_KEY.encode())
CUT_OFF, NO_JSON, NO_OBJECT, TOO_LONG = "cut off", "not JSON", "no JSON object", "too long"
FAULTS_IN_WORDS = {
    CUT_OFF: "The last row is not complete: it is being written, or its writer was interrupted.",
    NO_JSON: "This line is not valid JSON.",
    NO_OBJECT: "This line is valid JSON, but no object.",
    TOO_LONG: f"This line is longer than {MAX_LINE // 2**20} MB and is not read.",
}

ReadEntry = Callable[[dict[str, Any]], Entry]


class LineTable(Table):
    """The rows of one JSON Lines file.

    Args:
        entry: the columns of a row. What it raises for a row of an unexpected shape leaves that row without columns.
        beside: files on which the columns depend too: if one changes, the table is read anew.
    """

    def __init__(self, path: Path, entry: ReadEntry, beside: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.path, self._entry, self._beside = path, entry, beside
        self._clear()

    def _clear(self) -> None:
        self.cut(0)
        self.offsets = array("q")
        self.end = 0
        self.open_row = False  # the last row has no line end yet, so that it may still change
        self._known: tuple[Any, ...] = ()
        self._last = b""

    def refresh(self, seconds: float = STEP) -> float:
        with self.lock:
            try:
                found, beside = self.path.stat(), self._beside()
            except OSError:
                if self.columns.rows:
                    self._clear()
                return 1.0
            now = (found.st_ino, found.st_size, found.st_mtime_ns, beside)
            if now == self._known and self.end >= found.st_size:
                return 1.0
            if self._known and (now[0] != self._known[0] or beside != self._known[3] or self._is_rewritten(now[1])):
                self._clear()
            if self.open_row:
                self._drop_open_row()
            self._known = now
            self._read_on(found.st_size, time.monotonic() + seconds)
            return min(1.0, self.end / found.st_size) if found.st_size else 1.0

    def _is_rewritten(self, size: int) -> bool:
        """Whether the last row that was read is gone: a resumed run cuts its log, and writes on."""
        if size < self.end:
            return True
        if not self.offsets:
            return False
        with open(self.path, "rb") as file:
            file.seek(self.offsets[-1])
            return file.read(len(self._last)) != self._last

    def _drop_open_row(self) -> None:
        self.end = self.offsets.pop()
        self.cut(len(self.offsets))
        self.open_row = False

    def _read_on(self, size: int, until: float) -> None:
        try:
            file = open(self.path, "rb")  # noqa: SIM115  # closed below
        except OSError:
            return
        with file:
            file.seek(self.end)
            while self.end < size and not self.open_row:
                entries: list[Entry] = []
                while self.end < size and len(entries) < AT_ONCE and not self.open_row:
                    line, length = _read_line(file)
                    if not length:
                        break
                    if not line.isspace():
                        self.offsets.append(self.end)
                        self._last = line[:4096]
                        self.open_row = not line.endswith(b"\n") and length == len(line)
                        entries.append(self._entry_of(line, length))
                    self.end += length
                if not entries and self.end < size:
                    break
                self.columns.extend(entries)
                self.changes += 1
                if time.monotonic() > until:
                    break

    def _entry_of(self, line: bytes, length: int) -> Entry:
        row = _parse(line, length)
        if row.content is None:
            return fault_entry(row.fault)
        try:
            return self._entry(row.content)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError):
            return Entry({}, {})

    def row(self, number: int) -> ViewedRow:
        with self.lock:
            if not 0 <= number < len(self.offsets):
                return ViewedRow(None, "There is no such row.")
            offset = self.offsets[number]
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                row = _parse(*_read_line(file))
        except OSError as error:
            return ViewedRow(None, f"The file cannot be read ({error.strerror}).")
        return row._replace(fault=FAULTS_IN_WORDS.get(row.fault, row.fault))

    def search(self, text: str, first: int) -> Iterator[np.ndarray]:
        # A file without its line end may be cut in the middle of a row; the offsets tell where each row ends.
        edges = np.append(np.array(self.offsets, dtype=np.int64), self.end)
        rows = len(self.offsets)
        structure = _STRUCTURE.fullmatch(text)
        needles = _needles(text)
        with open(self.path, "rb") as file:
            while first < rows:
                last = max(first + 1, int(np.searchsorted(edges, edges[first] + BLOCK, "right")) - 1)
                last = min(last, rows)
                file.seek(int(edges[first]))
                # A row of any length may stand in a block of its own, but only so much of it is searched.
                block = file.read(min(int(edges[last] - edges[first]), BLOCK + MAX_LINE))
                starts = edges[first:last] - edges[first]
                held = _rows_with(needles, block, starts, text)
                if structure:  # it stands between the texts, too
                    for row in np.flatnonzero(held):
                        content = _parse(*_line_at(block, int(starts[row]))).content
                        held[row] = content is not None and any(text in one.lower() for one in texts_in(content))
                yield held
                first = last


def _read_line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line, and its length in the file; of a line that is too long only the beginning."""
    line = file.readline(MAX_LINE + 1)
    length = len(line)
    if length > MAX_LINE and not line.endswith(b"\n"):
        while part := file.readline(MAX_LINE):
            length += len(part)
            if part.endswith(b"\n"):
                break
        line = line[:MAX_LINE]
    return line, length


def _line_at(block: bytes, start: int) -> tuple[bytes, int]:
    line = block[start : block.find(b"\n", start) + 1 or len(block)]
    return line[:MAX_LINE], len(line)


def _parse(line: bytes, length: int) -> ViewedRow:
    if length > len(line):
        return ViewedRow(None, TOO_LONG, raw_text(line))
    try:
        content = json.loads(line.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError):
        return ViewedRow(None, NO_JSON if line.endswith(b"\n") else CUT_OFF, raw_text(line))
    return ViewedRow(content) if isinstance(content, dict) else ViewedRow(None, NO_OBJECT, raw_text(line))


def _needles(text: str) -> list[bytes]:
    """The text, in small letters, as JSON writes it; with and without escapes for letters beyond ASCII."""
    escaped = (json.dumps(one)[1:-1].lower() for one in (text, text.upper()))
    return list(dict.fromkeys(one.encode() for one in (json.dumps(text, ensure_ascii=False)[1:-1], *escaped)))[
        : 1 if text.isascii() else 3
    ]


def _rows_with(needles: list[bytes], block: bytes, starts: np.ndarray, text: str) -> np.ndarray:
    """Which of the rows that begin at ``starts`` hold one of the needles outside their keys, whatever the case of its letters."""
    held = np.zeros(len(starts), dtype=bool)
    if text.isascii():
        lowered, needle, at = block.lower(), needles[0], 0
        while (at := lowered.find(needle, at)) >= 0:
            if _KEY_BYTES.match(lowered, at + len(needle)):
                at += len(needle)
                continue
            row = int(np.searchsorted(starts, at, "right")) - 1
            held[row] = True
            if row + 1 == len(starts):
                break
            at = int(starts[row + 1])
        return held
    wanted = [one.decode() for one in needles]
    for row, start in enumerate(starts):  # small letters may have other lengths, so each row is looked at alone
        end = starts[row + 1] if row + 1 < len(starts) else len(block)
        line = block[start:end].decode("utf-8", errors="replace").lower()
        held[row] = any(_is_in_text(one, line) for one in wanted)
    return held


def _is_in_text(needle: str, line: str) -> bool:
    at = line.find(needle)
    while at >= 0 and _KEY.match(line, at + len(needle)):
        at = line.find(needle, at + len(needle))
    return at >= 0


def texts_in(content: Any) -> Iterator[str]:
    """All texts in a row, without its keys."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def signature(*paths: Path) -> tuple[Any, ...]:
    """What tells that one of the files has changed, or is there only now."""
    found: list[Any] = []
    for path in paths:
        try:
            one = os.stat(path)
            found.append((one.st_ino, one.st_size, one.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)
