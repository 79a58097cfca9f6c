"""One clause in chunks, and what the clauses before it spoke of: what all rules share."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reward.prose.chunks import Chunk, Chunker
from reward.prose.phrases import NounPhrase
from reward.prose.words import COLOURS, listed

Reading = tuple[str, str, str, bool]
"""(kind, subject, value, polarity) of a claim."""
_ARRIVALS = listed("end ends finish reach arrive arrives land lands")


@dataclass
class Context:
    """What earlier clauses spoke of: what ``it``, ``them`` and ``that row`` stand for."""

    places: tuple[str, ...] = ()
    line: str = ""
    things: NounPhrase | None = None
    base: NounPhrase | None = None
    about_place: bool = False
    digit: str = ""
    recent: tuple[str, ...] = ()
    colour: str = ""
    arrived: bool = False
    cursor: str = ""
    listing: str = ""
    order: str = ""
    last: tuple[Reading, ...] = ()


class ClauseReader:
    """The clause that is read, and the context of it.

    Args:
        chunker: of the sentence.
        context: of the sentences before; it is changed.
    """

    def __init__(self, chunker: Chunker, context: Context) -> None:
        self.chunker, self.context = chunker, context
        self.kept_colour = self.frequent = False
        self.opening: set[str] = set()
        self.begin([])

    def begin(self, clause: list[Chunk]) -> None:
        """Take up a clause: its chunks, the places and things in it, its words, and whether they assert or deny."""
        self.clause = clause
        self.places = tuple(chunk.text for chunk in clause if chunk.kind == "place")
        self.things = [chunk.phrase for chunk in clause if chunk.kind == "things" and chunk.phrase is not None]
        self.words = {chunk.text for chunk in clause if chunk.kind in ("word", "joint", "not")}
        self.polarity = sum(chunk.kind == "not" and chunk.text != "nor" for chunk in clause) % 2 == 0

    def has(self, kind: str) -> bool:
        return any(chunk.kind == kind for chunk in self.clause)

    def index(self, kind: str) -> int:
        """The place in the clause of the first chunk of a kind; -1 if there is none."""
        return next((place for place, chunk in enumerate(self.clause) if chunk.kind == kind), -1)

    def numbers(self) -> list[str]:
        """Bare numbers of the clause, digits among them."""
        found = []
        for phrase in self.things:
            if phrase.refers and phrase.number is not None:
                found.append(str(phrase.number))
            elif phrase.digit:
                found.append(phrase.digit)
        return found

    def texts(self) -> list[str]:
        """All tokens from the first to the last chunk of the clause."""
        return self.chunker.texts[self.clause[0].start : self.clause[-1].end]

    def subject_refers(self) -> bool:
        """Whether the first thing that the clause names is a pronoun."""
        return (
            next((chunk.kind for chunk in self.clause if chunk.kind in ("things", "place", "there", "refer")), "")
            == "refer"
        )

    def phrases(self, chunks: Iterable[Chunk]) -> list[NounPhrase]:
        return [chunk.phrase for chunk in chunks if chunk.phrase is not None]

    def in_mind(self) -> str:
        context = self.context
        if context.about_place and context.places:
            return context.places[-1]
        return context.things.description if context.things is not None else (context.places or ("",))[-1]

    def within(self) -> str:
        line = next((place for place in self.places if " " in place and not place.startswith("position")), "")
        return f" in {line}" if line else ""

    def bar(self, name: str) -> str:
        """A bare colour as the bar of a chart, ``lowest`` as the lowest bar; a name that is none stays."""
        return f"{name} bar" if self.chunker.chart and (name in COLOURS or name in ("highest", "lowest")) else name

    @staticmethod
    def only_noun(phrase: NounPhrase) -> bool:
        return phrase.description in ("shape", "cell", "digit", "colour")

    def is_named(self, phrase: NounPhrase) -> bool:
        return phrase.known and not phrase.empty and not phrase.refers and not self.only_noun(phrase)

    def is_sum(self) -> bool:
        return any(phrase.noun.endswith(("sum", "total")) for phrase in self.things)

    def ends_with_one(self, phrase: NounPhrase) -> bool:
        return self.chunker.at(phrase.end - 1) in ("one", "ones")

    def contents(self) -> list[NounPhrase]:
        """What the clause says to be somewhere."""
        return [
            phrase
            for phrase in self.things
            if (
                (phrase.known or phrase.empty or phrase.noun in ("colour", "kind of shape"))
                and (
                    not self.only_noun(phrase)
                    or (phrase.number is not None and phrase.noun in ("shape", "digit", "colour"))
                )
                and not (phrase.order and self.chunker.grid)
            )
            or (phrase.refers and phrase.number is not None)
        ]

    def inherited(self, clause: list[Chunk], opening: set[str]) -> list[Chunk]:
        """The clause with what its phrases leave out: ``the blue one`` is a star, the items behind ``three yellows:`` are yellow."""
        base = self.context.base
        colour = self.context.colour if opening & {":", "namely", ",", "-", "—", "and"} else ""
        self.kept_colour = False
        found = []
        for chunk in clause:
            phrase = chunk.phrase
            if (
                phrase is not None
                and phrase.colour
                and not phrase.shape
                and phrase.noun == "shape"
                and base is not None
                and self.ends_with_one(phrase)
            ):
                noun = base.noun if base.noun == "bar" else ""
                phrase = replace(phrase, shape=base.shape, noun=noun or phrase.noun)
            elif phrase is not None and colour and phrase.shape and not phrase.colour:
                phrase, self.kept_colour = replace(phrase, colour=colour), True
            if phrase is not None and phrase.known and phrase.shape:
                base = phrase
            found.append(
                chunk
                if phrase is None
                else chunk._replace(
                    phrase=phrase,
                    text=chunk.text and (phrase.description if chunk.text not in ("nothing", "number") else chunk.text),
                )
            )
        return found

    def resolved(self, clause: list[Chunk]) -> list[Chunk]:
        """The clause with places for ``that row``, ``the cell below it``, ``the row in the middle``, and without words of no use."""
        found: list[Chunk] = []
        i = 0
        while i < len(clause):
            chunk, after = clause[i], clause[i + 1 : i + 4]
            phrase = chunk.phrase
            if phrase is not None and phrase.noun in ("row", "column") and not phrase.places and not phrase.colour:
                kind = phrase.noun
                line = self.context.line if self.context.line.startswith(kind) else self.line_of(kind)
                relation = next((one for one in after[:1] if one.kind == "relation"), None)
                middle = next((one for one in after[:2] if one.kind == "place"), None)
                if middle is not None and middle.text == self.chunker.middle_cell():
                    line, i = self.chunker.middle_line(kind), i + 2
                elif relation is not None:
                    line, i = self.chunker.beside(line, relation.text), i + 1
                elif phrase.quantity != "the":
                    line = ""
                if line:
                    found.append(
                        chunk._replace(kind="place", text=line, phrase=None, end=clause[min(i, len(clause) - 1)].end)
                    )
                    i += 1
                    continue
                i = clause.index(chunk)
            if (
                self._names_cell(chunk)
                and after
                and after[0].kind == "relation"
                and (found == [] or found[-1].kind != "have")
            ):
                behind = after[1] if len(after) > 1 else None
                named = [one.text for one in found if one.kind == "place" and len(one.text) == 2]
                base = behind.text if behind is not None and behind.kind == "place" and not after[0].own else ""
                base = base or ((named or [self.cell_in_mind()])[-1] if after[0].own else "")
                cell = self.chunker.beside(base, after[0].text)
                if cell:
                    used = 1 + (behind is not None and behind.kind == "place" and not after[0].own)
                    found.append(chunk._replace(kind="place", text=cell, phrase=None, end=after[used - 1].end))
                    i += 1 + used
                    continue
            if chunk.kind == "place" and found and found[-1].kind == "place":
                joined = self.chunker.joined(found[-1].text, chunk.text)
                if joined:
                    found[-1] = found[-1]._replace(text=joined, end=chunk.end)
                    i += 1
                    continue
            found.append(chunk)
            i += 1
        return self._joined_places(found)

    def _joined_places(self, clause: list[Chunk]) -> list[Chunk]:
        """The clause with one cell for a row and a side of it that stand apart: ``the first row has a star in the middle``."""
        at = [place for place, chunk in enumerate(clause) if chunk.kind == "place"]
        if len(at) != 2 or any(chunk.kind in ("relation", "compare", "same") for chunk in clause):
            return clause
        first, second = clause[at[0]].text, clause[at[1]].text
        cell = second if self.chunker.is_in(second, first) else self.chunker.joined(first, second)
        if not cell:
            return clause
        return [
            chunk._replace(text=cell) if place == at[0] else chunk
            for place, chunk in enumerate(clause)
            if place != at[1]
        ]

    def _names_cell(self, chunk: Chunk) -> bool:
        phrase = chunk.phrase
        if chunk.kind == "refer":
            return chunk.text == "one"
        return (
            phrase is not None
            and not phrase.empty
            and phrase.noun in ("cell", "digit")
            and not (phrase.digit or phrase.colour or phrase.places or phrase.number)
        )

    def cell_in_mind(self) -> str:
        places = self.context.places
        return places[-1] if places and " " not in places[-1] else ""

    def line_of(self, kind: str) -> str:
        cell = self.cell_in_mind()
        if len(cell) != 2:
            return ""
        return f"row {cell[1]}" if kind == "row" else f"column {cell[0]}"

    def remember(self, found: list[Reading]) -> None:
        context = self.context
        context.last = tuple(found) or context.last
        context.arrived = bool(self.places and self.words & _ARRIVALS)
        context.colour = context.colour if self.kept_colour else ""
        context.listing = ""
        if len(found) == 1 and found[0][0] == "place" and found[0][1].startswith("position "):
            context.cursor = found[0][1]
        for kind, subject, _value, polarity in found:
            if kind == "count" and polarity and subject in COLOURS:
                context.colour = subject
            if kind == "count" and self.frequent:
                context.listing = subject.removeprefix("digit ")
        if self.places:
            context.recent = (*context.places, *self.places)[-2:]
            context.places = self.places[-1:] if self.has("relation") or "from" in self.words else self.places
            named = next((one for one in self.clause if one.kind in ("things", "place", "there", "refer")), None)
            context.about_place = named is None or named.phrase is None or not self.is_named(named.phrase)
            context.line = next((place for place in self.places if " " in place), context.line)
        for phrase in self.things:
            if phrase.digit or (phrase.refers and phrase.number is not None and phrase.number < 10):
                context.digit = phrase.digit or str(phrase.number)
            if phrase.known and not phrase.empty and (phrase.shape or phrase.noun in ("bar", "digit", "shape")):
                context.base = phrase
        first = next(filter(self.is_named, self.things), None)
        kept = self.subject_refers() or any(chunk.kind == "relation" and chunk.own for chunk in self.clause)
        if first is not None and not (kept and context.things is not None):
            context.things = first
            if not self.places and not (self.subject_refers() and context.about_place):
                context.about_place = False

    def merged(self, phrases: list[NounPhrase]) -> str | None:
        """``the triangle in C2 is yellow`` -> ``yellow triangle``; ``C2 is purple and triangular`` -> ``purple triangle``."""
        first = phrases[0]
        if first.refers:
            return str(first.number) if first.number is not None else None
        colour, shape = first.colour, first.shape
        for phrase in phrases[1:]:
            if phrase.empty or phrase.digit or phrase.refers:
                continue
            colour, shape = colour or phrase.colour, shape or phrase.shape
        if (
            first.shape == ""
            and first.colour
            and self.context.base is not None
            and first.noun == "shape"
            and self.ends_with_one(first)
        ):
            shape = self.context.base.shape
        merged = " ".join(word for word in (colour, shape) if word)
        return merged if merged and not first.digit and not first.empty else first.content
