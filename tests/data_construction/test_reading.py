"""What models really write: every form is read, or its fault is named, in bounded time."""

import time

import pytest

from data_construction.reading import FAULTS, read_conclusion, read_look, read_request, repeats, stated_answer

ASK = "Which colours are in row 2?"


@pytest.mark.parametrize(
    "text",
    [
        ASK,
        f"<think>I need row 2.\n\nMaybe?</think>\n\n{ASK}",
        f"thought without its opening tag</think>{ASK}",
        f"```\n{ASK}\n```",
        f"```text\nQuestion: {ASK}\n```",
        f"**Question:** {ASK}",
        f'"{ASK}"',
        f"1. {ASK}",
        f"Sure! To solve this I have to know the second row.\n{ASK}\nThat will help.",
        f"Request: {ASK}\nI will then count them.",
    ],
)
def test_a_request_is_found_in_any_dress(text: str) -> None:
    assert read_request(text, "stop") == (ASK, "")


def test_a_request_in_another_language_and_one_in_a_long_paragraph() -> None:
    assert read_request("<think>嗯</think>第二行有哪些颜色？", "stop") == ("第二行有哪些颜色？", "")
    assert read_request("I wonder about many things. " * 20 + ASK, "stop") == (ASK, "")
    assert read_request("Look again at row 2.", "stop") == ("Look again at row 2.", "")


@pytest.mark.parametrize(
    ("text", "finish", "fault"),
    [
        ("", "stop", "empty"),
        ("   \n", "stop", "empty"),
        ("```\n```", "stop", "empty"),
        ("<think>done</think>", "stop", "empty"),
        ("<think>and then and then", "length", "endless"),
        ("<think>never closed", "stop", "endless"),
        ("row 2? " * 400, "length", "repeating"),
        ("Which colours are in row 2?", "length", "endless"),
        ("Which colours are in row 2?", "max_tokens", "endless"),
        ("Which colours are in row 2?", "content_filter", "filtered"),
        ("Which colours are in row 2?", "error", "failed"),
        ("I'm sorry, but I cannot help with that.", "stop", "no_request"),
        ("I need more information.", "stop", "no_request"),
        ("x", "too_long", "too_long"),
        ("word " * 20_000 + "".join(map(chr, range(0x4E00, 0x9000))), "stop", "too_long"),
        ("The answer is 3.", "stop", "answers_itself"),
        ("So: \\boxed{3}", "stop", "answers_itself"),
        ("{" * 100_000, "stop", "repeating"),
        ("".join(map(chr, range(0x4E00, 0x5100))), "stop", "no_request"),
    ],
)
def test_a_request_that_cannot_be_used_is_named(text: str, finish: str, fault: str) -> None:
    assert read_request(text, finish) == ("", fault) and fault in FAULTS


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("row 2: red\n\nrow 3: none", "row 2: red row 3: none"),
        ("<think>hm</think> A red star.", "A red star."),
        ("```\nrow 2: red\n```", "row 2: red"),
        ("I cannot see any red shape in row 2.", "I cannot see any red shape in row 2."),
        ("The sign reads 'Sorry, we're closed'.", "The sign reads 'Sorry, we're closed'."),
        ("The label asks: who? It is white.", "The label asks: who? It is white."),
        ("No star is visible in row 2.", "No star is visible in row 2."),
        (
            "The sign cannot be read fully. It begins with 'Unknown'.",
            "The sign cannot be read fully. It begins with 'Unknown'.",
        ),
        (
            "The bottle is half full; what is in it is unknown to me. It is green.",
            "The bottle is half full; what is in it is unknown to me. It is green.",
        ),
        ("无论哪一行都没有红色。", "无论哪一行都没有红色。"),
    ],
)
def test_a_look_is_one_line(text: str, look: str) -> None:
    assert read_look(text, "stop") == (look, "")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, I cannot identify people.", "refusal"),
        ("No image was provided.", "refusal"),
        ("I am unable to view the picture.", "refusal"),
        ("As an AI I have no eyes.", "refusal"),
        ("抱歉，我无法查看图片。", "refusal"),
        ("I need more information.", "refusal"),
        ("It cannot be determined.", "refusal"),
        ("I cannot see any image.", "refusal"),
        ("I don't see an image in your message.", "refusal"),
        ("You haven't attached an image.", "refusal"),
        ("The image did not load.", "refusal"),
        ("I am not sure. There is not enough detail.", "refusal"),
        ("I don’t know.", "refusal"),
        ("N/A", "refusal"),
        ("无法确定。", "refusal"),
        ("わかりません。", "refusal"),
        ("알 수 없습니다.", "refusal"),
        ("Das kann ich nicht erkennen.", "refusal"),
        ("Je ne sais pas.", "refusal"),
        ("No puedo ver eso.", "refusal"),
        ("Which row do you mean?", "asks_back"),
        ("Could you please clarify which star you mean. Then I will look.", "asks_back"),
        ("Please upload the picture.", "asks_back"),
        ("", "empty"),
        ("red " * 4000, "repeating"),
    ],
)
def test_a_look_that_is_none_is_named(text: str, fault: str) -> None:
    assert read_look(text, "stop") == ("", fault)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("Two are red. \\boxed{2}", "Two are red.", "2"),
        ("<think>\\boxed{9}?</think>Two are red.\n\\boxed{2}", "Two are red.", "2"),
        ("```latex\nTwo are red. \\boxed{2}\n```", "Two are red.", "2"),
        ("Two are red.\n**Answer:** 2", "Two are red. **Answer:** 2", "2"),
        ("Two are red, so the answer is 2.", "Two are red, so the answer is 2.", "2"),
        ("\\boxed{2} because two are red.", "because two are red.", "2"),
        ("Two. \\boxed{2} Again: \\boxed{ 2 }", "Two.", "2"),
        ("<think>x</think>有两个红色。答案：\\boxed{2}", "有两个红色。答案：", "2"),
    ],
)
def test_a_conclusion_in_any_dress(text: str, reasoning: str, answer: str) -> None:
    assert read_conclusion(text, "stop") == (reasoning, answer, "")


