"""What a test can find: the exact test of paired answers, and the smallest true difference that it finds with a given power."""

from functools import lru_cache

import numpy as np
from scipy.stats import binom, binomtest

from eval.intervals import bisect


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p that two models which disagree on these many problems are equally accurate, in (0, 1].

    If both are equally accurate, each disagreement favours either one with probability 1/2.
    Source: McNemar (1947); the exact form is the sign test on the discordant pairs.
    """
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def mcnemar_power(n: int, discordant: float, effect: float, alpha: float = 0.05) -> float:
    """Probability that ``mcnemar_exact`` on ``n`` pairs is below ``alpha``, if the true difference is ``effect``.

    Args:
        discordant: probability that a pair disagrees; effect: the part of it in favour of the first minus that of the second.

    The number of pairs that disagree is binomial, and so is, given that number, how many of them favour the first. Both are summed.
    """
    disagree = np.arange(n + 1)
    chance = binom.pmf(disagree, n, discordant)
    disagree, chance = disagree[chance > 1e-12], chance[chance > 1e-12]
    # The test rejects if either side has at most ``most`` pairs: the largest count whose two-sided p is below alpha.
    most = binom.ppf(alpha / 2, disagree, 0.5)
    most = np.where(2 * binom.cdf(most, disagree, 0.5) < alpha, most, most - 1)
    first = min(1.0, (1 + effect / discordant) / 2)
    return float((chance * (binom.cdf(most, disagree, first) + binom.cdf(most, disagree, 1 - first))).sum())


@lru_cache(maxsize=1024)
def smallest_detectable(n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true difference of two paired shares that the exact McNemar test on n problems finds with this power.

    ``discordant`` is the share of problems on which the two disagree. Formulas (Connor 1987) are for the asymptotic test, which rejects
    more often: the exact test has a power of only 0.75 to 0.78 at their answer. ``None`` if no difference that is possible at
    this discordance would be found.
    """
    if n < 1 or not 0 < discordant <= 1 or mcnemar_power(n, discordant, discordant, alpha) < power:
        return None
    return bisect(lambda effect: mcnemar_power(n, discordant, effect, alpha) >= power, 0.0, discordant)
