"""Answers sampled from a model and graded, a batch at a time: for prompt selection, improvement rounds and model cards."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL.Image import Image

from reward.grade import Grade, grade, judge_ahead
from reward.worker import map_in_threads
from vlm.chat import question_messages
from vlm.generate import Generation, generate
from vlm.images import SharedImages
from vlm.load import VLM
from vlm.problem import Problem


class Sample(NamedTuple):
    """One response to a problem, and its grade."""

    problem: Problem
    generation: Generation
    grade: Grade


def sample_and_grade(
    vlm: VLM,
    problems: Sequence[Problem],
    samples: int,
    *,
    style: str,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed_name: str = "",
    known: Mapping[str, int] | None = None,
    attention: dict[str, Any] | None = None,
    images: Callable[[Problem], Sequence[Image]] | None = None,
) -> Iterator[tuple[int, list[Sample]]]:
    """Yield (problems done so far, new samples) after each batch, in the order of ``problems``.

    Args:
        samples: responses to each problem; each has a seed of its own, from ``seed_name``, the problem's id and its number.
        batch_size: responses generated at once.
        known: problem id -> how many of its samples (the first ones) an interrupted run has left. A batch with nothing missing is
            skipped; any other is generated whole, since rounding depends on the neighbours in a batch, and what is known is left out.
        attention: see ``vlm.generate.generate``.
        images: of a problem; its files where not given.
    """
    known = known or {}
    # Whole problems only: a batch then has all samples of a problem, and an interrupted run continues between problems.
    at_once = max(1, batch_size // samples)
    for start in range(0, len(problems), at_once):
        batch = problems[start : start + at_once]
        if all(known.get(problem.id, 0) >= samples for problem in batch):
            continue
        copies = [(problem, number) for problem in batch for number in range(samples)]
        opened = SharedImages()  # an image that stands several times in a batch is opened once
        shown = {p.id: images(p) if images else [opened.open(path) for path in p.images] for p in batch}
        written = generate(
            vlm,
            [question_messages(p.question, len(shown[p.id]), style=style, choices=p.choices) for p, _ in copies],
            [shown[problem.id] for problem, _ in copies],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[_sample_seed(f"{seed_name}/{problem.id}/{number}") for problem, number in copies],
            batch_size=batch_size,
            attention=attention,
        )
        new = [
            (problem, generation)
            for (problem, number), generation in zip(copies, written, strict=True)
            if number >= known.get(problem.id, 0)
        ]
        judge_ahead((problem, one.text, one.finished) for problem, one in new)
        grades = map_in_threads(lambda one: grade(one[0], one[1].text, one[1].finished), new)
        yield start + len(batch), [Sample(*one, found) for one, found in zip(new, grades, strict=True)]


def _sample_seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
