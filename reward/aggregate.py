"""How scores become rewards: gate and scale of each term, then the reward columns and metrics of a step.

Nothing here knows a trainer. ``row_of`` runs where a response was sampled; ``combine`` and ``metrics`` run on all rows, after
they have been gathered, ordered by group.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from reward import group
from reward.grade import judge_ahead
from reward.rewards import GATED, REWARDS, Reward, Rollout, Score, grounding_penalty, halves
from reward.worker import map_in_threads
from vlm.response import count_looks

PENALTIES = ("grounding_penalty", "shuffled(grounding_penalty)")
GROUP_TERMS = ("length",)
"""Rewards of a row that its whole group decides (``group.overlong``)."""
KNOWN = (*REWARDS, *GROUP_TERMS)
_UNSHAPED = ("accuracy", "format")


SMALLEST, LARGEST = 1e-12, 1e6
"""Bounds of a nonzero weight and of a std, in absolute value. Multiplied by scores up to ``reward.user.MAX_SCORE`` they stay
within float32, so that their squares neither overflow nor vanish in the standard deviation of a group."""

Gate = Literal["right", "format", "none"]


@dataclass(frozen=True)
class Term:
    """One line under ``rewards`` in the YAML.

    Attributes:
        weight: the factor in the sum.
        gate: rows that are paid: those with a ``right`` answer, those whose ``format`` is whole, or all (``none``). Its own
            where not given: ``right`` for the terms that measure looking and for ``length``, else none.
        std: the standard deviation among correct rows (within groups) that the term is scaled to, before its weight; as it is
            where not given.
    """

    weight: float = 0.0
    gate: Gate | None = None
    std: float | None = None


def terms_of(rewards: Mapping[str, "float | Term | Mapping[str, object]"]) -> dict[str, Term]:
    """The terms of a mapping in which a bare number is a weight."""
    terms = {}
    for name, value in rewards.items():
        if isinstance(value, Mapping):
            terms[name] = Term(**value)  # type: ignore[arg-type]
        else:
            terms[name] = value if isinstance(value, Term) else Term(float(value))
    return terms


def is_in_float_range(value: float) -> bool:
    """Whether a weight or a std can be computed with."""
    return SMALLEST <= abs(value) <= LARGEST


def source_of(name: str) -> str:
    """The reward behind a name: X of ``shuffled(X)``."""
    return name.removeprefix("shuffled(").removesuffix(")") if name.startswith("shuffled(") else name


def gate_of(name: str, term: Term) -> str | None:
    """The gate that holds for a term; None for a reward that is taken as it is."""
    own = "right" if source_of(name) in (*GATED, "length") else None
    return term.gate or own


def row_of(rollout: Rollout, lift_floor: float, own: Mapping[str, Reward] | None = None) -> dict[str, Any]:
    """Everything about one response that is gathered: scores and parts of all rewards, length, halves, looks.

    Args:
        own: a user's rewards by name.
    """
    rewards: dict[str, Reward] = {
        **REWARDS,
        "grounding_penalty": partial(grounding_penalty, floor=lift_floor),
        **(own or {}),
    }
    scores: dict[str, Score] = {name: reward(rollout) for name, reward in rewards.items()}
    row: dict[str, Any] = {
        "scores": {name: score.value for name, score in scores.items()},
        "parts": {f"{name}/{part}": value for name, score in scores.items() for part, value in score.parts.items()},
        "right": rollout.grade.correct,
        "finished": rollout.finished,
        "length": rollout.token_count,
        "looks": count_looks(rollout.text),
    }
    if scores["accuracy"].value is not None:
        row["parts"][f"domain/{rollout.domain}"] = float(row["right"])  # logged as the accuracy by domain
    # Logged for incorrect responses too, which the attention terms do not score.
    seen = rollout.finished and rollout.n_images > 0 and rollout.token_count >= 2
    for name, values in (("mass", rollout.mass), ("lift", rollout.lift)):
        if seen and values is not None and bool(torch.isfinite(values).all()):
            row["parts"][f"{name}/first_half"], row["parts"][f"{name}/second_half"] = halves(values)
    if rollout.calls is not None:
        row["parts"] |= zoom_parts(rollout)
    return row


def zoom_parts(rollout: Rollout) -> dict[str, float]:
    """What is logged of a response that may zoom: its calls, and the mean mass on the prompt's images and on the crops."""
    calls = rollout.calls or 0
    parts = {"zoom/calls": float(calls), "zoom/called": float(calls > 0)}
    if calls:
        parts["zoom/error_share"] = rollout.call_errors / calls
    mass = rollout.image_mass
    if mass is not None and mass.numel() and bool(mass.isfinite().all()):
        parts["zoom/mass_originals"] = mass[:, : rollout.n_images].sum(1).mean().item()
        for number, crop in enumerate(mass.T[rollout.n_images :], start=1):
            seen = crop[crop > 0]  # from when it came
            parts[f"zoom/mass_crop_{number}"] = seen.mean().item() if len(seen) else 0.0
    return parts


