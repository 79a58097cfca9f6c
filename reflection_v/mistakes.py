"""What a command says of a user's mistake: one sentence on standard error, and an exit code."""

import errno
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from reflection_v.files import disk_full
from vlm.errors import UserError

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class Guarded(TyperGroup):
    """A command group in which a user's mistake ends as a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            explained = explain(error)
            if explained is None:
                raise
            sentence, code = explained
            print(f"reflection-v: {sentence}", file=sys.stderr)
            raise typer.Exit(code) from None


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that a user can mend; None for a bug."""
    if isinstance(error, BaseExceptionGroup):  # tasks that ran side by side: the first that says something
        return next((found for inner in error.exceptions if (found := explain(inner))), None)
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Stopped. What was finished is kept; the same command does the rest.", 130
    path = getattr(error, "filename", None) or Path.cwd()
    if disk_full(error):
        return f"The disk is full: {path} could not be written. Free some space, then try again.", 1
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        return f"{path} cannot be used: {error.strerror}. Choose another path.", 1
    return None
