"""The stage runner with stages that only write files: order, skips, resume, kills, refusals."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.errors import ConfigError, UserError
from configs.run_dir import changes, disk_full
from configs.stopping import Stopped
from reflection_v.run import Stage, digest, run_stages, stage_record
from reflection_v.terminal import duration


class Run:
    """Three stages in a folder: ``draw`` -> ``train`` -> ``report``; each writes a file and notes its call."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.calls: list[str] = []
        self.stages = [
            Stage("draw", self.work("draw"), {"n": 3}, outputs=("draw.txt",)),
            Stage("train", self.work("train"), {"lr": 0.1, "layers": [1, 2]}, ("draw",), ("train.txt",)),
            Stage("report", self.work("report"), {}, ("train",), ("report.txt",)),
        ]

    def work(self, name: str) -> Callable[[], dict[str, Any]]:
        def write() -> dict[str, Any]:
            self.calls.append(name)
            (self.out / f"{name}.txt").write_text(name)
            return {"written": 1}

        return write

    def change(self, name: str, **fields: Any) -> None:
        self.stages = [replace(stage, **fields) if stage.name == name else stage for stage in self.stages]

    def go(self, **options: Any) -> str:
        printed = io.StringIO()
        run_stages(self.stages, self.out, Console(file=printed, width=200), **options)
        return printed.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "out")


def test_stages_run_in_order_and_leave_records(run: Run) -> None:
    printed = run.go()
    assert run.calls == ["draw", "train", "report"]
    assert "done in" in printed and "written 1" in printed
    record = stage_record(run.out, "train")
    assert record is not None
    assert record["result"] == {"written": 1}
    assert record["attempts"] == 1
    assert record["config_sha256"] == digest({"layers": [1, 2], "lr": 0.1})
    assert set(record["load_average"]) == {"start", "end"}
    assert not list((run.out / "stages").glob("*.running.json"))


def test_a_second_call_does_nothing_and_says_so(run: Run) -> None:
    run.go()
    before = {file: file.stat().st_mtime_ns for file in run.out.rglob("*.*") if file.name != ".lock"}
    printed = run.go()
    assert run.calls == ["draw", "train", "report"]
    assert "Nothing to do" in printed and printed.count("already finished") == 4
    assert {file: file.stat().st_mtime_ns for file in run.out.rglob("*.*") if file.name != ".lock"} == before


def test_an_exception_leaves_the_stage_to_be_gone_on_with(run: Run) -> None:
    healthy = run.stages[1].work

    def broken() -> dict[str, Any]:
        time.sleep(0.05)
        raise RuntimeError("a bug")

    run.change("train", work=broken)
    with pytest.raises(RuntimeError, match="a bug"):  # unexpected: shown with its traceback
        run.go()
    assert stage_record(run.out, "draw") is not None and stage_record(run.out, "train") is None
    run.change("train", work=healthy)
    run.go()
    assert run.calls == ["draw", "train", "report"]
    record = stage_record(run.out, "train")
    assert record is not None and record["attempts"] == 2
    assert record["seconds"] >= 0.05  # both attempts count


def test_what_a_later_stage_would_refuse_is_said_before_the_first_runs(run: Run) -> None:
    def refuse() -> None:
        raise ConfigError("report: a bad key")

    run.change("report", check=refuse)
    with pytest.raises(ConfigError, match="a bad key"):
        run.go()
    assert run.calls == []


def test_another_config_is_refused_and_named(run: Run) -> None:
    run.go()
    run.change("train", config={"lr": 0.2, "layers": [1, 2]})
    with pytest.raises(ConfigError, match=r"'train' .*finished.*lr: 0\.1, now 0\.2.*--redo train.*report"):
        run.go()
    assert run.calls == ["draw", "train", "report"]


def test_another_config_is_refused_for_a_stage_that_was_only_begun(run: Run) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError

    run.change("train", work=broken)
    with pytest.raises(RuntimeError):
        run.go()
    run.change("train", config={"lr": 0.2})
    with pytest.raises(ConfigError, match=r"'train' .*begun"):
        run.go()


