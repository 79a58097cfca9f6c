"""Symbolic equality in a child process that can be killed: model output may hold expressions that never finish.

math-verify's own timeout uses a signal, which does nothing outside the main thread; here the parent waits with a
deadline and ends the child, so that ``9**9**9`` costs seconds and never the run. The child keeps no state between
requests.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

Answer = Literal["equal", "different", "unreadable", "timeout"]

MAX_EXPRESSION = 500
MAX_NESTING = 30

START_SECONDS = 60.0
"""Importing the algebra system takes a second, more on a loaded machine; no request pays for it."""


class ExpressionWorker:
    """One child process, started at the first request and again after a kill. Safe to call from several threads."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def compare(self, answer: str, gold: str) -> Answer:
        """Whether two expressions are equal; ``timeout`` is a verdict of its own and does not mean different."""
        with self._lock:
            child = self._running()
            if child is None:
                return "timeout"
            request = json.dumps({"answer": answer, "gold": gold}).encode() + b"\n"
            try:
                assert child.stdin is not None
                child.stdin.write(request)
                child.stdin.flush()
            except OSError:
                self._stop()
                return "timeout"
            line = self._read_line(child, self.seconds)
            if line is None:
                self._stop()
                return "timeout"
            said = json.loads(line)["verdict"]
            return said if said in ("equal", "different") else "unreadable"

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[bytes] | None:
        if self._child is not None and self._child.poll() is None:
            return self._child
        worker = Path(__file__).with_name("expression_worker.py")
        # -I: neither the working directory nor PYTHONPATH can put another module in the child's way.
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._read_line(self._child, START_SECONDS) is None:
            self._stop()
        return self._child

    def _read_line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        assert child.stdout is not None
        end, read = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not read.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                piece = os.read(child.stdout.fileno(), 65536)
                if not piece:  # the child died, for instance at its memory limit
                    return None
                read += piece
        return read

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None


_WORKER = ExpressionWorker()
atexit.register(_WORKER.close)


def compare_expressions(answer: str, gold: str) -> Answer:
    """``ExpressionWorker.compare`` of the process-wide worker, within limits of length and nesting."""
    if not (_bounded(answer) and _bounded(gold)):
        return "unreadable"
    return _WORKER.compare(answer, gold)


def _bounded(text: str) -> bool:
    """Whether the text is short and its brackets are shallow; the grammar's time grows steeply with both."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return len(text) <= MAX_EXPRESSION and deepest <= MAX_NESTING
