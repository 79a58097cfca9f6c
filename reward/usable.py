"""Problems that can be asked and graded. Unusable rows are found here, before any model is asked.

Training adds the faults that depend on its model and its limits (``train.filters``).
"""

import os
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from configs.errors import ImageError, UserError
from configs.jsonl import is_unicode
from reward.grade import Gold, gold_option, gradable, judge_fault
from reward.judge import NAME_ONE, OPEN, current_judge
from reward.worker import map_in_threads
from vlm.chat import question_messages
from vlm.embedded import is_embedded
from vlm.images import image_size, open_image
from vlm.problem import Problem

EXAMPLES = 5
AT_ONCE = 2000
"""Problems, and gold answers, that are held in memory."""
LONGEST = 300
"""Characters of an id, or of the description of its fault, in an example."""
REMEDIES = {
    "missing_picture": "check the paths; they are relative to problems.jsonl ('reflection-v problems FILE --urls --out SET' "
    "downloads URLs)",
    "embedded_picture": "'reflection-v problems FILE --out SET' writes images that stand in rows (data URIs, base64) as files",
    "unreadable_picture": "export or download these images again",
    "unparsable_answer": "write the answer as the verifier of its domain reads it (docs/rewards.md)",
    "no_judge": NAME_ONE,
    "answer_not_a_choice": "make the answer one of the choices, or its letter; no two choices may read alike",
    "no_question": "write a question",
    "broken_text": "write answer, choices and image paths again: half of a surrogate pair is no character",
    "long_question": "shorten these questions",
}

Sizes = list[tuple[int, int]] | ImageError
"""(width, height) of a problem's images, or why one cannot be read."""


@dataclass
class DroppedProblems:
    """How many rows were dropped for each reason, the first few of each by id, and the ids of the problems among them."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def add(self, reason: str, who: str, why: str = "") -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.counts[reason] <= EXAMPLES:
            example = f"{who[:LONGEST]}: {why[:LONGEST]}" if why else who[:LONGEST]
            self.examples.setdefault(reason, []).append(example.encode("utf-8", "replace").decode())

    def merge(self, other: "DroppedProblems") -> None:
        """Add what was dropped elsewhere."""
        for reason, n in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + n
            self.examples[reason] = [*self.examples.get(reason, ()), *other.examples[reason]][:EXAMPLES]
        self.ids += other.ids

    def sentences(self) -> Iterator[str]:
        """What to print: one line a reason, with its remedy."""
        for reason, n in self.counts.items():
            yield f"left out as {reason}: {n} ({'; '.join(self.examples[reason])}): {REMEDIES[reason]}"


def usable_problems(
    problems: Iterable[Problem], images_read: Container[str] = ()
) -> tuple[list[Problem], DroppedProblems]:
    """The problems that can be asked and graded, and what was dropped. Each problem counts for one reason.

    Args:
        images_read: ids of problems whose images a model has seen already: they are not read again, since a large set takes
            minutes to read.
    """
    dropped = DroppedProblems()
    return list(iter_usable(problems, dropped, images_read)), dropped


def iter_usable(
    problems: Iterable[Problem], dropped: DroppedProblems, images_read: Container[str] = ()
) -> Iterator[Problem]:
    """``usable_problems`` one by one, of which only ``AT_ONCE`` are in memory; the others are added to ``dropped``."""
    golds: dict[Gold, bool] = {}
    every = iter(problems)
    while batch := list(islice(every, AT_ONCE)):
        # A large set has few different gold answers; one that has many must not fill the memory with them.
        golds = golds if len(golds) < AT_ONCE else {}
        golds |= gradable_golds([problem for problem in batch if _gold(problem) not in golds])
        sizes = map_in_threads(lambda problem: [] if problem.id in images_read else image_sizes(problem), batch)
        for problem, found in zip(batch, sizes, strict=True):
            fault = next(problem_faults(problem, found, golds), None)
            if fault is None:
                yield problem
            else:
                dropped.add(fault[0], problem.id, fault[1])
                dropped.ids.append(problem.id)


def print_unjudged(problems: Sequence[Problem]) -> None:
    """Print how many open problems of an evaluation cannot be graded, before a model is loaded for them.

    Raises:
        UserError: there is a judge for them, but it cannot be asked.
    """
    faults = Counter(fault for problem in problems if (fault := judge_fault(problem)))
    for fault, n in faults.items():
        print(f"{n} of {len(problems)} problems cannot be graded: {fault}", file=sys.stderr, flush=True)


def image_sizes(problem: Problem, decode: bool = False) -> Sizes:
    """The sizes of a problem's images. Every file is read to its end, because a truncated one still has a valid header.

    Args:
        decode: decode every image; otherwise a PNG is only held against its checksums.
    """
    try:
        return [open_image(path).size if decode else image_size(path) for path in problem.images]
    except ImageError as error:
        return error


def problem_faults(problem: Problem, sizes: Sizes, golds: dict[Gold, bool]) -> Iterator[tuple[str, str]]:
    """(reason, in words) for each fault of a problem; the reasons are the keys of ``REMEDIES``."""
    # ``Problem`` itself refuses such an id and such a question.
    if not all(map(is_unicode, (problem.answer, *(problem.choices or ()), *problem.images))):
        yield "broken_text", ""
    if isinstance(sizes, ImageError):
        absent = [path for path in problem.images if not os.path.exists(path)]
        embedded = [image for image in problem.images if is_embedded(image)]
        if embedded:
            yield "embedded_picture", f"{embedded[0][:30]}..."
        else:
            yield ("missing_picture", absent[0]) if absent else ("unreadable_picture", str(sizes))
    try:
        question_messages(problem.question, len(problem.images), choices=problem.choices)
    except UserError as error:
        yield ("long_question", str(error)) if problem.question.strip() else ("no_question", "")
    if problem.choices and gold_option(problem) is None:
        yield "answer_not_a_choice", f"'{problem.answer[:60]}' is none of {len(problem.choices)} choices"
    elif problem.domain == OPEN and current_judge() is None:
        yield "no_judge", f"domain {OPEN}"
    elif not golds[_gold(problem)]:
        yield "unparsable_answer", f"'{problem.answer[:60]}' as {problem.domain}"


def gradable_golds(problems: Sequence[Problem]) -> dict[Gold, bool]:
    """Whether the verifier can grade by each gold answer at all; equal ones are looked at once."""
    # A large set has few different gold answers, and each check is a request to a child process.
    golds = list(dict.fromkeys(map(_gold, problems)))
    return dict(zip(golds, map_in_threads(gradable, golds), strict=True))


def _gold(problem: Problem) -> Gold:
    question = problem.question if problem.domain == OPEN else ""  # else equal gold answers would differ
    # Hashable, unlike a problem.
    return Gold(problem.domain, problem.answer, tuple(problem.choices or ()), problem.decimal, question)
