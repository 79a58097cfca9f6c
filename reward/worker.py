"""Whatever reads a model's output runs in a child process with a limit of CPU time, of clock time and of memory.

The child is forked from a server that has imported and warmed up what the job needs, so a new one costs milliseconds. The
limits are timers of the kernel whose default action ends the process: they also end a loop inside of C code, on any thread
of the caller (math-verify's own timeout is a Python signal handler of the main thread). A job that was ended is a
``timeout``, which is a verdict of its own. The main limit is CPU time: wall-clock time depends on the
load of the machine, so verdicts would differ from run to run.
"""

import atexit
import contextlib
import json
import os
import pickle
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UserError
from configs.machine import cores_a_rank

T = TypeVar("T")
R = TypeVar("R")

START_SECONDS = 300.0
"""Importing the algebra system takes a second, and much more on a loaded machine. No job's limit includes it."""
GRACE_SECONDS = 5.0
"""After the clock's limit, the server has this long to report that its child was ended."""


class Worker:
    """One server and its child, started at the first request. Safe to call from several threads, one job at a time.

    Args:
        kind: what ``worker_server`` is to prepare: ``answers``, ``expressions``, or ``FILE:FUNCTION`` of a user's reward.
        cpu_seconds, clock_seconds: limits of one job; 0 CPU seconds: a limit measured on this machine (``expressions``).
        megabytes: limit of the child's address space; None for no limit.
    """

    def __init__(self, kind: str, cpu_seconds: float, clock_seconds: float, megabytes: int | None = 2048) -> None:
        self.kind, self.cpu_seconds, self.clock_seconds, self.megabytes = kind, cpu_seconds, clock_seconds, megabytes
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._read = b""

    def ask(self, request: Any, share: float = 1.0) -> Any:
        """The job's reply (plain JSON), or None if it was ended by a limit.

        Args:
            share: share of the CPU seconds, for a job that will probably time out.

        Raises:
            UserError: the server does not start; the message holds its error.
        """
        with self._lock:
            server = self._running()
            self._number += 1
            # Pickle goes to the child only. Its replies are JSON, since a child that reads hostile text is not trusted.
            sent = pickle.dumps((self._number, request, share))
            try:
                assert server.stdin is not None
                server.stdin.write(len(sent).to_bytes(8, "big") + sent)
                server.stdin.flush()
                end = time.monotonic() + self.clock_seconds + GRACE_SECONDS
                while (line := self._read_line(server, end - time.monotonic())) is not None:
                    message = json.loads(line)
                    if message["number"] == self._number:  # an older number replies to a job that was given up
                        return message["reply"]
            except OSError:
                pass
            except BaseException:  # Ctrl-C: a reply still in the pipe must not answer the next job
                self._stop()
                raise
            self._stop()
            return None

    def start(self) -> None:
        """Start the server now, so that a fault in it is reported now."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the server and its child."""
        with self._lock:
            self._stop()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._server is not None and self._server.poll() is None:
            return self._server
        self._stop()
        limits = [str(self.cpu_seconds), str(self.clock_seconds), str(self.megabytes or 0)]
        # -P: the working directory puts no module in the way of the libraries'.
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker_server.py")), self.kind, *limits]
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, to be ended with its child
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        line = self._read_line(self._server, START_SECONDS)
        message = json.loads(line) if line else {"failed": "it ended, or gave no sign of life"}
        if "failed" in message:
            self._stop()
            raise UserError(f"The process that reads answers ({self.kind}) did not start: {message['failed']}.")
        return self._server

    def _read_line(self, server: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        assert server.stdout is not None
        end, last_chance = time.monotonic() + seconds, True
        with selectors.DefaultSelector() as selector:
            selector.register(server.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left = end - time.monotonic()
                if left <= 0 and last_chance:  # this process may itself have been suspended
                    left, last_chance = 0.5, False
                if left <= 0 or not selector.select(left):
                    return None
                piece = os.read(server.stdout.fileno(), 65536)
                if not piece:
                    return None
                self._read += piece
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _stop(self) -> None:
        if self._server is not None:
            # macOS says "not permitted" of a group whose processes have all ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._server, self._read = None, b""


class Pool:
    """Workers of one kind, as many as jobs come at once and cores there are; each starts when it is first needed.

    Nothing is made before the first request: a pool may stand in a module that is imported for something else.
    """

    def __init__(self, kind: str, cpu_seconds: float, clock_seconds: float, megabytes: int | None = 2048) -> None:
        self._limits = (kind, cpu_seconds, clock_seconds, megabytes)
        self._opening = threading.Lock()
        self._workers: list[Worker] = []
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()

    @property
    def workers(self) -> list[Worker]:
        """All workers; none of them is started by asking."""
        self._open()
        return self._workers

    def _open(self) -> None:
        with self._opening:
            if self._workers:
                return
            self._workers = [Worker(*self._limits) for _ in range(cores())]
            for worker in self._workers:
                self._idle.put(worker)
            atexit.register(self.close)

    def ask(self, request: Any, share: float = 1.0) -> Any:
        """``Worker.ask`` of an idle worker; waits for one."""
        self._open()
        worker = self._idle.get()
        try:
            return worker.ask(request, share)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers; a later request starts them again."""
        for worker in self._workers:
            worker.close()


def cores() -> int:
    """The workers of a kind that this process may have: a core each, 8 at most."""
    return min(8, cores_a_rank())


def map_in_threads(job: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``job`` of each item, in order, on as many threads as ``cores``: each waits for a worker, none computes."""
    items = list(items)
    if len(items) < 2 or cores() == 1:
        return [job(item) for item in items]
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(job, items))
