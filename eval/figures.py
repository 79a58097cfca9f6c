"""Shared by evaluations and audits: accuracy of answers, subsets of problems, and the clusters of dependent problems."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from eval.runner import Answer, correct_by_id
from eval.stats import Estimate, estimate_share
from vlm.problem import Problem

Item = TypeVar("Item")


def estimate_accuracy(answers: Iterable[Answer], clusters: Mapping[str, Any], seed: int = 0) -> Estimate:
    """Share of correct answers (a verifier's score of 1; partial credit is not correct), in [0, 1]; errors are left out."""
    correct = correct_by_id(answers)
    return estimate_share(correct.values(), [clusters[id_] for id_ in correct], seed=seed)


def accuracy_by(
    answers: Iterable[Answer], group: Callable[[Answer], str], clusters: Mapping[str, Any], seed: int
) -> dict[str, Estimate]:
    """The accuracy of each group of answers, by the group's name."""
    return {name: estimate_accuracy(rows, clusters, seed) for name, rows in sorted(grouped(answers, group).items())}


def image_key(problem: Problem) -> str:
    """The cluster of a problem: problems with the same images are dependent, those without images are not."""
    return "|".join(problem.images) or problem.id


def balanced_subset(problems: Sequence[Problem], n: int | None, seed: int = 0) -> list[Problem]:
    """``n`` of the problems, families in turn, in a seeded order; all of them if n is None. A smaller n gives a subset."""
    if n is None or n >= len(problems):
        return list(problems)
    queues = []
    for family, members in sorted(grouped(problems, lambda problem: problem.family).items()):
        random.Random(f"{seed}/{family}").shuffle(members)
        queues.append(members)
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[:n]


def grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Key -> its items, both in order of appearance."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def file_name(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)
