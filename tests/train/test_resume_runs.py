"""Runs that go on under another number of processes: the same rows, the same course."""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

import train.distributed
import train.sft
from configs.errors import UserError
from train.checkpoints import sizes_of
from train.data import FILLER, IGNORED, Collator, read_rows
from train.distributed import FilledSampler, fillers
from train.grpo import run_grpo
from train.sft import run_sft
from vlm.load import load_vlm

ROOT = Path(__file__).parents[2]


HANGS_AFTER = 300


def torchrun(stage: str, config: dict[str, Any], processes: int = 2) -> str:
    """Run a stage by torchrun on CPUs to its end; returns what it printed."""
    folder = Path(config["output_dir"])
    file = folder.parent / f"{folder.name}.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--master_port",
        str(port),
    ]
    process = subprocess.Popen(
        [*launcher, f"train/{stage}.py", "--config", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=HANGS_AFTER)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-6000:]
    return said


@pytest.fixture(scope="module")
def seven(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, Any]:
    """A cold start on 7 rows, 4 a step, over more than two epochs of 2 steps; each last step lacks a row."""
    rows = (pictures / "rows.jsonl").read_text().splitlines(True)
    (pictures / "seven.jsonl").write_text("".join([*rows, rows[2]]))
    schedule = {"lr_scheduler_type": "linear", "max_steps": 5, "per_device_train_batch_size": 1}
    return {**runs.BASE, "model": str(tiny_vlm_dir), "dataset": str(pictures / "seven.jsonl"), **schedule}


@pytest.fixture(scope="module")
def whole(seven: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cold start by one process, uninterrupted. Read only."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "one"
    run_sft({**seven, "gradient_accumulation_steps": 4, "output_dir": str(folder)})
    return folder


def same_course(folder: Path, other: Path, runs: Any) -> None:
    for key in ("step", "learning_rate"):
        assert runs.column(folder, key) == runs.column(other, key)
    for key in ("loss", "grad_norm"):
        assert runs.column(folder, key) == pytest.approx(runs.column(other, key), rel=1e-3), key
    # Trainer counts an epoch in batches, of which the last may be short by one process and is filled up by several.
    epochs = [runs.column(one, "epoch") for one in (folder, other)]
    assert epochs[0] == pytest.approx(epochs[1], abs=0.1) and epochs[0][1::2] == epochs[1][1::2]
    weights, others = runs.weights(folder), runs.weights(other)
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=2e-4), name


def by_two(folder: Path, processes: int = 2) -> None:
    """Let a run of one process look as if so many had begun it, each with its share of a step."""
    known = json.loads((folder / "settings.json").read_text())
    known["settings"]["gradient_accumulation_steps"] //= processes
    known["processes"] = known["course"]["processes"] = processes
    (folder / "settings.json").write_text(json.dumps(known))
    for mark in folder.glob("checkpoint-*/complete"):
        for rank in range(processes):
            shutil.copy(mark.with_name("rng_state.pth"), mark.with_name(f"rng_state_{rank}.pth"))
        mark.with_name("rng_state.pth").unlink()
        mark.write_text(
            json.dumps({**json.loads(mark.read_text()), "processes": processes, "files": sizes_of(mark.parent)})
        )


