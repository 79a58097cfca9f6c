"""How often the 95% intervals hold the true value, in simulated data: ``python benchmarks/coverage.py [--quick] [--json] [--write FILE]``.

The work: for each cell 2,000 data sets are drawn (``--quick``: 300) and given to ``eval.stats.estimate_share`` or
``eval.stats.estimate_difference``; ``coverage`` is the share of them whose interval holds the true value.

- rates: n = 20, 100, 1,000 answers that are correct with probability 0.02, 0.5, 0.98.
- pairs: n pairs of answers that disagree with probability 0.02, 0.5, 0.98; of those that do, the first answer is the correct one with
  probability 0.5, 0.75 or 1.
- each with an image per problem, or with 4 problems per image whose answers correlate within an image by 0, 0.3 or 1 (an image's
  probabilities are drawn from a beta, for pairs from a Dirichlet distribution; at 1 all 4 are equal).

It must hold: never below 0.90 at n = 20 and 0.93 from n = 100; at most 0.985 where at least 10 correct and 10 incorrect answers, or
10 pairs that disagree, are expected. Dependent problems count here as n over 1 + 3 times the correlation. ``--write`` writes the table of
docs/evaluation.md. No figure is a timing. About 3 minutes on two cores.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import report, surroundings
from configs.jsonl import write_text_atomic
from eval.stats import estimate_difference, estimate_share

SIZES = (20, 100, 1000)
CHANCES = (0.02, 0.5, 0.98)
DIRECTIONS = (0.5, 0.75, 1.0)
IMAGES = ((1, 0.0), (4, 0.0), (4, 0.3), (4, 1.0))
"""Problems per image, and the correlation of answers about one image."""
FLOOR = {20: 0.90, 100: 0.93, 1000: 0.93}
CEILING = 0.985
EXPECTED = 10


class Cell(NamedTuple):
    """One simulated setting. ``direction`` is None for rates; ``chance``: of a correct answer, or of a pair that disagrees."""

    n: int
    chance: float
    direction: float | None
    per_image: int
    correlation: float

    @property
    def kinds(self) -> dict[float, float]:
        """Value of an answer, or of a pair -> its probability."""
        if self.direction is None:
            return {1.0: self.chance, 0.0: 1 - self.chance}
        first = self.chance * self.direction
        return {1.0: first, -1.0: self.chance - first, 0.0: 1 - self.chance}

    @property
    def is_informative(self) -> bool:
        """Whether enough is expected to be seen that an interval need not be wider than 95%."""
        independent = self.n / (1 + (self.per_image - 1) * self.correlation)
        rarest = self.chance if self.direction is not None else min(self.chance, 1 - self.chance)
        return independent * rarest >= EXPECTED - 1e-9


def all_cells() -> Iterator[Cell]:
    """Rates first, then pairs."""
    for direction in (None, *DIRECTIONS):
        for n, chance, (per_image, correlation) in product(SIZES, CHANCES, IMAGES):
            yield Cell(n, chance, direction, per_image, correlation)


def draw(cell: Cell, generator: np.random.Generator) -> np.ndarray:
    """One data set: images x problems per image."""
    kinds, images = cell.kinds, cell.n // cell.per_image
    values, chances = np.array(list(kinds)), np.array(list(kinds.values()))
    if cell.correlation == 1:
        return np.repeat(generator.choice(values, (images, 1), p=chances), cell.per_image, 1)
    if cell.correlation == 0:
        return generator.choice(values, (images, cell.per_image), p=chances)
    # With weights w = chance (1 / correlation - 1), two answers about one image correlate by the given number.
    weights = generator.gamma(np.maximum(chances * (1 / cell.correlation - 1), 1e-12), size=(images, len(values)))
    limits = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    chosen = (generator.random((images, cell.per_image))[..., None] > limits[:, None, :]).sum(2)
    return values[np.minimum(chosen, len(values) - 1)]


@lru_cache(maxsize=200_000)
def interval(kinds: tuple[tuple[float, ...], ...], paired: bool) -> tuple[float, float]:
    """The interval of a data set, given as one sorted tuple per image: images in another order give the same one."""
    per_image = len(kinds[0])
    labels = [image for image in range(len(kinds)) for _ in range(per_image)]
    estimate = estimate_difference if paired else estimate_share
    low, high = estimate([value for image in kinds for value in image], None if per_image == 1 else labels)["ci95"]
    return low, high


def coverage(task: tuple[Cell, int]) -> dict[str, Any]:
    """The share of ``task``'s number of data sets whose interval holds the true value, and the mean width."""
    cell, repetitions = task
    # Seeded by the cell, so that a figure does not depend on which others are drawn.
    generator = np.random.default_rng([int(1000 * (part or 0)) for part in cell])
    truth = sum(value * chance for value, chance in cell.kinds.items())
    found = []
    for _ in range(repetitions):
        rows = np.sort(draw(cell, generator), 1).tolist()
        found.append(interval(tuple(sorted(map(tuple, rows))), cell.direction is not None))
    low, high = np.array(found).T
    held = float(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))
    return {**cell._asdict(), "coverage": round(held, 4), "width": round(float((high - low).mean()), 4)}


