"""What a bad row of a problem set is, and what is none."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reward.grade import Gold, gradable
from reward.usable import EXAMPLES, REMEDIES, usable_problems
from vlm.chat import MAX_QUESTION
from vlm.problem import Problem


def problem(**changes: Any) -> Problem:
    row = {"id": "p", "source": "t", "domain": "count", "question": "How many?", "answer": "1"}
    return Problem.model_validate({**row, **changes})


CHOICE = {"domain": "choice", "choices": ["red", "blue"]}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("long_question", {"question": "word " * 4001}),
    ("long_question", {"question": "x" * (MAX_QUESTION + 1)}),
    ("no_question", {"question": "   \n"}),
    ("no_question", {"question": "\u2003\t"}),
    ("unparsable_answer", {"domain": "number", "answer": "zzz not a number"}),
    ("unparsable_answer", {"domain": "yes_no", "answer": "zzz not a number"}),
    ("unparsable_answer", {"answer": ""}),
    ("unparsable_answer", {"domain": "text", "answer": "  "}),
    ("unparsable_answer", {"domain": "text", "answer": "x" * 3000}),
    ("unparsable_answer", {"domain": "number", "choices": ["1", "2"], "answer": "A"}),
    ("answer_not_a_choice", {**CHOICE, "answer": "green"}),
    ("answer_not_a_choice", {**CHOICE, "answer": ""}),
    ("answer_not_a_choice", {**CHOICE, "answer": "C"}),
    ("answer_not_a_choice", {**CHOICE, "answer": "red or blue"}),
    ("answer_not_a_choice", {**CHOICE, "choices": ["red", "red", "blue"], "answer": "red"}),
    ("missing_picture", {"images": ["missing.png"]}),
    ("missing_picture", {"images": ["good.png", "x" * 5000]}),
    ("missing_picture", {"images": ["nul\0.png"]}),
    ("missing_picture", {"images": ["http://127.0.0.1:1/a.png"]}),
    ("unreadable_picture", {"images": ["broken.png"]}),
    ("unreadable_picture", {"images": ["."]}),
    ("broken_text", {"images": ["\ud800.png"]}),
    ("broken_text", {**CHOICE, "choices": ["red", "\udfff"], "answer": "red"}),
    ("broken_text", {"domain": "text", "answer": "red \ud83d"}),
]


@pytest.mark.parametrize(("reason", "changes"), BAD)
def test_a_bad_row_is_dropped_for_its_reason_and_its_neighbours_stay(
    tmp_path: Path, reason: str, changes: dict[str, Any]
) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    changes = {**changes, "images": [str(tmp_path / name) for name in changes.get("images", ["good.png"])]}
    good = [problem(id=f"g{n}", images=[str(tmp_path / "good.png")]) for n in range(2)]
    kept, dropped = usable_problems([good[0], problem(**changes), good[1]])
    assert kept == good and dropped.counts == {reason: 1}
    [line] = dropped.sentences()
    assert line.startswith(f"left out as {reason}: 1 (p") and line.endswith(REMEDIES[reason])
    line.encode()  # it can be printed and written down
    assert len(line) < 1000


GOOD: list[dict[str, Any]] = [
    {"question": "x" * MAX_QUESTION},
    {"question": f"  {'x' * MAX_QUESTION}\n"},  # blanks around it do not count
    {"answer": "none"},
    {"domain": "number", "answer": "12 ± 0.5 cm"},
    {"domain": "text", "answer": "a cat|cats"},
    {"domain": "table", "answer": "row 1: orange none; row 2: blue blue"},
    {"domain": "simulation", "answer": "B2: none"},
    {"domain": "logic", "answer": "2, 3"},
    {"domain": "science", "answer": "photosynthesis"},
    {"domain": "expression", "answer": "x^2+1"},
    {**CHOICE, "answer": "(B)"},
    {**CHOICE, "answer": "blue"},
    {**CHOICE, "answer": "The blue"},
    {**CHOICE, "choices": ["red", "red", "blue"], "answer": "B"},
    {**CHOICE, "choices": ["1 m", "100 cm"], "answer": "100 cm"},
    {**CHOICE, "answer": "A|B"},
    {"domain": "choice", "answer": "C"},
    {"images": []},
]


@pytest.mark.parametrize("changes", GOOD)
def test_a_good_row_stays(changes: dict[str, Any]) -> None:
    kept, dropped = usable_problems([problem(**changes)])
    assert len(kept) == 1 and not dropped.counts and not list(dropped.sentences())


def test_each_row_counts_once_and_only_the_first_examples_are_kept() -> None:
    rows = [problem(id=f"p{n}", question=" ", answer="", images=["missing.png"]) for n in range(EXAMPLES + 3)]
    kept, dropped = usable_problems(rows)
    assert not kept and dropped.counts == {"missing_picture": EXAMPLES + 3}
    assert len(dropped.examples["missing_picture"]) == EXAMPLES


def test_images_that_a_model_has_seen_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("reward.usable.image_size", lambda path: read.append(path) or (1, 1))
    rows = [problem(id=name, images=[f"{name}.png"]) for name in "ab"]
    assert usable_problems(rows, images_read={"a"})[0] == rows and read == ["b.png"]


def test_a_gold_answer_must_grade_answers_that_differ_from_it() -> None:
    assert gradable(Gold("expression", "x^2")) and not gradable(
        Gold("expression", "9^9^9^9")
    )  # equal only as the same text
    assert gradable(Gold("number", "3")) and not gradable(Gold("number", "three hundred or so"))
