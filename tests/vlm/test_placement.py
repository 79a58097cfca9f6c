"""Images stand where the question and the options name them, and every list of images is in the order of its places."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_construction.dataset import direct_row
from eval.choice_order import rotate_options
from eval.subjects import Turn
from tests.vlm.test_chat import an_image
from train.prompts import problem_messages
from vlm.asking import answer_question
from vlm.chat import encode, question_messages
from vlm.load import VLM, load_vlm
from vlm.placement import image_places, in_place, renumber_images
from vlm.problem import Problem, read_problems, write_problems


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(str(tiny_vlm_dir))


def drawn(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The parts of the only turn: its texts, and ``*`` for an image."""
    (turn,) = messages
    return [part.get("text", "*") for part in turn["content"]]


@pytest.mark.parametrize(
    ("question", "n", "choices", "parts"),
    [
        ("Which?", 2, None, ["*", "*", "Which?"]),
        ("Is <image 1> like <image 2>?", 2, None, ["Is ", "*", " like ", "*", "?"]),
        ("<image 1> What is it?", 1, None, ["*", "What is it?"]),
        ("<image 1>\n<image 2>\nSame?", 2, None, ["*", "*", "Same?"]),
        ("What is it? <image 1>", 1, None, ["What is it? ", "*"]),
        ("See <image 3>.", 3, None, ["*", "*", "See ", "*", "."]),
        ("<image1>, <image_2> or <IMAGE 3>", 3, None, ["*", ", ", "*", " or ", "*"]),
        ("Is <image 1> turned? Look at <image 1>.", 1, None, ["Is ", "*", " turned? Look at <image 1>."]),
        ("Which?", 2, ["<image 1>", "<image 2>"], ["Which?\n(A) ", "*", "\n(B) ", "*"]),
        ("As <image 1>?", 3, ["<image 2> left", "a\nb", "<image 3>"], ["As ", "*", "?\n(A) ", "*", " left\n(B) a\nb\n(C) ", "*"]),
        ("<image 1> or <image 99>?", 1, None, ["*", "or <image 99>?"]),
        ("<image 1> or <image 2>?", 0, ["<image 1>"], ["<image 1> or <image 2>?\n(A) <image 1>"]),
        ("<image 0> <image -1> <image> <image x>", 1, None, ["*", "<image 0> <image -1> <image> <image x>"]),
        ("<image 1 > <image 0001> <image  1>", 1, None, ["*", "<image 1 > <image 0001> <image  1>"]),
        ("<image ١> <image 1234> <<image 1>>", 1, None, ["<image ١> <image 1234> <", "*", ">"]),
        ("<image 1>", 1, None, ["*"]),
    ],
)  # fmt: skip
def test_where_images_stand(question: str, n: int, choices: list[str] | None, parts: list[str]) -> None:
    assert drawn(question_messages(question, n, "none", choices)) == parts


def test_a_note_places_no_image() -> None:
    """A hint that repeats an option must not take its image out of the list."""
    shown = question_messages("Which?", 2, "direct", ["<image 1>", "<image 2>"], note="It is <image 2>.")
    assert drawn(shown) == ["Which? It is <image 2>.\n(A) ", "*", "\n(B) ", "*", "\nAnswer at once in \\boxed{}."]


@pytest.mark.parametrize(
    ("question", "choices", "order", "named"),
    [
        ("<image 1> <image 2> <image 3>", None, [1, 2, 3], "<image 1> <image 2> <image 3>"),
        ("<image 3> <image 1> <image 2>", None, [3, 1, 2], "<image 1> <image 2> <image 3>"),
        ("<image 2>", None, [1, 3, 2], "<image 3>"),
        ("<image 2> as <image 1>, <image 2> and <image 9>", None, [3, 2, 1], "<image 2> as <image 3>, <image 2> and <image 9>"),
        ("Which?", ["<image 3>", "none", "<image 1>"], [2, 3, 1], "Which?"),
        ("Which?", ["none"], [1, 2, 3], "Which?"),
    ],
)  # fmt: skip
def test_images_come_in_the_order_of_their_places(
    question: str, choices: list[str] | None, order: list[int], named: str
) -> None:
    images, text, options = in_place([1, 2, 3], question, choices)
    assert (images, text) == (order, named)
    assert in_place(images, text, options) == (images, text, options)  # nothing is left to change


def coloured(folder: Path) -> list[str]:
    for name in ("red", "lime", "blue"):
        Image.new("RGB", (56, 56), name).save(folder / f"{name}.png")
    return ["red.png", "lime.png", "blue.png"]


def a_problem(folder: Path, **changes: Any) -> Problem:
    fields = {"id": "1", "source": "own", "domain": "choice", "images": coloured(folder), "question": "Which?"}
    fields |= {"choices": ["<image 3>", "<image 1>", "<image 2>"], "answer": "<image 1>"}
    return Problem.model_validate(fields | changes)


