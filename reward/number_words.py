"""Number words become figures: ``one hundred and twenty cm`` is ``120 cm``, ``三分之一`` is ``1/3``.

One table of words for each language, and one way to put words together. What is no number in its language (``five
six``) becomes
two figures, which no reader of one number accepts.
"""

import re
from dataclasses import dataclass

DIGIT, SMALL, LARGE = range(3)
Token = tuple[int, int]
"""A value, and whether it is added (``DIGIT``), multiplies what stands before it inside a group (``SMALL``), or closes one."""


@dataclass(frozen=True)
class Language:
    """``small`` scales stand inside a group (``hundred``), ``large`` ones close it (``thousand``)."""

    words: dict[str, int]
    small: dict[str, int]
    large: dict[str, int]
    joiners: str = ""
    minus: str = ""
    articles: str = ""


def _count(words: str, first: int = 0, step: int = 1) -> dict[str, int]:
    """Values of words in order; spellings of one value are set apart by ``/``."""
    return {word: first + step * place for place, group in enumerate(words.split()) for word in group.split("/")}


_EN = Language(
    _count("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen""")
    | _count("twenty thirty forty/fourty fifty sixty seventy eighty ninety", 20, 10),
    {"hundred": 100},
    {
        "dozen": 12,
        "thousand": 10**3,
        "lakh": 10**5,
        "million": 10**6,
        "crore": 10**7,
        "billion": 10**9,
        "trillion": 10**12,
    },
    "and",
    "negative minus",
    "a an",
)
ENGLISH_NUMBERS = _EN.words
"""English number words below 100 -> value."""
_DE_UNITS = _count("null ein zwei drei vier fünf sechs sieben acht neun")
_DE_TENS = _count("zwanzig dreißig/dreissig vierzig fünfzig sechzig siebzig achtzig neunzig", 20, 10)
_DE = Language(
    _DE_UNITS
    | _count(
        """eins/eine/einen/einer/einem zwo drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn
        fünfzehn sechzehn siebzehn achtzehn neunzehn""",
        1,
    )
    | _DE_TENS
    | {f"{one}und{ten}": a + b for one, a in _DE_UNITS.items() for ten, b in _DE_TENS.items() if a},
    {"hundert": 100},
    {"dutzend": 12, "tausend": 10**3, "million": 10**6, "millionen": 10**6, "milliarde": 10**9, "milliarden": 10**9},
    "und",
    "minus",
    "ein eine einen einer einem",
)
_FR = Language(
    _count("""zéro un/une deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize
        dix-sept dix-huit dix-neuf vingt""")
    | _count("trente quarante cinquante soixante septante huitante/octante/quatre-vingt/quatre-vingts nonante", 30, 10),
    {"cent": 100, "cents": 100},
    {"douzaine": 12, "mille": 10**3, "million": 10**6, "millions": 10**6, "milliard": 10**9, "milliards": 10**9},
    "et",
    "moins",
    "un une",
)
_ES = Language(
    _count("""cero uno/un/una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince
        dieciséis/dieciseis diecisiete dieciocho diecinueve veinte veintiuno/veintiún/veintiuna veintidós/veintidos
        veintitrés/veintitres veinticuatro veinticinco veintiséis/veintiseis veintisiete veintiocho veintinueve""")
    | _count("treinta cuarenta cincuenta sesenta setenta ochenta noventa cien/ciento", 30, 10)
    | _count(
        """doscientos/doscientas trescientos/trescientas cuatrocientos/cuatrocientas quinientos/quinientas
        seiscientos/seiscientas setecientos/setecientas ochocientos/ochocientas novecientos/novecientas""",
        200,
        100,
    ),
    {},
    {"docena": 12, "mil": 10**3, "millón": 10**6, "millones": 10**6},
    "y",
    "menos negativo",
    "un una",
)
_RU = Language(
    _count("""ноль/нуль один/одна/одно два/две три четыре пять шесть семь восемь девять десять одиннадцать двенадцать
        тринадцать четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать""")
    | _count("двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто сто", 20, 10)
    | _count("двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот", 200, 100),
    {},
    {"тысяча": 10**3, "тысячи": 10**3, "тысяч": 10**3, "миллион": 10**6, "миллиона": 10**6, "миллионов": 10**6},
    "",
    "минус",
)
_AR = Language(
    _count("""صفر واحد/واحدة اثنان/اثنتان/اثنين/اثنتين ثلاثة/ثلاث أربعة/أربع خمسة/خمس ستة/ست سبعة/سبع
        ثمانية/ثماني/ثمان تسعة/تسع عشرة/عشر""")
    | _count("عشرون/عشرين ثلاثون/ثلاثين أربعون/أربعين خمسون/خمسين ستون/ستين سبعون/سبعين ثمانون تسعون مئة/مائة", 20, 10),
    {},
    {"ألف": 10**3, "مليون": 10**6},
    "",
    "سالب ناقص",
)
_PT_IT = Language(  # what differs from Spanish, as far as short answers go
    _count("""zero um/uma/uno due/dois/duas tre/três quattro/quatro cinque sei sette/sete otto/oito nove dieci/dez
undici/onze dodici/doze tredici/treze quattordici/catorze quindici/quinze sedici/dezesseis diciassette/dezessete
        diciotto/dezoito diciannove/dezenove venti/vinte"""),
    {"cento": 100},
    {"dúzia": 12, "dozzina": 12, "mila": 10**3},
    "e",
    "meno",
    "um uma",
)
_LANGUAGES = [_EN, _ES, _FR, _DE, _RU, _AR, _PT_IT]
"""Words that two languages share count for the first; a text is read in the language that knows most of its words."""

