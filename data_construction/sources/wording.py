"""How the learned families are looked at and reasoned about, in words: the language of the bundled tiny models.

Only pretraining writes with this module (``train.tiny.pretrain``): plain answers for the tiny VLM, dialogues for the tiny
reasoner. The agent loop never imports it; there both roles are played by models.
"""

import random
from dataclasses import dataclass
from typing import Any

from data_construction.sources.render import CELLS, PLACES
from data_construction.sources.scenes import GRID, note_words

Facts = dict[str, str]  # place -> "red star", "none", or a digit


@dataclass(frozen=True)
class VisualQuestion:
    """A visual question: which ``kind`` (colour, shape, thing or digit) is at ``target`` (the grid, a row, a place, a pair)."""

    kind: str
    target: str
    note: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        if self.target == "the grid":
            return PLACES
        if self.target.startswith("row "):
            row = int(self.target.removeprefix("row "))
            return PLACES[(row - 1) * CELLS : row * CELLS]
        return tuple(self.target.split(" and "))


GRID_REQUESTS = ("List the {kind}s.",)
ROW_REQUESTS = ("Which {kind}s are in {target}?",)
PLACE_REQUESTS = {"thing": ("What is at {target}?",), "other": ("Which {kind} is at {target}?",)}
AGAIN = (
    "Look again at {target}: {which} {is_} there?",
    "Check {target} once more: {which} {is_} there?",
    "Look closely at {target}: {which} {is_} there?",
)
CUES = (
    "Wait, let me look again at {target}.",
    "Let me check {target} once more.",
    "Hold on, let me look closely at {target}.",
)
SMALL = 9.0  # pixels: what has a smaller radius is named coarsely by a hasty look
COARSE = {"orange": "red", "purple": "blue"}


def request(look: VisualQuestion, rng: random.Random, again: bool = False) -> str:
    """The words that ask for a look; ``again`` words it as a second look."""
    if again:
        plural = len(look.places) > 1
        which = "what" if look.kind == "thing" else f"which {look.kind}{'s' if plural else ''}"
        return rng.choice(AGAIN).format(target=look.target, which=which, is_="are" if plural else "is")
    if look.target == "the grid":
        forms = GRID_REQUESTS
    elif look.target.startswith("row "):
        forms = ROW_REQUESTS
    else:
        forms = PLACE_REQUESTS["thing" if look.kind == "thing" else "other"]
    words = rng.choice(forms).format(kind=look.kind, target=look.target)
    return f"Note: {look.note}. {words}" if look.note else words


def value(fact: str, kind: str) -> str:
    """What a look of that kind says of a fact: the colour, the shape, or all of it."""
    words = fact.split()
    return words[0 if kind == "colour" else 1] if kind in ("colour", "shape") and len(words) == 2 else fact


def hasty(facts: Facts, radii: list[float]) -> Facts:
    """What a look in passing makes of a grid: small things are called circles, and in the plainest colours.

    Captions on the web are coarse in this way, and pointed questions are answered with more care. Pretraining writes
    lists and plain reasoning from ``hasty(facts)`` and answers to "look again", "look closely" and "check" from the
    facts: so the base model has a quick look that errs on about one fact in ten, and a careful one that errs less.
    """
    seen = {}
    for (place, fact), radius in zip(facts.items(), radii, strict=True):
        if fact != "none" and radius < SMALL:
            colour = fact.split()[0]
            fact = f"{COARSE.get(colour, colour)} circle"
        seen[place] = fact
    return seen


def reply(look: VisualQuestion, facts: Facts) -> str:
    """``row 1: red none blue; row 2: ...`` or ``A1: red; C2: orange star``."""
    if look.target != "the grid" and not look.target.startswith("row "):
        return "; ".join(f"{place}: {value(facts[place], look.kind)}" for place in look.places)
    return "; ".join(f"row {row}: {row_values(facts, row, look.kind)}" for row in rows_of(look))


