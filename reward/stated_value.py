"""The one value that an answer states in words: ``about 5``, ``12 (twelve)``, ``There are 3 stars.``, ``答案是12``.

Stricter than a person in doubt: the words around the number must be of known frames, and none of them may bound, deny
or double it.
"""

import re
from dataclasses import replace

from reward.hedges import forbidden, without_hedge, without_hedge_behind
from reward.number_words import figures
from reward.parsing import words
from reward.quantity import Quantity, prepared, read_prepared, read_quantity
from reward.units import CURRENCY_SIGNS, read_unit, same_dimension

_TAG = re.compile(r"</?(?:b|i|u|p|em|strong|span|sub|code|mark|br|answer) ?/?>", re.IGNORECASE)
_WRAPPERS = "\"'`*_“”‘’«»„「」『』【】[]"
_GLOSS = re.compile(r"([^()]+)\(([^()]+)\)([^()\d]*)")
_OPENING = re.compile(
    r"^(?:(?:[→⇒∴]|[=-]>|\\therefore(?![a-z])|\\Rightarrow(?![a-z])) *)?"
    r"(?:(?:so|thus|hence|therefore|then|finally|donc|also|entonces|所以|因此|따라서|したがって)\b[ ,:，、]*)?"
    r"(?:(?:(?:the|my) )?(?:final |correct )?(?:answer|result|value|solution) (?:is|equals)\b:? *)?",
    re.IGNORECASE,
)

_LEADS_TO = """is are was were be been being equal equals has have had contains contain show shows see sees count counts counted get
gets got gives give makes make totals found find obtain need needs cost costs paid pays weighs measures reads says
becomes became remains remain leaves with of at in a the there's it's that's i's get so then therefore thus hence yes
say think believe guess having holds answer result value sum area volume length width height perimeter speed distance
mass weight price year age count temperature force total number ist sind war waren beträgt betragen gibt hat haben
sieht sehe zähle zeigt enthält ergibt kostet wiegt misst lautet macht also gleich von antwort ergebnis wert est sont
était vaut fait égale égal à a voit vois compte contient montre donne obtient de soit réponse donc coûte pèse mesure y
es son era fue hay tiene tienen muestra contiene veo ven cuento da igual vale cuesta pesa mide respuesta resultado é
são há tem tenho resposta è sono ha равен равна равно равны это составляет ответ есть вижу имеет هو هي يساوي تساوي
الجواب الإجابة هناك يوجد توجد تبلغ здесь тут"""
_LEADS = frozenset(["s", "ph", "que"]) | frozenset(_LEADS_TO.split())
_TO = re.compile(
    r"\b(?:equals?|comes?|amounts?|adds up|sums?|rounds?|evaluates|simplifies|igual|gleich)\s+(?:to|a|zu)$",
    re.IGNORECASE,
)
_LEADS_ASIAN = re.compile(r"(?:[计計是为為有共得了案值数量於于은는이가에]|等于|等於|[はがもにで])$")
_NAMES = re.compile(
    r"\b(?:room|figure|fig|step|option|question|page|chapter|row|column|line|level|table|item|choice|problem|part|section|type|"
    r"class|grade|group|team|player|bus|route|channel|version|model|case|stage|phase|no|nr|numéro|número|nummer|номер)\.?$",
    re.IGNORECASE,
)
_STOPS = re.compile(r"[,;:?()。，、；！？]|\.(?=\s|$)|\s-\s")
_PLACES = """in on at of for from by with visible shown left here there that which is are was were as inside within around above
below under over because since im in auf an am zu zum der die das des von vom dans sur sous au aux du de des en sur el
la los las del que на в во من في على هنا there"""
_PLACE_WORDS = frozenset(_PLACES.split())
_ENDINGS = (
    *("です", "ます", "でした", "だ", "である", "あります", "います", "ございます", "了", "呢", " ", ".", "。"),
    *("입니다", "이다", "이에요", "예요", "있습니다", "있다", "있어요", "이", "가"),
)
_COUNTERS = re.compile(
    r"(\s*[万萬亿億만억千천百백]{0,2})\s*(?:[个個颗顆只隻条條张張枚人名位匹头頭輛辆台棵朵片件双雙つ本冊羽根把座间株粒枝]|개|명|마리|권|장|대|송이|그루|자루)(?:の|의)?"
)
_EACH = re.compile(r"^(?:每|毎)([^\W\d_]{1,4}?)\s*(-?[\d.,]+)\s*(\S{1,12})$")
_SPEEDS = {"时速": "h", "時速": "h", "시속": "h", "秒速": "s", "초속": "s", "分速": "min", "분속": "min"}
_SPEED = re.compile(
    rf"^({'|'.join(_SPEEDS)})(?:是|は)?\s*(?:约|約)?\s*(-?[\d.,]+)\s*([^\W\d_]{{1,8}}?)(?:です|입니다)?$"
)
_CELSIUS = ("섭씨", "摄氏", "攝氏", "摂氏")
_SCALE_FIRST = re.compile(r"(섭씨|摄氏|攝氏|摂氏|화씨|华氏|華氏)\s*(-?[\d.]+)\s*(?:度|도)")


