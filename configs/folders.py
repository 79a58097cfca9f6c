"""Output folders: one process at a time writes into one, and nothing in it is overwritten that this project did not write."""

import contextlib
import errno
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from configs.errors import UserError

TOKENIZER_FILES = ("vocab.txt", "merges.txt")
"""Files of tokenizers that end like notes of a person."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[Path, int] = {}  # lock files that this process holds, and how often


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder for this process until the block ends; the kernel frees it when the process ends, however it ends.

    A process may enter a folder that it holds already: a stage locks its folder, and so does the command that runs it.

    Raises:
        UserError: another process holds it.
    """
    with lock_file(Path(folder) / ".lock", folder):
        yield


@contextlib.contextmanager
def lock_beside(file: Path) -> Iterator[None]:
    """``lock`` of a single file: holds ``.NAME.lock`` beside it, which is removed afterwards."""
    place = file.with_name(f".{file.name}.lock")
    with lock_file(place, file):
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_file(path: Path, held_for: str | Path) -> Iterator[None]:
    """Hold ``path``, made where it does not exist, in the name of ``held_for``, which the error names; see ``lock``.

    A POSIX record lock, not flock: a worker that was forked off and outlives a killed run would keep an flock held. A
    process loses such a lock when it closes the file anywhere, so a lock within a lock opens nothing.
    """
    path = path.resolve()
    if path in _held:
        _held[path] += 1
        try:
            yield
        finally:
            _held[path] -= 1
        return
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # closed below
    except PermissionError:
        raise UserError(
            f"{held_for} cannot be held, since {path} belongs to another user: remove that file, or choose another output folder."
        ) from None
    with file:
        _acquire(file, held_for)
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            # Its last holder removed it between the two lines above: another process may hold a new file of that name.
            raise UserError(f"{held_for} was in use until now by another run: give the same command again.")
        _held[path] = 1
        try:
            yield
        finally:
            del _held[path]


def _acquire(file: IO[str], held_for: str | Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            print(f"{held_for} is on a file system without locks: start one command at a time there.", file=sys.stderr)
            return
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        owner = file.read().strip() or "unknown"
        raise UserError(
            f"{held_for} is in use by another run (process {owner}): wait until it has ended, or choose another output folder."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def refuse_foreign(folder: str | Path, writes: Sequence[str], is_ours: Callable[[Path], bool], stage: str) -> None:
    """Refuse a folder that holds files where a stage would write, unless the stage itself wrote them.

    Args:
        writes: patterns of the names that the stage writes. Other files, such as a job's log, may lie there.
        is_ours: whether the stage has written into this folder before.
        stage: what the sentence calls the stage.

    Raises:
        UserError: names what was found.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    found = sorted({path.name for pattern in writes for path in folder.glob(pattern)})
    if not found or is_ours(folder):
        return
    names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    raise UserError(f"{folder} holds {names}, which no {stage} wrote: choose an empty folder for the output.")


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be a record of a stage; {} where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


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
