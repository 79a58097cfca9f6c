"""Words of answers that carry no content of their own: conjunctions, labels, and the sentence around an answer.

Only listed words are taken away, so that whatever changes an answer ("not", "or", "except") stays in it.
"""

import re
from collections.abc import Sequence

from reward.denials import is_doubted

_LETTER = r"[\w\u4e00-\u9fff]"
CONJUNCTION = "|".join(
    (
        r"[,;]? (?:and|und|et|sowie|и|&|和|与|與|及|以及|및|と|그리고|as well as|followed by|then|while|whereas)"
        r"(?: also| then| finally)? (?=\S)",
        r"(?<=[^\s,;:=>→]) [ye] (?=[^\s,;:=])",
        r"(?<=\S)(?:以及|而|[和与與及])(?=\S)",
        rf"(?<={_LETTER})と(?={_LETTER})|(?<={_LETTER})[와과] (?=\S)|(?<=\d)[와과&](?=\d)",
        r" و ?(?=[\dA-Za-z])",
    )
)
"""A regular expression of what stands between two items in place of a comma, or after one."""

LEADING_CONJUNCTION = re.compile(r"\A(?:and|und|et|then|but|while|whereas)\b,? (?=\S)", re.IGNORECASE)

EMPTY = re.compile(
    r"(?:there (?:is|are) )?(?:none|nothing|neither|no (?:statements?|items?|one|ones|options?))(?: of (?:them|these|the \w{1,20}))?"
    r"(?: statements?)?(?: (?:is|are|were) (?:true|correct))?"
    r"|∅|\{ ?\}|\[ ?\]|(?:the )?empty set|无|無|没有|都不(?:是|对|正确)|keine?[rs]?|aucune?|ningun[oa]|nessun[oa]|なし|無し|없음"
)
"""What says that no item is the answer, in lower case."""

_BETWEEN = """a an the i am you we it he she they is are at in on of there here this that these and with where which who has have
holds contains hold contain as so thus therefore hence now finally also both while whereas but then must be will
position cell square field final state answer result solution located location standing stands stand ending ends end
plays drinks eats drives owns wears keeps lives sits speaks studies teaches rides uses chose picked bought ordered
up find see found its my your robot object color colour gets got owns wears statement statements person ≡ - – —
und et y ist sind est sont es der die das le la el ein eine un une una les los las"""
FILLERS = frozenset(_BETWEEN.split())
"""Words that may stand between the known names of pairs."""

_BEFORE_COLON = """the a an so thus therefore hence final correct right true answer answers solution solutions result results
assignment arrangement order ordering ranking sequence state list set output table tables value values statement
statements is are was as follows here it i my we you get have given below there following be complete completed reads
position location mapping pairs items rows cells data
queue stack array deque numbers digits in json format markdown antwort lösung réponse respuesta"""
_FRAME = frozenset(_BEFORE_COLON.split())
_CHANGES = (
    "not|no|neither|never|nor|none|false|incorrect|wrong|untrue|other|others|opposite|except|without|if|or|than|but"
)
_CHANGES += "|invalid|unsupported|impossible|inconsistent|remaining|rest|excluded|rejected|start|starting|initial|previous|old|former"
_CHANGED = re.compile(rf"\b(?:{_CHANGES}|if|unless|assuming)\b|[不没沒非错錯误誤如若]", re.IGNORECASE)
_WORD = rf"(?!(?:{_CHANGES})\b)[\w'’]{{1,20}}"
_SUBJECT = re.compile(
    rf"(?:the )?{_WORD} at (?=[(\d])"  # robot at (2, 3)
    rf"|(?:the|my|your|its|our|i|you|we|it|he|she|they|there|this|these|that)(?: {_WORD}){{0,3}}?"
    r"(?:['’]m|['’]re|['’]s| (?:is|am|are|ends?|stands?|stops?|lands?|arrives?|finishes|becomes?|equals?"
    r"|prints?|outputs?|returns?|contains?|reads?|gives?|says?)(?! (?:is|are)\b))"
    r"(?: (?:now|up|finally|at|in|on|as follows|located|standing|therefore))*:? (?=\S)",
    re.IGNORECASE,
)
_DISCOURSE = re.compile(
    r"(?:so|thus|hence|therefore|finally|final answer|answer|(?:we|i) (?:conclude|find|get|have|know|see)(?: that)?"
    r"|it follows that|this (?:means|gives)(?: that)?)\b[,:]? (?=\S)",
    re.IGNORECASE,
)
_FOREIGN_FRAME = re.compile(
    r"(?:(?:正确|真)的?(?:陈述|命题|说法|语句|选项)?[是为]"
    r"|(?:最终|最后)?的?(?:答案|位置|状态|结果|列表|数组|输出)[是为]?|所以|因此|它?在|位于|它?是|答えは|정답은|답은)[:,]? ?(?=\S)"
    r"|(?:die antwort (?:ist|lautet)|la réponse est|la respuesta es)\b:? (?=\S)",
    re.IGNORECASE,
)
_AFTER = re.compile(r" (?:only|alone|exactly)$|(?:です|だ|입니다|이다)$", re.IGNORECASE)

