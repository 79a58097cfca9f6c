"""Image information: how much more probable a response is with its own image than with another or a blank one."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm.chat import Message
from vlm.images import blank, open_image
from vlm.load import VLM
from vlm.problem import Problem
from vlm.scoring import score_responses

ROWS = 16  # of one forward


def mismatched_pairs(problems: Sequence[Problem]) -> dict[int, int]:
    """Map each problem's number to that of the problem whose images replace its own: the next of its family with other images.

    If its family has none with equally many images, it is the next problem of any family; if there is none, it is left out.
    """
    found: dict[int, int] = {}
    for same in (lambda p: (p.family, len(p.images)), lambda p: ("", len(p.images))):
        circles: dict[tuple[str, int], list[int]] = {}
        for number, problem in enumerate(problems):
            if problem.images:
                circles.setdefault(same(problem), []).append(number)
        for circle in circles.values():
            for at, number in enumerate(circle):
                rest = [*circle[at + 1 :], *circle[:at]]
                other = next((one for one in rest if problems[one].images != problems[number].images), None)
                if other is not None:
                    found.setdefault(number, other)
    return found


def information(
    model: Any,
    reader: VLM,
    rows: Sequence[tuple[Problem, Problem | None]],
    turns: Sequence[Sequence[Message]],
    responses: Sequence[Sequence[int]],
    device: torch.device,
) -> list[tuple[Tensor | None, Tensor | None]]:
    """For each response log p(token | own images) - log p(token | others) in nats, (T,): for mismatched and for blank images.

    Takes three forwards and no generation. Every row takes part in all three, so that ranks stay synchronized. The result of a
    row without images, or without a mismatched problem, is None.

    Args:
        model: the model in training; ``reader`` only encodes.
        rows: each response's problem, and the problem of the mismatched images.
    """

    def log_p(images: Sequence[Sequence[Image.Image]]) -> list[Tensor]:
        parts = [slice(start, start + ROWS) for start in range(0, len(rows), ROWS)]
        scored = (
            score_responses(reader, turns[part], images[part], responses[part], model=model, device=device)
            for part in parts
        )
        return [values for scores in scored for values in scores.log_p]

    own = [[open_image(path) for path in problem.images] for problem, _ in rows]
    # Resized to its own images' sizes, so that the image tokens keep their number and positions.
    other = [
        images
        if lender is None
        else [open_image(path).resize(like.size) for path, like in zip(lender.images, images, strict=True)]
        for (_, lender), images in zip(rows, own, strict=True)
    ]
    empty = [[blank(image) for image in images] for images in own]
    return [
        (a - b if lender is not None else None, a - c if problem.images else None)
        for (problem, lender), a, b, c in zip(rows, log_p(own), log_p(other), log_p(empty), strict=True)
    ]
