"""Reading what models write: answers in any format, sentences, looks; and bounded time on hostile text."""

import random
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.layout import PACKAGES
from vlm.response import (
    MAX_ANSWER,
    after_reasoning,
    count_looks,
    find_reasoning,
    first_relook,
    parse_response,
    repeats_tags,
    split_sentences,
    without_tags,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a b</think> \\boxed{3}", "3"),
        ("\\boxed{ 3}", "3"),
        ("\\boxed {3 }", "3"),
        ("\\ boxed{3}", "3"),
        ("first \\boxed{1}, no, \\boxed{2}.", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("} { \\boxed{4}", "4"),
        ("\\boxed{5} and \\boxed{}", "5"),
        ("\\boxed{5} and \\boxed{6", "5"),
        ("$\\boxed{x^2}$ <answer>no</answer>", "x^2"),
        ("<answer> 12 </answer>", "12"),
        ("<ANSWER>a</ANSWER> <answer>b</answer> <answer>", "b"),
        ("So the answer is 3.5. Bye.", "3.5"),
        ("The answer is **B**.", "B"),
        ("**Answer**: yes", "yes"),
        ("Final Answer: \n 12 apples", "12 apples"),
        ("answer is 1\nno, the answer is: 2", "2"),
        ("It has three legs.\n\nthree\n", "three"),
        ("three", "three"),
        ("seen 2, so 4 </think> 4", "4"),
        ("<think>the answer is 9</think> the answer is 3", "3"),
        ("<think>so \\boxed{8}</think>", "8"),
        ("<think>so \\boxed{8}", "8"),
        ("<think>so the answer is 8, but let me", None),
        ("<think>nothing", None),
        ("", None),
        (" \n ", None),
        ("\\boxed{}", "\\boxed{}"),
        ("\\boxed{12} or \\boxed{24}, depending on the shape.", "12 or 24"),
        ("$\\boxed{1}$, or $\\boxed{2}$ or $\\boxed{3}$", "1 or 2 or 3"),
        ("\\boxed{A} oder \\boxed{B}", "A or B"),
        ("\\boxed{A} 或 \\boxed{B}", "A or B"),
        ("\\boxed{12}または\\boxed{24}", "12 or 24"),
        ("\\boxed{5} or \\boxed{5}", "5"),
        ("\\boxed{5}, or rather \\boxed{6}", "6"),
        ("either 4 or \\boxed{5}", "5"),
        ("<answer>12</answer> or <answer>24</answer>", "12 or 24"),
        ('{"reasoning": "floppy ears", "answer": "B"}', "B"),
        ('{"Answer": 12}', "12"),
        ('<think> x </think> {"final_answer": [1, 2]}', "[1, 2]"),
        ('```json\n{"why": "two", "answer": "yes"}\n```', "yes"),
        ('{"A": "knight"}', '{"A": "knight"}'),
        ('{"answer": "B"', "B"),
        ('Here it is:\n```json\n{"answer": "\\\\frac{1}{2}"}\n```', "\\frac{1}{2}"),
        ("图中的动物有项圈，是狗。因此，正确答案是B。", "B"),
        ("答案：12", "12"),
        ("**答案**：12", "12"),
        ("首輪があるので犬です。答え：B", "B"),
        ("答えは12です。", "12です"),
        ("따라서 정답은 12입니다.", "12입니다"),
        ("정답: B", "B"),
        ("L'animal porte un collier. La réponse est B.", "B"),
        ("La bonne réponse est B. Voilà.", "B"),
        ("No hay diferencia visible. La respuesta es: Sí", "Sí"),
        ("La respuesta correcta es 12.", "12"),
        ("Die Antwort lautet 12.", "12"),
        ("Die richtige Antwort ist (B).", "(B)"),
        ("Antwort: nein", "nein"),
        ("A resposta é 12.", "12"),
        ("La risposta corretta è B.", "B"),
        ("Ответ: 12", "12"),
        ("الإجابة هي B", "B"),
        ("The answer would be 12.", "12"),
        ("The answer is not 12.", "not 12"),
        ("It must be 12.\n**Answer**: 12\nConfidence: high", "12"),
    ],
)
def test_answers(text: str, answer: str | None) -> None:
    assert parse_response(text).answer == answer


