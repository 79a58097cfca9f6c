"""Equal words: dates and times in any notation, spelling variants, lists, and case where it tells two answers apart.

Nothing here raises on any text of at most ``parsing.MAX_CHARACTERS``.
"""

import re
from functools import lru_cache

from reward.aliases import split_aliases
from reward.dates import names_day_first, read_date, read_time
from reward.parsing import plain, words
from reward.quantity import read_quantity
from reward.sentence import is_denied, said_answers
from reward.spelling import one_spelling, without_accents
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
_APPOSITION = re.compile(r"([^()]+?)\s*[(（]([^()]+)[)）]\.?")

_SYMBOLS = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"""
_ELEMENTS = set(_SYMBOLS.split())
_ALSO_WORDS = {"he", "be", "as", "in", "at", "am", "no", "i", "ho"}
_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*)+")
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
    return both is not None and all(any(_names(part, alias) for alias in aliases) for part in both.groups())


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
    as_words = "=" in gold or answer.count("=") > 1 or _CODE.search(gold) or _CODE.search(answer)
    if not as_words and (want := read_quantity(gold_written)) and (got := read_quantity(written)):
        return want.name == got.name
    one, other = _fold(answer), _fold(gold)
    if one == other or without_accents(one) == other or one == without_accents(other):  # an accent may be left out
        return not _case_differs(answer, gold)
    if len(items := _items(gold)) > 2 or (len(items) > 1 and _JOINED.search(gold)):
        given_items = _items(answer)
        return given_items == items or (bool(_JOINED.search(gold)) and sorted(given_items) == sorted(items))
    bare, wanted_bare = (_PREPOSITION.sub("", _lower_start(text), count=1) for text in (answer, gold))
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
    text = _INITIALS.sub(lambda match: match[0].replace(".", "").replace(" ", ""), text)
    return text.strip("\"'“”‘’「」『』«»`【】[]。 ")


@lru_cache(maxsize=512)
def _fold(text: str) -> str:
    text = _RANGE.sub("-", _FROM.sub("", text).replace(" and ", " to ") if _FROM.match(text) else text)
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", text)  # Coca-Cola
    text = re.sub(r"\s*([+→←↔⇌])\s*", r" \1 ", text)
    return one_spelling(words(text))


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
    return any(one != other and _distinct(one, other) for one, other in zip(ones, others, strict=False))


def _distinct(one: str, other: str) -> bool:
    folded = one.casefold()
    if folded != other.casefold() or folded in _ALSO_WORDS:
        return False
    if len(folded) in (2, 4) and _GENES.fullmatch(folded):
        return True
    elements = [_elements(word) for word in (one, other)]
    return elements[0] is not None and elements[1] is not None and elements[0] != elements[1]


def _elements(word: str) -> list[str] | None:
    """The elements of a formula; None where a word is none."""
    if not _FORMULA.fullmatch(word):
        return None
    found = re.findall(r"[A-Z][a-z]?", word)
    return found if _ELEMENTS.issuperset(found) else None
