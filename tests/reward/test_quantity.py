"""Numbers, counts and quantities as models write them: what is the same value, and what only looks like it."""

import pytest
from verifier_cases import verify

from reward.grade import Gold, answer_name, gradable, grade_answer, grading_sha256
from reward.quantity import point_notation
from reward.rewards import Rollout

POINT_NOTATION = [
    ("2,5", "2.5"),
    ("La valeur est 2,5.", "La valeur est 2.5."),
    ("-1.234,5 kg", "-1234.5 kg"),
    ("1.234", "1234"),
    ("1.234.567", "1234567"),
    ("1 234,5", "1 234.5"),
    ("2{,}5", "2.5"),
    ("2,5cm", "2.5cm"),
    ("(2,5 cm)", "(2.5 cm)"),
    ("0,125", "0.125"),
    ("0.125", "0.125"),
    ("2.5", "2.5"),
    ("3.14159", "3.14159"),
    ("1,2,3", "1,2,3"),
    ("1, 2", "1, 2"),
    ("(2,5)", "(2,5)"),
    ("\\left[2,5\\right]", "\\left[2,5\\right]"),
    ("\\{1,2\\}", "\\{1,2\\}"),
    ("1,234,567", "1,234,567"),
    ("12.34,5", "12.34,5"),
    ("am 3.4.2020", "am 3.4.2020"),
]


@pytest.mark.parametrize(("text", "expected"), POINT_NOTATION)
def test_a_decimal_comma_becomes_a_point(text: str, expected: str) -> None:
    assert point_notation(text) == expected


DECIMAL = [  # domain, answer, gold, options, correct with a decimal comma
    ("number", "2,5", "2,5", None, True),
    ("number", "2.5", "2,5", None, True),
    ("number", "25", "2,5", None, False),
    ("number", "1.234", "1234", None, True),
    ("number", "1,234", "1234", None, False),
    ("number", "1,234", "1,2", None, True),
    ("number", "1,25 km", "1250 m", None, True),
    ("science", "9,8 m/s²", "9,81 m/s^2", None, True),
    ("count", "1.200", "1200", None, True),
    ("text", "2,5 Liter", "2,50 Liter", None, True),
    ("table", "a: 2,5; b: 3", "a: 2.5; b: 3", None, True),
    ("choice", "2,5 cm", "B", ["25 cm", "2,5 cm"], True),
    ("choice", "2.5 cm", "B", ["25 cm", "2,5 cm"], True),
    ("choice", "2,5 cm", "A", ["25 cm", "2,5 cm"], False),
]


@pytest.mark.parametrize(("domain", "answer", "gold", "choices", "correct"), DECIMAL)
def test_a_set_may_write_a_decimal_comma(
    domain: str, answer: str, gold: str, choices: list[str] | None, correct: bool
) -> None:
    assert grade_answer(Gold(domain, gold, choices, ","), answer).correct == correct


def test_a_decimal_comma_counts_wherever_a_gold_answer_is_read() -> None:
    comma, point = Gold("number", "2,5", None, ","), Gold("number", "2,5")
    assert gradable(comma) and not gradable(point)
    assert grading_sha256(comma) != grading_sha256(point)
    assert answer_name(comma, "2,50") == answer_name(comma, "5/2") != answer_name(point, "2,50")
    assert not verify("number", "2,5", "2.5").correct
    assert Rollout("\\boxed{2,5}", "number", "2,5", decimal=",").grade.correct
