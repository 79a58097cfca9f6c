"""Rules about two things: where one stands to the other, which is taller, whether they are the same."""

from collections.abc import Sequence

from reward.prose.chunks import Chunk
from reward.prose.clause import Reading
from reward.prose.digit_rules import DigitRules
from reward.prose.phrases import is_abstract


class RelationRules(DigitRules):
    """Rules about two things."""

    def _compare(self) -> list[Reading]:
        at = self.index("compare")
        if at < 0:
            return self._equally() or self._bigger_sum() or self._more_than()
        relation, before, behind = self.clause[at].text, self.clause[:at], self.clause[at + 1 :]
        subject, other = self.name(before), self.name(behind)
        if relation in ("more than", "fewer than") or relation.endswith("many as"):
            first, second = self.described(before), self.described(behind)
            return [("relation", first, f"{relation} {second}", self.polarity)] if first and second else []
        if self.is_sum() or any("sum" in phrase.noun for phrase in self.things):
            return (
                [
                    (
                        "relation",
                        subject,
                        f"sum {'more' if relation in ('larger than', 'taller than') else 'less'} than {other}",
                        self.polarity,
                    )
                ]
                if subject and other
                else []
            )
        units = next((phrase for phrase in self.phrases(behind) if phrase.number is not None or phrase.digit), None)
        if units is not None and not other and subject:
            return [
                (
                    "attribute",
                    subject,
                    f"{'more' if relation in ('taller than', 'larger than') else 'fewer'} than {units.number or units.digit}",
                    self.polarity,
                )
            ]
        return (
            [("relation", self.bar(subject), f"{relation} {self.bar(other)}", self.polarity)]
            if subject and other
            else []
        )

    def _equally(self) -> list[Reading]:
        """``red and blue are equally tall``."""
        names = [self.bar(name) for name in self.names(self.clause)]
        if "equally" not in self.words or len(names) != 2:
            return []
        return [("relation", names[0], f"as tall as {names[1]}", self.polarity)]

    def _bigger_sum(self) -> list[Reading]:
        """``row 1's digits have a bigger sum than those of row 2``."""
        noun = next((phrase.noun for phrase in self.things if phrase.noun.endswith((" sum", " total"))), "")
        more = noun.split()[0] in ("bigger", "larger", "greater", "higher") if noun else False
        if len(self.places) != 2 or not (more or noun.split()[:1] in (["smaller"], ["lower"])):
            return []
        return [("relation", self.places[0], f"sum {'more' if more else 'less'} than {self.places[1]}", self.polarity)]

    def _more_than(self) -> list[Reading]:
        """``there are more stars than crosses``; ``more triangles are orange than green``; ``as many stars as crosses``."""
        texts = self.texts()
        more = next((word for word in ("more", "fewer", "less") if word in texts), "")
        if more and "than" in texts and not any(phrase.bound for phrase in self.things):
            relation = "more than" if more == "more" else "fewer than"
        elif texts.count("as") > 1 and "many" in texts:
            times = next((word for word in ("twice", "half") if word in texts), "")
            relation = f"{times} as many as".strip()
        else:
            return []
        phrases = [phrase for phrase in self.things if phrase.known and not phrase.refers]
        if len(phrases) == 3 and not phrases[1].shape and not phrases[2].shape:
            first, second = (f"{phrase.colour} {phrases[0].description}" for phrase in phrases[1:])
        elif len(phrases) == 2:
            first, second = (phrase.description for phrase in phrases)
        else:
            return []
        return [("relation", first, f"{relation} {second}", self.polarity)]

    def _same(self) -> list[Reading]:
        """``A1 and B2 have the same colour``; ``the top row is identical to the bottom row``."""
        at = self.index("same")
        if at < 0:
            return []
        relation = self.clause[at].text
        polarity = self.polarity is not relation.startswith("not ")
        relation = relation.removeprefix("not ")
        names = [*self.names(self.clause[:at]), *self.names(self.clause[at + 1 :])]
        if " ".join(self.texts()).count("number of") == 2:
            relation = "as many as"
        last = self.context.last[-1] if self.context.last else None
        if (
            len(names) == 1
            and len(self.places) == 1
            and last is not None
            and last[0] == "place"
            and relation == "same as"
            and not self.clause[at + 1 :]
        ):
            return [("place", names[0], last[2], last[3] is polarity)]
        if len(names) == 1 and self.has("refer"):
            names = [self.in_mind(), *names]
        if len(names) < 2 or not all(names[:2]):
            return []
        return [("relation", names[0], f"{relation} {names[1]}", polarity)]

    def names(self, chunks: Sequence[Chunk]) -> list[str]:
        found: list[str] = []
        for place, chunk in enumerate(chunks):
            if chunk.kind == "place":
                if (
                    found
                    and place
                    and chunks[place - 1].text in ("in", "at", "of", "on")
                    and not found[-1].startswith(("row", "column"))
                ):
                    found[-1] = chunk.text if len(chunk.text) == 2 else found[-1]
                elif chunk.text not in found:
                    found.append(chunk.text)
            elif (
                chunk.phrase is not None
                and chunk.phrase.known
                and not chunk.phrase.refers
                and not self.only_noun(chunk.phrase)
            ):
                found.append(chunk.phrase.description)
        return found

    def described(self, chunks: Sequence[Chunk]) -> str:
        found = [phrase.description for phrase in self.phrases(chunks) if phrase.known]
        return found[0] if found else ""

    def name(self, chunks: Sequence[Chunk]) -> str:
        """What a part of a clause names: a place if it has a cell, else a description, else what was spoken of."""
        cells = [chunk.text for chunk in chunks if chunk.kind == "place"]
        if cells:
            return cells[-1] if len(cells[-1]) == 2 or not self.described(chunks) else self.described(chunks)
        for chunk in chunks:
            phrase = chunk.phrase
            if chunk.text == "nothing":
                return "none"
            if phrase is not None and not phrase.refers and not self.only_noun(phrase) and not is_abstract(phrase):
                if phrase.quantity == "the" and phrase.order and self.chunker.chart:
                    return self.bar(phrase.description)
                if phrase.empty:
                    return "empty cell"
                if phrase.quantity == "no":
                    self.polarity = not self.polarity
                article = phrase.quantity == "a" and not phrase.order
                return f"some {phrase.description}" if article else phrase.description
        return self.in_mind() if any(chunk.kind == "refer" for chunk in chunks) or not chunks else ""

    def _relation(self) -> list[Reading]:
        """``the star is left of the circle``; ``above B2 is a cross``; ``a square on its left``."""
        at = self.index("relation")
        if at < 0:
            return []
        chunk = self.clause[at]
        before, behind = self.clause[:at], self.clause[at + 1 :]
        relation = chunk.text
        if relation == "between":
            names = self.names(behind)
            named = any(one.kind in ("things", "place", "refer") for one in before)
            subject = self.name(before) if named else (names[2:] or [""])[0]
            return (
                [("relation", subject, f"between {names[0]} and {names[1]}", self.polarity)]
                if len(names) > 1 and subject
                else []
            )
        texts = self.texts()
        if texts[-2:] == ["each", "other"] and len(self.names(before)) > 1:
            first, second = self.names(before)[:2]
            return [("relation", first, f"{relation} {second}", self.polarity)]
        have = next((place for place, one in enumerate(before) if one.kind == "have"), 0)
        named = any(one.kind in ("things", "place", "refer") for one in before[:have])
        if chunk.own and named and self.phrases(before[have:]):  # "the circle has the star to its right"
            subject, other = self.name(before[have + 1 :]), self.name(before[:have])
            side = relation.removeprefix("directly ")
            return [("relation", subject, f"directly {side} {other}", self.polarity)] if subject and other else []
        leads = not any(one.kind in ("things", "place", "refer") and one.text != "" for one in before)
        if any(one.kind == "there" for one in before):
            leads = leads or False
        if chunk.own:
            other = self.in_mind()
            subject = self.name(behind if leads else before)
        elif leads:  # "below the green cross is the star", or "adjacent to the star" of what was spoken of
            split = next(
                (
                    place
                    for place, one in enumerate(behind)
                    if one.kind in ("be", "there", "mark", "have", "word") and place
                ),
                len(behind),
            )
            other = self.name(behind[:split])
            subject = self.name(behind[split:]) if behind[split:] and self.phrases(behind[split:]) else ""
            if not subject:
                subject = self.in_mind()
                leads = False
        else:
            subject, other = self.name(before), self.name(behind)
        if not subject or not other or other == "none":
            return []
        inverted = leads or any(one.kind == "there" for one in before) or subject == "none"
        if inverted and relation in ("left of", "right of", "above", "below"):
            relation = f"directly {relation}"
        cell = self.chunker.beside(other, relation) if inverted and len(other) == 2 else ""
        if cell and not subject.startswith("none"):
            content = next((phrase.content for phrase in self.phrases(behind if leads else before)), "")
            return [("place", cell, content, self.polarity)] if content else []
        return [("relation", subject, f"{relation} {other}", self.polarity)]
