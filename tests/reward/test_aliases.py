"""Gold answers with aliases, in every domain, and golds that are numbers or lists in a JSON file."""

import json
from pathlib import Path
from typing import Any

import pytest

from reward.aliases import split_aliases
from reward.grade import Gold, as_written, gold_option, gradable, grade_answer
from reward.verifiers import VERIFIERS
from vlm.problem import Problem, read_problems

SPLIT: list[tuple[str, str, list[str]]] = [
    ("text", "USA|United States", ["USA", "United States"]),
    ("text", "NYC | New York", ["NYC", "New York"]),
    ("text", "1) cat|2) dog", ["1) cat", "2) dog"]),
    ("science", "Na+|K+|Cl-", ["Na+", "K+", "Cl-"]),
    ("number", "0.6|60%|3/5", ["0.6", "60%", "3/5"]),
    ("number", "1|0|-1", ["1", "0", "-1"]),
    ("expression", "no solution|\\emptyset", ["no solution", "\\emptyset"]),
    ("expression", "(0, 1]|0 < x ≤ 1", ["(0, 1]", "0 < x ≤ 1"]),
    ("expression", "x = 1|x = 2|x = 3", ["x = 1", "x = 2", "x = 3"]),
    ("logic", "A = knight, B = knave|A = knave, B = knight", ["A = knight, B = knave", "A = knave, B = knight"]),
    ("expression", "|x-1|", []),
    ("expression", "2|x|+1", []),
    ("expression", "2|x|-y", []),
    ("expression", "5 < |x| < 9", []),
    ("expression", "|x| + |y|", []),
    ("expression", "y = |x|", []),
    ("expression", "\\left|x\\right| + 1", []),
    ("expression", "\\|v\\|", []),
    ("expression", "\\frac{|x|}{2}", []),
    ("expression", "\\{x | x > 0\\}", []),
    ("expression", "{x | x > 0}", []),
    ("expression", "P(A|B)", []),
    ("expression", "P(A|B) = \\frac{1}{2}", []),
    ("expression", "x^2|_{0}^{1}", []),
    ("table", "| a | b |\n|---|---|\n| 1 | 2 |", []),
    ("table", "a | b\n1 | 2", []),
    ("table", "| a | b |", []),
    ("logic", "A || B", []),
    ("text", "no bar", []),
]


@pytest.mark.parametrize(("domain", "gold", "aliases"), SPLIT)
def test_a_bar_sets_aliases_apart_unless_it_belongs_to_the_notation(domain: str, gold: str, aliases: list[str]) -> None:
    assert split_aliases(gold, domain) == (aliases or [gold])


GRADED: list[tuple[str, str, list[str] | None, list[str], list[str]]] = [
    ("number", "0.6|60%|3/5", None, ["0.6", "60 %", "3/5"], ["0.5", "6", "0.6 or 0.5"]),
    ("count", "4|5", None, ["four", "5"], ["6", "4 or 5"]),
    ("choice", "B|C", ["4", "5", "5.0", "6"], ["B", "C", "(c)"], ["D", "A", "6"]),
    ("choice", "B|D", None, ["B", "d"], ["A", "C"]),
    ("choice", "a|b", ["b|a", "a|b"], ["B", "a|b"], ["A", "b|a"]),
    ("yes_no", "yes|true", None, ["True", "yes"], ["no", "false"]),
    ("text", "grey|gray", None, ["grey", "a Gray"], ["green", "grey gray"]),
    ("expression", "no solution|\\emptyset", None, ["no solution", "\\emptyset"], ["0", "x = 0"]),
    ("expression", "x^2-1|1-x^2", None, ["(x-1)(x+1)", "1-x^2"], ["x^2+1"]),
    ("expression", "|x-1|", None, ["|x-1|", "|1-x|"], ["x-1"]),
    ("table", "A: 3; B: 5|A: 5; B: 3", None, ["A: 3; B: 5", "B: 3; A: 5"], ["A: 3; B: 3"]),
    ("logic", "A = knight, B = knave|A = knave, B = knight", None, ["A = knave, B = knight"], ["A = knave, B = knave"]),
    ("simulation", "B3: red star|B3: red circle", None, ["B3: red circle", "B3: red star"], ["B3: blue circle"]),
    ("science", "oxygen|O2", None, ["Oxygen", "O2"], ["O3", "CO2"]),
    ("science", "9.8 m/s^2|980 cm/s^2", None, ["9.8 m/s^2"], ["98 m/s^2"]),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "gold", "choices", "correct", "incorrect"), GRADED)
