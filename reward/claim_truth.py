"""Whether a claim holds in a scene whose facts are known."""

import re
from collections.abc import Callable, Mapping, Sequence

from reward.claim_facts import Claim, Scene, SceneItem
from reward.prose.words import COLOURS, SHAPES, plain_words


def claim_is_true(claim: Claim, facts: Mapping[str, str]) -> bool | None:
    """Whether a claim, its denial included, holds in the scene of ``facts``; None where the facts cannot tell."""
    scene = Scene(facts)
    return _JUDGES[claim.kind](scene, claim) if claim.kind in _JUDGES and scene.items else None


def _as_stated(claim: Claim, holds: bool | None) -> bool | None:
    return None if holds is None else holds == claim.polarity


def _object_holds(scene: Scene, claim: Claim) -> bool | None:
    found = scene.described(claim.subject)
    return None if found is None else _as_stated(claim, bool(found))


_BOUND = re.compile(r"(?:(at least|at most|more than|fewer than) )?(\d{1,6})")
_COMPARED: dict[str | None, Callable[[int, int], bool]] = {
    None: lambda found, said: found == said,
    "at least": lambda found, said: found >= said,
    "at most": lambda found, said: found <= said,
    "more than": lambda found, said: found > said,
    "fewer than": lambda found, said: found < said,
}


def _count_holds(scene: Scene, claim: Claim) -> bool | None:
    said = _BOUND.fullmatch(claim.value)
    subject, _, where = claim.subject.partition(" in ")
    region = scene.at(where) if where else scene.items
    if said is None or not region:
        return None
    if subject in ("colour", "kind of shape"):
        known = COLOURS if subject == "colour" else SHAPES
        count = len({word for item in region for word in item.words if word in known})
    else:
        found = scene.described(claim.subject)
        if found is None:
            return None
        count = len(found)
    return _as_stated(claim, _COMPARED[said[1]](count, int(said[2])))


def _place_holds(scene: Scene, claim: Claim) -> bool | None:
    items, value = scene.at(claim.subject), claim.value
    if not items:
        return None
    kind, _, rest = value.partition(" ")
    if kind in ("contains", "all") and rest:
        fits = [_fits(scene, item, rest) for item in items]
        if None in fits:
            return None
        return _as_stated(claim, any(fits) if kind == "contains" else all(fits))
    contents = [part.strip() for part in value.split(",")]
    if len(contents) == 1 and len(items) > 1:
        contents *= len(items)  # "the row is empty"
    fits = [_fits(scene, item, content) for item, content in zip(items, contents, strict=False)]
    if None in fits:
        return None
    return _as_stated(claim, len(contents) == len(items) and all(fits))


def _fits(scene: Scene, item: SceneItem, content: str) -> bool | None:
    """Whether an item is what is said: ``red star``, ``red``, ``none``, ``occupied``, ``7``, ``5`` (a bar's height)."""
    if content in ("none", "occupied"):
        return item.empty == (content == "none")
    words = [word for word in plain_words(content).split() if word not in ("bar", "shape", "digit")]
    if scene.form == "chart" and len(words) == 1 and words[0].isdecimal():
        return item.number == int(words[0])
    if any(not scene.knows(word) for word in words):
        return None
    return item.words.issuperset(words)


def _attribute_holds(scene: Scene, claim: Claim) -> bool | None:
    every, subject = claim.subject.startswith("every "), claim.subject.removeprefix("every ")
    items = scene.at(subject) or scene.described(subject)
    if items is None:
        return None
    if not items:
        return False
    height = _BOUND.fullmatch(claim.value) if scene.form == "chart" else None
    fits = [
        _COMPARED[height[1]](item.number, int(height[2]))
        if height and item.number is not None
        else _fits(scene, item, claim.value)
        for item in items
    ]
    if None in fits:
        return None
    if every:
        return _as_stated(claim, all(fits))
    return _one_or_all(claim, fits)


def _one_or_all(claim: Claim, fits: Sequence[bool | None]) -> bool | None:
    """Of ``the star`` where there are several: true if it is so of all, false if of none, else not known."""
    return _as_stated(claim, fits[0]) if len(set(fits)) == 1 else None


# Relations

_RELATION = re.compile(
    r"((?:directly )?(?:left of|right of|above|below|next to)|diagonal to|between"
    r"|same (?:colour|shape|row|column) as|same as"
    r"|sum more than|sum less than|twice|half|three times|more than|fewer than|as many as"
    r"|(?:larger|taller|higher|smaller|shorter|lower) than"
    r"|as (?:tall|high) as|(?:twice|half|three times) as (?:tall|high|many) as) (.+)"
)
_TURNED = {"higher": "taller", "larger": "taller", "lower": "shorter", "smaller": "shorter"}