def simulate(repetitions: int, processes: int) -> dict[str, Any]:
    """All cells, and the figures that must hold."""
    cells = list(all_cells())
    with Pool(processes) as pool:
        rows = pool.map(coverage, [(cell, repetitions) for cell in cells], chunksize=1)
    found = [row["coverage"] for row in rows]
    return {
        "cells": rows,
        "n": len(rows),
        "repetitions": repetitions,
        "lowest_at_20": min(row["coverage"] for row in rows if row["n"] == 20),
        "lowest_from_100": min(row["coverage"] for row in rows if row["n"] >= 100),
        "highest_of_informative": max(one for one, cell in zip(found, cells, strict=True) if cell.is_informative),
        "outside": [row for row, cell in zip(rows, cells, strict=True) if not holds(row, cell)],
    }


def holds(row: dict[str, Any], cell: Cell) -> bool:
    """Whether a cell is within its limits."""
    return bool(FLOOR[cell.n] <= row["coverage"] and (row["coverage"] <= CEILING or not cell.is_informative))


def table(figures: dict[str, Any]) -> str:
    """The coverage of every cell as Markdown: one line per n and probability, one column per number of problems per image."""
    lines = [
        "| | n | probability | an image each | 4 per image, correlation 0 | 0.3 | 1 |",
        "|---" * 7 + "|",
    ]
    rows = figures["cells"]
    for start in range(0, len(rows), len(IMAGES)):
        part = rows[start : start + len(IMAGES)]
        name = {None: "rate", 0.5: "pairs, even", 0.75: "pairs, 3 to 1", 1.0: "pairs, one side"}[part[0]["direction"]]
        cells = " | ".join(f"{row['coverage']:.3f}{'*' if row in figures['outside'] else ''}" for row in part)
        lines.append(f"| {name} | {part[0]['n']:,} | {part[0]['chance']} | {cells} |")
    return "\n".join(lines) + "\n"


MUST_HOLD = {
    "lowest_at_20": lambda share: share >= FLOOR[20],
    "lowest_from_100": lambda share: share >= FLOOR[100],
    "highest_of_informative": lambda share: share <= CEILING,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 data sets per cell")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    options = parser.parse_args()
    figures = simulate(300 if options.quick else 2000, options.processes)
    if options.write:
        write_text_atomic(options.write, table(figures))
    # Of 300 data sets the share is uncertain by 0.025, so that only the full number is held to the limits.
    must_hold = {} if options.quick else MUST_HOLD
    return report(figures | surroundings(options.processes, "numpy", "scipy"), must_hold, options.json)


if __name__ == "__main__":
    sys.exit(main())
