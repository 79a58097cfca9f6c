"""Statistics against values computed by hand, printed in the sources, or summed over every outcome."""

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval import intervals, power, stats


def test_wilson_interval_matches_the_published_example() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)
    low, high = intervals.wilson_interval(81, 263)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)


def test_wilson_interval_at_the_ends_is_neither_empty_nor_outside() -> None:
    assert intervals.wilson_interval(0, 20)[0] == pytest.approx(0, abs=1e-12)
    assert intervals.wilson_interval(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)  # Newcombe 1998
    assert intervals.wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_interval_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        intervals.wilson_interval(successes, n)


def test_nothing_comes_from_nothing() -> None:
    empty = {"value": None, "ci95": None, "n": 0}
    assert stats.estimate_share([]) == empty
    assert stats.estimate_mean([]) == empty
    assert stats.majority_class_score([]) == empty
    difference = stats.paired_difference({"a": 1}, {"b": 1})
    assert difference["value"] is None and difference["n"] == 0 and difference["mcnemar_p"] is None


def test_one_length_has_no_interval_but_one_answer_has() -> None:
    assert stats.estimate_mean([12.5]) == {"value": 12.5, "ci95": None, "n": 1}
    low, high = stats.estimate_share([1])["ci95"]
    assert low == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6) and high == 1


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (0, 5, 2 / 32), (1, 5, 2 * (1 + 6) / 64), (3, 3, 1.0), (10, 0, 2 / 1024)],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert power.mcnemar_exact(only_first, only_second) == pytest.approx(p)
    assert power.mcnemar_exact(only_second, only_first) == pytest.approx(p)


def test_mcnemar_does_not_overflow_on_large_sets() -> None:
    assert 0 < power.mcnemar_exact(4000, 4300) < 0.002


def test_pairing_is_narrower_than_two_samples_where_models_agree() -> None:
    scores = {str(i): float(i % 2) for i in range(200)}
    better = scores | {str(i): 1.0 for i in range(0, 20, 2)}
    low, high = stats.paired_difference(better, scores)["ci95"]
    assert low > 0 and high - low < 0.07  # two independent shares of 200 would give about 0.2


def test_majority_class_score_by_hand() -> None:
    assert stats.majority_class_score(["yes", "no", "Yes ", "3"])["value"] == 0.5
    families = ["claim", "claim", "claim", "count"]
    assert stats.majority_class_score(["yes", "no", "yes", "3"], families)["value"] == 0.75


def test_a_paired_t_by_hand() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, deviation 1.2910, t = 3.873 on 3 degrees of freedom.
    found = stats.paired_over_seeds({0: 2.0, 1: 3.0, 2: 5.0, 3: 7.0, 9: 1.0}, {0: 1.0, 1: 1.0, 2: 2.0, 3: 3.0, 8: 4.0})
    assert found["n"] == 4 and found["value"] == 2.5
    assert found["deviation"] == pytest.approx(1.29099, abs=1e-4)
    assert found["p"] == pytest.approx(0.03047, abs=1e-4)
    assert found["interval"] == pytest.approx([0.4457, 4.5543], abs=1e-3)


