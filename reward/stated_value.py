"""The one value that an answer states in words: ``about 5``, ``12 (twelve)``, ``There are 3 stars.``, ``答案是12``.

Stricter than a person in doubt: the words around the number must be of known frames, and none of them may bound, deny
or double it.
"""

import re
from dataclasses import replace

from reward.hedges import forbidden, without_hedge, without_hedge_behind
from reward.number_words import figures
from reward.parsing import EMPHASIS, words
from reward.quantity import Quantity, prepared, read_prepared, read_quantity
from reward.sentence import is_denied
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

_PLACES_KEPT = r"(?:\d|one|two|three|four) (?:decimal|significant|place|digit|figure|d\.?p|s\.?f)[\w. ]{0,16}"
_ROUNDED = re.compile(
    rf"(?:when |after |if )?round(?:ed|ing)(?: (?:up|down|off))?(?: to (?:the )?(?:nearest [\w ]{{1,20}}|{_PLACES_KEPT}))?"
    r"|(?:auf|à|a|al) [\w ]{1,30} (?:gerundet|près)|gerundet|arrondie?|redondead[oa]|arredondado|округлено"
    r"|四舍五入|四捨五入|반올림",
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
الجواب الإجابة هناك يوجد توجد تبلغ здесь тут reste restent restaient quedan queda quedaron bleiben blieben noch
остаётся остается осталось
verkauft verkaufte verkauften kauft kaufte kauften verdient verdiente isst aß bezahlt bezahlte zahlt zahlte bekam erhielt braucht brauchte
vendió compró ganó pagó gastó comió recibió vende compra gana paga gasta necesita recibe obtuvo vendeu comprou ganhou pagou
gastou vendu acheté gagné payé dépensé mangé reçu vend achète gagne paie dépense mange reçoit obtenu venduto comprato guadagnato speso
продал продала продали купил купила купили заработал заработала заплатил заплатила потратил потратила съел съела получил получила"""
_LEADS = frozenset(["s", "ph", "que"]) | frozenset(_LEADS_TO.split())
_TO = re.compile(
    r"\b(?:equals?|comes?|amounts?|adds up|sums?|rounds?|evaluates|simplifies|igual|gleich)\s+(?:to|a|zu)$",
    re.IGNORECASE,
)
_LEADS_ASIAN = re.compile(
    r"(?:[计計是为為在有共得了案值数量於于은는이가에]|等于|等於|剩下?|[卖賣付支]出|(?<![多少])[卖賣买買付花赚賺]|[はがもにで])$"
)
_EXTRA = re.compile(
    r"(?<!最)[多少][卖賣买買付花赚賺拿给給用找算数數写寫吃喝送借做得有]?了$|(?<!最)[多少][卖賣买買付花赚賺拿给給用算写吃喝送做]$"
)  # "多买了" says how many more
_NAMES = re.compile(
    r"\b(?:(?:room|figure|fig|step|option|question|page|chapter|row|column|line|level|table|item|choice|problem|part|section|type|"
    r"class|grade|group|team|player|bus|route|channel|version|model|case|stage|phase|no|nr|numéro|número|nummer|номер|"
    r"exercise|example|lesson|unit|volume|gate|track|platform|address|highway|apartment|bus|lane|day|week|month|age|size)s?)\.?$",
    re.IGNORECASE,
)
_FRAMES = [
    (re.compile(before, re.IGNORECASE), re.compile(after, re.IGNORECASE))
    for before, after in (
        (r"el|los|las|le|les|un|die", r"[ .]*"),
        (r"(?:.* )?en", ".*"),
        (r"(?:.* )?(?:im jahre?|en el año|en l['’]an(?:née)?|no ano(?: de)?|nell['’]anno)", r"[ .]*"),
        (r"(?:.* )?на (?:рисунке|картинке|фото|изображении)", r" ?[^\W\d_]+\.?"),  # without a word behind, its number
        (r"(?:.* )?в", r" ?(?:году|г)\.?"),
    )
]
"""What stands before a number, and what then may stand behind it: ``el 68 %``, ``im Jahr 2010``, ``в 2010 году``."""
_SUBJECT_AND_VERB = re.compile(
    r"(?:(?:[Ii]n (?:total|all)|[Oo]verall|[Aa]ltogether),? )?"
    r"(?:[A-Z][a-z'’]*|[Ii]t|[Ii]|[Ww]e|[Yy]ou|[Ss]?[Hh]e|[Tt]he[ym]?)(?: [A-Za-z][\w'’-]*){0,7}? "
    r"([a-z]{2,15})"
)
_BASES = """sell buy eat drink make take run drive ride walk read write draw win spend send earn pay use save owe work collect
receive donate bake pick plant score travel produce require finish give keep hold hit build throw bring find lay sew cut dig
fly play serve share fill hire order invite visit solve charge"""
_VERB = re.compile(
    rf"[a-z]{{2,13}}ed|(?:{'|'.join(_BASES.split())})(?:e?s)?|carries|sold|bought|ate|drank|made|took|ran|swam|drove|rode|wrote|drew|won|spent"
    r"|sent|caught|built|met|saw|kept|held|put|sang|taught|threw|brought|found|got|had|did|dug|flew|laid|lent|sewed|stood|wore|gave"
)
_NO_STATEMENT = re.compile(
    r"(?:exceed|surpass|topp|near|approach|pass|cross|lack|miss|need|want|hope|expect|plann|doubt|deni|reject|exclud|avoid|skipp|fail|rul"
    r"|eliminat|question|wonder|guess|suppos|estimat|predict|mis[a-z]+|increas|decreas|gain|chang|differ|reduc|add|subtract|multipli|divid"
    r"|doubl|tripl|halv|dropp|climb|advanc|improv|worsen|declin|outnumber|start|end|turn|consider|tri|limit|reach|claim|stat|ne|inde|hundr)ed"
)
"""Verbs that say how far it is to a number, how much something changed, or that somebody only thinks so."""
_MORE = r"(?:old|young|tall|short|long|fast|slow|heavi|light|larg|small|bigg|high|low|great|wid|deep|warm|cold|hott|rich|poor|cheap)er"
_UNREAL = re.compile(
    r"\b(?:would|could|should|might|may|must|wish\w*|hop\w+|fail\w*|refus\w*|nobody|wrongly|mistakenly|falsely|supposedly|did|does|do"
    r"|used|claims?|says?|said|thinks?|thought|believes?|supposes?|assum\w+|imagine|let|let's|lets|until|after|before|since|when|once|while|than|each|every|another|other)\b",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\b(?:extra|additional|ago|later?|early|earlier|further|beyond|onwards?|upwards?|forward|ahead|behind|apart|off|below|above"
    rf"|under|over|before|after|short|too|times|s|{_MORE})\b",
    re.IGNORECASE,
)
_COMPARED_END = re.compile(rf"\b(?:ago|later|earlier|too (?:many|few|much|little)|{_MORE})[.!]?$", re.IGNORECASE)
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
    text = EMPHASIS.sub(r"\2", text.strip()) if "*" in text else text.strip()
    text = _OPENING.sub("", text)
    usual = read_quantity(text)
    if usual is not None and text.isascii() and (usual.unit is None or usual.unit.known):
        return usual
    text = _unwrapped(text)
    if _COMPARED_END.search(text):
        return None  # "5 cm taller", "5 too many"
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
    found = read_stated(text.strip())
    if _ROUNDED.fullmatch(gloss.strip()):
        return found
    again = read_stated(gloss.strip())
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
    if _NAMES.search(lead) or _EXTRA.search(lead) or not (_leads(lead) or _is_statement(lead, clear)):
        return None
    return money, _unit_of(clear)


def _leads(before: str) -> bool:
    """Whether a number may follow: behind "is", "there are", "answer:" and their like in other languages, or at the start."""
    if not before or before.endswith(":"):
        return True
    word = re.split(r"[\s,'’]", before.casefold())[-1].strip('*"“”()')
    return word in _LEADS or bool(_TO.search(before)) or bool(_LEADS_ASIAN.search(before))


def _is_statement(before: str, after: str) -> bool:
    """Whether a number is what a subject and its verb lead to (``Emma sold 30 cupcakes``), or a year or share in its frame."""
    if any(lead.fullmatch(before) and follows.fullmatch(after) for lead, follows in _FRAMES):
        return True
    found = _SUBJECT_AND_VERB.fullmatch(before)
    return (
        found is not None
        and _VERB.fullmatch(found[1]) is not None
        and _NO_STATEMENT.fullmatch(found[1]) is None
        and _COMPARED.search(after) is None
        and _UNREAL.search(before) is None
        and not is_denied(before)
        and not is_denied(after)
    )


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