def _relation_holds(scene: Scene, claim: Claim) -> bool | None:
    read = _RELATION.fullmatch(claim.value)
    if read is None:
        return None
    relation, other = read[1], read[2]
    if relation in ("more than", "fewer than", "as many as", "twice as many as", "half as many as"):
        counted = [scene.described(one.removeprefix("some ")) for one in (claim.subject, other)]
        if counted[0] is None or counted[1] is None:
            return None
        first, second = len(counted[0]), len(counted[1])
        return _as_stated(claim, _compared_counts(relation, first, second))
    if relation.startswith("sum "):
        sums = [[item.number for item in scene.at(one)] for one in (claim.subject, other)]
        if not all(sums) or any(number is None for numbers in sums for number in numbers):
            return None
        first, second = (sum(number or 0 for number in numbers) for numbers in sums)
        return _as_stated(claim, first > second if relation == "sum more than" else first < second)
    if relation == "same as" and claim.subject[:3] in ("row", "col"):
        lines = [[item.words for item in scene.at(one)] for one in (claim.subject, other)]
        return _as_stated(claim, lines[0] == lines[1]) if all(lines) else None
    objects = [_items_named(scene, one) for one in (other.split(" and ", 1) if relation == "between" else [other])]
    subjects = _items_named(scene, claim.subject.removeprefix("some "))
    if claim.subject == "none":
        subjects = [item for item in scene.items if not item.empty]
    if subjects is None or any(one is None for one in objects):
        return None
    if any(not one for one in objects):
        return False
    if relation == "between":
        pairs = [[_between(one, a, b) for a in objects[0] or () for b in objects[1] or ()] for one in subjects]
    else:
        pairs = [[_related(scene, relation, one, two) for two in objects[0] or ()] for one in subjects]
    if any(one is None for row in pairs for one in row):
        return None
    if claim.subject == "none":
        found = [any(row) for row in pairs]
        return not any(found) if len(objects[0] or ()) == 1 else None if any(found) else True
    if not subjects:
        return False
    if claim.subject.startswith("some ") or other.startswith("some "):
        return _as_stated(claim, any(any(row) for row in pairs))
    return _one_or_all(claim, [one for row in pairs for one in row])


def _items_named(scene: Scene, name: str) -> list[SceneItem] | None:
    return scene.at(name) or scene.described(name.removeprefix("some "))


def _compared_counts(relation: str, first: int, second: int) -> bool:
    return {
        "more than": first > second,
        "fewer than": first < second,
        "as many as": first == second,
        "twice as many as": first == 2 * second,
        "half as many as": 2 * first == second,
    }[relation]


def _between(one: SceneItem, first: SceneItem, second: SceneItem) -> bool | None:
    if one.row is None or first.row is None or second.row is None:
        return min(first.column, second.column) < one.column < max(first.column, second.column)
    if first.row == second.row:
        return one.row == first.row and min(first.column, second.column) < one.column < max(first.column, second.column)
    if first.column == second.column:
        return one.column == first.column and min(first.row, second.row) < one.row < max(first.row, second.row)
    return None


def _related(scene: Scene, relation: str, one: SceneItem, two: SceneItem) -> bool | None:
    """Whether ``one`` stands in a relation to ``two``; None where the facts do not say."""
    direct, side = relation.startswith("directly "), relation.removeprefix("directly ")
    across = one.column - two.column
    down = None if one.row is None or two.row is None else one.row - two.row
    if scene.form == "other" and not relation.startswith("same"):
        return None
    if side in ("left of", "right of"):
        ordered = across < 0 if side == "left of" else across > 0
        return ordered and (not direct or (abs(across) == 1 and not down))
    if side in ("above", "below"):
        if down is None:
            return None
        ordered = down < 0 if side == "above" else down > 0
        return ordered and (not direct or (abs(down) == 1 and across == 0))
    if side == "next to":
        return abs(across) + abs(down) == 1 if down is not None else abs(across) == 1 if scene.form == "chart" else None
    if side == "diagonal to":
        return None if down is None else abs(across) == abs(down) == 1
    if relation == "same row as":
        return None if down is None else down == 0
    if relation == "same column as":
        return None if down is None else across == 0
    if relation.startswith("same"):
        words = {"same colour as": COLOURS, "same shape as": SHAPES}.get(relation)
        first, second = (item.words if words is None else item.words & words for item in (one, two))
        if not first or not second:
            return None
        return first == second
    if one.number is None or two.number is None:
        return None
    form, *_ = relation.split()
    if form in ("twice", "half", "three"):
        return one.number * (2 if form == "half" else 1) == two.number * {"twice": 2, "half": 1, "three": 3}[form]
    if form == "as":
        return one.number == two.number
    return one.number > two.number if _TURNED.get(form, form) == "taller" else one.number < two.number


def _text_holds(scene: Scene, claim: Claim) -> bool | None:
    subject, value = claim.subject, claim.value
    if subject == "all":
        items = [item for item in scene.items if not item.empty]
    else:
        items = [item for part in subject.split(" + ") for item in scene.at(part)]
    if not items:
        return None
    kind, _, said = value.rpartition(" ")
    if kind in ("sum", "largest", "smallest") and said.isdecimal():
        numbers = [item.number for item in items if item.number is not None]
        if len(numbers) != len(items):
            return None
        found = sum(numbers) if kind == "sum" else max(numbers) if kind == "largest" else min(numbers)
        return _as_stated(claim, found == int(said))
    if scene.form == "other":
        return _as_stated(claim, plain_words(value) == items[0].fact)
    contents = value.split()
    return _as_stated(
        claim, len(contents) == len(items) and all(a in b.words for a, b in zip(contents, items, strict=True))
    )


_JUDGES: dict[str, Callable[[Scene, Claim], bool | None]] = {
    "object": _object_holds,
    "attribute": _attribute_holds,
    "place": _place_holds,
    "count": _count_holds,
    "relation": _relation_holds,
    "text": _text_holds,
}
