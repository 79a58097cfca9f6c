"""What a training run may find in its folder, who may write into it, and when it is finished."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import configs.stopping
from configs.errors import UserError
from configs.locks import lock
from configs.stopping import Stopped
from train.checkpoints import StopOnSigterm
from train.grpo import run_grpo
from train.preflight import check
from train.run_folder import RunFolder
from train.sft import load_sft, main, run_sft
from vlm.load import load_vlm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    keys = {"dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path / "out")}
    size = {"per_device_train_batch_size": 6, "max_steps": 3}
    return {**runs.BASE, **keys, **size, "model": str(tiny_vlm_dir)}


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("lora", [None, {"r": 2}])
@pytest.mark.parametrize("start", ["X", "X/checkpoint-500"])
def test_the_folder_of_the_start_model_is_no_output_folder(
    start: str, lora: Any, config: dict[str, Any], tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_vlm_dir, tmp_path / start)
    before = content(tmp_path / "X")
    with pytest.raises(UserError, match=r"The start model .* lies in the output folder"):
        run_sft({**config, "lora": lora, "model": str(tmp_path / start), "output_dir": str(tmp_path / "X")})
    assert content(tmp_path / "X") == before


@pytest.mark.parametrize(
    "name", ["config.json", "checkpoint-500/model.safetensors", "README.md", "vocab.txt", "data.json"]
)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_folder_of_other_files_is_refused_and_stays_as_it_is(
    stage: str, name: str, config: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("kept")
    run = run_sft if stage == "sft" else run_grpo
    if stage == "grpo":
        config |= {"problems": str(pictures), "per_device_train_batch_size": 8}
        del config["dataset"]
    with pytest.raises(
        UserError, match=rf"holds {name.partition('/')[0]}, which no training run wrote: choose an empty folder"
    ):
        run(config)
    assert content(tmp_path / "out") == {name: b"kept"}


def test_a_checkpoint_that_the_run_did_not_write_is_neither_removed_nor_resumed(
    config: dict[str, Any], tmp_path: Path, runs: Any
) -> None:
    """Neither one without a mark, nor one that another run marked."""
    run_sft(config)
    out = tmp_path / "out"
    runs.kill_after(out, step=2)
    shutil.copytree(out / "checkpoint-1", out / "checkpoint-9")
    for mark in ("begun", "complete"):
        (out / "checkpoint-9" / mark).write_text(json.dumps({"run": "another", "step": 9}))
    with pytest.raises(UserError, match=r"checkpoint-9 was not written by this run: move it out of"):
        run_sft(config)
    for mark in ("begun", "complete"):
        (out / "checkpoint-9" / mark).unlink()
    with pytest.raises(UserError, match=r"checkpoint-9 was not written by this run: move it out of"):
        run_sft(config)
    assert (out / "checkpoint-9" / "model.safetensors").exists()
    shutil.rmtree(out / "checkpoint-9")
    assert run_sft(config)["steps"] == 3


def test_checkpoints_of_an_earlier_version_are_resumed(
    config: dict[str, Any], tmp_path: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their marks are empty, and their settings name neither the run nor the content of the model."""
    run_sft(config)
    out = tmp_path / "out"
    weights = runs.weights(out)
    runs.kill_after(out, step=2)
    shutil.rmtree(out / "checkpoint-3")
    for checkpoint in out.glob("checkpoint-*"):
        (checkpoint / "begun").unlink()
        (checkpoint / "complete").write_text("")
    settings = json.loads((out / "settings.json").read_text())
    del settings["run"], settings["model_sha256"]
    (out / "settings.json").write_text(json.dumps(settings))
    run_sft(config)
    assert "resuming from step 2" in capsys.readouterr().out
    assert all(torch.equal(weights[name], tensor) for name, tensor in runs.weights(out).items())


