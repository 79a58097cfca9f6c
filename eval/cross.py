"""The 2 x 2 cross: each of two models scores its own responses and the other's, and the attention is recorded each time.

A policy gradient changes both the responses and the weights that read them. If the mass on the image has risen, the cross
tells the two apart: a text that any model reads with more attention, or a model that attends more in any text.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from eval.figures import image_clusters
from eval.runner import Answer, can_be_scored, open_images
from eval.stats import estimate_mean
from reward.rewards import halves
from vlm.chat import question_messages
from vlm.problem import Problem
from vlm.scoring import score_responses

if TYPE_CHECKING:
    from vlm.load import VLM


def second_half_mass(
    vlm: "VLM",
    problems: Sequence[Problem],
    answers: Mapping[str, Answer],
    style: str,
    layers: Any,
    batch_size: int = 16,
) -> dict[str, float]:
    """Problem id -> mean mass of the second half of its answer as ``vlm`` reads it (predicting rows); in [0, 1]."""
    usable = [problem for problem in problems if can_be_scored(problem, answers.get(problem.id))]
    found: dict[str, float] = {}
    for start in range(0, len(usable), batch_size):
        part = usable[start : start + batch_size]
        responses = [answers[problem.id].text for problem in part]
        images = [open_images(problem) for problem in part]
        turns = [question_messages(p.question, len(p.images), style, p.choices) for p in part]
        scores = score_responses(vlm, turns, images, responses, attention=layers, log_p=False)
        found |= {problem.id: halves(mass)[1] for problem, mass in zip(part, scores.mass, strict=True)}
    return found


def cross(
    arms: Mapping[str, tuple["VLM", Mapping[str, Answer]]],
    problems: Sequence[Problem],
    *,
    style: str = "think",
    layers: Any = "last",
) -> dict[str, Any]:
    """Cross two arms, given as name -> (model, problem id -> its answer); the first one is the reference.

    Returns:
        ``cells``: "TEXT by WEIGHTS" -> mean mass of the second half, over the problems that all four cells could score; and
        ``effects``: ``total``, ``text``, ``weights``, ``interaction`` (``cross_effects``), each an estimate over problems.
    """
    reference, arm = arms
    masses = {
        (text, weights): second_half_mass(arms[weights][0], problems, arms[text][1], style, layers)
        for text in arms
        for weights in arms
    }
    shared = sorted(set.intersection(*(set(one) for one in masses.values())))
    split = [cross_effects({key: one[id_] for key, one in masses.items()}, arm, reference) for id_ in shared]
    cells = {
        f"{text} by {weights}": fmean(one[i] for i in shared) if shared else None
        for (text, weights), one in masses.items()
    }
    names = ("total", "text", "weights", "interaction")
    clusters = image_clusters(problems)
    labels = [clusters[id_] for id_ in shared]
    return {
        "n": len(shared),
        "cells": cells,
        "effects": {name: estimate_mean([one[name] for one in split], labels) for name in names},
    }


def cross_effects(cells: Mapping[tuple[str, str], float], arm: str, reference: str) -> dict[str, float]:
    """The change of a measure from ``reference`` to ``arm``, split into text, weights and their interaction.

    Args:
        cells: (whose text, whose weights) -> the measure of that text read by those weights; all four of the two arms.

    Returns:
        ``total`` = ``text`` + ``weights`` + ``interaction``, relative to the reference's own cell: the effect of the arm's text
        under the reference's weights, of the arm's weights on the reference's text, and of both together beyond their sum.
    """
    base = cells[reference, reference]
    text, weights = cells[arm, reference] - base, cells[reference, arm] - base
    total = cells[arm, arm] - base
    return {"total": total, "text": text, "weights": weights, "interaction": total - text - weights}
