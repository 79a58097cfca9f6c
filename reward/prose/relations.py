"""Relations and comparisons in words: ``directly to the left of``, ``twice as high as``, ``the same colour as``."""

from typing import NamedTuple

from reward.prose.phrases import NounPhrase, PhraseReader
from reward.prose.words import listed, singular

_NEAR = listed(
    "directly immediately straight just exactly right one a single cell step square place space up down over"
)
_DEGREE = listed("even slightly much far a bit little exactly clearly precisely considerably somewhat")
_SIDES = {
    "above": "above",
    "over": "above",
    "atop": "above",
    "below": "below",
    "beneath": "below",
    "under": "below",
    "underneath": "below",
}
_MORE = {
    **dict.fromkeys(("taller", "higher", "longer"), "taller than"),
    **dict.fromkeys(("shorter",), "shorter than"),
    **dict.fromkeys(("larger", "bigger", "greater"), "larger than"),
    **dict.fromkeys(("smaller", "lower", "less"), "smaller than"),
}
_SAME = {
    **{"color": "colour", "colour": "colour", "shape": "shape", "row": "row", "column": "column"},
    **dict.fromkeys(("digit", "number", "thing", "object"), ""),
}
"""Noun behind ``the same`` -> what is the same; empty for everything."""
_TIMES = {"twice": "twice", "double": "twice", "half": "half"}


class Chunk(NamedTuple):
    """Tokens [start, end) of a sentence that mean one thing.

    ``kind`` is ``place``, ``things``, ``digits`` (several in a row), ``number``, ``relation``, ``compare``, ``same``, ``be``, ``have``,
    ``there``, ``not``, ``refer`` (a pronoun), ``of`` (of them), ``mark``, ``joint``, ``quoted`` or ``word``; ``text`` is the place, the
    relation or the word; ``own`` of a relation whose object is a pronoun or is left out (``to its left``).
    """

    kind: str
    start: int
    end: int
    text: str = ""
    phrase: NounPhrase | None = None
    own: bool = False
    items: tuple[str, ...] = ()