_KINDS = "position|cell|statement|option|number|item|claim|sentence|person|aussage|énoncé|affirmation"
_KINDS += "|enunciado|afirmación|afirmacione|set|list|array"
_LABEL = re.compile(
    r"(?:the |die |les |las |los )?(?:only |both |just )?(?:the )?(?:true |correct )?"
    rf"(?:(?:{_KINDS})(?:e?[sn])?\b ?#?|n[or]s?\. ?(?=\d)|#|第|(?:陈述|命题|说法|语句|选项|文)(?=[\dA-Z]))? ?"
    r"(?:are |is |only )?(?=\S)",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"(?:,? (?:is|are|both|only|alone|true|correct|right|valid|holds?|ist|sind|est|sont|es|son|wahr|richtig|vraie?s?|correctas?))+$"
    r"|(?:[条條项項个個号號句]|番|번)?(?:都|均)?是?(?:正确|正確|真|对|對|成立)?的?$"
    r"|(?:番|번)?(?:이|가|が)? ?(?:참|正しい|맞다|맞습니다|옳다)$",
    re.IGNORECASE,
)


def changes_answer(head: str) -> bool:
    """Whether the line above an answer denies it or makes it depend on something: ``This table is wrong:``."""
    return _CHANGED.search(head) is not None or is_doubted(head)


def strip_frame(text: str) -> str:
    """``text`` without the sentence around an answer: ``The robot is at B3.`` becomes ``B3``."""
    text = text.strip().removesuffix(".").removesuffix("。").strip()
    if is_doubted(text):
        return text
    for _ in range(2):
        head, mark, tail = text.partition(":")
        if mark and tail.strip() and len(head) <= 80 and _FRAME.issuperset(head.casefold().split()):
            text = tail.strip()
        for lead in (_DISCOURSE, _SUBJECT, _FOREIGN_FRAME):
            if match := lead.match(text):
                text = text[match.end() :].strip()
    return _AFTER.sub("", text) or text


def strip_label(item: str) -> str:
    """An item of a list without its kind or what is said of it: ``statement 3`` and ``3 are true`` become ``3``."""
    stripped = _PREDICATE.sub("", item.strip()).strip()
    stripped = _LABEL.sub("", stripped, count=1).strip() if (match := _LABEL.match(stripped)) and match[0] else stripped
    return stripped or item


_FIRST_COLUMNS = """name names person people item items key category label variable statement cell row position object day month year
country city team player student house box"""
_HEADS = frozenset(_FIRST_COLUMNS.split())


def is_head(cells: Sequence[str]) -> bool:
    """Whether a row of a table names its columns: the first has a usual name, and no cell is a number."""
    named = len(cells) > 1 and cells[0].strip().casefold() in _HEADS
    return named and not any(sign.isdigit() for cell in cells for sign in cell)


_PLACES = {
    name: place
    for place, names in enumerate(
        (
            "first firstly 1st",
            "second secondly 2nd",
            "third thirdly 3rd",
            "fourth fourthly 4th",
            "fifth 5th",
            "sixth 6th",
        )
    )
    for name in names.split()
}


def names_place(word: str, index: int, count: int) -> bool:
    """Whether ``word`` ("first", "then", "last") fits the item at ``index`` of ``count``."""
    word = word.casefold()
    if word in ("then", "next"):
        return index > 0
    if word in ("last", "lastly", "finally"):
        return index == count - 1
    return _PLACES.get(word) == index


_MORE = """greater larger bigger taller older heavier faster higher longer better stronger wider richer warmer hotter deeper
    brighter thicker größer älter schwerer höher länger schneller"""
_LESS = """less smaller shorter younger lighter slower lower worse weaker narrower poorer colder cooler shallower darker thinner
    kleiner jünger leichter niedriger kürzer langsamer"""
_WHO = r"(?:,? (?:who|which))?"
_COMPARISONS = [
    (re.compile(pattern, re.IGNORECASE), sign)
    for pattern, sign in (
        (rf"{_WHO} (?:is |are |ist |sind )?(?:{'|'.join(_MORE.split())}) (?:than|als) ", " > "),
        (rf"{_WHO} (?:is |are |ist |sind )?(?:{'|'.join(_LESS.split())}) (?:than|als) ", " < "),
        (r" (?:est )?(?:supérieure? à|plus (?:grand|haut|lourd|âgé|long|rapide|vieux)e? que) ", " > "),
        (r" (?:est )?(?:inférieure? à|plus (?:petit|bas|léger|jeune|court|lent)e? que) ", " < "),
        (r" (?:es )?(?:mayor|más (?:grande|alt[oa]|pesad[oa]|larg[oa]|rápid[oa])) que ", " > "),
        (r" (?:es )?(?:menor|más (?:pequeñ[oa]|baj[oa]|liger[oa]|cort[oa]|lent[oa])) que ", " < "),
        (r"大于|大於|高于|高於|重于|长于|早于|快于|先于", " > "),
        (r"小于|小於|低于|低於|轻于|短于|晚于|慢于|后于", " < "),
        (rf"{_WHO} (?:comes |is |goes |finishes )?(?:before|ahead of) ", " > "),
        (rf"{_WHO} (?:comes |is |goes |finishes )?(?:after|behind) ", " < "),
    )
]


def comparisons_as_signs(text: str) -> str:
    """``A is taller than B`` as ``A > B``."""
    for pattern, sign in _COMPARISONS:
        text = pattern.sub(sign, text)
    return text
