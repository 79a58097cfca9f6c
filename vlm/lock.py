"""One process for a folder."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vlm.errors import UserError


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold a folder for this process; freed by the kernel when the process ends, however it ends.

    A POSIX record lock, not flock: a worker that was forked off and outlives a killed run would keep an flock held.

    Raises:
        UserError: another process holds it.
    """
    with open(out / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"{out} is in use by another run (process {owner}): wait, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
