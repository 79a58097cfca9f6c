"""The real launcher, ``deepspeed``, on two CPU ranks: what moves, what is equal to one process, kills, images and none."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from train.distributed import first_disagreement
from train.grpo import run_grpo
from train.sft import run_sft

pytest.importorskip("deepspeed")
ROOT = Path(__file__).parents[2]
ENDS_WITHIN = 60  # seconds after a rank was killed
HANGS_AFTER = 200  # seconds, of which a run takes a tenth


@pytest.fixture(scope="module")
def keys(tiny_vlm_dir: Path, taught: Path, pictures: Path, runs: Any) -> dict[str, dict[str, Any]]:
    """The config of each stage: a step takes 4 rows in the cold start, 8 responses to 2 problems in GRPO."""
    twelve = pictures / "twelve.jsonl"  # whole batches in every epoch: the launcher would fill up a part of one
    twelve.write_text((pictures / "rows.jsonl").read_text() * 2)
    sft = {"model": str(tiny_vlm_dir), "dataset": str(twelve), "per_device_train_batch_size": 2, "max_steps": 5}
    grpo = {
        "model": str(taught),
        "problems": str(pictures),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 28,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "prompt_selection": None,
        "rewards": {"accuracy": 1.0, "format": 0.5, "attention_ratio": 0.2},
        "max_steps": 3,
    }
    return {"sft": {**runs.BASE, **sft}, "grpo": {**runs.BASE, **grpo}}


SRUN = """
import os, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[1:], env={**os.environ, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}) for task in (0, 1)
]
sys.exit(max(task.wait() for task in tasks))
"""
STEP = {
    **{"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"},
    **{"SLURM_STEP_NODELIST": "localhost", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"},
}
"""What srun sets for all tasks of a step; ``SRUN`` stands for srun itself, and adds the numbers of each task."""


def launcher(name: str, ranks: int = 2) -> list[str]:
    """The beginning of a command that starts several processes on this machine, up to the script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here, count = Path(sys.executable), str(ranks)
    return {
        "deepspeed": [str(here.with_name("deepspeed")), "--num_accelerators", count, "--master_port", str(port)],
        "torchrun": [str(here.with_name("torchrun")), "--nproc_per_node", count, "--master_port", str(port)],
        "accelerate": [
            # Without --multi_gpu it starts a single process where there is no GPU.
            *(str(here.with_name("accelerate")), "launch", "--multi_gpu", "--gpu_ids", "all", "--num_processes", count),
            *(
                "--num_machines",
                "1",
                "--mixed_precision",
                "no",
                "--dynamo_backend",
                "no",
                "--main_process_port",
                str(port),
            ),
        ],
        "srun": [str(here), "-c", SRUN, str(here)],
    }[name]


def start(
    stage: str,
    config: dict[str, Any],
    folder: Path,
    zero: int | None,
    ranks: int = 2,
    by: str = "deepspeed",
    script: list[str] | None = None,
) -> "subprocess.Popen[str]":
    """``deepspeed --num_accelerators RANKS train/STAGE.py``, as a process group of its own that prints into ``log.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    keys = ["--config", str(file)] if script is None else [str(file)]
    keys += ["--output_dir", str(folder)]
    keys += [] if zero is None else ["--deepspeed", f"configs/deepspeed/zero{zero}.json"]
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **(STEP if by == "srun" else {}),
    }
    with open(folder / "log.txt", "a") as log:
        command = [*launcher(by, ranks), *(script or [f"train/{stage}.py"]), *keys]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def launch(stage: str, config: dict[str, Any], folder: Path, zero: int | None, **how: Any) -> None:
    """Run the launcher to its end; a hang is ended, with a traceback of each rank, and fails."""
    assert ended(start(stage, config, folder, zero, **how)) == 0, (folder / "log.txt").read_text()[-6000:]


def ended(process: "subprocess.Popen[str]") -> int | None:
    """The launcher's exit code; None where it hung."""
    try:
        return process.wait(HANGS_AFTER)
    except subprocess.TimeoutExpired:
        for pid in children(process.pid):
            if "--local_rank=" in command_line(pid):
                os.kill(pid, signal.SIGABRT)  # PYTHONFAULTHANDLER
        time.sleep(2)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


