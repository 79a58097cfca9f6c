"""Launches of DeepSpeed for ``benchmarks/two_hosts.py``: a command, its environment, its end, and what each process printed."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
HANGS_AFTER = 900.0  # seconds; a run takes one or two minutes on two busy cores
SENTENCE = re.compile(r"^error: (.+)$", re.M)
FIXED = {
    **{"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    **{"PYTHONFAULTHANDLER": "1"},
}
"""The environment of every process."""


def command(stage: str, config: Path, out: Path, logs: Path, launcher: Sequence[str]) -> list[str]:
    """DeepSpeed's launcher with a stage's script; the output of each process goes into a file of its own under ``logs``."""
    start = [sys.executable, "-m", "deepspeed.launcher.runner", *launcher, "--enable_each_rank_log", str(logs)]
    return [*start, f"train/{stage}.py", "--config", str(config), "--output_dir", str(out)]


def on_another(line: Sequence[str], variables: Mapping[str, object]) -> str:
    """The line of shell that runs a command in the project's folder with these variables."""
    given = [f"{name}={value}" for name, value in variables.items()]
    return f"cd {shlex.quote(str(ROOT))} && exec env {shlex.join(given)} {shlex.join(line)}"


@dataclass
class Outcome:
    """How a launch ended: the launcher's exit code (None: it had to be ended), seconds, and what each process printed."""

    code: int | None
    seconds: float
    said: dict[int, str]

    def sentences(self) -> dict[int, str]:
        """The last error sentence of each process; absent where there is none or a traceback stands beside it."""
        return {rank: found for rank, text in self.said.items() if (found := error_sentence(text))}


def error_sentence(text: str) -> str | None:
    """The error sentence in a process's output; None without one, or where a traceback was printed."""
    found = SENTENCE.findall(text)
    return found[-1] if found and "Traceback (most recent call last)" not in text else None


class Launch:
    """A launcher in a session of its own."""

    def __init__(self, line: Sequence[str], variables: Mapping[str, str], logs: Path) -> None:
        self.logs, self.began = logs, time.monotonic()
        with open(logs / "launcher.log", "wb") as output:
            self.process = subprocess.Popen(
                line,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, within: float = HANGS_AFTER) -> Outcome:
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(within)
        self.end()
        return self.outcome(code)

    def outcome(self, code: int | None = None) -> Outcome:
        """What has been printed by now."""
        files = {int(file.stem.rpartition("rank")[2]): file for file in sorted(self.logs.glob("*_rank*.log"))}
        said = {rank: file.read_text(errors="replace") for rank, file in files.items()}
        return Outcome(code, time.monotonic() - self.began, said)

    def wait_for(self, file: Path) -> None:
        """Wait until a file is there. Raises UserError where the launch ends before, or hangs."""
        if not wait_for(lambda: file.exists() or self.process.poll() is not None, HANGS_AFTER) or not file.exists():
            raise UserError(f"The launch ended or hung before {file} was there: read {self.logs}.")

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_for(holds: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
