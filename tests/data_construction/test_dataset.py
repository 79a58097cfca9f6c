"""The cold-start set: masks, shares, and re-looks that confirm."""

import random
from typing import Any

import pytest

from configs.errors import UserError
from data_construction.check import check_traces, statement_holds
from data_construction.dataset import (
    MixConfig,
    balanced,
    cold_start_rows,
    direct_row,
    noop_trace,
    relooks,
    thinking_row,
)
from data_construction.records import Round, Trace
from reward.grade import Gold, as_written, grade_answer
from reward.statements import corrected_spans
from vlm.problem import Problem

FACTS = dict(
    zip(("A1", "B1", "C1", "A2", "B2", "C2", "A3", "B3", "C3"), ["red star", "none", "blue cross"] * 3, strict=True)
)


def make_trace(number: int, first: str, second: str | None, status: str = "kept") -> Trace:
    said = [text for text in (first, second) if text]
    rounds = [Round(request="r", reply=text, conclusion=text, answer="1", verdict=True) for text in said]
    text = " Wait, let me look at the picture again. ".join(said)
    return Trace(
        id=f"t{number}",
        problem_id=f"p{number}",
        rounds=rounds,
        trace=text,
        corrected=corrected_spans(text),
        status=status,
    )


def corrected(number: int) -> Trace:
    return make_trace(number, "row 1: red none red.", "row 1: red none blue.")


def confirmed(number: int) -> Trace:
    return make_trace(number, "row 1: red none blue.", "row 1: red none blue.")


def plain(number: int) -> Trace:
    return make_trace(number, "row 1: red none blue.", None, status="no_reflection")


def problems(n: int) -> dict[str, Problem]:
    rows = (
        Problem(id=f"p{i}", source="s", domain="count", question="How many?", answer="1", meta={"facts": FACTS})
        for i in range(n)
    )
    return {problem.id: problem for problem in rows}


def test_a_thinking_row_masks_what_the_trace_takes_back():
    row = thinking_row(problems(1)["p0"], corrected(0))
    assert row["completion"] == (
        "<think> row 1: red none red. Wait, let me look at the picture again. row 1: red none blue. </think> \\boxed{1}"
    )
    assert masked(row) == ["red none red"]
    assert masked(thinking_row(problems(1)["p0"], confirmed(0))) == []
    assert masked(thinking_row(problems(1)["p0"], plain(0))) == []


def began_wrong(number: int) -> Trace:
    trace = corrected(number)
    return trace.model_copy(
        update={"rounds": [Round(**{**vars(trace.rounds[0]), "answer": "2", "verdict": False}), trace.rounds[1]]}
    )


def test_the_answer_that_is_taught_is_one_that_its_verifier_takes():
    problem = problems(1)["p0"].model_copy(update={"domain": "text", "answer": "cat|kitty"})
    assert thinking_row(problem, corrected(0))["completion"].endswith("\\boxed{cat}")
    problem = problem.model_copy(update={"domain": "number", "answer": "12 ± 0.5 cm"})
    assert direct_row(problem)["completion"] == "\\boxed{12 cm}"
    for domain, gold in (
        ("number", "12 cm ± 5%"),
        ("science", "heat|thermal energy"),
        ("number", r"12 \pm 5\%"),
        ("count", "3"),
    ):
        assert grade_answer(Gold(domain, gold), as_written(Gold(domain, gold))).correct


def test_a_noop_trace_says_that_it_looks_and_repeats_itself():
    row = thinking_row(problems(1)["p0"], noop_trace(began_wrong(0)))
    assert row["completion"] == (
        "<think> row 1: red none red. Wait, let me look at the picture again. row 1: red none red. </think> \\boxed{2}"
    )
    assert masked(row) == ["red none red"] and row["masked"][0][0] < row["completion"].index("Wait")
    longer = began_wrong(1).model_copy(
        update={"trace": corrected(1).trace.replace("again. row", "again. A1: red. row")}
    )
    assert noop_trace(longer).trace == noop_trace(began_wrong(1)).trace


