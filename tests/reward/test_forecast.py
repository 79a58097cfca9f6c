"""Planted hacks are named before training, and what is sound is not."""

import random
from typing import Any

import pytest
import torch

from reward.aggregate import Term, combine, row_of, terms_of
from reward.forecast import contributions, forecast, in_words
from reward.rewards import Rollout, Score

SIZE, GROUPS = 8, 16


def rollouts(seed: int = 0, always_right: float = 0.0) -> list[Rollout]:
    """Responses whose length, first half and second half vary on their own, each about as much as the others."""
    rng = random.Random(seed)
    made = []
    for _ in range(GROUPS):
        constant = rng.random() < always_right
        for _ in range(SIZE):
            tokens = rng.randrange(40, 120, 2)
            first, second = rng.uniform(0.2, 0.5), rng.uniform(0.1, 0.2)
            mass = torch.tensor([first] * (tokens // 2) + [second] * (tokens // 2))
            answer = "blue" if constant or rng.random() < 0.6 else "red"
            text = f"<think> so it is what it is </think> \\boxed{{{answer}}}"
            made.append(
                Rollout(text, "text", "blue", token_count=tokens, mass=mass, lift=mass * 2, thought=(0, tokens))
            )
    return made


def planted(name: str, value: Any, weight: float = 0.5, **kwargs: Any) -> dict[str, Any]:
    """The forecast for accuracy and one more reward."""
    rows = [row_of(one, 0.8, {name: lambda rollout: Score(value(rollout))}) for one in rollouts(**kwargs)]
    return forecast(rows, {"accuracy": 1.0, name: Term(weight, gate="right")}, SIZE, scale="none")


def kinds(report: dict[str, Any], term: str) -> set[str]:
    return {warning["kind"] for warning in report["warnings"] if warning["term"] == term}


def second(rollout: Rollout) -> float:
    assert rollout.mass is not None
    return float(rollout.mass[-1])


def first(rollout: Rollout) -> float:
    assert rollout.mass is not None
    return float(rollout.mass[0])


def test_a_planted_length_hack_is_named() -> None:
    report = planted("mine.py:wordy", lambda rollout: rollout.token_count / 100)
    assert kinds(report, "mine.py:wordy") == {"length"}
    assert report["terms"]["mine.py:wordy"]["length"]["value"] == pytest.approx(1.0)
    assert "expect longer text" in in_words(report) and not report["go"]
    terse = planted("mine.py:terse", lambda rollout: -rollout.token_count / 100)
    assert "expect shorter text" in in_words(terse)
    prize = planted(
        "mine.py:terse", lambda rollout: -rollout.token_count / 100, weight=-0.5
    )  # the sign of the weight counts
    assert "expect longer text" in in_words(prize)


def test_a_planted_flatness_hack_is_named() -> None:
    # The later half looks no more at the image: the ratio rises because the first half looks less.
    report = planted("mine.py:flat", lambda rollout: 0.15 / first(rollout) * 2)
    assert kinds(report, "mine.py:flat") == {"flatness"}
    assert "flattened by looking away early" in in_words(report)


def test_what_pays_for_looking_late_is_not_named() -> None:
    report = planted("mine.py:late", lambda rollout: second(rollout) * 5)
    assert kinds(report, "mine.py:late") == set() and report["go"]
    assert report["terms"]["mine.py:late"]["second_half"]["value"] == pytest.approx(1.0)


def test_a_reward_against_right_answers_and_one_that_outweighs_them() -> None:
    rows = [row_of(one, 0.8, {"mine.py:odd": lambda r: Score(float(not r.verdict.right))}) for one in rollouts()]
    report = forecast(rows, {"accuracy": 1.0, "mine.py:odd": 3.0}, SIZE, scale="none")
    assert {"against_right", "outweighs"} <= kinds(report, "mine.py:odd")


def test_ties_are_named_where_the_scale_blows_them_up() -> None:
    rows = [row_of(one, 0.8) for one in rollouts(always_right=0.6)]
    rewards = {"accuracy": 1.0, "attention_ratio": 0.1}
    scaled = forecast(rows, rewards, SIZE, scale="group")
    plain = forecast(rows, rewards, SIZE, scale="none")
    dropped = forecast(rows, rewards, SIZE, scale="group", drop_in_constant_groups=True)
    assert scaled["tie_share"] > 0.3 > plain["tie_share"]
    assert "ties" in {warning["kind"] for warning in scaled["warnings"]}
    assert dropped["tie_share"] == 0.0
    assert scaled["constant_accuracy_share"] == plain["constant_accuracy_share"] > 0.3


def test_no_signal_is_named() -> None:
    rows = [row_of(one, 0.8) for one in rollouts(always_right=1.0)]
    report = forecast(rows, {"accuracy": 1.0}, SIZE)
    assert [warning["kind"] for warning in report["warnings"]] == ["no_signal"]
    assert report["terms"]["accuracy"]["right"]["value"] is None


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("normalize_first", [False, True])
def test_contributions_add_up_to_the_advantage(scale: Any, normalize_first: bool) -> None:
    rows = [row_of(one, 0.8) for one in rollouts()]
    rewards = {"accuracy": 1.0, "attention_ratio": 0.2, "repetition": 0.1}
    columns = combine(rows, rewards, SIZE, 0)
    parts = contributions(columns, terms_of(rewards), SIZE, scale, normalize_first)
    total = torch.stack(list(parts.values())).sum(0)
    if normalize_first:
        each = [columns[n].view(-1, SIZE) for n in rewards]
        z = [(c - c.mean(1, keepdim=True)) / (c.std(1, keepdim=True) + 1e-4) for c in each]
        summed = sum(w * one for w, one in zip(rewards.values(), z, strict=True))
        expected = (summed - summed.mean()) / (summed.std() + 1e-4)  # type: ignore[union-attr]
    else:
        reward = sum(w * columns[n].view(-1, SIZE) for n, w in rewards.items())
        expected = reward - reward.mean(1, keepdim=True)  # type: ignore[union-attr]
        std = {"group": reward.std(1, keepdim=True), "batch": reward.std(), "none": None}[scale]  # type: ignore[union-attr]
        expected = expected if std is None else expected / (std + 1e-4)
    assert torch.allclose(total, expected.view(-1), atol=1e-4)
    shares = [forecast(rows, rewards, SIZE, scale=scale)["terms"][name]["advantage_share"] for name in rewards]
    assert sum(shares) == pytest.approx(1.0)
