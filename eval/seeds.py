"""Contrasts between arms of a study: paired over seeds, with Student's t, Holm's correction, and what could have been seen.

A seed is the unit: problems of one seed share a training run, so their number says nothing about another run. A bootstrap over
a handful of seeds understates the variance; t does not.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats


def paired_over_seeds(
    first: Mapping[int, float | None], second: Mapping[int, float | None], *, alpha: float = 0.05, power: float = 0.8
) -> dict[str, Any]:
    """Mean of (first - second) over the seeds that both have, with its interval at 1 - ``alpha`` and two-sided p.

    Returns:
        ``value``, ``interval``, ``p``, ``n``, ``deviation`` (of the differences) and ``smallest_detectable``: the true difference
        that a test at ``alpha`` would find with probability ``power`` at the deviation seen. None where fewer than two seeds
        leave nothing to say.
    """
    differences = [a - b for seed, a in sorted(first.items()) if a is not None and (b := second.get(seed)) is not None]
    n = len(differences)
    if n < 2:
        nothing = dict.fromkeys(("interval", "p", "deviation", "smallest_detectable"))
        return {"value": differences[0] if n else None, "n": n, **nothing}
    mean = sum(differences) / n
    deviation = math.sqrt(sum((one - mean) ** 2 for one in differences) / (n - 1))
    error = deviation / math.sqrt(n)
    reach = float(stats.t.ppf(1 - alpha / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else (1.0 if mean == 0 else 0.0)
    return {
        "value": mean,
        "interval": [mean - reach, mean + reach],
        "p": p,
        "n": n,
        "deviation": deviation,
        "smallest_detectable": smallest_effect(n, alpha, power) * deviation,
    }


def smallest_effect(n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """In standard deviations of the seed difference: what a two-sided paired t over ``n`` seeds finds with ``power``."""
    threshold = float(stats.t.ppf(1 - alpha / 2, n - 1))
    low, high = 0.0, 1000.0
    for _ in range(60):  # the chance to find an effect grows with it
        middle = (low + high) / 2
        found = float(stats.nct.sf(threshold, n - 1, middle * math.sqrt(n)))
        low, high = (low, middle) if math.isnan(found) or found >= power else (middle, high)
    return high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, in the given order; contrasts without a p count as made."""
    order = sorted(
        (index for index, p in enumerate(p_values) if p is not None), key=lambda index: p_values[index] or 0.0
    )
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * (p_values[index] or 0.0)))
        adjusted[index] = largest
    return adjusted


def cross_effects(cells: Mapping[tuple[str, str], float], arm: str, reference: str) -> dict[str, float]:
    """The change of a measure from ``reference`` to ``arm``, split into text, weights and their interaction.

    Args:
        cells: (whose text, whose weights) -> the measure of that text read by those weights; all four of the two arms.

    Returns:
        ``total`` = ``text`` + ``weights`` + ``interaction``, each taken from the reference's cell: what its weights make of the
        arm's text, what the arm's weights make of its text, and what only both together do.
    """
    base = cells[reference, reference]
    text, weights = cells[arm, reference] - base, cells[reference, arm] - base
    total = cells[arm, arm] - base
    return {"total": total, "text": text, "weights": weights, "interaction": total - text - weights}
