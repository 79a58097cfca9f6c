"""Boxes on images, images side by side, and files named by their content."""

import pytest
from PIL import Image, ImageColor

from vlm.drawing import COLOURS, GAP, box_colour, content_name, draw_boxes, side_by_side


def test_box_is_drawn_inside_its_border_in_the_colour_of_its_number() -> None:
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_boxes(image, [(1, (0, 0, 200, 100)), (2, (50, 40, 90, 80))])
    first, second = (ImageColor.getrgb(box_colour(number)) for number in (1, 2))
    assert drawn.size == image.size
    assert [drawn.getpixel(place) for place in ((199, 99), (0, 99), (100, 0))] == [first] * 3
    assert [drawn.getpixel(place) for place in ((89, 79), (50, 79), (70, 79))] == [second] * 3
    assert drawn.getpixel((90, 79)) == drawn.getpixel((70, 65)) == (255, 255, 255)
    assert image.getcolors() == [(20_000, (255, 255, 255))], "the original stays as it is"


def test_no_box_and_a_tiny_image() -> None:
    image = Image.new("L", (3, 2), 7)
    assert draw_boxes(image, []).getpixel((0, 0)) == (7, 7, 7)
    assert draw_boxes(image, [(1, (0, 0, 1, 1))]).size == (3, 2)


def test_colours_are_used_again() -> None:
    assert len(set(COLOURS)) == len(COLOURS)
    assert box_colour(1) == box_colour(len(COLOURS) + 1) != box_colour(2)


def test_images_side_by_side_keep_their_sizes() -> None:
    sheet = side_by_side([Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 5), "blue")])
    assert sheet.size == (40 + GAP, 20)
    assert [sheet.getpixel(place) for place in ((9, 19), (10, 0), (10 + GAP, 0), (10 + GAP, 5))] == [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 255),
        (255, 255, 255),
    ]


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_equal_content_has_one_name(kind: str) -> None:
    assert content_name(b"a", kind) == content_name(b"a", kind) != content_name(b"b", kind)
    assert content_name(b"a", kind).endswith(f".{kind}")