MATRIX = [
    pytest.param("sft", 2),
    pytest.param("grpo", 3, marks=pytest.mark.slow),
    pytest.param("sft", 3, marks=pytest.mark.slow),
    pytest.param("grpo", 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stage", "zero"), MATRIX)
def test_two_ranks_train_every_tensor(
    stage: str, zero: int, keys: dict[str, dict[str, Any]], tmp_path: Path, runs: Any
) -> None:
    shared = set(Path("/dev/shm").glob("deepspeed*"))
    launch(stage, keys[stage], tmp_path / "two", zero)
    assert set(Path("/dev/shm").glob("deepspeed*")) == shared  # nothing of the run stays in memory
    assert runs.unmoved(Path(keys[stage]["model"]), tmp_path / "two") == []
    # A summary is only written if all ranks hold the same weights (train.distributed.check_same_weights).
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["steps"] == keys[stage]["max_steps"]
    if stage == "sft":
        run_sft({**keys["sft"], "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 4})
        assert runs.column(tmp_path / "two") == pytest.approx(runs.column(tmp_path / "one"), rel=1e-4)


@pytest.fixture(scope="module")
def data_parallel(keys: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config and the folder of a stage's short run by DeepSpeed's launcher, without DeepSpeed itself."""
    done: dict[str, Path] = {}

    def run(stage: str) -> tuple[dict[str, Any], Path]:
        config = {**keys[stage], "max_steps": 2, "save_strategy": "no"}
        if stage not in done:
            done[stage] = tmp_path_factory.mktemp("data_parallel") / stage
            launch(stage, config, done[stage], None)
        return config, done[stage]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "by", "script"),
    [
        ("sft", "torchrun", None),
        ("sft", "accelerate", None),
        ("sft", "srun", ["-m", "reflection_v.cli", "sft"]),
        ("grpo", "srun", None),
    ],
)
def test_every_launcher_starts_the_same_run(
    stage: str, by: str, script: list[str] | None, data_parallel: Any, tmp_path: Path, runs: Any
) -> None:
    config, deepspeed = data_parallel(stage)
    launch(stage, config, tmp_path / by, None, by=by, script=script)
    assert json.loads((tmp_path / by / "settings.json").read_text())["processes"] == 2
    assert (tmp_path / by / "log.txt").read_text().count("seconds_per_step") == 1  # the first process prints
    for column in ("loss", "grad_norm", "entropy"):
        assert runs.column(tmp_path / by, column) == runs.column(deepspeed, column)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_a_row_is_paid_the_same_by_one_process_and_by_two(
    zero: int, keys: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    greedy = {"max_steps": 1, "log_completions": True, "generation_kwargs": {"do_sample": False}}
    launch("grpo", {**keys["grpo"], **greedy}, tmp_path / "two", zero)
    run_grpo(
        {**keys["grpo"], **greedy, "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 8},
    )
    one, two = (
        pandas.read_parquet(tmp_path / name / "completions" / "completions_00001.parquet") for name in ("one", "two")
    )
    assert len(one) == len(two) == 8
    for table in (one, two):
        table["said"] = table["prompt"].astype(str) + table["completion"].astype(str)
    one, two = one.sort_values("said"), two.sort_values("said")
    assert list(one["said"]) == list(two["said"])
    assert (one["attention_ratio"] > 0).any()  # a correct answer: there is something to compare
    for name in ("accuracy", "attention_ratio", "attention_late_mass"):
        assert list(two[name]) == pytest.approx(list(one[name]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "zero"), [("sft", 2), ("sft", 3), ("grpo", 2), ("grpo", 3)])
def test_a_killed_rank_ends_the_launcher_and_the_run_goes_on(
    stage: str, zero: int, keys: dict[str, dict[str, Any]], tmp_path: Path, runs: Any
) -> None:
    config = {**keys[stage], "max_steps": 6}
    launch(stage, config, tmp_path / "whole", zero)
    killed = tmp_path / "killed"
    process = start(stage, config, killed, zero)
    try:
        deadline = time.monotonic() + 300
        while not (killed / "checkpoint-2" / "complete").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        ranks = [pid for pid in children(process.pid) if f"--local_rank={1}" in command_line(pid)]
        os.kill(ranks[0], signal.SIGKILL)
        began = time.monotonic()
        assert process.wait(ENDS_WITHIN) != 0
        assert time.monotonic() - began < ENDS_WITHIN
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "exits with return code = -9" in (killed / "log.txt").read_text()
    assert not (killed / "summary.json").exists()
    launch(stage, config, killed, zero)
    assert runs.column(killed, "step") == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "entropy"):
        assert runs.column(killed, name) == pytest.approx(runs.column(tmp_path / "whole", name), rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "zero"), [("grpo", 3)])
def test_sigterm_to_one_rank_stops_both_at_the_same_step_with_a_checkpoint(
    stage: str, zero: int, keys: dict[str, dict[str, Any]], tmp_path: Path, runs: Any
) -> None:
    config = {**keys[stage], "max_steps": 8, "save_steps": 100}
    folder = tmp_path / "run"
    process = start(stage, config, folder, zero)
    try:
        deadline = time.monotonic() + HANGS_AFTER
        while not (folder / "log.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(next(pid for pid in children(process.pid) if "--local_rank=1" in command_line(pid)), signal.SIGTERM)
        assert process.wait(ENDS_WITHIN) == 75
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    (checkpoint,) = folder.glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert (folder / "log.txt").read_text().count(f"Stopped by SIGTERM at step {step} of 8") == 2
    assert not (folder / "summary.json").exists() and (checkpoint / "complete").exists()
    launch(stage, config, folder, zero)
    assert f"resuming from step {step}" in (folder / "log.txt").read_text()
    assert runs.column(folder, "step") == [*range(1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_another_number_of_ranks_is_refused_and_the_way_on_is_one(
    zero: int, keys: dict[str, dict[str, Any]], tmp_path: Path, runs: Any
) -> None:
    folder, config = tmp_path / "run", {**keys["sft"], "max_steps": 2}
    launch("sft", config, folder, zero)
    runs.kill_after(folder, 1)
    assert ended(start("sft", config, folder, zero, ranks=1)) not in (0, None)
    log = (folder / "log.txt").read_text()
    assert "Traceback" not in log and "1 process cannot resume, since DeepSpeed divides the optimizer state" in log
    assert f"start it with 2 processes, or begin another output_dir with model: {folder / 'checkpoint-1'}" in log
    launch("sft", config, folder, zero)  # the first way
    assert runs.column(folder, "step") == [1, 2]
    run_sft({**config, "output_dir": str(tmp_path / "on"), "model": str(folder / "checkpoint-1"), "max_steps": 1})
    assert runs.column(tmp_path / "on", "step") == [1]  # the second


def children(pid: int) -> list[int]:
    """All processes below ``pid``."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, below) for found in (child, *children(child))]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.slow
def test_an_error_of_one_rank_ends_the_launcher_with_its_sentence(
    keys: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    process = start("sft", {**keys["sft"], "dataset": str(tmp_path / "absent.jsonl")}, tmp_path / "run", 2)
    assert ended(process)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "absent.jsonl does not exist" in log and "Traceback" not in log


MIXED = [
    pytest.param("sft", 2, marks=pytest.mark.slow),
    pytest.param("sft", 3, marks=pytest.mark.slow),
    pytest.param("grpo", 2, marks=pytest.mark.slow),
    pytest.param("grpo", 3, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stage", "zero"), MIXED)
def test_text_alone_and_pictures_on_different_ranks(
    stage: str, zero: int, keys: dict[str, dict[str, Any]], pictures: Path, tmp_path: Path, runs: Any
) -> None:
    """Two rows of three are text alone; a rank's part of a step often has no image, sometimes all of a step's have none.

    ZeRO-3 cannot do it, and says so.
    """
    config = {**keys[stage], "max_steps": 5}
    name = "dataset" if stage == "sft" else "problems"
    source = pictures / ("twelve.jsonl" if stage == "sft" else "problems.jsonl")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["images"] = [str(pictures / image) for image in row["images"]] if number % 3 == 0 else []
        if stage == "sft" and not row["images"]:
            row["prompt"][0]["content"] = [part for part in row["prompt"][0]["content"] if part["type"] == "text"]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config[name] = str(file)
    if stage == "sft":
        # Plain descent: where a whole step has no image, one process leaves the vision tower out of the optimizer's step, and
        # several give it gradients of zero, with which Adam would move on by its momentum.
        config |= {"per_device_train_batch_size": 1, "optim": "sgd", "learning_rate": 0.1}
    if zero == 3:
        assert ended(start(stage, config, tmp_path / "two", zero))
        log = (tmp_path / "two" / "log.txt").read_text()
        assert "rows have no image" in log and "zero2.json" in log and "Traceback" not in log
        return
    launch(stage, config, tmp_path / "two", zero)
    assert runs.column(tmp_path / "two", "step") == [1, 2, 3, 4, 5]
    assert runs.unmoved(Path(config["model"]), tmp_path / "two") == []
    if stage == "sft":
        run_sft({**config, "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 2})
        assert runs.column(tmp_path / "two") == pytest.approx(runs.column(tmp_path / "one"), rel=1e-4)


def test_ranks_that_disagree_are_found() -> None:
    first = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert first_disagreement(["a", "b"], [first, first.clone()]) is None
    assert first_disagreement(["a", "b"], [first, first + torch.tensor([0, 0, 0, 1e-12])]) == "b"
