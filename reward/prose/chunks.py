"""A sentence as chunks: places, things, relations and the few words that join them. Everything else is a word without a meaning here."""

from reward.prose.phrases import NounPhrase
from reward.prose.places import GRID, Size
from reward.prose.relations import Chunk, RelationReader
from reward.prose.words import (
    BE,
    BOTTOM,
    COLOURS,
    HOLD,
    LEFT,
    NEGATIONS,
    NUMBERS,
    ORDINALS,
    RIGHT,
    TOP,
    Word,
    listed,
    singular,
)

MARKS = frozenset([*",;:-–—().…!*=|/&+", "...", '"'])
JOINTS = listed("""and but so because since while whereas that which who where when then or though although hence therefore namely with
    as plus n giving making meaning given without instead like""")
_FILLERS = listed("""also too clearly again indeed really definitely certainly simply currently still already obviously visibly plainly
    finally lastly altogether somewhere anywhere""")
_LOOKING = listed("at for closer closely again carefully down back into over up once")
_OPERATORS = listed("+ - – * × x / =")
_NOTHING = listed("nothing nobody nowhere")
_EMPTINESS = listed("gap hole void blank nothing none empty")


class Chunker(RelationReader):
    """Reads the chunks of one sentence.

    Args:
        form: what the image is known to be, ``grid``, ``layout``, ``chart`` or ``other``. In a grid, ``on the left`` is a column; else it
            is the first of the things in order.
    """

    def __init__(self, words: list[Word], size: Size = GRID, form: str = "grid") -> None:
        super().__init__(words, size)
        self.grid, self.chart = form == "grid", form == "chart"
        self.line_named = ""  # "row" or "column", once a line was named

    def chunks(self) -> list[Chunk]:
        """The chunks of the sentence in order, without words that change nothing (``clearly``)."""
        found: list[Chunk] = []
        i = 0
        while i < len(self.words):
            if self.at(i) in _FILLERS and not self.words[i].quoted:
                i += 1
                continue
            chunk = self._chunk(i)
            found.append(chunk)
            i = chunk.end
        return found

    def _chunk(self, i: int) -> Chunk:
        word = self.at(i)
        if self.words[i].quoted:
            return Chunk("quoted", i, i + 1, word)
        if word in MARKS and word != "(":
            return Chunk("mark", i, i + 1, word)
        readers = (
            self._arithmetic,
            self._same,
            self._compare,
            self._relation,
            self._side,
            self._ordered,
            self._place,
            self._reference,
            self._digits,
            self._things,
        )
        for read in readers:
            chunk = read(i)
            if chunk is not None:
                return chunk
        if word in MARKS:
            return Chunk("mark", i, i + 1, word)
        for kind, words in (
            ("not", NEGATIONS | {"cannot", "neither", "nor", "lacks", "absent", "missing"}),
            ("joint", JOINTS),
        ):
            if word == "as" and "many" in self.texts[max(0, i - 4) : i + 2]:
                continue  # "as many stars as circles"
            if word in words:
                return Chunk(kind, i, i + 1, word)
        if word == "there" or word == "theres":
            return Chunk("there", i, i + 1)
        if word in ("look", "looks") and self.at(i + 1) in _LOOKING:
            return Chunk("word", i, i + 1, word)
        if word in BE:
            j = i + 1
            if word not in ("is", "are", "'s", "was", "were", "be"):
                j += 1 if self.at(j) == "like" else 2 if self.at(j) in ("to",) and self.at(j + 1) == "be" else 0
            return Chunk("be", i, j)
        if word in HOLD:
            return Chunk("have", i, i + 1, word)
        return Chunk("word", i, i + 1, word)

    def _arithmetic(self, i: int) -> Chunk | None:
        """``3 + 8 + 5 = 16``, which says nothing of an image; the last number stays outside if things follow (``= 7 shapes``)."""
        j = i
        while self.at(j).isdigit() and self.at(j + 1) in _OPERATORS and self.at(j + 2).isdigit():
            if self.words[j + 1].start == self.words[j].end and self.at(j + 1) == "-":
                break  # digits with hyphens between them
            j += 2
        if j == i:
            return None
        return Chunk("word", i, j if self._things_behind(j) else j + 1, "arithmetic")

    # Places

    def _place(self, i: int) -> Chunk | None:
        found = self.place(i) or self._line_left_out(i)
        if found is None:
            return None
        if found[0].startswith(("row", "column")):
            self.line_named = found[0].split()[0]
        if self.at(found[1]) == "'s":  # "the third row's first digit"
            line = self._inside(found[0], found[1] + 1)
            if line:
                return line._replace(start=i)
        return Chunk("place", i, found[1], found[0])

    def _line_left_out(self, i: int) -> tuple[str, int] | None:
        """``in the third`` behind ``in the second row``."""
        behind = self.at(i + 2)
        if (
            self.at(i) != "the"
            or not self.line_named
            or self.at(i - 1) not in ("in", "of")
            or (behind.isalpha() and behind not in JOINTS)
        ):
            return None
        number = self._row_number(i + 1) if self.line_named == "row" else self._column_number(i + 1)
        return (self.line_name(self.line_named, number), i + 2) if number is not None else None

    def _inside(self, line: str, i: int) -> Chunk | None:
        """``first digit`` behind ``row 3's``."""
        kind, _, name = line.partition(" ")
        if kind not in ("row", "column") or singular(self.at(i + 1)) not in (
            "digit",
            "cell",
            "shape",
            "entry",
            "number",
            "item",
            "thing",
        ):
            return None
        inside = self._column_number(i) if kind == "row" else self._row_number(i)
        if inside is None:
            return None
        row, column = (int(name), inside) if kind == "row" else (inside, ord(name) - ord("A") + 1)
        return Chunk("place", i, i + 2, self.cell_name(column, row))

    def _side(self, i: int) -> Chunk | None:
        """``at the bottom``, ``on the far left``, ``on top``: a row, a column, or the first and the last of a layout."""
        j = i
        if self.at(i) in ("at", "on", "in", "near", "across", "along", "from", "furthest", "farthest"):
            j = i + 1
            j += self.at(j) == "to"
            j += self.at(j) in ("the",)
        elif not (self.at(i) == "the" and self.at(i + 1) in ("very", "far", "extreme")):
            return None
        else:
            j = i + 1
        j = self.skip(j, {"very", "far", "extreme", "outer"})
        word, behind = self.at(j), self.at(j + 1)
        if j == i or word not in TOP | BOTTOM | LEFT | RIGHT or word in ("lower", "upper", "lowest"):
            return None
        k = j + 1
        k += behind in ("side", "edge", "end", "-") or (behind == "hand")
        if self.at(k) in LEFT | RIGHT | TOP | BOTTOM or singular(self.at(k)) in (
            "row",
            "column",
            "corner",
            "cell",
            "half",
            "one",
            "square",
            "middle",
            "centre",
            "bar",
            "shape",
            "digit",
        ):
            return None
        if self.at(k) == "to" and self.at(k + 1) in LEFT | RIGHT | TOP | BOTTOM | {"the"}:
            return None  # "from top to bottom"
        if self.at(k) == "of":
            after = self._of_image(k)
            if after == k:
                return None
            k = after
        if word in TOP | BOTTOM:
            return (
                Chunk("place", i, k, self.line_name("row", 1 if word in TOP else self.rows))
                if self.grid
                else Chunk("word", i, k)
            )
        if not self.grid:
            return Chunk("place", i, k, "position 1" if word in LEFT else "rightmost")
        return Chunk("place", i, k, self.line_name("column", 1 if word in LEFT else self.columns))

    def _ordered(self, i: int) -> Chunk | None:
        """``the second thing from the left``, ``the leftmost bar``."""
        j = i + (self.at(i) == "the")
        number = ORDINALS.get(self.at(j)) or (
            1 if self.at(j) == "leftmost" else -1 if self.at(j) in ("rightmost", "last") else 0
        )
        if not number:
            return None
        k = j + 1
        noun = singular(self.at(k))
        k += noun in ("bar", "thing", "shape", "object", "item", "one", "figure", "symbol")
        if (
            self.at(k) == "from"
            and self.at(k + 1) == "the"
            and self.at(k + 2) in ("left", "right")
            and self.at(j) not in ("leftmost", "rightmost")
        ):
            if self.at(k + 2) == "left":
                return Chunk("place", i, k + 3, f"position {number}")
            return Chunk("place", i, k + 3, "rightmost") if number == 1 else None
        if (
            not self.grid
            and (self.at(j) in ("leftmost", "rightmost", "last") or k > j + 1)
            and (k > j + 1 or not self.at(k).isalpha() or self.at(k) in BE | {"a", "an"})
        ):
            return Chunk("place", i, k, f"position {number}" if number > 0 else "rightmost")
        return None

    # Things

    def _reference(self, i: int) -> Chunk | None:
        """A pronoun, or ``of them``."""
        word = self.at(i)
        if word in ("of", "among") and self.at(i + 1) in ("them", "these", "those", "which", "it"):
            return Chunk("of", i, i + 2)
        if word in ("it", "they", "them", "both", "whose"):
            return Chunk("refer", i, i + 1, word) if word != "both" or self._both_stands_alone(i) else None
        if word in ("that", "this", "the", "whole") and self.at(i + 1) == "one" and not self._things(i):
            return Chunk("refer", i, i + 2, "one")
        if word in ("that", "this", "those", "these") and (self.at(i + 1) in BE or self.at(i + 1) in HOLD):
            return Chunk("refer", i, i + 1, word)
        if word == "another" and not self._things(i):
            return Chunk("refer", i, i + 1, "another")
        return None

    def _things(self, i: int) -> Chunk | None:
        word = self.at(i)
        if word in ("spot", "count", "place", "mark") and self.at(i - 1) in ("i", "we", "you", "can", "also"):
            return None  # a verb
        if word in _NOTHING or (word == "none" and self.at(i + 1) not in ("of",)):
            return Chunk("things", i, i + 1, "nothing", NounPhrase(i, i + 1, empty=True))
        if (
            word in ("a", "one", "another")
            and self.at(i + 1) in _EMPTINESS
            and singular(self.at(i + 2)) not in ("cell", "spot", "space", "slot", "place", "square", "position")
        ):
            return Chunk("things", i, i + 2, "nothing", NounPhrase(i, i + 2, empty=True))
        found = self.phrase(i, behind=False)
        if found is None or found.named or found.end == i:
            return None
        if found.refers:
            if found.number is None:
                return Chunk("refer", i, found.end, "it")
            if self._digits(i):
                return None
            return Chunk("things", i, found.end, "number", found)
        if found.noun == "digit" and found.digit and not found.quantity and found.number is None and found.end == i + 1:
            return None
        return Chunk("things", i, found.end, found.description, found)

    def _digits(self, i: int) -> Chunk | None:
        """``4 7 1``; ``five, one, one``; ``3, 8 and 4``."""
        values: list[str] = []
        j = i
        spaced = None
        while len(values) < 12:
            value = self._number(j)
            if value is None or (values and value > 99):
                break
            if singular(self.at(j + 1)) not in ("s",) and values and self._things_behind(j):
                break
            values.append(str(value))
            end = j + 1
            k = end + (self.at(end) in (",", "-"))
            if spaced and k > end:
                break
            k += self.at(k) in ("and", "then")
            spaced = spaced or k == end
            j = k
        figures = (
            {self.at(place).isdigit() for place in range(i, end) if self._number(place) is not None}
            if values
            else set()
        )
        if len(values) < 2 or len(figures) > 1 or any(len(value) > 2 for value in values):
            return None  # "three 4s" are no two digits
        return Chunk("digits", i, end, " ".join(values), items=tuple(values))

    def _both_stands_alone(self, i: int) -> bool:
        """``both are red``, ``both red``, but not ``both red shapes``."""
        if self.at(i + 1) in COLOURS:
            return not self.at(i + 2).isalpha()
        return self.at(i + 1) in BE | {"of", "have", "hold", "share", ",", "."}

    def _things_behind(self, i: int) -> bool:
        found = self._head(i)
        return found is not None and not found.refers


def value_in_words(word: str) -> int | None:
    """The value of a number word or of figures."""
    if word in NUMBERS:
        return NUMBERS[word]
    return int(word) if word.isdigit() and len(word) <= 4 else None