@pytest.mark.parametrize(
    ("text", "finish", "fault"),
    [
        ("", "stop", "empty"),
        ("Well, red and", "length", "endless"),
        ("So the count is\n3", "length", "endless"),
        ("So the count is\n3", "max_tokens", "endless"),
        ("Two are red. \\boxed{2}", "content_filter", "filtered"),
        ("Two are red. \\boxed{2}", "error", "failed"),
        ("I looked at all rows. The answer cannot be determined.", "stop", "undecided"),
        ("Row 2 was not described.\nI need more information.", "stop", "undecided"),
        ("Nothing is given.\nThe answer is unknown.", "stop", "undecided"),
        ("Two. \\boxed{2} No: \\boxed{3}", "stop", "two_answers"),
        ("\\boxed{2}", "stop", "bare"),
        ("so " * 400, "stop", "repeating"),
        ("".join(map(chr, range(0x4E00, 0x5300))), "stop", "no_answer"),
    ],
)
def test_a_conclusion_without_an_answer_is_named(text: str, finish: str, fault: str) -> None:
    _, answer, named = read_conclusion(text, finish)
    assert (answer, named) == (None, fault)


def test_a_look_that_was_cut_off_or_withheld_is_named() -> None:
    for word, fault in (
        ("length", "endless"),
        ("max_tokens", "endless"),
        ("content_filter", "filtered"),
        ("error", "failed"),
    ):
        assert read_look("row 2: red none blue", word) == ("", fault) and fault in FAULTS


def test_a_boxed_answer_counts_though_the_conclusion_was_cut_off_or_decides_nothing() -> None:
    assert read_conclusion("Two are red. \\boxed{2} Let me", "length") == ("Two are red.", "2", "")
    assert read_conclusion("None fits. \\boxed{cannot be determined}", "stop")[1] == "cannot be determined"


@pytest.mark.parametrize("read", [read_request, read_look, read_conclusion])
@pytest.mark.parametrize(
    "text",
    [
        "{" * 199_999,
        "\\boxed{" * 28_000,
        "<think>" * 28_000,
        "```\n" * 49_000,
        "a?" * 99_000,
        "sorry " * 33_000,
        "\n" * 199_999,
    ],
)
def test_hostile_text_takes_no_time(read, text: str) -> None:
    began = time.process_time()
    assert read(text, "stop")[-1] in FAULTS
    assert time.process_time() - began < 5  # they all take milliseconds; a quadratic one would take minutes


def test_circles_and_stated_answers() -> None:
    assert repeats("I look again. " * 60) and not repeats("I look again. " * 3)
    assert not repeats(" ".join(f"row {i}: {i * 7919 % 101} red stars and {i} blue ones." for i in range(60)))
    assert stated_answer("So the answer is 3.") == "3" and stated_answer("row 1: red.") is None
