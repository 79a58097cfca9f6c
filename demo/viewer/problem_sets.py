"""The problems that rows belong to: their question, gold answer, family and images."""

import functools
import io
import json
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from configs.errors import ImageError
from configs.jsonl import iter_log_lines, row_at
from configs.paths import resolved
from demo.viewer.values import dict_of, text_of
from vlm.downloads import decode_base64
from vlm.embedded import is_embedded
from vlm.images import open_image
from vlm.problem import Problem, image_path

SHOWN_PIXELS = 640_000
"""Larger images are scaled down to this before they are sent."""


class Found(NamedTuple):
    """A problem as its file has it, and the folder from which its image paths start."""

    row: dict[str, Any]
    folder: Path


class ProblemIndex:
    """The problems of some sets, by their ids. Rows that are no problems are left out: their own table shows them.

    Args:
        files: the JSON Lines files of the sets; the first one that has an id counts.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._offsets, self._sets, self._families = array("q"), array("i"), array("i")
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}  # of the names
        self._read = 0

    def _read_sets(self) -> None:
        with self._lock:
            while self._read < len(self.files):
                self._read_set(self._read)
                self._read += 1

    def _read_set(self, number: int) -> None:
        try:
            for offset, line in iter_log_lines(self.files[number]):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                problem_id = row.get("id") if isinstance(row, dict) else None
                if not isinstance(problem_id, str) or problem_id in self._places:
                    continue
                family = family_of(row)
                self._places[problem_id] = len(self._offsets)
                self._offsets.append(offset)
                self._sets.append(number)
                if family not in self._numbers:
                    self._numbers[family] = len(self._names)
                    self._names.append(family)
                self._families.append(self._numbers[family])
        except OSError:
            return

    def family(self, problem_id: Any) -> str:
        """The family of a problem; empty if no set has it."""
        self._read_sets()
        place = self._places.get(problem_id) if isinstance(problem_id, str) else None
        return "" if place is None else self._names[self._families[place]]

    def find(self, problem_id: Any) -> Found | None:
        """The problem of an id; None if no set has it, or if its file was changed meanwhile."""
        self._read_sets()
        place = self._places.get(problem_id) if isinstance(problem_id, str) else None
        if place is None:
            return None
        file = self.files[self._sets[place]]
        try:
            with open(file, "rb") as opened:
                row = row_at(opened, self._offsets[place])
        except (OSError, ValueError, RecursionError):
            return None
        return Found(row, file.parent) if row.get("id") == problem_id else None


def family_of(row: dict[str, Any]) -> str:
    """The family of a problem's row, whether or not the row is valid."""
    return Problem.model_construct(meta=dict_of(row.get("meta")), domain=text_of(row.get("domain"))).family[:100]


class ShownImages:
    """The images of rows, as PNG files of bounded size, if they lie in one of the ``folders`` (or stand in the row itself)."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [resolved(folder) for folder in folders]
        self.png = functools.lru_cache(maxsize=64)(self._png)

    def source(self, stored: Any, folder: Path) -> bytes | Path:
        """The content or the path of an image as a row stores it.

        Raises:
            ImageError: it is a URL, or lies outside the folders; symbolic links are followed first.
        """
        if isinstance(stored, dict):
            stored = stored.get("bytes") or stored.get("path")
        if isinstance(stored, bytes):
            return stored
        if not isinstance(stored, str) or not stored.strip():
            raise ImageError("The row names no image here.")
        if is_embedded(stored):
            content = decode_base64(stored)
            if content is None:
                raise ImageError("The image in the row is not valid base64.")
            return content
        path = resolved(Path(image_path(folder, stored)))
        if not any(path.is_relative_to(one) for one in self._folders):
            raise ImageError(
                "This image is outside the opened folder and its problem sets, so it is not shown: name its folder with --problems."
            )
        return path

    def _png(self, source: bytes | Path) -> bytes:
        """An image as a PNG file. Raises ImageError as ``vlm.images.open_image``."""
        image = open_image(source)
        if (scale := (SHOWN_PIXELS / (image.width * image.height)) ** 0.5) < 1:
            size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS)
        data = io.BytesIO()
        image.save(data, "PNG")
        return data.getvalue()