def test_any_alias_is_correct(
    domain: str, gold: str, choices: list[str] | None, correct: list[str], incorrect: list[str]
) -> None:
    assert gradable(Gold(domain, gold, choices))
    for answer in correct:
        assert grade_answer(Gold(domain, gold, choices), answer).correct, answer
    for answer in incorrect:
        verdict = grade_answer(Gold(domain, gold, choices), answer)
        assert verdict.score is not None and not verdict.correct, answer


def test_every_domain_has_a_row_with_aliases() -> None:
    assert {row[0] for row in GRADED} == set(VERIFIERS)


def test_the_best_partial_credit_counts() -> None:
    gold = Gold("logic", "A = knight, B = knave, C = knave|A = knave, B = knave, C = knave")
    assert grade_answer(gold, "A = knave, B = knave, C = knight").score == pytest.approx(2 / 3)


def test_an_alias_that_cannot_be_read_is_said_before_generation() -> None:
    gold = Gold("number", "5|a lot")
    assert not gradable(gold)
    assert grade_answer(gold, "5").correct and grade_answer(gold, "6").score == 0.0


def test_an_alias_that_timed_out_leaves_the_answer_unjudged() -> None:
    hangs = r"\int \sqrt{\sin(x^5+1)} e^{\cos(x^3)} dx"
    assert grade_answer(Gold("expression", "x+1|2-x"), hangs).score is None


def test_the_first_alias_is_written_and_names_the_option() -> None:
    assert as_written(Gold("count", "4|5")) == "4" and as_written(Gold("text", " cat | dog")) == "cat"
    assert as_written(Gold("expression", "|x-1|")) == "|x-1|"
    assert gold_option(Gold("choice", "B|C", ["1", "2", "3"])) == 1


JSON_GOLDS: list[tuple[str, Any, list[str] | None, str, str]] = [
    ("number", 5, None, "5", "6"),
    ("number", 0.25, None, "1/4", "0.5"),
    ("count", 3, None, "three", "4"),
    ("text", 42, None, "42", "24"),
    ("expression", 12, None, "12", "13"),
    ("science", 20, None, "20.1", "25"),
    ("choice", 5, ["4", "5", "6"], "B", "A"),
    ("yes_no", True, None, "yes", "no"),
    ("logic", [2, 4], None, "4, 2", "2, 3"),
    ("logic", ["1", "2"], None, "1, 2", "1, 3"),
    ("simulation", [1, 2, 3], None, "1, 2, 3", "3, 2, 1"),
    ("simulation", ["red", "blue"], None, "red, blue", "blue, red"),
    ("table", [["a", 1], ["b", 2]], None, "a: 1; b: 2", "a: 2; b: 1"),
]


@pytest.mark.parametrize(("domain", "gold", "choices", "correct", "incorrect"), JSON_GOLDS)
def test_golds_of_json(
    domain: str, gold: Any, choices: list[str] | None, correct: str, incorrect: str, tmp_path: Path
) -> None:
    row = {"id": "1", "source": "t", "domain": domain, "question": "q", "answer": gold, "choices": choices}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    [problem] = read_problems(tmp_path)
    assert isinstance(problem.answer, str) and Problem.model_validate_json(problem.model_dump_json()) == problem
    for one in (problem, Gold(domain, gold, choices)):
        assert gradable(one)
        assert grade_answer(one, correct).correct and not grade_answer(one, incorrect).correct
        assert grade_answer(one, incorrect).score is not None
