"""Tables: JSON (rows, records, columns or an object), Markdown, LaTeX, or lines of separated cells.

The first cell of a row names the row and the header names the column, so neither the order of rows nor, with a header, that of
columns counts.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reward.notation import MAX_CELLS, cell_name, open_brackets, read_json, undress
from reward.phrases import changes_answer, is_head, strip_frame
from reward.structures import LOOSE_MARK, raw_pairs, raw_sequence, tells_pairs

Cells = list[tuple[str, str, str]]

_RULE = re.compile(r":?-+:?")
_ROW_LABEL = re.compile(r"(?:(?:row|line|r|zeile|ligne|rang|fila|linha|行|第) ?)?(\d{1,3}) ?行?")


@dataclass(frozen=True)
class Grid:
    """Rows of canonical cells. ``header``: the names of the columns, if it is known which they are.

    ``labelled``: the first cell of each row is known to be its name (pairs, an object, or a table with a header).
    """

    rows: list[list[str]]
    header: list[str] | None = None
    labelled: bool = False

    def cells(self) -> Cells:
        """The table as (row, column, value); a table of one column has nameless rows."""
        width = max(len(row) for row in self.rows)
        if width == 1:
            return [("", "", cell) for row in self.rows for cell in row][:MAX_CELLS]
        # Without a header, two columns are names and values, and more are numbered.
        names = self.header or (["", ""] if width == 2 else [str(index) for index in range(width)])
        found: Cells = []
        for row in self.rows:
            # A cell without a column, and a name without cells, are cells too: what is added makes another table.
            found += [
                (row[0], name, cell)
                for name, cell in zip([*names[1:], *[""] * len(row)], row[1:] or [""], strict=False)
            ]
        return found[:MAX_CELLS]

    def in_order_of(self, header: Sequence[str] | None) -> "Grid":
        """The same table with its columns in the order of ``header``, if it has those; a first row of these names is a header."""
        if not header or len(header) < 2 or not self.rows:
            return self
        names, rows = (self.header, self.rows) if self.header else (self.rows[0], self.rows[1:])
        names = names if names[0] else [header[0], *names[1:]]  # an empty corner
        if sorted(names) != sorted(header) or len(set(names)) < len(names) or not rows:
            return self
        order = [names.index(name) for name in header]
        rows = [[row[index] for index in order if index < len(row)] + row[len(order) :] for row in rows]
        return Grid(rows, list(header), True)

    def whole(self) -> list[list[str]]:
        """All rows, the header first."""
        return [self.header, *self.rows] if self.header else self.rows

    def transposed(self) -> "Grid | None":
        """Rows as columns; None for a table whose rows differ in length."""
        whole = self.whole()
        if len(whole) < 2 or len({len(row) for row in whole}) > 1:
            return None
        return Grid([list(column) for column in zip(*whole, strict=True)])


def read_table(text: str) -> Grid | None:
    """The table in a text, or None."""
    data = read_json(text)
    if data is None:
        return _read_lines(text)
    if isinstance(data, dict) and len(data) > 1 and all(isinstance(value, dict) for value in data.values()):
        data = [{"": key, **value} for key, value in data.items()]
    if isinstance(data, dict):
        rows = [[key, *value] if isinstance(value, list) else [key, value] for key, value in data.items()]
        return _grid(rows, labelled=True)
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(row, dict) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return _grid([keys, *([row.get(key) for key in keys] for row in data)], has_header=True)
    return _grid([row if isinstance(row, list) else [row] for row in data])


def _grid(rows: Sequence[Sequence[object]], has_header: bool = False, labelled: bool = False) -> Grid | None:
    named = [[cell_name(cell) for cell in row] for row in rows if row]
    if len(named) <= has_header:
        return None
    return Grid(named[1:], named[0], True) if has_header else Grid(named, None, labelled)


def _read_lines(text: str) -> Grid | None:
    lines = undress(re.sub(r"(?<=\S) {2,}(?=\S)", "\t", text)).splitlines()
    while len(lines) > 2 and (lines[0].startswith("#") or (lines[0].endswith(":") and "|" not in lines[0])):
        if changes_answer(lines[0]):
            return None
        lines = lines[1:]  # "The table:"
    if not lines:
        return None
    if any(line.startswith("|") for line in lines) or all("|" in line and ":" not in line for line in lines):
        grid = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        body = [row for index, row in enumerate(grid) if index != 1 or not all(map(_RULE.fullmatch, row))]
        return _grid(body, has_header=len(body) < len(grid) and len(body) > 1)  # a rule makes the first line a header
    text = "\n".join(lines)
    for candidate in dict.fromkeys((strip_frame(text), text)):
        if pairs := raw_pairs(candidate):
            return _grid(pairs, labelled=True)
    if len(lines) == 1 and ";" in text and "," in text and not re.search(r"[(\[{]", text):
        lines = text.split(";")  # "1, 2; 3, 4"
    if len(lines) == 1:
        return _grid([[item] for item in raw_sequence(strip_frame(open_brackets(text)))])
    separator = next((mark for mark in ("\t", ";", ",", ":") if all(mark in line for line in lines)), None)
    if separator is None:
        return _grid([[line] for line in lines])
    return _grid(list(csv.reader(lines, delimiter=separator, skipinitialspace=True)))


def same_table(got: Grid, want: Grid) -> bool:
    """Whether two tables say the same in notations that differ: transposed, with labels for numbered rows, with or without a header."""
    if want.header:
        for one in (got, got.transposed()):
            ordered = one and one.in_order_of(want.header)
            if (
                ordered
                and ordered.header == want.header
                and Counter(map(tuple, ordered.rows)) == Counter(map(tuple, want.rows))
            ):
                return True
        return got.header is None and _by_name(got.rows) == _by_name(want.rows)
    if _numbered_rows(got, want):
        return True
    if not want.labelled:
        return False
    if not got.header and is_head(got.rows[0]) and len(got.rows) > 1:
        got = Grid(got.rows[1:])
    turned = got.transposed() if len(got.whole()) == 2 else None
    return any(one is not None and _by_name(one.rows) == _by_name(want.rows) for one in (got, turned))


def tells_table(text: str, want: Grid) -> bool:
    """Whether a text names each row of a table with its cells and says nothing else: ``A has 3 and B has 5``."""
    rows = {row[0]: " ".join(row[1:]) for row in want.rows}
    if not want.labelled or len(rows) < len(want.rows):
        return False
    loose = _grid(raw_pairs(text, LOOSE_MARK) or [])
    return (loose is not None and _by_name(loose.rows) == _by_name(want.rows)) or tells_pairs(text, rows)


def _by_name(rows: list[list[str]]) -> Counter[tuple[str, str]]:
    return Counter((row[0], " ".join(row[1:])) for row in rows)


def _numbered_rows(got: Grid, want: Grid) -> bool:
    """Whether ``want`` has the labels "row 1" to "row n" and ``got`` the same rows, labelled in any way or in this order."""
    numbers = [None if row[0].isdigit() else _ROW_LABEL.fullmatch(row[0]) for row in want.rows]
    wanted = {int(match[1]): " ".join(row[1:]) for match, row in zip(numbers, want.rows, strict=True) if match}
    if not want.labelled or sorted(wanted) != list(range(1, len(want.rows) + 1)):
        return False
    values = [wanted[number] for number in sorted(wanted)]
    if [" ".join(row) for row in got.whole()] == values:
        return True
    labels = [_ROW_LABEL.fullmatch(row[0]) for row in got.rows]
    found = [(int(match[1]), " ".join(row[1:])) for match, row in zip(labels, got.rows, strict=True) if match]
    return len(found) == len(got.rows) and sorted(found) == sorted(wanted.items())
