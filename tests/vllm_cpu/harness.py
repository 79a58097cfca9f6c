"""``train/grpo.py`` on vLLM's CPU backend, with a record of what passes between engine and trainer.

    python tests/vllm_cpu/harness.py RECORD [--without-sync] --config FILE [--key value ...]

Leaves ``RECORD/engine.json`` (the arguments of the engine, and what it allows in a prompt) and one file per step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import vllm
from trl.generation import vllm_generation
from vllm.model_executor.layers import utils

from train.grpo import main
from train.grpo_trainer import VisualGRPOTrainer


def plain_linear(layer: Any, remove_weight: bool) -> None:
    """In place of vLLM's own: it repacks each linear layer for the CPU and drops the weight, which then cannot be synchronised."""
    layer.cpu_linear = torch.nn.functional.linear


def record_engine(record: Path) -> None:
    """Note the arguments of the engine, and the prompts that it read after it had expanded the image tokens."""

    def make(**arguments: Any) -> vllm.LLM:
        engine = vllm.LLM(**arguments, enforce_eager=True)
        allowed = engine.llm_engine.model_config.get_multimodal_config()
        limits = {name: allowed.get_limit_per_prompt(name) for name in ("image", "video")}
        dtype = str(engine.llm_engine.model_config.dtype)
        (record / "engine.json").write_text(json.dumps({"arguments": arguments, "limits": limits, "dtype": dtype}))
        generate = engine.generate

        def noted(prompts: Any, **given: Any) -> Any:
            outputs = generate(prompts, **given)
            engine.read = [list(output.prompt_token_ids) for output in outputs]
            return outputs

        engine.generate = noted
        return engine

    vllm_generation.LLM = make


def record_steps(record: Path) -> None:
    """Write what the trainer makes of each batch of completions to ``RECORD/NUMBER.pt``."""
    score, reward = VisualGRPOTrainer._generate_and_score_completions, VisualGRPOTrainer._calculate_rewards

    def keep_mass(self: Any, *args: Any) -> Any:
        self.kept = list(self.recorded)
        return reward(self, *args)

    def keep_batch(self: Any, inputs: Any) -> Any:
        batch = score(self, inputs)
        kept = {name: value for name, value in batch.items() if name != "pixel_values"}
        kept |= {"indices": [row["index"] for row in inputs], "rows": self.rows, "mass": self.kept}
        kept["read"] = getattr(getattr(self.vllm_generation, "llm", None), "read", None)
        torch.save(kept, record / f"{self.state.global_step}.pt")
        return batch

    VisualGRPOTrainer._calculate_rewards = keep_mass
    VisualGRPOTrainer._generate_and_score_completions = keep_batch


def leave_weights() -> None:
    """The engine keeps the weights that it loaded."""
    vllm_generation.VLLMGeneration.sync_weights = lambda self: None


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    utils.dispatch_cpu_unquantized_gemm = plain_linear
    record_engine(Path(folder))
    record_steps(Path(folder))
    if rest[0] == "--without-sync":
        rest.pop(0)
        leave_weights()
    sys.exit(main(rest))
