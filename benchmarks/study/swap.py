"""What a swap difference is made of: single problems, families, and the problems that two arms share.

A problem counts in the swap where both of its images are answered right from scratch, so what an arm has learned decides
which problems count, and families differ in how readily an answer follows the image. A difference between two arms may then
be one of the problems that count. Here it is taken over problems that count in both, also family by family.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from eval.runner import read_answers
from eval.stats import paired_over_seeds

MIN_PAIRS = 5
"""Swapped problems of a family that each of two units must have for their difference to be taken."""


class Swapped(NamedTuple):
    """One swapped problem of one unit. ``value``: it followed the new image (0 or 1) minus it changed with the same one."""

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
    """The difference of two arms over the problems that count in both, and by family of these, each paired over seeds.

    Args:
        untrained: the second arm is one model without a seed of its own, and stands against every seed of the first.

    Returns:
        Rows with ``over`` (``shared problems``, or a family) and the keys of ``paired_over_seeds``; ``pairs`` is the mean
        number of problems a seed.
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
