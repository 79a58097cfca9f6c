"""Grounding measures against scripted models whose grounding is known, and against numbers computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_subjects import (
    always_flips,
    always_looks,
    colour_problems,
    flips_at_noise,
    looks_only_at_first,
    never_looks,
    scripted,
    think,
)

from eval.grounding import (
    FAINT,
    attention_profile,
    behaviour,
    blank_images,
    cut_reasoning,
    faintly_noisy_images,
    has_counterfactual,
    reasoning_span,
    swap_test,
)
from eval.runner import Answer, answer_problems, open_images
from eval.subjects import Turn
from reward.grade import share_of_facts_missed


def swap(function: Any, folder: Path, n: int = 12) -> dict[str, Any]:
    subject, problems = scripted(function), colour_problems(folder, n)
    settings: dict[str, Any] = {"style": "think", "max_new_tokens": 64, "batch_size": 5}
    answers = answer_problems(subject, problems, log_path=folder / "main.jsonl", tag="main", **settings)
    scratch = {answer.problem_id: answer for answer in answers}
    return swap_test(subject, problems, scratch, folder / "swap.jsonl", **settings)


def test_swap_of_a_model_that_looks(tmp_path: Path) -> None:
    result = swap(always_looks, tmp_path)
    assert result["n"] == result["offered"] == result["both_right"] == result["cut_at_cue"] == 12
    assert result["update_rate"]["value"] == 1 and result["change_rate_same"]["value"] == 0
    assert result["difference"]["value"] == 1 and result["prior_answer_rate"]["value"] == 0


def test_swap_of_a_model_that_always_flips_is_zero(tmp_path: Path) -> None:
    result = swap(always_flips, tmp_path)
    assert result["update_rate"]["value"] == 1 and result["change_rate_same"]["value"] == 1
    assert result["difference"]["value"] == 0 and result["difference"]["n"] == 12


def test_swap_of_a_model_that_looks_only_at_first(tmp_path: Path) -> None:
    result = swap(looks_only_at_first, tmp_path)
    assert result["update_rate"]["value"] == 0 and result["difference"]["value"] == 0
    assert result["prior_answer_rate"]["value"] == 1
    assert result["prior_answer_rate"]["ci95"][0] == pytest.approx(0.7575, abs=1e-3)  # Wilson, 12 of 12


def test_a_model_that_any_disturbance_moves_is_seen_by_faint_noise_alone(tmp_path: Path) -> None:
    result = swap(flips_at_noise, tmp_path)
    assert result["change_rate_same"]["value"] == 0 and result["difference"]["value"] == 1
    assert result["change_rate_noise"]["value"] == 1 and result["change_rate_noise"]["n"] == 12


def test_faint_noise_is_faint_and_the_same_each_time(tmp_path: Path) -> None:
    problem = colour_problems(tmp_path, 1)[0]
    clean = np.asarray(open_images(problem)[0].convert("RGB"), np.int16)
    noisy, again = (np.asarray(faintly_noisy_images(problem)[0], np.int16) for _ in range(2))
    assert noisy.shape == clean.shape and np.array_equal(noisy, again)
    assert 0 < np.abs(noisy - clean).max() <= FAINT


def test_swap_needs_both_images_right_from_scratch(tmp_path: Path) -> None:
    """A model that always says red is right on a third of the images and never on their counterfactuals."""
    result = swap(never_looks, tmp_path)
    assert result["right_from_scratch"] == 4 and result["both_right"] == result["n"] == 0
    assert result["difference"] == {"value": None, "ci95": None, "n": 0}


def test_swap_by_hand_with_errors_left_out(tmp_path: Path) -> None:
    (tmp_path / "green.png").unlink(missing_ok=True)

    def half_updates(turn: Turn) -> str:
        """Even problems look, odd ones go by what is written."""
        even = int(turn.question.split()[1].rstrip(":")) % 2 == 0
        return always_looks(turn) if even else looks_only_at_first(turn)

    result = swap(half_updates, tmp_path)
    assert result["update_rate"]["value"] == 0.5 and result["change_rate_same"]["value"] == 0
    assert result["difference"]["value"] == 0.5 and result["prior_answer_rate"]["value"] == 0.5


def test_blank_images_keep_the_size_and_nothing_else(tmp_path: Path) -> None:
    problem = colour_problems(tmp_path, 1)[0]
    (blank,) = blank_images(problem)
    assert blank.size == (8, 8) and blank.getcolors() == [(64, (127, 127, 127))]


def test_counterfactual_must_have_another_answer(tmp_path: Path) -> None:
    problem = colour_problems(tmp_path, 1)[0]
    assert has_counterfactual(problem)
    same = {"image": "x.png", "answer": "RED"}  # equal to the verifier
    assert not has_counterfactual(problem.model_copy(update={"meta": {"counterfactual": same}}))
    assert not has_counterfactual(problem.model_copy(update={"meta": {}}))
    assert not has_counterfactual(problem.model_copy(update={"images": []}))


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>I see red.</think> \\boxed{red}", "I see red."),
        ("I see red.</think> \\boxed{red}", "I see red."),  # the prompt opened the reasoning
        ("I see red, so \\boxed{red}", "I see red, so "),
        ("\\boxed{red}", ""),
        ("red", ""),
    ],
)
def test_reasoning_span(text: str, reasoning: str) -> None:
    start, end = reasoning_span(text)
    assert text[start:end] == reasoning


def test_cut_is_behind_the_words_of_the_first_relook() -> None:
    assert cut_reasoning(think("red", "blue")) == ("<think>At first I see red. Let me look at it again", "cue")
    several = "<think>A1: red. Wait, let me look at A1 again. A1: blue. Let me look again.</think> \\boxed{blue}"
    assert cut_reasoning(several) == ("<think>A1: red. Wait, let me look at A1 again", "cue")
    with_finding = "<think>It is red. Looking again, it is blue.</think> \\boxed{blue}"
    assert cut_reasoning(with_finding) == ("<think>It is red. Looking again", "cue")


def test_cut_without_a_relook_is_at_half_between_sentences_or_words() -> None:
    text = "<think>One two three. Four five six seven eight nine.</think> \\boxed{9}"
    assert cut_reasoning(text) == ("<think>One two three.", "half")
    assert cut_reasoning("one two three four, so \\boxed{4}") == ("one two", "half")
    assert cut_reasoning("\\boxed{4}") is None
    assert cut_reasoning("so \\boxed{4}") is None  # no word fits into half of it


ALONE = {"p": "p"}


def answer(mass: list[float], lift: list[float], halves: bool = True, **fields: Any) -> Answer:
    half = len(mass) // 2

    def of(values: list[float]) -> tuple[float, float] | None:
        return (sum(values[:half]) / half, sum(values[-half:]) / half) if halves else None

    base = {"problem_id": "p", "key": "k", "tag": "t", "style": "think", "domain": "text", "family": "f"}
    return Answer(**base, mass=mass, lift=lift, mass_halves=of(mass), lift_halves=of(lift), **fields)  # type: ignore[arg-type]


def test_attention_profile_by_hand() -> None:
    falling = answer([0.4] * 4 + [0.2] * 4, [1.0] * 4 + [0.5] * 4)
    rising = answer([0.1] * 4 + [0.2] * 4, [1.0] * 4 + [3.0] * 4)
    short = answer([0.9] * 2, [0.9] * 2, halves=False)
    profile = attention_profile([falling, rising, short], ALONE)
    assert profile["first_half"]["value"] == pytest.approx(0.25) and profile["first_half"]["n"] == 2
    assert profile["second_half"]["value"] == pytest.approx(0.2)
    assert profile["ratio"]["value"] == pytest.approx((0.5 + 2) / 2)  # mean of ratios, not ratio of means
    assert profile["lift"]["ratio"]["value"] == pytest.approx((0.5 + 3) / 2)
    assert profile["curve"]["position"] == []  # three responses are no curve


def test_attention_curve_by_hand() -> None:
    long = [answer([0.4, 0.2], [1.0, 0.5]) for _ in range(5)]
    short = [answer([0.2], [3.0], halves=False) for _ in range(5)]
    curve = attention_profile(long + short, ALONE)["curve"]
    assert curve["position"] == [1, 2] and curve["n"] == [10, 5]
    assert curve["mass"] == pytest.approx([0.3, 0.2]) and curve["lift"] == pytest.approx([2.0, 0.5])
    very_long = [answer([0.5] * 150, [1.0] * 150) for _ in range(5)]
    binned = attention_profile(very_long, ALONE)["curve"]
    assert len(binned["position"]) == 50 and binned["position"][:2] == [2, 5]
    assert binned["mass"] == pytest.approx([0.5] * 50)


def test_attention_profile_of_nothing_is_insufficient_data() -> None:
    profile = attention_profile([], ALONE)
    assert profile["ratio"] == {"value": None, "ci95": None, "n": 0}
    assert profile["lift"]["first_half"]["value"] is None


def test_behaviour_leaves_errors_out() -> None:
    rows = [
        answer([], [], halves=False, looks=2, tokens=30, truncated=True),
        answer([], [], halves=False, looks=0, tokens=10),
        answer([], [], halves=False, status="error"),
    ]
    measured = behaviour(rows, ALONE)
    assert measured["looks_mean"]["value"] == 1 and measured["looks_mean"]["n"] == 2
    assert measured["looking_share"]["value"] == 0.5 and measured["length_mean"]["value"] == 20
    assert measured["truncated_share"]["value"] == 0.5


def test_a_single_look_is_judged_fact_by_fact():
    gold = "row 1: red none blue; row 2: star star none"
    assert share_of_facts_missed(gold, gold, correct=True) == 0
    assert share_of_facts_missed("row 2: star star none; row 1: red none green", gold, correct=False) == pytest.approx(
        1 / 6
    )
    assert share_of_facts_missed("row 1: red none", gold, correct=False) == pytest.approx(4 / 6)
    assert share_of_facts_missed("row 1: red none blue extra; row 2: star star none", gold, correct=False) == 0
    assert share_of_facts_missed(None, gold, correct=False) == 1
    assert (
        share_of_facts_missed("purple star", "purple star", correct=True) == 0
        and share_of_facts_missed("3", "purple star", correct=False) == 1
    )
