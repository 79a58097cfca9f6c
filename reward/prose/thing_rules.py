"""Rules about things wherever they are: that they are there, how many, and what they look like."""

from reward.prose.chunks import value_in_words
from reward.prose.clause import ClauseReader, Reading
from reward.prose.phrases import NounPhrase, is_abstract, joined_description, value_of
from reward.prose.words import COLOURS, IMAGE, READ, listed

_ABSENT = listed("absent missing lacks lacking without nowhere")
_LOOKS = listed("""open closed wet dry wooden striped round long old young bright dark sitting standing running lying parked smiling
    sleeping     empty full metal plastic broken tall short large small big transparent blurry sunny cloudy""")
"""What is said of a thing outside of the lists, beside colours and sizes."""
_VAGUE = listed("most mostly half few majority")
_SHOWING = listed("show appear occur")
_SEEING = listed("see count find spot notice observe present visible appear appears exist exists shown drawn")


class ThingRules(ClauseReader):
    """Rules about things wherever they are."""

    def _quoted(self) -> list[Reading]:
        """``the sign reads "STOP"``."""
        at = self.index("quoted")
        if at < 1 or not set(self.texts()) & READ | {
            "labelled",
            "labeled",
            "written",
            "printed",
            "word",
            "words",
            "text",
        } & set(self.texts()):
            return []
        named = [
            chunk
            for chunk in self.clause[:at]
            if chunk.kind == "place" or (chunk.phrase is not None and not is_abstract(chunk.phrase))
        ]
        if not named:
            return []
        chunk = named[-1]
        return [
            (
                "text",
                chunk.text if chunk.phrase is None else chunk.phrase.description,
                self.clause[at].text,
                self.polarity,
            )
        ]

    @staticmethod
    def _is_open(phrase: NounPhrase) -> bool:
        """Whether a phrase names a thing outside of the lists: ``a dog``."""
        return (
            bool(phrase.noun)
            and not (phrase.known or phrase.refers or is_abstract(phrase))
            and phrase.noun not in ("row", "column", "colour", "kind of shape")
        )

    def _open(self) -> list[Reading]:
        """``there are two dogs``, ``the dog is brown``, ``the door is open``."""
        phrases = [phrase for phrase in self.things if self._is_open(phrase)]
        if not phrases:
            return []
        subject = phrases[0]
        if (
            self.has("there")
            or self.words & {"see", "notice", "spot"}
            or (self.has("have") and self.chunker.at(self.clause[0].start + 1) in IMAGE)
        ):
            name = " ".join(word for word in (subject.size, subject.colour, subject.noun) if word)
            if subject.number is not None:
                return [("count", name, f"{subject.bound}{subject.number}", self.polarity)]
            return [("object", name, "present", self.polarity and subject.quantity != "no")]
        verb = self.index("be")
        behind = self.clause[verb + 1 :]
        said = next((chunk.phrase.colour or chunk.phrase.size for chunk in behind if chunk.phrase is not None), "")
        said = said or next((chunk.text for chunk in behind if chunk.kind == "word" and chunk.text in _LOOKS), "")
        if verb < 1 or not said or subject.end > self.clause[verb].start:
            return []
        every = "every " if subject.quantity == "all" else ""
        return [("attribute", every + subject.noun, said, self.polarity)]

    def _likewise(self) -> list[Reading]:
        """``so is the star at the bottom right``; ``neither is B2``; ``row 3 looks just the same``."""
        last = self.context.last
        if not last:
            return []
        kind, _, value, polarity = last[-1]
        verb = self.index("be")
        inverted = verb >= 0 and all(
            chunk.kind in ("not", "word", "joint") or chunk.start == chunk.end for chunk in self.clause[:verb]
        )
        neither = "neither" in self.words or "nor" in self.words
        if (
            "but" in self.opening
            and len(self.clause) == 1
            and len(self.things) == 1
            and not polarity
            and kind in ("place", "attribute")
        ):
            said = self.things[0].content  # "B2 isn't red but blue"
            return [(kind, self.context.last[-1][1], said, True)]
        if not inverted or not (self.opening & {"so", "as"} or neither):
            return []
        polarity = polarity and not neither
        contents = [phrase for phrase in self.things if phrase.known and not self.only_noun(phrase)]
        cells = [place for place in self.places if len(place) == 2]
        if kind == "place" and cells:
            colours = [word for word in value.split() if word in COLOURS]
            if contents and colours:
                value = f"{colours[0]} {contents[0].shape}".strip()
            return [("place", cell, value, polarity) for cell in cells]
        if kind in ("object", "attribute") and contents:
            return [(kind, contents[0].description, value, polarity)]
        return []

    def _only_one(self) -> list[Reading]:
        """``it's the only one``; ``it is the only star``; ``the only colour is``."""
        texts, mind = self.texts(), self.context.things
        at = texts.index("only") if "only" in texts else 0
        if not at or texts[at - 1] != "the" or not self.subject_refers() or mind is None:
            return []
        said = next(filter(self.is_named, self.things), None)
        if said is None and texts[at + 1 : at + 2] != ["one"]:
            return []
        return [("count", (said or mind).description + self.within(), "1", self.polarity)]

    def _namely(self) -> list[Reading]:
        """``a single purple shape, namely a cross``."""
        if "namely" not in self.opening or len(self.things) != 1 or self.places or not self.is_named(self.things[0]):
            return []
        context, said = self.context, self.things[0]
        if context.about_place and context.places:
            return [("place", context.places[0], said.content, True)]
        if (
            context.base is not None
            and context.base.number == 1
            and context.base.colour
            and not context.base.shape
            and said.shape
        ):
            return [("attribute", context.base.description, said.shape, True)]
        return []

    def _partitive(self) -> list[Reading]:
        """``two of them are green``; ``none of them green``; ``among them a star``; ``the first of them in A1``."""
        at, base = self.index("of"), self.context.base
        if (
            base is not None
            and [chunk.kind for chunk in self.clause] == ["refer", "things"]
            and self.clause[0].text == "both"
        ):
            value = value_of(self.things[0], base)  # "two stars, both red"
            return [("attribute", f"every {base.description}", value, self.polarity)] if value else []
        if at < 0 or base is None or self.has("there"):
            return []
        before, behind = self.clause[:at], self.clause[at + 1 :]
        said = next((phrase for phrase in self.phrases(behind) if not phrase.refers and not is_abstract(phrase)), None)
        texts = [self.chunker.at(i) for chunk in before for i in range(chunk.start, chunk.end)]
        number = next((number for word in reversed(texts) if (number := value_in_words(word)) is not None), None)
        bound = next((phrase.bound for phrase in self.phrases(before)), "")
        cells = [place for place in self.places if len(place) == 2]
        joined = joined_description(base, said) if said is not None else base.description
        if said is None and not self.places:
            return []
        if any(word in ("none", "no", "neither") for word in texts) or (number == 1 and "not" in texts):
            return [("object", joined, "present", False)]
        if number is not None and not (cells and number == 1):
            return [("count", joined + self.within(), f"{bound}{number}", self.polarity)]
        if {"all", "each", "both"} & {*texts, *(chunk.text for chunk in before)} and said is not None:
            value = value_of(said, base)
            return [("attribute", f"every {base.description}", value, self.polarity)] if value else []
        if cells:
            return [("place", cell, base.content, self.polarity) for cell in cells]
        return [("object", joined, "present", self.polarity)] if said is not None and said.quantity == "a" else []

    def _plain(self) -> list[Reading]:
        """``the star is red``, ``there are three red stars``, ``a red star``."""
        contents = self.contents()
        if not contents:
            return []
        if (self.has("be") or self.has("refer")) and (found := self.attribute(contents)):
            return found
        if self.words & _ABSENT or (self.has("not") and any(chunk.text in _ABSENT for chunk in self.clause)):
            return [("object", phrase.description, "present", False) for phrase in contents if phrase.description]
        kinds = [
            phrase for phrase in contents if phrase.noun in ("colour", "kind of shape") and phrase.number is not None
        ]
        if self.clause[0].kind == "not" and not self.has("be") and not self.has("have"):
            return []  # "..., not orange"
        first = contents[0]
        if first.refers and first.number is not None and not self.polarity and _SHOWING & {*self.texts()}:
            return [("object", f"digit {first.number}", "present", False)]  # "5 doesn't appear"
        found = []
        for phrase in kinds or contents:
            found += self.counted(phrase) if self.asserts(phrase) else []
        return found

    def asserts(self, phrase: NounPhrase) -> bool:
        """Whether a phrase says that something is there: not ``the star``, and not a bare adjective."""
        if phrase.number is not None or phrase.quantity in ("a", "no", "several"):
            return not (phrase.empty and not phrase.quantity)
        if phrase.quantity == "all":
            return not self.polarity
        spoken = self.has("there") or self.has("have") or self.words & _SEEING
        return phrase.quantity == "" and bool(spoken) and bool(phrase.noun or phrase.shape)

    def attribute(self, contents: list[NounPhrase]) -> list[Reading]:
        """``the star is red``; ``all circles are green``; ``it's orange``; ``two of the stars are red``."""
        verb = self.index("be")
        before = [
            phrase
            for chunk in self.clause[: max(verb, 0)]
            if ((phrase := chunk.phrase) is not None and phrase.known) or (phrase and phrase in contents)
        ]
        behind = [
            phrase for chunk in self.clause[verb + 1 :] if (phrase := chunk.phrase) is not None and phrase in contents
        ]
        if not behind or any(chunk.kind == "there" for chunk in self.clause):
            return []
        if not before and self.subject_refers():
            return self._of_it(behind)
        if len(before) == 1 and before[0].refers and before[0].number == 1 and behind[0].quantity == "a":
            return [("object", one.description, "present", self.polarity) for one in behind if one.quantity == "a"]
        if len(before) != 1:
            return []
        subject, said = before[0], behind[0]
        if subject.empty and self.clause[0].text == "nothing":
            return [("object", said.description, "present", False)] if said.description else []
        value = value_of(said, subject)
        if not value:
            return []
        name = subject.description
        singled = self.clause[0].kind == "not" and (subject.number == 1 or subject.quantity == "a")
        if _VAGUE & {*self.texts()}:
            return []
        if subject.quantity == "no" or self.clause[0].text == "neither" or singled:
            return [("object", joined_description(subject, said), "present", False)]
        if subject.number is not None and subject.quantity in ("", "no"):
            return [
                (
                    "count",
                    joined_description(subject, said) + self.within(),
                    f"{subject.bound}{subject.number}",
                    self.polarity,
                )
            ]
        if subject.quantity in ("all", "both") or (subject.number is not None and {"both", "all"} & {*self.texts()}):
            first: list[Reading] = (
                [("count", name, "2", True)]
                if subject.quantity == "both" and subject.colour and not subject.shape
                else []
            )
            return [*first, ("attribute", f"every {name}", value, self.polarity)]
        return [("attribute", self.bar(name), value, self.polarity)]

    def _of_it(self, said: list[NounPhrase]) -> list[Reading]:
        context = self.context
        if any(self.chunker.at(phrase.start + 1) == "only" for phrase in said) and context.things is not None:
            return [("count", context.things.description, "1", self.polarity)]
        if context.about_place and context.places:
            merged = self.merged(said)
            return [("place", place, merged, self.polarity) for place in context.places] if merged else []
        if context.things is None:
            return []
        value = value_of(said[0], context.things)
        name = context.things.description
        return [("attribute", self.bar(name), value, self.polarity)] if value else []

    def counted(self, phrase: NounPhrase) -> list[Reading]:
        """A phrase that a row or column, or the image, is said to contain."""
        description, within = phrase.description, self.within()
        if phrase.refers:
            base = self.context.base or self.context.things
            description = base.description if base is not None else ""
        if not description:
            return []
        if phrase.number == 1 and not self.polarity:
            return [("object", description, "present", False)]
        earlier = [one for one in self.things if one.end <= phrase.start and one.shape]
        base = earlier[-1] if earlier else self.context.base
        if (
            phrase.number is not None
            and not phrase.noun
            and not phrase.shape
            and phrase.colour
            and base is not None
            and base.number not in (None, 1)
        ):
            description = joined_description(phrase, base)
        if phrase.number is not None and not (phrase.number == 1 and {"also", "another"} & set(self.texts())):
            return [("count", f"{description}{within}", f"{phrase.bound}{phrase.number}", self.polarity)]
        if phrase.quantity == "no":
            return (
                [("place", self.places[0], f"contains {phrase.content}", False)]
                if within
                else [("object", description, "present", False)]
            )
        if phrase.quantity == "all":  # "there aren't any stars"
            if self.polarity:
                return []
            return (
                [("place", self.places[0], f"contains {phrase.content}", False)]
                if within
                else [("object", description, "present", False)]
            )
        if within:
            return [("place", self.places[0], f"contains {phrase.content}", self.polarity)]
        return [("object", description, "present", self.polarity)]
