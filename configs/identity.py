"""What a model or a data set is known by: the content of its files, wherever they are. Which files make a model: ``vlm.identity``."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

WHOLE = 64 << 20
"""Bytes: a larger file counts by its size and ``BLOCKS`` blocks; a checkpoint of 7 billion parameters would take half a minute."""
BLOCKS, BLOCK = 256, 1 << 14


def data_sha256(path: str | Path) -> str:
    """sha256 of a data set's JSON Lines file (its images are named in it, not read)."""
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
    """sha256 of a file, of blocks spread evenly over it where it is large; kept as long as the file does not change."""
    with open(file, "rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        total = hashlib.sha256()
        for number in range(BLOCKS):
            stream.seek((size - BLOCK) * number // (BLOCKS - 1))
            total.update(stream.read(BLOCK))
        return total.hexdigest()


def fingerprint(path: Path) -> str:
    """sha256 over the names and contents of a file, or of all files below a folder: of data sets and of finished stages.

    Of a file above 64 MB only the size and the first and last MB count.
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