_HAN = _count("零/〇/○ 一/壹 二/两/兩/贰/貳 三/叁 四/肆 五/伍 六/陆 七/柒 八/捌 九/玖")
_HAN_SCALES = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_HAN_LARGE = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_SINO_KOREAN = (
    _count("영/공 일 이 삼 사 오 육/륙 칠 팔 구"),
    {"십": 10, "백": 100, "천": 1000},
    {"만": 10**4, "억": 10**8},
)
_KOREAN = _count("하나/한 둘/두 셋/세/석 넷/네 다섯 여섯 일곱 여덟 아홉", 1)
_KOREAN_TENS = _count("열 스물/스무 서른 마흔 쉰 예순 일흔 여든 아흔", 10, 10)
_KANA = _count("ひとつ ふたつ みっつ よっつ いつつ むっつ ななつ やっつ ここのつ とお", 1)

SCALES = {"dozen": 12, "k": 10**3, "thousand": 10**3, "mn": 10**6, "mio": 10**6, "bn": 10**9, "mrd": 10**9}
"""Scale words behind a figure: ``3.5 million``, ``125万``. Plurals of the tables above are added below."""
for _language in _LANGUAGES:
    SCALES |= _language.large | _language.small | {f"{word}s": value for word, value in _language.large.items()}
for _word in ("cent", "cents"):
    del SCALES[_word]  # "5 cents" are money
SCALES |= _HAN_LARGE | _SINO_KOREAN[2] | {"百": 100, "千": 1000, "백": 100, "천": 1000}
SCALES |= {"百万": 10**6, "千万": 10**7, "百萬": 10**6, "천만": 10**7, "백만": 10**6}

