"""Statistics against values computed by hand or printed in the sources."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval import stats


def test_wilson_interval_matches_the_published_example() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)
    low, high = stats.wilson_interval(81, 263)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)


def test_wilson_interval_at_the_ends_is_neither_empty_nor_outside() -> None:
    assert stats.wilson_interval(0, 20)[0] == pytest.approx(0, abs=1e-12)
    assert stats.wilson_interval(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)  # Newcombe 1998
    assert stats.wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_interval_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        stats.wilson_interval(successes, n)


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


def test_bootstrap_of_a_mean_is_about_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = stats.estimate_mean(values)["ci95"]
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.03)
    assert stats.estimate_mean(values) == stats.estimate_mean(values)  # seeded


def test_clusters_widen_the_interval_by_the_root_of_their_size() -> None:
    """Four copies of each value are one observation, not four."""
    single = np.random.default_rng(2).normal(0, 1, 100)
    copies, images = np.repeat(single, 4), np.repeat(np.arange(100), 4).tolist()

    def width(interval: tuple[float, float] | None) -> float:
        assert interval is not None
        return interval[1] - interval[0]

    alone = width(stats.bootstrap_interval(single.tolist()))
    assert width(stats.bootstrap_interval(copies.tolist(), images)) == pytest.approx(alone, rel=0.1)
    assert width(stats.bootstrap_interval(copies.tolist())) == pytest.approx(alone / 2, rel=0.1)


def test_share_of_one_repeated_image_that_is_always_right_is_not_certain() -> None:
    low, high = stats.estimate_share([1] * 40, ["a"] * 20 + ["b"] * 20)["ci95"]
    assert (low, high) == pytest.approx(stats.wilson_interval(2, 2))
    low, high = stats.estimate_share([1, 0, 1, 0], ["a"] * 4)["ci95"]
    assert (low, high) == pytest.approx(stats.wilson_interval(0.5, 1))


def test_partial_scores_are_bootstrapped_and_out_of_range_refused() -> None:
    estimate = stats.estimate_share([0.5, 0.5, 1.0])
    assert estimate["value"] == pytest.approx(2 / 3) and estimate["n"] == 3
    assert 0.5 <= estimate["ci95"][0] <= estimate["ci95"][1] <= 1
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        stats.estimate_share([1.2])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (0, 5, 2 / 32), (1, 5, 2 * (1 + 6) / 64), (3, 3, 1.0), (10, 0, 2 / 1024)],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert stats.mcnemar_exact(only_first, only_second) == pytest.approx(p)
    assert stats.mcnemar_exact(only_second, only_first) == pytest.approx(p)


def test_mcnemar_does_not_overflow_on_large_sets() -> None:
    assert 0 < stats.mcnemar_exact(4000, 4300) < 0.002


def test_paired_difference_by_hand() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "unpaired": 1.0}
    second = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.0, "other": 0.0}
    difference = stats.paired_difference(first, second)
    assert difference["value"] == 0.5 and difference["n"] == 4
    assert (difference["only_first"], difference["only_second"]) == (2, 0)
    assert difference["mcnemar_p"] == 0.5  # 2 * 1/4
    low, high = difference["ci95"]
    assert 0 <= low < 0.5 < high <= 1
    mirrored = stats.paired_difference(second, first)
    assert mirrored["value"] == -0.5 and mirrored["only_second"] == 2


def test_pairing_is_narrower_than_two_samples_where_models_agree() -> None:
    scores = {str(i): float(i % 2) for i in range(200)}
    better = scores | {str(i): 1.0 for i in range(0, 20, 2)}
    low, high = stats.paired_difference(better, scores)["ci95"]
    assert low > 0 and high - low < 0.07  # two independent shares of 200 would give about 0.2


def test_smallest_detectable_solves_connors_formula() -> None:
    effect = stats.smallest_detectable(1000, 0.3)
    assert effect is not None
    z_alpha, z_power = 1.959964, 0.841621
    needed = (z_alpha * math.sqrt(0.3) + z_power * math.sqrt(0.3 - effect**2)) ** 2 / effect**2
    assert needed == pytest.approx(1000, rel=1e-4)
    assert effect == pytest.approx(0.0484, abs=5e-4)
    assert stats.smallest_detectable(4000, 0.3) == pytest.approx(effect / 2, rel=0.01)


@pytest.mark.parametrize(("n", "discordant"), [(0, 0.3), (100, 0.0), (5, 0.5)])
def test_smallest_detectable_says_none_where_nothing_would_be_found(n: int, discordant: float) -> None:
    assert stats.smallest_detectable(n, discordant) is None


def test_majority_class_score_by_hand() -> None:
    assert stats.majority_class_score(["yes", "no", "Yes ", "3"])["value"] == 0.5
    families = ["claim", "claim", "claim", "count"]
    assert stats.majority_class_score(["yes", "no", "yes", "3"], families)["value"] == 0.75


def test_interval_of_pairs_by_hand() -> None:
    """Five agreeing pairs: n* = 7, b* = c* = 0.5, se = sqrt(1)/7, so 1.96/7."""
    assert stats.paired_interval([0.0] * 5) == pytest.approx((-0.28, 0.28), abs=1e-3)
    low, high = stats.paired_interval([1.0] * 30 + [0.0] * 70) or (0, 0)  # (30.5 - 0.5)/102 = 0.294
    assert (low + high) / 2 == pytest.approx(30 / 102) and high - low == pytest.approx(2 * 1.96 * 0.0459, abs=2e-3)
    assert stats.paired_interval([1.0]) is None


def test_normal_interval_is_cut_to_what_is_possible() -> None:
    assert stats.estimate_bounded_mean([]) == stats.insufficient()
    assert stats.estimate_bounded_mean([0.5]) == {"value": 0.5, "ci95": None, "n": 1}
    low, high = stats.estimate_bounded_mean([0.9, 1.0, 1.0, 1.0])["ci95"]
    assert high == 1.0 and low == pytest.approx(0.975 - 1.96 * 0.05 / 2)
    assert stats.estimate_bounded_mean([-1.0, -1.0, -0.9], low=-1.0)["ci95"][0] == -1.0


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
