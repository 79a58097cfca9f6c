"""The ``digits`` source: images of nine real handwritten digits with questions.

The handwriting is the UCI set of optical digits that scikit-learn ships (8 x 8, 1,797 images). Its images are dealt
into three disjoint sets, so that no handwriting met in pretraining or training is met again in a held-out problem.
"""

import random
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_construction.sources.render import CELL, CELLS, PLACES, SIZE, Rendering, with_noise
from data_construction.sources.scenes import GRID, Family

SPLITS = {"pretrain": (0, 6), "train": (6, 8), "heldout": (8, 10)}  # tenths of the images of every digit
GLYPH = 48  # pixels a side

Hand = list[tuple[int, int]]  # nine times (digit, index of the image in the set)


@cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


@cache
def handwriting(split: str) -> dict[int, list[int]]:
    """Digit -> indices of its images in ``split`` (pretrain, train or heldout); the three are disjoint."""
    low, high = SPLITS[split]
    _, targets = _images()
    hands = {}
    for digit in range(10):
        indices = [int(index) for index in np.flatnonzero(targets == digit)]
        random.Random(digit).shuffle(indices)
        hands[digit] = indices[len(indices) * low // 10 : len(indices) * high // 10]
    return hands


def draw_digits(rng: random.Random, split: str) -> Hand:
    hands = handwriting(split)
    return [(digit, rng.choice(hands[digit])) for digit in (rng.randrange(10) for _ in PLACES)]


def digits_image(hand: Hand, look: Rendering, rng: random.Random) -> Image.Image:
    """Dark handwriting on a light ground, each digit 48 px high, shifted and turned a little."""
    images, _ = _images()
    canvas = Image.new("L", (SIZE, SIZE), 0)
    for index, (_, image) in enumerate(hand):
        glyph = Image.fromarray((images[image] * (255 / 16)).astype(np.uint8)).resize(
            (GLYPH, GLYPH), Image.Resampling.BICUBIC
        )
        glyph = glyph.rotate(rng.uniform(-look.turn, look.turn), resample=Image.Resampling.BICUBIC)
        slack = (CELL - GLYPH) / 2
        x = index % CELLS * CELL + slack + rng.uniform(-slack, slack)
        y = index // CELLS * CELL + slack + rng.uniform(-slack, slack)
        canvas.paste(glyph, (round(x), round(y)))
    ink = np.asarray(canvas, np.float32)[..., None] / 255
    page = look.background * (1 - ink) + 30 * ink
    return with_noise(Image.fromarray(np.repeat(page, 3, axis=2).astype(np.uint8)), look, rng)


def digit_row(hand: Hand, row: int) -> list[int]:
    return [digit for digit, _ in hand[(row - 1) * CELLS : row * CELLS]]


def digits_facts(hand: Hand) -> dict[str, str]:
    return {place: str(digit) for place, (digit, _) in zip(PLACES, hand, strict=True)}


def _family(name: str, domain: str, ask: Any, question: Any, answer: Any) -> Family:
    # The scene of a digits family needs the split, which write_set binds (see sources/__init__.py).
    return Family(name, domain, draw_digits, ask, lambda p: GRID + question(p), answer, digits_image, digits_facts)  # type: ignore[arg-type]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family(
            "digit_sum",
            "number",
            lambda hand, rng: {"row": rng.randint(1, CELLS)},
            lambda p: f"What is the sum of the digits in row {p['row']}?",
            lambda hand, p: str(sum(digit_row(hand, p["row"]))),
        ),
        _family(
            "digit_largest",
            "number",
            lambda hand, rng: {"row": rng.randint(1, CELLS)},
            lambda p: f"What is the largest digit in row {p['row']}?",
            lambda hand, p: str(max(digit_row(hand, p["row"]))),
        ),
        _family(
            "digit_count",
            "count",
            lambda hand, rng: {"digit": rng.choice(hand)[0] if rng.random() < 0.67 else rng.randrange(10)},
            lambda p: f"How many times is the digit {p['digit']} there?",
            lambda hand, p: str(sum(digit == p["digit"] for digit, _ in hand)),
        ),
        _family(
            "digit_list",
            "table",
            lambda hand, rng: {},
            lambda p: "List the digits.",
            lambda hand, p: "; ".join(
                f"row {row}: " + " ".join(map(str, digit_row(hand, row))) for row in range(1, CELLS + 1)
            ),
        ),
    )
}
