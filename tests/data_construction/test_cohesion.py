"""The rewrite may change words, never facts, answers or the number of re-looks."""

import asyncio

import pytest

from data_construction.cohesion import first_person, rewrite_fault, template
from data_construction.records import Round
from vlm.problem import Problem
from vlm.response import count_looks

ROUNDS = [
    Round(
        request="List the colours.",
        reply="row 1: red none blue",
        conclusion="row 1: red none blue, red 1.",
        answer="1",
        verdict=False,
    ),
    Round(
        request="Look again at row 1.",
        reply="row 1: red red blue",
        conclusion="row 1: red red blue, red 2.",
        answer="2",
        verdict=True,
    ),
]
GOOD = "row 1: red none blue, red 1. Wait, let me look at row 1 again. row 1: red red blue, red 2."
PROBLEM = Problem(id="p", source="s", domain="count", question="How many red shapes are there?", answer="2")


def test_a_faithful_rewrite_passes():
    assert rewrite_fault(GOOD, PROBLEM, ROUNDS) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (GOOD + " \\boxed{2}", "final box"),
        (GOOD.replace("Wait, let me look at row 1 again. ", ""), "has 0 re-looks for 1"),
        (GOOD + " Let me look at the picture again.", "has 2 re-looks for 1"),
        (GOOD.replace("red red blue", "red red green"), "which the transcript does not"),
        ("row 1: red red blue, red 2. Wait, let me look at row 1 again. row 1: red none blue, red 1.", "before"),
        (GOOD + " row 1: red none blue.", "its last statements"),
        (GOOD.replace("red none blue, red 1", "red red blue, red 2"), "before the look that showed it"),
        ("row 1: red none blue, red 1; row 1: red red blue, red 2. Let me look at row 1 again.", "before the look"),
        (GOOD + " So 17.", "a number that is not in the transcript"),
        (GOOD + " So there are three.", "a word that is not in the transcript: three"),
        (GOOD + " The answer is 1.", "another answer: 1"),
        (GOOD + " and so on" * 100, "repeats itself"),
        (GOOD + "".join(f" and {word}" for word in map(chr, range(0x4E00, 0x4E00 + 200))), "longer"),
    ],
)
def test_an_unfaithful_rewrite_is_named(text, words):
    assert words in rewrite_fault(text, PROBLEM, ROUNDS)


def test_a_relook_that_tells_nothing_is_named():
    rounds = [ROUNDS[1], ROUNDS[1]]
    said = ROUNDS[1].conclusion
    assert rewrite_fault(f"{said} Let me look again. {said}", PROBLEM, rounds) == ""
    assert rewrite_fault(f"{said} Looking at it again, I see red red blue.", PROBLEM, rounds) == ""
    assert "tells nothing of the look 'Let me look again.'" in rewrite_fault(
        f"{said} Let me look again.", PROBLEM, rounds
    )
    assert "tells nothing" in rewrite_fault(f"Let me look again. {said}", PROBLEM, rounds)


def test_the_template_is_faithful_and_goes_back_once_a_round():
    text = template(ROUNDS)
    assert rewrite_fault(text, PROBLEM, ROUNDS) == ""
    assert count_looks(text) == 1


def test_a_bad_rewrite_is_tried_again_and_then_replaced_by_the_template():
    replies = iter(["nonsense: nobody said", GOOD, "bad", "worse"])

    async def ask(rounds, attempt):
        return next(replies)

    assert asyncio.run(first_person(ask, PROBLEM, ROUNDS, repairs=1)) == (GOOD, "model")
    assert asyncio.run(first_person(ask, PROBLEM, ROUNDS, repairs=1)) == (template(ROUNDS), "template")
