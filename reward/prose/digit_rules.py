"""Rules about numbers: digits read in a row, sums, the largest one, how often, and heights of bars."""

from reward.prose.chunks import value_in_words
from reward.prose.clause import Reading
from reward.prose.place_rules import PlaceRules
from reward.prose.words import listed

_TIMES = {"once": 1, "twice": 2, "thrice": 3}
_SUMS = listed("sum total totals add adds up sums summed makes make")
_EXCEEDS = frozenset(["taller than", "larger than"])
_HEIGHTS = listed("reach reaches reaching goes height value tall high units unit stands rises measures line level")


class DigitRules(PlaceRules):
    """Rules about numbers."""

    def _extreme(self) -> list[Reading]:
        """``the largest digit in row 2 is 7``; ``no digit exceeds 8``; ``nothing in that row beats it``."""
        order = next(
            (phrase.order for phrase in self.things if phrase.order and phrase.noun in ("digit", "", "shape")), ""
        )
        named = next((phrase.noun for phrase in self.things if phrase.noun in ("maximum", "minimum")), "")
        numbers = self.numbers()
        grid = self.chunker.grid
        if (order or named) and grid and not any(phrase.shape or phrase.colour for phrase in self.things):
            if not numbers and (self.has("refer") or self.places) and self.context.digit:
                numbers = [self.context.digit]
            if numbers and self._line_or_all():
                return [
                    (
                        "text",
                        self._line_or_all(),
                        f"{'largest' if order == 'highest' or named == 'maximum' else 'smallest'} {numbers[-1]}",
                        self.polarity,
                    )
                ]
        exceeds = any(chunk.kind == "compare" and chunk.text in _EXCEEDS for chunk in self.clause)
        none = any(
            phrase.quantity == "no" or chunk.text == "nothing" for chunk in self.clause if (phrase := chunk.phrase)
        )
        if exceeds and none and grid and (numbers or self.has("refer")):
            return [("text", self._line_or_all(), f"largest {(numbers or [self.context.digit])[-1]}", True)]
        return []

    def _line_or_all(self) -> str:
        here = self.line_here()
        if self.words & {"grid", "image", "overall"} or (
            not self.places and any(phrase.quantity == "no" for phrase in self.things)
        ):
            return "all"
        return here or "all"

    def line_here(self) -> str:
        lines = [place for place in self.places if " " in place and not place.startswith("position")]
        if lines:
            return lines[0]
        if self.has("refer") and self.cell_in_mind() and not self.places:
            return self.line_of("row")
        return self.context.line

    def _sum(self) -> list[Reading]:
        """``the digits in the first row add up to 14``."""
        if not self.chunker.grid or self.has("compare"):
            return []
        verbs = self.words & (_SUMS - {"make", "makes", "up"})
        makes = (
            self.words & {"make", "makes", "gives", "together"}
            and self.places
            and (" " in self.places[0] or len(self.places) > 1)
        )
        numbers = self.numbers()
        if not (verbs or makes or self.is_sum()) or not numbers:
            return []
        where = (
            " + ".join(self.places)
            if len(self.places) > 1 and all(len(place) == 2 for place in self.places)
            else self.line_here()
        )
        if not where:
            return []
        found: list[Reading] = []
        for chunk in self.clause:
            if chunk.kind == "digits" and " " in where:
                found.append(("text", where, chunk.text, True))
        return [*found, ("text", where, f"sum {numbers[-1]}", self.polarity)]

    def _digits(self) -> list[Reading]:
        """``row 2 reads 4 7 1``; ``A1, B1 and C1 hold 3, 5 and 7``."""
        runs = [chunk for chunk in self.clause if chunk.kind == "digits"]
        if not runs or self.frequency():
            return []
        cells = [place for place in self.places if len(place) == 2]
        if cells and len(cells) == len(runs[0].items):
            return [("place", cell, digit, self.polarity) for cell, digit in zip(cells, runs[0].items, strict=True)]
        lines = [place for place in self.places if place.startswith(("row", "column"))]
        relation = next((chunk for chunk in self.clause if chunk.kind == "relation" and chunk.own), None)
        if not lines and relation is not None:
            lines = [line for line in [self.chunker.beside(self.context.line, relation.text)] if line]
        if not lines and len(runs) == self.chunker.rows and all(len(run.items) == self.chunker.columns for run in runs):
            lines = [f"row {number}" for number in range(1, len(runs) + 1)]
        if not lines and self.context.line and len(self.clause) == 1 and self.context.about_place:
            lines = [self.context.line]
        if len(lines) == len(runs):
            return [("text", line, run.text, self.polarity) for line, run in zip(lines, runs, strict=True)]
        return []

    def frequency(self) -> list[Reading]:
        """``9 appears twice``; ``the digit 2 is there three times``; ``2 occurs in two places``."""
        self.frequent = False
        times = next((_TIMES[chunk.text] for chunk in self.clause if chunk.text in _TIMES), None)
        texts = [self.chunker.at(i) for chunk in self.clause for i in range(chunk.start, chunk.end)]
        for place, word in enumerate(texts):
            counted = word == "times" or (
                word in ("places", "cells", "spots") and texts[place - 2 : place - 1] == ["in"]
            )
            if counted and place and value_in_words(texts[place - 1]) is not None:
                times = value_in_words(texts[place - 1])
        if times is None or self.has("compare") or "many" in texts:
            return []
        names = []
        for chunk in self.clause:
            phrase = chunk.phrase
            if chunk.kind == "digits":
                names += [f"digit {digit}" for digit in chunk.items]
            elif phrase is not None and phrase.refers and phrase.number is not None and not names:
                names.append(f"digit {phrase.number}")
            elif phrase is not None and phrase.known and not self.only_noun(phrase) and not names:
                names.append(phrase.description)
        if not names and self.has("refer") and self.context.things is not None:
            names = [self.context.things.description]
        self.frequent = True
        return [("count", name + self.within(), str(times), self.polarity) for name in names]

    def _number_of(self) -> list[Reading]:
        """``green stars: three``; ``the number of stars is three``."""
        known = [phrase for phrase in self.things if not phrase.refers and not self.only_noun(phrase) and phrase.known]
        bare = [phrase for phrase in self.things if phrase.refers and phrase.number is not None]
        if (
            len(known) != 1
            or len(bare) != 1
            or self.has("relation")
            or self.has("compare")
            or known[0].number is not None
        ):
            return []
        names = self.words & {"number", "total", "count", "amount"} or any(
            phrase.noun in ("digit", "count", "total") for phrase in self.things[:1]
        )
        pair = [chunk.kind for chunk in self.clause] == ["things", "things"]
        if not (pair or (names and self.things[0] is not known[0])) or known[0].end > bare[0].start:
            return []
        value = f"{bare[0].bound}{bare[0].number}"
        if self.chunker.chart and known[0].colour:
            return [("attribute", self.bar(known[0].description), value, self.polarity)]
        return [("count", known[0].description + self.within(), value, self.polarity)]

    def _height(self) -> list[Reading]:
        """Of a chart: ``the red bar reaches 5``, ``height 5``, ``more than three units tall``."""
        if not self.chunker.chart or self.has("there"):
            return []
        bars = [
            phrase
            for phrase in self.things
            if (phrase.colour or phrase.order) and not phrase.refers and phrase.number is None
        ]
        numbers = [phrase for phrase in self.things if phrase.number is not None or phrase.digit]
        highest = next((phrase for phrase in bars if phrase.order), None)
        if len(bars) == 2 and highest is not None and self.has("be"):  # "the red bar is the tallest (at 9)"
            other = next((phrase for phrase in bars if phrase is not highest), highest)
            if not other.colour:
                return []
            value = (
                numbers[0].number if numbers and numbers[0].number is not None else numbers[0].digit if numbers else ""
            )
            height: list[Reading] = [("attribute", f"{other.colour} bar", f"{value}", True)] if numbers else []
            return [("attribute", f"{highest.order} bar", other.colour, self.polarity), *height]
        if len(bars) == len(numbers) > 1:  # "red sits at 4, green at 9"
            return [
                (
                    "attribute",
                    self.bar(bar.description),
                    f"{one.number if one.number is not None else one.digit}",
                    self.polarity,
                )
                for bar, one in zip(bars, numbers, strict=True)
            ]
        if len(numbers) != 1 or len(bars) > 1 or numbers[0].noun in ("bar", "colour"):
            return []
        if numbers[0].colour and not bars:
            return []
        mind = self.context.things
        name = bars[0].description if bars else mind.description if mind is not None else ""
        spoken = (
            self.words & _HEIGHTS
            or self.has("be")
            or self.has("have")
            or (not bars and len(self.clause) < 3)
            or (bool(bars) and numbers[0].refers)
            or any(_HEIGHTS.intersection(phrase.noun.split()) for phrase in self.things)
        )
        if not name or not spoken or self.places:
            return []
        return [
            (
                "attribute",
                self.bar(name),
                f"{numbers[0].bound}{numbers[0].number if numbers[0].number is not None else numbers[0].digit}",
                self.polarity,
            )
        ]
