"""Resuming under another number of processes: what stays, what is refused, and that the cold start takes the same course."""

import contextlib
import json
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

import train.sft
from train.config import as_if
from train.grpo import load_grpo, run_grpo
from train.provenance import begun
from train.resume import course, resumption, sizes_of
from train.run_folder import changed_settings
from train.selection import read_pass_rates
from train.sft import main as sft_main
from train.sft import run_sft
from vlm.errors import ConfigError, UserError

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
    # The next start goes on from a checkpoint of one process: the config still says 2, and a step still takes 4 rows.
    runs.kill_after(folder, 4)
    run_sft(command)
    line = "resuming with 1 process: gradient_accumulation_steps 2 -> 4, so that a step keeps its 4 rows\n"
    assert capsys.readouterr().out.count(line) == 1
    same_course(folder, whole, runs)
    assert run_sft(command)["steps"] == 5  # finished


@pytest.mark.parametrize(
    ("keys", "processes", "wanted"),
    [
        ({}, 2, {}),
        ({}, 1, {"gradient_accumulation_steps": 12}),
        ({}, 4, {"gradient_accumulation_steps": 3}),
        ({}, 12, {"gradient_accumulation_steps": 1}),
        (
            {},
            5,
            r"24 rows, which 5 processes with per_device_train_batch_size 2 cannot share evenly: start it with 1 or 2 or 3 or 4",
        ),
        ({}, 8, "set per_device_train_batch_size: 3, gradient_accumulation_steps: 1"),
        ({}, 24, "set per_device_train_batch_size: 1, gradient_accumulation_steps: 1"),
        ({}, 48, "start it with 1 or 2 or 3 or 4 or 6 or 12 processes."),
        ({"accelerator_config": {"split_batches": True}}, 1, {}),
        ({"steps_per_generation": 3}, 1, {"gradient_accumulation_steps": 12, "steps_per_generation": 6}),
        ({"steps_per_generation": 3}, 3, {"gradient_accumulation_steps": 4, "steps_per_generation": 2}),
        ({"steps_per_generation": 3}, 4, "24 rows and a generation 12, which 4 processes"),
        ({"generation_batch_size": 12}, 3, {"gradient_accumulation_steps": 4}),
        ({"generation_batch_size": 12}, 4, "set per_device_train_batch_size: 3, gradient_accumulation_steps: 2."),
    ],
)
def test_how_a_number_of_processes_shares_a_step(
    keys: dict[str, Any], processes: int, wanted: dict[str, int] | str, tmp_path: Path
) -> None:
    """Begun by 2 processes: 2 rows each, 6 times a step."""
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 6}
    settings = {"output_dir": str(tmp_path), **cut, **keys}
    interrupted(tmp_path, settings, 2)
    found = resumption(settings, processes)
    if isinstance(wanted, str):
        assert wanted in str(found.refusal)
    else:
        assert found.refusal is None and found.keys == wanted
        assert bool(found.said) == bool(wanted)
        resumed = course({**settings, **wanted}, processes)
        begun = course(settings, 2)
        assert (resumed["rows_a_step"], resumed["rows_a_generation"]) == (
            begun["rows_a_step"],
            begun["rows_a_generation"],
        )
    (tmp_path / "summary.json").write_text("{}")
    assert resumption(settings, processes).refusal is None  # nothing is left to train


def interrupted(folder: Path, settings: dict[str, Any], processes: int, steps: tuple[int, ...] = (2,)) -> Path:
    """What an interrupted run leaves, with files of no content; returns the last checkpoint."""
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        torch.save({}, checkpoint / "optimizer.pt")
        names = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
        for name in ("scheduler.pt", *names):
            shutil.copy(checkpoint / "optimizer.pt", checkpoint / name)
        for name in ("config.json", "model.safetensors"):
            (checkpoint / name).write_text("weights")
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
        mark = {**course(settings, processes), "files": sizes_of(checkpoint)}
        (checkpoint / "complete").write_text(json.dumps(mark))
    known = {"settings": settings, "processes": processes, "course": course(settings, processes)}
    (folder / "settings.json").write_text(json.dumps(known))
    return checkpoint


