"""Places in words (``the top-left corner``, ``second row, third cell``) as they are named in facts: ``A1``, ``C2``, ``row 2``.

A reader stands at a token and either reads a phrase or returns None. All look-ahead is bounded, so that reading a text takes
linear time.
"""

from collections.abc import Sequence

from reward.prose.words import (
    BE,
    BOTTOM,
    CELLS,
    COLOURS,
    DIGITS,
    HOLD,
    IMAGE,
    LEFT,
    MIDDLE,
    NUMBERS,
    ORDINALS,
    READ,
    RIGHT,
    SHAPES,
    THINGS,
    TOP,
    Word,
    singular,
)

Size = tuple[int, int]
"""(columns, rows) of a grid."""
GRID: Size = (3, 3)


class PlaceReader:
    """Reads places from the tokens of one sentence; knows how the places of a grid lie.

    Args:
        size: (columns, rows) of the grid that ``the last row`` refers to.
    """

    def __init__(self, words: Sequence[Word], size: Size = GRID) -> None:
        self.words = words
        self.texts = [word.text for word in words]
        self.columns, self.rows = size

    def at(self, place: int) -> str:
        """The token at a place; empty behind the end."""
        return self.texts[place] if 0 <= place < len(self.texts) else ""

    def skip(self, place: int, chosen: frozenset[str] | set[str]) -> int:
        """The next place whose token is not one of ``chosen``."""
        while self.at(place) in chosen and self.at(place):
            place += 1
        return place

    def place(self, i: int) -> tuple[str, int] | None:
        """A place of a grid or a row of things, with or without its article."""
        i += self.at(i) in ("the", "its")
        i += self.at(i) in ("whole", "entire", "complete")
        for read in (self._cell, self._line, self._corner, self._part_of_line, self._middle):
            found = read(i)
            if found:
                name, j = found
                return name, self._of_image(j)
        return None

    def _of_image(self, j: int) -> int:
        """Behind ``of the grid``."""
        k = j + 1
        if self.at(j) in ("of", "in"):
            k += self.at(k) in ("the", "this")
            k += self.at(k) in ("whole", "3x3")
            if self.at(k) in IMAGE:
                return k + 1
        return j

    def _cell(self, i: int) -> tuple[str, int] | None:
        j = i + (self.at(i) in CELLS or self.at(i) in ("square", "grid"))
        j += self.at(j) in CELLS
        name = self.at(j)
        if len(name) == 2 and name[0].isalpha() and name[1].isdigit() and not self.words[j].quoted:
            j += 1
            return name.upper(), j + (self.at(j) in CELLS or (self.at(j) == "square" and self.at(i) == name))
        return None

    def _row_number(self, i: int) -> int | None:
        return self._index(self.at(i), TOP, BOTTOM, self.rows)

    def _column_number(self, i: int) -> int | None:
        return self._index(self.at(i), LEFT, RIGHT, self.columns)

    @staticmethod
    def _index(word: str, first: frozenset[str], last: frozenset[str], count: int) -> int | None:
        if word in first:
            return 1
        if word in last or word in ("last", "final"):
            return count
        if word in MIDDLE:
            return (count + 1) // 2
        return ORDINALS.get(word)

    def _line(self, i: int) -> tuple[str, int] | None:
        """``row 2``, ``the top row``, ``column A``; with the other one behind it, a cell: ``second row, third cell``."""
        line, j = self._bare_line(i)
        if not line:
            return None
        kind, number = line
        k = j + (self.at(j) in (",", "'s"))
        k += self.at(k) == "the"
        other, after = self._bare_line(k)
        if not other:
            inside = self._column_number(k) if kind == "row" else self._row_number(k)
            if inside is not None and (self.at(k + 1) in CELLS or self.at(k + 1) in ("square", "one")):
                other, after = ("column" if kind == "row" else "row", inside), k + 2
            elif inside is not None and self.at(k) in MIDDLE and self.at(j) == ",":
                other, after = ("column" if kind == "row" else "row", inside), k + 1
        if other and other[0] != kind and (self.at(j) == "," or self.at(j) == "'s" or k == j):
            row, column = (number, other[1]) if kind == "row" else (other[1], number)
            return self.cell_name(column, row), after
        return self.line_name(kind, number), j

    def _bare_line(self, i: int) -> tuple[tuple[str, int] | None, int]:
        word, behind = self.at(i), self.at(i + 1)
        if word in ("row", "line"):
            k = i + 1 + (behind in ("number", "#", "no"))
            number = NUMBERS.get(self.at(k), int(self.at(k)) if self.at(k).isdigit() else None)
            return (("row", number), k + 1) if number is not None and number < 100 else (None, i)
        if word in ("column", "col"):
            k = i + 1 + (behind in ("number", "#", "no"))
            name = self.at(k)
            if len(name) == 1 and name.isalpha() and (name != "a" or self._is_letter(k)):
                return ("column", ord(name) - ord("a") + 1), k + 1
            number = NUMBERS.get(name, int(name) if name.isdigit() else None)
            return (("column", number), k + 1) if number is not None and number < 27 else (None, i)
        k = i + 1 + (behind in ("-", "most", "hand"))
        k += self.at(k) in ("-", "most", "hand")
        if self.at(k) == "row" and (number := self._row_number(i)) is not None:
            return ("row", number), k + 1
        if self.at(k) in ("column", "col") and (number := self._column_number(i)) is not None:
            return ("column", number), k + 1
        return None, i

    def _is_letter(self, i: int) -> bool:
        """Whether ``a`` is the name of a column here, and no article."""
        word, behind = self.words[i], self.at(i + 1)
        if word.end - word.start > 1 or word.capital:
            return word.capital
        spoken = BE | HOLD | READ | {"and", "from", "only", "the"}
        return behind in spoken or not behind.isalpha() or behind.endswith("s")

    def _corner(self, i: int) -> tuple[str, int] | None:
        """``top-left corner``, ``bottom middle cell``, ``middle left``."""
        for across in (False, True):
            j = i + 1 + (self.at(i + 1) == "-")
            first, second = self.at(i), self.at(j)
            vertical, horizontal = (second, first) if across else (first, second)
            sides = vertical in TOP | BOTTOM | MIDDLE and horizontal in LEFT | RIGHT | MIDDLE
            if (
                not sides
                or (across and vertical not in MIDDLE and horizontal not in MIDDLE)
                or (vertical in MIDDLE and horizontal in MIDDLE)
            ):
                continue
            row = self._index(vertical, TOP, BOTTOM, self.rows)
            column = self._index(horizontal, LEFT, RIGHT, self.columns)
            assert row is not None and column is not None
            j += 1
            j += self.at(j) == "-"
            j += self.at(j) == "hand"
            if self.at(j) in ("row", "column", "of") and not (self.at(j) == "of" and self._of_image(j) > j):
                return None
            return self.cell_name(column, row), j + (self.at(j) in CELLS or self.at(j) in ("square", "one"))
        return None

    def _part_of_line(self, i: int) -> tuple[str, int] | None:
        """``the third cell of row 2``, ``the middle of the top row``, ``the left end of row 1``, ``the top of column A``."""
        j = i + 1
        j += self.at(j) in ("-", "hand")
        j += singular(self.at(j)) in CELLS | DIGITS | THINGS or self.at(j) in ("square", "end", "most")
        if self.at(j) not in ("of", "in"):
            return None
        j += 1
        j += self.at(j) in ("the", "that")
        line, after = self._bare_line(j)
        if not line:
            return None
        kind, number = line
        word = {"start": "first", "beginning": "first", "end": "last"}.get(self.at(i), self.at(i))
        inside = self._index(
            word,
            LEFT if kind == "row" else TOP,
            RIGHT if kind == "row" else BOTTOM,
            self.columns if kind == "row" else self.rows,
        )
        if inside is None:
            return None
        column, row = (inside, number) if kind == "row" else (number, inside)
        return self.cell_name(column, row), after

    def _middle(self, i: int) -> tuple[str, int] | None:
        """``the centre``, ``the middle cell``."""
        if self.at(i) not in MIDDLE:
            return None
        j = i + 1
        j += self.at(j) in ("most",)
        named = self.at(j) in CELLS or self.at(j) in ("square", "one")
        if not named and (
            self.at(j) in THINGS
            or self.at(j) in COLOURS
            or singular(self.at(j)) in SHAPES
            or self.at(j) in ("bar", "bars", "digit", "row", "column")
        ):
            return None
        return self.cell_name((self.columns + 1) // 2, (self.rows + 1) // 2), j + named

    def cell_name(self, column: int, row: int) -> str:
        """``B2``."""
        return f"{chr(ord('A') + column - 1)}{row}"

    def line_name(self, kind: str, number: int) -> str:
        """``row 2``, ``column A``."""
        return f"row {number}" if kind == "row" else f"column {chr(ord('A') + number - 1)}"

    # How places lie

    def middle_cell(self) -> str:
        """``B2``."""
        return self.cell_name((self.columns + 1) // 2, (self.rows + 1) // 2)

    def middle_line(self, kind: str) -> str:
        """``row 2`` or ``column B``."""
        return self.line_name(kind, ((self.rows if kind == "row" else self.columns) + 1) // 2)

    def end_of(self, line: str, last: bool) -> str:
        """The first or the last cell of a row or column."""
        kind, _, name = line.partition(" ")
        if kind == "row":
            return self.cell_name(self.columns if last else 1, int(name))
        return f"{name}{self.rows if last else 1}"

    def after(self, place: str) -> str:
        """The cell to the right, or the next position; empty behind the last one."""
        if place.startswith("position "):
            return f"position {int(place.split()[1]) + 1}"
        column = ord(place[0]) - ord("A") + 2 if len(place) == 2 else 0
        return self.cell_name(column, int(place[1])) if 1 < column <= self.columns else ""

    @staticmethod
    def is_in(cell: str, line: str) -> bool:
        """Whether a cell lies in a row or column: ``A2`` in ``row 2``."""
        return len(cell) == 2 and line in (f"row {cell[1]}", f"column {cell[0]}")

    def joined(self, first: str, second: str) -> str:
        """``in the middle``, ``at the top`` -> ``B1``; a row and a column -> their cell; empty for others."""
        for middle, line in ((first, second), (second, first)):
            if middle == self.middle_cell() and line.startswith("row "):
                return self.cell_name((self.columns + 1) // 2, int(line[4:]))
            if middle == self.middle_cell() and line.startswith("column "):
                return f"{line[7:]}{(self.rows + 1) // 2}"
        for row, column in ((first, second), (second, first)):
            if row.startswith("row ") and column.startswith("column "):
                return f"{column[7:]}{row[4:]}"
        return ""

    def beside(self, place: str, relation: str) -> str:
        """The place next to another one: ``B2``, ``right of`` -> ``C2``; empty if there is none."""
        across, down = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}.get(
            relation.removeprefix("directly "), (0, 0)
        )
        if (across, down) == (0, 0) or not place:
            return ""
        if len(place) == 2:
            column, row = ord(place[0]) - ord("A") + 1 + across, int(place[1]) + down
            inside = 1 <= column <= self.columns and 1 <= row <= self.rows
            return self.cell_name(column, row) if inside else ""
        kind, _, name = place.partition(" ")
        if kind == "row" and down and 1 <= int(name) + down <= self.rows:
            return f"row {int(name) + down}"
        if kind == "column" and across and 1 <= ord(name) - ord("A") + 1 + across <= self.columns:
            return f"column {chr(ord(name) + across)}"
        return ""
