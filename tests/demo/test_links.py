"""Links that ask a question again: what goes into one comes out of it, and nothing else does."""

import pytest

from configs.errors import UserError
from demo.image_store import ImageStore
from demo.links import MAX_LINK, Linked, make_link, read_link

STORE, MODELS = ImageStore(), ["both, side by side", "tiny (base)", "grpo (trained)"]
COUNT = next(example for example in STORE.examples if example.name == "count")


@pytest.mark.parametrize(
    ("linked", "link"),
    [
        (Linked(COUNT, COUNT.question, MODELS[0], "medium", 1), "?example=count"),
        (Linked(COUNT, "Is it red?", MODELS[0], "medium", 1), "?example=count&question=Is+it+red%3F"),
        (Linked(None, "What & <why> = 1?\n", MODELS[0], "medium", 1), "?question=What+%26+%3Cwhy%3E+%3D+1%3F%0A"),
        (
            Linked(COUNT, COUNT.question, "grpo (trained)", "high", 4),
            "?example=count&model=grpo+%28trained%29&effort=high&votes=4",
        ),
    ],
)
def test_a_link_and_back(linked: Linked, link: str) -> None:
    assert make_link(linked, MODELS[0]) == link
    assert read_link(link, STORE, MODELS) == linked


def test_a_question_that_is_too_long_has_no_link() -> None:
    assert make_link(Linked(COUNT, "x" * MAX_LINK, MODELS[0], "medium", 1), MODELS[0]) is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "too long"),
        (["?example=count"], "too long"),
        ("?" + "a" * MAX_LINK, "too long"),
        ("?" + "a=1&" * 100, "cannot be read"),
        ("?example=/etc/passwd", "does not have: it has count, compare"),
        ("?example=count-other", "does not have"),
        ("?example=count&model=/root/model", "not offered"),
        ("?example=count&effort=huge", "effort or a number"),
        ("?example=count&votes=0", "effort or a number"),
        ("?example=count&votes=99999999999999999999", "effort or a number"),
        ("?example=count&votes=\u00b2", "effort or a number"),
    ],
)
def test_what_a_page_does_not_have_is_named(query: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_link(query, STORE, MODELS)
