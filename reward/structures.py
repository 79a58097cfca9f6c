"""Pairs, sequences and tables: JSON, Markdown, or lines of separated items.

Every reader returns ``None`` or an empty list for what it cannot read; none of them raises on any text of at most
``parsing.MAX_CHARACTERS``.
"""

import json
import re

from reward.parsing import plain
from reward.quantity import canonical

MAX_CELLS = 1_000


def read_pairs(text: str) -> dict[str, str] | None:
    """``A = knight, B: knave``, ``A is knight and B is knave`` or a JSON object, as canonical keys and values."""
    data = _read_json(text)
    if isinstance(data, dict):
        return {canonical(key): canonical(value) for key, value in list(data.items())[:MAX_CELLS]} or None
    pairs: dict[str, str] = {}
    for piece in re.split(r"[,;\n]|\band\b", plain(text))[:MAX_CELLS]:
        if not piece.strip():
            continue
        key, mark, value = _split_pair(piece)
        if not mark or canonical(key) in pairs:
            return None
        pairs[canonical(key)] = canonical(value)
    return pairs or None


def _split_pair(piece: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"\s*([^=:]{1,80}?)\s*(=|:|->|→|\bis\b|\bat\b)\s*(.{1,200})", piece.strip(), re.DOTALL)
    return (match[1], match[2], match[3]) if match else (piece, "", "")


def read_sequence(text: str) -> list[str]:
    """An ordered list: JSON, or items set apart by ``,`` ``;`` ``>`` ``->`` or line ends."""
    data = _read_json(text)
    items = data if isinstance(data, list) else re.split(r"->|→|[,;>\n]", plain(text).strip("[]()"))
    return [canonical(item) for item in items[:MAX_CELLS] if str(item).strip()]


Cells = list[tuple[str, str, str]]


def read_table(text: str, header: list[str] | None = None) -> tuple[Cells, list[str]] | None:
    """A table as (row, column, value) cells: JSON (rows, records or an object), Markdown, or lines of separated cells.

    The first cell of a row names the row and the header names the column, so neither the order of rows nor, with a
    header, that of columns counts. A table of one column has nameless rows.

    Args:
        header: of the table to compare with: columns of the same names are taken in its order, and a first line of these
            names is a header even without a rule under it.

    Returns:
        The cells, and the names of the columns in order (empty where there are none).
    """
    data = _read_json(text)
    if data is None:
        data = _read_lines(text)
    if isinstance(data, dict):
        data = [[key, value] for key, value in data.items()]
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(row, dict) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return _cells([keys, *([row.get(key) for key in keys] for row in data)], header, has_header=True)
    rows = [row if isinstance(row, list) else [row] for row in data]
    return _cells(rows, header, has_header=False)


def _cells(rows: list[list[object]], like: list[str] | None, has_header: bool) -> tuple[Cells, list[str]]:
    width = max(len(row) for row in rows)
    if width == 1:
        return [("", "", canonical(row[0])) for row in rows if row][:MAX_CELLS], []
    names = [canonical(cell) for cell in rows[0]]
    same = like is not None and len(like) > 1 and len(set(names)) == len(names) and sorted(names) == sorted(like)
    header = [str(index) for index in range(width)] if width > 2 else ["", ""]  # two columns: names and values
    if has_header or same:
        header, rows = names, rows[1:]
    order = [names.index(name) for name in like] if same and like else range(len(header))
    found = []
    for row in rows:
        cells = [(header[index], canonical(row[index])) for index in order if index < len(row)]
        found += [(cells[0][1], name, cell) for name, cell in cells[1:]]
    return found[:MAX_CELLS], header if has_header or same else []


def _read_lines(text: str) -> list[object] | dict[str, object] | None:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if any(line.startswith("|") for line in lines):
        grid = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        body = [row for row in grid if not all(re.fullmatch(r":?-{2,}:?", cell) for cell in row)]
        if len(body) < len(grid) and len(body) > 1:  # a rule under the first line makes it a header
            return [dict(zip(body[0], row, strict=False)) for row in body[1:]]
        return list(body)
    if len(lines) == 1:
        pairs = read_pairs(text)
        if pairs is not None:
            return dict(pairs)
        pieces = re.split(r"[,;]", plain(text))
        split = [_split_pair(piece) for piece in pieces]
        return [[key, value] for key, mark, value in split] if all(mark for _, mark, _ in split) else list(pieces)
    separator = next((mark for mark in ("\t", ";", ",", ":") if all(mark in line for line in lines)), None)
    return [[cell.strip() for cell in line.split(separator)] if separator else line for line in lines] or None


def _read_json(text: str) -> object | None:
    text = text.strip()
    if not text.startswith(("[", "{")):
        return None
    try:
        data = json.loads(text, parse_constant=str)
        json.dumps(data)  # what is too deep to be written is not read
        return data
    except (ValueError, RecursionError):
        return None