_HALVES = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4}
_HALVES |= _count("fifth sixth seventh eighth ninth tenth", 5) | {"hundredth": 100, "thousandth": 1000}
_PARTS = {f"{word}s": value for word, value in _HALVES.items() if word != "halves"} | {"halves": 2}
_AND_A_PART = re.compile(rf"\b(\d{{1,9}}) and (an?|\d{{1,9}}) ({'|'.join(_HALVES | _PARTS)})\b", re.IGNORECASE)
_SOME_PARTS = re.compile(
    rf"\b(?:(\d{{1,9}})[ -]({'|'.join(_PARTS)})|(?:an?|1)[ -]({'|'.join(_HALVES)}))\b(?: of an?\b)?", re.IGNORECASE
)
_HALF = re.compile(r"(?:^|(?<=\bis )|(?<=\bminus )|(?<=\bnegative ))half\b(?: of)?(?: an?\b)?", re.IGNORECASE)
_HALF_OF = re.compile(r"\bhalf(?: of)? (\d{1,15})\b(?![.,/]\d)", re.IGNORECASE)
_DIGIT_BY_DIGIT = re.compile(rf"\bpoint(?: (?:{'|'.join(list(_EN.words)[:10])})\b){{1,9}}", re.IGNORECASE)
_POINT = re.compile(r"\b(\d{1,9}) point (\d(?: ?\d){0,9})\b", re.IGNORECASE)
_MINUS = re.compile(
    rf"(?:\b(?:{'|'.join(' '.join(language.minus for language in _LANGUAGES).split())}) +"
    r"|(?:负|負|マイナス|마이너스) *)(?=[\d.])",
    re.IGNORECASE,
)
_HAN_RUN = re.compile(f"[{''.join(_HAN | _HAN_SCALES | _HAN_LARGE)}半]+")
_HAN_PHRASES = re.compile(
    r"一共|一些|一样|一樣|一起|一定|一下|一般|一种|一種|一边|一辺|唯一|统一|万一|十分(?!之)|[二三]次方|一番|一方|半径|半徑|[三四五六七八九十]+(?:角|边形|邊形|辺形|面体|面體)|四[舍捨]五入|第[一二三四五六七八九十百千零〇]+"
)
"""In these the characters are no number, or the number is no answer (``第三``)."""
_KOREAN_COUNT = re.compile(
    rf"(?<![가-힣])({'|'.join(_KOREAN_TENS)})?\s?({'|'.join(_KOREAN)})?(?=$|[\s.!]|개|명|마리|권|장|대|살|시간|입니다|이다|예요|이에요)"
)
_SINO_RUN = re.compile(
    rf"(?:^|(?<=[은는] ))[{''.join(letter for table in _SINO_KOREAN for letter in table)}]+(?=$|\.|개|명|원|입니다|이다)"
)
_FIGURE_BEFORE = re.compile(r"(?:\d|half|quarters?)\s?$", re.IGNORECASE)
_THERE_IS = re.compile(
    r"(?:il y a|on voit|je vois|c'est|es gibt|es ist|man sieht|ich sehe|hay|se ve|veo|há|c'è) (?:seulement |nur |solo |sólo )?$",
    re.IGNORECASE,
)
_SCALED_PART = re.compile(r"(\d{1,9})([万萬亿億만억千천百백]{0,2})")
_SCALED_PARTS = re.compile(
    r"(?<![\d.,])\d{1,9}[万萬亿億만억千천百백]{1,2}(?: ?\d{1,9}[万萬亿億만억千천百백]{0,2}){1,3}(?![\d.,])"
)
_WORD = re.compile(r"[^\W\d_]+")
_ENGLISH = {*_EN.words, *_EN.small, *_EN.large, *_EN.minus.split(), *_HALVES, *_PARTS}


def english_figures(text: str) -> str:
    """``text`` with English number words in figures."""
    found = {word.casefold() for word in _WORD.findall(text)}
    return _with_parts(_spelled(text, _EN)) if not _ENGLISH.isdisjoint(found) else text


def figures(text: str) -> str:
    """``text`` with number words in figures, in the one language that knows most of its words.

    Words that are also articles (``une étoile``) count as one only if no other number stands in the text and little else
    does.
    """
    language, most = _EN, 0
    folded = [word.casefold() for word in _WORD.findall(text)]
    for one in _LANGUAGES:
        known = sum(bool(_word_tokens(word, one)) for word in folded)
        if known > most:
            language, most = one, known
    return _with_parts(_east_asian(_spelled(text, language)))


