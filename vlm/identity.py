"""What a model is known by: the content of its files, wherever they are, and not the name of their folder."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

WHOLE = 64 << 20
"""Bytes: a larger file counts by its size and ``BLOCKS`` blocks; a checkpoint of 7 billion parameters would take half a minute."""
BLOCKS, BLOCK = 256, 1 << 14
MODEL_FILES = (
    *(
        "*.safetensors",
        "*.bin",
        "*.pt",
        "*.pth",
        "*.index.json",
        "*config*.json",
        "*token*.json",
        "vocab*",
        "merges.txt",
    ),
    *("*.model", "*.tiktoken", "chat_template*", "*.jinja"),
)
NOT_MODEL = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args*")
"""What a checkpoint holds for training alone."""
SCHEME = "blocks:"
"""Stands before the fingerprint of a model, since earlier versions computed another one (``fingerprint``)."""


def model_identity(name: str | Path) -> str | None:
    """The fingerprint of the files of a bundled model or a local folder; None for a hub name or a served model.

    A model that was trained further in place has another one; a folder that was moved or copied has the same.

    Raises:
        UserError: a bundled model whose folder is not there.
    """
    folder = model_folder(name)
    return None if folder is None else SCHEME + _digest(folder, _model_files(folder))


def model_folder(name: str | Path) -> Path | None:
    """The folder of a bundled or local model; None for a hub name or a served model. Errors as ``model_identity``."""
    from vlm.load import BUNDLED, bundled_model

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    return bundled_model(str(name)) if str(name) in BUNDLED else None


def _model_files(folder: Path) -> list[Path]:
    files = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in files if not any(file.match(pattern) for pattern in NOT_MODEL))


def _digest(folder: Path, files: list[Path]) -> str:
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
