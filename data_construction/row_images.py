"""Images as the rows of data sets hold them: bytes, a path, base64 text, or the ``{"bytes", "path"}`` of ``datasets``."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from configs.errors import ImageError
from vlm.downloads import decode_base64
from vlm.images import Source

LONGEST_PATH = 4096


def readable_image(stored: Any, folders: Sequence[Path], anywhere: bool = False) -> Source | None:
    """What ``open_image`` reads of an image as a row holds it; None if there is none.

    Args:
        folders: the folders that a relative path may start from. It cannot leave them. Without folders (a data set of the hub)
            no path is opened, since it would be one of this machine.
        anywhere: a relative path may leave the folders, because the user chose the file.

    Raises:
        ImageError: a path without a file.
    """
    if isinstance(stored, Mapping):
        stored = stored.get("bytes") or stored.get("path")
    if isinstance(stored, bytearray | memoryview):
        stored = bytes(stored)
    if stored is None or isinstance(stored, Image.Image):
        return stored
    if isinstance(stored, bytes):
        return stored or None
    if not isinstance(stored, str):
        raise ImageError(f"An image is stored as {type(stored).__name__}: expected bytes, a path or base64 text.")
    if not stored.strip():
        return None
    for folder in folders:
        for name in _path_forms(stored):
            if (path := _file_below(folder, folders, name, anywhere)) is not None:
                return path
    if (content := decode_base64(stored)) is not None:
        return content
    raise ImageError(f"The image {stored[:200]!r} is no file of the data set: check the path.")


def _path_forms(name: str) -> list[str]:
    """A path as it is stored and as other systems write it: with backslashes, as a file URL, with composed letters."""
    if len(name) > LONGEST_PATH:
        return []
    if name.lower().startswith("file://"):
        name = name[len("file://") :]
    forms = [unicodedata.normalize(form, one) for one in (name, name.replace("\\", "/")) for form in ("NFC", "NFD")]
    return list(dict.fromkeys(forms))


def _file_below(folder: Path, folders: Sequence[Path], name: str, anywhere: bool) -> Path | None:
    """The file of this name. A relative one may pass through ``..``, but must end in one of the folders unless ``anywhere``."""
    for start in (folder, folder / "images"):
        path = Path(os.path.normpath(start / name))
        allowed = (
            anywhere or Path(name).is_absolute() or any(path.is_relative_to(os.path.normpath(one)) for one in folders)
        )
        try:
            if allowed and path.is_file():
                return path
        except (OSError, ValueError):  # too long, or a null character
            return None
    return None