@pytest.mark.parametrize("name", [".redo-1234abcd", ".redo.0a0b0c0d-77-abc123"])
def test_what_an_interrupted_redo_left_is_removed(name: str, run: Run) -> None:
    """Whatever machine it was interrupted on: the folder is locked."""
    (run.out / name / "train-0").mkdir(parents=True)
    run.go()
    assert not (run.out / name).exists()


def test_redo_forgets_a_stage_and_what_follows(run: Run) -> None:
    run.go()
    (run.out / "mine.txt").write_text("not written by a stage")
    run.change("train", config={"lr": 0.2})
    run.go(redo="train")
    assert run.calls == ["draw", "train", "report", "train", "report"]
    assert (run.out / "mine.txt").exists()
    assert not list(run.out.glob(".redo*"))
    record = stage_record(run.out, "train")
    assert record is not None and record["config"] == {"lr": 0.2}


def test_redo_starts_from_an_empty_place(run: Run) -> None:
    run.go()

    def resumable() -> dict[str, Any]:
        return {"found": (run.out / "train.txt").exists()}

    run.change("train", work=resumable, outputs=("train.txt",))
    run.go(redo="train", only="train")
    record = stage_record(run.out, "train")
    assert record is not None and record["result"] == {"found": False}


def test_a_redo_that_is_refused_costs_nothing(run: Run) -> None:
    run.go()
    run.change("draw", config={"n": 4})
    with pytest.raises(ConfigError, match=r"'draw' .*n: 3, now 4"):
        run.go(redo="train")
    assert (run.out / "train.txt").exists() and stage_record(run.out, "train") is not None


def test_only_runs_one_stage_and_wants_those_before(run: Run) -> None:
    with pytest.raises(UserError, match="'train' needs 'draw'"):
        run.go(only="train")
    run.go(only="draw")
    run.go(only="train")
    assert run.calls == ["draw", "train"]


@pytest.mark.parametrize("option", ["only", "redo"])
def test_an_unknown_stage_is_refused(run: Run, option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} sfd: no such stage; choose from draw, train, report"):
        run.go(**{option: "sfd"})


def test_a_finished_stage_whose_output_is_gone_is_not_taken_over(run: Run) -> None:
    run.go()
    (run.out / "train.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt is gone: give --redo train"):
        run.go()


def test_a_folder_that_holds_something_else_is_left_alone(run: Run) -> None:
    run.out.mkdir()
    (run.out / "train.txt").write_text("somebody's")
    with pytest.raises(UserError, match=r"holds train\.txt, which no run wrote"):
        run.go()
    assert (run.out / "train.txt").read_text() == "somebody's"


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file/out cannot be written"):
        Run(tmp_path / "file" / "out").go()


def test_a_damaged_record_is_named(run: Run) -> None:
    run.go()
    (run.out / "stages" / "draw.json").write_text("{")
    with pytest.raises(UserError, match=r"draw\.json is damaged"):
        run.go()


def full_disk() -> dict[str, Any]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_below_python() -> dict[str, Any]:
    try:
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    except RuntimeError as error:
        raise ValueError("could not save") from error


@pytest.mark.parametrize("work", [full_disk, full_disk_below_python])
def test_a_full_disk_is_a_sentence_with_the_folder(run: Run, work: Callable[[], dict[str, Any]]) -> None:
    run.change("train", work=work)
    with pytest.raises(UserError, match=r"The disk is full: stage 'train' .*out") as caught:
        run.go()
    assert caught.value.exit_code == 1
    assert stage_record(run.out, "draw") is not None


