"""benchmarks/coverage.py: what is drawn, what is counted, and that a wrong interval would be seen."""

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage import Cell, all_cells, draw, holds, table


@pytest.mark.parametrize(
    ("direction", "correlation"), [(None, 0.0), (None, 0.3), (None, 1.0), (0.75, 0.0), (0.75, 0.3), (0.75, 1.0)]
)
def test_answers_have_the_stated_mean_and_correlation(direction: float | None, correlation: float) -> None:
    cell = Cell(80_000, 0.4, direction, 4, correlation)
    drawn = draw(cell, np.random.default_rng(1))
    assert drawn.shape == (20_000, 4) and set(np.unique(drawn)) == set(cell.kinds)
    assert drawn.mean() == pytest.approx(sum(value * chance for value, chance in cell.kinds.items()), abs=0.015)
    assert np.corrcoef(drawn[:, 0], drawn[:, 3])[0, 1] == pytest.approx(correlation, abs=0.03)


def test_all_settings_are_there_once() -> None:
    cells = list(all_cells())
    assert len(cells) == len(set(cells)) == 144
    assert Cell(20, 0.5, None, 1, 0.0).is_informative and Cell(20, 0.5, 0.5, 4, 0.0).is_informative
    assert not Cell(20, 0.5, None, 4, 1.0).is_informative and not Cell(100, 0.98, None, 1, 0.0).is_informative


def test_a_cell_is_covered_and_an_interval_that_ignores_images_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(100, 0.5, None, 4, 1.0)
    row = coverage.coverage((cell, 300))
    assert holds(row, cell) and row["n"] == 100
    estimate = coverage.estimate_share
    monkeypatch.setattr(coverage, "estimate_share", lambda scores, clusters: estimate(scores, None))
    coverage.interval.cache_clear()
    naive = coverage.coverage((cell, 300))
    coverage.interval.cache_clear()
    assert naive["coverage"] < 0.8 and not holds(naive, cell)
    line = table({"cells": [row, row, row, naive], "outside": [naive]}).splitlines()[-1]
    assert line.startswith("| rate | 100 | 0.5 |") and line.endswith(f"{naive['coverage']:.3f}* |")