def test_a_problem_keeps_its_images_in_their_places(tmp_path: Path) -> None:
    problem = a_problem(tmp_path)
    assert problem.images == ["blue.png", "red.png", "lime.png"]
    assert (
        problem.choices == ["<image 1>", "<image 2>", "<image 3>"] and problem.answer == "<image 2>"
    )  # still the red one
    write_problems([problem], tmp_path)
    (read,) = read_problems(tmp_path)
    assert [Path(image).name for image in read.images] == problem.images and read.choices == problem.choices
    turned = rotate_options(problem, 1)
    assert turned.images == ["red.png", "lime.png", "blue.png"] and turned.answer == "A"
    by_question = a_problem(tmp_path, choices=None, question="<image 1>?", answer="<image 3>")
    assert by_question.images == ["lime.png", "blue.png", "red.png"] and by_question.answer == "<image 2>"
    assert a_problem(tmp_path, choices=None, answer="<image 3>").images == coloured(
        tmp_path
    )  # an answer places nothing


def test_training_rows_pair_images_with_their_places(tmp_path: Path, vlm: VLM) -> None:
    problem = a_problem(tmp_path, question="As <image 2>?", choices=["<image 3>", "none"], answer="A")
    row = direct_row(problem)
    assert (
        drawn(row["prompt"])[:5]
        == ["*", "As ", "*", "?\n(A) ", "*"]
        == drawn(problem_messages(problem, "direct", vlm))[:5]
    )
    assert row["images"] == ["red.png", "lime.png", "blue.png"]
    assert direct_row(a_problem(tmp_path))["images"] == ["blue.png", "red.png", "lime.png"]


def reds(batch: Any) -> list[bool]:
    """Whether each image of the batch is red, in the order in which the model reads them."""
    sizes = batch["image_grid_thw"].prod(1).tolist()
    channels = [part.reshape(len(part), 3, -1).mean((0, 2)) for part in batch["pixel_values"].split(sizes)]
    return [bool(one[0] > one[1] and one[0] > one[2]) for one in channels]


def test_the_model_reads_each_image_at_its_place(vlm: VLM, tmp_path: Path) -> None:
    problem = a_problem(tmp_path)
    images = [Image.open(tmp_path / name).convert("RGB") for name in problem.images]
    turn = Turn(problem.question, problem.choices, "direct", images)
    batch = encode(vlm, [turn.messages], [turn.all_images])
    assert reds(batch) == [False, True, False]  # (B) is image 1, the red one
    text = vlm.tokenizer.decode(batch["input_ids"][0])
    places = [text.index(mark) for mark in ("(A)", "(B)", "(C)")]
    starts = [at for at in range(len(text)) if text.startswith("<|vision_start|>", at)]
    assert (
        all(place < start for place, start in zip(places, starts, strict=True))
        and starts[0] < places[1] < starts[1] < places[2]
    )


def test_leading_images_give_the_prompt_without_names(vlm: VLM) -> None:
    """``<image 1>`` in front of the text is where images stand anyway."""
    named, plain = (
        encode(vlm, [question_messages(text, 2)], [[an_image(), an_image()]])["input_ids"].tolist()
        for text in ("<image 1> <image 2>\nSame?", "Same?")
    )
    assert named == plain


def test_control_tokens_around_a_place_stay_text(vlm: VLM) -> None:
    text = "<|im_start|><image 1><|image_pad|> <|vision_start|><image 2><|im_<image 1>end|>"
    batch = encode(vlm, [question_messages(text, 1, "none")], [[an_image()]])
    plain = encode(vlm, [question_messages("x", 1, "none")], [[an_image()]])
    for token in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        number = vlm.tokenizer.convert_tokens_to_ids(token)
        assert (batch["input_ids"] == number).sum() == (plain["input_ids"] == number).sum()


def test_ask_reads_images_where_they_are_named(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        "vlm.asking.think_all", lambda _, messages, images, *__: shown.extend([messages[0], images[0]]) or 1 / 0
    )
    images = [Image.new("RGB", (56, 56), colour) for colour in ("red", "blue")]
    with pytest.raises(ZeroDivisionError):
        answer_question(vlm, images, "Is <image 2> like <image 1>?", votes=2)
    assert drawn(shown[0])[:4] == ["Is ", "*", " like ", "*"]
    assert [image.getpixel((0, 0)) for image in shown[1]] == [(0, 0, 255), (255, 0, 0)]


def test_many_names_take_no_time() -> None:
    text = "<image 1>" * 2000 + "<image " * 2000 + "<" * 2000
    assert image_places([text], 3) == {2: 1, 3: 2, 1: 3} and renumber_images(text, {1: 1}) == text
