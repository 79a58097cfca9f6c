"""Where images stand in a question: ``<image 2>`` in its text or in an option is the place of the second image.

Everything that is shown to a model lists its images in the order in which they stand, since that is how chat templates, servers and
trainers match them with a prompt. ``Problem`` and ``ask`` bring their images into that order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

Image = TypeVar("Image")
PLACEHOLDER = re.compile(r"<image[ _]?([0-9]{1,3})>", re.IGNORECASE)


def named_images(texts: Sequence[str], n_images: int) -> list[int]:
    """The numbers (from 1) of the images that the texts name, in the order of their first places."""
    numbers = (int(number) for text in texts for number in PLACEHOLDER.findall(text))
    return list(dict.fromkeys(number for number in numbers if 1 <= number <= n_images))


def image_places(texts: Sequence[str], n_images: int) -> dict[int, int]:
    """Number of an image -> its place (from 1) in the order in which the images stand: those that are not named come first.

    The texts are those of one prompt, in their order. If they name their images by these places, nothing changes any more.
    """
    named = named_images(texts, n_images)
    order = [number for number in range(1, n_images + 1) if number not in named] + named
    return {number: place for place, number in enumerate(order, start=1)}


def renumber_images(text: str, places: Mapping[int, int]) -> str:
    """The text with the images' places in it; what names no image of ``places`` stays as it is."""
    return PLACEHOLDER.sub(
        lambda found: f"<image {places[int(found[1])]}>" if int(found[1]) in places else found[0], text
    )


def in_place(
    images: Sequence[Image], question: str, choices: Sequence[str] | None
) -> tuple[list[Image], str, list[str] | None]:
    """Images, question and choices with the images in the order in which they stand."""
    places = image_places([question, *(choices or ())], len(images))
    texts = [renumber_images(choice, places) for choice in choices] if choices is not None else None
    return [images[number - 1] for number in places], renumber_images(question, places), texts


def split_at_images(text: str, n_images: int, placed: set[int]) -> Iterator[str | None]:
    """The text in pieces, with None where an image stands.

    Args:
        placed: the images that stand already; those of this text are added. An image stands once, where it is named first.
            A later name stays text, as does the name of an image that there is not.
    """
    start = 0
    for found in PLACEHOLDER.finditer(text):
        number = int(found[1])
        if 1 <= number <= n_images and number not in placed:
            placed.add(number)
            yield text[start : found.start()]
            yield None
            start = found.end()
    yield text[start:]
