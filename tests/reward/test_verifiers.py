"""Verifiers, table by table: right, wrong and hostile answers. A row is (answer, gold, score) or with choices behind it."""

import time

import pytest

from reward.expression import ExpressionWorker
from reward.verifiers import VERIFIERS, verify
from vlm.errors import UserError
from vlm.problem import DOMAINS

NUMBER = [
    ("5", "5", 1.0),
    (" 5. ", "5", 1.0),
    ("5.0", "5", 1.0),
    ("05", "5", 1.0),
    ("five", "5", 1.0),
    ("six", "5", 0.0),
    ("1,234.5", "1234.5", 1.0),
    ("1,234,567", "1234567", 1.0),
    ("1,23", "123", 0.0),
    ("-3", "−3", 1.0),
    ("–3", "-3", 1.0),
    ("3", "-3", 0.0),
    ("1/2", "0.5", 1.0),
    ("\\frac{1}{2}", "0.5", 1.0),
    ("$\\dfrac{3}{4}$", "0.75", 1.0),
    ("1 1/2", "1.5", 1.0),
    ("1\\frac{1}{2}", "1.5", 1.0),
    ("1/0", "1", 0.0),
    ("45%", "0.45", 1.0),
    ("45 %", "45%", 1.0),
    ("45", "45%", 1.0),
    ("0.45", "45%", 1.0),
    ("0.45", "45", 0.0),
    ("3.14159", "3.14", 1.0),
    ("3.15", "3.14", 0.0),
    ("3.1", "3", 0.0),
    ("2e3", "2000", 1.0),
    ("2 \\times 10^3", "2000", 1.0),
    ("2×10^{-3}", "0.002", 1.0),
    ("12 cm", "12", 1.0),
    ("12", "12 cm", 1.0),
    ("12 CM", "12 cm", 1.0),
    ("12 m", "12 cm", 0.0),
    ("12 m²", "12 m^2", 1.0),
    ("½", "0.5", 1.0),
    ("12 apples", "12 apple", 1.0),
    ("12\\text{ cm}", "12 cm", 1.0),
    ("$12$", "12", 1.0),
    ("x = 12", "12", 1.0),
    ("2 + 3 = 5", "5", 1.0),
    ("2^3", "2", 0.0),
    ("5!", "5", 0.0),
    ("5 > 3", "5", 0.0),
    ("5 m s^-1", "5 m/s", 0.0),
    ("5 °C", "5", 1.0),
    ("5 or 6", "5", 0.0),
    ("not 5", "5", 0.0),
    ("4, 5", "5", 0.0),
    ("3-5", "5", 0.0),
    ("B2", "2", 0.0),
    ("none of these", "5", 0.0),
    ("１２", "12", 1.0),
    ("1e999", "5", 0.0),
    ("5", "a lot", None),
    ("5", "4 or 5", None),
]
COUNT = [
    ("3", "3", 1.0),
    ("three", "3", 1.0),
    ("3 stars", "3", 1.0),
    ("three red stars", "3", 1.0),
    ("0", "none", 1.0),
    ("none", "0", 1.0),
    ("no stars", "0", 1.0),
    ("no more than 3", "0", 0.0),
    ("no three", "0", 0.0),
    ("2", "3", 0.0),
    ("3.5", "3", 0.0),
    ("3.0", "3", 1.0),
    ("300%", "3", 0.0),
    ("1 2 3", "3", 0.0),
    ("many", "3", 0.0),
    ("3", "many", None),
]
CHOICE = [
    ("B", "B", 1.0, None),
    ("(b)", "B", 1.0, None),
    ("B.", "B", 1.0, None),
    ("Option B", "B", 1.0, None),
    ("A", "B", 0.0, None),
    ("A or B", "B", 0.0, None),
    ("B", "dog", 1.0, ["cat", "dog"]),
    ("dog", "B", 1.0, ["cat", "dog"]),
    ("the dog", "dog", 1.0, ["cat", "dog"]),
    ("B) dog", "dog", 1.0, ["cat", "dog"]),
    ("(B): Dog", "dog", 1.0, ["cat", "dog"]),
    ("A) dog", "dog", 0.0, ["cat", "dog"]),
    ("A. dog", "B", 0.0, ["cat", "dog"]),
    ("C", "dog", 0.0, ["cat", "dog"]),
    ("bird", "dog", 0.0, ["cat", "dog"]),
    ("cat dog", "dog", 0.0, ["cat", "dog"]),
    ("2", "2", 1.0, ["1", "2", "3"]),
    ("B", "2", 1.0, ["1", "2", "3"]),
    ("3", "2", 0.0, ["1", "2", "3"]),
    ("A", "a house", 1.0, ["a house", "a tree"]),
    ("A house", "a house", 1.0, ["a house", "a tree"]),
    ("dog", "fish", None, ["cat", "dog"]),
]
YES_NO = [
    ("yes", "yes", 1.0),
    ("Yes.", "yes", 1.0),
    ("Yes, it is.", "yes", 1.0),
    ("TRUE", "yes", 1.0),
    ("no", "No", 1.0),
    ("No, they differ", "no", 1.0),
    ("no", "yes", 0.0),
    ("yes and no", "yes", 0.0),
    ("yes, not no", "yes", 0.0),
    ("maybe", "yes", 0.0),
    ("The answer is yes", "yes", 0.0),
    ("yes", "perhaps", None),
]
TEXT = [
    ("red star", "red star", 1.0),
    ("A Red  Star.", "red star", 1.0),
    ("the red star", "a red star", 1.0),
    ("\\text{red star}", "red star", 1.0),
    ('"red star"', "red star", 1.0),
    ("star", "red star", 0.0),
    ("red star and blue star", "red star", 0.0),
    ("not red star", "red star", 0.0),
    ("USA", "United States|USA|US", 1.0),
    ("us", "United States|USA|US", 1.0),
    ("Canada", "United States|USA|US", 0.0),
    ("3.5", "3.50", 1.0),
    ("café", "cafe\u0301", 1.0),
    ("x", "...", None),
]
EXPRESSION = [
    ("x + 1", "1+x", 1.0),
    ("(x+1)^2", "x^2+2x+1", 1.0),
    ("\\sqrt{8}", "2\\sqrt{2}", 1.0),
    ("\\frac{x}{2}", "x/2", 1.0),
    ("0.5", "\\frac{1}{2}", 1.0),
    ("x²+1", "x^2+1", 1.0),
    ("½", "0.5", 1.0),
    ("\\frac{x+1}{2}", "(x+1)/2", 1.0),
    ("x+2", "x+1", 0.0),
    ("2x", "x^2", 0.0),
    ("the answer", "x+1", 0.0),
    ("{" * 400, "x+1", 0.0),
    ("(" * 60 + "x" + ")" * 60, "x", 0.0),
    ("x" * 1500, "x+1", 0.0),
]
TABLE = [
    ("row 2: c d; row 1: a b", "row 1: a b; row 2: c d", 1.0),
    ("row 1: a b; row 2: c x", "row 1: a b; row 2: c d", 0.5),
    ("row 1: a b", "row 1: a b; row 2: c d", 0.5),
    ("row 1: a b; row 2: c d; row 3: e f", "row 1: a b; row 2: c d", 2 / 3),
    ('[{"a": 1, "b": 2}]', "| a | b |\n|---|---|\n| 1 | 2 |", 1.0),
    ("| b | a |\n|---|---|\n| 2 | 1 |", '[{"b": 2, "a": 1}]', 1.0),
    ('{"x": 1, "y": "two"}', "x: 1\ny: two", 1.0),
    ('{"y": 2, "x": 1}', '{"x": 1.0, "y": 2}', 1.0),
    ("[[1, 2], [3, 4]]", "[[3, 4], [1, 2]]", 1.0),
    ("[[1, 2], [3, 5]]", "[[1, 2], [3, 4]]", 0.5),
    ("3, 1, 2", "1, 2, 3", 1.0),
    ("1, 2", "1, 2, 3", 2 / 3),
    ("7", "7", 1.0),
    ("nothing", "a: 1; b: 2", 0.0),
    ("[" * 1500, "a: 1; b: 2", 0.0),
    ('{"a": {"b": 1}}', '{"a": 1}', 0.0),
]
LOGIC = [
    ("A = knight, B = knave", "A=knight, B=knave", 1.0),
    ("B is knave and A is knight", "A=knight, B=knave", 1.0),
    ('{"A": "knight", "B": "knave"}', "A=knight, B=knave", 1.0),
    ("A = knight, B = knight", "A=knight, B=knave", 0.5),
    ("A = knight", "A=knight, B=knave", 0.5),
    ("1, 3", "1, 3", 1.0),
    ("3, 1", "1, 3", 1.0),
    ("1", "1, 3", 0.5),
    ("1, 2, 3", "1, 3", 2 / 3),
    ("none", "none", 1.0),
    ("1", "none", 0.0),
    ("A > B > C", "A > B > C", 1.0),
    ("A -> B -> C", "A > B > C", 1.0),
    ("A > C > B", "A > B > C", 1 / 3),
    ("yes", "true", 1.0),
    ("no", "true", 0.0),
]
SIMULATION = [
    ("B3: red star", "B3: red star", 1.0),
    ("b3 : Red Star.", "B3: red star", 1.0),
    ("B3: none", "B3: red star", 0.0),
    ("B2: red star", "B3: red star", 0.0),
    ("red star", "B3: red star", 0.0),
    ("x=1, y=2", "y = 2; x = 1", 1.0),
    ("x=1", "x=1, y=2", 0.0),
    ("1, 2, 3", "1, 2, 3", 1.0),
    ("[1, 2, 3]", "1 2 3".replace(" ", ", "), 1.0),
    ("3, 2, 1", "1, 2, 3", 0.0),
]
SCIENCE = [
    ("9.8 m/s", "9.81 m/s", 1.0, None),
    ("9.6 m/s", "9.81 m/s", 0.0, None),
    ("9.8", "9.81 m/s", 1.0, None),
    ("9.8 km/s", "9.81 m/s", 0.0, None),
    ("(c)", "C", 1.0, None),
    ("B", "mitosis", 1.0, ["meiosis", "mitosis"]),
    ("mitosis", "Mitosis", 1.0, None),
    ("6.02 × 10^{23}", "6.022e23", 1.0, None),
]
TABLES = {
    "number": NUMBER,
    "count": COUNT,
    "choice": CHOICE,
    "yes_no": YES_NO,
    "text": TEXT,
    "expression": EXPRESSION,
    "table": TABLE,
    "logic": LOGIC,
    "simulation": SIMULATION,
    "science": SCIENCE,
}
CASES = [(domain, *case[:3], case[3] if len(case) > 3 else None) for domain, cases in TABLES.items() for case in cases]


