"""One attempt of ``benchmarks/kills.py``: run a command until a moment, send it a signal, and check what remains."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

from benchmarks.kill_stages import ROOT, KilledStage, environment
from configs.stopping import TERMINATED

PATIENCE = 120.0
"""Seconds that a process may take to stop after SIGTERM: a training stage writes a checkpoint first."""
ORPHAN_SECONDS = 10.0
"""Seconds that a child process may outlive its killed parent."""
LOOK_SECONDS = 0.02
MARK = "REFLECTION_V_KILLS"
"""The environment variable that marks all processes of an attempt, since some start sessions of their own."""


@dataclass(frozen=True)
class Life:
    """Seconds of an uninterrupted run until its first row, its last row and its end; and its rows."""

    first: float
    last: float
    end: float
    rows: int


@dataclass
class Kill:
    """One kill: its plan and its outcome."""

    signal: str
    group: bool
    phase: str
    share: float
    course: int = 0
    seconds: float = 0.0
    rows: int = 0
    exit: int | None = None

    def words(self) -> str:
        target = "process group" if self.group else "process"
        return f"{self.signal} to the {target} after {self.seconds:.1f} s ({self.phase}, {self.rows} rows, exit {self.exit})"


class Rows:
    """Counts the lines of a stage's growing files, reading only what has changed."""

    def __init__(self, folder: Path, patterns: Iterable[str]) -> None:
        self.folder, self.patterns = folder, tuple(patterns)
        self._known: dict[Path, tuple[tuple[int, int], int]] = {}

    def __call__(self) -> int:
        return sum(self._lines(file) for pattern in self.patterns for file in self.folder.glob(pattern))

    def _lines(self, file: Path) -> int:
        with suppress(FileNotFoundError):
            about = file.stat()
            state = (about.st_size, about.st_mtime_ns)
            if file not in self._known or self._known[file][0] != state:
                self._known[file] = (state, file.read_bytes().count(b"\n"))
            return self._known[file][1]
        return 0


class Attempt:
    """The command of a stage in its own session. Leaving the block ends it if it still runs."""

    running: ClassVar[set["Attempt"]] = set()

    def __init__(self, stage: KilledStage, folder: Path, log: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.mark = log, uuid.uuid4().hex
        self.count = Rows(folder, stage.rows)
        self.before = self.least = self.count()
        self.began = time.monotonic()
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                stage.command(folder),
                cwd=ROOT,
                env={**environment(), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        self.running.add(self)

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended():  # after it has ended, the system may give its id to another process
            self.send(signal.SIGKILL, True)
            self.process.wait()
        self.running.discard(self)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def grown(self) -> bool:
        """Whether this attempt has added a row. A resumed training first cuts its log back to its checkpoint."""
        now = self.count()
        self.least = min(self.least, now)
        return now > self.least

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, moment: float) -> None:
        """Wait until ``seconds`` reaches ``moment`` or the process has ended."""
        while not self.ended() and (left := moment - self.seconds) > 0:
            time.sleep(min(left, LOOK_SECONDS))

    def catches_sigterm(self) -> bool:
        """Whether the process has a SIGTERM handler by now; True without /proc."""
        with suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
        return True

    def send(self, number: int, group: bool) -> None:
        with suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def left_behind(self) -> list[str]:
        """Command lines of children that are alive ``ORPHAN_SECONDS`` after the main process; they are killed here."""
        end = time.monotonic() + ORPHAN_SECONDS
        while (alive := self._marked()) and time.monotonic() < end:
            time.sleep(0.2)
        found = []
        for process in alive:
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline())[:200])
                process.kill()
        return found

    def _marked(self) -> list[psutil.Process]:
        marked = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    marked.append(process)
        return marked

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "no output"


def live(stage: KilledStage, folder: Path, log: Path) -> Life:
    """Run a stage uninterrupted and note the times of its rows. Raises SystemExit if it fails."""
    first = last = None
    rows = 0
    with Attempt(stage, folder, log) as attempt:
        while not attempt.ended():
            if (now := attempt.count()) != rows:
                rows, last = now, attempt.seconds
                first = first or last
            time.sleep(LOOK_SECONDS)
        end, rows = attempt.seconds, attempt.count()
    if attempt.process.returncode or not stage.ended(folder) or first is None or last is None:
        raise SystemExit(f"{stage.name} fails without any kill: {attempt.last_words()} (see {log})")
    return Life(first, last, end, rows)


def wait_for_moment(attempt: Attempt, kill: Kill, life: Life) -> None:
    """Wait until it is time for the kill or the process has ended by itself."""
    complete = attempt.before >= life.rows
    if complete and kill.phase == "work":  # no work is left to kill: let this course end, so that the next one has work
        attempt.process.wait()
        return None
    if kill.phase == "start" or complete:
        return attempt.wait_until(kill.share * (life.first + (life.end - life.last if complete else 0)))
    while not attempt.ended() and not (attempt.count() >= life.rows if kill.phase == "end" else attempt.grown()):
        time.sleep(LOOK_SECONDS)
    left = (life.last - life.first) * (1 - attempt.count() / life.rows)
    # At most half of the rest, so that each course has room for several kills.
    return attempt.wait_until(
        attempt.seconds + kill.share * (life.end - life.last if kill.phase == "end" else left / 2)
    )


def strike(attempt: Attempt, kill: Kill, stage: KilledStage, folder: Path) -> list[str]:
    """Send the signal and wait for the end; returns the faults of the end."""
    number = getattr(signal, kill.signal)
    begun, caught = attempt.grown(), attempt.catches_sigterm()
    kill.seconds, kill.rows = round(attempt.seconds, 2), attempt.count()
    attempt.send(number, kill.group)
    try:
        kill.exit = attempt.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        attempt.send(signal.SIGKILL, True)
        attempt.process.wait()
        return [f"still running {PATIENCE:.0f} s after {kill.words()}"]
    done = stage.ended(folder)
    if number == signal.SIGKILL:
        allowed = {-signal.SIGKILL, 0} if done else {-signal.SIGKILL}
    else:
        allowed = {TERMINATED, 0} if done else {TERMINATED}
        # Without a handler the default action applies: during imports, and after the interpreter has shut down.
        allowed |= {-signal.SIGTERM} if not caught and (done or not begun) else set()
    if kill.exit in allowed:
        return []
    wanted = " or ".join(map(str, sorted(allowed)))
    return [f"{kill.words()}: expected exit {wanted}; its last line: {attempt.last_words()}"]
