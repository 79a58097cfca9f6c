"""A claim about an image, and the scene that its facts describe (place -> what is there).

Facts are read as what they name: a grid (``B2: red star``, ``B2: 7``), a layout (``1: red star``, counted from the left), a chart
(``red: 5``, from the left), or anything else (``sign: STOP``), of which only the places that are named are known.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from reward.prose.words import COLOURS, SHAPES, plain_words

KINDS = ("object", "attribute", "place", "count", "relation", "text")


class Claim(NamedTuple):
    """What a text says about its image.

    Attributes:
        kind: one of ``KINDS``.
        subject: what it is about: a place (``B2``, ``row 2``, ``position 1``), or a description (``red star``, ``every circle``).
        value: what is said of it, without the denial: ``present``, ``red``, ``red star``, ``none``, ``3``, ``at least 3``,
            ``left of blue circle``, ``sum 12``. docs/rewards.md lists the forms.
        polarity: False where the words deny it.
        start, end: characters of the words that say so.
        words: these words.
        key: of a ``key: value`` statement its key, else empty.
    """

    kind: str
    subject: str
    value: str
    polarity: bool = True
    start: int = 0
    end: int = 0
    words: str = ""
    key: str = ""

    @property
    def statement(self) -> str:
        """The claim in plain words, without what its sentence leaves to the ones before: ``the star is not red``."""
        if self.key:
            return self.words
        subject, value, denied = self.subject, self.value, "" if self.polarity else "not "
        if self.kind == "object":
            return f"there is {'a' if self.polarity else 'no'} {subject}"
        if self.kind == "count":
            return f"the number of {subject} in the image is {denied}{value}"
        if self.kind == "place":
            holds = "does not hold" if denied else "holds"
            return f"{subject} {holds}: {value}"
        if self.kind == "text":
            return f"what {'cannot be' if denied else 'can be'} read at {subject}: {value}"
        every = subject.replace("every ", "each ", 1) if subject.startswith("every ") else subject
        article = "" if every[:5] in ("each ", "some ") or subject[:1].isupper() or subject == "none" else "the "
        return f"{article}{every} is {denied}{value}"

    @property
    def question(self) -> tuple[str, str]:
        """(key, value) in which it is asked about; the key is empty for a claim in prose."""
        return (self.key, self.words[len(self.key) + 2 :]) if self.key else ("", self.statement)


class SceneItem(NamedTuple):
    """One thing of a scene: where it is, the words that describe it, and its height or digit."""

    place: str
    words: frozenset[str]
    column: int
    row: int | None
    number: int | None
    fact: str

    @property
    def empty(self) -> bool:
        return "none" in self.words


class Scene:
    """Facts, read for comparison.

    Attributes:
        form: ``grid``, ``layout``, ``chart`` or ``other``.
        items: all that the facts name, empty places included.
    """

    def __init__(self, facts: Mapping[str, str]) -> None:
        facts = {place.strip(): plain_words(fact) for place, fact in facts.items() if fact.strip()}
        self.form = _form_of(facts)
        self.items = [self._item(place, fact, number) for number, (place, fact) in enumerate(facts.items(), start=1)]
        if self.form == "layout":
            self.items.sort(key=lambda item: item.column)
        self.places = {item.place.casefold(): item for item in self.items}
        self.columns = max((item.column for item in self.items), default=0)
        self.rows = max((item.row or 0 for item in self.items), default=0)

    def _item(self, place: str, fact: str, number: int) -> SceneItem:
        words = frozenset(fact.split())
        value = int(fact) if re.fullmatch(r"[0-9]{1,9}", fact) else None
        if self.form == "grid":
            return SceneItem(place, words, ord(place[0]) - ord("A") + 1, int(place[1]), value, fact)
        if self.form == "layout":
            return SceneItem(place, words, int(place), None, value, fact)
        if self.form == "chart":
            return SceneItem(place, frozenset({plain_words(place)}), number, None, value, fact)
        return SceneItem(place, words, number, None, value, fact)

    def at(self, place: str) -> list[SceneItem]:
        """The items of a place: one cell, a row, a column, a position from the left; empty where there is no such place."""
        folded = place.casefold()
        if self.form in ("layout", "chart"):
            ordered = [item for item in self.items if not item.empty]
            if folded in ("rightmost", "leftmost"):
                return ordered[-1:] if folded == "rightmost" else ordered[:1]
            number = re.fullmatch(r"position (\d{1,2})", folded)
            return ordered[int(number[1]) - 1 : int(number[1])] if number and int(number[1]) else []
        if self.form == "grid" and (line := re.fullmatch(r"row (\d)|column ([a-z])", folded)):
            column = ord(line[2]) - ord("a") + 1 if line[2] else None
            return [item for item in self.items if (item.column == column if column else item.row == int(line[1]))]
        return [self.places[folded]] if folded in self.places and self.form != "chart" else []

    def is_place(self, subject: str) -> bool:
        return bool(self.at(subject))

    def described(self, description: str) -> list[SceneItem] | None:
        """The items that fit a description; None where the facts do not know its words."""
        description, _, where = description.partition(" in ")
        region = self.at(where) if where else self.items
        if where and not region:
            return None
        words = [word for word in plain_words(description).split() if word not in ("bar", "shape", "cell", "digit")]
        if "empty" in words:
            return [item for item in region if item.empty] if self.form == "grid" else None
        filled = [item for item in region if not item.empty]
        if words and words[0] in ("highest", "lowest") and self.form == "chart":
            best = (max if words[0] == "highest" else min)(item.number or 0 for item in filled)
            filled, words = [item for item in filled if item.number == best], words[1:]
        if plain_words(description) == "cell":
            return region
        if any(not self.knows(word) for word in words):
            return None
        found = [item for item in filled if item.words.issuperset(words)]
        return None if self.form == "other" and not found else found

    def knows(self, word: str) -> bool:
        """Whether the facts can tell that something is, or is not, of that word."""
        return word in COLOURS | SHAPES or word.isdecimal() or any(word in item.words for item in self.items)


def _form_of(facts: Mapping[str, str]) -> str:
    if facts and all(re.fullmatch(r"[A-Z]\d", place) for place in facts):
        return "grid"
    if facts and all(place == str(number) for number, place in enumerate(sorted(facts, key=_position), start=1)):
        return "layout"
    if facts and all(plain_words(place) in COLOURS and fact.isdecimal() for place, fact in facts.items()):
        return "chart"
    return "other"


def _position(place: str) -> int:
    return int(place) if re.fullmatch(r"[0-9]{1,4}", place) else 0