class RelationReader(PhraseReader):
    """Reads relations from the tokens of one sentence."""

    def _relation(self, i: int) -> Chunk | None:
        """``directly to the left of``, ``above``, ``on its right``, ``next to``."""
        j, near = i, False
        while (
            j < i + 4 and self.at(j) in _NEAR and not (self.at(j) == "right" and self.at(j + 1) in ("of", "-", "from"))
        ):
            near, j = near or self.at(j) not in ("a", "up", "down", "over"), j + 1
        word = self.at(j)
        if word in ("to", "on", "at") and self.at(j + 1) in ("the", "its", "their", "either"):
            own = self.at(j + 1) in ("its", "their")
            k = j + 2
            while self.at(k) in ("immediate", "direct", "very", "far"):
                near, k = near or self.at(k) in ("immediate", "direct"), k + 1
            if self.at(k) in ("left", "right"):
                side, k = f"{self.at(k)} of", k + 1
                k += self.at(k) in ("side", "hand")
                k += self.at(k) == "side"
                if self.at(k) in ("of", "from") and self._bare_line(k + 1 + (self.at(k + 1) == "the"))[0]:
                    return None  # "on the left of the top row" is a place
                if self.at(k) in ("of", "from"):
                    return self._to(Chunk("relation", i, k + 1, self._near(side, near)))
                if own or self.at(j) == "to":
                    return Chunk("relation", i, k, self._near(side, near or own), own=True)
        if (
            word in ("left", "right")
            and self.at(j + 1) in ("of", "from")
            and self.at(i - 1) not in ("the", "top", "bottom", "upper", "lower")
        ):
            return self._to(Chunk("relation", i, j + 2, self._near(f"{word} of", near)))
        if word in ("further", "farther") and self.at(j + 1) in ("left", "right") and self.at(j + 2) == "than":
            return Chunk("relation", i, j + 3, f"{self.at(j + 1)} of")
        if word in ("lower", "higher", "further") and self.at(j + 1) in ("down", "up") and self.at(j + 2) == "than":
            return Chunk("relation", i, j + 3, "below" if self.at(j + 1) == "down" else "above")
        if word in ("down", "up") and self.at(j + 1) == "from":
            return self._to(Chunk("relation", i, j + 2, "directly below" if word == "down" else "directly above"))
        if word in _SIDES and self.at(j + 1) not in ("there", "than"):
            return self._to(Chunk("relation", i, j + 1, self._near(_SIDES[word], near)))
        if word == "on" and self.at(j + 1) == "top" and self.at(j + 2) == "of":
            return self._to(Chunk("relation", i, j + 3, self._near("above", near)))
        if word in ("next", "adjacent", "beside", "alongside"):
            return (
                Chunk("relation", i, j + 1 + (self.at(j + 1) == "to"), "next to")
                if word in ("beside", "alongside") or self.at(j + 1) == "to"
                else None
            )
        if word in ("diagonal", "diagonally"):
            k = j + 1
            k += self.at(k) in ("adjacent", "opposite", "next")
            return Chunk("relation", i, k + 1, "diagonal to") if self.at(k) in ("to", "from") else None
        if word == "between":
            return Chunk("relation", i, j + 1, "between")
        return None

    def _to(self, chunk: Chunk) -> Chunk:
        """With a pronoun behind it as its object."""
        if self.at(chunk.end) in ("it", "them") or (
            self.at(chunk.end) in ("that", "this") and not self.at(chunk.end + 1).isalpha()
        ):
            return chunk._replace(end=chunk.end + 1, own=True)
        if not self.at(chunk.end).isalnum():
            return chunk._replace(own=True)
        return chunk

    @staticmethod
    def _near(side: str, near: bool) -> str:
        return f"directly {side}" if near else side

    def _compare(self, i: int) -> Chunk | None:
        """``taller than``, ``twice as high as``, ``as many as``."""
        j = self.skip(i, _DEGREE) if self.at(i) in _DEGREE else i
        word = self.at(j)
        if word in _TIMES or (self._number(j) == 3 and self.at(j + 1) == "times"):
            name = _TIMES.get(word, "three times")
            k = j + (1 if word in _TIMES else 2)
            if self.at(k) == "as" and self.at(k + 2) == "as":
                return Chunk("compare", i, k + 3, f"{name} as many as" if self.at(k + 1) == "many" else name)
            if self.at(k) == "the" and self.at(k + 2) == "of":
                return Chunk("compare", i, k + 3, name)
        if word in _MORE and self.at(j + 1) == "than" and not (word == "less" and self._number(j + 2) is not None):
            return Chunk("compare", i, j + 2, _MORE[word])
        if word == "as" and self.at(j + 2) == "as" and self.at(j + 1) in ("tall", "high", "large", "big", "long"):
            return Chunk("compare", i, j + 3, "as tall as")
        if word in ("tops", "exceeds", "beats", "overtops", "outgrows", "surpasses"):
            return Chunk("compare", i, j + 1, "taller than")
        if word in ("outnumber", "outnumbers"):
            return Chunk("compare", i, j + 1, "more than")
        if (
            word in ("more", "less", "fewer")
            and self.at(j + 1) in ("numerous", "common", "frequent")
            and self.at(j + 2) == "than"
        ):
            return Chunk("compare", i, j + 3, "more than" if word == "more" else "fewer than")
        return None

    def _same(self, i: int) -> Chunk | None:
        """``the same colour as``, ``identical to``."""
        j = i + (self.at(i) == "the")
        j += self.at(j) in ("exact", "very")
        if self.at(j) == "same":
            k = j + 1
            kind = singular(self.at(k))
            k += kind in _SAME
            return Chunk(
                "same", i, k + (self.at(k) in ("as", "like")), f"same {_SAME.get(kind, '')} as".replace("  ", " ")
            )
        if self.at(i) in ("identical", "equal"):
            return Chunk("same", i, i + 1 + (self.at(i + 1) in ("to", "with")), "same as")
        if self.at(i) in ("match", "matches", "repeats", "equals", "matching"):
            return Chunk("same", i, i + 1, "same as")
        if self.at(i) in ("different", "differ", "differs") and (
            self.at(i) != "different" or singular(self.at(i + 1)) in ("colour", "color", "shape", "from")
        ):
            kind = singular(self.at(i + 1)) if self.at(i) == "different" else singular(self.at(i + 2))
            name = {"color": "same colour as", "colour": "same colour as", "shape": "same shape as"}.get(
                kind, "same as"
            )
            end = i + (1 if kind == "from" or name == "same as" else 2 if self.at(i) == "different" else 3)
            return Chunk("same", i, end + (self.at(end) in ("from", "than")), f"not {name}")
        return None
