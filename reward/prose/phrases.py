"""Descriptions of things in words: ``three red stars in row 2``, ``the blue one``, ``an empty cell``."""

from dataclasses import dataclass, replace

from reward.prose.places import PlaceReader
from reward.prose.words import (
    ABSTRACT,
    BE,
    CELLS,
    COLOURS,
    DIGITS,
    HOLD,
    IMAGE,
    LEFT,
    NEGATIONS,
    NUMBERS,
    READ,
    RELATIONS,
    RIGHT,
    SHAPES,
    STAND,
    THINGS,
    listed,
    singular,
)

_LONGEST = 6  # words between an article and the head of a phrase
_HIGH = listed("tallest highest biggest largest longest greatest")
_LOW = listed("shortest smallest lowest")
_SIZES = listed("small big large tiny little huge medium tall short wide")
_EMPTY = listed("empty blank vacant unoccupied bare")
_BOUNDS = {
    ("at", "least"): "at least ",
    ("at", "most"): "at most ",
    ("more", "than"): "more than ",
    ("fewer", "than"): "fewer than ",
    ("less", "than"): "fewer than ",
    ("no", "more", "than"): "at most ",
    ("no", "fewer", "than"): "at least ",
    ("a", "total", "of"): "",
    ("exactly",): "",
    ("only",): "",
    ("just",): "",
    ("precisely",): "",
}
_GROUPS = {("a", "pair", "of"): 2, ("a", "couple", "of"): 2, ("a", "trio", "of"): 3, ("a", "triplet", "of"): 3}
_QUANTITIES = {
    **dict.fromkeys(("a", "an", "another", "some"), "a"),
    **dict.fromkeys(("the", "this", "that", "these", "those", "its", "their", "remaining"), "the"),
    **dict.fromkeys(("all", "every", "each", "any"), "all"),
    **dict.fromkeys(("no", "none"), "no"),
    "both": "both",
    "several": "several",
    "many": "several",
    "multiple": "several",
}
_CLOSED = listed("""a an the and or but nor so because since while whereas as than then there here it they them this that these those
    i we you he she who which what where when how why in on at of to from with without by for into onto across along
    around up down off out is are do does did can cannot will would could may might must should not no if whether also only
    just both neither either each every all any some none again very too more most less fewer same different other such
    exactly now still already s m re ve ll d n t anywhere somewhere visible present altogether together overall""")
_LIMITS = (
    _CLOSED | BE | HOLD | STAND | READ | NEGATIONS | frozenset(one.split()[0] for one in RELATIONS) - {"left", "right"}
)


@dataclass(frozen=True)
class NounPhrase:
    """A description of things.

    Attributes:
        start, end: its tokens [start, end).
        quantity: ``a``, ``the``, ``all``, ``no``, ``both``, ``several``, or empty.
        number: how many, if a number is said; ``bound`` in front of it (``at least ``).
        colour, shape, digit, size: what is said of the things; ``empty`` for an empty place.
        noun: ``shape`` (anything drawn), ``cell``, ``digit``, ``bar``, ``row``, ``column``, ``colour``, or a noun outside of these lists.
        places: where they are: ``B2``, ``row 2``, ``column A``, ``position 1``, ``rightmost``; as a head or behind it.
        named: the phrase is a place itself (``the top-left corner``), not a thing in it.
        order: ``highest`` or ``lowest``, of bars.
        refers: a pronoun, or ``ones``: what it stands for was said before.
        plural: the head is a plural.
    """

    start: int
    end: int
    quantity: str = ""
    number: int | None = None
    bound: str = ""
    colour: str = ""
    shape: str = ""
    digit: str = ""
    size: str = ""
    empty: bool = False
    noun: str = ""
    places: tuple[str, ...] = ()
    named: bool = False
    order: str = ""
    refers: bool = False
    plural: bool = False

    @property
    def description(self) -> str:
        """The things in words: ``red star``, ``red``, ``digit 7``, ``empty cell``, ``shape`` (anything)."""
        if self.empty:
            return "empty cell"
        if self.digit:
            return f"digit {self.digit}"
        words = [self.order, self.size, self.colour, self.shape]
        if self.noun and not (self.shape or (self.noun in ("shape", "cell") and (self.colour or self.order))):
            words.append(self.noun)
        return " ".join(word for word in words if word)

    @property
    def content(self) -> str:
        """The things as what a place holds: ``none``, ``7``, ``red star``; ``occupied`` for anything."""
        if self.empty:
            return "none"
        if self.digit:
            return self.digit
        return "occupied" if self.description in ("shape", "digit") else self.description

    @property
    def known(self) -> bool:
        """Whether it is described by more than a noun outside of the lists."""
        return bool(self.colour or self.shape or self.digit or self.empty or self.order) or self.noun in (
            "shape",
            "bar",
            "digit",
            "cell",
        )


