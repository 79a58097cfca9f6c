"""Paths as users write them. Nothing here raises an error: whoever opens the path says what is wrong with it."""

import os
from pathlib import Path


def user_path(name: str | Path) -> Path:
    """The path, with ``~`` for the home folder. ``Path.expanduser`` raises an error for ``~NAME`` if there is no such user."""
    return Path(os.path.expanduser(name))


def resolved(path: Path) -> Path:
    """As ``Path.resolve``; the absolute path if it is too long, holds a null character, or is a link to itself."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path.absolute()
