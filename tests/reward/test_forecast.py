"""Planted hacks are named before training, and what is sound is not."""

import inspect
import random
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

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


def trl_advantages(columns: torch.Tensor, weights: list[float], size: int, scale: str, rule: str) -> torch.Tensor:
    """TRL's own advantages of (N, terms) rewards: the lines of the installed trainer between the rewards and the advantages."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    lines = textwrap.dedent(
        source[source.index("    unscorable_mask =") : source.index("    # Slice to keep only the local")]
    )
    trainer = SimpleNamespace(
        reward_weights=torch.tensor(weights),
        reward_funcs=weights,
        scale_rewards=scale,
        multi_objective_aggregation=rule,
    )
    names = {"self": trainer, "rewards_per_func": columns, "num_generations": size, "device": "cpu"}
    exec(lines, vars(grpo_trainer) | names, names)
    return names["advantages"]  # type: ignore[return-value]


MISSING = {
    "none": [],
    "one row": [3],
    "several": [0, 1, 9, 20],
    "all but one of a group": list(range(7)),
    "all but two of a group": list(range(6)),
    "a whole group": list(range(8, 16)),
    "everything": list(range(SIZE * 4)),
}


@pytest.mark.parametrize("rule", ["sum_then_normalize", "normalize_then_sum"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("partly", [False, True])
def test_the_advantages_are_those_of_trl(rule: str, scale: Any, missing: str, partly: bool) -> None:
    generator = torch.Generator().manual_seed(len(missing))
    columns = torch.rand(SIZE * 4, 3, generator=generator)
    columns[:, 0] = columns[:, 0].round()
    columns[16:24, 1] = 0.5  # a term that is constant in a group
    columns[MISSING[missing]] = torch.nan
    if partly:
        columns[[2, 5, 17, 30], 1] = torch.nan
        columns[24:31, 2] = torch.nan
    weights = [1.0, 0.3, -0.2]
    terms = {f"term {index}": Term(weight) for index, weight in enumerate(weights)}
    named = {name: columns[:, index] for index, name in enumerate(terms)}
    parts = contributions(named, terms, SIZE, scale, rule == "normalize_then_sum")
    expected = trl_advantages(columns, weights, SIZE, scale, rule)
    assert torch.allclose(torch.stack(list(parts.values())).sum(0), expected, atol=1e-4)
    assert missing == "everything" or expected.abs().sum() > 1
    assert all(not part[MISSING[missing]].any() for part in parts.values())


def test_an_answer_that_timed_out_is_in_no_figure() -> None:
    rows = [row_of(one, 0.8) for one in rollouts()]
    rewards = {"accuracy": 1.0, "format": 0.2, "repetition": Term(0.3), "attention_ratio": Term(0.2, std=0.1)}
    reports = []
    for said in (-1.0, 0.0):
        for row in rows[::5]:
            row["scores"] |= {"accuracy": None, "format": -said, "repetition": said}
            row["right"], row["length"] = False, int(500 - 400 * said)
        reports.append(forecast(rows, rewards, SIZE, scale="batch"))
    figures = reports[0]["terms"]
    kept = [row["right"] for index, row in enumerate(rows) if index % 5]
    assert str(reports[0]) == str(reports[1]) and reports[0]["accuracy"] == pytest.approx(sum(kept) / len(kept))
    assert figures["repetition"]["unjudged"] == 0.0 and figures["repetition"]["length"]["n"] == len(kept)
