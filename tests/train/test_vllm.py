"""What vLLM is handed, by TRL's own code up to an engine that expands prompts as vLLM does. vLLM itself is not run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from configs.errors import UserError
from train.grpo import load_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.memory import make_plan
from train.prompts import one_token_per_image
from train.vllm_engine import engine_arguments, fitted_limits
from vlm.images import fitted_size, image_tokens
from vlm.load import load_vlm
from vlm.problem import read_problems

pytestmark = pytest.mark.seam

LEAST, MOST = 1024, 4096  # pixels: 4 image tokens, where the model's own upper limit would leave 96 x 96 with 9


class Engine:
    """Puts the tokens of each image in place of the first image token after the last, and writes always the same."""

    def __init__(self, processor: Any, image_token: int, written: list[int]) -> None:
        self.processor, self.image_token, self.written = processor, image_token, written
        self.size = lambda size: size
        self.forgotten = 0  # times that the features of images were dropped
        self.llm_engine = self

    def reset_encoder_cache(self) -> None:
        self.forgotten += 1
        self.read: list[list[int]] = []

    def generate(self, prompts: list[dict[str, Any]], **_: Any) -> list[Any]:
        for row in prompts:
            given = row.get("multi_modal_data", {}).get("image", [])
            pictures = iter(given if isinstance(given, list) else [given])
            ids: list[int] = []
            for token in row["prompt_token_ids"]:
                picture = next(pictures, None) if token == self.image_token else None
                ids += (
                    [token] * (image_tokens(self.size(picture.size), self.processor) or 0)
                    if picture is not None
                    else [token]
                )
            assert next(pictures, None) is None
            self.read.append(ids)
        logprobs = [{token: SimpleNamespace(logprob=-1.0, rank=1)} for token in self.written]
        one = SimpleNamespace(token_ids=self.written, logprobs=logprobs)
        return [SimpleNamespace(prompt_token_ids=ids, outputs=[one]) for ids in self.read[-len(prompts) :]]


@pytest.fixture
def keys(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_vlm_dir),
        "problems": str(pictures),
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "prompt_selection": None,
        "gradient_checkpointing": False,
        "min_pixels": LEAST,
        "max_pixels": MOST,
        "use_vllm": True,
        "vllm_mode": "colocate",
    }


def test_the_prompt_that_vllm_expands_is_the_one_that_is_trained(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one image, with two in a row, and without any, all in one batch."""
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", lambda self: None)
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    stage = load_grpo(keys)
    problems = read_problems(keys["problems"])
    problems[1].images = []
    problems[2].images = [problems[2].images[0], problems[3].images[0]]
    vlm = load_vlm(keys["model"], device="cpu", min_pixels=LEAST, max_pixels=MOST)
    trainer = VisualGRPOTrainer(vlm, problems, stage.options, stage.args)
    token = trainer.model.config.image_token_id
    written = [*vlm.tokenizer("A1 is red .", add_special_tokens=False)["input_ids"], trainer.eos_token_ids[0]]
    engine = Engine(load_vlm(keys["model"], device="cpu", min_pixels=LEAST).processor, token, written)
    trainer.vllm_generation.llm = engine
    trainer.model.train()
    indices = [0, 0, 1, 1, 2, 2]
    batch = trainer._generate_and_score_completions([{"index": index} for index in indices])
    trained = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    assert engine.read == trained
    assert engine.forgotten == 1
    assert [ids.count(token) for ids in trained] == [4, 4, 0, 0, 6, 6]
    assert batch["num_images"] == [1, 1, 0, 0, 2, 2]
    assert batch["completion_ids"].tolist() == [written] * 6
    assert torch.isfinite(batch["advantages"]).all()  # the mass was recorded in the pass over those prompts
    engine.size = lambda size: (size[0] // 2, size[1])
    with pytest.raises(UserError, match=r"vLLM read images of \[2\] tokens .* training reads \[4\]"):
        trainer._generate_and_score_completions([{"index": index} for index in indices])


def test_the_engine_gets_the_limits_that_trl_cannot_pass(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By TRL's own construction of the engine: a release that looks the name up elsewhere fails here."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(vllm_generation, "LLM", lambda **arguments: made.append(arguments), raising=False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    engine = vllm_generation.LLM
    problems = read_problems(keys["problems"])
    problems[2].images = [problems[2].images[0]] * 3
    vlm = load_vlm(keys["model"], device="cpu")
    for kind in (problems, problems[:2]):
        stage = load_grpo(keys, {"max_prompt_tokens": 100})
        VisualGRPOTrainer(vlm, kind, stage.options, stage.args)
    stage.args.bf16 = True
    assert "dtype" not in engine_arguments(problems, vlm, stage.args)
    assert [one["limit_mm_per_prompt"] for one in made] == [{"image": n, "video": 0, "audio": 0} for n in (3, 1)]
    assert all(one["mm_processor_kwargs"] == {"size": fitted_limits(vlm.processor)} for one in made)
    assert all(one["max_model_len"] == 108 and one["dtype"] == "float32" for one in made)
    assert vllm_generation.LLM is engine


@pytest.mark.parametrize("bounds", [(4096, 4096), (1024, 9 * 1024), (65_536, 1_000_000)])
def test_a_second_resize_leaves_a_fitted_image_as_it_is(bounds: tuple[int, int]) -> None:
    """With the processor's own limits it does not: an image scaled up is rounded up, to more than a narrow upper limit."""
    size = dict(zip(("shortest_edge", "longest_edge"), bounds, strict=True))
    processor = SimpleNamespace(patch_size=16, merge_size=2, size=size)
    again = SimpleNamespace(patch_size=16, merge_size=2, size=fitted_limits(processor))
    for width in range(1, 600, 37):
        for height in (1, 2, 30, 33, 64, 200, 397):
            if max(width, height) <= 200 * min(width, height):
                fitted = fitted_size((width, height), processor)
                assert fitted_size(fitted, again) == fitted
    assert again.size["longest_edge"] == bounds[1] or bounds[1] < 10_000


def test_pictures_that_touch_are_refused() -> None:
    two: Any = [Image.new("RGB", (8, 8))] * 2
    assert one_token_per_image([[1, 9, 9, 2, 9, 3]], [two], 9) == [[1, 9, 2, 9, 3]]
    assert one_token_per_image([[1, 2]], [None], 9) == [[1, 2]]
    with pytest.raises(UserError, match="1 runs of image tokens for 2 images"):
        one_token_per_image([[1, 9, 9, 3]], [two], 9)


def test_vllm_is_told_how_long_a_sequence_gets(keys: dict[str, Any]) -> None:
    assert load_grpo(keys, {"max_prompt_tokens": 100}).args.vllm_max_model_length == 108
    assert load_grpo(keys, {"max_prompt_tokens": 100, "vllm_max_model_length": 300}).args.vllm_max_model_length == 300
    assert load_grpo(keys).args.vllm_max_model_length is None  # no bound is known


def test_vllms_share_must_hold_weights_and_cache(keys: dict[str, Any]) -> None:
    big = {"model": "Qwen/Qwen3-VL-8B-Instruct", "dtype": "bfloat16", "gpus": 8, "max_pixels": 1_048_576, "bf16": True}
    big |= {"gradient_checkpointing": True, "per_device_train_batch_size": 2}
    big |= {"vllm_gpu_memory_utilization": 0.3, "deepspeed": "configs/deepspeed/zero3.json", "use_cpu": True}
    bounded = load_grpo(keys, {**big, "max_prompt_tokens": 2048})
    plan = make_plan(bounded.args, bounded.options)
    assert 17 < plan.facts["vllm_wanted_gb"] < plan.parts["vLLM"] and plan.fits
    whole = load_grpo(keys, big)  # all 262,144 positions: 39 GB of cache
    plan = make_plan(whole.args, whole.options)
    assert plan.facts["vllm_wanted_gb"] > 17 + 38 and plan.peak < 80 and not plan.fits
    assert plan.advice[0].startswith("vllm_gpu_memory_utilization: 0.")
