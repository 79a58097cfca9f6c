"""Whether two forms (``reward.forms``) say the same. The algebra system decides on values; the rest is bookkeeping.

Called in the child process of ``reward.worker`` only, which limits the time: the caller's limits of length do not bound algebra.
"""

import cmath
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeVar

from reward.forms import NAME, Form, Piece, is_label, mentions
from reward.quantity import Quantity, read_quantity
from reward.units import Unit, read_unit, same_dimension

EXACT = Fraction(1, 10**6)
"""Numbers are equal up to this, absolute below 1 and relative above: what math-verify rounds to."""

_UNIT_BEHIND = re.compile(
    r"(?:(?<=[\d)}|])|(?<=\\pi)|(?<=\s)|(?<=°))\s*((?:(?:square|cubic)\s)?[^\W\d_°]+(?:\s?\^\s?\{-?\d\})?(?:\s?[/·]\s?[^\W\d_]+(?:\^\{\d\})?)?|°)$"
)
_CONSTANT_OF_INTEGRATION = re.compile(r"\+\s*([CcKk])$")
_FUNCTION_OF_X = re.compile(r"[a-z]\(x\)")

Item = TypeVar("Item")


def has_values(form: Form) -> bool:
    """Whether all values in a form can be read."""
    if form.kind == "words":
        return False
    texts = [*form.sides, *(end for low, _, high, _ in form.pieces for end in (low, high))]
    texts += [item for item in form.items if isinstance(item, str) and item not in "<>≤≥≠"]
    return all(is_label(text) or _value_in(text) is not None for text in texts) and all(
        has_values(item) for item in form.items if isinstance(item, Form)
    )


def _value_in(text: str) -> Any:
    return read_quantity(text) or parse_value(_split_unit(text, True)[0])


def same_form(want: Form, got: Form) -> bool:
    """Whether an answer of one form says what a gold answer of another says."""
    if "words" in (want.kind, got.kind):
        return False
    if want.kind == "equation" and (computed := _computed(want, constant=True)):
        want = computed  # 2+3=5
    if want.kind == "equation":
        return _same_equation(want.sides, got.sides)
    if want.sides and not _is_solved(want) and _same_equation(want.sides, got.sides):
        return True
    if got.kind == "equation":
        computed = _computed(got)
        if computed is None:
            return False
        got = computed
    if want.label and got.label and not _same_label(want.label, got.label):
        return False
    if want.kind == "list" and (names := _assigned_names(want)):
        return _same_assignments(want, names, got)
    if want.kind == got.kind == "tuple" and [piece[1::2] for piece in want.pieces] != [
        piece[1::2] for piece in got.pieces
    ]:
        return False  # [0, 1] is not (0, 1)
    if want.pieces and got.pieces and (want.kind != "tuple" or got.kind != "tuple"):
        return _matched(want.pieces, got.pieces, _same_piece)
    if want.kind == "value":
        return _value_meets(want, got)
    if want.kind == "relation":
        return got.kind in ("relation", "ranges") and _same_relation(_as_texts(want), _as_texts(got))
    if want.kind == "ratio":
        return _same_ratio(_as_texts(want), got)
    return _same_members(want, got)


def states(want: Form, got: Quantity | None) -> bool:
    """Whether a quantity that was read in a sentence is the value of a gold answer."""
    quantity = read_quantity(_as_texts(want)[0]) if want.kind == "value" and got is not None else None
    return quantity is not None and got is not None and _same_quantity(quantity, got)


def _value_meets(want: Form, got: Form) -> bool:
    if got.kind == "ratio" and len(got.items) == 2:
        above, below = _as_texts(got)
        return same_value(_as_texts(want)[0], f"\\frac{{{above}}}{{{below}}}")
    return got.kind == "value" and same_value(_as_texts(want)[0], _as_texts(got)[0])