@pytest.mark.parametrize(("domain", "answer", "gold", "score", "choices"), CASES)
def test_cases(domain: str, answer: str, gold: str, score: float | None, choices: list[str] | None) -> None:
    verdict = verify(domain, answer, gold, choices)
    assert verdict.score == (None if score is None else pytest.approx(score)), verdict
    assert verdict.right == (score == 1.0)
    assert verdict.why


def test_every_domain_has_a_verifier_and_a_table() -> None:
    assert set(DOMAINS) == set(VERIFIERS) == set(TABLES)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_answer_is_wrong_and_says_so(domain: str) -> None:
    for answer in (None, "", "   "):
        assert verify(domain, answer, "1").score == 0.0
        assert verify(domain, answer, "1").why == "no answer"


HOSTILE = [
    "{" * 1_000_000,
    "\\frac{" * 300,
    "9" * 2000,
    "(" * 1999,
    "\\boxed{" * 200,
    "\x00\ufffd\u202e",
    "١٢٣",
    "a" * 1999,
]
HOSTILE += [
    "|" * 1999,
    "=" * 1999,
    "," * 1999,
    "1/" * 900,
    "[[" * 900,
    "\n" * 1000 + "x",
    "½",
    "∞",
    "NaN",
    "-",
    "\\",
    "$$",
]