class PhraseReader(PlaceReader):
    """Reads descriptions of things from the tokens of one sentence."""

    def phrase(self, i: int, behind: bool = True) -> NounPhrase | None:
        """A description of things or a place, with what stands behind it (``in row 2``) if ``behind``."""
        found = self._head(i)
        if found is None or not behind or found.refers:
            return found
        place = self.located(found.end)
        if place and not found.named:
            return replace(found, places=(place[0],), end=place[1])
        return found

    def located(self, i: int) -> tuple[str, int] | None:
        """``in the second row``, ``at B2``, ``(B2)``."""
        if self.at(i) == "(":
            found = self.place(i + 1)
            return (found[0], found[1] + 1) if found and self.at(found[1]) == ")" else None
        j = i
        if self.at(j) == "down" or self.at(j) == "up" or self.at(j) == "over":
            j += 1
        if self.at(j) in ("that", "which") and self.at(j + 1) in BE:
            j += 2
        j = (
            self.skip(j, {"located", "placed", "sitting", "found", "positioned", "lying", "right", "there"})
            if j == i
            else j
        )
        if self.at(j) not in (
            "in",
            "at",
            "on",
            "of",
            "inside",
            "within",
            "from",
            "along",
            "across",
            "for",
            "occupying",
            "to",
        ):
            return None
        return self.place(j + 1)

    def _quantity(self, i: int) -> tuple[str, int | None, str, int]:
        """(quantity, number, bound, place behind them)."""
        quantity, number, bound = "", None, ""
        group = _GROUPS.get(tuple(self.texts[i : i + 3]))  # type: ignore[arg-type]
        if group:
            number, i = group, i + 3
        for _ in range(4):
            for words, meant in _BOUNDS.items():
                if tuple(self.texts[i : i + len(words)]) == words:
                    bound, i = meant or bound, i + len(words)
                    break
            else:
                word = self.at(i)
                if word in _QUANTITIES:
                    quantity, i = quantity or _QUANTITIES[word], i + 1
                elif word in ("one", "single", "only") and quantity in ("a", "the", "all") and number is None:
                    i += 1
                    if word == "single" or (word == "one" and self.at(i).isdigit()):
                        number = 1
                elif (value := self._number(i)) is not None and number is None and self.at(i + 1) not in (")",):
                    number, i = value, i + 1
                else:
                    break
                if self.at(i) == "of" and self.at(i + 1) in ("the", "these", "those", "its"):
                    i += 2  # "two of the stars", "five of the nine digits"
                    i += self._number(i) is not None and self.at(i + 1).isalpha()
                elif self.at(i) in ("distinct", "other", "more", "additional", "separate") and number is not None:
                    i += 1
        return quantity, number, bound, i

    def _number(self, i: int) -> int | None:
        word = self.at(i)
        if word in NUMBERS:
            return NUMBERS[word]
        return int(word) if word.isdigit() and len(word) <= 3 else None

    def _head(self, i: int) -> NounPhrase | None:
        start = i
        quantity, number, bound, i = self._quantity(i)
        if number is not None and number < 10 and self.at(i) == "s" and self.words[i].start == self.words[i - 1].end:
            return NounPhrase(start, i + 1, quantity, noun="digit", digit=str(number), plural=True)  # "2s"
        if self.at(i) in ("it", "they", "them") and i == start:
            return NounPhrase(start, i + 1, refers=True)
        if quantity in ("", "the", "both", "all", "no") and number is None and (place := self.place(i)):
            return NounPhrase(start, place[1], quantity=quantity, places=(place[0],), named=True)
        found: dict[str, object] = {}
        nouns: list[str] = []
        plural = False
        for _ in range(_LONGEST):
            word, one = self.at(i), singular(self.at(i))
            if word == "corners":
                return None  # four places, and no word for one of them
            if self.words[i].quoted if i < len(self.words) else True:
                break
            if "shape" in found or "noun" in found:
                if "shape" in found and one in ("shape", "shaped", "symbol", "icon", "one", "figure", "object", "mark"):
                    plural = word != one
                    i += 1
                elif word == "-" and self.at(i + 1) == "shaped":
                    i += 2
                    if singular(self.at(i)) in THINGS:
                        plural, i = self.at(i) != singular(self.at(i)), i + 1
                break
            if word in COLOURS and "colour" not in found:
                found["colour"] = word
            elif word in _SIZES:
                found["size"] = word
            elif word in _EMPTY:
                found["empty"] = True
            elif word in _HIGH | _LOW:
                found["order"] = "highest" if word in _HIGH else "lowest"
            elif word in ("leftmost", "rightmost") or (
                word in ("left", "right") and self.at(i + 1) in ("most", "-") and self.at(i + 2) not in LEFT | RIGHT
            ):
                found["places"] = ("position 1" if word.startswith("left") else "rightmost",)
                i += 1 if self.at(i + 1) == "most" else 2 if self.at(i + 1) == "-" else 0
            elif word in ("-", ",") and self.at(i + 1) in COLOURS | SHAPES and set(found) == {"size"}:
                pass
            elif one in ("kind", "type", "sort", "different") and (kind := self._kind(i)):
                found["noun"], i, plural = kind[0], kind[1] - 1, True
            elif one in SHAPES:
                found["shape"], plural = one, word != one and word in (f"{one}s", f"{one}es")
            elif one in DIGITS:
                found["noun"], plural = "digit", word != one
                if self._number(i + 1) is not None and not plural and self.at(i + 2) not in ("and",):
                    found["digit"] = str(self._number(i + 1))
                    i += 1
            elif one in ("bar", "row", "column"):
                found["noun"], plural = one, word != one
            elif one in ("colour", "color"):
                found["noun"], plural = "colour", word != one
            elif one in CELLS:
                found["noun"], plural = "cell", word != one
            elif one in THINGS:
                found["noun"], plural = "shape", word != one
            elif (value := _plural_digit(word)) is not None:
                found["digit"], found["noun"], plural = str(value), "digit", True
            elif self._number(i) is not None and not found and self._is_digit(i, quantity, number):
                found["digit"], found["noun"] = str(self._number(i)), "digit"
                if self.at(i + 1) == "s" or (self.at(i + 1) == "'s" and number is not None):
                    i, plural = i + 1, True
            elif (
                word.isalpha()
                and word not in _LIMITS
                and word not in IMAGE
                and len(nouns) < 3
                and not found.get("empty")
                and (quantity or number is not None)
                and not (quantity == "a" and number is not None)
                and not (self.at(start) in ("that", "this") and i == start + 1 and word not in ("whole", "entire"))
                and "colour" not in found
            ):
                nouns.append(word)
            else:
                break
            i += 1
        if "shape" in found and self.at(i) == "-" and self.at(i + 1) == "shaped":
            i += 2
        if nouns and not ("shape" in found or "noun" in found):
            found["noun"], plural = " ".join([*nouns[:-1], singular(nouns[-1])]), nouns[-1] != singular(nouns[-1])
        if not found:
            if number is not None and quantity in ("a", "the", "no") and number < 10 and not bound:
                return NounPhrase(start, i, quantity, noun="digit", digit=str(number))  # "an eight"
            if number is not None:  # "I count three": of what was said last
                return NounPhrase(start, i, quantity, number, bound, refers=True)
            return None
        if found.get("empty"):
            found.pop("noun", None)
        return NounPhrase(start, i, quantity, number, bound, plural=plural, **found)  # type: ignore[arg-type]

    def _kind(self, i: int) -> tuple[str, int] | None:
        """``kinds of shape``, ``different colours``."""
        j = i + 1 + (self.at(i + 1) == "of")
        if j == i + 1 and self.at(i) != "different":
            return None
        noun = singular(self.at(j))
        name = {"shape": "kind of shape", "object": "kind of shape", "colour": "colour", "color": "colour"}.get(noun)
        return (name, j + 1) if name else None

    def _is_digit(self, i: int, quantity: str, number: int | None) -> bool:
        """Whether a number is a thing here: ``a 7``, ``the one 5``, ``three 4s``."""
        plural = self.at(i + 1) == "s" or (self.at(i + 1) == "'s" and number is not None)
        return (
            plural
            or quantity in ("a", "the", "no", "all")
            or (number == 1 and self.at(i).isdigit() and self.at(i - 1) == "one")
        )


