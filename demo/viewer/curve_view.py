"""The learning curves of a training run: every number of ``log.jsonl`` by step."""

from pathlib import Path
from typing import Any

import numpy as np

from demo.viewer import blocks
from demo.viewer.blocks import Block
from demo.viewer.columns import Entry
from demo.viewer.lines import LineTable
from demo.viewer.problem_sets import ProblemIndex
from demo.viewer.values import number_of
from demo.viewer.views import View

POINTS = 400
"""Points of a curve that are sent; of a longer one, each is the mean of as many steps."""
FIRST = (
    *("reward", "accuracy/right", "loss", "eval_loss", "mean_token_accuracy", "mass/second_half", "mass/first_half"),
    *("lift/second_half", "looks/mean", "completions/mean_length", "entropy", "frac_reward_zero_std", "reward_std"),
    *("completions/clipped_ratio", "kl", "grad_norm", "learning_rate"),
)
"""The curves that stand first."""
READ_FOR_CURVES = 20.0
"""Seconds: a log is small, and curves of its beginning would mislead."""
NO_CURVE = ("step", "epoch", "seconds")


class CurveView(View):
    """``log.jsonl`` of a training run."""

    name = "curves"
    title = "Curves"
    table: LineTable

    def __init__(self, path: Path, problems: ProblemIndex) -> None:
        super().__init__(path.parent, problems)
        self.table = LineTable(path, self.entry)

    def entry(self, row: dict[str, Any]) -> Entry:
        return Entry({}, {key: number for key, value in row.items() if (number := number_of(value)) is not None})

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"title": f"step {row.get('step')}"}

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        return [blocks.facts(sorted(row.items()))]

    def curves(self) -> dict[str, Any]:
        """``curves``: name -> ``steps``, ``values`` (null where a step has none) and the ``last`` value; and where the run is."""
        with self.table.lock:
            read = self.table.refresh(READ_FOR_CURVES)
            columns = self.table.columns
            steps = columns.number("step")
            steps = np.where(np.isnan(steps), np.arange(len(steps)), steps)
            names = sorted(columns.numbers, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
            curves = {}
            for name in names:
                values = columns.number(name)
                if name not in NO_CURVE and not np.isnan(values).all():
                    curves[name] = _curve_points(steps, values)
            last = float(steps[-1]) if len(steps) else None
            finished = (self.folder / "summary.json").exists()
            return {"curves": curves, "rows": columns.rows, "last": last, "finished": finished, "read": read}


def _curve_points(steps: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    present = ~np.isnan(values)
    last = float(values[present][-1])
    if present.sum() > POINTS:  # the mean of the values in each part; steps in between without a value are left out
        steps, values = steps[present], values[present]
        parts = np.array_split(np.arange(len(steps)), POINTS)
        steps = np.array([steps[part[-1]] for part in parts])
        values = np.array([values[part].mean() for part in parts])
    elif not present.all() and present.sum() < len(values) / 2:  # logged now and then: no gaps between
        steps, values = steps[present], values[present]
    return {
        "steps": steps.tolist(),
        "values": [None if np.isnan(value) else float(value) for value in values],
        "last": last,
    }