@pytest.mark.parametrize("marks", ["of this version", "of an earlier version"])
def test_the_same_command_keeps_the_rows_of_a_step(
    marks: str, seven: dict[str, Any], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    by_two(folder)
    runs.kill_after(folder, 2)
    if marks == "of an earlier version":
        known = json.loads((folder / "settings.json").read_text())
        del known["course"]
        (folder / "settings.json").write_text(json.dumps(known))
        for mark in folder.glob("checkpoint-*/complete"):
            mark.write_text("")
    command = {**seven, "gradient_accumulation_steps": 2, "output_dir": str(folder)}
    run_sft({**command, "save_steps": 2})
    line = "resuming with 1 process instead of 2: gradient_accumulation_steps 2 -> 4, so that a step keeps its 4 rows\n"
    assert capsys.readouterr().out.count(line) == 1
    same_course(folder, whole, runs)
    # The next start resumes from a checkpoint of one process: the config still says 2, and a step still takes 4 rows.
    runs.kill_after(folder, 4)
    run_sft(command)
    line = "resuming with 1 process: gradient_accumulation_steps 2 -> 4, so that a step keeps its 4 rows\n"
    assert capsys.readouterr().out.count(line) == 1
    same_course(folder, whole, runs)
    assert run_sft(command)["steps"] == 5  # finished


def test_refusals_come_before_the_model_loads(
    seven: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    monkeypatch.setattr(train.sft, "load_for_training", lambda *_: pytest.fail("the model was loaded"))
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    by_two(folder, 4)
    runs.kill_after(folder, 2)
    command = {**seven, "output_dir": str(folder)}
    with pytest.raises(UserError, match=r"other settings \(per_device_train_batch_size\)"):
        run_sft({**command, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 3})
    (folder / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"checkpoint-2 cannot be resumed: optimizer\.pt is not there"):
        run_sft({**command, "gradient_accumulation_steps": 1})


@pytest.mark.parametrize("rows", [4, 5, 6, 7, 8])
def test_each_row_counts_once_in_an_epoch_by_any_number_of_processes(
    rows: int, tiny_vlm_dir: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would repeat the first rows where the last batches are not full."""
    assert fillers(rows, 4) == 0  # one process
    monkeypatch.setattr(train.distributed, "world_size", lambda: 2)
    filled = fillers(rows, 4)
    sampler = FilledSampler(list(reversed(range(rows))), range(rows, rows + filled))
    batches = BatchSampler(sampler, batch_size=2, drop_last=False)
    shards = [list(BatchSamplerShard(batches, 2, rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == math.ceil(rows / 4)
    assert sorted(index for shard in shards for batch in shard for index in batch) == list(range(rows + filled))
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    read, _ = read_rows(pictures / "rows.jsonl", vlm)
    labels = Collator(read, vlm)([{"index": 3}, {"index": FILLER}])["labels"]
    assert (labels[0] != IGNORED).any() and (labels[1] == IGNORED).all()


@pytest.mark.slow
def test_the_cold_start_takes_the_same_course_by_any_number_of_processes(
    seven: dict[str, Any], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    two = tmp_path / "two"
    keys = {**seven, "gradient_accumulation_steps": 2}
    torchrun("sft", {**keys, "output_dir": str(two)})
    same_course(two, whole, runs)
    for step in (2, 3):  # at the border of an epoch, and within one
        fewer = tmp_path / f"fewer-{step}"
        shutil.copytree(two, fewer)
        runs.kill_after(fewer, step)
        run_sft({**keys, "output_dir": str(fewer)})
        assert "resuming with 1 process instead of 2: gradient_accumulation_steps 2 -> 4" in capsys.readouterr().out
        same_course(fewer, whole, runs)
    more = tmp_path / "more"
    shutil.copytree(whole, more)
    runs.kill_after(more, 3)
    said = torchrun("sft", {**seven, "gradient_accumulation_steps": 4, "output_dir": str(more)})
    assert said.count("resuming with 2 processes instead of 1: gradient_accumulation_steps 4 -> 2") == 1
    same_course(more, whole, runs)
    assert run_sft({**keys, "output_dir": str(two)})["steps"] == 5  # finished by another number


@pytest.mark.slow
def test_grpo_goes_on_with_the_same_prompts_by_another_number(
    taught: Path, pictures: Path, tmp_path: Path, runs: Any
) -> None:
    config = {
        **runs.BASE,
        "model": str(taught),
        "problems": str(pictures),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 28,
        "prompt_selection": {"samples": 2, "min_right": 0, "max_right": 2},
        "max_steps": 3,
        "log_completions": True,
    }
    run_grpo(config)
    folder = tmp_path / "run"
    choice = (folder / "choice.json").read_text()
    prompts = {step: prompts_of(folder, step) for step in (2, 3)}
    runs.kill_after(folder, 1)
    shutil.rmtree(folder / "completions")
    said = torchrun("grpo", config)
    assert "resuming with 2 processes instead of 1: gradient_accumulation_steps 2 -> 1" in said
    assert "candidates sampled" not in said and (folder / "choice.json").read_text() == choice
    assert runs.column(folder, "step") == [1, 2, 3]
    assert {step: prompts_of(folder, step) for step in (2, 3)} == prompts
    mark = json.loads((folder / "checkpoint-3" / "complete").read_text())
    assert (mark["processes"], mark["rows_a_step"], mark["rows_a_generation"]) == (2, 8, 8)


def prompts_of(folder: Path, step: int) -> list[str]:
    """The prompts of a step's responses, in any order."""
    table = pandas.read_parquet(folder / "completions" / f"completions_{step:05d}.parquet")
    return sorted(table["prompt"].astype(str))
