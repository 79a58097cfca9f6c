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


def estimate_accuracy(answers: Iterable[Answer], clusters: Mapping[str, Any]) -> Estimate:
    """Share of correct answers (a verifier's score of 1; partial credit is not correct), in [0, 1]; errors are left out."""
    correct = correct_by_id(answers)
    return estimate_share(correct.values(), [clusters[id_] for id_ in correct])


def accuracy_by(
    answers: Iterable[Answer], group: Callable[[Answer], str], clusters: Mapping[str, Any]
) -> dict[str, Estimate]:
    """The accuracy of each group of answers, by the group's name."""
    return {name: estimate_accuracy(rows, clusters) for name, rows in sorted(grouped(answers, group).items())}


def image_clusters(problems: Iterable[Problem]) -> dict[str, str]:
    """Problem id -> its cluster. Problems that share an image are dependent, and so are those that share one with a third problem.

    Images are told apart by their files; ``eval.benchmarks`` stores equal images of a benchmark in one. A problem without an image is a
    cluster of its own.
    """
    return clusters_of((problem.id, problem.images or [f"problem {problem.id}"]) for problem in problems)


def clusters_of(named: Iterable[tuple[Item, Sequence[str]]]) -> dict[Item, str]:
    """Item -> its cluster: items that share a name (of an image) are together, directly or through further items.

    Args:
        named: each item with its names, at least one.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = name = parents[parent]  # halves the path, so that long chains stay cheap
        return name

    own: dict[Item, str] = {}
    for item, names in named:
        own[item] = names[0]
        for name in names[1:]:
            parents[root(name)] = root(names[0])
    return {item: root(name) for item, name in own.items()}


def sharing_groups(clusters: Mapping[str, str]) -> list[list[str]]:
    """The ids of problems that are in a cluster with others, cluster by cluster: what a report keeps of ``image_clusters``."""
    return [ids for ids in grouped(clusters, lambda id_: clusters[id_]).values() if len(ids) > 1]


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