def _spelled(text: str, language: Language) -> str:
    """``text`` with the number words of one language in figures."""
    if language is _FR:  # 80 and 17 are written in two words
        text = re.sub(r"\bquatre[ -]vingts?\b", "octante", text, flags=re.IGNORECASE)
        text = re.sub(r"\bdix[ -](?=sept|huit|neuf)", "dix", text, flags=re.IGNORECASE)
    if language is _EN:  # the digits behind "point" are read one by one
        text = _DIGIT_BY_DIGIT.sub(lambda m: " ".join(str(_EN.words.get(w.casefold(), w)) for w in m[0].split()), text)
    pieces, end, run = list[str](), 0, list[Token]()
    start = stop = passed = 0  # of the run of number words; behind the last scale that is left as it is

    def close() -> None:
        nonlocal end
        if run:
            pieces.extend((text[end:start], _figure_of_run(run, vigesimal=language is _FR)))
            end = stop
            run.clear()

    words = list(_WORD.finditer(text))
    for place, match in enumerate(words):
        word = match[0].casefold()
        following = words[place + 1][0].casefold() if place + 1 < len(words) else ""
        tokens = _word_tokens(word, language)
        gap = text[stop : match.start()] if run else ""
        if run and gap.strip("- \u00a0"):
            close()
        if word in language.articles.split() and not run:
            # "a dozen", "un millón"; otherwise an article is a number only where it stands almost alone
            scale = following in language.large or following in language.small
            alone = len(words) <= 2 and word not in ("a", "an") and not any(letter.isdigit() for letter in text)
            there = word not in ("a", "an") and _THERE_IS.fullmatch(text[: match.start()])
            tokens = [(1, DIGIT)] if scale or alone or there else []
        elif (
            tokens
            and not run
            and tokens[0][1]
            and (_FIGURE_BEFORE.search(text[: match.start()]) or (passed and not text[passed : match.start()].strip()))
        ):
            tokens, passed = [], match.end()  # "3 hundred thousand", "one and a half million": scales behind a figure
        if tokens:
            start = start if run else match.start()
            run.extend(tokens)
            stop = match.end()
        elif run and word in language.joiners.split() and _word_tokens(following, language) and _joins(run):
            stop = match.end()
        else:
            close()
    close()
    return "".join((*pieces, text[end:]))


def _joins(run: list[Token]) -> bool:
    """Whether "and" may stand here inside a number: behind a scale or a ten ("treinta y uno"), not in "three and four"."""
    value, kind = run[-1]
    return kind != DIGIT or value % 10 == 0


def _word_tokens(word: str, language: Language) -> list[Token]:
    """The number words that a word is made of: one, or in German several; none if it is no number."""
    if word in language.words:
        return [(language.words[word], DIGIT)]
    for scales, kind in ((language.small, SMALL), (language.large, LARGE)):
        if word in scales:
            return [(scales[word], kind)]
    if language is _FR and word in ("dixsept", "dixhuit", "dixneuf"):
        return [(10 + _FR.words[word[3:]], DIGIT)]
    if language is _DE and 6 <= len(word) <= 60 and _COMPOUND.fullmatch(word):
        return [token for piece in _COMPOUND_PIECE.findall(word) for token in _word_tokens(piece, _DE)]
    return []


_COMPOUND_PIECE = re.compile("|".join(sorted({*_DE.words, "hundert", "tausend"}, key=len, reverse=True)))
_COMPOUND = re.compile(f"(?:{_COMPOUND_PIECE.pattern}|und)+")


def _figure_of_run(run: list[Token], vigesimal: bool = False) -> str:
    """The figure of a run of number words; of a run that is no number its parts, as several figures."""
    value = compose(run, vigesimal)
    return " ; ".join(str(value) for value, _ in run) if value is None else str(value)


def compose(run: list[Token], vigesimal: bool = False) -> int | None:
    """The number that tokens make (``2, hundred, 20, 5, thousand``: 225,000), or None (``5, 6``)."""
    total, section, unit = 0, 0, None
    small = large = 10**15  # scales fall from left to right
    for value, kind in run:
        if kind == LARGE:
            if value >= large:
                return None
            total += (section + (unit or 0) or 1) * value
            section, unit, large, small = 0, None, value, 10**15
        elif kind == SMALL:
            if value >= small:
                return None
            section += (1 if unit is None else unit) * value
            unit, small = None, value
        elif unit is None:
            unit = value
        elif vigesimal and unit in (60, 80) and value < 20:
            unit += value
        elif not 0 < value < unit or unit % (100 if value >= 10 else 10):
            return None
        else:
            unit += value
    return total + section + (unit or 0)


