"""Contrasts over seeds against figures worked out elsewhere; the split of a change into text and weights."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval.seeds import cross_effects, holm, paired_over_seeds, smallest_effect


def test_a_paired_t_by_hand() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, deviation 1.2910, t = 3.873 on 3 degrees of freedom.
    found = paired_over_seeds({0: 2.0, 1: 3.0, 2: 5.0, 3: 7.0, 9: 1.0}, {0: 1.0, 1: 1.0, 2: 2.0, 3: 3.0, 8: 4.0})
    assert found["n"] == 4 and found["value"] == 2.5
    assert found["deviation"] == pytest.approx(1.29099, abs=1e-4)
    assert found["p"] == pytest.approx(0.03047, abs=1e-4)
    assert found["interval"] == pytest.approx([0.4457, 4.5543], abs=1e-3)


def test_too_few_seeds_say_nothing() -> None:
    assert paired_over_seeds({0: 1.0}, {0: 0.5})["interval"] is None
    assert paired_over_seeds({0: None, 1: 2.0}, {0: 1.0})["value"] is None
    same = paired_over_seeds({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
    assert same["p"] == 1.0 and same["interval"] == [0.0, 0.0]


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (3, 0.05 / 4), (8, 0.05 / 2), (8, 0.05 / 4)])
def test_what_a_number_of_seeds_can_see(n: int, alpha: float) -> None:
    effect = smallest_effect(n, alpha)
    drawn = np.random.default_rng(0).normal(effect, 1.0, (20_000, n))
    assert (ttest_1samp(drawn, 0.0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.012)


def test_more_seeds_see_more() -> None:
    assert smallest_effect(8) < smallest_effect(5) < smallest_effect(3)
    assert smallest_effect(8, 0.05 / 4) == pytest.approx(1.5, abs=0.05)
    assert paired_over_seeds({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 0.0, 2: 0.0})["smallest_detectable"] > 1.5


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.04, None]) == [0.08, None]  # a contrast that was registered counts
    assert holm([]) == []


def test_a_change_is_text_plus_weights_plus_both() -> None:
    cells = {("a", "a"): 0.5, ("a", "r"): 0.3, ("r", "a"): 0.25, ("r", "r"): 0.2}
    split = cross_effects(cells, "a", "r")
    assert split == pytest.approx({"total": 0.3, "text": 0.1, "weights": 0.05, "interaction": 0.15})
