"""GRPO with vLLM as a server, up to the exchange of weights: TRL does that by NCCL alone, which needs GPUs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl.generation.vllm_client import VLLMClient

from configs.errors import UserError
from train import vllm_server as checks
from train.grpo import load_grpo, main
from train.grpo_trainer import VisualGRPOTrainer
from train.vllm_engine import fitted_limits
from vlm.load import load_vlm
from vlm.problem import read_problems

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
TINY = ROOT / "vlm" / "models" / "tiny-vlm"
NCCL = (
    "--enable-scale-out",
    "--logprobs-mode",
    "processed_logprobs",
    "--weight-transfer-config",
    '{"backend": "nccl"}',
)


def settings(problems: Path, out: Path) -> dict[str, Any]:
    keys = {"model": str(TINY), "problems": str(problems), "output_dir": str(out), "prompt_selection": None}
    keys |= {
        "num_generations": 4,
        "per_device_train_batch_size": 12,
        "max_completion_length": 48,
        "precision": "float32",
    }
    return keys | {"use_vllm": True, "vllm_mode": "server", "gradient_checkpointing": False}


def test_a_server_samples_for_the_prompts_of_training(
    serve: Callable[..., Any], mixed_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with 0, 1 and 3 images of unequal size; the weights of the server are those of the first step."""
    vlm = load_vlm(str(TINY), device="cpu")
    kept = json.dumps({"size": fitted_limits(vlm.processor)})
    server = serve(TINY, *NCCL, "--mm-processor-kwargs", kept, env=(("VLLM_SERVER_DEV_MODE", "1"),))
    announced: list[str] = []
    monkeypatch.setattr(VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(
        VLLMClient, "update_named_params", lambda self, meta, params: announced.extend(name for name, _ in params)
    )
    stage = load_grpo({**settings(mixed_problems, tmp_path), "vllm_server_base_url": server.address})
    trainer = VisualGRPOTrainer(vlm, read_problems(mixed_problems), stage.options, stage.args)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"index": index} for index in [0] * 4 + [1] * 4 + [2] * 4])
    assert batch["num_images"] == [0] * 4 + [1] * 4 + [3] * 4
    assert announced == [name for name, _ in vlm.model.named_parameters()]
    gap = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).abs()[batch["completion_mask"].bool()]
    assert gap.mean() <= 1e-3

    cuda = SimpleNamespace(device=SimpleNamespace(type="cuda"), is_main_process=True)
    monkeypatch.setattr(checks, "PartialState", lambda: cuda)
    checks.check_vllm_server(stage.args)
    monkeypatch.setattr(checks, "version", lambda _: "0.29.0+cpu")
    with pytest.raises(UserError, match=r"is of release 0\.30\.\d+, and this environment has 0\.29\.0"):
        checks.check_vllm_server(stage.args)


def test_a_server_without_the_flags_is_refused(
    vllm_server: Any, mixed_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(device=SimpleNamespace(type="cuda"), is_main_process=True)
    monkeypatch.setattr(checks, "PartialState", lambda: cuda)
    stage = load_grpo({**settings(mixed_problems, tmp_path), "vllm_server_base_url": vllm_server.address})
    with pytest.raises(UserError, match="without VLLM_SERVER_DEV_MODE=1 and --enable-scale-out, which GRPO needs"):
        checks.check_vllm_server(stage.args)


def test_without_a_gpu_the_run_ends_before_the_model_loads(
    mixed_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    keys = {
        **settings(mixed_problems, tmp_path / "out"),
        "model": str(TINY),
        "vllm_importance_sampling_correction": True,
    }
    flags = [text for key, value in keys.items() for text in (f"--{key}", json.dumps(value).strip('"'))]
    assert main(["--config", "configs/tiny/grpo.yaml", *flags]) == 1
    assert "error: vllm_mode: server sends the weights to the server by NCCL" in capsys.readouterr().err
