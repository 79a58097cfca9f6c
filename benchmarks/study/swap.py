"""The swap difference by problem and by family, over the problems that two arms share.

A problem counts in the swap test only if the model answers both of its images correctly from scratch. So the problems that
count depend on what an arm has learned, and families differ in how often the answer follows the image. A difference between
two arms may therefore come from different problems. Here it is taken over problems that count in both arms.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from eval.runner import read_answers
from eval.stats import paired_over_seeds

MIN_PAIRS = 5
"""The least number of shared problems in a family; with fewer, its difference is too noisy to report."""


class Swapped(NamedTuple):
    """One swapped problem of one unit. ``value``: the answer followed the new image (0 or 1) minus it changed under the same one."""

    arm: str
    seed: int
    problem: str
    family: str
    value: float


def swapped_problems(study: Path, units: Iterable[dict[str, Any]]) -> list[Swapped]:
    """Every swapped problem of the units, from ``ARM/seed-N/audit/answers/swap.jsonl``; units without that file have none."""
    found = []
    for unit in units:
        log = study / unit["arm"] / f"seed-{unit['seed']}" / "audit" / "answers" / "swap.jsonl"
        latest: dict[tuple[str, str], Any] = {}
        for answer in read_answers(log) if log.exists() else []:
            latest[answer.tag, answer.problem_id] = answer
        for (tag, problem), new in latest.items():
            old = latest.get(("swap: same picture", problem))
            if tag == "swap: other picture" and old is not None and new.status == old.status == "ok":
                value = float(new.correct) - float(not old.correct)
                found.append(Swapped(unit["arm"], unit["seed"], problem, new.family, value))
    return found


def compositions(rows: Sequence[Swapped], first: str, second: str, untrained: bool = False) -> list[dict[str, Any]]:
    """The difference between two arms over the problems that count in both, in total and by family, paired over seeds.

    Args:
        untrained: the second arm is a single model without seeds; it is compared with every seed of the first arm.

    Returns:
        Rows with ``over`` (``shared problems``, or a family) and the keys of ``paired_over_seeds``; ``pairs`` is the mean
        number of problems per seed.
    """
    by_unit: dict[tuple[str, int], dict[str, Swapped]] = defaultdict(dict)
    for row in rows:
        by_unit[row.arm, row.seed][row.problem] = row
    seeds = {row.seed for row in rows if row.arm == first}
    others = {row.seed for row in rows if row.arm == second}
    if untrained and others:
        by_unit |= {(second, seed): by_unit[second, min(others)] for seed in seeds}
        others = seeds
    made = []
    for over in ("shared problems", *sorted({row.family for row in rows})):
        means: tuple[dict[int, float | None], dict[int, float | None]] = ({}, {})
        sizes = []
        for seed in sorted(seeds & others):
            one, other = by_unit[first, seed], by_unit[second, seed]
            shared = [name for name in one if name in other and over in ("shared problems", one[name].family)]
            if len(shared) >= MIN_PAIRS:
                sizes.append(len(shared))
                for mean, unit in zip(means, (one, other), strict=True):
                    mean[seed] = fmean(unit[name].value for name in shared)
        if sizes:
            made.append({"over": over, "pairs": fmean(sizes), **paired_over_seeds(*means)})
    return made
