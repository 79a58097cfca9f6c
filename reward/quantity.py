"""Numbers with units: ``-1,234.5 kg``, ``3/4``, ``45%``, ``2 × 10^3``, ``twenty-one``. Exact, bounded, no ``eval``.

Every reader returns ``None`` for what it cannot read; none of them raises on any text of at most ``parsing.MAX_CHARACTERS``.
"""

import json
import re
from dataclasses import dataclass
from fractions import Fraction

from reward.parsing import IN_BRACES, plain, words
from reward.units import SUPERSCRIPT, Unit, read_unit

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_TENS = "thirty forty fifty sixty seventy eighty ninety"
WORD_NUMBERS = {word: value for value, word in enumerate(_TO_TWENTY.split())}
WORD_NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 3)}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NOT_A_UNIT = {"or", "and", "to", "minus", "plus", "times", "π", "\\pi", *WORD_NUMBERS, *_SCALES}
"""After a number these words mean that more follows: "5 or six" is two answers, "3 million million" none that is read."""

_UNIT_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}\d]{1,40})\}\s*" + IN_BRACES)
_TEN_POWER = re.compile(r"\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?")
_BARE_POWER = re.compile(r"(?<![\w.^)])10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?(?!\w)")
_MIXED = re.compile(r"(?<![\w./])(-?)(\d{1,9})\s+(\d{1,9})\s*/\s*(\d{1,9})(?![\w/])")
_POWER = re.compile(
    r"(?<=[^\W\d_])(?<!\d[eE])(?<!\.[eE])(?:\s?\^\s?\{?\s?)?([+-]?[1-4])\}?(?![\d.])"
)  # of a unit: m^2, s-1
_PERCENT = re.compile(r"%|per\s?cent\b", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\d.,/] )(?<![\w.,/])\d{1,3}(?: \d{3})+(?![\d/]|\s*/| \d)")  # 12 345 678
_NUMBER = re.compile(
    r"(?<![\w.^])[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+(?:\.\d+)?)?"
)


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
    """A number as written. ``value`` is exact; ``decimals``: places after the point that are known (``1.5e-3``: 4)."""

    value: Fraction
    decimals: int
    unit: Unit | None
    percent: bool

    @property
    def name(self) -> str:
        """The same for equal quantities: value and unit in base units."""
        return f"{self.value * self.unit.factor} {self.unit.base}" if self.unit else str(self.value)


def read_quantity(text: str) -> Quantity | None:
    """Read a text that holds one number and perhaps a unit: ``-1,234.5 kg``, ``3/4``, ``45%``, ``2 × 10^3``."""
    text = plain(text)
    if re.search(r"[<>!]=", text):
        return None
    text = text.rpartition("=")[2].strip()
    text = text[1:-1].strip() if re.fullmatch(r"\([^()]*\)", text) else text
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _TEN_POWER.sub(lambda match: f"e{match[1]}", text)
    text = _UNIT_FRACTION.sub(r" \1/\2", _BARE_POWER.sub(lambda match: f"1e{match[1]}", text))
    text = _POWER.sub(lambda match: match[1].translate(SUPERSCRIPT), re.sub(r"^([-+])\s+", r"\1", text))
    text = _MIXED.sub(lambda m: f"{m[1]}{int(m[2]) * int(m[4]) + int(m[3])}/{m[4]}", text)
    found = [match for match in _NUMBER.finditer(text) if any(letter.isdigit() for letter in match[0])]
    if len(found) != 1:
        return _read_word_number(text) if not found else None
    match = found[0]
    value = _read_fraction(match[0])
    if value is None:
        return None
    before, after = text[: match.start()].strip(), text[match.end() :].strip()
    currency = before in ("$", "€", "£", "¥")
    if before and not currency and not before.endswith(("≈", ":")):
        return None  # "not 5", "5 or 6", "room 5": more than a number
    percent = _PERCENT.match(after) is not None
    unit = _PERCENT.sub("", after).strip()
    first, _, rest = unit.partition(" ")
    if (scale := _SCALES.get(first.casefold(), 0)) and not percent:
        value, unit = value * 10**scale, rest.strip()
    if not _NOT_A_UNIT.isdisjoint(unit.casefold().split()):
        return None
    if not re.fullmatch(r"(?:(?:[^\W\d_]|°)[^\d!=<>|^]*)?", unit) or len(unit.split()) > 3:
        return None  # "2^3", "5!", "5 > 3": an expression, not a unit
    written, _, exponent = match[0].partition("/")[0].lower().partition("e")
    decimals = len(written.partition(".")[2]) - int(exponent or 0) - scale
    return Quantity(value, decimals, read_unit(unit) if unit else None, percent)


def _read_word_number(text: str) -> Quantity | None:
    first, *rest = re.split(r"[\s-]+", text.casefold().strip())
    if (value := WORD_NUMBERS.get(first)) is None:
        return None
    if value >= 20 and rest and 0 < WORD_NUMBERS.get(rest[0], 0) < 10:
        value += WORD_NUMBERS[rest.pop(0)]  # twenty-one
    if rest and rest[0] in _SCALES:
        value *= 10 ** _SCALES[rest.pop(0)]
    if len(rest) > 2 or not _NOT_A_UNIT.isdisjoint(rest):
        return None
    return Quantity(Fraction(value), 0, read_unit(" ".join(rest)) if rest else None, False)


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
    number = read_quantity(text)
    return number.name if number is not None else words(text)
