"""Equal words: dates and times in any notation, spelling variants, lists, and case where it tells two answers apart.

Nothing here raises on any text of at most ``parsing.MAX_CHARACTERS``.
"""

import re
from functools import lru_cache

from reward.aliases import split_aliases
from reward.chemistry import elements, names_substance
from reward.dates import names_day_first, read_date, read_time
from reward.parsing import EMPHASIS, plain, words
from reward.quantity import read_quantity
from reward.sentence import is_denied, said_answers
from reward.spelling import one_spelling, with_umlauts_spelled, without_accents
from reward.units import read_unit

_ARROWS = [
    (re.compile(pattern), arrow)
    for pattern, arrow in (
        (r"\s*(?:<-{1,2}>|⟷|\\(?:long)?leftrightarrow)(?![a-zA-Z])\s*", " ↔ "),
        (r"\s*(?:<=+>|⇔|⇌|\\(?:Leftrightarrow|rightleftharpoons|iff))(?![a-zA-Z])\s*", " ⇌ "),
        (r"\s*(?:-{1,2}>|⟶|➔|➝|➡|\\(?:longrightarrow|rightarrow|to))(?![a-zA-Z])\s*", " → "),
        (r"\s*(?:<-{1,2}|⟵|\\(?:longleftarrow|leftarrow|gets))(?![a-zA-Z])\s*", " ← "),
    )
]
_CHEMISTRY = re.compile(r"\\ce\s*\{([^{}]*)\}")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z)\]])\s*_\s*\{?\s*(\d{1,3})\s*\}?(?:\s+(?=[A-Z(]))?")
_CHARGE = re.compile(r"(?<=[A-Za-z0-9)\]])\s*\^\s*\{?\s*(\d?[+-])\s*\}?")
_INITIALS = re.compile(
    r"(?<![\w.])[A-Za-z]\.(?:\s?[A-Za-z]\.)+(?:[A-Za-z](?!\w))?|(?<![\w.])[A-Za-z](?:\.[A-Za-z])+(?!\w)|(?<=Ph)\.(?=D)"
)
_RANGE = re.compile(r"(?<=\d)\s*(?:-|to|through|until|till|bis|à|至|到)\s*(?=\d)", re.IGNORECASE)
_FROM = re.compile(
    r"^(?:from|between|von|de|从)\s*(?=\d[^a-z]*(?:to|through|until|and|bis|à|a|到|至)\s*\d)", re.IGNORECASE
)
_CODE = re.compile(r"(?<![\w.,:/-])0\d+(?![\w.,:/-])")
_SEPARATOR = re.compile(
    r"\s*(?:[,;、،](?:\s*(?:and|&|und|et|y|e|и)\s)?|\s(?:and|&|und|et|y|e|и)\s|[和与與及])\s*", re.IGNORECASE
)
_JOINED = re.compile(r"\s(?:and|&|und|et|y|e|и)\s|[和与與及]", re.IGNORECASE)
_PREPOSITION = re.compile(
    r"^(?:(?:(?:in|im|en) )?(?:the |el |l['’])?(?:year|jahr|année|año) (?=\d)|(?:on|in|at|to|im|am|auf|en|dans|em) (?:the )?)"
)
_ARTICLE = re.compile(  # before a capital, "el" belongs to a name: El Paso
    r"^(?:the |(?:der|die|das|den|dem|ein|eine|einen) |"
    r"(?:el|la|los|las|un|una|le|les|une|o|a|os|um|uma|il|lo) (?=[^\WA-Z])|l['’])(?=\w)"
)
_LABEL = re.compile(  # of a code: "Room A-12", "#0042"
    r"^(?i:(?:room|gate|seat|flight|platform|number|isbn|tel\.?|phone|fax|nr\.?|no\.|n[º°]|code|item|apt\.?|unit)\s*#?|#)\s*"
    r"(?=[+(]?[A-Za-z]{0,3}[ -]?\d)"
)
_NAMES_OF_GREEK = "alpha beta gamma delta theta lambda pi sigma phi omega"
_GREEK_NAMES = dict(zip("αβγδθλπσφω", _NAMES_OF_GREEK.split(), strict=True))
_GREEK = re.compile("(?<![α-ωά-ώ])[αβγδθλπσφω](?![α-ωά-ώ])")  # a letter by itself: no Greek word
_SCHEME = re.compile(r"^https?://(?=\w)")
_SEAT = re.compile(r"([A-Za-z]{1,3})[ -]?(\d{1,5}[A-Za-z]?)")  # B 3, B-3, B3
_PHONE = re.compile(r"\+?\s?[\d(][\d\s().-]*")
_ALLELE = re.compile(r"\^\s*\{?\s*([A-Za-z])\s*\}?(?![A-Za-z]*[a-z])\s*")
_APPOSITION = re.compile(r"((?:[^()]|\([^()]*\))+?)\s*\(((?:[^()]|\([^()]*\))+)\)\.?")  # Ca(OH)2 (calcium hydroxide)

_ALSO_WORDS = {"he", "be", "as", "in", "at", "am", "no", "i", "ho"}
_GENES = re.compile(r"([a-z])\1(?:([a-z])\2)?")


def same_text(answer: str, gold: str) -> bool:
    """Whether an answer says what a gold answer says, by itself or in a sentence; ``|`` in the gold answer sets aliases apart."""
    if answer.strip() == gold.strip():
        return True
    aliases = [alias for alias in split_aliases(gold, "text") if words(alias)]
    if any(_equal(answer, alias) for alias in aliases):
        return True
    if any(_equal(said, alias) for said in said_answers(answer) for alias in aliases):
        return True
    # "Sodium chloride (NaCl)": both names have to be right.
    both = _APPOSITION.fullmatch(plain(answer))
    if both is None:
        return False
    if all(any(_names(part, alias) for alias in aliases) for part in both.groups()):
        return True
    # "NaCl (sodium chloride)"
    one, other = both.groups()
    return any(
        _equal(formula, alias) and names_substance(name, _bare_text(formula))
        for alias in aliases
        for formula, name in ((one, other), (other, one))
    )


def _names(part: str, alias: str) -> bool:
    """Whether a part names an alias, perhaps with further words (``oxygen gas`` for ``oxygen``)."""
    if _equal(part, alias):
        return True
    return not is_denied(part) and bool(wanted := _fold(alias).split()) and set(wanted) <= set(_fold(part).split())


def _equal(answer: str, gold: str) -> bool:
    written, gold_written = answer, gold
    answer, gold = _bare_text(answer), _bare_text(gold)
    if (wanted := read_time(gold)) is not None and (given := read_time(answer)) is not None:
        return wanted == given
    day_first = names_day_first(gold) or names_day_first(answer)
    if (date := read_date(gold, day_first)) is not None and (given_date := read_date(answer, day_first)) is not None:
        return date == given_date
    if re.search(r"[-(+]", gold) and (digits := _phone(gold)) is not None:  # not "1 000 000 000"
        return _phone(_LABEL.sub("", answer)) == digits or answer == digits
    as_words = "=" in gold or answer.count("=") > 1 or _CODE.search(gold) or _CODE.search(answer)
    if not as_words and (want := read_quantity(gold_written)) and (got := read_quantity(written)):
        # Words beside a number that are no unit ("1600 Pennsylvania Ave") may be the same words all the same.
        named = all(read.unit is not None and not read.unit.known for read in (want, got))
        if want.name == got.name or not named:
            return want.name == got.name
    one, other = _fold(answer), _fold(gold)
    if one == other or without_accents(one) == other or one == without_accents(other):  # an accent may be left out
        return not _case_differs(answer, gold)
    if gold[:1].isupper() and (seat := _SEAT.fullmatch(gold)) and (seen := _SEAT.fullmatch(answer)):
        return seat[0] == seen[0] or (
            _fold("".join(seat.groups())) == _fold("".join(seen.groups())) and not _case_differs(seen[1], seat[1])
        )
    if with_umlauts_spelled(one) == with_umlauts_spelled(other) or _closed(answer) == _closed(gold):
        return not _case_differs(answer, gold)
    if len(items := _items(gold)) > 2 or (len(items) > 1 and _JOINED.search(gold)):
        given_items = _items(answer)
        return given_items == items or (bool(_JOINED.search(gold)) and sorted(given_items) == sorted(items))
    bare, wanted_bare = (_without_lead(text) for text in (answer, gold))
    return any(  # "in the box" is not "on the box": only one of them may lose its preposition
        _fold(_ARTICLE.sub("", _lower_start(given), count=1)) == _fold(_ARTICLE.sub("", _lower_start(want), count=1))
        and not _case_differs(given, want)
        for given, want in ((answer, gold), (bare, gold), (answer, wanted_bare))
    )


@lru_cache(maxsize=512)
def _bare_text(text: str) -> str:
    """Plain text with one kind of arrow, formulas without their indices, and abbreviations without their points."""
    text = " ".join(text.split())  # one space each, so that the patterns below are linear
    text = re.sub(r"(?<=\d)\s?~\s?(?=\d)", "-", _CHEMISTRY.sub(r"\1", text))
    for pattern, arrow in _ARROWS:
        text = pattern.sub(arrow, text)
    text = _CHARGE.sub(r"\1", _SUBSCRIPT.sub(r"\1", plain(text)))
    if "^" in text:
        text = _ALLELE.sub(r"^\1 ", text)  # X^r X^r
    if "*" in text or "_" in text:
        text = EMPHASIS.sub(r"\2", text)
    text = re.sub(r"(?<=\d)['’](?=s\b)", "", _SCHEME.sub("", text))  # 1990's
    text = _INITIALS.sub(lambda match: match[0].replace(".", "").replace(" ", ""), text)
    return text.strip("\"'“”‘’「」『』«»`【】[]。 ")


@lru_cache(maxsize=512)
def _fold(text: str) -> str:
    text = _RANGE.sub("-", _FROM.sub("", text).replace(" and ", " to ") if _FROM.match(text) else text)
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", text)  # Coca-Cola
    text = re.sub(r"(?<=\w) - (?=\d)", "-", _GREEK.sub(lambda match: _GREEK_NAMES[match[0]], text))
    text = re.sub(r"\s*([+→←↔⇌])\s*", r" \1 ", text.replace("&", " and "))
    return one_spelling(words(text))


def _phone(text: str) -> str | None:
    """The digits of a telephone number or of another code of three groups and nine digits at least; None where a text is none."""
    if not _PHONE.fullmatch(text) or len(re.findall(r"\d+", text)) < 3 or re.search(r"\s[-.]\s", text):
        return None
    digits = re.sub(r"[^\d+]", "", text)
    return digits if len(digits) >= 9 else None


def _closed(text: str) -> str:
    """Words with their hyphens closed up: ``e-mail`` and ``email``; ``A-B`` and ``X-1`` stay."""
    return _fold(re.sub(r"(?<=[^\W\d_])-(?=[A-Za-z][a-z])", "", text))


def _without_lead(text: str) -> str:
    """A text without a preposition, or without the label of a code."""
    text = _lower_start(text)
    shorter = _LABEL.sub("", text, count=1)
    return _PREPOSITION.sub("", text, count=1) if shorter == text else shorter


def _items(text: str) -> list[str]:
    return [folded for item in _SEPARATOR.split(text) if (folded := _fold(item))]


def _lower_start(text: str) -> str:
    """The text, its first letter small: ``Die Straße`` begins like a sentence."""
    return text[:1].lower() + text[1:]


def _case_differs(answer: str, gold: str) -> bool:
    """Whether texts that are equal but for case name different things: ``CO`` and ``Co``, ``mW`` and ``MW``, the genes ``Aa``, ``AA``."""
    ones, others = (re.findall(r"\w+", text) for text in (answer, gold))
    if len(ones) == len(others) == 1:
        units = [read_unit(word) for word in (*ones, *others)]
        if units[0].known and units[1].known and units[0] != units[1]:
            return True
    if "^" in gold and re.findall(r"\^([A-Za-z])", answer) != re.findall(r"\^([A-Za-z])", gold):
        return True
    return any(one != other and _distinct(one, other) for one, other in zip(ones, others, strict=False))


def _distinct(one: str, other: str) -> bool:
    folded = one.casefold()
    if folded != other.casefold() or folded in _ALSO_WORDS:
        return False
    if len(folded) in (2, 4) and _GENES.fullmatch(folded):
        return True
    made_of = [elements(word) for word in (one, other)]
    return made_of[0] is not None and made_of[1] is not None and made_of[0] != made_of[1]
