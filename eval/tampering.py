"""What the audit of tool looks does to a returned crop, before the model sees it.

Each of these is a ``change`` of ``vlm.tools.ZoomSession``, or returns one. A call that the tool refused stays refused: there is no crop to
tamper with, and the model sees the same error message in every condition.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from eval.grounding import add_faint_noise
from vlm.images import blank
from vlm.tools import Change, ZoomResult, ZoomSession

PixelBox = tuple[int, int, int, int]

# Prompts: other words would change the replies of every audited model.
WITHHELD = "the image could not be cropped."
NOTED = "The call is noted. No image is returned."


@dataclass(frozen=True)
class NotedCall(ZoomResult):
    """A call that is acknowledged: no crop, and no error either."""

    def content(self) -> list[dict[str, Any]]:
        return [{"type": "text", "text": NOTED}]


def swapped(others: Sequence[Image.Image]) -> Change:
    """The same box of another image: ``others`` stand for the problem's own images, in their order."""

    def change(result: ZoomResult, session: ZoomSession) -> ZoomResult:
        if result.crop is None or result.box is None or result.img_idx is None:
            return result
        other, size = others[result.img_idx], session.originals[result.img_idx].size
        # In the size of the own image, so that the same box is the same number of pixels.
        other = other if other.size == size else other.resize(size, Image.Resampling.BICUBIC)
        crop = ZoomSession([other], session.settings, processor=session.processor).cut(0, result.box)
        return replace(result, crop=crop)

    return change


def misplaced(seed: str) -> Change:
    """Another box of the same size in the same image, which does not overlap the one that was asked for (``other_place``)."""

    def change(result: ZoomResult, session: ZoomSession) -> ZoomResult:
        if result.crop is None or result.box is None or result.img_idx is None:
            return result
        box = other_place(result.box, session.originals[result.img_idx].size, seed)
        return replace(result, crop=session.cut(result.img_idx, box))

    return change


def blanked(result: ZoomResult, session: ZoomSession) -> ZoomResult:
    """A mid-grey crop of the same size."""
    return result if result.crop is None else replace(result, crop=blank(result.crop))


def faintly_noisy(seed: str) -> Change:
    """The same crop with other pixels but the same content: what changes under it changes without a reason."""

    def change(result: ZoomResult, session: ZoomSession) -> ZoomResult:
        if result.crop is None:
            return result
        generator = np.random.default_rng(list(f"{seed}/{result.box}".encode()))
        return replace(result, crop=add_faint_noise(result.crop, generator))

    return change


def withheld(result: ZoomResult, session: ZoomSession) -> ZoomResult:
    """An error message instead of the crop, as if the tool had failed."""
    return result if result.crop is None else replace(result, crop=None, error=WITHHELD)


def format_only(result: ZoomResult, session: ZoomSession) -> ZoomResult:
    """Only the form of a call: it is acknowledged, no error is reported, and nothing comes back."""
    if result.crop is None:
        return result
    return NotedCall(**{**{one.name: getattr(result, one.name) for one in fields(result)}, "crop": None})


def has_other_place(box: PixelBox, size: tuple[int, int]) -> bool:
    """Whether a box of this size fits into an image of ``size`` (width, height) without overlapping this one."""
    return bool(_free_sides(box, size))


def other_place(box: PixelBox, size: tuple[int, int], seed: str) -> PixelBox:
    """A box of the same size that does not overlap ``box``; if there is no room for one, a box in the farthest corner."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    sides = _free_sides(box, size)
    if sides:
        generator = random.Random(f"{seed}/{box}")
        (least_x, most_x), (least_y, most_y) = generator.choice(sides)
        x, y = generator.randint(least_x, most_x), generator.randint(least_y, most_y)
    else:
        x = 0 if left + right > size[0] else size[0] - width
        y = 0 if top + bottom > size[1] else size[1] - height
    return x, y, x + width, y + height


def _free_sides(box: PixelBox, size: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the upper left corner of another box may lie: (range of x, range of y) to the left, right, above and below."""
    left, top, right, bottom = box
    most_x, most_y = size[0] - (right - left), size[1] - (bottom - top)
    sides = [
        ((0, left - (right - left)), (0, most_y)),
        ((right, most_x), (0, most_y)),
        ((0, most_x), (0, top - (bottom - top))),
        ((0, most_x), (bottom, most_y)),
    ]
    return [(x, y) for x, y in sides if x[0] <= x[1] and y[0] <= y[1]]
