"""The killable worker: replies belong to their requests whatever dies in between."""

import json
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import reward.worker
from reward import worker_server
from reward.worker import Pool, Worker
from reward.worker_server import STAYS_AFTER, limit_memory, serve_jobs

SAME = ("count", "7", "7", None)
OTHER = ("count", "7", "8", None)


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker("answers", cpu_seconds=1, clock_seconds=20)
    yield one
    one.close()


def chain(worker: Worker) -> list[psutil.Process]:
    """Server, keepers, and last the child that does the jobs."""
    assert worker._server is not None
    found = [psutil.Process(worker._server.pid)]
    while children := found[-1].children():
        found += children
    return found


def wait_for(condition: "object") -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_child_that_has_learned_becomes_a_keeper(worker: Worker) -> None:
    for _ in range(STAYS_AFTER[0] + STAYS_AFTER[1] + 1):
        assert worker.ask(SAME)["score"] == 1.0
    wait_for(lambda: len(chain(worker)) == 4)


@pytest.mark.parametrize("place", [-1, -2, 1], ids=["child", "its keeper", "the first keeper"])
def test_a_process_killed_between_two_jobs_shifts_no_reply(worker: Worker, place: int) -> None:
    for _ in range(STAYS_AFTER[0] + STAYS_AFTER[1] + 1):
        worker.ask(SAME)
    wait_for(lambda: len(chain(worker)) == 4)
    last = chain(worker)[-1]
    os.kill(chain(worker)[place].pid, signal.SIGKILL)
    wait_for(lambda: not last.is_running() or last.status() == psutil.STATUS_ZOMBIE)
    for _ in range(3):
        assert worker.ask(OTHER)["score"] == 0.0
        assert worker.ask(SAME)["score"] == 1.0


def test_a_reply_that_nobody_waited_for_is_passed_over(worker: Worker) -> None:
    worker.ask(SAME)
    worker._number += 5  # as after a request whose caller was interrupted
    assert worker.ask(OTHER)["score"] == 0.0
    worker._read = b'{"number": 1, "reply": {"score": 0.5}}\n'
    assert worker.ask(SAME)["score"] == 1.0


def test_a_users_reward_is_not_forked_after_use_and_cannot_leave(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import sys\n\ndef leave(rollout):\n    sys.exit(0)\n")
    worker = Worker(f"{file}:leave", cpu_seconds=5, clock_seconds=20, megabytes=None)
    try:
        for _ in range(STAYS_AFTER[0] + 1):
            assert "SystemExit" in worker.ask(None)["error"]
        assert len(chain(worker)) == 2
    finally:
        worker.close()


def test_a_gold_answer_that_cannot_be_read_is_not_held_against_the_answer(tmp_path: Path) -> None:
    def fails(request: object) -> None:
        raise RecursionError("deep")

    asked, said = tmp_path / "asked", tmp_path / "said"
    sent = pickle.dumps((1, ("expression", "x", "y", None), 1.0))
    asked.write_bytes(len(sent).to_bytes(8, "big") + sent)
    for before, job in [(fails, print), (lambda request: None, fails)]:
        with open(asked, "rb", buffering=0) as requests, open(said, "ab", buffering=0) as replies:
            assert serve_jobs(before, job, requests, replies, 5, 5, None, mmap.mmap(-1, 9))
    replied = [json.loads(line)["reply"] for line in said.read_text().splitlines()]
    assert replied == [{"unjudged": "RecursionError: deep"}, {"error": "RecursionError: deep"}]


SLOW_GOLD = """
import sys, time
sys.path.insert(0, sys.argv.pop())
from reward import worker_server

def spin(request):
    while request:
        pass

def job(request):
    spin(request == "answer")
    return "done"

worker_server.prepare_job = lambda kind: (lambda request: spin(request == "gold"), job, 1.0)
worker_server.main()
"""


def test_a_gold_answer_that_takes_too_long_is_not_held_against_the_answer() -> None:
    root = Path(worker_server.__file__).parents[1]
    command = [sys.executable, "-c", SLOW_GOLD, "KIND", "0.02", "60", "0", str(root)]
    sent = [pickle.dumps((number, what, 1.0)) for number, what in enumerate(("gold", "answer", "neither"), 1)]
    said = subprocess.run(
        command, input=b"".join(len(one).to_bytes(8, "big") + one for one in sent), capture_output=True, timeout=60
    )
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert lines == [
        {"ready": True},
        {"number": 1, "reply": {"unjudged": "it takes too long"}},
        {"number": 2, "reply": None},
        {"number": 3, "reply": "done"},
    ], said.stderr.decode()


IMPORTS = """
import os, sys, threading
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity  # as on macOS
def forbidden(*_, **__):
    raise AssertionError("a process or a thread was started by an import")
import atexit, subprocess
popen, start, registered = subprocess.Popen, threading.Thread.start, []
subprocess.Popen, threading.Thread.start = forbidden, forbidden
from reward.grade import Gold, grade_answer, _ANSWERS, _EXPRESSIONS
assert not _ANSWERS._workers and not _EXPRESSIONS._workers and _ANSWERS._idle.empty()
subprocess.Popen, threading.Thread.start = popen, start
import torch  # which starts what it likes
subprocess.Popen, threading.Thread.start = forbidden, forbidden
import reward.user
subprocess.Popen, threading.Thread.start = popen, start
assert grade_answer(Gold("count", "7"), "7").correct and not grade_answer(Gold("expression", "x+2"), "x+1").correct
"""


def test_importing_the_verifiers_starts_nothing_and_they_work_without_the_affinity_call() -> None:
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True, timeout=120
    )


def test_a_pool_is_opened_once_by_whoever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Slow:
        def __init__(self, *_: Any) -> None:
            time.sleep(0.02)  # the other threads come meanwhile
            made.append(self)
            self.at_once = 0

        def ask(self, request: Any, share: float) -> Any:
            self.at_once += 1
            assert self.at_once == 1
            time.sleep(0.005)
            self.at_once -= 1
            return request

        def close(self) -> None: ...

    monkeypatch.setattr(reward.worker, "Worker", Slow)
    monkeypatch.setattr(reward.worker, "cores", lambda: 3)
    pool = Pool("answers", 1, 1)
    pool.close()
    assert not made
    gate = threading.Barrier(8)

    def ask(number: int) -> Any:
        gate.wait()
        return pool.ask(number)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == list(range(8))
    assert len(made) == 3 == len(pool.workers) and pool._idle.qsize() == 3


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError(22, "invalid")])
def test_a_system_that_refuses_the_memory_limit_is_gone_on_without(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuse)
    limit_memory(1 << 30)
    monkeypatch.delattr(resource, "RLIMIT_AS")
    limit_memory(1 << 30)


def test_a_group_that_has_ended_may_be_ended_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS answers "not permitted" where Linux says that there is no such group."""
    assert worker.ask(SAME)["score"] == 1.0
    real = os.killpg

    def refuse(group: int, number: int) -> None:
        real(group, number)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    worker.close()
    assert worker.ask(SAME)["score"] == 1.0