def test_rows_that_the_user_has_cut_up_anew_are_compared_with_the_processes() -> None:
    before = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "beta": 0.1}
    begun = course(before, 2)
    for cut, processes, same in (
        ((2, 8), 1, True),
        ((4, 4), 1, True),
        ((1, 16), 1, True),
        ((4, 2), 2, True),
        ((2, 4), 4, False),  # by name only where the config says something else than before
        ((1, 8), 1, False),
        ((4, 4), 2, False),
    ):
        now = {**before, "per_device_train_batch_size": cut[0], "gradient_accumulation_steps": cut[1]}
        changed = changed_settings(before, now, begun, course(now, processes))
        assert (changed == []) == (same or now == before), (cut, processes)
    before |= {"steps_per_generation": 4}
    now = {**before, "gradient_accumulation_steps": 8, "steps_per_generation": 8}
    assert changed_settings(before, now, course(before, 2), course(now, 1)) == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"deepspeed": "configs/deepspeed/zero2.json"}, "DeepSpeed divides the optimizer state"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "DeepSpeed divides the optimizer state"),
        ({"fsdp": "full_shard"}, "FSDP divides the weights"),
        ({"parallelism_config": {"tp_size": 2}}, "parallelism_config divides the model"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size may have changed"),
        ({"average_tokens_across_devices": False}, "with average_tokens_across_devices: false the weight of a row"),
    ],
)
def test_another_number_is_refused_where_the_state_is_bound_to_it(
    keys: dict[str, Any], why: str, tmp_path: Path
) -> None:
    settings = {"output_dir": str(tmp_path), "per_device_train_batch_size": 2, **keys}
    checkpoint = interrupted(tmp_path, settings, 2)
    if "deepspeed" in keys:
        divided(checkpoint, settings)
    assert resumption(settings, 2).refusal is None
    said = str(resumption(settings, 1).refusal)
    assert f"an interrupted run of 2 processes, which 1 process cannot resume, since {why}" in said
    assert f"start it with 2 processes, or begin another output_dir with model: {checkpoint}" in said
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")  # an adapter is no model
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    assert str(resumption(settings, 1).refusal).endswith("start it with 2 processes.")
    (checkpoint / "trainer_state.json").write_text('{"global_step": 9, "max_steps": 9}')
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    assert resumption(settings, 1).refusal is None  # only the model is still to be copied


def divided(checkpoint: Path, settings: dict[str, Any]) -> None:
    """DeepSpeed's files in place of Trainer's."""
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    (checkpoint / "latest").write_text("global_step2\n")
    (checkpoint / "global_step2").mkdir()
    for rank in range(2):
        torch.save({}, checkpoint / "global_step2" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))


