"""The prompts on which a served model is compared with its weights: text alone, one image, several of unequal size.

Each kind leaves something out, so that what differs tells where a server departs: text has no image, and an image of
the model's own size is not resized.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from vlm.chat import Message, question_messages
from vlm.images import fitted_size, open_image
from vlm.problem import Problem

Kind = Literal["text", "fitted", "resized", "several"]

TEXTS = (
    "Say yes.",
    "What is the sum of 3 and 5?",
    "A train leaves at 9:40 and arrives at 12:05. How many minutes does the journey take? (A) 145 (B) 165 (C) 205",
)
FITTED = ((256, 256), (512, 128))
RESIZED = ((300, 100), (110, 300), (1024, 768))
SEVERAL = (((256, 256), (320, 90), (64, 48)), ((120, 200), (500, 333)))
QUESTIONS = ("How many red shapes are there?", "What is in the top left corner?", "Describe the shapes, row by row.")
SEVERAL_QUESTIONS = ("Which image has the most shapes?", "What differs between the images?")


@dataclass(frozen=True)
class Probe:
    """One conversation that both are given.

    Attributes:
        kind: ``text`` (no image), ``fitted`` (one image that no pixel policy resizes), ``resized`` (one of another
            size), ``several`` (more than one).
    """

    name: str
    kind: Kind
    messages: Sequence[Message]
    images: Sequence[Image.Image] = field(default=(), repr=False)


def text_probes(style: str) -> list[Probe]:
    """The probes without an image."""
    texts = [Probe(f"text {n}", "text", question_messages(text, 0, style)) for n, text in enumerate(TEXTS, 1)]
    # A chat template may treat a system prompt and earlier turns in its own way.
    dialogue = [
        {"role": "system", "content": "Answer in one short sentence."},
        *question_messages(TEXTS[0], 0, "none"),
        {"role": "assistant", "content": "Yes."},
        *question_messages(TEXTS[1], 0, "none"),
    ]
    return [*texts, Probe("text, second turn", "text", dialogue)]


def image_probes(processor: Any, style: str) -> list[Probe]:
    """The probes with images, which are drawn, and the same on every machine."""
    shown: list[tuple[Kind, str, tuple[tuple[int, int], ...]]] = [
        *(("fitted", QUESTIONS[n], (_own_size(size, processor),)) for n, size in enumerate(FITTED)),
        *(("resized", QUESTIONS[n], (size,)) for n, size in enumerate(RESIZED)),
        *(("several", question, sizes) for question, sizes in zip(SEVERAL_QUESTIONS, SEVERAL, strict=True)),
    ]
    probes = []
    for kind, question, sizes in shown:
        name = " and ".join(f"{width}x{height}" for width, height in sizes)
        images = [draw_shapes(size, seed) for seed, size in enumerate(sizes)]
        title = f"{len(sizes)} images, {name}" if kind == "several" else f"image {name}"
        probes.append(Probe(title, kind, question_messages(question, len(images), style), images))
    return probes


def problem_probes(problems: Sequence[Problem], processor: Any, style: str) -> list[Probe]:
    """The user's own problems as probes."""
    probes = []
    for problem in problems:
        images = [open_image(image) for image in problem.images]
        sizes = [image.size for image in images]
        kind: Kind = "several" if len(images) > 1 else "resized" if images else "text"
        if len(images) == 1 and fitted_size(sizes[0], processor) == sizes[0]:
            kind = "fitted"
        messages = question_messages(problem.question, len(images), style, problem.choices)
        probes.append(Probe(f"problem {problem.id}", kind, messages, images))
    return probes


def draw_shapes(size: tuple[int, int], seed: int) -> Image.Image:
    """Coloured shapes on a soft gradient: edges and areas, of which a resize changes some pixels but not the sense."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    light = np.stack([columns / width, rows / height, (columns + rows) / (width + height)], axis=-1)
    image = Image.fromarray((255 - 90 * light).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(seed)
    radius = max(4, min(size) // 6)
    colours = ("red", "green", "blue", "orange", "purple", "red")
    for number, colour in enumerate(colours):
        x, y = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def _own_size(size: tuple[int, int], processor: Any) -> tuple[int, int]:
    """A size near ``size`` that the pixel policy leaves as it is."""
    for _ in range(8):  # where least and most pixels are close, one resize may call for the next
        fitted = fitted_size(size, processor)
        if fitted == size:
            break
        size = fitted
    return size
