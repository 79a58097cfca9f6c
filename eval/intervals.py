"""Confidence intervals of shares, paired differences and means, for independent observations and for clusters of dependent ones.

Questions about one image are not independent. Each function takes the observations with the label of their cluster and answers
with an interval, or with None where there are too few clusters for one. docs/evaluation.md has the coverage of all of them in a simulation
(``benchmarks/coverage.py``), and of those that were tried and not taken.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from scipy.special import gammaincinv
from scipy.stats import t

Interval = tuple[float, float]
Labels = Sequence[Hashable] | None

LEAST_CLUSTERS = 5
"""Below this number of clusters a mean or a paired difference has no interval: its variance cannot be estimated from so few."""


def normal_quantile(confidence: float) -> float:
    """How many standard errors a two-sided interval reaches to each side, if the standard error is known."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of a share, within [0, 1]; correct at 0 and n successes and at small n, where ``p +- 1.96 se`` is too narrow.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
        ValueError: n < 1, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a share.")
    z = normal_quantile(confidence)
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def tango_interval(up: float, down: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of a paired difference (up - down) / n, within [-1, 1]; it has a width even if all pairs agree.

    Args:
        up, down: number of pairs with difference 1 and -1; n: number of pairs.

    Source: Tango (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample design.
    """
    z, difference = normal_quantile(confidence), (up - down) / n

    def score(delta: float) -> float:
        # The share of pairs with difference -1 that is most likely if the true difference is delta.
        b = (2 * n - up + down) * delta - up - down
        likely = (math.sqrt(max(0.0, b * b + 8 * n * down * delta * (1 - delta))) - b) / (4 * n)
        variance = n * (2 * likely + delta * (1 - delta))
        return (up - down - n * delta) / math.sqrt(max(variance, 1e-15))

    # The score falls as delta rises, so each end is the only delta on its side where it reaches z or -z.
    low = bisect(lambda delta: score(delta) <= z, -1.0, difference)
    high = bisect(lambda delta: score(delta) <= -z, difference, 1.0)
    return low, high


def bisect(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The least value in [low, high] at which ``reached``, which stays true from there on, is true; ``high`` if it never is."""
    if reached(low):
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def cluster_sums(values: Sequence[float], clusters: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster; without ``clusters`` each value is its own."""
    if clusters is None:
        return np.asarray(values, float), np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values but {len(clusters)} cluster labels.")
    index = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    places = [index[label] for label in clusters]
    return np.bincount(places, weights=np.asarray(values, float)), np.bincount(places).astype(float)


def cluster_variance(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Variance of the mean over all values, from how much whole clusters differ from it.

    Source: Cochran (1977), Sampling techniques, section 11.8 (ratio of cluster sums to cluster sizes).
    """
    n, groups = sizes.sum(), len(sizes)
    return float(groups / (groups - 1) * ((sums - sizes * sums.sum() / n) ** 2).sum() / n**2)


def effective_n(
    values: Sequence[float], clusters: Labels, unit_variance: float, binary: bool, confidence: float = 0.95
) -> float:
    """How many independent observations tell as much as these: n over the design effect.

    The design effect is the variance of the mean (``cluster_variance``) over ``unit_variance`` / n, what it would be for independent
    values. It is between 1 and the one of clusters in which all values are equal. The excess over 1 is an estimate from few
    clusters: it is multiplied by (t / z)^2, as Student's t widens an interval. If all values are equal, or there are fewer than
    ``LEAST_CLUSTERS``, nothing can be estimated and a cluster counts as one observation.

    Args:
        unit_variance: of one value, given the shares that are observed.
        binary: values that are no fractions; means of several answers vary less, so that their design effect may be below 1.

    Source: Korn and Graubard (1998), Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data; that only the excess is multiplied is ours.
    """
    sums, sizes = cluster_sums(values, clusters)
    n, groups = float(sizes.sum()), len(sizes)
    largest = float((sizes**2).sum() / n)
    variance = cluster_variance(sums, sizes) if groups > 1 else 0.0
    if binary and largest == 1:
        return n
    if groups < LEAST_CLUSTERS or unit_variance <= 0 or (variance <= 0 and not binary):
        return n / largest
    widened = (float(t.ppf(0.5 + confidence / 2, groups - 1)) / normal_quantile(confidence)) ** 2
    effect = variance * n / unit_variance
    effect = max(1.0, 1 + (effect - 1) * widened) if binary else effect * widened
    return n / min(effect, largest)


def share_interval(scores: Sequence[float], clusters: Labels, confidence: float = 0.95) -> Interval:
    """Interval of the mean of scores in [0, 1]: Wilson's, over the effective number of scores."""
    share = min(1.0, max(0.0, math.fsum(scores) / len(scores)))
    n = effective_n(scores, clusters, share * (1 - share), set(scores) <= {0.0, 1.0}, confidence)
    low, high = wilson_interval(share * n, n, confidence)
    if n < len(scores):  # few images: Wilson's interval is too short on the side of the ends
        low, high = min(low, rare_limit(share, n, confidence)), max(high, 1 - rare_limit(1 - share, n, confidence))
    return low, high


def rare_limit(share: float, n: float, confidence: float = 0.95) -> float:
    """Lower limit of a share from at most three events in ``n``, by Poisson's distribution; infinite (no limit) for more of them or none.

    Source: Brown, Cai and DasGupta (2001), Interval estimation for a binomial proportion, section 4.1.1 (modified Wilson interval).
    """
    events = share * n
    return float(gammaincinv(events, 1 - confidence)) / n if 1e-9 < events <= 3 + 1e-9 else math.inf


def paired_interval(values: Sequence[float], clusters: Labels = None, confidence: float = 0.95) -> Interval | None:
    """Interval of the mean of paired differences in [-1, 1]: Tango's, over the effective number of pairs. None below
    ``LEAST_CLUSTERS``.

    A bootstrap of pairs that all agree has width 0, so that a few agreeing pairs would "prove" that nothing changes. The
    interval of Agresti and Min (2005), used before, is too short if all disagreements are in favour of one side.

    Source for clusters: Yang, Sun and Hardin (2012), Confidence intervals for the difference of marginal probabilities in clustered
    matched-pair binary data.
    """
    if len(cluster_sums(values, clusters)[1]) < LEAST_CLUSTERS:
        return None
    up = math.fsum(value for value in values if value > 0) / len(values)
    down = -math.fsum(value for value in values if value < 0) / len(values)
    variance = max(0.0, up + down - (up - down) ** 2)
    n = effective_n(values, clusters, variance, set(values) <= {-1.0, 0.0, 1.0}, confidence)
    low, high = tango_interval(up * n, down * n, n, confidence)
    if n < len(values):  # up - down near 1: few pairs are anything else (see ``share_interval``)
        low = min(low, rare_limit(1 + up - down, n, confidence) - 1)
        high = max(high, 1 - rare_limit(1 - up + down, n, confidence))
    return low, high


def mean_interval(values: Sequence[float], clusters: Labels, confidence: float = 0.95) -> Interval | None:
    """Interval of the mean of values without bounds: Student's t over clusters, with one degree of freedom less than clusters.

    None below ``LEAST_CLUSTERS``, and if all clusters are alike: how much other images would differ is then unknown.

    Source: Cameron and Miller (2015), A practitioner's guide to cluster-robust inference, section VI.
    """
    sums, sizes = cluster_sums(values, clusters)
    if len(sizes) < LEAST_CLUSTERS:
        return None
    mean, variance = math.fsum(values) / len(values), cluster_variance(sums, sizes)
    if variance <= 1e-24 * mean * mean:
        return None
    reach = float(t.ppf(0.5 + confidence / 2, len(sizes) - 1)) * math.sqrt(variance)
    return mean - reach, mean + reach
