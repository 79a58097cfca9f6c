"""Units of measurement, as far as short answers need them: ``km/h``, ``m s^-2``, ``kilograms``; exact, from one table.

What the table does not know (``apples``, ``red stars``) is a unit of its own, equal to itself whatever its case.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

SUPERSCRIPT = str.maketrans("+-1234", "⁺⁻¹²³⁴")
"""Powers are written so before a text is searched for numbers: these are no digits."""
_NORMAL = str.maketrans("⁺⁻¹²³⁴", "+-1234")

_PREFIXES = {"G": 9, "M": 6, "k": 3, "h": 2, "d": -1, "c": -2, "m": -3, "μ": -6, "u": -6, "n": -9, "p": -12}
_LONG_PREFIXES = {"giga": 9, "mega": 6, "kilo": 3, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9}
_LONG_PREFIXES |= {"kiló": 3, "centí": -2, "milí": -3, "mili": -3, "кило": 3, "санти": -2, "милли": -3}
_CYRILLIC_PREFIXES = {"М": 6, "к": 3, "г": 2, "д": -1, "с": -2, "м": -3, "мк": -6, "н": -9}
_CYRILLIC_SYMBOLS = {"м", "г", "с", "А", "Гц", "Н", "Дж", "Вт", "Па", "В", "л"}
_LONG_PREFIXES |= {"キロ": 3, "センチ": -2, "ミリ": -3, "メガ": 6, "マイクロ": -6, "ナノ": -9}
_LONG_PREFIXES |= {"킬로": 3, "센티": -2, "밀리": -3, "메가": 6, "마이크로": -6, "나노": -9}
_LONG_PREFIXES |= {"千": 3, "厘": -2, "毫": -3, "兆": 6, "微": -6, "纳": -9, "分": -1}

# symbol: (names, factor, powers of the base units); those of _PREFIXED take a prefix.
_TABLE: dict[str, tuple[str, str, str]] = {
    "m": ("meter metre metern mètre metro м метр метра метров 米 公尺 メートル 미터", "1", "m"),
    "g": ("gram gramme gramm gramo г грамм 克 グラム 그램", "1/1000", "kg"),
    "s": (
        "second sec secs seconde segundo sekunde sekunden с секунда секунды секунд 秒 秒钟 秒鐘 秒間 초 ثانية",
        "1",
        "s",
    ),
    "A": ("ampere amp ampère amperio А ампер 安 安培 アンペア 암페어", "1", "A"),
    "K": ("kelvin °K 开 开尔文 ケルビン 켈빈", "1", "K"),
    "mol": ("mole 摩尔 モル 몰", "1", "mol"),
    "Hz": ("hertz hercio Гц герц 赫兹 赫 ヘルツ 헤르츠", "1", "s-1"),
    "N": ("newton Н нютон ньютон ньютонов 牛 牛顿 ニュートン 뉴턴 نيوتن", "1", "kg m s-2"),
    "J": ("joule julio Дж джоуль джоулей 焦 焦耳 ジュール 줄 جول", "1", "kg m2 s-2"),
    "W": ("watt vatio Вт ватт 瓦 瓦特 ワット 와트", "1", "kg m2 s-3"),
    "Pa": ("pascal Па паскаль 帕 帕斯卡 パスカル 파스칼", "1", "kg m-1 s-2"),
    "V": ("volt voltio В вольт 伏 伏特 ボルト 볼트", "1", "kg m2 s-3 A-1"),
    "C": ("coulomb culombio 库 库仑 クーロン 쿨롱", "1", "A s"),
    "F": ("farad 法拉 ファラド 패럿", "1", "kg-1 m-2 s4 A2"),
    "Ω": ("ohm ohmio 欧 欧姆 オーム 옴", "1", "kg m2 s-3 A-2"),
    "T": ("tesla 特斯拉 テスラ 테슬라", "1", "kg s-2 A-1"),
    "Wb": ("weber 韦伯", "1", "kg m2 s-2 A-1"),
    "H": ("henry 亨利", "1", "kg m2 s-2 A-2"),
    "mH": ("millihenry", "1/1000", "kg m2 s-2 A-2"),
    "Nm": ("", "1", "kg m2 s-2"),
    "L": ("liter litre l litern litro л литр литра литров 升 公升 リットル 리터", "1/1000", "m3"),
    "Wh": ("", "3600", "kg m2 s-2"),
    "M": ("molar", "1000", "m-3 mol"),
    "mM": ("millimolar", "1", "m-3 mol"),
    "μM": ("uM micromolar", "1/1000", "m-3 mol"),
    "nM": ("nanomolar", "1/1000000", "m-3 mol"),
    "eV": ("electronvolt", "1602176634/10000000000000000000000000000", "kg m2 s-2"),
    "cal": ("calorie caloría kalorie 卡 卡路里 カロリー 칼로리", "4184/1000", "kg m2 s-2"),
    "bar": ("", "100000", "kg m-1 s-2"),
    "min": ("minute mins minuten minuto мин минута минуты минут 分钟 分鐘 分間 分 분 دقيقة", "60", "s"),
    "h": (
        "hour 时 時 hr hrs heure hora std stunde stunden ч час часа часов 小时 小時 時間 시간 ساعة ساعات",
        "3600",
        "s",
    ),
    "day": ("jour día tag tage tagen день дня дней 天 日 일 يوم أيام", "86400", "s"),
    "刻钟": ("刻鐘", "900", "s"),
    "week": ("wk semaine semana woche wochen неделя недели недель 周 週 星期 週間 주 أسبوع", "604800", "s"),
    "month": (
        "months mois mes meses monat monate monaten месяц месяца месяцев 个月 個月 か月 ヶ月 개월 شهر",
        "1/12",
        "year",
    ),
    "year": (
        """yr yrs ans année año jahr jahre jahren год года лет 年 岁 歲 歳 才 년 살 세 سنة years-old year-old""",
        "1",
        "year",
    ),
    "atm": ("atmosphere 大气压 大氣壓 标准大气压 気圧 기압 атм атмосфера атмосферы атмосфер", "101325", "kg m-1 s-2"),
    "mmHg": ("torr", "101325/760", "kg m-1 s-2"),
    "t": ("tonne tonnen tonelada т тонна тонн 吨 噸 トン 톤", "1000", "kg"),
    "in": ("inch inches zoll pouce pulgada 英寸 インチ 인치", "254/10000", "m"),
    "ft": ("foot feet pied fuß 英尺 フィート 피트", "3048/10000", "m"),
    "yd": ("yard", "9144/10000", "m"),
    "mi": ("mile meile meilen milla 英里 マイル 마일", "1609344/1000", "m"),
    "mph": ("", "44704/100000", "m s-1"),
    "kph": ("kmh", "1000/3600", "m s-1"),
    "lb": ("pound lbs livre libra pfund 磅", "45359237/100000000", "kg"),
    "oz": ("ounce 盎司", "45359237/1600000000", "kg"),
    "斤": ("", "1/2", "kg"),
    "cm": ("センチ 센티", "1/100", "m"),
    "mm": ("ミリ", "1/1000", "m"),
    "公里": ("", "1000", "m"),
    "公分": ("", "1/100", "m"),
    "公斤": ("", "1", "kg"),
    "ha": ("hectare hektar hectárea 公顷", "10000", "m2"),
    "Bq": ("becquerel 贝克勒尔 ベクレル", "1", "Bq"),
    "Gy": ("", "1", "m2 s-2"),
    "Sv": ("sievert 希沃特 シーベルト", "1", "Sv"),
    "lm": ("lumen 流明", "1", "lm"),
    "lx": ("lux 勒克斯", "1", "lm m-2"),
    "cd": ("candela 坎德拉", "1", "cd"),
    "dB": ("decibel dezibel decibelio 分贝 デシベル 데시벨", "1", "dB"),
    "gauss": ("", "1/10000", "kg s-2 A-1"),
    "dioptre": ("diopter dioptrie dioptrien dioptría dpt 屈光度", "1", "m-1"),
    "beat": ("heartbeat 拍", "1", "beat"),
    "bpm": ("", "1/60", "beat s-1"),
    "rev": ("revolution umdrehung umdrehungen", "1", "rev"),
    "rpm": ("", "1/60", "rev s-1"),
    "erg": ("", "1/10000000", "kg m2 s-2"),
    "Å": ("angstrom ångström ångstrom 埃", "1/10000000000", "m"),
    "gal": ("gallon", "3785411784/1000000000000", "m3"),
    "hp": ("horsepower 马力 馬力", "7457/10", "kg m2 s-3"),
    "acre": ("", "40468564224/10000000", "m2"),
    "psi": ("", "6894757/1000", "kg m-1 s-2"),
    "°": ("degree deg grad degré grado градус градуса градусов 度 도 درجة", "1", "°"),
    "rad": ("radian", "1", "rad"),
    "°C": ("celsius centigrade 摄氏度 攝氏度 摄氏 摂氏", "1", "K"),
    "°F": ("fahrenheit 华氏度 華氏度 华氏", "5/9", "K"),
}
_PREFIXED = "m g s A K mol Hz N J W Pa V C F Ω T L Wh eV cal bar Bq Gy Sv"
_ZERO = {"°C": Fraction(27315, 100), "°F": Fraction(45967 * 5, 900)}
"""Kelvin at zero degrees. It counts for a temperature alone: in ``J/(kg °C)`` a degree is a difference."""

# code: names of the unit, and of its hundredth part after "|"
_CURRENCIES = {
    "USD": "US$ buck bucks dollar dollars dólar dólares доллар доллара долларов ドル 米ドル 달러 美元 美金 دولار | cent cents ¢ centavo",
    "EUR": "€ euro euros eur евро ユーロ 유로 欧元 歐元 يورو | eurocent",
    "GBP": "£ sterling 英镑 ポンド 파운드 libras-esterlinas | pence penny",
    "CNY": "元 块 块钱 元钱 圆 人民币 人民幣 人民币元 yuan rmb юань юаней 위안 中国元 | 角",
    "JPY": "円 yen 日元 日圆 日圓 엔 иена ين",
    "KRW": "₩ 원 won 韩元 韓元 ウォン",
    "INR": "₹ rupee rupees rs rupia roupie 卢比",
    "RUB": "₽ рубль рубля рублей руб rouble ruble 卢布",
    "HKD": "HK$ 港元 港币",
    "TWD": "NT$ 台币 新台币",
    "CAD": "CA$ C$ 加元",
    "AUD": "AU$ A$ 澳元",
    "NZD": "NZ$",
    "SGD": "S$",
    "BRL": "R$ reais",
    "MXN": "MX$ peso pesos",
    "CHF": "franken francs franc fr. sfr",
}
DOLLARS = {"": "USD"} | {
    sign[:-1]: code for code, names in _CURRENCIES.items() for sign in names.split() if sign.endswith("$")
}
"""What stands before a dollar sign, and the currency that it makes."""
CURRENCY_SIGNS = {*_CURRENCIES, *"€£¥₩₹₽", "Rs", "RMB", "人民币"}
"""What may stand before an amount, once dollar signs are spelled as codes."""
_EITHER: dict[str, tuple[str, ...]] = {"¥": ("CNY", "JPY"), "pound": ("lb", "GBP"), "pounds": ("lb", "GBP")}
_EITHER |= {"cent": ("¢", "eurocent"), "cents": ("¢", "eurocent"), "C": ("C", "°C"), "F": ("F", "°F")}
_EITHER |= dict.fromkeys(
    ["°", "deg", "degree", "degrees", "grad", "degré", "degrés", "grado", "grados", "度", "도"], ("°", "°C", "°F")
)
"""Units that may be one or another: two quantities compare in the one that they share."""


@dataclass(frozen=True)
class Unit:
    """``factor`` times the product of base units that ``base`` names in a fixed order; of an unknown unit its own name.

    ``zero`` is where a temperature's scale begins, in kelvin. ``others``: what else the same text may name.
    """

    factor: Fraction
    base: str
    known: bool = True
    zero: Fraction = Fraction(0)
    others: tuple["Unit", ...] = ()

    def in_base(self, value: Fraction) -> Fraction:
        """A value in base units."""
        return value * self.factor + self.zero

    def from_base(self, value: Fraction) -> Fraction:
        """A value in base units in this one."""
        return (value - self.zero) / self.factor

    @property
    def letter(self) -> bool:
        """Whether it is one letter that no unit is known by: a variable rather than a unit."""
        return not self.known and len(self.base) == 1 and self.base < "\u0590"  # a Chinese character is a word


def _powers(text: str) -> dict[str, int]:
    parts = (re.fullmatch(r"(\D+?)(-?\d)?", part) for part in text.split())
    return {match[1]: int(match[2] or 1) for match in parts if match}


def _known() -> dict[str, tuple[Fraction, dict[str, int]]]:
    known = {}
    for symbol, (names, factor, base) in _TABLE.items():
        meaning = Fraction(factor), _powers(base)
        for name in (symbol, *names.split()):
            known[name] = meaning
    for symbol in _PREFIXED.split():
        value, powers = known[symbol]
        long_names = _TABLE[symbol][0].split()
        short_names = [name for name in long_names if name in _CYRILLIC_SYMBOLS]
        letters = [symbol, "l"] if symbol == "L" else [symbol, "ohm"] if symbol == "Ω" else [symbol]
        for prefixes, written in (
            (_PREFIXES, letters),
            (_LONG_PREFIXES, long_names),
            (_CYRILLIC_PREFIXES, short_names),
        ):
            for prefix, power in prefixes.items():
                for name in written:
                    known.setdefault(prefix + name, (value * Fraction(10) ** power, powers))
    for code, names in _CURRENCIES.items():
        whole, _, hundredth = names.partition("|")
        for name in (code, *whole.split()):
            known.setdefault(name, (Fraction(1), {code: 1}))
        for name in hundredth.split():
            known.setdefault(name, (Fraction(1, 100), {code: 1}))
    return known


_KNOWN = _known()
_ZEROS = {name: zero for symbol, zero in _ZERO.items() for name in (symbol, *_TABLE[symbol][0].split())}
_ANY_CASE: dict[str, set[str]] = defaultdict(set)
for _name in _KNOWN:
    _ANY_CASE[_name.casefold()].add(_name)
_POWERS_IN_WORDS = {
    "square": 2,
    "sq": 2,
    "cubic": 3,
    "cu": 3,
    "кв": 2,
    "куб": 3,
    "quadrat": 2,
    "kubik": 3,
    "제곱": 2,
    "세제곱": 3,
}
_POWERS_IN_WORDS |= {"平方": 2, "立方": 3, "二次方": 2, "三次方": 3}
_POWER_FIRST = re.compile(
    r"(?:\b(square|sq|cubic|cu|кв|куб)\.? |\b(quadrat|kubik)|(平方|立方|二次方|三次方|세제곱|제곱))([^\W\d_]+?)(?=$|[\s/·*)]|每)",
    re.IGNORECASE,
)
_POWER_LAST = re.compile(r"([^\W\d_]+) (?:(squared|carrée?s?|cuadrad[oa]s?)|cubed|cubes|cúbic[oa]s?)\b", re.IGNORECASE)
_DEGREES_OF = re.compile(
    r"(?:\b(?:degrees?|deg\.?|grad|degrés?|grados?)|°) ?(celsius|centigrade|fahrenheit|kelvin|[CFK]\b)", re.IGNORECASE
)
_FACTOR = re.compile(r"([^\W\d_]+|°[CF]?|[€£₩₹₽¢])([+-]?[1-4])?")
_PER = re.compile(r"/|\b(?:per|pro|par|por|an?|в)\b|每|毎")


@lru_cache(maxsize=1024)
def read_unit(text: str) -> Unit:
    """The unit that a text of at most 100 characters names; of longer ones the text itself."""
    text = " ".join(text.strip(" .").translate(_NORMAL).split())
    names = _EITHER.get(text) or _EITHER.get(text.casefold())
    if names is None:
        return _read(text)
    first, *others = map(_read, names)
    return replace(first, others=tuple(others))


def same_dimension(one: Unit, other: Unit) -> tuple[Unit, Unit] | None:
    """The two units as they compare, or None. Of what a unit may name, the meaning nearest to the other one counts."""
    pairs = [
        (left, right) for left in (one, *one.others) for right in (other, *other.others) if left.base == right.base
    ]
    return max(pairs, key=lambda pair: (pair[0].factor, pair[0].zero) == (pair[1].factor, pair[1].zero), default=None)


def _read(text: str) -> Unit:
    if len(text) <= 100:
        spelt = _DEGREES_OF.sub(lambda m: m[1] if len(m[1]) > 1 else f"°{m[1].upper()}", text)
        spelt = re.sub(r"(?<=[^\W\d_]) old$|^U\.?S\.? (?=dollars?$)", "", spelt, flags=re.IGNORECASE)
        spelt = _POWER_FIRST.sub(lambda m: f"{m[4]}{_POWERS_IN_WORDS[(m[1] or m[2] or m[3]).casefold()]}", spelt)
        spelt = _POWER_LAST.sub(lambda m: f"{m[1]}{2 if m[2] else 3}", spelt)
        above, *below = _PER.split(spelt.replace("\\cdot", "*").strip("{} "))
        factor, powers = Fraction(1), dict[str, int]()
        for part, sign in ((above, 1), *((one, -1) for one in below)):
            read = _read_product(part, sign, powers)
            if read is None:
                break
            factor *= read
        else:
            base = " ".join(f"{name}{power}" for name, power in sorted(powers.items()) if power)
            return Unit(factor, base, zero=_ZEROS.get(_found(spelt.strip()) or "", Fraction(0)))
    return Unit(Fraction(1), _word(text), known=False)


def _read_product(text: str, sign: int, powers: dict[str, int]) -> Fraction | None:
    """The factor of a product of known units, their powers added to ``powers``; None if one is unknown."""
    pieces = [piece for piece in re.split(r"[\s*·⋅()]+", text) if piece]
    if not pieces:
        return None
    factor = Fraction(1)
    for piece in pieces:
        match = _FACTOR.fullmatch(piece)
        if match is None:
            return None
        name = match[1]
        singular = name[:-1] if name.endswith("s") and len(name) > 2 else name
        found = _found(name) or _found(singular)
        if found is None:
            return None
        power = sign * int(match[2] or 1)
        value, base = _KNOWN[found]
        factor *= value**power
        for symbol, times in base.items():
            powers[symbol] = powers.get(symbol, 0) + times * power
    return factor


def _found(name: str) -> str | None:
    """The known unit of this name; of two letters and more also in other case, the lower one first ("CM", "Kw")."""
    if name in _KNOWN:
        return name
    lower = name.casefold()
    if len(name) == 1 or lower not in _ANY_CASE:
        return None
    return lower if lower in _KNOWN else next(iter(_ANY_CASE[lower])) if len(_ANY_CASE[lower]) == 1 else None


def _word(text: str) -> str:
    text = text.casefold()
    return text.removesuffix("s") if text.isalpha() and len(text) > 3 else text  # "apples"; "ms" and "gas" stay
