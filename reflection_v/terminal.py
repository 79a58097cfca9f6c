"""Terminal output of a run: one line per stage. Everything that a stage prints goes to its log."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

HEARTBEAT = 2.0  # seconds: a kill can lose this much of a stage's counted time


def terminal() -> Console:
    """A console on the real standard output, which stays usable while a stage's output is redirected to its log."""
    try:
        stream: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    except (OSError, ValueError):  # standard output is no file, as in a notebook
        stream = sys.stdout
    return Console(file=stream)


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Redirect the file descriptors 1 and 2 to ``log``, so that output of C++ code and child processes goes there, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk: the first error is already being raised
                stream.flush()
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)
            os.close(old)


@contextlib.contextmanager
def heartbeat(name: str, log: Path, console: Console, beat: Callable[[], None]) -> Iterator[None]:
    """Call ``beat`` every few seconds. On a terminal, also show a live line: stage, time, the last line of its log."""
    over = threading.Event()
    last = TextColumn("[dim]{task.fields[last]}")
    columns = SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn(), last
    # redirect_*=False, because rich would otherwise print the stage's output on the terminal.
    live = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)

    def pulse(task: TaskID) -> None:
        while not over.wait(HEARTBEAT):
            beat()
            live.update(task, last=last_line(log))

    with live if console.is_terminal else contextlib.nullcontext():
        if not console.is_terminal:
            console.print(f"{name:<9} ...", highlight=False, soft_wrap=True)
        thread = threading.Thread(target=pulse, args=(live.add_task(f"{name:<9}", total=None, last=""),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def last_line(log: Path) -> str:
    """The first 60 characters of a log's last line. Progress bars rewrite a line after a carriage return."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 2000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1][:60].replace("[", r"\[") if lines else ""


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 12 s`` or ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
