"""Terms that look at a whole group (all responses to one prompt), as pure functions of (N,) tensors.

Rows are ordered by group, ``size`` rows each, so N is a multiple of ``size``. They run after the trainer's gather:
under data parallelism one process may hold only part of a group. NaN stands for "cannot judge". A row whose answer cannot be
judged is neither correct nor incorrect: the caller hands it in as NaN and as not paid, and it changes nothing for the others.
"""

import torch
from torch import Tensor


def fill_unjudged(values: Tensor, correct: Tensor, size: int) -> Tensor:
    """Give an unjudged row what an average row of its correctness has, so that it gains nothing by not being judged.

    A correct row that cannot be judged takes the mean of its group's correct, judged rows (0 where there is none); an incorrect
    one takes 0, like every incorrect row of a gated term. Left as NaN it would count as 0 in the trainer's sum, a fine for
    a correct answer; given any other constant it could be sought.
    """
    grouped, rows = values.view(-1, size), correct.view(-1, size).bool()
    usable = rows & ~grouped.isnan()
    mean = torch.where(usable, grouped, 0.0).sum(1, keepdim=True) / usable.sum(1, keepdim=True).clamp(min=1)
    filled = torch.where(rows, mean.expand_as(grouped), torch.zeros_like(grouped))
    return torch.where(grouped.isnan(), filled, grouped).view(-1)


def shuffled(values: Tensor, correct: Tensor, size: int, seed: int) -> Tensor:
    """Permute the values among the correct, judged rows of each group: a control of the same size without the sense.

    Incorrect rows keep theirs: a permutation over all rows would pay incorrect answers out of a gated term. The same ``seed``
    gives the same permutation on every process.
    """
    # On the CPU: the permutation must not depend on the device.
    generator = torch.Generator().manual_seed(seed)
    result = values.clone()
    for start in range(0, len(values), size):
        rows = torch.arange(start, start + size, device=values.device)
        rows = rows[correct[start : start + size].bool() & ~values[start : start + size].isnan()]
        result[rows] = values[rows[torch.randperm(len(rows), generator=generator).to(values.device)]]
    return result


def overlong(length: Tensor, correct: Tensor, finished: Tensor, size: int) -> Tensor:
    """Overthinking: minus the tokens beyond what the group's shortest correct, finished answer needed, over that need.

    In [-1, 0] for correct rows (-1 from twice the need on), 0 for incorrect ones and in groups without a correct, finished answer.
    Below -1 nothing more is charged, so that one endless answer does not set the scale of its group.
    """
    grouped, rows = length.view(-1, size).float(), correct.view(-1, size).bool()
    usable = rows & finished.view(-1, size).bool()
    need = torch.where(usable, grouped, torch.inf).min(1, keepdim=True).values
    excess = ((grouped - need) / need.clamp(min=1.0)).clamp(0.0, 1.0)
    return torch.where(rows & need.isfinite(), -excess, 0.0).view(-1)


TIE = 1e-6
"""Rewards that differ by less are equal but for rounding."""

MAX_SCALE = 100.0
"""A term that hardly differs between correct rows is blown up by at most this much when it is matched."""


def match_std(values: Tensor, correct: Tensor, paid: Tensor, size: int, std: float) -> Tensor:
    """Centre a term on each group's correct, judged, paid rows, and scale it so that its standard deviation among them is ``std``.

    One factor for the batch: two terms matched to one ``std`` push equally hard, however different their units are. Centred,
    because a gated term pays correct rows its level as well: scaled up, that would be a further reward for being correct,
    which grows as the term's spread shrinks. Rows that are not ``paid`` have 0; what cannot be judged stays NaN.
    """
    kept = correct.bool() & paid.bool() & ~values.isnan()
    grouped, rows = torch.where(kept, values, 0.0).view(-1, size), kept.view(-1, size)
    mean = grouped.sum(1, keepdim=True) / rows.sum(1, keepdim=True).clamp(min=1)
    freedom = (rows.sum(1) - 1).clamp(min=0).sum()
    spread = (torch.where(rows, grouped - mean, 0.0).square().sum() / freedom.clamp(min=1)).sqrt().item()
    centred = torch.where(paid.bool(), values - mean.expand_as(grouped).reshape(-1), 0.0 * values)
    return centred * min(std / spread, MAX_SCALE) if spread > 1e-9 else 0.0 * values


