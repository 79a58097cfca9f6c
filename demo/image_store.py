"""Uploaded images, held in memory under tokens that cannot be guessed. Nothing is written to disk."""

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from configs.errors import ImageError
from vlm.images import open_image
from vlm.problem import read_problems

MAX_UPLOAD = 20 * 2**20
SHOWN_PIXELS = 2_000_000
"""Larger images are scaled down to this: models read no more, and it bounds the memory (6 MB an image)."""
CAPACITY = 64
LIFETIME = 3600.0
"""Seconds that an image is kept after its last use."""


@dataclass(frozen=True)
class Example:
    """A bundled image, its question, and another image for which the question has another answer."""

    name: str
    token: str
    other: str
    question: str
    answer: str
    other_answer: str


class ImageStore:
    """Token -> image. If there are more than ``capacity``, the least recently used one is dropped; examples stay."""

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: OrderedDict[str, tuple[float, Image.Image]] = OrderedDict()
        self._examples: dict[str, Image.Image] = {}
        self._capacity, self._clock, self._lock = capacity, clock, threading.Lock()
        self.examples = self._read_examples()

    def add(self, data: bytes) -> str:
        """Keep the image of an uploaded file. Returns its token; raises ImageError as ``vlm.images.open_image``."""
        image = open_image(data)
        if (scale := (SHOWN_PIXELS / (image.width * image.height)) ** 0.5) < 1:
            size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS)
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._kept[token] = (self._clock(), image)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return token

    def get(self, token: object) -> Image.Image:
        """The image of a token. Raises ImageError if there is none, or if it is no longer kept."""
        if isinstance(token, str):
            if token in self._examples:
                return self._examples[token]
            with self._lock:
                now = self._clock()
                for old in [name for name, (used, _) in self._kept.items() if now - used > LIFETIME]:
                    del self._kept[old]
                if token in self._kept:
                    _, image = self._kept.pop(token)
                    self._kept[token] = (now, image)
                    return image
        raise ImageError("The image is no longer here: choose it again.")

    def example(self, token: object) -> Example | None:
        """The example whose image has this token; None for a visitor's own image."""
        return next((example for example in self.examples if example.token == token), None)

    def png(self, token: object) -> bytes:
        """The image as a PNG file; errors as in ``get``."""
        data = io.BytesIO()
        self.get(token).save(data, "PNG")
        return data.getvalue()

    def _read_examples(self) -> list[Example]:
        found = []
        for problem in read_problems(Path(__file__).parent / "examples"):
            other = problem.meta["counterfactual"]
            tokens = f"example-{problem.id}", f"example-{problem.id}-other"
            for token, path in zip(tokens, (problem.images[0], other["image"]), strict=True):
                self._examples[token] = open_image(path)
            found.append(Example(problem.id, *tokens, problem.question, problem.answer, str(other["answer"])))
        return found
