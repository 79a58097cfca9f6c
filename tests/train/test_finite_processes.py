"""Where one of several processes is not finite all of them stop, at the same place, with the same sentence."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from train.checkpoints import last_checkpoint

TWO = """
import os, sys
from trl import GRPOTrainer, SFTTrainer

sys.path.insert(0, os.environ["ROOT"])
from train import grpo, sft

where = os.environ["WHERE"]
if where == "scores":
    def overflowing(self, *args, generate=GRPOTrainer._generate_single_turn, **kwargs):
        if self.state.global_step == 1 and os.environ["RANK"] == "1":
            self.model.lm_head.register_forward_hook(lambda _module, _args, output: output * float("nan"))
        return generate(self, *args, **kwargs)
    GRPOTrainer._generate_single_turn = overflowing
for trainer in (SFTTrainer, GRPOTrainer) if where != "scores" else ():
    def computed(self, *args, compute=trainer.compute_loss, **kwargs):
        loss = compute(self, *args, **kwargs)
        if self.state.global_step != 1 or os.environ["RANK"] == "0":
            return loss
        return loss * float("nan") if where == "loss" else loss + (loss - loss.detach()).sqrt()
    trainer.compute_loss = computed
sys.exit({"sft": sft, "grpo": grpo}[os.environ["STAGE"]].main())
"""
ROOT = Path(__file__).parents[2]
HANGS_AFTER = 600  # seconds, of which a run takes a twentieth
SAID = {
    "loss": "the loss is NaN (",
    "gradient": "the gradient ",
    "scores": "the scores of the next token",
}


@pytest.fixture(scope="module")
def configs(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, dict[str, Any]]:
    """The config of each stage: 3 steps of two processes."""
    both = {**runs.BASE, "model": str(tiny_vlm_dir), "max_steps": 3, "save_total_limit": 1}
    # 6 rows in whole steps: rows that only fill an epoch have no gradient to spoil.
    sft = {"dataset": str(pictures / "rows.jsonl"), "per_device_train_batch_size": 1}
    grpo = {"problems": str(pictures), "per_device_train_batch_size": 4, "num_generations": 2}
    grpo |= {"max_completion_length": 6, "prompt_selection": None}
    return {"sft": {**both, **sft}, "grpo": {**both, **grpo}}


def environment(stage: str, where: str) -> dict[str, str]:
    ours = {"ROOT": str(ROOT), "STAGE": stage, "WHERE": where, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return {**os.environ, **ours, "DS_ACCELERATOR": "cpu"}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def both_stopped(text: str, where: str, folder: Path, launched: bool = False) -> None:
    """The processes have printed one sentence (a launcher may end the second before), and the checkpoint before is the last."""
    assert "Traceback" not in text
    sentences = re.findall(r"Training has diverged: .*? output_dir\.", text)  # two may stand in one line
    assert len(sentences) in ((1, 2) if launched else (2,)) and len(set(sentences)) == 1
    assert sentences[0].startswith(f"Training has diverged: at step 2 {SAID[where]}")
    assert last_checkpoint(folder, remove_torn=False) == (folder / "checkpoint-1", 1)
    assert not (folder / "model.safetensors").exists() and not (folder / "summary.json").exists()


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        pytest.param("sft", "loss", marks=pytest.mark.slow),
        pytest.param("sft", "gradient", marks=pytest.mark.slow),
        pytest.param("grpo", "loss", marks=pytest.mark.slow),
        pytest.param("grpo", "scores", marks=pytest.mark.slow),
    ],
)
def test_where_one_of_two_processes_is_not_finite_both_stop(
    stage: str, where: str, configs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Nothing launches them here, so nobody would end the one that goes on and waits."""
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "config.json").write_text(json.dumps(configs[stage]))
    command = [sys.executable, str(tmp_path / "two.py"), "--config", str(tmp_path / "config.json")]
    command += ["--output_dir", str(tmp_path / "run")]
    both = {**environment(stage, where), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**both, "RANK": one, "LOCAL_RANK": one}, **pipes) for one in "01"]
    try:
        said = [process.communicate(timeout=HANGS_AFTER)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    both_stopped("".join(said), where, tmp_path / "run")
    assert [process.returncode for process in processes] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "zero"), [("loss", 2), ("gradient", 3)])
def test_deepspeed_stops_too(where: str, zero: int, configs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Its backward takes the optimizer's step as well, so its norm is looked at after it."""
    pytest.importorskip("deepspeed")
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "config.json").write_text(json.dumps(configs["sft"]))
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", free_port(), str(tmp_path / "two.py"), "--config"]
    command += [str(tmp_path / "config.json"), "--output_dir", str(tmp_path / "run")]
    command += ["--deepspeed", f"configs/deepspeed/zero{zero}.json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment("sft", where), capture_output=True, text=True, timeout=HANGS_AFTER
    )
    assert done.returncode != 0
    both_stopped(done.stderr + done.stdout, where, tmp_path / "run", launched=True)


@pytest.mark.slow
def test_a_damaged_start_model_is_refused_where_zero3_shards_it(
    configs: dict[str, dict[str, Any]], tiny_vlm_dir: Path, tmp_path: Path, runs: Any
) -> None:
    pytest.importorskip("deepspeed")
    shutil.copytree(tiny_vlm_dir, tmp_path / "model")
    runs.poison(tmp_path / "model", "model.language_model.norm.weight")
    (tmp_path / "config.json").write_text(json.dumps(configs["sft"] | {"model": str(tmp_path / "model")}))
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", free_port(), "train/sft.py", "--config", str(tmp_path / "config.json")]
    command += ["--output_dir", str(tmp_path / "run"), "--deepspeed", "configs/deepspeed/zero3.json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment("sft", ""), capture_output=True, text=True, timeout=HANGS_AFTER
    )
    assert done.returncode != 0
    assert "hold NaN or infinity (model.language_model.norm.weight)" in done.stderr + done.stdout
