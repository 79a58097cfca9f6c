"""Claims in prose and in ``key: value`` statements: found, taken back, and compared with facts."""

import random

import pytest

from data_construction.sources import LEARNED, problems, wording
from reward.claims import MAX_CLAIMS, claims, final_claims, is_true, read_claims
from reward.prose.places import PlaceReader

GRID = {
    **{"A1": "red star", "B1": "none", "C1": "blue circle"},
    **{"A2": "green square", "B2": "red circle", "C2": "none"},
    **{"A3": "blue star", "B3": "yellow cross", "C3": "red star"},
}
DIGITS = dict(zip(GRID, "471520396", strict=True))
LAYOUT = {"1": "red star", "2": "blue circle", "3": "red circle"}
CHART = {"red": "5", "blue": "3", "green": "9"}
OTHER = {"sign": "STOP", "sky": "grey"}


def found(text: str, facts: dict[str, str]) -> list[tuple[str, str, str, bool]]:
    return [(one.kind, one.subject, one.value, one.polarity) for one in final_claims(read_claims(text, facts))]


PROSE = [
    (GRID, "There are three red stars in the second row.", ("count", "red star in row 2", "3", True), False),
    (GRID, "The cell B2 holds a red circle.", ("place", "B2", "red circle", True), True),
    (GRID, "I see a blue triangle.", ("object", "blue triangle", "present", True), False),
    (GRID, "There is no triangle.", ("object", "triangle", "present", False), True),
    (GRID, "There aren't any stars.", ("object", "star", "present", False), False),
    (GRID, "The top-right corner is empty.", ("place", "C1", "none", True), False),
    (GRID, "Nothing sits in the middle of the top row.", ("place", "B1", "none", True), True),
    (GRID, "The second cell of row 2 isn't empty.", ("place", "B2", "none", False), True),
    (GRID, "All of the circles are red.", ("attribute", "every circle", "red", True), False),
    (GRID, "The square is green.", ("attribute", "square", "green", True), True),
    (GRID, "The grey sqare is missing.", ("object", "gray square", "present", False), True),
    (GRID, "No star is blue.", ("object", "blue star", "present", False), False),
    (GRID, "At least two cells are empty.", ("count", "empty cell", "at least 2", True), True),
    (GRID, "Two of the stars are red.", ("count", "red star", "2", True), True),
    (GRID, "Row 1 is red star, nothing, blue circle.", ("place", "row 1", "red star, none, blue circle", True), True),
    (GRID, "The whole left column is red.", ("place", "column A", "all red", True), False),
    (GRID, "There are more stars than circles.", ("relation", "star", "more than circle", True), True),
    (GRID, "A1 has the same shape as C3.", ("relation", "A1", "same shape as C3", True), True),
    (GRID, "A1 and A2 have different colours.", ("relation", "A1", "same colour as A2", False), True),
    (GRID, "The green square is directly below A1.", ("relation", "green square", "directly below A1", True), True),
    (GRID, "To the left of the yellow cross is a blue star.",
     ("relation", "some blue star", "directly left of yellow cross", True), True),
    (GRID, "Nothing is to the right of the red circle.", ("relation", "none", "directly right of red circle", True), True),
    (DIGITS, "The digits in the first row are 4, 7 and 1.", ("text", "row 1", "4 7 1", True), True),
    (DIGITS, "Row 2 adds up to 8.", ("text", "row 2", "sum 8", True), False),
    (DIGITS, "The largest digit in row 3 is 9.", ("text", "row 3", "largest 9", True), True),
    (DIGITS, "No digit exceeds 8.", ("text", "all", "largest 8", True), False),
    (DIGITS, "The digit 4 appears once.", ("count", "digit 4", "1", True), True),
    (DIGITS, "B2 is a 2.", ("place", "B2", "2", True), True),
    (LAYOUT, "The rightmost shape is a star.", ("place", "rightmost", "star", True), False),
    (LAYOUT, "The second thing from the left is a circle.", ("place", "position 2", "circle", True), True),
    (CHART, "The blue bar is taller than the red bar.", ("relation", "blue bar", "taller than red bar", True), False),
    (CHART, "The tallest bar is green.", ("attribute", "highest bar", "green", True), True),
    (CHART, "The red bar reaches 5.", ("attribute", "red bar", "5", True), True),
    (CHART, "There are four bars.", ("count", "bar", "4", True), False),
    (OTHER, "The sign reads 'STOP'.", ("text", "sign", "STOP", True), True),
    (OTHER, "The text on the sign says \"EXIT\".", ("text", "sign", "EXIT", True), False),
    (OTHER, "The sky is blue.", ("attribute", "sky", "blue", True), False),
    (OTHER, "There are two dogs on the sofa.", ("count", "dog", "2", True), None),
    (OTHER, "There is a dog.", ("object", "dog", "present", True), None),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "text", "claim", "holds"), PROSE, ids=[row[1] for row in PROSE])
def test_common_forms_are_read_and_judged(facts, text, claim, holds) -> None:
    assert found(text, facts) == [claim]
    (read,) = read_claims(text, facts)
    assert is_true(read, facts) is holds


def test_spans_are_those_of_the_response() -> None:
    text = (
        "<think> Let me see. A1 holds a red star, and there are two circles. B2: red circle </think> \\boxed{B2 is red}"
    )
    read = claims(text, GRID)
    assert [text[one.start : one.end] for one in read] == [
        "A1 holds a red star",
        "there are two circles",
        "B2: red circle",
    ]
    assert [is_true(one, GRID) for one in read] == [True, True, True]