def made_rows(*args: Any, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, counts = cold_start_rows(*args, **settings)
    return list(rows), counts


def test_a_share_of_the_traces_that_begin_incorrect_becomes_noop():
    traces = [began_wrong(i) for i in range(20)] + [confirmed(i) for i in range(20, 40)]
    config = MixConfig(direct_share=0.0, plain_share=0.0, min_confirm=0.0, hollow_share=0.75)
    rows, counts = made_rows(traces, problems(40), config, seed=0)
    noop = [row for row in rows if row["completion"].endswith("{2}")]
    assert len(rows) == 40 and len(noop) == 15 == counts["hollow_rows"]
    assert len({row["problem_id"] for row in rows}) == 40
    assert made_rows(traces, problems(40), config, seed=0)[0] == rows
    with pytest.raises(UserError, match="begin with an incorrect answer"):
        cold_start_rows([confirmed(0), confirmed(1)], problems(2), config, seed=0)


def masked(row: dict[str, Any]) -> list[str]:
    return [row["completion"][start:end] for start, end in row["masked"]]


def test_shares_of_direct_and_plain_rows():
    traces = [confirmed(i) for i in range(60)] + [plain(i) for i in range(60, 120)]
    rows, counts = made_rows(traces, problems(120), MixConfig(direct_share=0.2, plain_share=0.25), seed=0)
    assert (counts["kept_traces"], counts["plain_traces"], counts["direct_rows"]) == (60, 20, 20)
    assert sum(row["mode"] == "direct" for row in rows) == 20
    assert all(not row["masked"] and "<think>" not in row["completion"] for row in rows if row["mode"] == "direct")


def test_few_kept_traces_are_filled_up_with_direct_answers():
    traces = [make_trace(i, "row 1: red.", None, status="wrong") for i in range(40)]
    rows, counts = made_rows(traces, problems(40), MixConfig(min_rows=32), seed=0)
    assert (len(rows), counts["direct_rows"], counts["kept_traces"]) == (32, 32, 0)


def test_re_looks_that_confirm_reach_their_share():
    assert relooks(corrected(0)) == (False,) and relooks(confirmed(0)) == (True,) and relooks(plain(0)) == ()
    kept = [corrected(i) for i in range(18)] + [confirmed(i) for i in range(18, 20)]
    chosen = balanced(dict(enumerate(map(relooks, kept))), 0.3, random.Random(0))
    outcomes = [outcome for number in chosen for outcome in relooks(kept[number])]
    assert sum(outcomes) / len(outcomes) >= 0.3
    assert {18, 19} <= set(chosen)


def test_facts_are_checked_against_the_scene():
    assert statement_holds("row 1", "red none blue", FACTS) is True
    assert statement_holds("row 1", "star none cross", FACTS) is True
    assert statement_holds("row 1", "red none", FACTS) is False
    assert statement_holds("b1", "none", FACTS) is True
    assert statement_holds("a1", "red star", FACTS) is True
    assert statement_holds("a1", "star red", FACTS) is False
    assert statement_holds("note", "red star", FACTS) is None


def test_changes_are_counted_by_what_they_do():
    spoiled = make_trace(2, "row 1: red none blue.", "row 1: red none green.")
    counts = check_traces([corrected(0), confirmed(1), spoiled, plain(3)], problems(4))
    assert (counts["checked"], counts["corrected"], counts["spoiled"], counts["all_final_right"]) == (3, 1, 1, 2)
    assert (counts["wrong_to_right"], counts["right_to_wrong"]) == (1, 1)


def test_the_first_look_is_judged_fact_by_fact():
    """Three facts a row, of wrong conclusions too; what is no fact of the scene (a note) does not count."""
    looked = [
        make_trace(0, "row 1: red none green; note: red star.", None, status="wrong"),  # one of three is wrong
        make_trace(1, "B1: none.", None),  # right
        make_trace(2, "row 1: red none.", None),  # one is missing
    ]
    errors = check_traces(looked, problems(3))["first_look"]
    assert {key: errors["s"][key] for key in ("facts", "wrong")} == {"facts": 7, "wrong": 2}
    assert errors["s"]["share"] == pytest.approx(2 / 7, abs=1e-4)
    assert errors["s"]["by_family"]["count"]["wrong"] == 2


def test_what_is_said_of_the_whole_picture_is_checked_too():
    assert statement_holds("red", "3", FACTS) is True and statement_holds("star", "2", FACTS) is False
    assert statement_holds("same colour at a1 and c1", "no", FACTS) is True
    assert statement_holds("same shape at a1 and a2", "no", FACTS) is False
    assert statement_holds("same shape at a1 and a9", "no", FACTS) is None
    digits = dict(zip(FACTS, "905112478", strict=True))
    assert (
        statement_holds("sum of row 1", "14", digits) is True and statement_holds("sum of row 2", "5", digits) is False
    )
    assert statement_holds("sum of row 1", "14", FACTS) is not True
