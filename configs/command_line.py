"""Shared by the commands: a user's mistake ends as one sentence on standard error and an exit code."""

import contextlib
import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from configs.errors import UserError, memory_error
from configs.processes import is_main_process, lost_connection
from configs.run_dir import disk_full
from configs.stopping import stopped_code, watch_sigterm
from configs.versions import CORE, declared, extra_of, install_command, is_installed, warn_outside_range

WITHOUT_MODELS = ("problems", "doctor")
"""Commands that load no model: they print no line about versions."""
WITHOUT_WORK = ("demo", "doctor")
"""Commands without work to resume: SIGTERM ends them at once."""
BY_LAUNCHER = ("sft", "grpo")
"""Commands that a launcher may start as several processes: the first one prints."""
UNUSABLE_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

KeyName = Annotated[
    str | None,
    typer.Option(
        "--api_key_env", "--api-key-env", help="Name of the environment variable that holds the server's key."
    ),
]


class Guarded(TyperCommand):
    """A command in which a user's mistake ends as a sentence and an exit code.

    Commands that load models first print the packages that are newer or older than the tested ones.
    """

    def invoke(self, ctx: Any) -> Any:
        with contextlib.suppress(AttributeError):  # whoever captures the output may not offer it
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # texts may hold half of a surrogate pair
        if self.name not in WITHOUT_WORK:
            watch_sigterm()
        try:
            if self.name not in WITHOUT_MODELS and (self.name not in BY_LAUNCHER or is_main_process()):
                warn_outside_range()
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            explained = explain(error)
            if explained is None:
                raise
            sentence, code = explained
            print(f"{ctx.parent.command.name}: {sentence}" if ctx.parent else sentence, file=sys.stderr)
            raise typer.Exit(code) from None


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that a user can fix; None for a bug, which keeps its traceback."""
    if isinstance(error, BaseExceptionGroup):  # concurrent tasks: the first error that a user can fix
        return next((found for inner in error.exceptions if (found := explain(inner))), None)
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Stopped. What was finished is kept; the same command does the rest.", stopped_code()
    if isinstance(error, ImportError):
        sentence = explain_import(error)
        return (sentence, 1) if sentence else None
    if (full := memory_error(error) or lost_connection(error)) is not None:
        return str(full), full.exit_code
    path = getattr(error, "filename", None) or Path.cwd()
    if disk_full(error):
        return f"The disk is full: {path} could not be written. Free some space, then try again.", 1
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder: give the path of a file.", 1
    if isinstance(error, OSError) and error.errno in UNUSABLE_PATH:
        return f"{path} cannot be used: {error.strerror}. Choose another path.", 1
    return None


def explain_import(error: ImportError) -> str | None:
    """The sentence for a missing package or a release that does not fit; None for a module of this project."""
    module = (error.name or "").partition(".")[0]
    extra = extra_of(module)
    if isinstance(error, ModuleNotFoundError) and module and not is_installed(module):
        if (Path(__file__).parent.parent / module).is_dir():
            return None  # one of this project's own folders
        used = f" (the extra '{extra}')" if extra else ""
        return f"The package {module}{used} is not installed: {install_command(extra or CORE)}"
    if extra is not None:
        package = next(one.package for one in declared() if one.module == module)
        return f"The installed {package} does not fit ({error}): {install_command(extra)} brings a tested release."
    return None
