"""Training started as several processes: their number and rows, the command, and how they end. A stand-in for the launcher."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from configs import stopping
from configs.errors import ConfigError, UserError
from configs.overrides import Settings, read_config
from configs.stopping import Stopped, Terminated, watch_sigterm
from train import spawn
from train.resume import course, divide_rows, possible_numbers
from train.sft import load_sft, run_sft
from train.spawn import check_training, plan_start, train_stage


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the machine have a number of GPUs, and a value of CUDA_VISIBLE_DEVICES."""

    def have(number: int, visible: str | None = None) -> None:
        monkeypatch.setattr("torch.accelerator.is_available", lambda: number > 0)
        monkeypatch.setattr("torch.accelerator.device_count", lambda: number)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    have(0)
    return have


SFT: dict[str, Any] = {"per_device_train_batch_size": 32}
GRPO: dict[str, Any] = {"problems": "set", "per_device_train_batch_size": 4, "num_generations": 8, "gpus": 8}


@pytest.mark.parametrize(
    ("config", "processes", "expected"),
    [
        (SFT, 1, {}),
        (SFT, 2, {"per_device_train_batch_size": 16}),
        (SFT, 32, {"per_device_train_batch_size": 1}),
        (SFT | {"gradient_accumulation_steps": 4}, 2, {"gradient_accumulation_steps": 2}),
        (
            SFT | {"gradient_accumulation_steps": 3},
            2,
            {"per_device_train_batch_size": 24, "gradient_accumulation_steps": 2},
        ),
        ({}, 4, {"per_device_train_batch_size": 2}),  # Trainer's default of 8
        (GRPO, 8, {}),
        (GRPO, 2, {"gradient_accumulation_steps": 4, "gpus": 2}),
        (
            GRPO | {"steps_per_generation": 2},
            4,
            {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "gpus": 4},
        ),
        (GRPO | {"generation_batch_size": 64}, 1, {"gradient_accumulation_steps": 8, "gpus": 1}),
        (SFT | {"accelerator_config": {"split_batches": True}}, 2, {}),
    ],
)
def test_a_step_keeps_the_rows_that_the_config_means(
    config: dict[str, Any], processes: int, expected: dict[str, int]
) -> None:
    if "accelerator_config" not in config and config.get("gradient_accumulation_steps") == 3:
        expected = divide_rows(config, processes)  # any division will do that takes no more at once
        assert expected.get("per_device_train_batch_size", 32) <= 32
    assert divide_rows(config, processes) == expected
    meant, now = course(config, config.get("gpus", 1)), course({**config, **expected}, processes)
    assert {key: now[key] for key in ("rows_a_step", "rows_a_generation")} == {
        key: meant[key] for key in ("rows_a_step", "rows_a_generation")
    }


@pytest.mark.parametrize(
    ("number", "wanted", "processes", "launched"),
    [
        (0, None, 1, False),
        (1, None, 1, False),
        (4, None, 4, True),
        (3, None, 2, True),
        (4, 1, 1, True),
        (0, 2, 2, True),
    ],
)
def test_all_gpus_train_that_can_share_a_step(
    number: int, wanted: int | None, processes: int, launched: bool, gpus: Any
) -> None:
    gpus(number)
    start = plan_start(Settings(SFT), wanted)
    assert (start.processes, start.launched) == (processes, launched)
    assert f"a step takes 32 rows ({32 // processes} x 1 x {processes})" in start.said
    assert ("GPUs could not share them" in start.said) == (processes < number and wanted is None)
    assert plan_start(Settings(SFT | {"use_cpu": True}), None).processes == 1
    assert plan_start(Settings(SFT | {"deepspeed": "zero2.json"}), 1).launched


@pytest.mark.parametrize(
    ("number", "wanted", "said"),
    [
        (1, 8, "'processes: 8' needs 8 GPUs, and 1 is visible here: set at most 1"),
        (4, 8, "needs 8 GPUs, and 4 are visible here"),
        (4, 3, "cannot be shared evenly by 3 processes; numbers that work: 1, 2, 4, 8"),
    ],
)
def test_a_number_that_cannot_train_is_refused(number: int, wanted: int, said: str, gpus: Any) -> None:
    gpus(number)
    with pytest.raises(ConfigError, match=said):
        plan_start(Settings(SFT), wanted)
    assert possible_numbers(SFT) == [1, 2, 4, 8, 16, 32]


