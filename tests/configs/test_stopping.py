"""SIGTERM stops the work as Ctrl-C does, with an exit code of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """
import asyncio, os, signal, sys, time
from configs.stopping import deferred, sigterm_received, stop_if_asked, stopped_code, watch_sigterm
watch_sigterm()
def end(what):
    print(what, flush=True)
    os._exit(stopped_code())
def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
"""
PLAIN = """
try:
    terminate()
except KeyboardInterrupt:
    end("stopped")
"""
IGNORED = "signal.signal(signal.SIGINT, signal.SIG_IGN)" + PLAIN
ASYNC = """
async def work():
    try:
        asyncio.get_running_loop().call_later(0.1, terminate)
        await asyncio.sleep(60)
    finally:
        print("tidy", flush=True)
try:
    asyncio.run(work())
except KeyboardInterrupt:
    end("stopped")
"""
DEFERRED = """
with deferred():
    terminate()
    print("finished its step", sigterm_received(), flush=True)
try:
    stop_if_asked()
except KeyboardInterrupt:
    end("stopped")
"""
AT_EXIT = """
print("done", flush=True)
import atexit
atexit._run_exitfuncs()
os.kill(os.getpid(), signal.SIGTERM)
"""
CTRL_C = """
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt:
    end("stopped")
"""


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (PLAIN, 75, "stopped\n"),
        (IGNORED, 75, "stopped\n"),  # as a background job of a script starts
        (ASYNC, 75, "tidy\nstopped\n"),
        (DEFERRED, 75, "finished its step True\nstopped\n"),
        (CTRL_C, 130, "stopped\n"),
        (AT_EXIT, 0, "done\n"),  # the work is done, and its exit code stands
    ],
)
def test_sigterm_stops_the_work(work: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + work], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, said, "")


def test_python_m_ends_with_the_code_also_where_an_import_is_stopped(tmp_path: Path) -> None:
    """A KeyboardInterrupt that leaves a piece of text that is being executed, as namedtuple has one, is remembered."""
    (tmp_path / "stopped.py").write_text(
        "import os, signal, sys\nfrom configs.stopping import stopped_code, watch_sigterm\nwatch_sigterm()\n"
        "try:\n    exec('os.kill(os.getpid(), signal.SIGTERM)')\nexcept KeyboardInterrupt:\n    sys.exit(stopped_code())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    done = subprocess.run([sys.executable, "-m", "stopped"], env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 75


def test_outside_of_the_main_thread_nothing_changes() -> None:
    code = (
        "import threading\nfrom configs.stopping import watch_sigterm\nthreading.Thread(target=watch_sigterm).start()\n"
    )
    code += "import signal\nassert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