def _same_members(want: Form, got: Form) -> bool:
    """Sets without order, tuples with it. A list without brackets may be either."""
    wanted, given = _as_forms(want), _as_forms(got)
    if want.kind == "tuple":
        if got.kind == "list" and (names := _assigned_names(got)):
            given = [form for _, form in sorted(zip(names, given, strict=True), key=lambda pair: pair[0])]
        return got.kind in ("tuple", "list") and _in_order(wanted, given)
    if got.kind == "tuple":
        return want.kind == "list" and _in_order(wanted, given)
    if got.kind == "list" and any(form.label for form in given):
        letters = {form.label[:1] for form in given}  # x_1 = 1, x_2 = 2
        if len(letters) != 1 or (want.label and not _same_label(want.label, letters.pop())):
            return False
    if got.kind == "value":
        given = [got]
    return got.kind in ("set", "list", "value") and _matched(wanted, [_bare(form) for form in given], same_form)


def _same_assignments(want: Form, names: list[str], got: Form) -> bool:
    """``x = 5, y = 3`` in any order; ``(5, 3)`` in the order of the gold answer."""
    wanted, given = _as_forms(want), _as_forms(got)
    if got.kind == "list" and (others := _assigned_names(got)):
        pairs = dict(zip(others, given, strict=True))
        if set(pairs) == set(names):
            return all(same_form(_bare(form), _bare(pairs[name])) for name, form in zip(names, wanted, strict=True))
        return False
    if got.kind in ("set", "list") and len({name[0] for name in names}) == 1:
        return _matched([_bare(form) for form in wanted], [_bare(form) for form in given], same_form)
    return got.kind == "tuple" and _in_order([_bare(form) for form in wanted], given)


def _assigned_names(form: Form) -> list[str]:
    """The names of a list of assignments, each another; empty if it is none."""
    names = [_label_key(one.label) for one in _as_forms(form)]
    return names if all(names) and len(set(names)) == len(names) else []


def _in_order(wanted: Sequence[Form], given: Sequence[Form]) -> bool:
    return len(wanted) == len(given) and all(
        same_form(_bare(left), _bare(right)) for left, right in zip(wanted, given, strict=True)
    )


def _matched(wanted: Sequence[Item], given: Sequence[Item], same: Callable[[Item, Item], bool]) -> bool:
    """Whether each item has its own partner."""
    rest = list(given)
    if len(rest) != len(wanted):
        return False
    for item in wanted:
        found = next((index for index, other in enumerate(rest) if same(item, other)), None)
        if found is None:
            return False
        del rest[found]
    return True


def _same_piece(want: Piece, got: Piece) -> bool:
    return _same_end(want[:2], got[:2]) and _same_end(want[2:], got[2:])


def _same_end(want: tuple[str, bool], got: tuple[str, bool]) -> bool:
    if "\\infty" in want[0]:
        return want[0].lstrip("+ ") == got[0].lstrip("+ ")
    return want[1] == got[1] and same_value(want[0], got[0])


def _as_forms(form: Form) -> list[Form]:
    return [item if isinstance(item, Form) else Form("value", (item,)) for item in form.items]


def _as_texts(form: Form) -> list[str]:
    return [item for item in form.items if isinstance(item, str)]


def _bare(form: Form) -> Form:
    return replace(form, label="", sides=())


def _label_key(label: str) -> str:
    """One spelling of a label: without braces and marks, the ends of a segment in one order, ``f(x)`` as ``y``."""
    if _FUNCTION_OF_X.fullmatch(label):
        return "y"
    bare = re.sub(
        r"\\(?:angle|triangle|overline|widehat|vec|overrightarrow|mathbf)(?![a-z])|[{}()\s]|^m(?=\\)", "", label
    )
    segment = re.fullmatch(r"\|?([A-Z]{2})\|?", bare)  # the length |AB|; |x| is another thing than x
    return "".join(sorted(segment[1])) if segment else bare


def _same_label(one: str, other: str) -> bool:
    return _label_key(one) == _label_key(other)


# Equations


def _is_solved(form: Form) -> bool:
    """Whether an equation states one value (``x = 5``): then another equation that leads to it is no answer."""
    value = parse_value(form.sides[1])
    return NAME.fullmatch(form.sides[0]) is not None and value is not None and not value.free_symbols


