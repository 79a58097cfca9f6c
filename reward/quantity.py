"""Numbers with units: ``-1,234.5 kg``, ``3/4``, ``45%``, ``2 × 10^3``, ``twenty-one``, ``$5.50``. Exact, bounded, no ``eval``.

Every reader returns ``None`` for what it cannot read; none of them raises on any text of at most ``parsing.MAX_CHARACTERS``.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from reward.arithmetic import compute
from reward.hedges import forbidden, spans
from reward.number_words import SCALES, english_figures
from reward.parsing import IN_BRACES, plain, words
from reward.units import CURRENCY_SIGNS, DOLLARS, SUPERSCRIPT, Unit, read_unit, same_dimension

_EAST_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_DOLLAR = re.compile(rf"(?<![A-Za-z])({'|'.join(sorted(filter(None, DOLLARS), key=len, reverse=True))})?\s?\\?\$")
_PERCENT_WORD = re.compile(
    r"\b(?:per\s?cent|pour\s?cents?|por\s?ciento|prozent|pct|процент\w{0,3})\b|パーセント|퍼센트|프로|بالمئة|بالمائة|في المئة",
    re.IGNORECASE,
)
_ARABIC_MARKS = str.maketrans({"٫": ".", "٬": ",", "٪": "%", "،": ",", "＇": "'", "’": "'", "‘": "'"})

_UNIT_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}\d]{1,40})\}\s*" + IN_BRACES)
_NEGATIVE_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]{1,40})\s*\}\s*\{\s*-([\d.]{1,40})\s*\}")
_NEGATIVE_BELOW = re.compile(r"(-?)\s*(?<![\d.])(\d[\d.]{0,40})\s*/\s*-\s*(?=\d)")
_IN_BRACKETS = re.compile(r"\(\s*(-?[\d.]{1,40})\s*\)(?=\s*/)|(?<=/)\s*\(\s*(-?[\d.]{1,40})\s*\)")
_TEN_POWER = re.compile(r"\s*(?:×|\\times|\\cdot|\*|x|·|⋅)\s*10\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,3})\s*\}?")
_BARE_POWER = re.compile(r"(?<![\w.^)])10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?(?!\w)")
_MIXED = re.compile(r"(?<![\w./])(-?)(\d{1,9})\s+(?:and )?(\d{1,9})\s*/\s*(\d{1,9})(?![\w/])")
_POWER = re.compile(
    r"(?<=[^\W\d_])(?<!\d[eE])(?<!\.[eE])(?:\s?\^\s?\{?\s?)?([+-]?[1-4])\}?(?![\d.])"
)  # of a unit: m^2, s-1
_SPACED = re.compile(r"(?<![\d.,/] )(?<![\w.,/])\d{1,3}(?: \d{3})+(?![\d/]|\s*/| \d)")  # 12 345 678
_GROUPED = re.compile(r"(?<![\w.,'])\d{1,3}(?:(?:'\d{3})+|(?:\.\d{3}){2,})(?![\d'])(?!\.\d{3})")  # 1'250'000, 1.250.000
_HOURS = re.compile(r"(?<=\d)\s?h\s?(?=\d{1,2}(?:\s?(?:min\w*|m))?$)")  # 1h30
_FEET = re.compile(r"(?<!\d)(\d{1,4})\s?'\s?(\d+(?:\.\d+)?)\s?(?:\"|'')$")
_NUMBER = re.compile(
    r"(?<![\w.^])[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+(?:\.\d+)?)?"
)
_USUAL = re.compile(r"\s*([-+]?\d{1,30}(?:\.(\d{1,30}))?)\s*")
_WORDS = re.compile(r"[^\W\d_]+(?:[ './-]{1,3}[^\W\d_]+)*\.?")
_PRODUCT = re.compile(r"[xyz][a-z]|[a-oq-z][xyz]|[abc]{2,3}|pq|mn|xyz")
_UNIT = re.compile(r"(?:(?:[^\W\d_]|[°€£¥₩₹₽¢])[^\d!=<>|^]*)?")
_NO_VALUE = re.compile(r"来|-?(?:ish|st|nd|rd|th|ème|ième|eme)\b|番目|番|번째|번|号|號|º|ª", re.IGNORECASE)
_LETTER_SCALE = {"K": 10**3, "M": 10**6, "B": 10**9}
_MONEY_SCALE = _LETTER_SCALE | {"m": 10**6, "b": 10**9, "T": 10**12, "tn": 10**12}


_COMMA_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)+(?![.,]?\d)")


def point_notation(text: str) -> str:
    """A text of a set that writes a decimal comma, with a point: ``2,5`` becomes ``2.5`` and ``1.234,5`` becomes ``1234.5``.

    What cannot be one number in that notation stays: ``2.5``, ``1,2,3``, and two numbers alone in brackets (``(2,5)``).
    """
    return _COMMA_NUMBER.sub(_with_point, text.replace("{,}", ","))


def _with_point(match: re.Match[str]) -> str:
    before, after = match.string[: match.start()], match.string[match.end() :]
    grouped, mark, decimals = match[0].partition(",")
    alone = before.endswith(("(", "[", "\\{")) and after.startswith((")", "]", "\\}", "\\right"))
    if alone or "." in decimals or "," in decimals:
        return match[0]
    if "." in grouped:
        if not re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+", grouped):
            return match[0]
        grouped = grouped.replace(".", "")
    return f"{grouped}.{decimals}" if mark else grouped


@dataclass(frozen=True)
class Quantity:
    """A number as written. ``value`` is exact; ``decimals``: places after the point that are known (``1.5e-3``: 4).

    ``label`` is the name that the text gives it (``x = 5``). ``other``: what the same text may mean beside such a unit (``5 M`` is
    five million, or a concentration).
    """

    value: Fraction
    decimals: int
    unit: Unit | None
    percent: bool
    label: str | None = None
    other: "Quantity | None" = None

    @property
    def name(self) -> str:
        """The same for equal quantities: value and unit in base units."""
        return f"{self.unit.in_base(self.value)} {self.unit.base}" if self.unit else str(self.value)

    def beside(self, another: "Quantity") -> "Quantity":
        """This quantity as its text is meant beside another one."""
        other = self.other
        if other is None or other.unit is None or another.unit is None:
            return self
        return other if same_dimension(other.unit, another.unit) else self


Frame = Callable[[str, str], tuple[str, str] | None]
"""Takes a sentence away from what stands before and after a number; None if the sentence says more than the number."""


@lru_cache(maxsize=1024)  # a gold answer is read for each response
def read_quantity(text: str) -> Quantity | None:
    """Read a text that holds one number and perhaps a unit, a label or a computation: ``-1,234.5 kg``, ``x = 3/4``, ``2+3 = 5``."""
    if usual := _USUAL.fullmatch(text):
        return Quantity(Fraction(usual[1]), len(usual[2] or ""), None, False)
    return read_prepared(english_figures(prepared(text)))


def prepared(text: str) -> str:
    """``plain`` text in which dollars are spelled ``USD``, percent is ``%`` and all digits are ASCII."""
    if "$" in text:
        # An odd dollar sign is money; two of them are LaTeX.
        money = text.replace("\\$", "").count("$") % 2 == 1
        text = _DOLLAR.sub(lambda m: f" {DOLLARS[m[1] or '']} " if money or "\\" in m[0] else m[0], text)
    text = _PERCENT_WORD.sub("%", plain(text if text.isascii() else re.sub(r"˚|º(?=\s?[CFK])", "°", text)))
    if not text.isascii():
        text = text.translate(_ARABIC_MARKS)
        text = "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)
    return text


def read_prepared(text: str, frame: Frame | None = None) -> Quantity | None:
    """Read a ``prepared`` text, see ``read_quantity``.

    Args:
        frame: reads a sentence around the number; without it there must be none.
    """
    if re.search(r"[<>≤≥≠]|!=|\\pm|±", text):
        return None
    return _read_equation(text, frame) if re.search("[=≈]", text) else _read_one(text, frame)


def _read_one(text: str, frame: Frame | None) -> Quantity | None:
    text = _normal(text)
    found = [match for match in _NUMBER.finditer(text) if any(letter.isdigit() for letter in match[0])]
    if len(found) != 1:
        return _read_parts(text, found) if 1 < len(found) <= 4 else None
    match = found[0]
    before, after = text[: match.start()].strip(), text[match.end() :]
    value = _read_fraction(match[0])
    if value is None or _NO_VALUE.match(after) or spans(before, match[0], after):
        return None
    percent = re.match(r"\s*([%‰])", after)
    if percent:
        value, after = value / (10 if percent[1] == "‰" else 1), after[percent.end() :]
    if frame is not None and (framed := frame(before, after)) is not None:
        before, after = framed
    sign, before = (before[0], before[1:].strip()) if before[:1] in ("-", "+") else ("", before)
    label, colon, before = before.rpartition(":") if ":" in before else ("", "", before)
    currency = before.strip().removesuffix(".")
    if (currency and currency not in CURRENCY_SIGNS) or (colon and (not label.strip() or forbidden(label))):
        return None  # "not 5", "room 5": more than a number
    if sign and match[0][0] in "+-":
        return None  # --5
    value = -value if sign == "-" else value
    scale, unit, other = (1, after.strip(), None) if percent else _split_scale(after, bool(currency))
    if forbidden(unit) or not _is_unit(unit):
        return None  # "2^3", "5!", "5 or six": an expression or a hedge, not a unit
    written, _, exponent = match[0].partition("/")[0].lower().partition("e")
    decimals = len(written.partition(".")[2]) - int(exponent or 0) - len(str(scale)) + 1
    read = read_unit(unit) if unit else None
    if currency:
        read = _with_currency(read_unit(currency), unit, read)
        if read is None:
            return None
    name = words(label) if colon else None
    return Quantity(
        value * scale,
        decimals,
        read,
        percent is not None,
        None if name in _NEUTRAL else name,
        Quantity(value, decimals, other, False) if other else None,
    )


_NEUTRAL = {"answer", "final answer", "result", "value", "total"}
"""Labels that name nothing."""


def _normal(text: str) -> str:
    """One notation for powers of ten, fractions, signs and groups of digits."""
    if not text.isascii():
        text = re.sub(rf"(?<=[{_EAST_ASIAN}])(?=[-\d])", " ", text)
    text = re.sub(r"^([-+])\s+", r"\1", text[1:-1].strip() if re.fullmatch(r"\([^()]*\)", text) else text)
    if " " in text:
        text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    if "h" in text:
        text = _HOURS.sub(" h ", text)
    if "'" in text or "." in text:
        text = _FEET.sub(r"\1 ft \2 in", text)
        text = _GROUPED.sub(lambda match: re.sub(r"['.]", "", match[0]), text)
    if "10" in text:
        text = _TEN_POWER.sub(lambda match: f"e{match[1]}", text)
        text = _BARE_POWER.sub(lambda match: f"1e{match[1]}", text)
    if "frac" in text:
        text = _UNIT_FRACTION.sub(r" \1/\2", _NEGATIVE_FRACTION.sub(r"\1/-\2", text))
    if "/" in text:
        text = _IN_BRACKETS.sub(lambda match: match[1] or match[2], text)
        text = _NEGATIVE_BELOW.sub(lambda m: f"{'' if m[1] else '-'}{m[2]}/", text)
        text = _MIXED.sub(lambda m: f"{m[1]}{int(m[2]) * int(m[4]) + int(m[3])}/{m[4]}", text)
    return _POWER.sub(lambda match: match[1].translate(SUPERSCRIPT), text)


def _split_scale(after: str, money: bool) -> tuple[int, str, Unit | None]:
    """The scale word behind a number (``million``, ``万``, ``M``), what follows it, and the unit that it may be instead."""
    letter = re.match(r"\s?([A-Za-z]{1,2})(?![^\W\d_])", after)
    attached = letter is not None and not after[0].isspace()
    if letter and letter[1] in (_MONEY_SCALE if money else _LETTER_SCALE) and (attached or money or letter[1] != "K"):
        return (
            (_MONEY_SCALE if money else _LETTER_SCALE)[letter[1]],
            after[letter.end() :].strip(),
            read_unit(letter[1]),
        )
    scale, unit = 1, after.strip()
    for _ in range(2):  # "3 hundred thousand"
        word = re.match(rf"[^\W\d_{_EAST_ASIAN}]+|[万萬亿億만억千百천백십]+", unit)
        more = SCALES.get(word[0].casefold()) if word and word[0] != "K" else None
        if word is None or more is None or (scale > 1 and more <= scale) or (len(unit) > 1 and read_unit(unit).known):
            break
        scale, unit = scale * more, unit[word.end() :].strip()
    return scale, unit, None


def _is_unit(text: str) -> bool:
    """Whether a text may be a unit: a known one, or up to three words; ``xy`` and ``a+3`` are algebra."""
    if not text or (_UNIT.fullmatch(text) and len(text) <= 100 and read_unit(text).known):
        return True
    return bool(_WORDS.fullmatch(text)) and len(text.split()) <= 3 and not _PRODUCT.fullmatch(text)


def _with_currency(currency: Unit, written: str, unit: Unit | None) -> Unit | None:
    """The unit of ``$5``, ``$5 USD``, ``$5 per kg`` or ``$5 in total``; None where another unit follows."""
    if unit is None or not unit.known:
        if re.match("/|per ", written):
            return replace(currency, base=f"{currency.base} {written}", known=False)
        return currency
    return unit if same_dimension(currency, unit) else None


def _read_parts(text: str, found: list[re.Match[str]]) -> Quantity | None:
    """A quantity in falling units: ``1 h 30 min``, ``5 feet 6 inches``, ``2 dollars and 50 cents``."""
    if text[: found[0].start()].strip():
        return None
    total, last = Fraction(0), None
    first = None
    for match, following in zip(found, [*found[1:], None], strict=True):
        rest = text[match.end() : following.start() if following else len(text)].strip()
        unit = read_unit(re.sub(r"(?:,|\b(?:and|und|et|y))$", "", rest).strip())
        if not rest and last is not None and following is None and last.factor == 3600:
            unit = read_unit("min")  # 1 h 30
        value = _read_fraction(match[0])
        if value is None or unit.zero or not unit.known or (last is not None and value < 0):
            return None
        if last is not None:
            pair = same_dimension(last, unit)
            if pair is None or value * pair[1].factor >= pair[0].factor:
                return None
            unit = pair[1]
        first = first or unit
        total += value * unit.factor * (-1 if total < 0 else 1)
        last = unit
    return Quantity(total / first.factor, 0, first, False) if first else None


# Equations


def _read_equation(text: str, frame: Frame | None) -> Quantity | None:
    """The value of ``S = 12``, ``2 + 3 = 5`` or ``5 = x``; None for a false equation and for more than one of them."""
    *sides, last = (side.strip() for side in re.split("[=≈]", text))
    found = _read_one(last, frame)
    if found is None and len(sides) == 1 and (_NAME.fullmatch(last) or compute(last) is not None):
        sides, found = [last], _read_one(sides[0], None)
    if found is None or len(sides) > 5:
        return None
    margin = Fraction(1, 2 * 10**found.decimals) if 0 < found.decimals <= 100 else Fraction(0)
    if "≈" in text:
        margin = max(margin, abs(found.value) / 20)
    for place, side in enumerate(sides):
        computed = _COMPUTED.search(side)  # "the total is 2 + 3"
        value, percent = compute(computed[1] if computed else side), found.percent
        if value is None and (stated := _read_one(side, frame)) is not None:
            value, percent = _in_unit_of(found, stated), percent != stated.percent
            if value is None:
                return None
        if value is None:
            if not _is_label(side, first=place == 0):
                return None
        elif abs(value - found.value) > margin and not (
            (percent and 100 * value == found.value) or value == 100 * found.value
        ):
            return None  # 6 = 5
    label = sides[0] if len(sides) == 1 and _NAME.fullmatch(sides[0]) else None
    return replace(found, label=label or found.label)


_COMPUTED = re.compile(
    r"(?:\b[^\W\d_]{2,}:?\s+(?=[^-+*/×·÷^]*[-+*/×·÷^])|\b(?:is|are|equals|es|est|ist|sind|son|sont)\s+|[是はé為为]\s*)"
    r"([\d.(][-\d\s.,+*/×·÷^()]*)$"
)
_NAME = re.compile(r"\\?[^\W\d_](?:_?\{?\w{1,20}\}?)?")
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_UNSOLVED = re.compile(
    r"(?<![\w.^])\d[\d.]*\s*\*?\s*[a-z](?![a-z])|(?<![a-z\\])[a-z]\s*(?:[-+*/^]|\*\*)\s*\{?\d"
    r"|\d\s*[-+/]\s*[a-z](?![a-z])"
)


def _is_label(text: str, first: bool) -> bool:
    """Whether what stands before "=" names or computes one value: ``S``, ``f(3)``, ``\\angle ABC``, ``Area of 3 squares``.

    It does not if another value is given in it (``a=2 m, b``), or if it is an equation still to be solved (``3x``, ``x + 2``).
    """
    if not text:
        return first  # "= 5"
    outside = _BRACKETS.sub("", text).replace("π", "").replace("\\pi", "")
    numbered = any(letter.isdigit() for letter in outside)
    if forbidden(outside, sentence=True) or ("," in outside and numbered) or re.search("[;،、，]", outside):
        return False
    if not first:
        return not numbered or bool(re.search(r"[-+*/·×^\\]", outside))
    variables = set(re.findall(r"(?<![A-Za-z\\])[a-z](?![A-Za-z_(])", outside))
    return not (len(variables) == 1 and _UNSOLVED.search(outside))


def _in_unit_of(wanted: Quantity, given: Quantity) -> Fraction | None:
    """The value of ``given`` in the unit of ``wanted``; None if they are of different kinds."""
    if wanted.unit is None or given.unit is None:
        return given.value if given.unit is None or not given.unit.letter else None
    pair = same_dimension(wanted.unit, given.unit)
    return None if pair is None else pair[0].from_base(pair[1].in_base(given.value))


def _read_fraction(text: str) -> Fraction | None:
    upper, _, lower = text.replace(",", "").replace(" ", "").partition("/")
    if len(upper) > 60 or len(lower) > 60:
        return None
    try:
        return Fraction(upper) / Fraction(lower or "1")
    except (ValueError, ZeroDivisionError):
        return None


def canonical(cell: object) -> str:
    """A form that is equal for cells that say the same: as quantities where they are such, else as words."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, dict | list):
        return json.dumps(cell, sort_keys=True)
    text = "" if cell is None else str(cell)
    number = None if re.fullmatch(r"\s*0\d+\s*", text) else read_quantity(text)  # 007 is a name
    if number is None:
        return words(text)
    return number.name if number.label is None else f"{words(number.label)} = {number.name}"
