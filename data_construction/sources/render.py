"""Draw the images of the ``scenes`` source: grids, free layouts and bar charts, with difficulty as knobs."""

import math
import random
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

SIZE = 192  # pixels a side
CELLS = 3  # a grid has CELLS x CELLS places, A1 (top left) to C3 (bottom right)
CELL = SIZE // CELLS
PLACES = tuple(f"{column}{row}" for row in range(1, CELLS + 1) for column in "ABC"[:CELLS])

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
}
PASTEL = {
    "red": (235, 110, 110),
    "green": (110, 190, 120),
    "blue": (120, 140, 235),
    "yellow": (240, 225, 120),
    "purple": (185, 125, 210),
    "orange": (250, 180, 105),
}

Thing = tuple[str, str] | None  # (colour, shape), or an empty place


@dataclass(frozen=True)
class Rendering:
    """How hard an image is to read. Lengths in pixels, colour values in 0..255."""

    radius: tuple[float, float] = (7, 13)
    shift: float = 10  # how far a shape may lie off the middle of its cell
    jitter: int = 35  # how far a colour channel may lie off the palette
    noise: float = 22  # standard deviation of Gaussian noise on every channel of every pixel
    background: int = 235
    palette: dict[str, tuple[int, int, int]] = field(default_factory=lambda: PALETTE)
    turn: float = 12  # handwriting: largest rotation, in degrees


LOOKS = {
    "easy": Rendering(radius=(12, 22), shift=6, jitter=18, noise=0),
    "hard": Rendering(),
    # Never drawn for training: what changes when the world does.
    "unseen_noise": Rendering(noise=38),
    "unseen_size": Rendering(radius=(15, 24), shift=4),
    "unseen_palette": replace(Rendering(), palette=PASTEL, background=200),
}


def draw_radii(look: Rendering, rng: random.Random) -> list[float]:
    """A radius in pixels for every place of a grid."""
    return [rng.uniform(*look.radius) for _ in PLACES]


def grid_image(
    cells: list[Thing], look: Rendering, rng: random.Random, radii: list[float] | None = None
) -> Image.Image:
    """A grid of ``CELLS * CELLS`` things, row by row; ``None`` leaves a place empty. ``radii`` are drawn where not given."""
    radii = radii or draw_radii(look, rng)
    image = Image.new("RGB", (SIZE, SIZE), (look.background,) * 3)
    draw = ImageDraw.Draw(image)
    for index, thing in enumerate(cells):
        if thing is not None:
            x = (index % CELLS + 0.5) * CELL + rng.uniform(-look.shift, look.shift)
            y = (index // CELLS + 0.5) * CELL + rng.uniform(-look.shift, look.shift)
            _shape(draw, thing[1], x, y, radii[index], _colour(thing[0], look, rng))
    return with_noise(image, look, rng)


def layout_image(things: list[tuple[str, str, float, float]], look: Rendering, rng: random.Random) -> Image.Image:
    """Things at free positions: (colour, shape, x, y), x and y in 0..1."""
    image = Image.new("RGB", (SIZE, SIZE), (look.background,) * 3)
    draw = ImageDraw.Draw(image)
    for colour, shape, x, y in things:
        _shape(draw, shape, x * SIZE, y * SIZE, rng.uniform(*look.radius), _colour(colour, look, rng))
    return with_noise(image, look, rng)


def chart_image(bars: list[tuple[str, int]], look: Rendering, rng: random.Random) -> Image.Image:
    """A bar chart of (colour, height 1..9), with a line for every unit so that heights can be read."""
    image = Image.new("RGB", (SIZE, SIZE), (look.background,) * 3)
    draw = ImageDraw.Draw(image)
    floor, unit = SIZE - 12, (SIZE - 30) / 9
    for step in range(10):
        draw.line([8, floor - step * unit, SIZE - 8, floor - step * unit], fill=(180,) * 3 if step else (60,) * 3)
    width = (SIZE - 24) / len(bars)
    for index, (colour, height) in enumerate(bars):
        left = 12 + index * width
        box = [left + width * 0.2, floor - height * unit, left + width * 0.8, floor]
        draw.rectangle(box, fill=_colour(colour, look, rng))
    return with_noise(image, look, rng)


def with_noise(image: Image.Image, look: Rendering, rng: random.Random) -> Image.Image:
    if not look.noise:
        return image
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, look.noise, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))


def _colour(name: str, look: Rendering, rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, value + rng.randint(-look.jitter, look.jitter))) for value in look.palette[name])


def _shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif shape == "square":
        draw.rectangle([x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r], fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + 0.85 * r), (x + r, y + 0.85 * r)], fill=fill)
    elif shape == "star":
        corners = []
        for corner in range(10):
            reach, angle = (r, 0.45 * r)[corner % 2], corner * math.pi / 5 - math.pi / 2
            corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(corners, fill=fill)
    elif shape == "cross":
        draw.rectangle([x - 0.38 * r, y - r, x + 0.38 * r, y + r], fill=fill)
        draw.rectangle([x - r, y - 0.38 * r, x + r, y + 0.38 * r], fill=fill)
    else:
        raise ValueError(f"unknown shape '{shape}'")