def test_without_reasoning_the_whole_response_is_read() -> None:
    assert [one.subject for one in claims("A1 is a red star. \\boxed{1}", GRID)] == ["A1"]


@pytest.mark.parametrize(
    "text",
    [
        "Is there a star in B2?",
        "Let me check whether B2 is red.",
        "I need to count the red stars in row 2.",
        "Look at the blue circle in C1.",
        "It might be a red star in A1.",
        "A1 is probably blue.",
        "I think the star in A1 is blue.",
        "If A1 is red, then the count is 3.",
        "The note says that C3 is a blue cross.",
        "According to the question, A1 is green.",
        "So the answer is 3.",
        "3 + 8 + 5 = 16.",
        "Final answer: 3",
        "Step 2: count",
        "How many stars are there? Let me count them.",
        "I'm not sure if the circle is red.",
    ],
)
def test_questions_plans_reports_and_hedges_claim_nothing(text: str) -> None:
    assert found(text, GRID) == []


def test_what_stands_behind_a_report_is_a_claim_again() -> None:
    assert found("The note says C3 is a cross, but it is a star.", GRID) == [("place", "C3", "star", True)]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("A1 is blue. Wait, A1 is actually red.", [("place", "A1", "red", True)]),
        ("A1: blue. On closer look, A1 is red.", [("place", "A1", "red", True)]),
        ("There are two stars. Let me recount: there are three stars.", [("count", "star", "3", True)]),
        ("B2 holds a blue circle, no, a red one.", [("place", "B2", "red circle", True)]),
        ("The square is blue, sorry, it's green.", [("attribute", "square", "green", True)]),
        ("I count two stars, wait, three.", [("count", "star", "3", True)]),
        ("A1 is red. A1 holds a star.", [("place", "A1", "red", True), ("place", "A1", "star", True)]),
        ("A1 isn't blue, it's red.", [("place", "A1", "blue", False), ("place", "A1", "red", True)]),
        ("A1 is blue. Hmm, A1 isn't blue.", [("place", "A1", "blue", False)]),
    ],
)
def test_the_last_claim_on_a_subject_counts(text: str, last: list[tuple[str, str, str, bool]]) -> None:
    assert found(text, GRID) == last


def test_pronouns_and_lines_refer_to_what_was_said() -> None:
    text = "The red circle is in B2. It is next to the green square. In row 3 there are two stars, one of them red."
    assert found(text, GRID) == [
        ("place", "B2", "red circle", True),
        ("relation", "red circle", "next to green square", True),
        ("count", "star in row 3", "2", True),
        ("count", "red star", "1", True),
    ]


def test_the_last_row_is_that_of_the_scene() -> None:
    large = {f"{column}{row}": "none" for column in "ABCD" for row in "1234"}
    assert found("The bottom right corner is empty. The last row is empty.", large) == [
        ("place", "D4", "none", True),
        ("place", "row 4", "none", True),
    ]


def test_lists_of_cells_share_what_is_said() -> None:
    assert found("Both A1 and C3 contain red stars.", GRID) == [
        ("place", "A1", "red star", True),
        ("place", "C3", "red star", True),
    ]


def test_only_the_last_claims_count() -> None:
    text = " ".join(f"B{number}: red; There are {number} stars." for number in range(1, 100))
    assert len(claims(text, GRID)) <= MAX_CLAIMS


def test_a_claim_can_be_restated_alone() -> None:
    (read,) = read_claims("The star in A1 isn't blue.", GRID)
    assert read.statement == "A1 does not hold: blue star"
    assert read.question == ("", read.statement)


HOSTILE = {
    "letters": "a",
    "spaces": " ",
    "quotes": "'a",
    "double quotes": '"',
    "apostrophes": "n't",
    "digits": "1 ",
    "articles": "the ",
    "colours": "red, ",
    "rows": "row 1, ",
    "cells": "A1 and ",
    "relations": "left of ",
    "brackets": "(",
    "hyphens": "top-",
    "of the": "one of the ",
    "statements": "a: b; ",
    "lines": "a\n",
    "claims": "there is a red star and ",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_linear_time(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-ups of a token are counted, which no load of the machine changes."""
    steps = 0
    at = PlaceReader.at

    def counted(self: PlaceReader, place: int) -> str:
        nonlocal steps
        steps += 1
        return at(self, place)

    monkeypatch.setattr(PlaceReader, "at", counted)
    totals = []
    for characters in (10_000, 20_000):
        steps = 0
        claims((piece * characters)[:characters], GRID)
        totals.append(steps)
    assert totals[1] <= 2.2 * totals[0] + 1000
    assert totals[1] < 100 * 20_000


def test_arithmetic_is_no_claim_but_its_result_may_be() -> None:
    assert found("red: 2; 1 + 0 + 1 = 2.", GRID) == [("count", "red", "2", True)]
    assert found("We have 3 + 4 = 7 shapes.", GRID) == [("count", "shape", "7", True)]


def test_traces_of_the_bundled_models_hold_no_false_claim() -> None:
    """What the bundled models write about a scene that they read correctly."""
    rng = random.Random(0)
    drawn = problems("scenes", 60, 5, "train", family_names=[name for name in LEARNED if name != "digit_sum"])
    for problem, _ in drawn:
        facts, params, family = problem.facts, problem.meta["params"], problem.family
        assert facts is not None
        look, said = wording.look_at(family, params), wording.conclude(family, params, facts)[0]
        again = f"{wording.cue(look, rng)} {wording.reply(look, facts)}. {said} {wording.total(family, params, facts)}"
        judged = [(one, is_true(one, facts)) for one in claims(f"{said} {again}", facts)]
        assert judged and not [one for one, holds in judged if holds is False]