def read_stated(text: str) -> Quantity | None:
    """The quantity that an answer is, or the only one that it states in a sentence; see ``read_quantity`` for its notation."""
    text = _OPENING.sub("", text.strip())
    usual = read_quantity(text)
    if usual is not None and text.isascii() and (usual.unit is None or usual.unit.known):
        return usual
    text = _unwrapped(text)
    text = figures(prepared(text))
    if not text.isascii():
        text = _EACH.sub(r"\2 \3/\1", text)
        text = _SPEED.sub(lambda match: f"{match[2]} {match[3]}/{_SPEEDS[match[1]]}", text)
        text = _SCALE_FIRST.sub(lambda match: f"{match[2]} {'°C' if match[1] in _CELSIUS else '°F'}", text)
    found = read_prepared(text, _strict)
    if found is not None:
        return found
    if gloss := _GLOSS.fullmatch(text):
        return _with_gloss(gloss[1] + gloss[3], gloss[2])
    return read_prepared(text, _sentence)


def _unwrapped(text: str) -> str:
    """A text without tags, quotes and brackets around it."""
    text = _TAG.sub(" ", text).strip()
    return text.strip(_WRAPPERS) if text[:1] in _WRAPPERS and text[-1:] in _WRAPPERS else text


def _with_gloss(text: str, gloss: str) -> Quantity | None:
    """``12 (twelve)``: the value, if what stands in brackets says the same or nothing about it."""
    found, again = read_stated(text.strip()), read_stated(gloss.strip())
    if found is None or forbidden(gloss):
        return None
    if again is None:
        return None if any(letter.isdigit() for letter in gloss) else found
    value = again.value
    if found.unit is not None and again.unit is not None:
        pair = same_dimension(found.unit, again.unit)
        if pair is None:
            return None
        value = pair[0].from_base(pair[1].in_base(value))
    if found.unit is None and again.unit is not None:
        found = replace(found, unit=again.unit)
    return found if value == found.value else None


def _strict(before: str, after: str) -> tuple[str, str] | None:
    """A number with a hedge before it, and a unit with a counter: ``about 5``, ``5个``."""
    if forbidden(after, sentence=True):
        return None
    return without_hedge(before), _unit_of(without_hedge_behind(after))


def _sentence(before: str, after: str) -> tuple[str, str] | None:
    """What is left of the words around a number when those of a known frame are taken away: a currency, and the unit."""
    before = re.sub(r"\bno\. of\b", "number of", before, flags=re.IGNORECASE)
    money = next((sign for sign in CURRENCY_SIGNS if before.endswith(sign)), "")
    lead = without_hedge(before.removesuffix(money).strip())
    clear = without_hedge_behind(after)
    if (
        forbidden(lead, sentence=True)
        or forbidden(clear, sentence=True)
        or re.search(r"[\\^|=*/_{}\[\]]|\d", lead + clear[12:])
    ):
        return None
    if _NAMES.search(lead) or not _leads(lead):
        return None
    return money, _unit_of(clear)


