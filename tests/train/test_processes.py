"""A launcher's variables: what is taken for a launch, what is refused, and that nobody waits in silence."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.run import load_study
from configs import processes
from configs.errors import ConfigError, UserError
from configs.processes import Processes, as_one_process, joining, read_processes, refuse_several, settle_processes
from configs.provenance import provenance
from reflection_v.stages import run_all
from train import grpo, probe, sft
from train.improve import ImproveConfig, run_improve

WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
ONE = {**WHOLE, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
ALONE = Processes()


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in WHOLE.items() if name not in names}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set variables in an environment without a launcher's."""
    for name in {*processes.LAUNCHER, *processes.LEFTOVERS, *processes.TASK_NAMES}:
        monkeypatch.delenv(name, raising=False)

    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"MASTER_ADDR": "10.0.0.1"}, ALONE),
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "no number"}, ALONE),
        ({"WORLD_SIZE": "1"}, ALONE),
        ({"WORLD_SIZE": "1", "RANK": "0"}, ALONE),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, ALONE),
        ({"LOCAL_RANK": "0"}, ALONE),
        ({"LOCAL_RANK": "-1"}, ALONE),
        ({"RANK": "", "WORLD_SIZE": " "}, ALONE),
        (WHOLE, Processes(2, 1, True, "10.0.0.1:29500")),
        (ONE, Processes(1, 0, True, "10.0.0.1:29500")),
        # A batch script, one task of a step, and a script that gives each task its number
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ALONE),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0", "PMI_SIZE": "1"}, ALONE),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", **WHOLE}, Processes(2, 1, True, "10.0.0.1:29500")),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ALONE),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, ALONE),
    ],
)
def test_what_is_taken_for_a_launch(variables: dict[str, str], expected: Processes) -> None:
    assert read_processes(variables) == expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "1"}, "RANK=1 is set without WORLD_SIZE"),
        ({"RANK": "0"}, "RANK=0 is set without WORLD_SIZE"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3 is set without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set without RANK"),
        (without("RANK"), "WORLD_SIZE=2 is set without RANK"),
        (without("WORLD_SIZE"), "RANK=1 is set without WORLD_SIZE"),
        (without("LOCAL_RANK"), "RANK=1 and WORLD_SIZE=2 are set without LOCAL_RANK"),
        (without("MASTER_ADDR", "MASTER_PORT"), "are set without MASTER_ADDR and MASTER_PORT"),
        ({**WHOLE, "RANK": "2"}, "RANK=2 is none of the WORLD_SIZE=2 processes"),
        ({**WHOLE, "RANK": "-1"}, "RANK=-1 is not a whole number of at least 0"),
        ({**ONE, "LOCAL_RANK": "1"}, "LOCAL_RANK=1 is none of the WORLD_SIZE=1 processes"),
        ({**WHOLE, "WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a whole number"),
        ({**WHOLE, "WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a whole number of at least 1"),
        ({**WHOLE, "LOCAL_WORLD_SIZE": "1.5"}, "LOCAL_WORLD_SIZE=1.5 is not a whole number"),
        ({**WHOLE, "MASTER_PORT": "http"}, "MASTER_PORT=http is no port"),
        ({**WHOLE, "MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
    ],
)
def test_a_part_of_a_launch_is_refused_by_name(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_processes(variables)
    sentence = str(refused.value)
    assert sentence.startswith(said) or said in sentence
    assert "left over from another shell or job, unset " in sentence and "torchrun or deepspeed" in sentence
    for name in variables:
        assert name in sentence


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
        {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "4"},
    ],
)
def test_tasks_that_would_each_train_by_themselves_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="each would train by itself") as refused:
        read_processes(variables)
    for name in variables.keys() - {"SLURM_NTASKS", "WORLD_SIZE"}:
        assert f"{name}={variables[name]}" in str(refused.value)
    assert read_processes({**variables, "RANK": "0", "WORLD_SIZE": "1"}) == ALONE  # the way that the sentence names


def test_leftovers_of_one_process_are_not_handed_to_the_libraries(environment: Any) -> None:
    environment(
        {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "8",
            "PMI_SIZE": "4",
            "MASTER_ADDR": "h",
        }
    )
    assert settle_processes() == ALONE
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_SIZE"} & set(os.environ)
    environment({**WHOLE, "LOCAL_WORLD_SIZE": ""})
    assert settle_processes().count == 2
    assert os.environ["RANK"] == "1" and "LOCAL_WORLD_SIZE" not in os.environ
    with as_one_process():
        assert read_processes() == ALONE
    assert read_processes().count == 2


@pytest.fixture
def configs(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path) -> dict[str, Path]:
    """A config of each training command."""
    keys = {"model": str(tiny_vlm_dir), "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 8}
    own = {"sft": {"dataset": str(pictures / "rows.jsonl")}, "grpo": {"problems": str(pictures)}}
    for name, more in own.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**keys, **more}))
    return {name: tmp_path / f"{name}.json" for name in own}


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"SLURM_PROCID": "1"}, {"LOCAL_RANK": "x"}])
@pytest.mark.parametrize("flag", [[], ["--check"], ["--plan"]])
@pytest.mark.parametrize(("main", "stage"), [(sft.main, "sft"), (grpo.main, "grpo"), (probe.main, "grpo")])
def test_every_way_into_training_refuses_a_part_of_a_launch(
    main: Any,
    stage: str,
    flag: list[str],
    variables: dict[str, str],
    configs: dict[str, Path],
    environment: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment(variables)
    assert main(["--config", str(configs[stage]), *flag]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and next(iter(variables)) in said
    assert not (tmp_path / "out").exists()


def test_a_check_waits_for_nobody(
    configs: dict[str, Path], environment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    environment({**WHOLE, "RANK": "0", "LOCAL_RANK": "0"})
    assert sft.main(["--config", str(configs["sft"]), "--check"]) == 1  # 6 rows are fewer than 2 x 8
    said = capsys.readouterr().out
    assert "processes 2" in said and "rows_a_step 16" in said
    environment({"RANK": "1", "LOCAL_RANK": "1"})
    assert sft.main(["--config", str(configs["sft"]), "--plan"]) == 0
    assert capsys.readouterr().out == ""  # the first process talks


def test_commands_of_one_process_refuse_several(environment: Any, pictures: Path, tmp_path: Path) -> None:
    environment(WHOLE)
    sets = {"problems": str(pictures), "heldout": str(pictures), "out": str(tmp_path / "rounds"), "sft": "absent.yaml"}
    starts: dict[str, Any] = {
        "improve": lambda: run_improve(ImproveConfig(**sets)),
        "run": lambda: run_all(None, tmp_path / "run"),
        "study": lambda: load_study(
            Path("configs/tiny/study/study.yaml"), {"run": "x", "out": str(tmp_path / "study")}
        ),
    }
    for name, start in starts.items():
        with pytest.raises(ConfigError, match=f"{name} is one process, and this is process 1 of 2"):
            start()
    assert list(tmp_path.iterdir()) == []
    environment({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    refuse_several("run")


def test_the_record_of_a_run_counts_its_processes(environment: Any, pictures: Path) -> None:
    environment(WHOLE)
    assert provenance({}, pictures)["processes"] == 2


def test_waiting_is_said_again_and_again_and_ends() -> None:
    lines: list[str] = []
    ends: list[str] = []
    ended = threading.Event()

    def end(sentence: str) -> None:
        ends.append(sentence)
        ended.set()

    with joining(Processes(2, 0, True, "h:1"), first=0.01, every=0.02, limit=0.2, say=lines.append, end=end):
        assert ended.wait(20)
    assert len(lines) >= 2
    assert lines[0].startswith("process 0 of 2 has waited 0 s for the others at h:1; if no others were started, unset")
    assert len(ends) == 1 and "check why they have not started" in ends[0]


def test_nothing_is_said_where_the_others_come() -> None:
    lines: list[str] = []
    for launch in (Processes(2, 0, True, "h:1"), Processes()):
        with joining(launch, first=0.05, every=0.05, limit=0.1, say=lines.append, end=lines.append):
            pass
    time.sleep(0.3)
    assert lines == []


def test_an_address_that_cannot_be_reached_is_a_sentence() -> None:
    class DistNetworkError(RuntimeError):
        pass

    at = Processes(2, 1, True, "h:1")
    with (
        pytest.raises(UserError, match="Process 1 of 2 could not join the others at h:1"),
        joining(at),
    ):
        raise DistNetworkError("no route.\nframe #0")
    with pytest.raises(UserError, match="choose another MASTER_PORT"), joining(at):
        raise DistNetworkError("EADDRINUSE")
    with pytest.raises(RuntimeError, match="something else"), joining(at):
        raise RuntimeError("something else")


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_whose_others_never_come_says_so_and_ends(stopped: bool, configs: dict[str, Path]) -> None:
    """With short seconds, in a process of its own: torch sits in a wait that only its end leaves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limit = 600 if stopped else 3
    code = f"""
import functools, sys, train.config, train.grpo
train.config.joining = functools.partial(train.config.joining, first=0.5, every=0.5, limit={limit})
sys.exit(train.grpo.main(["--config", {str(configs["grpo"])!r}]))
"""
    place = {**WHOLE, "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = next(line for line in process.stdout if "waited" in line)
    assert first.startswith("process 0 of 2 has waited") and f"127.0.0.1:{port}" in first and "unset RANK" in first
    if stopped:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGINT if stopped else 1)
    assert stopped or "error: process 0 of 2 has waited" in errors
    assert "Traceback" not in errors
