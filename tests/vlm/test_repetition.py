"""Loops are found, lists and tables are left alone; and a model in this process is stopped in one."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm.asking import answer_question, load_for_asking, think_all
from vlm.backends import Reply, ScriptedBackend
from vlm.chat import question_messages
from vlm.generate import generate
from vlm.load import VLM, load_vlm
from vlm.reasoning import EFFORTS, think_batch
from vlm.repetition import WINDOW, repeats_itself

IMAGE = Image.effect_noise((96, 96), 90).convert("RGB")
SENTENCE = "Wait, let me look at the picture again. "
PARAGRAPH = "".join(f"In row {n} there is a {word}. " for n, word in enumerate(["star", "circle", "square"] * 4))
GRID = [f"{column}{row}" for row in range(1, 9) for column in "ABCDEFGH"]


@pytest.mark.parametrize(
    "text",
    [
        "<think> row 1: star. " + SENTENCE * 9,
        SENTENCE * 9 + SENTENCE[:17],
        "First this. " + PARAGRAPH * 4,
        "The answer is " + "the " * 200,
        "The shapes are red, " * 30,
        "\\boxed{14} " + "14 " * 500,
        "!" * 2_000,
        "让我再看一遍这张图片，数一数有几颗星星。" * 20,
        "- " * 3 * WINDOW,
        "red red, red, red red red, " * 30 + "red, red red, " * 10,
        "A1: none. " + "B1: " * 151,
        "star" * 230,
    ],
    ids=[
        *("sentence", "cut sentence", "paragraph", "one word", "few words", "number", "mark", "no spaces", "long"),
        *("one word in any order", "one place", "no space"),
    ],
)
def test_a_loop_is_found(text: str) -> None:
    assert repeats_itself(text)
    assert not repeats_itself(text + " And so the whole answer to the question is 14 stars.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "A1: red. A2: red.",
        "".join(f"{place}: red. " for place in GRID),
        "red circle, " * 49,
        "".join("| " + "red | " * 12 + "\n" for _ in range(12)),
        "".join(f"row {row}: star star star star; " for row in range(1, 13)),
        "".join("| " + "0 | " * 12 + "\n" for _ in range(12)),
        "0 " * 400,
        "| colour | shape | size |\n" + "| red | circle | small |\n" * 9,
        SENTENCE * 3 + "row 1: star.",
        PARAGRAPH * 3,
        "-" * 800,
        "".join(f"step {n}: add 1, so there are {n} stars now. " for n in range(300)),
    ],
)
def test_a_list_or_a_table_is_no_loop(text: str) -> None:
    assert not repeats_itself(text)


@pytest.fixture(scope="module")
def looping(tiny_vlm_dir: Path) -> VLM:
    """As it is initialised, this model writes one token for ever; here one that can be read, and never an end."""
    vlm = load_vlm(tiny_vlm_dir)
    vlm.model.generation_config.eos_token_id = vlm.tokenizer.pad_token_id
    vlm.tokenizer.eos_token = vlm.tokenizer.pad_token
    word = vlm.tokenizer("star", add_special_tokens=False)["input_ids"][-1]

    def only_this(_module: Any, _given: Any, output: Any) -> None:
        output.logits[..., word] = 1e4

    vlm.model.register_forward_hook(only_this)
    return vlm


def test_a_model_is_stopped_in_a_loop_and_only_if_asked(looping: VLM) -> None:
    asked: dict[str, Any] = {"max_new_tokens": [640, 40, 640]}
    messages, images = [question_messages("How many stars?", 1)] * 3, [[IMAGE]] * 3
    free = generate(looping, messages, images, **asked)
    assert [len(one.token_ids) for one in free] == [640, 40, 640] and not any(one.repeats for one in free)
    stopped = generate(looping, messages, images, stop_repeats=True, **asked)
    assert [one.repeats for one in stopped] == [True, False, True]  # 40 tokens are no loop yet
    assert len(stopped[1].token_ids) == 40 and 100 < len(stopped[0].token_ids) < 400
    assert stopped[0] == stopped[2] and not stopped[0].finished


def test_a_person_is_told_and_gets_no_invented_answer(looping: VLM) -> None:
    pieces: list[str] = []
    result = answer_question(looping, [IMAGE], "How many stars?", stream=pieces.append)
    assert result["repeats"] and not result["finished"] and not result["closed"]
    assert result["answer"] is None and "".join(pieces) == result["text"] and result["tokens"] < 400
    assert answer_question(looping, [IMAGE], "How many stars?", votes=4)["votes"]["counts"] == {}
    (whole,) = think_batch(looping, [question_messages("How many stars?", 1)], [[IMAGE]], EFFORTS["medium"])
    assert whole.closed and not whole.repeats  # as evaluation and benchmarks see it


@pytest.mark.parametrize(("text", "answer"), [(SENTENCE * 20, None), ("\\boxed{2} " * 200, "2")])
def test_a_served_response_that_repeats_itself_is_marked(text: str, answer: str | None) -> None:
    result = answer_question(ScriptedBackend([Reply(text, "length")]), [IMAGE], "How many stars?")
    assert result["repeats"] and result["answer"] == answer
    plain = answer_question(ScriptedBackend(["A1: red. A2: red."]), [IMAGE], "What is there?")
    assert not plain["repeats"] and plain["answer"] is not None


def test_the_bundled_model_s_lists_are_left_alone() -> None:
    """The longest lists that it writes, of equal things, end by themselves."""
    model = load_for_asking("tiny")
    grey = Image.new("RGB", (192, 192), "lightgrey")
    question = "Grid of columns A to C, rows 1 to 3. List all cells of the grid."
    (one,) = think_all(model, [question_messages(question, 1)], [[grey]], EFFORTS["medium"], 0.0, [0])
    assert one.finished and not one.repeats