def is_constant(values: Tensor, size: int) -> Tensor:
    """(N,) bool: rows of groups in which all values are equal (unjudged rows are skipped)."""
    grouped = values.view(-1, size)
    low = torch.where(grouped.isnan(), torch.inf, grouped).min(1).values
    high = torch.where(grouped.isnan(), -torch.inf, grouped).max(1).values
    return (high - low <= 1e-6).repeat_interleave(size)


def drop_in_constant_groups(values: Tensor, accuracy: Tensor, size: int) -> Tensor:
    """Set a term to 0 where the group's accuracy is constant: there it would only break ties, at whatever scale."""
    return torch.where(is_constant(accuracy, size), torch.zeros_like(values), values)


def bounded_penalty(penalty: Tensor, others: Tensor, correct: Tensor, size: int) -> Tensor:
    """Charge a penalty to correct rows without ever putting one below an incorrect row of its group.

    Args:
        penalty: weighted penalty, at most 0 (incorrect rows are not charged, whatever stands there).
        others: the weighted sum of all other terms; NaN where the answer cannot be judged.

    Returns:
        The penalty to charge: at most half of the distance from a correct row to the best incorrect row of its group, and
        nothing where the other terms have put it below already. Half, so that the order of the two stays strict.
    """
    totals, rows = others.view(-1, size), correct.view(-1, size).bool()
    best_incorrect = torch.where(rows | totals.isnan(), -torch.inf, totals).max(1, keepdim=True).values
    room = (totals - best_incorrect).clamp(min=0.0) / 2  # infinite in a group without an incorrect row, NaN if unjudged
    charged = torch.where(rows, -torch.minimum(-penalty.view(-1, size).clamp(max=0.0), room), 0.0)
    return charged.view(-1)


def bounded_scale(weighted: Tensor, others: Tensor, correct: Tensor, size: int, share: float = 0.5) -> Tensor:
    """(N,) factors in [0, 1], one for each group, under which a term puts no correct row below an incorrect one.

    The whole group is scaled, not the one row that would fall: a term that is centred stays so, and its control keeps its
    strength. The term closes at most ``share`` of the distance between a correct row and an incorrect one below it. Pairs whose
    order the other terms have turned round already are left alone.

    Args:
        weighted: the weighted term.
        others: the weighted sum of the terms that count before it; NaN where the answer cannot be judged.
    """
    totals, pushed = others.view(-1, size), weighted.view(-1, size)
    rows = correct.view(-1, size).bool()
    # For each pair: how far the correct row (dimension 1) stands above the incorrect one (dimension 2), and how much of it is lost. A
    # distance to a row that cannot be judged is NaN, which is above nothing.
    distance = totals[:, :, None] - totals[:, None, :]
    lost = pushed[:, None, :] - pushed[:, :, None]
    pairs = rows[:, :, None] & ~rows[:, None, :]
    counts = pairs & (distance > -TIE) & (lost > share * distance)
    factors = torch.where(counts, share * distance.clamp(min=0.0) / lost.clamp(min=torch.finfo(lost.dtype).tiny), 1.0)
    return factors.flatten(1).min(1).values.repeat_interleave(size)


def within_group_correlation(left: Tensor, right: Tensor, size: int, keep: Tensor | None = None) -> float:
    """Pearson correlation of two (N,) tensors after each group's mean is taken off, over ``keep`` rows without NaN.

    In [-1, 1]; NaN where nothing varies within groups. It says which way a term would push inside the groups that GRPO
    compares, where a correlation over all rows would mix in how hard the prompts are.
    """
    valid = ~(left.isnan() | right.isnan())
    valid = (valid if keep is None else valid & keep.bool()).view(-1, size)
    centred = []
    for values in (left, right):
        # In float64: the deviations within a group may be far smaller than the values.
        grouped = torch.where(valid, values.view(-1, size), 0.0).double()
        mean = grouped.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
        centred.append(torch.where(valid, grouped - mean, 0.0))
    covariance = (centred[0] * centred[1]).sum()
    scale = (centred[0].square().sum() * centred[1].square().sum()).sqrt()
    return (covariance / scale).item() if scale > 1e-12 else float("nan")
