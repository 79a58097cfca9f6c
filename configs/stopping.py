"""SIGTERM, with which schedulers and containers end a process that they will start again, stops the work like Ctrl-C.

The exit code is 130 after Ctrl-C and 75 (temporary failure) after SIGTERM, so that a scheduler can start the same command
again. Training first finishes its step and writes a checkpoint (``deferred``).
"""

import atexit
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from configs.errors import UserError

INTERRUPTED, TERMINATED = 130, 75

_received = False
_deferred = 0


class Stopped(UserError):
    """The work was stopped by Ctrl-C or SIGTERM. What is complete is kept, and the same command does the rest.

    Args:
        exit_code: by default that of the signal that this process received.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = stopped_code() if exit_code is None else exit_code


class Terminated(KeyboardInterrupt):
    """SIGTERM. A class of its own, because a KeyboardInterrupt during an import makes ``python -m`` ignore the exit code."""


def watch_sigterm() -> None:
    """Let SIGTERM stop the work like Ctrl-C. Does nothing outside of the main thread, where Python handles no signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)
        atexit.unregister(_ignore)
        atexit.register(_ignore)


def _ignore() -> None:
    """Ignore SIGTERM while the interpreter ends. Python would restore the default handler, and the exit code would be lost."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def sigterm_received() -> bool:
    """Whether SIGTERM has arrived."""
    return _received


def stopped_code() -> int:
    """The exit code of work that was stopped."""
    return TERMINATED if _received else INTERRUPTED


def stop_if_asked() -> None:
    """Stop if SIGTERM arrived while it was deferred; called between two pieces of work.

    Raises:
        Terminated: SIGTERM arrived.
    """
    if _received:
        raise Terminated


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this context SIGTERM is only recorded; the work calls ``sigterm_received`` where it can stop."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    if _deferred:
        return
    # asyncio handles SIGINT by cancelling its main task. SIGTERM must do the same.
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt) and interrupt is not signal.default_int_handler:
        interrupt(signal.SIGINT, frame)
    else:  # also if SIGINT is ignored, as in a background job of a script
        raise Terminated
