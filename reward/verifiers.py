"""Verifiers: is an answer correct? One pure function for each domain, listed in ``VERIFIERS``.

A verdict's score is in [0, 1], and 1 is correct. ``None`` means that the answer cannot be judged (the gold answer is unreadable),
which is not the same as incorrect. Nothing here bounds the time that a verifier takes: ``reward.grade`` calls them in a child process.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from reward.expression import compare_expressions
from reward.forms import read_form
from reward.options import read_gold_option, read_option
from reward.parsing import plain, words
from reward.quantity import Quantity, read_quantity
from reward.stated_value import read_stated, states_none
from reward.structures import (
    answer_order,
    answer_pairs,
    answer_sequence,
    read_order,
    read_pairs,
    read_sequence,
    says_none,
)
from reward.tables import read_table, same_table, tells_table
from reward.text import same_text
from reward.units import same_dimension
from reward.yes_no import read_yes_no

SCIENCE_TOLERANCE = Fraction(1, 100)
"""Measured quantities are correct within 1% of the gold value (or within its last written digit, if that is wider)."""


@dataclass(frozen=True)
class Verdict:
    """``score`` in [0, 1] or None (cannot judge); ``parts`` are named numbers behind it; ``reason`` is for people."""

    score: float | None
    parts: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def correct(self) -> bool:
        """Whether the score is full: partial credit is not correct."""
        return self.score is not None and self.score >= 1.0


Verifier = Callable[[str, str, list[str] | None], Verdict]


def _graded(score: float, reason: str, **parts: float) -> Verdict:
    return Verdict(score, parts, "right" if score >= 1.0 else reason)


def _cannot_read(gold: str) -> Verdict:
    return Verdict(None, {}, f"the gold answer cannot be read: {gold[:80]!r}")


def verify_number(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """Equal values, and units that are equal or can be converted where both name one.

    Equal is within half of the gold's last decimal place, or within what stands after ``±`` in it (``12 ± 0.5 cm``,
    ``12 cm ± 5%``).
    """
    return _quantity(answer, gold, Fraction(0))


def _quantity(answer: str, gold: str, share: Fraction) -> Verdict:
    gold, *stated = split_tolerance(gold)
    want, allowed = read_quantity(gold) or read_stated(gold), read_quantity(stated[0]) if stated else None
    if stated and want is not None and allowed is not None and want.unit is None and not allowed.percent:
        want = replace(want, unit=allowed.unit)  # 12 ± 0.5 cm
    if want is None or (stated and allowed is None):
        return _cannot_read(gold)
    if stated:
        answer, *repeated = split_tolerance(answer)
        again = read_quantity(repeated[0]) if repeated else allowed
        if again is None or allowed is None or again.value != allowed.value:
            return _graded(0.0, "another tolerance", value=0.0, unit=0.0)
    got = read_stated(answer)
    if got is None:
        return _graded(0.0, "not one number", value=0.0, unit=0.0)
    if want.label and got.label and words(want.label) != words(got.label):
        return _graded(0.0, "another name", value=0.0, unit=0.0)
    want, got = want.beside(got), got.beside(want)
    margin = _margin(want, share)
    if allowed is not None:
        margin = abs(want.value) * allowed.value / 100 if allowed.percent else allowed.value
    # "45%" may be written 45 where the question asks for percent, and 0.45 where it does not.
    readings = [got.value]
    if got.percent and not want.percent:
        readings.append(got.value / 100)
    if want.percent and not got.percent:
        readings.append(got.value * 100)
    if want.unit is None:
        unit = got.unit is None or not (got.unit.letter or want.percent)  # "5x" is more than 5, and "5 cm" is no share
    else:
        pair = same_dimension(want.unit, got.unit) if got.unit is not None else None
        unit = pair is not None or (got.unit is None and not got.percent)
        readings = [pair[0].from_base(pair[1].in_base(value)) for value in readings] if pair else readings
    near = any(abs(value - want.value) <= margin for value in readings)
    return _graded(
        float(near and unit), "another value" if not near else "another unit", value=float(near), unit=float(unit)
    )


def split_tolerance(gold: str) -> list[str]:
    """The value, and what follows ``±`` where a gold answer has one."""
    return re.split(r"±|\\pm(?![a-z])|\+/-", gold, maxsplit=1)


def _margin(want: Quantity, share: Fraction) -> Fraction:
    rounding = Fraction(1, 2 * 10**want.decimals) if 0 < want.decimals <= 400 else Fraction(0)
    return max(rounding, abs(want.value) * share)


def verify_count(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """The same whole number, in figures or in words, perhaps in a sentence; ``none`` and ``there are no stars`` are zero."""
    want, got = _whole(gold), _whole(answer)
    if want is None:
        return _cannot_read(gold)
    if got is None:
        return _graded(0.0, "not a whole number")
    return _graded(float(got == want), "another count", off_by=float(abs(got - want)))


def _whole(text: str) -> int | None:
    if states_none(text):
        return 0
    got = read_stated(text)
    if got is None or got.percent or got.value.denominator != 1 or abs(got.value) > 10**9:
        return None
    return int(got.value)


def verify_choice(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """The same option, named by its letter, by its words, or by both when they agree."""
    if not choices:
        want, got = read_option(gold, None), read_option(answer, None)
        if want is None:
            return verify_text(answer, gold)
        return _graded(float(got == want), "another option" if got is not None else "not an option")
    want = read_gold_option(gold, choices)
    if want is None:
        return _cannot_read(gold)
    got = read_option(answer, choices)
    return _graded(float(got == want), "another option" if got is not None else "not an option")


def verify_yes_no(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """Yes or no (true or false) at the start, and never the other one after it."""
    want, got = read_yes_no(gold), read_yes_no(answer)
    if want is None:
        return _cannot_read(gold)
    return _graded(float(got == want), "neither yes nor no" if got is None else "the other one")


def verify_text(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """The same words (``reward.text``), alone or in a sentence; ``|`` in the gold answer sets aliases apart."""
    if not any(words(alias) for alias in gold.split("|")):
        return _cannot_read(gold)
    return _graded(float(same_text(answer, gold)), "other words")


def verify_expression(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """Mathematically equal (math-verify), numbers to six places as there.

    The one verifier whose time is not bounded by the length of its input.
    """
    if words(answer) == words(gold) and re.sub(r"\s", "", plain(answer)) == re.sub(r"\s", "", plain(gold)):
        return _graded(1.0, "")
    if not re.search(r"[\d\\{}()=+^<>|]", plain(gold)) and read_form(gold).kind == "words":
        return verify_text(answer, gold)
    comparison = compare_expressions(answer, gold)
    if comparison == "unreadable gold":
        return _cannot_read(gold)
    return _graded(
        float(comparison == "equal"), "another expression" if comparison == "different" else "not an expression"
    )


def verify_table(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """Cells in common over the cells of the longer table; neither the order of rows nor the notation counts."""
    want = read_table(gold)
    if want is None:
        return _cannot_read(gold)
    got = read_table(answer)
    if got is None:
        return _graded(0.0, "not a table", recall=0.0, precision=0.0)
    ordered = got.in_order_of(want.header)
    cells = ordered.cells()
    if ordered.header and want.header and ordered.header[0] not in ("", want.header[0]):
        cells.append(("", ordered.header[0], ""))  # months are no years, though all other cells agree
    recall, precision, score = _overlap(want.cells(), cells)
    if score < 1.0 and (same_table(got, want) or (not (got.header and want.header) and tells_table(answer, want))):
        recall = precision = score = 1.0
    return _graded(score, "cells differ", recall=recall, precision=precision)


def _overlap(want: Iterable[Hashable], got: Iterable[Hashable]) -> tuple[float, float, float]:
    wanted, given = Counter(want), Counter(got)
    common = (wanted & given).total()
    longer = max(wanted.total(), given.total())
    return common / max(wanted.total(), 1), common / max(given.total(), 1), common / max(longer, 1)


def _given_pairs(answer: str, gold: str, pairs: dict[str, str]) -> dict[str, str]:
    """The pairs that an answer gives, also as a table."""
    given = answer_pairs(answer, gold)
    if given != pairs and "\n" in answer:
        want, got = read_table(gold), read_table(answer)
        return pairs if want and got and same_table(got, want) else given
    return given


def verify_logic(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """Pairs (``A = knight, B = knave``), an order (``A > B > C``) or a set (``1, 3``); partial credit by item."""
    order = read_order(gold)
    pairs = read_pairs(gold) if order is None or len(order) <= 2 else None  # "A → B" may be either
    if pairs is not None:
        recall, precision, score = _overlap(pairs.items(), _given_pairs(answer, gold, pairs).items())
        if score >= 1.0 or not order:
            return _graded(score, "pairs differ", recall=recall, precision=precision)
    if order:
        got = answer_order(answer, order)
        hits = sum(left == right for left, right in zip(order, got, strict=False))
        return _graded(hits / max(len(order), len(got)), "order differs", items=hits / len(order))
    want = read_sequence(gold)
    if len(want) == 1 and read_yes_no(gold) is not None:
        return verify_yes_no(answer, gold)
    if says_none(gold):
        return _graded(float(says_none(answer)), "items differ")
    if not want:
        return _cannot_read(gold)
    recall, precision, score = _overlap(want, answer_sequence(answer, want))
    return _graded(score, "items differ", recall=recall, precision=precision)


def verify_simulation(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """The same final state: all of its pairs, or the same sequence, or the same words. No partial credit."""
    pairs = read_pairs(gold)
    if pairs is not None:
        recall, _, score = _overlap(pairs.items(), _given_pairs(answer, gold, pairs).items())
        return _graded(float(score >= 1.0), "another state", matched=recall)
    want = read_sequence(gold)
    if not want:
        return _cannot_read(gold)
    got = answer_sequence(answer, want, ordered=True)
    hits = sum(left == right for left, right in zip(want, got, strict=False))
    return _graded(float(want == got), "another state", matched=hits / len(want))


def verify_science(answer: str, gold: str, choices: list[str] | None = None) -> Verdict:
    """An option where there are options, else a quantity within ``SCIENCE_TOLERANCE``, else words."""
    if choices or re.fullmatch(r"\(?[A-Ha-h]\)?", gold.strip()):
        return verify_choice(answer, gold, choices)
    verdict = _quantity(answer, gold, SCIENCE_TOLERANCE)
    return verdict if verdict.score is not None else verify_text(answer, gold)


VERIFIERS: dict[str, Verifier] = {
    "number": verify_number,
    "choice": verify_choice,
    "text": verify_text,
    "expression": verify_expression,
    "count": verify_count,
    "logic": verify_logic,
    "table": verify_table,
    "simulation": verify_simulation,
    "yes_no": verify_yes_no,
    "science": verify_science,
}
