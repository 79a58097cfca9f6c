"""Rules about what is where."""

from reward.prose.clause import Reading
from reward.prose.thing_rules import ThingRules
from reward.prose.words import listed

_FILLED = listed("occupied filled taken full nonempty")


class PlaceRules(ThingRules):
    """Rules about what is where."""

    def _in_order(self) -> list[Reading]:
        """``row 2 starts with a star``; ``next comes a square``; ``then a circle``: places one after the other."""
        contents = [phrase for phrase in self.contents() if not phrase.refers]
        if len(contents) != 1:
            return []
        line = next((place for place in self.places if place.startswith(("row", "column"))), "")
        line = line or (self.context.line if self.subject_refers() and not self.places else "")
        first, last = self.words & {"starts", "opens", "begins"}, self.words & {"ends", "closes", "finishes"}
        content = contents[0].content
        if line and (first or last):
            self.context.cursor = cell = self.chunker.end_of(line, bool(last))
            return [("place", cell, content, self.polarity)]
        following = self.opening & {"then"} or self.words & {"next", "then", "followed", "finally", "lastly"}
        if (
            self.places
            or self.has("there")
            or not following
            or not self.context.cursor
            or contents[0].number is not None
        ):
            return []
        self.context.cursor = place = self.chunker.after(self.context.cursor)
        return [("place", place, content, self.polarity)] if place else []

    def _cells(self) -> list[Reading]:
        """Clauses about cells that are empty or filled: ``two cells are empty``, ``B2 is empty``, ``every place is filled``."""
        if not self.polarity and {"anything", "something"} & {*self.texts()} and self.places and not self.contents():
            return [("place", place, "none", True) for place in self.places]
        filled = bool(self.words & _FILLED)
        emptied = any(phrase.empty for phrase in self.things)
        if (not filled and not emptied) or self.has("relation"):
            return []
        nouns = [phrase for phrase in self.things if phrase.noun == "cell" or phrase.empty]
        counted = next(
            (phrase for phrase in nouns if phrase.number is not None or phrase.quantity in ("no", "all")), None
        )
        if self.places and all(len(place) == 2 for place in self.places):
            value = "none" if emptied else "occupied"
            contents = [phrase for phrase in self.things if phrase.known and not phrase.empty and phrase.noun != "cell"]
            return [] if contents else [("place", place, value, self.polarity) for place in self.places]
        if (
            self.places
            and counted is not None
            and (counted.number == self._length_of(self.places[0]) or counted.quantity == "all")
        ):
            return [("place", self.places[0], "none" if emptied else "all occupied", self.polarity)]
        if self.places:
            return self.line_contents()
        if counted is not None:
            if counted.number is not None and counted.quantity not in ("all", "no"):
                return [
                    ("count", "empty cell" if emptied else "shape", f"{counted.bound}{counted.number}", self.polarity)
                ]
            if counted.quantity == "no":
                return [("object", "empty cell", "present", False)] if emptied else [("count", "shape", "0", True)]
            if counted.noun == "cell":
                return [
                    (
                        "count",
                        "empty cell",
                        f"{self.chunker.columns * self.chunker.rows if emptied else 0}",
                        self.polarity,
                    )
                ]
        if emptied and self.has("refer") and self.context.places:
            return [("place", place, "none", self.polarity) for place in self.context.places]
        if emptied and any(phrase.empty and phrase.quantity == "a" for phrase in self.things):
            return [("object", "empty cell", "present", self.polarity)]
        return []

    def line_contents(self) -> list[Reading]:
        """A row or column: three contents in order, all of one kind, or some that it contains."""
        line = self.places[0]
        contents = self.contents()
        words = [phrase.content if not phrase.refers else str(phrase.number) for phrase in contents]
        length = self._length_of(line)
        if len(words) == length and not any(phrase.number is not None and phrase.number > 1 for phrase in contents):
            return [("place", line, ", ".join(words), self.polarity)]
        texts = self.texts()
        singled = ["the", "only"] in [texts[place : place + 2] for place in range(len(texts))]
        throughout = not singled and {*texts} & {
            "all",
            "entirely",
            "completely",
            "only",
            "through",
            "throughout",
            "fully",
            "solely",
            "whole",
            "entire",
            "every",
            "everything",
            "each",
        }
        if len(contents) == 1:
            phrase = contents[0]
            if phrase.empty:
                return (
                    [("place", line, "none", self.polarity)]
                    if phrase.quantity != "a" and phrase.number is None
                    else self.counted(phrase)
                )
            if (
                throughout
                or (phrase.quantity == "all" and self.clause[0].kind == "place")
                or "way through" in [p.noun for p in self.things]
            ):
                return [("place", line, f"all {phrase.content}", self.polarity)]
        return [reading for phrase in contents for reading in self.counted(phrase)]

    def _length_of(self, line: str) -> int:
        return self.chunker.columns if line.startswith("row") else self.chunker.rows

    def _in_positions(self) -> list[Reading]:
        """Of a layout: ``from left to right: a red star, a blue circle``."""
        texts, contents = " ".join(self.texts()), [one for one in self.contents() if one.description != "bar"]
        if self.chunker.grid or "left to right" not in texts + self.context.order or len(contents) < 2 or self.places:
            self.context.order = texts if "left to right" in texts else ""
            return []
        return [
            ("place", f"position {place}", phrase.content, self.polarity)
            for place, phrase in enumerate(contents, start=1)
        ]

    def _place(self) -> list[Reading]:
        """``B2 holds a blue circle``; ``the red star is in A1``; ``a star in the middle row``."""
        if not self.places:
            self.places = self._places_in_mind()
        if not self.places:
            return []
        contents = self.contents()
        if any(place.startswith(("row", "column")) for place in self.places):
            counted = (
                self.things[0].number is not None and self.has("be") and not self.has("there") if self.things else False
            )
            if counted and (found := self.attribute(contents)):
                return found  # "two of the digits in row 1 are 4s"
            if len(self.places) == 1 and contents:
                return self.line_contents() or self.attribute(contents)
            return []
        subjects = [phrase for phrase in contents if phrase.quantity != "both"]
        if not subjects:
            if all(chunk.kind == "place" for chunk in self.clause) and self.context.listing:
                return [("place", place, self.context.listing, True) for place in self.places]
            if (
                (self.has("refer") or self.clause[0].kind in ("word", "joint"))
                and self.context.things is not None
                and not self.context.about_place
            ):
                return [("place", place, self.context.things.content, self.polarity) for place in self.places]
            if self.has("refer") or self.clause[0].kind == "word":
                return [
                    ("place", place, self.context.digit, self.polarity) for place in self.places if self.context.digit
                ]
            return []
        if 1 < len(self.places) == len(subjects) and not any(one.refers for one in subjects):  # each its own
            pairs = zip(self.places, subjects, strict=True)
            return [("place", place, one.content, self.polarity) for place, one in pairs]
        merged = self.merged(subjects)
        if merged is None:
            return []
        if any(phrase.quantity == "no" for phrase in subjects):
            return [("place", place, merged, False) for place in self.places]
        return [("place", place, merged, self.polarity) for place in self.places]

    def _places_in_mind(self) -> tuple[str, ...]:
        """The places of a clause that names none: ``it holds a star``, ``where there is a star``, ``in both of them``."""
        context = self.context
        if self.has("there") and (context.arrived or "where" in self.opening):
            return context.places
        if any(chunk.kind == "refer" and chunk.text == "both" for chunk in self.clause) and self.has("there"):
            return context.recent
        if self.subject_refers() and self.has("have") and context.about_place:
            return context.places
        if ":" in self.opening and context.about_place and all(chunk.kind == "things" for chunk in self.clause):
            return context.places  # "I look at row 1: a star, nothing, a circle"
        return ()
