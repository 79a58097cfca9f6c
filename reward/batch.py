"""Rewards of a gathered batch: every row's scores become the reward columns and the metrics of a training step.

Nothing here knows a trainer. ``row_of`` runs where a response was sampled; ``combine`` and ``metrics`` run on all rows, after
they have been gathered, ordered by group.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reward import group
from reward.rewards import GATED, REWARDS, Reward, Rollout, Score, grounding_penalty, halves
from vlm.response import count_looks

PENALTIES = ("grounding_penalty", "shuffled(grounding_penalty)")


def row_of(rollout: Rollout, lift_floor: float) -> dict[str, Any]:
    """Everything about one response that is gathered: scores and parts of all rewards, length, halves, looks."""
    rewards: dict[str, Reward] = {**REWARDS, "grounding_penalty": partial(grounding_penalty, floor=lift_floor)}
    scores: dict[str, Score] = {name: reward(rollout) for name, reward in rewards.items()}
    row: dict[str, Any] = {
        "scores": {name: score.value for name, score in scores.items()},
        "parts": {f"{name}/{part}": value for name, score in scores.items() for part, value in score.parts.items()},
        "right": rollout.verdict.right,
        "length": rollout.token_count,
        "looks": count_looks(rollout.text),
    }
    seen = rollout.finished and rollout.n_images > 0 and rollout.token_count >= 2
    for name, values in (("mass", rollout.mass), ("lift", rollout.lift)):
        if seen and values is not None and bool(torch.isfinite(values).all()):
            row["parts"][f"{name}/first_half"], row["parts"][f"{name}/second_half"] = halves(values)
    return row


def _column(rows: Sequence[dict[str, Any]], term: str) -> Tensor:
    return torch.tensor([math.nan if row["scores"][term] is None else row["scores"][term] for row in rows])


def combine(
    rows: Sequence[dict[str, Any]],
    weights: Mapping[str, float],
    size: int,
    seed: int,
    drop_in_constant_groups: bool = False,
) -> dict[str, Tensor]:
    """The reward columns (N,) of all of ``REWARDS`` and of the controls among ``weights``, by the rules of ``reward.group``.

    Args:
        weights: by term; ``shuffled(NAME)`` is the control of NAME. They matter here only for the bound of
            ``grounding_penalty``, whose column is what may be charged.
        size: rows a group.
        seed: of the shuffles.
        drop_in_constant_groups: set attention terms to 0 where a group's accuracy is constant.

    A row whose answer cannot be judged is NaN in every column: TRL then takes it out of the group's mean and gives it no
    advantage.
    """
    right = torch.tensor([row["right"] for row in rows])
    accuracy = _column(rows, "accuracy")
    columns = {}
    for term in dict.fromkeys([*REWARDS, *weights]):
        source = term.removeprefix("shuffled(").removesuffix(")")
        values = _column(rows, source)
        if term != source:
            values = group.shuffled(values, right, size, seed)
        if source in GATED:
            values = group.fill_unjudged(values, right, size)
            if drop_in_constant_groups:
                values = group.drop_in_constant_groups(values, accuracy, size)
        columns[term] = values
    total = torch.zeros_like(accuracy)
    for term, values in columns.items():
        if term not in PENALTIES:
            total += weights.get(term, 0.0) * values.nan_to_num(0.0)
    for term in PENALTIES:
        if weight := weights.get(term, 0.0):
            charged = group.bounded_penalty(weight * columns[term], total, right, size)
            total, columns[term] = total + charged, charged / weight
    return {term: values.masked_fill(accuracy.isnan(), math.nan) for term, values in columns.items()}


def metrics(rows: Sequence[dict[str, Any]], size: int) -> dict[str, float]:
    """What is logged of a batch beside TRL's own, whatever the weights; NaN where there is nothing to average.

    ``NAME/PART`` is the mean over the rows in which the part exists; ``NAME/unjudged`` the share of right rows that could
    not be judged. ``correlation/NAME/length`` is taken among right rows (what the gated term can push), and
    ``correlation/NAME/right`` on the ungated term: both within groups.
    """
    logged: dict[str, float] = {}
    parts = sorted({part for row in rows for part in row["parts"]})
    for part in parts:
        values = [row["parts"][part] for row in rows if part in row["parts"]]
        logged[part] = sum(values) / len(values)
    right = torch.tensor([row["right"] for row in rows])
    length = torch.tensor([float(row["length"]) for row in rows])
    for name in GATED:
        column = _column(rows, name)
        term = torch.tensor([row["parts"].get(f"{name}/term", math.nan) for row in rows])
        logged[f"{name}/unjudged"] = column[right].isnan().float().mean().item()
        logged[f"correlation/{name}/length"] = group.within_group_correlation(column, length, size, keep=right)
        logged[f"correlation/{name}/right"] = group.within_group_correlation(term, right.float(), size)
    logged["constant_accuracy_share"] = group.is_constant(_column(rows, "accuracy"), size).float().mean().item()
    logged["looks/mean"] = sum(row["looks"] for row in rows) / len(rows)
    logged["looks/share"] = sum(row["looks"] > 0 for row in rows) / len(rows)
    return logged