def batch_rows(
    rollouts: Sequence[Rollout], lift_floor: float, own: Mapping[str, Reward] | None = None
) -> list[dict[str, Any]]:
    """``row_of`` each response of a batch."""
    judge_ahead((one.problem, one.text, one.finished) for one in rollouts)
    return map_in_threads(lambda rollout: row_of(rollout, lift_floor, own), rollouts)


def _column(rows: Sequence[dict[str, Any]], source: str) -> Tensor:
    """(N,) of a reward's scores; NaN where it cannot judge."""
    return torch.tensor([math.nan if (score := row["scores"][source]) is None else score for row in rows])


def ungated(rows: Sequence[dict[str, Any]], source: str) -> Tensor:
    """(N,) of a reward before its gate; NaN where it cannot judge."""
    if source in GATED:
        return torch.tensor([row["parts"].get(f"{source}/term", math.nan) for row in rows])
    return _column(rows, source)


def lengths(rows: Sequence[dict[str, Any]]) -> Tensor:
    """(N,) tokens of the responses."""
    return torch.tensor([float(row["length"]) for row in rows])


def combine(
    rows: Sequence[dict[str, Any]],
    rewards: Mapping[str, float | Term],
    size: int,
    seed: int,
    drop_in_constant_groups: bool = False,
) -> dict[str, Tensor]:
    """The reward columns (N,) of all of ``KNOWN`` and of what else ``rewards`` names, by the rules of ``reward.group``.

    Args:
        rewards: a weight or a ``Term`` by name; ``shuffled(NAME)`` is the control of NAME. Weights matter here only for
            the bounds: a column is what may be charged or paid.
        size: rows a group.
        seed: of the shuffles.
        drop_in_constant_groups: set all terms but accuracy and format to 0 where a group's accuracy is constant.

    A row whose answer cannot be judged is NaN in every column: TRL then takes it out of the group's mean and gives it no
    advantage. It changes no other row.

    A term that is matched to a standard deviation never puts a correct row below an incorrect one of its group
    (``group.bounded_scale``), nor does one that is paid for correct answers only, where accuracy has a weight. Accuracy,
    format and terms that are paid for all count in full.
    """
    terms = terms_of(rewards)
    accuracy = _column(rows, "accuracy")
    judged = ~accuracy.isnan()
    correct = torch.tensor([row["right"] for row in rows]) & judged
    paid_by = {"right": correct, "format": (_column(rows, "format") >= 1.0) & judged, "none": judged}
    columns = {}
    for name in dict.fromkeys([*KNOWN, *terms]):
        term, source = terms.get(name, Term()), source_of(name)
        gate = gate_of(name, term)
        paid = paid_by[gate or "none"]
        values = _term(rows, source, paid_by["right" if gate == "right" else "none"], gate, size)
        if source not in _UNSHAPED:
            values = values.masked_fill(~judged, math.nan)
            if gate is not None:
                values = torch.where(paid, values, 0.0)
            # Shuffled before it is scaled: the control then has the same spread as the term it stands for.
            if name != source:
                values = group.shuffled(values, paid, size, seed)
            if term.std is not None:
                values = group.match_std(values, correct, paid, size, term.std)
            values = group.fill_unjudged(values, paid, size)
            if drop_in_constant_groups:
                values = group.drop_in_constant_groups(values, accuracy, size)
        columns[name] = values
    _bound(columns, terms, correct, judged, size)
    return {name: values.masked_fill(~judged, math.nan) for name, values in columns.items()}