_PLURAL_DIGITS = {
    **{
        f"{word}s": value
        for word, value in NUMBERS.items()
        if value < 10 and word not in ("one", "single", "six", "nought")
    },
    "sixes": 6,
    "zeroes": 0,
}


def _plural_digit(word: str) -> int | None:
    return _PLURAL_DIGITS.get(word)


def is_abstract(phrase: NounPhrase) -> bool:
    """Whether a phrase is about the task, not about the image."""
    return phrase.noun.split()[-1:] != [] and phrase.noun.split()[-1] in ABSTRACT


def value_of(said: NounPhrase, subject: NounPhrase) -> str:
    """What a predicate adds to its subject: a colour, a shape, a size, a height."""
    if said.refers and said.number is not None:
        return str(said.number)
    if said.digit:
        return said.digit
    if said.size and not (said.colour or said.shape):
        return said.size
    if said.shape and said.shape != subject.shape:
        return said.description
    return said.colour or said.size


def joined_description(subject: NounPhrase, said: NounPhrase) -> str:
    """``two stars are red`` -> ``red star``."""
    colour = subject.colour or said.colour
    shape = subject.shape or said.shape
    if subject.noun == "digit" and said.digit:
        return f"digit {said.digit}"
    return " ".join(word for word in (colour, shape) if word in COLOURS | SHAPES) or subject.description