def test_what_a_deepspeed_config_says_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    zero2 = json.loads((ROOT / "configs" / "deepspeed" / "zero2.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(zero2))
    before = {"deepspeed": str(ROOT / "configs" / "deepspeed" / "zero2.json")}
    now = {"deepspeed": str(tmp_path / "mine.json")}
    begun = course(before, 2)
    assert begun["zero"] == 2
    assert changed_settings(before, now, begun, course(now, 2)) == []
    traffic = {
        **zero2,
        "zero_optimization": {**zero2["zero_optimization"], "overlap_comm": False, "reduce_bucket_size": 7},
    }
    (tmp_path / "mine.json").write_text(json.dumps(traffic))
    assert changed_settings(before, now, begun, course(now, 2)) == []
    (tmp_path / "mine.json").write_text(
        json.dumps({**zero2, "zero_optimization": {"stage": 3}, "gradient_clipping": 1})
    )
    assert changed_settings(before, now, begun, course(now, 2)) == [
        "deepspeed.gradient_clipping",
        "deepspeed.zero_optimization.stage",
    ]
    assert changed_settings(before, {}, begun, course({}, 2)) == ["deepspeed"]
    assert changed_settings({}, before, course({}, 2), begun) == ["deepspeed"]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("optimizer.pt", "gone", "optimizer.pt is not there"),
        ("optimizer.pt", "torn", "optimizer.pt "),
        ("scheduler.pt", "gone", "scheduler.pt is not there"),
        ("scheduler.pt", "torn", "scheduler.pt "),
        ("rng_state_1.pth", "gone", "rng_state_1.pth is not there"),
        ("trainer_state.json", "gone", "trainer_state.json is not there"),
        ("trainer_state.json", "torn", "trainer_state.json is damaged"),
        ("state", "gone", "optimizer.pt is not there (save_only_model leaves the state of training out)"),
    ],
)
def test_a_checkpoint_without_its_whole_state_is_refused_by_name(
    name: str, damage: str, said: str, marked: bool, tmp_path: Path
) -> None:
    settings = {"output_dir": str(tmp_path)}
    checkpoint = interrupted(tmp_path, settings, 2, (1, 2))
    if not marked:
        (checkpoint / "complete").write_text("")
    names = ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"] if name == "state" else [name]
    for one in names:
        content = (checkpoint / one).read_bytes()
        (checkpoint / one).unlink() if damage == "gone" else (checkpoint / one).write_bytes(
            content[: len(content) // 2]
        )
    if name == "state" and marked:
        (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    if name == "rng_state_1.pth" and not marked:
        return  # one file of a random state says that one process wrote it
    refusal = str(resumption(settings, 2).refusal)
    assert refusal.startswith(f"{checkpoint} cannot be resumed: {said}")
    assert "Remove that folder to resume from checkpoint-1, or begin another output_dir with model:" in refusal
    shutil.rmtree(tmp_path / "checkpoint-1")
    assert "Remove it to train again" in str(resumption(settings, 2).refusal)


def test_checkpoints_without_an_optimizer_are_not_written(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"output_dir": str(tmp_path / "out"), "save_only_model": True}
    (tmp_path / "sft.json").write_text(json.dumps({**keys, "dataset": str(pictures / "rows.jsonl")}))
    assert sft_main(["--config", str(tmp_path / "sft.json")]) == 2
    said = capsys.readouterr().err
    assert "'save_only_model'" in said and "could not be resumed" in said and "save_total_limit: 1" in said
    with pytest.raises(ConfigError, match="save_only_model"):
        load_grpo({**keys, "problems": str(pictures)})
    assert load_grpo({**keys, "save_only_model": False, "problems": str(pictures)})


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


def test_a_check_says_how_a_run_would_be_resumed(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(folder)}
    keys |= {"per_device_train_batch_size": 1}
    (tmp_path / "sft.json").write_text(json.dumps(keys))
    command = ["--config", str(tmp_path / "sft.json"), "--check"]
    interrupted(folder, keys, 2)
    assert sft_main(command) == 0
    said = capsys.readouterr().out
    assert "note    resume: resuming with 1 process instead of 2: gradient_accumulation_steps 1 -> 2" in said
    assert "rows_a_step 2" in said
    assert sft_main([*command, "--gpus", "2"]) == 0 and "resume" not in capsys.readouterr().out
    assert sft_main([*command, "--gpus", "3"]) == 1
    assert "error   resume: A step of the interrupted run in" in capsys.readouterr().out


def test_a_generation_keeps_its_rows_in_grpo(pictures: Path, tmp_path: Path) -> None:
    """4 rows of one process alone are no whole group of 8, which TRL would refuse."""
    cut = {"per_device_train_batch_size": 4, "num_generations": 8}
    settings = {"output_dir": str(tmp_path), "problems": str(pictures), **cut}
    with pytest.raises(ConfigError, match="divisible by num_generations"):
        load_grpo(settings)
    interrupted(tmp_path, settings, 2)
    stage = load_grpo(settings)
    assert (stage.args.generation_batch_size, stage.args.gradient_accumulation_steps) == (8, 2)
    assert stage.course["rows_a_generation"] == 8 and stage.settings.get("gradient_accumulation_steps") is None
    with pytest.raises(UserError, match="cannot share evenly: start it with 1 or 2 processes"), as_if(3):
        load_grpo(settings)
    (tmp_path / "summary.json").write_text("{}")
    with as_if(3):
        assert load_grpo(settings).resumption.refusal is None


def test_pass_rates_are_read_by_whatever_number_of_processes(tmp_path: Path) -> None:
    for name in ("pass_rates.0.jsonl", "pass_rates.1.jsonl", "pass_rates.jsonl"):
        (tmp_path / name).write_text(json.dumps({"id": name, "key": "k"}) + "\n" + '{"id": "torn')
    assert len(read_pass_rates(tmp_path, "k")) == 3
    (tmp_path / "pass_rates.jsonl").unlink()
    assert begun(tmp_path)


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
