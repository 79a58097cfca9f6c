"""What the picture does for a model's own words: log probabilities of one text with its picture, another one, and a blank."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm.chat import Message, encode
from vlm.images import blank, open_image
from vlm.load import VLM
from vlm.problem import Problem

ROWS = 16  # of one forward


def donors(problems: Sequence[Problem]) -> dict[int, int]:
    """Number of a problem -> number of the one whose pictures stand in for its own: the next of its family with others.

    Where its family has no other pictures (in that number), the next problem of any family; without one it is left out.
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


def of_sizes(pictures: Sequence[Image.Image], like: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures in the sizes of others: as many image tokens, at the same places."""
    return [
        one if one.size == other.size else one.resize(other.size) for one, other in zip(pictures, like, strict=True)
    ]


def response_log_p(
    model: Any,
    reader: VLM,
    turns: Sequence[Sequence[Message]],
    pictures: Sequence[Sequence[Image.Image]],
    responses: Sequence[Sequence[int]],
    device: torch.device,
) -> list[Tensor]:
    """(T,) log probability of each response token, in nats, of responses teacher-forced behind their prompts."""
    found: list[Tensor] = []
    for start in range(0, len(turns), ROWS):
        part = slice(start, start + ROWS)
        longest = max(1, *(len(ids) for ids in responses[part]), 1)
        batch = encode(reader, turns[part], pictures[part], responses[part]).to(device)
        with torch.no_grad():
            logits = model(**batch, logits_to_keep=longest + 1, use_cache=False).logits
        for row, ids in enumerate(responses[part]):
            shares = logits[row, longest - len(ids) : longest].float().log_softmax(-1)  # row t predicts token t + 1
            wanted = torch.tensor(list(ids), device=device, dtype=torch.long)
            found.append(shares.gather(-1, wanted[:, None])[:, 0].cpu())
    return found


def information(
    model: Any,
    reader: VLM,
    rows: Sequence[tuple[Problem, Problem | None]],
    turns: Sequence[Sequence[Message]],
    responses: Sequence[Sequence[int]],
    device: torch.device,
) -> list[tuple[Tensor | None, Tensor | None]]:
    """For each response log p(token | pictures) - log p(token | others), (T,) each: another problem's, and blank ones.

    Three forwards and no generation. Every row goes through all three, so that ranks stay in step; a row without pictures, or
    without a problem to borrow them from, gets None.
    """
    own = [[open_image(path) for path in problem.images] for problem, _ in rows]
    other = [
        pictures if donor is None else of_sizes([open_image(path) for path in donor.images], pictures)
        for (_, donor), pictures in zip(rows, own, strict=True)
    ]
    empty = [[blank(picture) for picture in pictures] for pictures in own]
    seen, swapped, blind = (
        response_log_p(model, reader, turns, pictures, responses, device) for pictures in (own, other, empty)
    )
    return [
        (a - b if donor is not None else None, a - c if problem.images else None)
        for (problem, donor), a, b, c in zip(rows, seen, swapped, blind, strict=True)
    ]
