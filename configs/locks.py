"""Locks: only one process at a time writes into a folder or a file."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from configs.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[Path, int] = {}  # lock files that this process holds, and how often


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Lock a folder for this process until the block ends. The kernel releases the lock when the process ends for any reason.

    The lock is reentrant: a stage locks its folder, and so does the command that runs the stage.

    Raises:
        UserError: another process holds it.
    """
    with lock_file(Path(folder) / ".lock", folder):
        yield


@contextlib.contextmanager
def lock_beside(file: Path) -> Iterator[None]:
    """``lock`` for a single file: locks ``.NAME.lock`` beside it, which is removed afterwards."""
    place = file.with_name(f".{file.name}.lock")
    with lock_file(place, file):
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def wait_for_lock(file: Path) -> Iterator[None]:
    """Wait until no other process is inside such a block for ``file``: for a log that several commands share.

    Between threads of one process it excludes nothing.
    """
    with open(file.with_name(f".{file.name}.lock"), "a+", encoding="utf-8") as held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


@contextlib.contextmanager
def lock_file(path: Path, held_for: str | Path) -> Iterator[None]:
    """Lock the file ``path``, which is created if needed, on behalf of ``held_for``, which the error names; see ``lock``.

    This is a POSIX record lock and not flock: a forked worker that outlives an interrupted run would keep an flock. A process
    loses a record lock when it closes any handle of the file, so an inner lock must not open it again.
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
            f"{held_for} cannot be locked, because {path} belongs to another user: remove that file, or choose another output folder."
        ) from None
    with file:
        _acquire(file, held_for)
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            # The last holder removed the file after we opened it, and another process may have locked a new one of that name.
            raise UserError(f"Another run has just released {held_for}: give the same command again.")
        _held[path] = 1
        try:
            yield
        finally:
            del _held[path]


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of ``lock_file``; false if the file is gone. For files that this process never locks."""
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or a file system without locks
        return True
    return False


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
