"""Units of measurement, as far as short answers need them: ``km/h``, ``m s^-2``, ``kilograms``; exact, from one table.

What the table does not know (``apples``, ``red stars``) is a unit of its own, equal to itself whatever its case.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

SUPERSCRIPT = str.maketrans("+-1234", "⁺⁻¹²³⁴")
"""Powers are written so before a text is searched for numbers: these are no digits."""
_NORMAL = str.maketrans("⁺⁻¹²³⁴", "+-1234")

_PREFIXES = {"G": 9, "M": 6, "k": 3, "h": 2, "d": -1, "c": -2, "m": -3, "μ": -6, "u": -6, "n": -9, "p": -12}
_LONG_PREFIXES = {"giga": 9, "mega": 6, "kilo": 3, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9}

# symbol: (names, factor, powers of the base units); those of _PREFIXED take a prefix.
_TABLE: dict[str, tuple[str, str, str]] = {
    "m": ("meter metre", "1", "m"),
    "g": ("gram gramme", "1/1000", "kg"),
    "s": ("second sec", "1", "s"),
    "A": ("ampere amp", "1", "A"),
    "K": ("kelvin", "1", "K"),
    "mol": ("mole", "1", "mol"),
    "Hz": ("hertz", "1", "s-1"),
    "N": ("newton", "1", "kg m s-2"),
    "J": ("joule", "1", "kg m2 s-2"),
    "W": ("watt", "1", "kg m2 s-3"),
    "Pa": ("pascal", "1", "kg m-1 s-2"),
    "V": ("volt", "1", "kg m2 s-3 A-1"),
    "C": ("coulomb", "1", "A s"),
    "F": ("farad", "1", "kg-1 m-2 s4 A2"),
    "Ω": ("ohm", "1", "kg m2 s-3 A-2"),
    "T": ("tesla", "1", "kg s-2 A-1"),
    "L": ("liter litre l", "1/1000", "m3"),
    "eV": ("electronvolt", "1602176634/10000000000000000000000000000", "kg m2 s-2"),
    "cal": ("calorie", "4184/1000", "kg m2 s-2"),
    "bar": ("", "100000", "kg m-1 s-2"),
    "min": ("minute", "60", "s"),
    "h": ("hour hr", "3600", "s"),
    "day": ("", "86400", "s"),
    "atm": ("atmosphere", "101325", "kg m-1 s-2"),
    "t": ("tonne", "1000", "kg"),
    "in": ("inch inches", "254/10000", "m"),
    "ft": ("foot feet", "3048/10000", "m"),
    "mi": ("mile", "1609344/1000", "m"),
    "mph": ("", "44704/100000", "m s-1"),
    "lb": ("pound lbs", "45359237/100000000", "kg"),
    "°": ("degree deg", "1", "°"),
    "°C": ("celsius", "1", "°C"),
    "°F": ("fahrenheit", "1", "°F"),
}
_PREFIXED = "m g s A K mol Hz N J W Pa V C F Ω T L eV cal bar"


@dataclass(frozen=True)
class Unit:
    """``factor`` times the product of base units that ``base`` names in a fixed order; of an unknown unit its own name."""

    factor: Fraction
    base: str
    known: bool = True

    @property
    def letter(self) -> bool:
        """Whether it is one letter that no unit is known by: a variable rather than a unit."""
        return not self.known and len(self.base) == 1


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
        letters = [symbol, "l"] if symbol == "L" else [symbol]
        for prefixes, written in ((_PREFIXES, letters), (_LONG_PREFIXES, long_names)):
            for prefix, power in prefixes.items():
                for name in written:
                    known.setdefault(prefix + name, (value * Fraction(10) ** power, powers))
    return known


_KNOWN = _known()
_ANY_CASE: dict[str, set[str]] = defaultdict(set)
for _name in _KNOWN:
    _ANY_CASE[_name.casefold()].add(_name)
_POWERS_IN_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_FACTOR = re.compile(r"([^\W\d_]+|°[CF]?)([+-]?[1-4])?")


@lru_cache(maxsize=1024)
def read_unit(text: str) -> Unit:
    """The unit that a text of at most 100 characters names; of longer ones the text itself."""
    text = " ".join(text.strip(" .").translate(_NORMAL).split())
    if len(text) <= 100:
        spelt = re.sub(r"\bdegrees? (?=celsius|fahrenheit)", "", text, flags=re.IGNORECASE)
        spelt = re.sub(r"\b(square|sq|cubic|cu)\.? ([^\W\d_]+)", lambda m: f"{m[2]}{_POWERS_IN_WORDS[m[1]]}", spelt)
        above, *below = re.split(r"/|\bper\b", spelt.replace("\\cdot", "*").strip("{} "))
        factor, powers = Fraction(1), dict[str, int]()
        for part, sign in ((above, 1), *((one, -1) for one in below)):
            read = _read_product(part, sign, powers)
            if read is None:
                break
            factor *= read
        else:
            base = " ".join(f"{name}{power}" for name, power in sorted(powers.items()) if power)
            return Unit(factor, base)
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
        singular = name[:-1] if name.endswith("s") and len(name) > 3 else name
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
