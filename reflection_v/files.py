"""Folders that can be written, and full disks."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from configs.folders import lock


def make_folder(folder: str | Path) -> None:
    """Make ``folder`` and prove that it can be written.

    Raises:
        UserError: it cannot; says why.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written: {error.strerror}. Choose another --out.") from None


@contextlib.contextmanager
def writing_to(folder: str | Path | None) -> Iterator[None]:
    """Make and hold ``folder`` (where one is given), and name it when the disk fills up: a failed write often names no file.

    Raises:
        UserError: the folder cannot be written, another process holds it, or the disk is full.
    """
    if folder is None:
        yield
        return
    make_folder(folder)
    try:
        with lock(folder):
            yield
    except Exception as error:
        if disk_full(error):
            sentence = f"The disk is full: {folder} could not be written. Free some space, then give the same command."
            raise UserError(sentence) from None
        raise


def disk_full(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that the disk or the quota is used up.

    The writers of tensors are not Python: they raise their own types with the system's words in the text.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()  # an exception raised out of its group has the group as its context: a circle
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(one).lower() for words in ("no space left on device", "disk quota exceeded")):
            return True
        waiting += [one.__cause__ or one.__context__, *getattr(one, "exceptions", ())]
    return False