def test_too_few_seeds_say_nothing() -> None:
    assert stats.paired_over_seeds({0: 1.0}, {0: 0.5})["interval"] is None
    assert stats.paired_over_seeds({0: None, 1: 2.0}, {0: 1.0})["value"] is None
    same = stats.paired_over_seeds({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
    assert same["p"] == 1.0 and same["interval"] == [0.0, 0.0]


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (3, 0.05 / 4), (8, 0.05 / 2), (8, 0.05 / 4)])
def test_what_a_number_of_seeds_can_see(n: int, alpha: float) -> None:
    effect = stats.smallest_effect(n, alpha)
    drawn = np.random.default_rng(0).normal(effect, 1.0, (20_000, n))
    assert (ttest_1samp(drawn, 0.0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.012)


def test_more_seeds_see_more() -> None:
    assert stats.smallest_effect(8) < stats.smallest_effect(5) < stats.smallest_effect(3)
    assert stats.smallest_effect(8, 0.05 / 4) == pytest.approx(1.5, abs=0.05)
    assert stats.paired_over_seeds({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 0.0, 2: 0.0})["smallest_detectable"] > 1.5


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert stats.holm([0.04, None]) == [0.08, None]  # a contrast that was registered counts
    assert stats.holm([]) == []
    assert stats.holm([0.011, 0.01]) == pytest.approx([0.02, 0.02])  # at least the one before
    assert stats.holm([0.8, 0.9]) == [1.0, 1.0]


# Intervals


def width(estimate: stats.Estimate) -> float:
    low, high = estimate["ci95"]
    return float(high - low)


def images(count: int, each: int) -> list[int]:
    """Labels of ``count`` images with ``each`` values."""
    return [image for image in range(count) for _ in range(each)]


ALIKE = [1.0] * 60 + [0.0] * 140  # 10 images with 20 equal answers each


@pytest.mark.parametrize(
    ("scores", "clusters", "low", "high"),
    [
        (ALIKE, images(10, 20), 0.082, 0.603),  # as 3 of 10; Poisson's limit for 3 events is 0.818
        (ALIKE, None, 0.241, 0.367),  # as 200 images
        ([1] * 40, images(2, 20), 0.178, 1.0),  # two images that are always answered correctly
        ([1, 0, 1, 0], ["a"] * 4, 0.002, 0.998),  # a single image
        ([0] * 20, images(5, 4), 0.0, 0.434),  # 0 of 5
        ([0.5] * 20, None, 0.299, 0.701),  # partial scores that are all equal: as 10 of 20
    ],
)
def test_shares(scores: list[float], clusters: list[int] | None, low: float, high: float) -> None:
    assert stats.estimate_share(scores, clusters)["ci95"] == pytest.approx([low, high], abs=2e-3)


def test_images_in_which_answers_do_not_depend_on_each_other_cost_little() -> None:
    scores = [float(n % 2) for n in range(200)]
    assert width(stats.estimate_share(scores, images(50, 4))) == pytest.approx(width(stats.estimate_share(scores)))


def test_partial_scores_are_narrower_than_whole_ones() -> None:
    partial = stats.estimate_share([0.25, 0.75] * 50)
    assert width(partial) == pytest.approx(width(stats.estimate_share([0.0, 1.0] * 50)) / 2, rel=0.05)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        stats.estimate_share([1.2])
    with pytest.raises(ValueError, match="labels"):
        stats.estimate_share([1.0], ["a", "b"])


def test_clusters_widen_the_interval_by_the_root_of_their_size() -> None:
    """Four copies of each value are one observation, not four."""
    single = np.random.default_rng(2).normal(0, 1, 100)
    copies = np.repeat(single, 4).tolist()
    alone = width(stats.estimate_mean(single))
    assert width(stats.estimate_mean(copies, images(100, 4))) == pytest.approx(alone)
    assert width(stats.estimate_mean(copies)) == pytest.approx(alone / 2, rel=0.02)
    low, high = stats.estimate_mean(single)["ci95"]
    assert [low, high] == pytest.approx(list(ttest_1samp(single, 0).confidence_interval()))


@pytest.mark.parametrize("estimate", [stats.estimate_mean, stats.estimate_difference])
def test_below_the_least_number_of_images_there_is_no_interval(estimate: Any) -> None:
    few = estimate([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], images(4, 2))
    assert few["ci95"] is None and few["value"] == 0.75 and few["clusters"] == 4
    assert few["why_no_interval"] == "4 independent values: an interval needs 5"
    assert estimate([1.0, 0.0, 0.0, 1.0, 1.0])["ci95"] is not None
    assert "why_no_interval" not in estimate([1.0])  # n = 1 says it


def test_equal_lengths_do_not_tell_how_much_others_would_differ() -> None:
    same = stats.estimate_mean([12.0] * 30)
    assert same["ci95"] is None and same["why_no_interval"] == "all values are equal"


@pytest.mark.parametrize(
    ("up", "down", "n", "low", "high"),
    [
        (0, 0, 20, -0.1611, 0.1611),  # as Wilson's upper end for 0 of 20
        (0, 0, 5, -0.4345, 0.4345),
        (20, 0, 20, 0.6777, 1.0),
    ],
)
def test_paired_intervals(up: int, down: int, n: int, low: float, high: float) -> None:
    values = [1.0] * up + [-1.0] * down + [0.0] * (n - up - down)
    found = intervals.paired_interval(values)
    assert found == pytest.approx((low, high), abs=1e-3)
    mirrored = intervals.paired_interval([-value for value in values])
    assert mirrored == pytest.approx((-high, -low), abs=1e-3)


@pytest.mark.parametrize(("up", "down", "n"), [(1, 0, 24), (9, 3, 32), (40, 12, 100), (2, 30, 60)])
def test_the_ends_of_a_paired_interval_are_1_96_standard_errors_away(up: int, down: int, n: int) -> None:
    """Tango's definition, with the likelihood of the nuisance parameter searched on a grid."""
    for end, expected in zip(intervals.tango_interval(up, down, n), (1.96, -1.96), strict=True):
        low = np.linspace(max(0.0, -end), (1 - end) / 2, 400_001)[1:-1]  # the share of pairs with difference -1
        likelihood = up * np.log(low + end) + down * np.log(low) + (n - up - down) * np.log(1 - 2 * low - end)
        best = low[likelihood.argmax()]
        score = (up - down - n * end) / math.sqrt(n * (2 * best + end - end**2))
        assert score == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_pairs_that_all_agree_on_few_images_say_less_than_on_many(value: float) -> None:
    few, many = (stats.estimate_difference([value] * 80, labels) for labels in (images(20, 4), None))
    assert width(few) > 2 * width(many) > 0
    assert width(few) == pytest.approx(width(stats.estimate_difference([value] * 20)))


def test_paired_difference_by_hand() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "e": 1.0, "unpaired": 1.0}
    second = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.0, "e": 1.0, "other": 0.0}
    difference = stats.paired_difference(first, second)
    assert difference["value"] == 0.4 and difference["n"] == 5
    assert (difference["only_first"], difference["only_second"]) == (2, 0)
    assert difference["mcnemar_p"] == 0.5  # 2 * 1/4
    low, high = difference["ci95"]
    assert low < 0 < 0.4 < high <= 1  # a p of 0.5 and an interval above 0 would contradict each other
    mirrored = stats.paired_difference(second, first)
    assert mirrored["value"] == -0.4 and mirrored["only_second"] == 2