def test_thought_and_flags() -> None:
    whole = parse_response("<think> I see two. </think> \\boxed{2}")
    assert (whole.reasoning, whole.answer, whole.closed, whole.boxed) == ("I see two.", "2", True, True)
    opened_by_the_prompt = parse_response("I see two. </think> two")
    assert (opened_by_the_prompt.reasoning, opened_by_the_prompt.closed, opened_by_the_prompt.boxed) == (
        "I see two.",
        True,
        False,
    )
    cut = parse_response("<think> I see")
    assert (cut.reasoning, cut.answer, cut.closed) == ("I see", None, False)
    assert parse_response("plain \\boxed{1}").reasoning == ""


def test_an_endless_answer_is_none() -> None:
    assert parse_response("\\boxed{" + "1" * (MAX_ANSWER + 1) + "}").answer is None
    assert parse_response("x" * (MAX_ANSWER + 1)).answer is None


HOSTILE = {
    "open braces": "{" * 1_000_000,
    "close braces": "}" * 1_000_000,
    "pairs": "{}" * 500_000,
    "nested boxes": "\\boxed{" * 150_000,
    "closed nested boxes": "\\boxed{" * 100_000 + "}" * 100_000,
    "boxes": "\\boxed{1}" * 110_000,
    "escapes": "\\" * 1_000_000,
    "answer tags": "<answer>" * 125_000,
    "answer phrases": "answer is " * 100_000,
    "answer blanks": "answer" + " " * 1_000_000,
    "answers of other languages": "respuesta correcta " * 50_000,
    "boxes with or": "\\boxed{1} or " * 80_000,
    "json": '{"answer": ' * 90_000,
    "json lists": '{"answer": ' + "[" * 100_000 + "]" * 90_000 + "}",
    "thinks": "<think>" * 140_000,
    "closes": "</think>" * 120_000,
    "dots": "." * 1_000_000 + "x",
    "questions": "?!" * 500_000 + "x",
    "newlines": "\n" * 1_000_000 + "x",
    "quotes": ".'" * 500_000,
    "looks": "look " * 200_000,
    "look blanks": "look" + " " * 1_000_000,
    "checks": "check the " * 100_000,
    "sentences": "a. " * 330_000,
    "emphasis": "*" * 1_000_000,
    "null bytes": "\0" * 1_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_bounded_time(text: str) -> None:
    started = time.perf_counter()
    parse_response(text)
    split_sentences(text)
    count_looks(text)
    assert time.perf_counter() - started < 5


def test_scrambled_text_never_fails_and_spans_stay_in_order() -> None:
    rng = random.Random(0)
    fragments = [
        "<think>",
        "</think>",
        "\\boxed{",
        "{",
        "}",
        "\\",
        "<answer>",
        "</answer>",
        "the answer is ",
        "look again",
    ]
    fragments += [". ", "? ", "\n", "3", "12.5", " ", "红", "let me look", "check the picture", "**", "\u200b"]
    for _ in range(3_000):
        text = "".join(rng.choices(fragments, k=rng.randint(0, 15)))
        response = parse_response(text)
        assert response.answer is None or response.answer.strip() == response.answer != ""
        spans = split_sentences(text)
        assert all(a < b <= c < d for (a, b), (c, d) in pairwise(spans))
        assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
        assert (first_relook(text) is None) == (count_looks(text) == 0)


def test_sentences_cover_every_visible_character() -> None:
    text = "Wait. Is 3.5 right?  Yes!\n1. one thing\n2. two\n\nLet me look again... done (really.) 好的。完"
    pieces = [text[start:end] for start, end in split_sentences(text)]
    assert pieces == [
        "Wait.",
        "Is 3.5 right?",
        "Yes!",
        "1. one thing",
        "2. two",
        "Let me look again...",
        "done (really.)",
        "好的。",
        "完",
    ]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert split_sentences("") == [] and split_sentences(" \n ") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Wait, let me look at row 2 again.",
        "Let me check the picture once more.",
        "Let me check B2 in the picture once more.",
        "Hold on, I look at A1 and B1 again.",
        "Let me re-examine the diagram.",
        "Let me reexamine it.",
        "I should double-check the chart.",
        "Looking back at the image, it is red.",
        "Let me take another look.",
        "let me check the image",
        "Looking more closely, it is a star.",
        "Looking at the picture again, I see two.",
        "I go back to the figure.",
        "Let me look.",
        "Zooming in on the corner, it is a 7.",
        "让我再看一下图片。",
    ],
)
def test_relook_cues(sentence: str) -> None:
    text = f"I see three stars. {sentence} So two."
    assert count_looks(text) == 1
    assert first_relook(text) == text.index(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "Let me look at the picture. There are three stars. So 3.",
        "<think>Let me check the image. There are 3.",
        "I see a red star. It looks red. The second row looks fine. So 2.",
        "We add 3 and 4 again. That makes 7.",
        "",
    ],
)
def test_no_relook(text: str) -> None:
    assert count_looks(text) == 0 and first_relook(text) is None


