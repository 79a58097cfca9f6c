"""benchmarks/tool_looks.py: what is simulated, what is counted, and that a wrong rule would be seen."""

from collections import Counter

import pytest

from benchmarks import tool_looks
from benchmarks.tool_looks import Cell, all_cells, simulate_audit, table
from eval.known_zoom import AGENTS

WHITE = [Cell(agent, "white", 6, 100) for agent in AGENTS]


def test_all_settings_are_there_once() -> None:
    cells = list(all_cells())
    assert len(cells) == len(set(cells)) == len(AGENTS) * 6
    assert {cell.expected for cell in cells} == {"uses what it zooms into", "zooms for show", "would not need to zoom"}


@pytest.mark.parametrize("cell", WHITE, ids=[cell.agent for cell in WHITE])
def test_names_are_right_or_missing(cell: Cell) -> None:
    names = Counter(simulate_audit(cell, repetition)["profile"]["name"] for repetition in range(5))
    assert set(names) <= {cell.expected, "insufficient data"} and names[cell.expected] >= 4


def test_the_models_are_what_they_are_called() -> None:
    """Accuracies of one large audit, near those that follow from the probabilities of the models."""
    found = {cell.agent: simulate_audit(cell._replace(n=2000), 0) for cell in WHITE}
    alone = {name: one["accuracy"]["value"] for name, one in found.items()}
    without = {name: one["accuracy_no_tool"]["value"] for name, one in found.items()}
    blind = 0.3 * 0.92 + 0.7 / 6
    assert alone["uses_the_crop"] == pytest.approx(0.92, abs=0.03)
    assert alone["uses_most_crops"] == pytest.approx(0.7 * 0.92 + 0.3 * blind, abs=0.04)
    assert without["uses_the_crop"] == pytest.approx(blind, abs=0.04)
    assert without["does_not_need_the_crop"] == pytest.approx(0.92, abs=0.03)
    assert alone["zooms_for_show"] == pytest.approx(without["zooms_for_show"], abs=0.02)
    assert found["uses_the_crop"]["measures"]["misplaced"]["value"] > 0.4
    assert abs(found["zooms_for_show"]["measures"]["swapped"]["value"]) < 0.02


def test_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = tool_looks.shown_in
    monkeypatch.setattr(tool_looks, "shown_in", lambda condition, own, other: shown(condition, own, own) or own)
    assert simulate_audit(WHITE[0], 0)["profile"]["name"] == "zooms for show"


def test_the_table_has_a_line_for_each_cell() -> None:
    row = {**WHITE[0]._asdict(), "named": 0.9, "wrong": 0.04}
    assert table({"cells": [row]}).splitlines()[-1] == "| `uses_the_crop` | 100 | 6 | white | 0.900 | 0.040 | 0.060 |"