def _computed(form: Form, constant: bool = False) -> Form | None:
    """The value that a chain of equal sides has (``S = 3 \\cdot 4 = 12``, ``x + y = 10``); None if it is false, or to be solved.

    Args:
        constant: only of sides without variables.
    """
    labels = [side for side in form.sides if is_label(side)]
    values = [side for side in form.sides if side not in labels]
    if not values or (constant and labels) or any(mentions(value, label) for value in values for label in labels):
        return None
    formulas = values[:-1] if tuple(labels) == form.sides[:1] and _is_constant(values[-1]) else []
    if all(same_value(values[-1], side) or (side in formulas and not _is_constant(side)) for side in values[:-1]):
        last = parse_value(values[-1])
        if constant and (last is None or last.free_symbols):
            return None
        return Form("value", (values[-1],), label=labels[0] if labels else "")
    if constant or len(values) != 2 or labels:
        return None
    parsed = [parse_value(_split_unit(side, True)[0]) for side in values]
    if parsed[0] is None or parsed[1] is None or parsed[1].free_symbols or len(parsed[0].free_symbols) < 2:
        return None
    return Form("value", (values[1],))  # the sum that was asked for, not an equation in one unknown


def _is_constant(text: str) -> bool:
    """Whether a side has no unknown: in ``A = \\pi r^2 = 25\\pi`` the formula in the middle has one, and cannot be false."""
    value = parse_value(_split_unit(text, True)[0])
    return value is None or not value.free_symbols


def _difference(sides: Sequence[str]) -> Any:
    parsed = [parse_value("y" if _FUNCTION_OF_X.fullmatch(side) else side) for side in sides]
    return None if len(parsed) != 2 or parsed[0] is None or parsed[1] is None else parsed[0] - parsed[1]


def _same_equation(wanted: Sequence[str], given: Sequence[str]) -> bool:
    """Whether two equations have the same solutions because one is a multiple of the other."""
    ratio = _quotient(_difference(wanted), _difference(given))
    return ratio is not None and bool(ratio.is_number) and ratio.is_zero is False and ratio.is_finite is not False


def _quotient(one: Any, other: Any) -> Any:
    from sympy import fraction, simplify, together

    if one is None or other is None or not hasattr(one, "free_symbols") or one.free_symbols != other.free_symbols:
        return None
    upper, lower = (fraction(together(side.doit()))[0].expand() for side in (one, other))
    return None if upper.is_zero or lower.is_zero else simplify(upper / lower)


def _same_relation(wanted: list[str], given: list[str]) -> bool:
    if len(wanted) != 3 or len(given) != 3:
        return wanted == given
    differences, strict = [], []
    for left, right, sign in (wanted, given):
        if sign == "≠":
            return wanted == given
        difference = _difference((left, right))
        differences.append(-difference if difference is not None and sign in ">≥" else difference)
        strict.append(sign in "<>")
    ratio = _quotient(*differences)
    return strict[0] == strict[1] and ratio is not None and bool(ratio.is_number) and bool(ratio.is_positive)


def _same_ratio(wanted: list[str], got: Form) -> bool:
    if got.kind == "value" and len(wanted) == 2:
        return same_value(f"\\frac{{{wanted[0]}}}{{{wanted[1]}}}", _as_texts(got)[0])
    given = _as_texts(got)
    return (
        got.kind == "ratio"
        and len(given) == len(wanted)
        and all(
            same_value(f"({wanted[0]}) \\cdot ({right})", f"({given[0]}) \\cdot ({left})")
            for left, right in zip(wanted[1:], given[1:], strict=True)
        )
    )


# Values


