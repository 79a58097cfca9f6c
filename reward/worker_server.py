"""The other end of ``reward.worker``: prepares for one kind of job, then forks a child that does the jobs. Run as a file.

    python -P worker_server.py KIND CPU_SECONDS CLOCK_SECONDS MEGABYTES

It reads pickles (number, request, share of the CPU seconds) and writes one JSON line with the same number for each. The child
shares the server's pipes; if a limit ends it, the server reports that in its place and forks the next one. Between jobs a child
keeps no state but the grammar caches of the libraries. These caches matter: the first text of a kind takes ten times as long as
the next. So a child that has done some jobs becomes the server of a child of its own, and the caches survive that child's end.
"""

import contextlib
import ctypes
import gc
import importlib.util
import json
import mmap
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

Job = Callable[[Any], Any]

STAYS_AFTER = (10, 20, 40, 80, 160, 320)
"""Jobs after which a child becomes the server of the next one."""
BUNDLED = ("answers", "expressions")
CLOSED = 77
"""Exit code of a child whose caller has closed the pipe."""
PR_SET_PDEATHSIG = 1
BEFORE = 20
"""Factor on the CPU limit for parsing a gold answer, which a problem's author wrote and not a model."""


def main() -> None:
    # A launcher may pass SIGTERM to all processes of a job. The step under way still needs its grades, so this process ends
    # only when its caller closes the pipe.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kind, cpu_seconds, clock_seconds, megabytes = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    requests, replies = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # a library that prints must not disturb the replies
    root = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, root)
    try:
        before, job, paced = prepare_job(kind)
    except Exception as error:
        write_line(replies, {"failed": f"{type(error).__name__}: {error}"})
        return
    cpu_seconds = cpu_seconds or paced
    write_line(replies, {"ready": True})
    open_job = mmap.mmap(-1, 9)  # number of the job under way, and whether it has begun; shared by all of the chain
    levels = STAYS_AFTER if kind in BUNDLED else ()  # a user's code may not outlive a fork
    depth = 0
    gc.freeze()  # a collection in the child would touch, and so copy, every object of the libraries
    while True:
        try:
            child = os.fork()
        except OSError:
            if not depth:
                raise
            child, levels = 0, ()  # no room for another process: go on without a child
        else:
            if child == 0:
                die_with_parent()
        if child == 0:
            if megabytes and not depth:
                limit_memory(megabytes << 20)
            jobs = levels[depth] if depth < len(levels) else None
            if serve_jobs(before, job, requests, replies, cpu_seconds, clock_seconds, jobs, open_job):
                os._exit(CLOSED)
            depth += 1
            gc.freeze()
            continue
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == CLOSED:
            os._exit(CLOSED)
        number, begun = int.from_bytes(open_job[:8], "big"), open_job[8]
        if number:  # else it was ended between two jobs, and nobody waits
            open_job[:] = bytes(9)
            write_line(replies, {"number": number, "reply": lost_reply(kind, bool(begun), status)})


def lost_reply(kind: str, begun: bool, status: int) -> Any:
    """The reply in place of a child that ended during a job: None (a timeout) if a limit ended it.

    Args:
        begun: False while the child prepared for the job.
        status: of ``os.waitpid``.
    """
    if not begun:
        return {"unjudged": "it takes too long"}
    by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    # The verifiers are this project's: a text that ends one, by the limit of memory for instance, counts as a timeout.
    if kind in BUNDLED or by_signal in (signal.SIGALRM, signal.SIGPROF):
        return None
    return {"crash": f"exit code {os.WEXITSTATUS(status)}" if by_signal is None else signal_name(by_signal)}


def signal_name(number: int) -> str:
    """``SIGSEGV``, or ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def limit_memory(size: int) -> None:
    """Limit the address space of this process, where the system knows such a limit.

    macOS refuses one below what a process has mapped already, which is far more there than it uses. A child that ended for
    it would be forked anew for ever, so it goes on: the limits of time hold by themselves.
    """
    with contextlib.suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def die_with_parent() -> None:
    """End this process with its parent. Otherwise two children would read one pipe: the grandparent forks a new one."""
    with contextlib.suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prepare_job(kind: str) -> tuple[Job, Job, float]:
    """(preparation of a job, the job, CPU seconds that it may take if the caller passes 0) for a kind of job.

    Everything that they need is imported and warmed up here.
    """

    def nothing(request: Any) -> None: ...

    if kind in BUNDLED:
        from reward.verifiers import VERIFIERS

        before, paced = nothing, 1.0
        if kind == "expressions":
            from reward.expression import readable, warm_up

            paced = warm_up()

            def before(request: Any) -> None:
                readable(request[2])

        def grade(request: Any) -> Any:
            verdict = VERIFIERS[request[0]](*request[1:])
            return {"score": verdict.score, "parts": verdict.parts, "reason": verdict.reason}

        return before, grade, paced
    path, _, name = kind.rpartition(":")
    sys.path.append(str(Path(path).resolve().parent))  # for modules beside it
    spec = importlib.util.spec_from_file_location("user_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["user_reward"] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"there is no function '{name}' in {path}")

    from reward.user import as_reply

    return nothing, lambda rollout: as_reply(function, rollout), 1.0


def serve_jobs(
    before: Job,
    job: Job,
    requests: BinaryIO,
    replies: BinaryIO,
    cpu_seconds: float,
    clock_seconds: float,
    jobs: int | None,
    open_job: mmap.mmap,
) -> bool:
    """Do ``jobs`` jobs (None: all that come). True when the pipe was closed.

    The timers' signals have no handler, so the kernel ends the process, also inside C code.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while (size := read_bytes(requests, 8)) and (sent := read_bytes(requests, int.from_bytes(size, "big"))):
        number, request, share = pickle.loads(sent)
        open_job[:] = number.to_bytes(8, "big") + b"\0"
        signal.setitimer(signal.ITIMER_REAL, clock_seconds)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds * BEFORE)
        whose = "unjudged"  # a gold answer that cannot be parsed must not count against the response
        try:
            before(request)
            whose, open_job[8] = "error", 1
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds * share)
            reply = job(request)
        except BaseException as error:  # hostile input may raise anything; SystemExit must not end the child
            reply = {whose: f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        open_job[:] = bytes(9)
        write_line(replies, {"number": number, "reply": reply})
        if jobs is not None:
            jobs -= 1
            if not jobs:
                return False
    return True


def read_bytes(pipe: BinaryIO, size: int) -> bytes:
    """``size`` bytes; fewer where the pipe was closed. Unbuffered: the next child finds the next request in the pipe."""
    parts = []
    while size and (part := pipe.read(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_line(pipe: BinaryIO, message: Any) -> None:
    """One JSON line, whole."""
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[pipe.write(line) or 0 :]


if __name__ == "__main__":
    main()