def test_a_value_of_the_wrong_type_is_named(pictures: Path, tmp_path: Path) -> None:
    keys = {"dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path), "per_device_train_batch_size": "many"}
    for wanted in (None, 2):
        with pytest.raises(ConfigError, match=r"'per_device_train_batch_size' in .* wanted a whole number"):
            check_training(load_sft, read_config(keys), wanted)


@pytest.mark.parametrize(
    ("number", "visible", "installed", "expected"),
    [
        (0, None, True, "deepspeed.launcher.runner --hostfile /dev/null --quiet --master_port PORT --num_gpus 2"),
        (4, None, True, "--master_port PORT --num_gpus 2"),
        (4, "3,5,6,7", True, "--master_port PORT --include localhost:3,5"),
        (2, "GPU-1a,GPU-2b", True, "torch.distributed.run --nnodes 1 --nproc_per_node 2 --master_addr 127.0.0.1"),
        (2, None, False, "torch.distributed.run --nnodes 1 --nproc_per_node 2 --master_addr 127.0.0.1"),
        (0, "", True, "--num_gpus 2"),
    ],
)
def test_the_command_that_starts_the_processes(
    number: int, visible: str | None, installed: bool, expected: str, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "is_installed", lambda name: installed)
    gpus(number, visible)
    command = spawn.launcher(plan_start(Settings(SFT), 2))
    port = command[command.index("--master_port") + 1]
    assert expected in " ".join("PORT" if word == port else word for word in command)


def test_the_processes_see_no_other_launch_and_no_other_config(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("RANK", "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE", "SLURM_PROCID", "ACCELERATE_MIXED_PRECISION")
    for name in ours:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    found = spawn.environment(plan_start(Settings(SFT), 2), "/shared")
    assert not set(ours) & set(found)
    assert (found["NCCL_DEBUG"], found["DS_ACCELERATOR"], found[spawn.STARTER]) == ("INFO", "cpu", "/shared")
    gpus(2)
    assert "DS_ACCELERATOR" not in spawn.environment(plan_start(Settings(SFT), 2), "/shared")


STAND_IN = """
import json, os, pathlib, signal, sys, time
shared, config = pathlib.Path(os.environ["REFLECTION_V_STARTER"]), json.loads(pathlib.Path(sys.argv[-1]).read_text())
def note(rank, sentence, code):
    (shared / f"failed-{rank}.json").write_text(json.dumps({"sentence": sentence, "code": code}))
pathlib.Path(config["output_dir"], "seen.json").write_text(json.dumps([os.getpid(), sys.argv[1:], config]))
print("ready", flush=True)
"""


@pytest.fixture
def stage(pictures: Path, tmp_path: Path, gpus: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train a cold start by two processes, for which a script stands in: ``STAND_IN`` and the given lines."""
    out = tmp_path / "out"
    out.mkdir()

    def train(script: str, **keys: Any) -> dict[str, Any]:
        monkeypatch.setattr(spawn, "launcher", lambda start: [sys.executable, "-c", STAND_IN + script])
        config = {**SFT, "dataset": str(pictures / "rows.jsonl"), "output_dir": str(out), **keys}
        return train_stage("train/sft.py", load_sft, run_sft, read_config(config), 2)

    train.out = out  # type: ignore[attr-defined]
    return train


def seen(stage: Any) -> list[Any]:
    return list(json.loads((stage.out / "seen.json").read_text()))


FINISH = 'pathlib.Path(config["output_dir"], "summary.json").write_text(\'{"steps": 7}\')'


def test_the_script_reads_the_whole_config_and_its_summary_is_returned(stage: Any) -> None:
    assert stage(FINISH, learning_rate=1e-5) == {"steps": 7}
    _, argv, config = seen(stage)
    assert argv[0].endswith("train/sft.py") and argv[1] == "--config"
    assert config["learning_rate"] == 1e-5 and config["per_device_train_batch_size"] == 16
    assert not Path(argv[2]).exists()


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ('note(1, "no such set", 2); sys.exit(2)', ConfigError, "no such set"),
        ('note(0, "stopped", 75); note(1, "diverged", 1); sys.exit(1)', UserError, "diverged"),
        ('note(0, "stopped", 75); sys.exit(75)', Stopped, "stopped"),
        ("sys.exit(1)", UserError, "'sft' ended with exit code 1 and gave no reason"),
        ("sys.exit(-9)", UserError, "'sft' ended by signal 9"),
        ("os.kill(os.getpid(), 9)", UserError, "'sft' ended by signal 9"),
        ("sys.exit(0)", UserError, "'sft' ended with exit code 0"),  # without a summary: the launcher itself was killed
    ],
)
def test_the_sentence_of_the_process_that_failed_is_raised(
    stage: Any, script: str, kind: type[UserError], said: str
) -> None:
    with pytest.raises(UserError, match=said) as raised:
        stage(script)
    assert type(raised.value) is kind
    assert raised.value.exit_code == {ConfigError: 2, UserError: 1, Stopped: 75}[kind]


def when_ready(stage: Any, number: int) -> None:
    """Send this process a signal as soon as the stand-in runs."""

    def wait() -> None:
        while not (stage.out / "seen.json").exists() or not (stage.out / "seen.json").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def is_over(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_after_ctrl_c_no_process_is_left(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "AFTER_CTRL_C", 0.3)
    when_ready(stage, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stage("signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(0.1)")  # waits inside of torch
    assert is_over(seen(stage)[0])


def test_after_sigterm_the_processes_write_a_checkpoint(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_received", False)
    before = signal.getsignal(signal.SIGTERM)
    watch_sigterm()
    try:
        when_ready(stage, signal.SIGTERM)
        with pytest.raises(Terminated):
            stage(
                'while not (shared / "stop").exists(): time.sleep(0.02)\n'
                'pathlib.Path(config["output_dir"], "checkpoint").touch()'
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (stage.out / "checkpoint").exists() and is_over(seen(stage)[0])


def test_a_process_stops_when_asked_and_ends_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    held = iter([True, True, True, False])
    monkeypatch.setattr(spawn, "is_locked", lambda path: next(held))
    monkeypatch.setattr(spawn, "LOOKS_EVERY", 0.0)
    monkeypatch.setattr("os.kill", lambda pid, number: calls.append(number))
    monkeypatch.setattr("os._exit", lambda code: calls.append(code))
    (tmp_path / "stop").touch()
    spawn._follow(tmp_path)
    assert calls == [signal.SIGTERM, 75]


def test_a_process_leaves_its_sentence_for_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spawn.STARTER, raising=False)
    spawn.note_failure("nobody reads it", 1)
    monkeypatch.setenv(spawn.STARTER, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("train.launch.follow_starter", lambda: None)  # nobody holds the lock: it would end this process
    from train import sft

    assert sft.main(["--config", "absent.yaml"]) == 2
    assert json.loads((tmp_path / "failed-3.json").read_text())["code"] == 2
