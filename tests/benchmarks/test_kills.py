"""The benchmark of kills on toy commands: it must find what a kill breaks, and nothing where nothing is broken."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kill_attempts, kills
from benchmarks.kill_attempts import Attempt, Kill
from benchmarks.kill_stages import KilledStage
from benchmarks.kills import Benchmark, plan, table
from configs.jsonl import read_jsonl

ROWS = 15
TOY = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

folder, mode = Path(sys.argv[1]), sys.argv[2]
if mode != "no handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0 if mode == "wrong code" else 75))
if mode == "orphan":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
if mode == "child":
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
if mode == "leftover":
    (folder / f".temporary.{os.getpid()}").touch()
file = folder / "rows.jsonl"
done = len(file.read_text().splitlines()) if file.exists() else 0
resumed = done > 0
if mode == "twice" and 0 < done < int(sys.argv[3]):
    done -= 1
for number in range(done, int(sys.argv[3])):
    with open(file, "a") as stream:
        stream.write(json.dumps({"id": number, "value": 7 if mode == "other" and resumed else number}) + "\\n")
    time.sleep(0.03)
if mode == "fails" and resumed:
    sys.exit("the rows cannot be read")
time.sleep(0.1)
(folder / "done.json").write_text("{}")
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / "rows.jsonl") if (folder / "rows.jsonl").exists() else []


def toy(mode: str) -> KilledStage:
    return KilledStage(
        "toy",
        lambda folder: [sys.executable, "-c", TOY, str(folder), mode, str(ROWS)],
        ("rows.jsonl",),
        lambda folder: (folder / "done.json").exists(),
        lambda folder: {
            "values": {str(row["id"]): row["value"] for row in rows(folder)},
            "files": sorted(one.name.split(".")[1] for one in folder.iterdir() if one.name.startswith(".")),
        },
        lambda folder: ["a row stands twice"] if len(rows(folder)) != len({row["id"] for row in rows(folder)}) else [],
    )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_attempts, "ORPHAN_SECONDS", 1.0)


def run(mode: str, folder: Path, count: int = 4) -> dict[str, Any]:
    return Benchmark(folder, count, 0, {"toy": toy(mode)}).run("toy")


@pytest.mark.parametrize("mode", ["sound", "child"])
def test_a_command_that_resumes_as_it_should(mode: str, tmp_path: Path) -> None:
    row = run(mode, tmp_path, 6)
    assert row["differences"] == row["orphans"] == []
    assert (row["sigkill"], row["sigterm"]) == (3, 3) and row["attempts"] >= 7
    assert {(kill["signal"], kill["group"]) for kill in row["kills"]} == {
        *(("SIGKILL", False), ("SIGKILL", True), ("SIGTERM", False), ("SIGTERM", True)),
    }
    assert all(kill["exit"] == -9 for kill in row["kills"] if kill["signal"] == "SIGKILL")
    assert not list((tmp_path / "toy").glob("course-*"))  # those with differences are kept to look at


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("twice", "a row stands twice"),
        ("other", "values.N: N, now N"),
        ("leftover", "files: "),
        ("fails", "without a kill: the rows cannot be read"),
        ("no handler", "expected exit 75; its last line"),
        ("wrong code", "expected exit 75; its last line"),
    ],
)
def test_what_a_kill_breaks_is_found(mode: str, said: str, tmp_path: Path) -> None:
    found = run(mode, tmp_path, 7)["differences"]
    assert any(said in kills.NUMBER.sub("N", one) or said in one for one in found), found
    assert all(one.startswith("toy, course") for one in found)


def test_a_child_that_outlives_its_parent_is_found_and_ended(tmp_path: Path) -> None:
    row = run("orphan", tmp_path, 2)
    assert row["differences"] == [] and 2 <= len(row["orphans"]) <= row["attempts"]
    assert all("time.sleep(600)" in one for one in row["orphans"])
    assert "after SIG" in row["orphans"][0] and "after its own end" in row["orphans"][-1]
    with Attempt(toy("sound"), tmp_path / "other", tmp_path / "log") as again:
        again.process.wait()
        assert again.left_behind() == []


def test_an_interrupted_benchmark_leaves_nothing_running(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Attempt(toy("sound"), tmp_path / "out", tmp_path / "log") as attempt:
        raise KeyboardInterrupt
    assert attempt.process.returncode == -9 and not Attempt.running


def test_a_command_that_fails_by_itself_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="toy fails without any kill"):
        Benchmark(tmp_path, 2, 0, {"toy": replace(toy("sound"), ended=lambda folder: False)}).run("toy")


def test_a_finished_stage_is_kept_until_something_changes(tmp_path: Path) -> None:
    row = run("sound", tmp_path, 2)
    reference = (tmp_path / "toy" / "reference.json").read_bytes()
    assert run("no handler", tmp_path, 2) == row  # not run: the result is there
    more = run("sound", tmp_path, 3)
    assert more["sigkill"] + more["sigterm"] == 3
    assert (tmp_path / "toy" / "reference.json").read_bytes() == reference


def test_the_plan_mixes_signals_targets_and_phases() -> None:
    twenty = plan(20, 0, "sft")
    assert [kill.signal for kill in twenty].count("SIGTERM") == 10
    assert {kill.phase for kill in twenty[:3]} == {"start", "work", "end"}
    assert len({(kill.signal, kill.group, kill.phase) for kill in twenty}) == 12
    assert len({kill.share for kill in twenty}) > 15
    assert twenty == plan(20, 0, "sft") != plan(20, 1, "sft")
    # Of three kills two have one signal: stages begin with different ones.
    assert len({(plan(3, 0, name)[0].signal, plan(3, 0, name)[0].group) for name in kills.NAMES}) > 2


def test_the_table_counts() -> None:
    kill = Kill("SIGTERM", True, "work", 0.5, seconds=3.04, rows=2, exit=75)
    assert kill.words() == "SIGTERM to the process group after 3.0 s (work, 2 rows, exit 75)"
    row = {"stage": "sft", "sigkill": 2, "sigterm": 1, "attempts": 5, "seconds": 61.5}
    lines = table([{**row, "differences": ["a", "b"], "orphans": []}]).splitlines()
    assert lines[-1] == "| sft | 2 | 1 | 5 | 61.5 | 2 | 0 |" and len(lines) == 3
