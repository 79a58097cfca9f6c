"""Yes and no, true and false, alone or in a sentence. The side that is taken counts, not the words of the reason."""

import re

from reward.cues import Clause, Phrase, clauses_of, scan, tokens_of
from reward.parsing import words

_PLAIN = {"yes": True, "true": True, "y": True, "no": False, "false": False, "n": False}
_CLAUSE_FOLLOWS = {"that", "que", "dass", "qu'il", "что"}  # "it is true that ..."
_SIDES = {"yes": True, "right": True, "no": False, "wrong": False}
_HYPHEN = re.compile(r"\b(yes|no|non|true|false)-(?=\w)", re.IGNORECASE)  # "no-one" is one word
_ALONE = {"不", "不 是", "没 有", "沒 有", "아 닙 니 다", "아 니 에 요"}  # denials that are a whole answer
_NEITHER = {"neither", "nor", "weder", "ni"}
_SECOND_HALF = {"pas", "jamais", "plus", "aucun"}
"""They deny together with an earlier "ne": "je ne dirais pas" denies once."""
_NAMING = {"is", "was", "ist", "は", "는", "은", "이", "가"}
_PLACES = {"for", "in", "on", "at", "to"}
_SUPPOSED = {f"would {verb}" for verb in ("need", "require", "mean", "imply", "demand", "contradict", "suppose")}
_EXCEPTIONS = """except; except for; excluding; other than; apart from; außer; sauf; excepté; salvo; excepto; exceto;
tranne; кроме; إلا; 除; 除 了"""
_EXCEPT = frozenset(_EXCEPTIONS.replace("\n", " ").split("; "))
_MOSTLY = {"usually", "generally", "normally", "often", "meistens", "обычно", "通 常"}
"""They bound the side beside them, and say nothing in another clause: "Yes, it usually rains there"."""
_SENTENCE_ENDS = {".", "。", "!", "！", ";", "；"}
_ASSURED = re.compile(
    r"that is so|sure|genau|tout à fait|确实如此|确实|肯定是|当然是|absolutely|definitely|certainly|of course|indeed|exactly"
    r"|surely|naturally|natürlich|selbstverständlich|sicherlich|bien sûr"
    r"|certainement|exactement|claro|claro que sí|por supuesto|desde luego|конечно|разумеется|بالتأكيد|بالطبع"
    r"|当然|當然|もちろん|勿論|물론|물론입니다"
    r"|(?:indeed |yes |of course )?(?:it|they|he|she) (?:(?:really|certainly|indeed) )?(?:is|are|does|do|has|have|was|were|did)(?: indeed)?"
)
_REFUTED = re.compile(
    r"not at all|never|by no means|no chance|no way|keineswegs|auf keinen fall|pas du tout"
    r"|en absoluto|para nada|вовсе нет|绝不|绝对不是|当然不"
)
"""Whole answers that agree without a word for yes, and those that deny without a word for no."""
_MODAL_LINKS = {"es", "son", "está", "era", "hay", "è", "sono", "é", "são", "fue", "tiene"}


def read_yes_no(text: str) -> bool | None:
    """Yes or no; None for neither, for both, and for a side that is left open ("maybe", "yes and no")."""
    given = words(text)
    if "?" in text or "？" in text:
        return None
    if given in _PLAIN:
        return _PLAIN[given]
    if _ASSURED.fullmatch(given):
        return True
    if _REFUTED.fullmatch(given):
        return False
    items = scan(tokens_of(_HYPHEN.sub(r"\1", text)))
    conclusion = max((place for place, item in enumerate(items) if item.kind == "so"), default=-1)
    if conclusion >= 0 and (side := _side_taken(items[conclusion + 1 :])) is not None:
        return side
    return _side_taken(items)


def _side_taken(items: list[Phrase]) -> bool | None:
    """The one side that the text takes before its first reason."""
    sides: set[bool] = set()
    stated = conditional = settled = False
    for clause in clauses_of(items):
        kinds = {item.kind for item in clause.items}
        doubts = "doubt" in kinds and kinds.isdisjoint(_SIDES)
        # "No, I doubt it" agrees with itself; "I doubt it" alone is left open.
        found = {False} if doubts else _sides_of(clause, first=clause.items[0] is items[0])
        if found is None or (doubts and not stated and clause.end in (",", "，")):
            return None  # "Ich bezweifle, dass es falsch ist"
        stated = stated or (bool(found) and not doubts)
        sides |= found
        conditional = conditional or (not settled and _is_conditional(clause, stated, bool(found)))
        if conditional and sides:
            return None
        if clause.end in _SENTENCE_ENDS:  # "Yes. If we look at the left bar, ..." is not conditional
            conditional, settled = False, stated
        if sides and any(item.kind == "because" for item in clause.items):
            break
    return sides.pop() if stated and len(sides) == 1 else None