def _leads(before: str) -> bool:
    """Whether a number may follow: behind "is", "there are", "answer:" and their like in other languages, or at the start."""
    if not before or before.endswith(":"):
        return True
    word = re.split(r"[\s,'’]", before.casefold())[-1].strip('*"“”()')
    return word in _LEADS or bool(_TO.search(before)) or bool(_LEADS_ASIAN.search(before))


def _unit_of(after: str) -> str:
    """The unit at the start of what follows a number: a known one, or the words up to the next place or stop."""
    while not after.isascii() and (shorter := after.removesuffix(next(filter(after.endswith, _ENDINGS), ""))) != after:
        after = shorter
    if read_unit(after).known:
        return after
    if counter := _COUNTERS.match(after):
        after = counter[1] + after[counter.end() :]
    after = re.sub(r"^의\s*", "", _STOPS.split(after.strip(), maxsplit=1)[0]).strip()
    if after[:1] in ("%", "!") or not after:  # "5!" is no 5
        return after
    parts = after.split()
    for count in range(min(5, len(parts)), 0, -1):
        unit = " ".join(parts[:count])
        if len(parts) > count and parts[count - 1].casefold() in _PLACE_WORDS:
            continue  # "12 in the picture": no inches
        if read_unit(unit).known:
            return unit
    for count, word in enumerate(parts):
        if word.casefold() in _PLACE_WORDS:
            return " ".join(parts[:count])
    return after


_NOTHING = re.compile(
    r"(?:there (?:is|are|was|were) |it has |i (?:see|count) |answer is )?(?:no|none)(?: \w+){0,6}|nothing|not (?:a single|any)(?: \w+){0,5}"
    r"|there (?:is|are|was|were)(?:n t| not) any(?: \w+){0,6}"
    r"|(?:es (?:gibt|sind) )?keine?n?(?: \w+){0,4}|(?:il n y (?:a )?)?aucune?(?: \w+){0,4}|il n y (?:a )?pas (?:de|d)(?: \w+){1,4}"
    r"|(?:no hay )?(?:ning[uú]n[oa]?)(?: \w+){0,4}|no hay(?: \w+){1,4}|nenhuma?(?: \w+)?|nessun[oa]?(?: \w+)?|нет(?: \w+)?"
    r"|(?:图中|圖中|图片中|图片里|这里)?(?:没有|沒有)\w{0,4}|[无無零]"
    r"|(?:[一ひと]{1,2}つも|\w{1,8}[はが])?(?:ありません|ない|なし|いません)"
    r"|(?:하나도 |\w{1,8}[이가은는] )?없(?:음|다|습니다|어요)|لا (?:يوجد|توجد)(?: \w+)?"
)
_NOT_ONE = re.compile("single one|一つも|ひとつも|하나도")
_NO_ANSWER = re.compile(
    r"\b(?:no|any|keine?n?|pas de|aucune?|no hay|ningun[ao]?) (?:idea|clue|answer|way|more|less|fewer|longer|doubt|info\w*|image|picture|"
    r"ahnung|antwort|idee|angaben?|informationen|bild|idée|réponse|respuesta|imagen)\b|\b(?:or|than|but|oder|ou)\b"
    r"|答|办法|辦法|信息|情報|图片$|図$|답|정보|إجابة|ответа"
)


def states_none(text: str) -> bool:
    """Whether an answer to "how many" says that there are none: ``none``, ``there are no stars``, ``没有``."""
    text = words(text)
    return (
        _NOTHING.fullmatch(text) is not None
        and _NO_ANSWER.search(text) is None
        and not re.search(r"\d", figures(_NOT_ONE.sub("", text)))
    )
