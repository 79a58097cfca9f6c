"""Group-wise terms: what an unjudged row, a control, a constant group and a penalty do to the advantages of a group."""

import math
import random
from typing import Any

import pytest
import torch

from reward import group
from reward.batch import combine, metrics
from reward.rewards import REWARDS

NAN = math.nan


def advantages(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """GRPO's, without scaling: the reward minus the mean of its group."""
    grouped = rewards.view(-1, size)
    return (grouped - grouped.mean(1, keepdim=True)).view(-1)


def test_an_unjudged_row_gets_no_advantage_from_the_term() -> None:
    values = torch.tensor([0.9, NAN, 0.5, 0.7])
    filled = group.fill_unjudged(values, torch.tensor([True] * 4), 4)
    assert filled.tolist() == pytest.approx([0.9, 0.7, 0.5, 0.7])
    assert advantages(filled, 4)[1].item() == pytest.approx(0.0, abs=1e-7)


def test_an_unjudged_row_stands_where_an_average_row_of_its_correctness_stands() -> None:
    right = torch.tensor([True, True, True, False, False, False])
    values = torch.tensor([0.8, 0.4, NAN, 0.0, NAN, 0.0])
    filled = group.fill_unjudged(values, right, 6)
    assert filled.tolist() == pytest.approx([0.8, 0.4, 0.6, 0.0, 0.0, 0.0])


def test_without_a_judged_right_row_nothing_is_paid() -> None:
    filled = group.fill_unjudged(torch.tensor([NAN, NAN, 0.0, 0.0]), torch.tensor([True, False, False, False]), 4)
    assert filled.tolist() == [0.0] * 4


def test_groups_do_not_mix() -> None:
    values, right = torch.tensor([1.0, NAN, 3.0, NAN]), torch.tensor([True] * 4)
    assert group.fill_unjudged(values, right, 2).tolist() == [1.0, 1.0, 3.0, 3.0]


def test_shuffled_permutes_right_judged_rows_only() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 0.0, NAN, 5.0, 6.0, 7.0, 8.0, 0.0])
    right = torch.tensor([True, True, True, False, True, True, True, True, True, False])
    seen = set()
    for seed in range(50):
        result = group.shuffled(values, right, 5, seed)
        assert sorted(result[:3].tolist()) == [1.0, 2.0, 3.0] and sorted(result[5:9].tolist()) == [5.0, 6.0, 7.0, 8.0]
        assert result[3] == 0.0 and result[9] == 0.0 and result[4].isnan()
        seen.add(tuple(result[:3].tolist()))
    assert len(seen) == 6


def test_shuffled_repeats_with_its_seed() -> None:
    values, right = torch.arange(16.0), torch.ones(16, dtype=torch.bool)
    assert torch.equal(group.shuffled(values, right, 8, 3), group.shuffled(values, right, 8, 3))


def test_a_constant_group_drops_the_term() -> None:
    accuracy = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, NAN])
    values = torch.arange(1.0, 7.0)
    assert group.is_constant(accuracy, 2).tolist() == [True, True, False, False, True, True]
    assert group.drop_in_constant_groups(values, accuracy, 2).tolist() == [0.0, 0.0, 3.0, 4.0, 0.0, 0.0]


def test_correlation_is_within_groups() -> None:
    # Within each group length and value fall together; over all rows they would rise together.
    length = torch.tensor([2.0, 1.0, 12.0, 11.0])
    value = torch.tensor([0.1, 0.2, 0.8, 0.9])
    assert group.within_group_correlation(value, length, 2) == pytest.approx(-1.0)
    assert group.within_group_correlation(value, value * 3, 2) == pytest.approx(1.0)
    assert math.isnan(group.within_group_correlation(value, torch.ones(4), 2))
    assert math.isnan(group.within_group_correlation(torch.full((4,), NAN), length, 2))
    kept = torch.tensor([True, True, False, False])
    assert group.within_group_correlation(torch.tensor([0.1, 0.2, NAN, 5.0]), length, 2, kept) == pytest.approx(-1.0)


def row(right: bool, scores: dict[str, float | None] | None = None, length: int = 10) -> dict[str, Any]:
    base: dict[str, float | None] = dict.fromkeys(REWARDS, 0.0) | {"accuracy": float(right)}
    return {
        "scores": base | (scores or {}),
        "parts": {},
        "right": right,
        "finished": True,
        "length": length,
        "looks": 0,
    }


@pytest.mark.parametrize("weight", [0.01, 0.5, 1.0, 100.0])
def test_the_penalty_never_puts_a_right_row_below_a_wrong_one(weight: float) -> None:
    rng = random.Random(0)
    size, charged = 6, 0
    for _ in range(200):
        rows = []
        for _ in range(2 * size):
            right = rng.random() < 0.5
            scores: dict[str, float | None] = {"format": float(rng.random() < 0.5)}
            if right:
                scores |= {"attention_ratio": rng.choice([None, rng.uniform(0, 3)])}
                scores |= {"grounding_penalty": rng.choice([None, -rng.random(), -1.0])}
            rows.append(row(right, scores))
        names = ("accuracy", "format", "attention_ratio")
        weights = {name: rng.choice([0.0, 0.1, 1.0, 5.0]) for name in names} | {"grounding_penalty": weight}
        columns = combine(rows, weights, size, seed=0)
        total = sum(weights[name] * columns[name] for name in weights)
        without = sum(weights[name] * columns[name] for name in names)
        assert isinstance(total, torch.Tensor) and isinstance(without, torch.Tensor)
        charged += int((total < without).sum())
        assert bool((total <= without + 1e-6).all())
        for start in range(0, len(rows), size):
            for one in range(start, start + size):
                for other in range(start, start + size):
                    if rows[one]["right"] and not rows[other]["right"]:
                        if without[one] >= without[other]:
                            assert total[one] >= total[other] - 1e-5
                        if without[one] > without[other]:
                            assert total[one] > total[other] - 1e-5
    assert charged > 100


def test_a_row_that_cannot_be_judged_is_out_of_every_column() -> None:
    rows = [row(True), row(False), row(False, {"accuracy": None, "format": 1.0})]
    columns = combine(rows, {"accuracy": 1.0, "format": 1.0}, 3, seed=0)
    assert all(values[2].isnan() and not values[:2].isnan().any() for values in columns.values())


def test_the_control_is_a_column_of_its_own() -> None:
    rows = [row(True, {"attention_ratio": float(value)}) for value in range(8)]
    columns = combine(rows, {"accuracy": 1.0, "shuffled(attention_ratio)": 1.0}, 8, seed=1)
    plain, control = columns["attention_ratio"], columns["shuffled(attention_ratio)"]
    assert plain.tolist() == list(range(8))
    assert control.tolist() != plain.tolist() and sorted(control.tolist()) == plain.tolist()


def test_metrics_name_what_a_term_goes_along_with() -> None:
    rows = [
        row(True, {"attention_ratio": value}, length) for value, length in ((0.2, 40), (0.4, 30), (0.6, 20), (None, 99))
    ]
    logged = metrics(rows, 4)
    assert logged["correlation/attention_ratio/length"] == pytest.approx(-1.0)
    assert logged["attention_ratio/unjudged"] == 0.25
    assert logged["constant_accuracy_share"] == 1.0
    assert math.isnan(logged["correlation/attention_ratio/right"])