def test_other_errors_are_no_full_disk() -> None:
    assert not disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not disk_full(ValueError("shape mismatch"))
    group = ExceptionGroup("tasks", [UserError("the server is down")])
    group.exceptions[0].__context__ = group  # as when it is raised again in place of its group
    assert not disk_full(group.exceptions[0])
    full = ExceptionGroup("tasks", [ValueError("x"), OSError(errno.ENOSPC, "full")])
    assert disk_full(full)


def test_ctrl_c_says_how_to_go_on(run: Run) -> None:
    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    run.change("train", work=stopped)
    with pytest.raises(Stopped, match=r"Stopped in stage 'train'\. Give the same command again") as caught:
        run.go()
    assert caught.value.exit_code == 130


def test_changes_name_the_place() -> None:
    old = {"lr": 0.1, "rewards": {"accuracy": 1.0, "format": 0.2}, "gone": 1, "null": None}
    new = {"lr": 0.1, "rewards": {"accuracy": 1.0, "format": 0.5}, "new": [1]}
    assert changes(old, new) == {
        "rewards.format": "0.2, now 0.5",
        "gone": "1, now not given",
        "new": "not given, now [1]",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (192.2, "3 min 12 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


CHILD = """
import sys, time
from pathlib import Path
from reflection_v.run import Stage, run_stages
from reflection_v.terminal import terminal

out, rows, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

def first():
    (out / "first.txt").write_text("done")
    return {"rows": 1}

def slow():  # resumable: goes on after the rows that are there
    file = out / "rows.txt"
    done = len(file.read_text().splitlines()) if file.exists() else 0
    for row in range(done, rows):
        print("row", row)
        with open(file, "a") as stream:
            stream.write(f"{row}\\n")
        time.sleep(pause)
    return {"rows": rows}

stages = [
    Stage("first", first, {}, outputs=("first.txt",)),
    Stage("slow", slow, {"rows": rows}, ("first",), ("rows.txt",)),
]
run_stages(stages, out, terminal())
"""


def child(out: Path, rows: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(out), str(rows), str(pause)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(file: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, f"{file} never had {count} rows"
        time.sleep(0.02)


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first = child(tmp_path, 10_000, 0.02)
    try:
        wait_for_rows(tmp_path / "rows.txt", 1)
        second = child(tmp_path, 10_000, 0.02)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"in use by another run (process {first.pid})" in errors
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_what_a_stage_prints_goes_to_its_log(tmp_path: Path) -> None:
    process = child(tmp_path, 3, 0)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "row 0" not in printed and "slow" in printed
    assert (tmp_path / "logs" / "slow.log").read_text() == "row 0\nrow 1\nrow 2\n"


@pytest.mark.slow
def test_kill_9_then_the_same_command_goes_on(tmp_path: Path) -> None:
    whole = child(tmp_path / "whole", 40, 0)
    whole.communicate(timeout=60)
    for rows in (3, 12, 25):
        process = child(tmp_path / "killed", 40, 0.1)
        wait_for_rows(tmp_path / "killed" / "rows.txt", rows)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = child(tmp_path / "killed", 40, 0.01)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "first     already finished" in printed
    killed, uninterrupted = (
        json.loads((tmp_path / name / "stages" / "slow.json").read_text()) for name in ("killed", "whole")
    )
    assert killed["result"] == uninterrupted["result"]
    assert killed["attempts"] == 4
    assert (tmp_path / "killed" / "rows.txt").read_bytes() == (tmp_path / "whole" / "rows.txt").read_bytes()
    assert not list((tmp_path / "killed" / "stages").glob("*running*"))


@pytest.mark.slow
def test_the_seconds_before_a_kill_are_counted(tmp_path: Path) -> None:
    process = child(tmp_path, 80, 0.1)
    wait_for_rows(tmp_path / "rows.txt", 45)  # over two heartbeats
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = json.loads((tmp_path / "stages" / "slow.running.json").read_text())["seconds"]
    assert before >= 2
    process = child(tmp_path, 80, 0)
    process.communicate(timeout=60)
    assert json.loads((tmp_path / "stages" / "slow.json").read_text())["seconds"] >= before
