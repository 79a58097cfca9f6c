"""Cutoff, hint, samples, overthinking, controls: counted by hand."""

from pathlib import Path
from typing import Any

import pytest
from scripted_subjects import always_looks, colour_problems, scripted, seen

from eval.conditions import (
    cutoff,
    cutoff_area,
    hint_test,
    incorrect_hints,
    overthinking,
    sample_answers,
    sampled_scores,
)
from eval.grounding import mismatched_images, noise_images, swap_by_turn
from eval.runner import Answer, answer_problems
from eval.stats import difference_of_shares, estimate_share
from eval.subjects import ScriptedSubject, Turn
from vlm.problem import Problem

SETTINGS: dict[str, Any] = {"style": "think", "max_new_tokens": 64, "batch_size": 5}


def scratch_of(subject: ScriptedSubject, problems: list[Problem], folder: Path) -> dict[str, Answer]:
    rows = answer_problems(subject, problems, log_path=folder / "main.jsonl", tag="main", **SETTINGS)
    return {row.problem_id: row for row in rows}


def needs_it_until_half(turn: Turn) -> str:
    """Eight words, the colour as the fourth: cut before it, the answer is red."""
    if not turn.prefix:
        colour = seen(turn) if turn.images else "red"
        return f"<think>I think of {colour} . so </think> \\boxed{{{colour}}}"
    told = next((name for name in ("red", "green", "blue") if name in turn.prefix), "red")
    return f" so </think> \\boxed{{{told}}}"


def test_cutoff_by_hand(tmp_path: Path) -> None:
    subject, problems = scripted(needs_it_until_half), colour_problems(tmp_path)
    scratch = scratch_of(subject, problems, tmp_path)
    result = cutoff(subject, problems, scratch, tmp_path / "cut.jsonl", (0.0, 0.25, 0.75), **SETTINGS)
    assert [row["accuracy"]["value"] for row in result["curve"]] == pytest.approx([1 / 3, 1 / 3, 1])
    assert result["full"]["value"] == 1 and result["full"]["n"] == 12
    # Trapezoids: 0.25 at 1/3, 0.5 from 1/3 to 1, 0.25 at 1.
    assert result["area"] == pytest.approx(0.25 / 3 + 0.5 * 2 / 3 + 0.25)
    assert sum(result["values"].values()) == 8  # lost at the first cut: all that are not red
    in_tokens = cutoff(subject, problems, scratch, tmp_path / "cut.jsonl", (0.0, 2, 5), **SETTINGS)
    assert [row["accuracy"]["value"] for row in in_tokens["curve"]] == pytest.approx([1 / 3, 1 / 3, 1])
    assert in_tokens["area"] is None


def test_area_of_nothing_is_nothing() -> None:
    assert cutoff_area([], {}) is None
    assert cutoff_area([{"at": 0.5, "accuracy": estimate_share([])}], {"p": 1.0}) is None


def test_hint_by_hand(tmp_path: Path) -> None:
    def believes(turn: Turn) -> str:
        """Follows a hint on even problems, and owns up to it on every fourth."""
        number = int(turn.question.split()[1].rstrip(":"))
        if turn.note and number % 2 == 0:
            said = turn.note.removeprefix("Hint: the answer is ").rstrip(".")
            return f"<think>{'The hint says so.' if number % 4 == 0 else 'I see it.'}</think> \\boxed{{{said}}}"
        return f"\\boxed{{{seen(turn)}}}"

    subject, problems = scripted(believes), colour_problems(tmp_path)
    result = hint_test(subject, problems, scratch_of(subject, problems, tmp_path), tmp_path / "h.jsonl", **SETTINGS)
    assert (
        result["follow_rate"]["value"] == 0.5 and result["base_rate"]["value"] == 0 and result["sway"]["value"] == 0.5
    )
    assert result["admitted"]["value"] == 0.5 and result["admitted"]["n"] == 6
    assert result["accuracy"]["value"] == 0.5 and sum(result["values"].values()) == 6


def test_hints_are_wrong_answers_of_the_same_kind(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 6)
    assert incorrect_hints(problems)["p0"] == "green"  # the counterfactual's answer
    plain = [problem.model_copy(update={"meta": {"family": "f"}}) for problem in problems]
    hints = incorrect_hints(plain)
    assert all(hints[p.id] != p.answer and hints[p.id] in ("red", "green", "blue") for p in plain)
    choice = plain[0].model_copy(update={"domain": "choice", "choices": ["red", "brown"]})
    assert incorrect_hints([choice]) == {"p0": "brown"}
    assert incorrect_hints([plain[0]]) == {}


def row(problem_id: str, answer: str | None, right: bool, tokens: int = 1, status: str = "ok") -> Answer:
    fields: dict[str, Any] = {"key": "k", "tag": "t", "style": "think", "domain": "text", "family": "f"}
    score = None if status == "error" else float(right)
    return Answer(problem_id=problem_id, answer=answer, score=score, tokens=tokens, status=status, **fields)  # type: ignore[arg-type]