def _is_conditional(clause: Clause, stated: bool, sided: bool) -> bool:
    """Whether a clause says when, or for what, the side holds and when it does not: ``if it is red``, ``except for the left one``."""
    for place, item in enumerate(clause.items):
        if item.kind == "because":
            return False
        if item.kind == "condition" and (sided or item.text.casefold() not in _MOSTLY):
            return True
        behind = stated and (not place or clause.items[place - 1].kind in ("yes", "no"))
        if item.kind == "except" and (behind and item.text.lower() in _EXCEPT):
            return True
    return False


def _sides_of(clause: Clause, first: bool) -> set[bool] | None:
    """The sides that a clause takes: none, one or (a contradiction) both; None if it leaves the side open.

    Args:
        first: the text begins with this clause.
    """
    items = clause.items
    reason = next((place for place, item in enumerate(items) if item.kind == "because"), len(items))
    items = items[:reason]
    known = not any(item.kind in ("other", "join", "except") for item in items)
    if any(item.kind in ("hedge", "doubt") or (known and item.text.casefold() in _NEITHER) for item in items):
        return None
    if items and items[-1].text == "是" and all(item.kind in ("frame", "answer", "link") for item in items):
        return {True}  # elsewhere it is a link
    sides: set[bool] = set()
    denied = False
    for place, item in enumerate(items):
        after = items[place + 1] if place + 1 < len(items) else None
        before = items[place - 1] if place else None
        if item.kind in ("not", "rather"):
            denied = not denied or item.text.casefold() in _SECOND_HALF
        elif item.kind in ("yes", "no"):
            if not first and " ".join(one.text for one in items[place + 1 : place + 3]).casefold() in _SUPPOSED:
                break  # "No. Yes would need equal circles."
            if item.kind == "no" and after is not None and after.text.casefold() in _MODAL_LINKS:
                denied = not denied  # "No es correcto"
                continue
            thing = after is not None and after.kind in ("other", "article") and after.text not in _PLACES
            if item.kind == "no" and thing and not (first and not place):
                continue  # "there is no cat": of the thing, not of the answer
            misled = any(one.kind == "wrong" for one in items[:place])  # "it would be wrong to say yes"
            misled = misled or any(one.kind == "except" for one in items[:place])  # "anything but yes"
            if denied or misled or _is_denied_name(items[place + 1 :]) or _joined(before, after):
                return {True, False}
            sides.add(item.kind == "yes")
        elif item.kind in ("right", "wrong") and _is_judgement(items, place):
            if _joined(before, after):
                return {True, False}
            denial = denied or any(one.kind == "not" for one in items[place + 1 :])
            sides.add(_SIDES[item.kind] is not denial)
    if not sides and denied and known and items[-1].kind == "not" and (len(items) > 1 or (items[0].text in _ALONE)):
        return {False}  # "it is not", "it doesn't"
    return sides


def _is_denied_name(behind: list[Phrase]) -> bool:
    """Whether the side before these items is only named, to deny it: ``No is wrong``, ``いいえではありません``."""
    if behind and behind[0].kind == "not":
        return behind[0].text[0] in "でじ"
    return len(behind) > 1 and behind[0].text in _NAMING and behind[1].kind in ("not", "wrong", "right")


def _joined(before: Phrase | None, after: Phrase | None) -> bool:
    return any(item is not None and item.kind == "join" for item in (before, after))


def _is_judgement(items: list[Phrase], place: int) -> bool:
    """Whether true, false and their kind are said of the statement, and not of a thing ("the true length")."""
    behind = [item.kind for item in items[place + 1 :]]
    if behind and items[place + 1].text in _CLAUSE_FOLLOWS:
        behind = []
    if any(kind not in ("frame", "not", "link", "join", "right", "wrong") for kind in behind):
        return False
    before = [item.kind for item in items[:place] if item.kind not in ("frame", "article")]
    return (
        not before or before[-1] in ("link", "not", "rather", "yes", "no", "right", "wrong", "join") or "link" in before
    )