def same_value(want: str, got: str) -> bool:
    """Whether two texts have the same value and no different unit."""
    if want == got:
        return True
    quantity, given = read_quantity(want), read_quantity(got)
    if quantity is not None and given is not None and not (_is_variable(want, quantity) or _is_variable(got, given)):
        return _same_quantity(quantity, given)
    (core, unit), (given_core, given_unit) = _split_unit(want, gold=True), _split_unit(got, gold=False)
    factor = Fraction(1)
    if unit is not None and given_unit is not None:
        pair = same_dimension(unit, given_unit)
        if pair is None:
            return False
        factor = pair[1].factor / pair[0].factor
    constant = _CONSTANT_OF_INTEGRATION.search(core), _CONSTANT_OF_INTEGRATION.search(given_core)
    if constant[0] and constant[1]:
        core, given_core = core[: constant[0].start(1)] + "C", given_core[: constant[1].start(1)] + "C"
    one, other = parse_value(core), parse_value(given_core)
    if one is None or other is None:
        return False
    from math_verify import verify
    from sympy import Rational

    if factor != 1:
        other = other * Rational(factor.numerator, factor.denominator)
    # The caller limits the time. math-verify's own timers need the main thread, so they are off.
    return bool(verify(one, other, timeout_seconds=None, raise_on_error=False)) or _same_number(one, other)


def _same_number(one: Any, other: Any) -> bool:
    """Whether two constants are equal to six places (math-verify does not compare ``\\sqrt{2}`` with ``2^{0.5}``)."""
    if getattr(one, "free_symbols", True) or getattr(other, "free_symbols", True):
        return False
    try:
        left, right = complex(one.evalf(20)), complex(other.evalf(20))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False  # an infinity, a set
    return cmath.isfinite(left) and abs(left - right) <= float(EXACT) * max(1.0, abs(left))


def _is_variable(text: str, quantity: Quantity) -> bool:
    """Whether what stands behind a number is a variable: a letter that is no unit, one without a space (``3m``), or a function."""
    unit = quantity.unit
    return unit is not None and (
        unit.letter
        or re.search(r"\d[A-Za-z]$", text) is not None
        or (not unit.known and "\\" in text.replace("\\%", ""))
    )


def _same_quantity(want: Quantity, got: Quantity) -> bool:
    want, got = want.beside(got), got.beside(want)
    value = want.value / 100 if want.percent else want.value
    readings = [got.value / 100 if got.percent else got.value]
    if want.percent and not got.percent:
        readings.append(got.value / 100)  # 45 for 45%
    if want.unit is not None and got.unit is not None:
        pair = same_dimension(want.unit, got.unit)
        if pair is None:
            return False
        readings = [pair[0].from_base(pair[1].in_base(reading)) for reading in readings]
    return any(abs(reading - value) <= EXACT * max(Fraction(1), abs(value)) for reading in readings)


def _split_unit(text: str, gold: bool) -> tuple[str, Unit | None]:
    """A value and the unit behind it. In a gold answer one letter is a variable (``6\\pi m``), and so it is behind variables."""
    match = _UNIT_BEHIND.search(text)
    if match is None or not match.start(1):
        return text, None
    core, name = text[: match.start(1)].strip(), match[1]
    unit = read_unit(re.sub(r"[{}^]|(?<!square)(?<!cubic)\s", "", name))
    letters = re.match(r"[^\W\d_]*", name)
    if letters is not None and len(letters[0]) == 1:
        value = None if gold or text[match.start(1) - 1 : match.start(1)] != " " else parse_value(core)
        return (core, unit) if unit.known and value is not None and not value.free_symbols else (text, None)
    return (core, unit) if unit.known or (letters is not None and len(letters[0]) > 2) else (text, None)


@lru_cache(maxsize=512)
def parse_value(text: str) -> Any:
    """The algebra system's form of one value; None for what it cannot read whole."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify.grader import should_treat_as_complex
    from sympy import Basic, MatrixBase

    text = text.replace("°", "").strip()  # a degree is a unit, except in a trigonometric function (``mathtext``)
    try:
        value = latex2sympy(
            text,
            is_real=not should_treat_as_complex(text),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # of whatever kind the grammar raises
        return None
    return value if isinstance(value, Basic | MatrixBase) else None
