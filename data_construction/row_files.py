"""The rows of a file that a user has, one by one. A row that cannot be read is named by its line, and the rows after it go on."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from configs.errors import UserError
from configs.jsonl import is_unicode, refuse_utf16
from data_construction.data_files import MAX_FIELD, parquet_rows
from data_construction.imported_rows import BadRow

MAX_LINE = 2**26
"""Bytes of a line of JSON: several images may be in it as text."""
MAX_ARRAY = 2**32
"""Bytes of a JSON array, which is read as a whole."""

Place = tuple[str, Mapping[str, Any] | BadRow]
"""Where a row stands (``line 7`` or ``row 7``), and the row or why it is none."""


def numbered_rows(path: Path, kind: str | None) -> Iterator[Place]:
    """The rows of a file.

    Args:
        kind: a key of ``vlm.foreign_files.FORMATS``; ``csv`` and ``parquet`` decide how the file is read, all others are JSON,
            an array or lines.

    Raises:
        UserError: the file cannot be opened or read at all.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file of it, or hf:{path} for a data set.")
    if not path.is_file():
        raise UserError(f"{path} does not exist: check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer and not the data: run 'git lfs pull' in its folder.")
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise UserError(f"{path} is a compressed archive or a spreadsheet: unpack it, or save the spreadsheet as CSV.")
    if kind == "parquet":
        yield from _parquet_rows(path)
        return
    refuse_utf16(path, start)
    if b"\0" in start:
        raise UserError(f"{path} is no text file: give --from parquet, or a file of JSON or CSV.")
    if kind == "csv":
        yield from _csv_rows(path)
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") or not _is_lines(path):
        yield from _array_rows(path)
    else:
        yield from _lines(path)


def _parquet_rows(path: Path) -> Iterator[Place]:
    number = 0
    try:
        for number, row in enumerate(parquet_rows(path), start=1):
            yield f"row {number}", row
    except Exception as error:  # pyarrow raises errors of many types
        if number:
            yield f"row {number + 1}", BadRow(f"the file cannot be read from here on ({_short(error)})")
            return
        raise UserError(f"{path} cannot be read as Parquet ({_short(error)}): export it again.") from None


def _csv_rows(path: Path) -> Iterator[Place]:
    csv.field_size_limit(MAX_FIELD)
    # Bytes that are not UTF-8 become half surrogates, so that they cost their row alone.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter=_delimiter(file))
        if not reader.fieldnames:
            raise UserError(f"{path} is empty: its first line must name the columns.")
        while True:
            try:
                row: dict[Any, Any] = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"line {reader.line_num}", BadRow(f"not valid CSV ({_short(error)})")
                continue
            place = f"line {reader.line_num}"
            if None in row:
                yield place, BadRow("it has more cells than the first line has names")
            elif not all(is_unicode(cell) for cell in row.values() if cell is not None):
                yield place, BadRow("it is not UTF-8: save the table as UTF-8")
            else:
                yield place, row


def _delimiter(file: IO[str]) -> str:
    """What separates the columns: of comma, semicolon and tab, the one that the first line has most."""
    counts = Counter(re.findall("[,;\t]", file.readline(MAX_FIELD)))
    file.seek(0)
    return counts.most_common(1)[0][0] if counts else ","


def _is_lines(path: Path) -> bool:
    """Whether a JSON file that begins with an object has one on each line; False for one object over the whole file."""
    with path.open("rb") as file:
        first = file.readline(MAX_LINE).removeprefix(b"\xef\xbb\xbf")
        while not first.strip() and (more := file.readline(MAX_LINE)):
            first = more
        if not file.read(1):
            return not _holds_rows(first)
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return first.strip() not in (b"{", b"")
    return True


def _holds_rows(line: bytes) -> bool:
    """Whether a line of JSON is an object of rows, such as ``{"data": [{...}]}``, and not a row."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and len(value) == 1 and _rows_in(value) is not None


def _rows_in(content: dict[str, Any]) -> list[Any] | None:
    """The only list of objects that an object holds, under a key that is no conversation."""
    from data_construction.conversations import KEYS

    lists = [
        value
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value) and key not in KEYS
    ]
    return lists[0] if len(lists) == 1 else None


def _array_rows(path: Path) -> Iterator[Place]:
    if path.stat().st_size > MAX_ARRAY:
        raise UserError(f"{path} is larger than {MAX_ARRAY // 2**30} GB: write it as JSON Lines, one object a line.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({_short(error)}): correct it, or write one object a line."
        ) from None
    if isinstance(content, dict):
        content = _rows_in(content) or [content]
    for number, row in enumerate(content, start=1):
        yield f"row {number}", row if isinstance(row, dict) else BadRow(f"{type(row).__name__}, not an object")


def _lines(path: Path) -> Iterator[Place]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield f"line {number}", BadRow(f"longer than {MAX_LINE // 2**20} MB")
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", BadRow(f"not valid JSON ({_short(error)})")
                continue
            yield f"line {number}", row if isinstance(row, dict) else BadRow(f"{type(row).__name__}, not an object")


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
