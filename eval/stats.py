"""All statistics of the project: estimates with their intervals, paired differences, and corrections for many tests.

An *estimate* is ``{"value": float | None, "ci95": [low, high] | None, "n": int}``. With n = 0 the value is ``None``
(insufficient data). If the values come from fewer clusters than values, ``clusters`` is their number. If several values give no
interval, ``why_no_interval`` says why in a sentence.

Questions about one image are dependent: every estimate takes ``clusters``, one label (such as the image) per value, and None only
where every value has its own. ``tests/eval/test_stats.py`` checks that no caller leaves it out.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import stdev
from typing import Any

from scipy.stats import nct, t

from eval.intervals import LEAST_CLUSTERS, Interval, Labels, mean_interval, paired_interval, share_interval
from eval.power import mcnemar_exact, smallest_detectable

Estimate = dict[str, Any]


def insufficient() -> Estimate:
    """The estimate from no data."""
    return {"value": None, "ci95": None, "n": 0}


def estimate_mean(values: Iterable[float], clusters: Labels = None, confidence: float = 0.95) -> Estimate:
    """Mean with its interval: of lengths, masses, or their differences, in the units of ``values``.

    ``ci95`` holds the interval at another ``confidence``, if one is given.
    """
    values = [float(value) for value in values]
    return _with_interval(values, clusters, mean_interval(values, clusters, confidence)) if values else insufficient()


def estimate_share(scores: Iterable[float], clusters: Labels = None) -> Estimate:
    """Mean of scores in [0, 1] (accuracy, rates) with 95% interval; partial scores count as parts of a success."""
    values = [float(score) for score in scores]
    if not values:
        return insufficient()
    if min(values) < 0 or max(values) > 1:
        raise ValueError("A score lies in [0, 1].")
    return _with_interval(values, clusters, share_interval(values, clusters))


def estimate_difference(differences: Iterable[float], clusters: Labels = None, confidence: float = 0.95) -> Estimate:
    """Mean of paired differences of scores in [0, 1], with its interval: the one estimator of everything that is paired."""
    values = [float(difference) for difference in differences]
    if not values:
        return insufficient()
    if min(values) < -1 or max(values) > 1:
        raise ValueError("A difference of two scores lies in [-1, 1].")
    return _with_interval(values, clusters, paired_interval(values, clusters, confidence))


def _with_interval(values: Sequence[float], clusters: Labels, interval: Interval | None) -> Estimate:
    groups = len(values) if clusters is None else len(set(clusters))
    found: Estimate = {
        "value": math.fsum(values) / len(values),
        "ci95": list(interval) if interval else None,
        "n": len(values),
    }
    if groups < len(values):
        found["clusters"] = groups
    if interval is None and len(values) > 1:
        few = f"{groups} independent {'value' if groups == 1 else 'values'}: an interval needs {LEAST_CLUSTERS}"
        found["why_no_interval"] = few if groups < LEAST_CLUSTERS else "all values are equal"
    return found


def sign_test(values: Sequence[float], clusters: Labels = None, null: float = 0.0) -> dict[str, Any]:
    """Exact two-sided test that as many clusters have a mean above ``null`` as below it.

    Returns:
        ``p``, ``clusters`` (their number), and ``smallest_detectable``: the true difference that this test finds with 80%
        power at the observed disagreement; None if the means of clusters are not all -1, 0 or 1, because the test is
        then not about their mean.
    """
    grouped: dict[Hashable, list[float]] = {}
    for label, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        grouped.setdefault(label, []).append(value)
    means = [math.fsum(members) / len(members) for members in grouped.values()]
    up, down = sum(mean > null for mean in means), sum(mean < null for mean in means)
    whole = bool(means) and set(means) <= {-1.0, 0.0, 1.0}
    return {
        "p": mcnemar_exact(up, down) if means else None,
        "clusters": len(means),
        "smallest_detectable": smallest_detectable(len(means), (up + down) / len(means)) if whole else None,
    }


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], clusters: Mapping[str, Hashable] | None = None
) -> Estimate:
    """Mean of (first - second) over the problems that both answered, in [-1, 1], with McNemar's test.

    Args:
        first, second: problem id -> score in [0, 1]; ids that only one of them has are left out.
        clusters: problem id -> image; problems about one image count as one in the test.

    Returns:
        An estimate, plus ``mcnemar_p`` (exact; a score of 1 is correct; over images if problems share them), ``only_first`` and
        ``only_second`` (problems that only one answered correctly) and ``smallest_detectable`` (``sign_test``).
    """
    ids = [key for key in first if key in second]
    labels = [clusters[key] for key in ids] if clusters else None
    correct = [float(first[key] >= 1) - float(second[key] >= 1) for key in ids]
    test = sign_test(correct, labels)
    return {
        **estimate_difference([first[key] - second[key] for key in ids], labels),
        "mcnemar_p": test["p"],
        "only_first": correct.count(1.0),
        "only_second": correct.count(-1.0),
        "smallest_detectable": test["smallest_detectable"],
    }


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


def difference_of_shares(first: Estimate, second: Estimate) -> Estimate:
    """First minus second share of two *different* groups of problems, in [-1, 1], from their estimates.

    Source: Newcombe (1998), Interval estimation for the difference between independent proportions, method 10.
    """
    if not first["ci95"] or not second["ci95"]:
        return insufficient()
    p, q = first["value"], second["value"]
    (low_p, high_p), (low_q, high_q) = first["ci95"], second["ci95"]
    down = math.hypot(p - low_p, high_q - q)
    up = math.hypot(high_p - p, q - low_q)
    return {"value": p - q, "ci95": [p - q - down, p - q + up], "n": first["n"] + second["n"]}


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