def test_a_run_of_an_earlier_version_knows_its_model_by_name_to_its_end(
    config: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """Or the pass rates that it sampled would not be found at its second resume."""
    (tmp_path / "out").mkdir()
    known = {"settings": config, "versions": {}}
    (tmp_path / "out" / "settings.json").write_text(json.dumps(known))
    for _ in range(3):
        run = RunFolder(tmp_path / "out", config, True, pictures, config["model"])
        assert run.model_sha256 is None
        run.begin()
    assert RunFolder(tmp_path / "new", config, True, pictures, config["model"]).model_sha256


def test_what_a_job_leaves_in_the_folder_is_not_in_its_way(config: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in (
        "lost+found/x",
        "logs/0.err",
        "train.log",
        "stdout",
        "job.o123",
        "notes/plan.txt",
        "rows.jsonl",
        "sft.yaml",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("kept")
    before = content(out)
    run_sft(config)
    assert before.items() <= content(out).items()


def test_check_finds_a_folder_that_the_run_would_refuse(config: dict[str, Any], tmp_path: Path) -> None:
    assert check(load_sft(config)).passed
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "config.json").write_text("{}")
    report = check(load_sft(config))
    assert [one.check for one in report.findings if one.level == "error"] == ["output_dir"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_start_model_that_was_trained_in_place_is_another(
    ended: bool, config: dict[str, Any], tiny_vlm_dir: Path, tmp_path: Path, runs: Any
) -> None:
    shutil.copytree(tiny_vlm_dir, tmp_path / "start")
    config["model"] = str(tmp_path / "start")
    first = run_sft(config)
    if not ended:
        runs.kill_after(tmp_path / "out", step=1)
    (tmp_path / "start").rename(tmp_path / "moved")
    if ended:  # the same model in another place
        assert run_sft({**config, "model": str(tmp_path / "moved")}) == first
    vlm = load_vlm(tmp_path / "moved")
    with torch.no_grad():
        next(vlm.model.parameters()).add_(1e-3)
    vlm.model.save_pretrained(tmp_path / "moved")
    with pytest.raises(UserError, match=r"run with other settings \(the files of .*moved\)"):
        run_sft({**config, "model": str(tmp_path / "moved")})


def test_a_folder_in_use_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    code = "import sys\nfrom configs.locks import lock\nwith lock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
    (tmp_path / "out").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdin=-1, stdout=-1, text=True, cwd=ROOT
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by another run \(process {other.pid}\)"):
            run_sft(config)
    finally:
        other.kill()
        other.wait()
    with lock(tmp_path / "out"):  # the same process may enter twice
        assert run_sft(config)["steps"] == 3


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Makes the runs that follow get SIGTERM in the step after so many; None for none."""
    before, after = signal.getsignal(signal.SIGTERM), None

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == after:
            group = [process.pid for process in (*multiprocessing.active_children(), multiprocessing.current_process())]
            # Sent by another process, as a scheduler does: a data worker ends quietly at a signal of its own parent.
            subprocess.run(["kill", "-TERM", *map(str, group)], check=True)

    def choose(steps: int | None) -> None:
        nonlocal after
        after = steps
        monkeypatch.setattr(configs.stopping, "_received", False)

    monkeypatch.setattr(StopOnSigterm, "on_step_begin", on_step_begin)
    yield choose
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "keys",
    [
        {"save_strategy": "no"},
        {"save_steps": 2},
        # An epoch of more batches than a worker loads ahead, so that it is alive when the signal comes.
        {"dataloader_num_workers": 1, "save_steps": 2, "per_device_train_batch_size": 1},
        {"enable_jit_checkpoint": True, "save_steps": 100},
    ],
)
def test_sigterm_writes_a_checkpoint_and_the_same_command_resumes(
    keys: dict[str, Any],
    config: dict[str, Any],
    tmp_path: Path,
    runs: Any,
    terminated: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config.update(keys)
    whole = run_sft({**config, "output_dir": str(tmp_path / "whole")})
    file = tmp_path / "sft.json"
    file.write_text(json.dumps(config))
    terminated(1)
    assert main(["--config", str(file)]) == 75
    out = tmp_path / "out"
    assert "Stopped by SIGTERM at step 2 of 3" in capsys.readouterr().err
    assert not (out / "summary.json").exists() and not (out / "model.safetensors").exists()
    assert json.loads((out / "checkpoint-2" / "complete").read_text())["step"] == 2
    terminated(None)
    assert main(["--config", str(file)]) == 0
    assert "resuming from step 2" in capsys.readouterr().out
    for key in ("step", "loss", "num_tokens", "learning_rate"):
        assert runs.column(out, key) == runs.column(tmp_path / "whole", key)
    assert json.loads((out / "summary.json").read_text())["steps"] == whole["steps"] == 3
    assert all(torch.equal(runs.weights(tmp_path / "whole")[name], one) for name, one in runs.weights(out).items())


def test_sigterm_in_the_last_step_lets_the_run_finish(config: dict[str, Any], terminated: Any, tmp_path: Path) -> None:
    terminated(2)
    signal.signal(signal.SIGTERM, configs.stopping._on_sigterm)
    assert run_sft(config)["steps"] == 3
    assert (tmp_path / "out" / "summary.json").exists()


def test_a_run_that_ends_before_its_last_step_is_not_finished(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops it."""

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 2

    monkeypatch.setattr(StopOnSigterm, "on_step_end", stop)
    with pytest.raises(UserError, match="Training ended at step 2 of 3") as ended:
        run_sft(config)
    assert not isinstance(ended.value, Stopped) and not (tmp_path / "out" / "summary.json").exists()


def test_reused_completions_are_used_up_before_grpo_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of a checkpoint."""
    monkeypatch.setattr("train.checkpoints.sigterm_received", lambda: True)

    class Args:
        steps_per_generation, num_iterations, gradient_accumulation_steps, device = 4, 2, 2, "cpu"

    class Flags:
        global_step = 0
        should_save = should_training_stop = False

    stopped = []
    for step in range(1, 9):
        flags = Flags()
        flags.global_step = step
        StopOnSigterm().on_step_end(Args(), flags, flags)
        stopped += [step] * flags.should_training_stop
    assert stopped == [4, 8]


def test_two_starts_at_once_train_once(config: dict[str, Any], tmp_path: Path) -> None:
    """As a launcher's retry, or two windows: the second is refused, and what the first writes stays."""
    file = tmp_path / "sft.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "train.sft", "--config", str(file)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [one.communicate(timeout=300) for one in both]
    codes = sorted(one.returncode for one in both)
    rows = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    if codes != [0, 0]:  # [0, 0]: on a busy machine the second came after the first's end, and found it finished
        assert codes == [0, 1] and any("in use by another run" in err for _, err in said)


def test_ctrl_c_is_a_sentence(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "sft.json"
    file.write_text(json.dumps(config))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.sft.load_for_training", interrupt)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--config", str(file)]) == 130
    signal.signal(signal.SIGTERM, before)
    assert "the same command resumes" in capsys.readouterr().err
