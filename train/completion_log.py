"""The columns that GRPO adds to TRL's log of completions (``completions/*.parquet``), for ``reflection-v view`` and trackers.

TRL writes step, prompt, completion, the value of each reward and the advantage. Which problem a row belongs to, what the
rewards sum up to, and where the model looked in each sentence would be lost.
"""

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from reward.rewards import Rollout
from vlm.problem import Problem
from vlm.sentence_attention import sentence_tokens

MAX_SENTENCES = 200


class MassBySentence(str):
    """JSON ``[[start, end, mass, lift], ...]`` of characters of the completion; printed in TRL's table it is the masses alone."""

    def __str__(self) -> str:
        return " ".join(f"{mass:.2f}" for _, _, mass, _ in json.loads(str.__str__(self)))


def logged_columns(
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    completion_ids: Sequence[Sequence[int]],
    rewards: list[float],
    tokenizer: Any,
) -> dict[str, list[Any]]:
    """``problem`` (its id), ``reward`` (the weighted sum) and ``sentences`` (``MassBySentence``) of each row of this process."""
    return {
        "problem": [problem.id for problem in problems],
        "reward": rewards,
        "sentences": [
            mass_by_sentence(rollout, list(ids[: rollout.token_count]), tokenizer)
            for rollout, ids in zip(rollouts, completion_ids, strict=True)
        ],
    }


def reward_sums(rewards: Tensor, weights: Tensor) -> list[float]:
    """The weighted sum of the rewards (rows, terms) of each row, as TRL sums them; NaN for a row that no reward judged."""
    sums = (rewards * weights.to(rewards.device)).nansum(dim=1)
    sums[rewards.isnan().all(dim=1)] = float("nan")
    return list(sums.tolist())


def mass_by_sentence(rollout: Rollout, ids: list[int], tokenizer: Any) -> MassBySentence:
    """Mean mass and lift over the tokens of each sentence; none where no mass was recorded, or without an image."""
    if rollout.mass is None or rollout.lift is None or not rollout.n_images or not ids or not rollout.text:
        return MassBySentence("[]")
    rows = []
    for start, end, first, last in sentence_tokens(tokenizer, ids, rollout.text)[:MAX_SENTENCES]:
        mass, lift = (values[first:last] for values in (rollout.mass, rollout.lift))
        if mass.numel() and bool(mass.isfinite().all()) and bool(lift.isfinite().all()):
            rows.append([start, end, round(float(mass.mean()), 4), round(float(lift.mean()), 3)])
    return MassBySentence(json.dumps(rows))