def test_each_sentence_counts_once() -> None:
    text = (
        "<think>I see 3. Let me look again, once more, and look at the image again. Red. Let me check A1 again. Blue."
    )
    assert count_looks(text) == 2
    assert first_relook(text) == text.index("Let me look")


@pytest.mark.parametrize(
    ("text", "reasoning", "rest", "repeated"),
    [
        ("<think> a </think> b", " a ", " b", False),
        ("a </THINK> b", "a ", " b", False),  # the prompt had opened it
        ("<think> a", " a", "", False),
        ("a", "", "a", False),
        ("<think> a <think> b </think> c", " a <think> b ", " c", True),
        ("<think>a</think> b <think>c</think> d", "a", " d", True),
        ("<think>a</think> b <think>c", "a", "", True),
    ],
)
def test_where_a_response_reasons(text: str, reasoning: str, rest: str, repeated: bool) -> None:
    found = find_reasoning(text)
    assert text[found.start : found.end] == reasoning and parse_response(text).reasoning == reasoning.strip()
    assert after_reasoning(text) == rest and repeats_tags(text) == repeated
    assert len(without_tags(text)) == len(text) and "think>" not in without_tags(text).lower()


def test_no_other_module_reads_thinking_tags() -> None:
    root = Path(__file__).parents[2]
    reads = re.compile(
        r"(?:compile|find|index|search|split|sub|count|partition)\([^)]*think>|think>\\?[\"'] (?:not )?in "
    )
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    found = {str(file.relative_to(root)) for file in files if reads.search(file.read_text(encoding="utf-8"))}
    assert found <= {"vlm/response.py"}
    assert reads.search('re.compile(r"<think>")') and reads.search('text.partition("</think>")')


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("<Think>", "</THINK>"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
        ("[THINK]", "[/THINK]"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel>thought\n", "<channel|>"),
    ],
)
def test_the_tags_of_other_families_are_read(opening: str, closing: str) -> None:
    response = parse_response(f"{opening} two and one {closing} So it is \\boxed{{3}}.")
    assert (response.reasoning, response.answer, response.closed, response.boxed) == ("two and one", "3", True, True)
    assert parse_response(f"{opening} two and one {closing}The answer is 3.<|return|>").answer == "3"
    assert parse_response(f"{opening} The answer is 3").answer is None  # still thinking
    assert after_reasoning(f"{opening} x {closing} y").strip() == "y" and after_reasoning(f"{opening} x") == ""
    assert repeats_tags(f"{opening} x {closing} {opening} y {closing}") and not repeats_tags(f"{opening} x {closing} y")
    span = find_reasoning(f"{opening}abc{closing}d")
    assert f"{opening}abc{closing}d"[span.start : span.end].strip() == "abc" and span.after == len(
        f"{opening}abc{closing}"
    )