def _bound(columns: dict[str, Tensor], terms: Mapping[str, Term], correct: Tensor, judged: Tensor, size: int) -> None:
    """Reduce the columns that would put a correct row below an incorrect one: each by what the terms before it leave."""
    pays_correct = terms.get("accuracy", Term()).weight > 0

    def rank(name: str) -> int:
        if name in PENALTIES:
            return 3
        return 2 if terms[name].std is not None else 1 if gate_of(name, terms[name]) == "right" else 0

    # In float64, so that rounding under a large weight does not turn an order round before the next term is bounded.
    total = torch.zeros_like(columns["accuracy"], dtype=torch.float64).masked_fill(~judged, math.nan)
    for name in sorted((name for name, term in terms.items() if term.weight), key=rank):
        weight, values = terms[name].weight, columns[name].double()
        if rank(name) == 3:  # row by row, so that one ungrounded response takes no penalty off the others
            values = group.bounded_penalty(weight * values, total, correct, size) / weight
        elif rank(name) == 2 or (rank(name) == 1 and pays_correct):
            # A gated term may use up the whole distance, as its weight says; what is scaled to a std keeps the order strict.
            share = 0.5 if rank(name) == 2 else 1.0
            values = values * group.bounded_scale(weight * values, total, correct, size, share)
        columns[name] = values.float()
        total = total + weight * values


def _term(rows: Sequence[dict[str, Any]], source: str, compared: Tensor, gate: str | None, size: int) -> Tensor:
    """(N,) of one reward, before its gate if it has an ungated form. ``compared``: rows whose lengths are compared."""
    if source == "length":
        finished = torch.tensor([row["finished"] for row in rows])
        return group.overlong(lengths(rows), compared, finished, size)
    return _column(rows, source) if gate == "right" else ungated(rows, source)


def metrics(rows: Sequence[dict[str, Any]], size: int) -> dict[str, float]:
    """What is logged of a batch beside TRL's own, whatever the weights; NaN where there is nothing to average.

    ``NAME/PART`` is the mean over the rows in which the part exists; ``NAME/unjudged`` the share of correct rows that could
    not be judged. ``correlation/NAME/length`` is taken among correct rows (what the gated term can push), and
    ``correlation/NAME/right`` on the ungated term: both within groups.
    """
    logged: dict[str, float] = {}
    parts = sorted({part for row in rows for part in row["parts"]})
    for part in parts:
        values = [row["parts"][part] for row in rows if part in row["parts"]]
        logged[part] = sum(values) / len(values)
    accuracy, correct = _column(rows, "accuracy"), torch.tensor([row["right"] for row in rows])
    outcome = correct.float().masked_fill(accuracy.isnan(), math.nan)
    names = [name for name in rows[0]["scores"] if name not in _UNSHAPED]
    for name in names:
        column = _column(rows, name)
        logged[f"{name}/unjudged"] = column[correct].isnan().float().mean().item()
        logged[f"correlation/{name}/length"] = group.within_group_correlation(column, lengths(rows), size, keep=correct)
        logged[f"correlation/{name}/right"] = group.within_group_correlation(ungated(rows, name), outcome, size)
    logged["timeout_share"] = sum("accuracy/timeout" in row["parts"] for row in rows) / len(rows)
    logged["constant_accuracy_share"] = group.is_constant(accuracy, size).float().mean().item()
    logged["looks/mean"] = sum(row["looks"] for row in rows) / len(rows)
    logged["looks/share"] = sum(row["looks"] > 0 for row in rows) / len(rows)
    return logged
