"""Images for people to look at: several side by side, and boxes drawn on them."""

import hashlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8
COLOURS = ("#e6194b", "#0072b2", "#f58231", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a6d00")
"""Colours of boxes in the order of their numbers: far apart, also for most of those who see colours differently."""

Box = tuple[int, int, int, int]


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """All images in one row on white, each in its own size."""
    width, height = sum(image.width + GAP for image in images) - GAP, max(image.height for image in images)
    sheet, left = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP
    return sheet


def box_colour(number: int) -> str:
    """The colour of the box with this number, from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


def draw_boxes(image: Image.Image, boxes: Sequence[tuple[int, Box]]) -> Image.Image:
    """A copy of an image with numbered boxes on it, each in its number's colour.

    Args:
        boxes: (number, (left, top, right, bottom) in pixels). A line lies inside its box, so one at the border is whole.
    """
    drawn = image.convert("RGB").copy()
    pen, size = ImageDraw.Draw(drawn), max(drawn.size)
    line, font = max(2, size // 250), ImageFont.load_default(max(10, size // 40))
    for number, (left, top, right, bottom) in boxes:
        colour = box_colour(number)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
        mark = pen.textbbox((left + line, top + line), str(number), font=font, anchor="lt")
        pen.rectangle((left, top, mark[2] + line, mark[3] + line), fill=colour)
        pen.text((left + line, top + line), str(number), fill="white", font=font, anchor="lt")
    return drawn


def content_name(content: bytes, kind: str) -> str:
    """The name of an image's file by its content, so that equal images are one file.

    Args:
        kind: the ending, such as ``png``.
    """
    return f"{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