def rows_of(look: VisualQuestion) -> list[int]:
    return sorted({int(place[1]) for place in look.places})


def row_values(facts: Facts, row: int, kind: str) -> str:
    return " ".join(value(facts[place], kind) for place in VisualQuestion(kind, f"row {row}").places)


def look_at(family: str, params: dict[str, Any]) -> VisualQuestion:
    """The look that shows all that a family's question is about."""
    if family == "count":
        return VisualQuestion(params["kind"], "the grid")
    if family == "compare":
        return VisualQuestion(params["kind"], " and ".join(params["places"]))
    if family == "place":
        return VisualQuestion("thing", params["place"])
    if family == "claims":
        return VisualQuestion("thing", params["place"], note_words(params))
    if family == "digit_sum":
        return VisualQuestion("digit", f"row {params['row']}")
    raise ValueError(f"no wording for family '{family}'")


def total(family: str, params: dict[str, Any], facts: Facts) -> str:
    """What a question asks for as one statement about the image: ``red: 3``. Empty where it is a place's own fact."""
    answer = conclude(family, params, facts)[1]
    if family == "count":
        return f"{params['key']}: {answer}"
    if family == "compare":
        return f"same {params['kind']} at {' and '.join(params['places'])}: {answer}"
    if family == "digit_sum":
        return f"sum of row {params['row']}: {answer}"
    return ""


def glance(family: str, params: dict[str, Any], facts: Facts) -> str:
    """What is said of a question without going through the image: the total alone, or the place."""
    return total(family, params, facts) or reply(look_at(family, params), facts)


def glance_request(family: str, params: dict[str, Any], question: str, rng: random.Random) -> str:
    """The words that ask for a glance: the question itself, or what is at the place (with the note about it)."""
    return request(look_at(family, params), rng) if family in ("place", "claims") else question.removeprefix(GRID)


def conclude(family: str, params: dict[str, Any], facts: Facts) -> tuple[str, str]:
    """What is said when ``facts`` was seen: (reasoning, answer).

    Operands stand side by side, and the asked word is restated beside what it is compared with: a small model does not
    learn a test that has to look back at the question (see docs/log.md).
    """
    if family == "count":
        key, kind = params["key"], params["kind"]
        counts = [row_values(facts, row, kind).split().count(key) for row in range(1, CELLS + 1)]
        said = [f"row {row}: {row_values(facts, row, kind)}, {key} {counts[row - 1]}" for row in range(1, CELLS + 1)]
        answer = str(sum(counts))
        return "; ".join(said) + f"; {' + '.join(map(str, counts))} = {answer}.", answer
    if family == "compare":
        seen = [value(facts[place], params["kind"]) for place in params["places"]]
        answer = "yes" if seen[0] == seen[1] else "no"
        both = "; ".join(f"{place}: {what}" for place, what in zip(params["places"], seen, strict=True))
        return f"{both}; {' '.join(seen)}, {'the same' if answer == 'yes' else 'different'}.", answer
    if family == "place" or (family == "claims" and params["form"] == "what"):
        seen_there = facts[params["place"]]
        return f"{params['place']}: {seen_there}.", seen_there
    if family == "claims":
        seen_there, note = facts[params["place"]], params["note"]
        answer = "yes" if seen_there == note else "no"
        return f"{params['place']}: {seen_there}, note {note}; {'right' if answer == 'yes' else 'wrong'}.", answer
    if family == "digit_sum":
        row = params["row"]
        a, b, c = (int(digit) for digit in row_values(facts, row, "digit").split())
        said_sum = f"{a} + {b} = {a + b}; {a + b} + {c} = {a + b + c}."
        return f"row {row}: {a} {b} {c}; {said_sum}", str(a + b + c)
    raise ValueError(f"no wording for family '{family}'")


def cue(look: VisualQuestion, rng: random.Random) -> str:
    """The words with which a first-person trace goes back to the image."""
    return rng.choice(CUES).format(target=look.target)