@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if domain != "expression"])
def test_hostile_answers_neither_raise_nor_take_long(domain: str) -> None:
    golds = {"number": "5", "count": "5", "choice": "B", "yes_no": "yes", "science": "5 m"}
    started = time.monotonic()
    for answer in HOSTILE:
        verdict = verify(domain, answer, golds.get(domain, "a: 1; b: 2"))
        assert verdict.score == 0.0, (domain, answer[:20], verdict)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("domain", DOMAINS)
def test_blanks_and_dress_do_not_change_a_score(domain: str) -> None:
    for case in TABLES[domain][:8]:
        answer, gold, score = case[:3]
        choices = case[3] if len(case) > 3 else None
        for dressed in (f"  {answer}\t", f"${answer}$", f"\\text{{{answer}}}"):
            if not set("${\n") & set(answer):
                assert verify(domain, dressed, gold, choices).score == verify(domain, answer, gold, choices).score, (
                    dressed
                )
        del score


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(UserError, match="painting"):
        verify("painting", "1", "1")


def test_a_hanging_expression_is_a_timeout_and_the_worker_lives_on() -> None:
    worker = ExpressionWorker(seconds=5.0)
    try:
        assert worker.compare("x+1", "1+x") == "equal"
        started = time.monotonic()
        assert worker.compare("9^{9^{9^{9}}}", "3") == "timeout"
        assert time.monotonic() - started < 30.0
        assert worker.compare("x+1", "1+x") == "equal"
        assert worker._child is not None
        worker._child.kill()
        worker._child.wait()
        assert worker.compare("x+1", "x+2") == "different"
    finally:
        worker.close()


def test_a_timeout_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.verifiers.compare_expressions", lambda answer, gold: "timeout")
    verdict = verify("expression", "x^{y}", "y")
    assert verdict.score is None and not verdict.right
    assert verdict.why == "timeout" and verdict.parts == {"timeout": 1.0}
