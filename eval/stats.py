"""All statistics of the project: intervals, paired differences, corrections for many tests, and detectable effects.

Every figure comes with its n and a 95% interval.

An *estimate* is ``{"value": float | None, "ci95": [low, high] | None, "n": int}``. With n = 0 the value is ``None``
(insufficient data); one single observation of a quantity that is not correct-or-incorrect has a value but no interval.

All resampling is seeded: the same rows give the same interval.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist, stdev
from typing import Any

import numpy as np
from scipy.stats import binomtest, nct, t

Estimate = dict[str, Any]

RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000  # bounds the memory of the resampling, whatever the number of clusters


def insufficient() -> Estimate:
    """The estimate from no data."""
    return {"value": None, "ci95": None, "n": 0}


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share, within [0, 1]; correct at 0 and n successes and at small n, where ``p +- 1.96 se`` is too narrow.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
        ValueError: n < 1, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a share.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean, in the units of ``values``.

    Several questions about one image are not independent: with ``clusters`` (one label per value, such as the
    image) whole clusters are drawn, and the mean of a draw is over the values in it. ``None`` below two clusters.

    Source: Efron (1979), Bootstrap methods; Davison and Hinkley (1997), section 3.8, for clusters.
    """
    labels: Sequence[Hashable] = range(len(values)) if clusters is None else clusters
    if len(labels) != len(values):
        raise ValueError(f"{len(values)} values but {len(labels)} cluster labels.")
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    if len(index) < 2:
        return None
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for label, value in zip(labels, values, strict=True):
        sums[index[label]] += value
        counts[index[label]] += 1
    generator = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    step = max(1, _DRAWS_AT_ONCE // len(index))
    for done in range(0, RESAMPLES, step):
        drawn = generator.integers(len(index), size=(min(step, RESAMPLES - done), len(index)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def estimate_mean(values: Iterable[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """Mean with 95% interval: of lengths, masses, or differences, in the units of ``values``."""
    values = [float(value) for value in values]
    if not values:
        return insufficient()
    interval = bootstrap_interval(values, clusters, seed=seed)
    return {"value": math.fsum(values) / len(values), "ci95": list(interval) if interval else None, "n": len(values)}


def estimate_share(scores: Iterable[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """Mean of scores in [0, 1] (accuracy, rates) with 95% interval.

    Binary scores of independent images get Wilson's interval; partial scores or repeated images get the (clustered)
    bootstrap. If that would claim certainty (all scores 0, or all 1) or has only one image to draw from, Wilson's interval over
    the number of clusters is used instead.
    """
    values = [float(score) for score in scores]
    if not values:
        return insufficient()
    if min(values) < 0 or max(values) > 1:
        raise ValueError("A score lies in [0, 1].")
    groups = len(values) if clusters is None else len(set(clusters))
    binary = set(values) <= {0.0, 1.0}
    interval: tuple[float, float] | None
    if binary and groups == len(values):
        interval = wilson_interval(sum(values), len(values))
    elif binary and (len(set(values)) == 1 or groups == 1):
        interval = wilson_interval(groups * sum(values) / len(values), groups)
    else:
        interval = bootstrap_interval(values, clusters, seed=seed)
    return {"value": math.fsum(values) / len(values), "ci95": list(interval) if interval else None, "n": len(values)}


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p that two models which disagree on these many problems are equally accurate, in (0, 1].

    If both are equally accurate, each disagreement favours either one with probability 1/2.
    Source: McNemar (1947); the exact form is the sign test on the discordant pairs.
    """
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, Hashable] | None = None,
    *,
    seed: int = 0,
) -> Estimate:
    """Mean of (first - second) over the problems that both answered, in [-1, 1], with McNemar's test.

    Args:
        first, second: problem id -> score in [0, 1]; ids that only one of them has are left out.
        clusters: problem id -> image, for the clustered paired bootstrap.

    Returns:
        An estimate, plus ``mcnemar_p`` (exact; a score of 1 is correct), ``only_first`` and ``only_second`` (problems
        that only one answered correctly) and ``smallest_detectable`` (at the observed discordance).
    """
    ids = [key for key in first if key in second]
    estimate = estimate_mean(
        [first[key] - second[key] for key in ids], [clusters[key] for key in ids] if clusters else None, seed=seed
    )
    only_first = sum(first[key] >= 1 > second[key] for key in ids)
    only_second = sum(second[key] >= 1 > first[key] for key in ids)
    return {
        **estimate,
        "mcnemar_p": mcnemar_exact(only_first, only_second) if ids else None,
        "only_first": only_first,
        "only_second": only_second,
        "smallest_detectable": smallest_detectable(len(ids), (only_first + only_second) / len(ids)) if ids else None,
    }


def smallest_detectable(n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true difference of two paired shares that a McNemar test on n problems finds with this power.

    Solves n = (z_(alpha/2) sqrt(d) + z_power sqrt(d - x^2))^2 / x^2 for x, where d = ``discordant`` is the share of
    problems on which the two disagree. ``None`` if no difference that is possible at this d (x <= d) would be found.
    Source: Connor (1987), Sample size for testing differences in proportions for the paired-sample design.
    """
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    if n < z_alpha**2 or not 0 < discordant <= 1:  # too few for any x, since x <= d <= 1
        return None
    # sqrt(n) x - z_alpha sqrt(d) = z_power sqrt(d - x^2), squared, is a quadratic equation in x; its larger root is the solution.
    root = z_alpha * math.sqrt(n) + z_power * math.sqrt(n + z_power**2 - z_alpha**2)
    effect = math.sqrt(discordant) * root / (n + z_power**2)
    return effect if effect <= discordant else None


def majority_class_score(answers: Sequence[str], families: Sequence[str] | None = None) -> Estimate:
    """Accuracy of always giving the most common gold answer (of the family, where given), in [0, 1], without interval.

    The most common answer is taken from the answers that it is scored on, so no constant guess scores higher.
    """
    if not answers:
        return insufficient()
    counts: dict[str, Counter[str]] = {}
    for answer, family in zip(answers, families or [""] * len(answers), strict=True):
        counts.setdefault(family, Counter())[answer.strip().lower()] += 1
    correct = sum(count.most_common(1)[0][1] for count in counts.values())
    return {"value": correct / len(answers), "ci95": None, "n": len(answers)}


def difference_of_shares(first: float, n_first: int, second: float, n_second: int) -> Estimate:
    """First minus second share of two *different* groups of problems, in [-1, 1], from the counts of correct answers.

    Source: Newcombe (1998), Interval estimation for the difference between independent proportions, method 10.
    """
    if not n_first or not n_second:
        return insufficient()
    p, q = first / n_first, second / n_second
    (low_p, high_p), (low_q, high_q) = wilson_interval(first, n_first), wilson_interval(second, n_second)
    down = math.hypot(p - low_p, high_q - q)
    up = math.hypot(high_p - p, q - low_q)
    return {"value": p - q, "ci95": [p - q - down, p - q + up], "n": n_first + n_second}


def paired_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Interval of the mean of paired differences, in their units; not too narrow if all pairs agree.

    Differences of correct-or-incorrect (-1, 0, 1) get Agresti and Min's interval (half a pair added to each of the four
    cells), other values the bootstrap. A bootstrap of pairs that all agree has width 0, so five agreeing pairs
    would "prove" that nothing changes.

    Source: Agresti and Min (2005), Simple improved confidence intervals for comparing matched proportions.
    """
    if len(values) < 2:
        return None
    if not set(values) <= {-1.0, 0.0, 1.0}:
        return bootstrap_interval(values, confidence=confidence, seed=seed)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = len(values) + 2
    up, down = values.count(1.0) + 0.5, values.count(-1.0) + 0.5
    centre = (up - down) / n
    spread = z * math.sqrt(max(0.0, (up + down) - (up - down) ** 2 / n)) / n
    return max(-1.0, centre - spread), min(1.0, centre + spread)


def estimate_bounded_mean(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Estimate:
    """Mean with the normal 95% interval, clipped to [``low``, ``high``]; no interval below two values."""
    if len(values) < 2:
        return {"value": values[0], "ci95": None, "n": 1} if values else insufficient()
    mean, reach = sum(values) / len(values), 1.96 * stdev(values) / math.sqrt(len(values))
    return {"value": mean, "ci95": [max(low, mean - reach), min(high, mean + reach)], "n": len(values)}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number, in the given order, so that the chance of any false alarm stays below alpha.

    A test without a p (None) still counts, because it was registered. Source: Holm (1979).
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[index] = largest
    return adjusted


def paired_over_seeds(
    first: Mapping[int, float | None], second: Mapping[int, float | None], *, alpha: float = 0.05, power: float = 0.8
) -> dict[str, Any]:
    """Mean of (first - second) over the seeds that both have, with Student's interval at 1 - ``alpha`` and two-sided p.

    A seed is the unit: problems of one seed share a training run, so their number says nothing about another run. A bootstrap
    over a few seeds underestimates the variance; Student's t does not.

    Returns:
        ``value``, ``interval``, ``p``, ``n``, ``deviation`` (of the differences) and ``smallest_detectable``: the true difference
        that a test at ``alpha`` would find with probability ``power`` at the deviation seen. None below
        two seeds.
    """
    differences = [a - b for seed, a in sorted(first.items()) if a is not None and (b := second.get(seed)) is not None]
    n = len(differences)
    if n < 2:
        nothing = dict.fromkeys(("interval", "p", "deviation", "smallest_detectable"))
        return {"value": differences[0] if n else None, "n": n, **nothing}
    mean = sum(differences) / n
    deviation = stdev(differences)
    error = deviation / math.sqrt(n)
    reach = float(t.ppf(1 - alpha / 2, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > 0 else (1.0 if mean == 0 else 0.0)
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
    threshold = float(t.ppf(1 - alpha / 2, n - 1))
    low, high = 0.0, 1000.0
    for _ in range(60):  # bisection: power grows with the effect
        middle = (low + high) / 2
        found = float(nct.sf(threshold, n - 1, middle * math.sqrt(n)))
        low, high = (low, middle) if math.isnan(found) or found >= power else (middle, high)
    return high
