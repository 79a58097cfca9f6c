"""Digests that identify a model or a data set by the content of its files. ``vlm.identity`` lists the files of a model."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

WHOLE = 64 << 20
"""In bytes. Of a larger file only the size and ``BLOCKS`` blocks are read: a 7B checkpoint would take half a minute."""
BLOCKS, BLOCK = 256, 1 << 14


def data_sha256(path: str | Path) -> str:
    """sha256 of a data set's JSON Lines file. Its images are not read."""
    file = Path(path)
    with open(file / "problems.jsonl" if file.is_dir() else file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(folder: Path, files: list[Path]) -> str:
    """sha256 over names, sizes and contents of ``files`` below ``folder``."""
    total = hashlib.sha256()
    for file in files:
        found = file.stat()
        content = _content(str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ino)
        total.update(f"{file.relative_to(folder)}\0{found.st_size}\0{content}\0".encode())
    return total.hexdigest()


@lru_cache(maxsize=4096)
def _content(file: str, size: int, _mtime_ns: int, _inode: int) -> str:
    """sha256 of a file, or of blocks spread evenly over a large one; cached until the file changes."""
    with open(file, "rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        total = hashlib.sha256()
        for number in range(BLOCKS):
            stream.seek((size - BLOCK) * number // (BLOCKS - 1))
            total.update(stream.read(BLOCK))
        return total.hexdigest()


def fingerprint(path: Path) -> str:
    """sha256 over names and contents of a file, or of all files below a folder, for data sets and finished stages.

    Of a file above 64 MB only the size and the first and last MB are read.
    """
    total = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        total.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with open(file, "rb") as stream:
            if size <= WHOLE:
                total.update(stream.read())
            else:
                total.update(stream.read(2**20))
                stream.seek(-(2**20), os.SEEK_END)
                total.update(stream.read())
    return total.hexdigest()