def test_the_test_of_a_paired_difference_counts_images() -> None:
    """Six images of ten problems: what ten answers to one image say is no more than one says."""
    ids, none = [str(n) for n in range(60)], dict.fromkeys(map(str, range(60)), 0.0)
    apart = stats.paired_difference(dict.fromkeys(ids, 1.0), none)
    alike = stats.paired_difference(dict.fromkeys(ids, 1.0), none, {id_: int(id_) // 10 for id_ in ids})
    assert apart["mcnemar_p"] == 2 / 2**60 and alike["mcnemar_p"] == 2 / 2**6
    assert alike["only_first"] == 60 and alike["clusters"] == 6 and width(alike) > 5 * width(apart)


# What can be found


def test_the_power_is_that_of_the_exact_test() -> None:
    """Against every outcome of 12 pairs, one by one."""
    n, discordant, effect = 12, 0.6, 0.5
    first, second = (discordant + effect) / 2, (discordant - effect) / 2
    total = sum(
        math.comb(n, a) * math.comb(n - a, b) * first**a * second**b * (1 - discordant) ** (n - a - b)
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if power.mcnemar_exact(a, b) < 0.05
    )
    assert power.mcnemar_power(n, discordant, effect) == pytest.approx(total, abs=1e-9)


CELLS = [(10, 0.8), (20, 0.5), (50, 0.3), (100, 0.1), (100, 0.3), (300, 0.2), (1000, 0.05), (4000, 0.3), (8, 1.0)]


@pytest.mark.parametrize(("n", "discordant"), CELLS)
def test_the_smallest_detectable_effect_is_found_in_four_of_five_cases(n: int, discordant: float) -> None:
    effect = power.smallest_detectable(n, discordant)
    assert effect is not None and 0 < effect <= discordant
    assert power.mcnemar_power(n, discordant, effect) >= 0.8 > power.mcnemar_power(n, discordant, effect * 0.999)
    grid = [power.mcnemar_power(n, discordant, discordant * step / 20) for step in range(21)]
    assert grid == sorted(grid)


def test_the_smallest_detectable_effect_by_simulation() -> None:
    n, discordant = 100, 0.3
    effect = power.smallest_detectable(n, discordant)
    assert effect is not None
    chances = [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant]
    drawn = np.random.default_rng(0).multinomial(n, chances, 4000)
    found = np.mean([power.mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert found == pytest.approx(0.8, abs=0.02)


def test_more_problems_find_less() -> None:
    found = [power.smallest_detectable(n, 0.3) for n in (30, 50, 100, 200, 400, 1000)]
    assert None not in found and found == sorted(found, key=lambda effect: -(effect or 0))


@pytest.mark.parametrize(("n", "discordant"), [(0, 0.3), (100, 0.0), (5, 1.0), (8, 0.5)])
def test_smallest_detectable_is_none_where_nothing_would_be_found(n: int, discordant: float) -> None:
    assert power.smallest_detectable(n, discordant) is None


# Callers

ESTIMATORS = {"estimate_share": 2, "estimate_mean": 2, "estimate_difference": 2, "paired_difference": 3}
"""Function of ``eval.stats`` -> the least number of arguments of a call that says which values are dependent."""


def calls_without_clusters(source: str) -> list[int]:
    """Lines with a call of an estimator that does not name the clusters."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        node.lineno
        for node in calls
        if isinstance(node.func, ast.Name) and len(node.args) + len(node.keywords) < ESTIMATORS.get(node.func.id, 0)
    ]


def test_every_caller_says_which_problems_share_an_image() -> None:
    root = Path(__file__).parents[2]
    files = [
        file
        for folder in ("eval", "train", "benchmarks", "reflection_v", "demo")
        for file in (root / folder).rglob("*.py")
    ]
    found = {
        str(file.relative_to(root)): lines for file in files if (lines := calls_without_clusters(file.read_text()))
    }
    assert found == {} and len(files) > 50
    assert calls_without_clusters("estimate_share([1.0])\nestimate_share([1.0], None)\nsum([1])") == [1]
