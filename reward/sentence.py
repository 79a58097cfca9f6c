"""The answer inside a sentence: ``The shape at B1 is a red star.`` says ``a red star``; so do sentences in other languages.

What a sentence says is only proposed here: the caller compares each proposal with the gold answer. A sentence that denies,
doubts or offers alternatives proposes nothing.
"""

import re
from collections.abc import Iterator

from reward.denials import is_doubted
from reward.parsing import plain

MAX_SENTENCE = 300
_MAX_PROPOSALS = 8

_COPULA = re.compile(
    # English, German, French, Spanish, Portuguese, Italian, Russian, Arabic: words
    r"(?<![\w\\])(?:is|are|was|were|be|equals?|equal to|shows?|says|reads|named|called"
    r"|labell?ed(?: as)?|known as|points to|refers to|represents|depicts"
    r"|(?:written|painted|drawn|composed|directed|designed|created|made|built|invented|discovered|published|sung) by"
    r"|zeigt|steht|montre|indique|représente|muestra|indica|dice|mostra|diz|показывает|написано"
    r"|ist|sind|war|lautet|heißt|beträgt|c['’]est|est(?: de| égale? à)?|sont|était|vaut"
    r"|es(?: de| igual a)?|son|era|fue|está|vale|é|são|è|sono"
    r"|это|является|равн[оаы]?|هي|هو|تساوي|يساوي)(?![\w\\])"
    r"|(?<=it)['’]s(?!\w)|(?<=that)['’]s(?!\w)"
    # Chinese, Japanese and Korean do not set words apart
    r"|(?<=[а-яё])\s-(?=\s)"
    r"|等于|等於|应为|應為|[是为為叫]|は|(?<=[가-힣])[은는이가](?=\s)"
    r"|[:：](?=\s|[^\x00-\x7f])|[:：]$",
    re.IGNORECASE,
)
# One thing is picked out by what is said of it: "Lisa has the highest score", "Alice is the knave", "Ann finished first".
_SUBJECT = re.compile(
    r"((?:The )?[A-Z][\w'’-]*(?: [A-Z][\w'’-]*){0,3}) (?:(?:is|was|has|had|got|gets|scored|won|made|sold|ran) the"
    r"(?! (?:opposite|same|other|exception)\b)"
    r"|(?:finished|came|comes|ranks|ranked|is|was|placed)(?: in)?(?= (?:first|second|third|last)\b)) (?:[a-z-]+ ?){1,5}[.!]?$"
)
_ENDING = re.compile(
    r"\s*(?:입니다|이다|이에요|예요|이며|です|でした|である|だ|となる|になります|とする|的)?\s*[.。!！]*\s*$"
)
_NO_ANSWER = re.compile(
    r"(?<![\w\\])(?:not|no|never|neither|nor|none|without|except|unlike|hardly|wrong|false|incorrect|or|either|if|cannot|maybe"
    r"|nicht|kein\w*|nie|oder|ne|n['’]|pas|jamais|ni|ou|nunca|ninguna?|o|não|non|не|нет|или|ليس\w*|لا|أو)(?![\w\\])"
    r"|n['’]t(?!\w)|[?？;；]|[.。!！]\s|[不没沒无無非否或]|ない|ません|또는|아니|아닙|않",
    re.IGNORECASE,
)


def is_denied(text: str) -> bool:
    """Whether a text denies, doubts, asks or offers alternatives, in any of the languages that are known here."""
    return _NO_ANSWER.search(text) is not None or is_doubted(text)


def said_answers(text: str) -> Iterator[str]:
    """What a sentence may say, the text without a copula at its end first: at most eight proposals.

    The words in front of a copula may be any that do not deny or doubt. What follows it is proposed as it stands, so a denial
    there (``The color is not red``) stays in the proposal.
    """
    text = " ".join(text.split())
    if len(text) > MAX_SENTENCE:
        return
    money = text.count("$") == 1  # two of them are LaTeX
    bare = text if text.startswith("\\") else " $".join(map(plain, text.split("$"))) if money else plain(text)
    bare = _ENDING.sub("", bare)
    if (subject := _SUBJECT.match(bare)) and not is_denied(bare):
        yield subject[1]
    if bare and bare != text:
        yield bare
    for count, match in enumerate(_COPULA.finditer(bare)):
        if count == _MAX_PROPOSALS or is_denied(bare[: match.end()]):
            return
        if said := bare[match.end() :].strip():
            yield said