def _with_parts(text: str) -> str:
    """Halves, thirds, ``point`` and ``minus`` behind and before figures."""
    text = _POINT.sub(lambda match: f"{match[1]}.{match[2].replace(' ', '')}", text)
    text = _AND_A_PART.sub(_mixed, text)
    text = _SOME_PARTS.sub(
        lambda m: f"{m[1] or 1}/{_PARTS[m[2].casefold()] if m[2] else _HALVES[m[3].casefold()]}", text
    )
    text = _HALF_OF.sub(lambda match: f"{match[1]}/2", text)
    text = _HALF.sub("0.5", text)
    return _MINUS.sub("-", text)


def _mixed(match: re.Match[str]) -> str:
    above = int(match[2]) if match[2].isdigit() else 1
    below = (_HALVES | _PARTS)[match[3].casefold()]
    return f"{int(match[1]) * below + above}/{below}"


def _east_asian(text: str) -> str:
    """Chinese, Japanese and Korean number words in figures."""
    if text.isascii():
        return text
    numbered = any(letter.isdigit() for letter in text)
    for word, value in _KANA.items():
        text = text.replace(word, f"{value}つ")
    text = re.sub(r"一半|半分|절반", "1/2", text)
    text = "".join(
        piece if _HAN_PHRASES.fullmatch(piece) else _HAN_RUN.sub(_han, piece)
        for piece in re.split(f"({_HAN_PHRASES.pattern})", text)
    )
    if not numbered:  # these syllables stand in many other words
        text = _SINO_RUN.sub(lambda match: _east_asian_figure(match[0], *_SINO_KOREAN), text)
        text = _KOREAN_COUNT.sub(_korean, text)
    text = re.sub(r"(?<!\d)(\d{1,15})[点點](\d{1,15})(?!\d|分)", r"\1.\2", text)
    text = _SCALED_PARTS.sub(_sum_of_parts, text)
    text = re.sub(r"(\d)(?:成|割)(?!\w)", r"\g<1>0%", text)
    text = re.sub(r"(?:零下|영하)\s*(?=\d)", "-", text)
    text = re.sub(r"百分之(\d{1,15}(?:\.\d{1,15})?)", r"\1%", text)
    return re.sub(r"(?<!\d)(\d{1,15})(?:分之|分の)(\d{1,15})", r"\2/\1", text)


def _han(match: re.Match[str]) -> str:
    run, before = match[0], match.string[: match.start()]
    after = match.string[match.end() :]
    if before.rstrip()[-1:].isdigit() or run == "半":
        return run  # a scale behind a figure: 125万
    if run.endswith("百") and after.startswith("分之"):
        return run
    if len(run) > 1 and all(letter in _HAN for letter in run):
        return "".join(str(_HAN[letter]) for letter in run)  # 一九九八
    return _east_asian_figure(run, _HAN, _HAN_SCALES, _HAN_LARGE)


def _east_asian_figure(run: str, digits: dict[str, int], small: dict[str, int], large: dict[str, int]) -> str:
    tokens = []
    for letter in run.rstrip("半"):
        if letter in digits and digits[letter] == 0 and len(run) > 1:
            continue  # 一百零二
        kind = DIGIT if letter in digits else SMALL if letter in small else LARGE
        tokens.append(((digits, small, large)[kind][letter], kind))
    value = compose(tokens)
    return f"{value}.5" if run.endswith("半") and value is not None else str(value if value is not None else run)


def _sum_of_parts(match: re.Match[str]) -> str:
    """``2亿5000万`` in figures, if the parts fall."""
    total, last = 0, 10**16
    for figure, scales in _SCALED_PART.findall(match[0]):
        part = int(figure)
        for scale in scales:
            part *= SCALES[scale]
        if part >= last:
            return match[0]
        total, last = total + part, part
    return str(total)


def _korean(match: re.Match[str]) -> str:
    if not (match[1] or match[2]):
        return match[0]
    return str(_KOREAN_TENS.get(match[1] or "", 0) + _KOREAN.get(match[2] or "", 0))
