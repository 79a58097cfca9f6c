"""One process for a folder, and nothing overwritten that a stage did not write."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError, UserError
from configs.locks import lock
from configs.run_dir import RunDir

HOLD = """
import sys
from configs.locks import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds ``tmp_path``."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    yield other
    other.kill()
    other.wait()


def test_a_folder_that_another_process_holds_is_refused_until_that_one_ends(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError, match=rf"in use by another run \(process {holder.pid}\)"), lock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(tmp_path):
        assert (tmp_path / ".lock").read_text().strip() == str(os.getpid())


def test_a_lock_within_a_lock_does_not_free_the_folder(tmp_path: Path) -> None:
    """The kernel frees a record lock when the process closes the file anywhere."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with lock(tmp_path):
        with lock(tmp_path / "." / ""):
            pass
        other = subprocess.run(command, input="", capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert "in use by another run" in other.stderr
    assert subprocess.run(command, input="", capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout


def ours(folder: Path) -> bool:
    return (folder / "record.json").exists()


@pytest.mark.parametrize("name", ["report.json", "answers"])
def test_what_a_stage_did_not_write_is_refused_by_name(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path, "evaluation", ("report.json", "answers"), ours)
    (tmp_path / name).mkdir() if name == "answers" else (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"holds {name}, which no evaluation wrote: choose an empty folder"):
        run.refuse_foreign()
    (tmp_path / "record.json").touch()
    run.refuse_foreign()


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    with lock(tmp_path):
        assert "start one command at a time" in capsys.readouterr().err


def test_a_lock_file_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"\.lock belongs to another user: remove that file"), lock(tmp_path):
        pass


MODEL = {"model": "a", "lr": 0.1, "model_sha256": "one", "rewards": {"format": 0.2}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"model": "moved/a"}, []),  # content decides, not the place
        ({"model_sha256": "two"}, ["the files of a"]),
        ({"model": "openai:a@http://h/v1", "model_sha256": None}, ["model"]),  # a served model has a name alone
        (
            {"model_sha256": None},
            ["the files of a"],
        ),  # gone: else the next start would accept another model of that name
        ({"data_sha256": "three"}, []),  # the earlier version did not record it
        ({"lr": 0.2, "rewards": {"format": 0.5}}, ["lr", "rewards.format"]),
        ({"seed": None}, []),
    ],
)
def test_what_makes_another_run(change: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    run = RunDir(tmp_path, "evaluation")
    assert run.changed(MODEL | change) == []  # nothing was begun
    run.write(MODEL)
    assert run.changed(MODEL | change) == expected


def test_a_run_is_interrupted_until_its_last_file_is_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "evaluation")
    run.refuse([])
    assert run.finished() is None
    with pytest.raises(ConfigError, match=r"holds an interrupted run with other settings \(lr, seed\)"):
        run.refuse(["lr", "seed"])
    assert run.finish({"n": 1}) == run.finished() == {"n": 1}
    with pytest.raises(ConfigError, match="holds a finished run"):
        run.refuse(["lr"])
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        run.finished()


def test_a_full_disk_is_named_by_its_folder_and_a_users_mistake_stays_as_it_is(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "out", "evaluation")
    with pytest.raises(UserError, match=r"The disk is full: .*out could not be written"), run.held():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="own sentence"), run.held():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise UserError("own sentence") from None