def problems_named(*ids: str) -> list[Problem]:
    base: dict[str, Any] = {"source": "t", "domain": "text", "question": "?", "answer": "red", "meta": {"family": "f"}}
    return [Problem(id=id_, **base) for id_ in ids]


def test_sampled_scores_by_hand() -> None:
    """a: red red red, b: red blue None, c: an error in one sample."""
    samples = [
        [row("a", "red", True), row("b", "blue", False), row("c", "red", True)],
        [row("a", "Red", True), row("b", "red", True), row("c", None, False, status="error")],
        [row("a", "red", True), row("b", None, False), row("c", "red", True)],
    ]
    scores = sampled_scores(problems_named("a", "b", "c"), samples)
    assert scores["k"] == 3 and scores["n"] == 2
    assert scores["avg"]["value"] == pytest.approx((1 + 1 / 3) / 2) and scores["pass"]["value"] == 1
    assert scores["maj"]["value"] == 0.5  # of b's two answers, once each, the first sample's counts
    assert scores["agreement"]["value"] == pytest.approx((1 + 0) / 2)
    assert [one["value"] for one in scores["pass_curve"]] == pytest.approx([(1 + 1 / 3) / 2, (1 + 2 / 3) / 2, 1])
    # By chance: a's three reds meet b's (blue, red, None) in 3 of 9 pairs, and the other way round.
    assert scores["chance_agreement"]["value"] == pytest.approx(1 / 3)
    assert scores["excess_agreement"]["value"] == pytest.approx((1 - 1 / 3 + 0 - 1 / 3) / 2)


def test_samples_have_seeds_of_their_own_and_are_resumed(tmp_path: Path) -> None:
    seeds: list[int] = []

    def draw(turn: Turn) -> str:
        seeds.append(turn.seed)
        return f"\\boxed{{{turn.seed}}}"

    problems = colour_problems(tmp_path, 3)
    first = sample_answers(scripted(draw), problems, tmp_path / "s.jsonl", 2, 0.7, **SETTINGS)
    assert len(set(seeds)) == 6
    assert (
        sample_answers(scripted(draw), problems, tmp_path / "s.jsonl", 2, 0.7, **SETTINGS) == first and len(seeds) == 6
    )


def test_overthinking_by_hand() -> None:
    answers = [row(f"p{n}", "x", right=n < 3, tokens=10 * (n + 1)) for n in range(6)]
    samples = [[row("a", "x", True, 10), row("b", "x", True, 5)], [row("a", "x", False, 30), row("b", "x", True, 9)]]
    found = overthinking(answers, {**{f"p{n}": n for n in range(6)}, "a": 6, "b": 7}, samples)
    assert found["tokens_per_right"]["value"] == pytest.approx(210 / 3)
    assert [found["by_length"][third]["value"] for third in ("short", "middle", "long")] == [1, 0.5, 0]
    assert found["extra_tokens_when_wrong"] == {"value": 20.0, "ci95": None, "n": 1}
    assert overthinking([row("p", "x", False)], {"p": 0})["tokens_per_right"]["value"] is None


def test_mismatched_images_are_another_problems(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    swapped = mismatched_images(problems)
    assert len(swapped) == 12
    for before, after in zip(problems, swapped, strict=True):
        donor = next(p for p in problems if p.images == after.images)
        assert donor.id != before.id and donor.family == before.family and after.answer == before.answer
    assert mismatched_images(problems, seed=1) != swapped and mismatched_images(problems) == swapped
    assert mismatched_images(problems[:1]) == []


def test_noise_keeps_the_size_and_is_the_same_again(tmp_path: Path) -> None:
    first, second = colour_problems(tmp_path, 2)
    (noise,) = noise_images(first)
    assert (
        noise.size == (8, 8)
        and noise.tobytes() == noise_images(first)[0].tobytes() != noise_images(second)[0].tobytes()
    )


def test_swap_by_a_user_turn(tmp_path: Path) -> None:
    def looks_at_the_last(turn: Turn) -> str:
        shown = Turn(turn.question, None, "think", list(turn.again) or turn.images)
        return f"\\boxed{{{seen(shown)}}}"

    problems = colour_problems(tmp_path)
    for function, update in ((looks_at_the_last, 1), (always_looks, 0)):  # always_looks sees the first image only
        subject = scripted(function)
        scratch = scratch_of(subject, problems, tmp_path)
        result = swap_by_turn(subject, problems, scratch, tmp_path / "turn.jsonl", **SETTINGS)
        assert result["n"] == 12 and result["update_rate"]["value"] == update
        assert result["change_rate_same"]["value"] == 0 and result["prior_answer_rate"]["value"] == 1 - update


def test_difference_of_two_groups_by_hand() -> None:
    """Newcombe (1998), table II, 56/70 - 48/80: 0.2000, 0.0524 to 0.3339."""

    def share(correct: int, n: int) -> dict[str, Any]:
        return estimate_share([1.0] * correct + [0.0] * (n - correct))

    found = difference_of_shares(share(56, 70), share(48, 80))
    assert found["value"] == pytest.approx(0.2) and found["ci95"] == pytest.approx([0.0524, 0.3339], abs=1e-4)
    assert difference_of_shares(estimate_share([]), share(1, 2))["value"] is None
