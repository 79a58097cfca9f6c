"""Parquet files as a table: only numbers and short words are read for the columns; texts when they are searched or shown."""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demo.viewer.columns import Entry
from demo.viewer.lines import texts_in
from demo.viewer.table import STEP, Table, ViewedRow, fault_entry

MAX_GROUP = 2**30
"""Bytes of a group of rows once it is unpacked; larger ones are named, not read."""
HELD = 3
"""Groups of rows that stay in memory for the rows around the one that is shown."""
UNREADABLE, TOO_LARGE = "unreadable file", "too large"
_NUMBER = re.compile(r"(\d+)")


class _Group(NamedTuple):
    """Rows of a file that are read together; ``fault`` says why they are not."""

    path: Path
    number: int
    rows: int
    fault: str = ""


class ParquetTable(Table):
    """The rows of one parquet file, or of a folder of files, one of which is written at each step of a run.

    Args:
        columns: the names of the columns, among those of a file, that ``entry`` reads.
        entry: as for ``LineTable``.
    """

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        columns: Callable[[Sequence[str]], Sequence[str]],
        entry: Callable[[dict[str, Any]], Entry],
    ) -> None:
        super().__init__()
        self._files, self._wanted, self._entry = files, columns, entry
        self._known: list[tuple[Path, tuple[int, int]]] = []
        self._ends: list[int] = []  # rows before the end of each file
        self._groups: list[_Group] = []
        self._starts: list[int] = []
        self._held: OrderedDict[tuple[Path, int, tuple[int, int]], Any] = OrderedDict()
        self._held_lock = threading.Lock()

    def refresh(self, seconds: float = STEP) -> float:
        with self.lock:
            now = [(path, file_signature(path)) for path in self._files()]
            same = 0
            while same < min(len(now), len(self._known)) and now[same] == self._known[same]:
                same += 1
            if same < len(self._known):
                self._cut_files(same)
            until = time.monotonic() + seconds
            for path, signed in now[same:]:
                self._add(path)
                self._known.append((path, signed))
                self._ends.append(self.columns.rows)
                self.changes += 1
                if time.monotonic() > until:
                    break
            return len(self._known) / len(now) if now else 1.0

    def _cut_files(self, files: int) -> None:
        rows = self._ends[files - 1] if files else 0
        del self._known[files:], self._ends[files:]
        while self._groups and self._starts[-1] >= rows:
            self._groups.pop()
            self._starts.pop()
        self.cut(rows)

    def _add(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                wanted = list(self._wanted(file.schema_arrow.names))
                for number in range(file.num_row_groups):
                    meta = file.metadata.row_group(number)
                    if meta.total_byte_size > MAX_GROUP:
                        self._add_group(
                            _Group(path, number, meta.num_rows, TOO_LARGE), [fault_entry(TOO_LARGE)] * meta.num_rows
                        )
                        continue
                    read = file.read_row_group(number, columns=wanted).to_pylist()
                    self._add_group(_Group(path, number, len(read)), [self._entry_of(row) for row in read])
        except (OSError, ValueError, pa.ArrowException):
            # A step is being written, or was interrupted: the file is one row that says so, until it has changed.
            self._add_group(_Group(path, 0, 1, UNREADABLE), [fault_entry(UNREADABLE)])

    def _entry_of(self, row: dict[str, Any]) -> Entry:
        try:
            return self._entry(row)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError):
            return Entry({}, {})

    def _add_group(self, group: _Group, entries: list[Entry]) -> None:
        self._starts.append(self.columns.rows)
        self._groups.append(group)
        self.columns.extend(entries)

    def row(self, number: int) -> ViewedRow:
        with self.lock:
            if not 0 <= number < self.columns.rows:
                return ViewedRow(None, "There is no such row.")
            place = int(np.searchsorted(self._starts, number, "right")) - 1
            group, start = self._groups[place], self._starts[place]
        if group.fault == TOO_LARGE:
            return ViewedRow(None, f"{group.path.name}: a group of rows holds more than 1 GB and is not read.")
        read = None if group.fault else self._read(group)
        if read is None or number - start >= read.num_rows:
            return ViewedRow(
                None, f"{group.path.name} cannot be read: it is being written, or its writer was interrupted."
            )
        return ViewedRow(read.slice(number - start, 1).to_pylist()[0])

    def same(self, number: int, names: Sequence[str]) -> list[int]:
        """The rows of the same group whose values under ``names`` are those of a row, itself included."""
        with self.lock:
            place = int(np.searchsorted(self._starts, number, "right")) - 1
            group, start = self._groups[place], self._starts[place]
        read = None if group.fault else self._read(group, list(names))
        if read is None:
            return [number]
        rows = read.to_pylist()
        return [start + other for other, row in enumerate(rows) if row == rows[number - start]]

    def _read(self, group: _Group, names: list[str] | None = None) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        key = (group.path, group.number, file_signature(group.path))
        with self._held_lock:
            if key not in self._held:
                try:
                    with pq.ParquetFile(group.path) as file:
                        self._held[key] = file.read_row_group(group.number)
                except (OSError, ValueError, IndexError, pa.ArrowException):
                    return None
                while len(self._held) > HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            read = self._held[key]
        return read if names is None else read.select([name for name in names if name in read.column_names])

    def search(self, text: str, first: int) -> Iterator[np.ndarray]:
        place = int(np.searchsorted(self._starts, first, "right")) - 1
        for group, start in zip(self._groups[place:], self._starts[place:], strict=True):
            held = np.zeros(group.rows, dtype=bool) if group.fault else self._search_group(group, text)
            yield held[max(0, first - start) :]

    def _search_group(self, group: _Group, text: str) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        held = np.zeros(group.rows, dtype=bool)
        try:
            with pq.ParquetFile(group.path) as file:
                kinds = {field.name: field.type for field in file.schema_arrow}
                names = [name for name, kind in kinds.items() if not _is_number(kind) and not pa.types.is_binary(kind)]
                read = file.read_row_group(group.number, columns=names)
        except (OSError, ValueError, IndexError, pa.ArrowException):
            return held
        for name in names:
            column, kind = read.column(name), kinds[name]
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                # Without its patterns: the text is no regular expression.
                found = (
                    pc.match_substring(column, text, ignore_case=True).fill_null(False).to_numpy(zero_copy_only=False)
                )
            else:
                found = [any(text in one.lower() for one in texts_in(value)) for value in column.to_pylist()]
            size = min(len(held), len(found))
            held[:size] |= np.asarray(found[:size], dtype=bool)
        return held


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def file_signature(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file; -1 for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def in_order(folder: Path) -> list[Path]:
    """The parquet files of a folder in the order of the numbers in their names."""
    try:
        found = [path for path in folder.iterdir() if path.suffix == ".parquet" and not path.name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _NUMBER.split(path.name)])


def first_parquet_rows(path: Path, rows: int = 50) -> list[dict[str, Any]]:
    """The first rows of a file; none of one that cannot be read, or whose first rows are too large."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if not file.num_row_groups or file.metadata.row_group(0).total_byte_size > MAX_GROUP:
                return []
            return next(file.iter_batches(batch_size=rows)).to_pylist() if file.metadata.num_rows else []
    except (OSError, ValueError, pa.ArrowException):
        return []
