"""The one list of private parts of libraries that this project overrides or hooks, and that each is still called.

A release that renames such a method would leave ours behind, never called, and a number would change without a word. So the
overrides of trainers, callbacks and generation are counted while a short run does its work, and only calls that come from
the library itself count. ``make test-newest`` runs these tests, and all others marked ``seam``, on the newest releases.
"""

import functools
import importlib
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationMixin, LogitsProcessor, StoppingCriteria, Trainer, TrainerCallback
from transformers.generation.streamers import BaseStreamer
from trl import GRPOTrainer, SFTTrainer

import train
import vlm
from train import checkpoints, console_warnings, distributed, finite, held_out, run_folder, tracking, zoom_rollout
from train.grpo_trainer import VisualGRPOTrainer
from train.sft import ColdStartTrainer
from vlm import attention_check, generate, stopping_criteria
from vlm.attention import AttentionMass

pytestmark = pytest.mark.seam

# Ours, the library's class, the methods that the library is to call.
OVERRIDES: list[tuple[type, type, tuple[str, ...]]] = [
    (
        VisualGRPOTrainer,
        GRPOTrainer,
        (
            "_generate_and_score_completions",
            "_tokenize_prompts",
            "_generate_single_turn",
            "_get_per_token_logps_and_entropies",
            "_calculate_rewards",
            "_get_train_sampler",
            "_save",
            "create_model_card",
            "log",
        ),
    ),
    (zoom_rollout.ZoomTrainer, GRPOTrainer, ("_tool_call_loop", "_get_tool_suffix_ids")),
    (ColdStartTrainer, SFTTrainer, ("_get_train_sampler", "create_model_card")),
    (held_out.HeldOutTrainer, Trainer, ("prediction_step", "evaluation_loop")),
    (held_out.EvaluateAtEnd, TrainerCallback, ("on_step_end",)),
    (finite.FiniteTrainer, Trainer, ("compute_loss", "training_step", "save_model")),
    (console_warnings.ConsoleWarnings, TrainerCallback, ("on_step_end", "on_log")),
    (finite.FiniteWeights, TrainerCallback, ("on_train_begin", "on_step_end")),
    (run_folder.Log, TrainerCallback, ("on_train_begin", "on_step_begin", "on_step_end", "on_log")),
    (checkpoints.KeepCheckpoints, TrainerCallback, ("on_step_end", "on_epoch_end", "on_save")),
    (checkpoints.StopOnSigterm, TrainerCallback, ("on_train_begin", "on_step_end")),
    (distributed.BoundSilence, TrainerCallback, ("on_train_begin", "on_step_end")),
    (tracking.Tracked, TrainerCallback, ("on_train_begin", "on_train_end")),
    (tracking.StopAtGap, TrainerCallback, ("on_log",)),
    (generate._Sampler, LogitsProcessor, ("__call__",)),
    (stopping_criteria.Budgets, StoppingCriteria, ("__call__",)),
    (stopping_criteria.RepetitionStop, StoppingCriteria, ("__call__",)),
    (stopping_criteria.StopSwitch, StoppingCriteria, ("__call__",)),
    (generate._Pieces, BaseStreamer, ("put", "end")),
    (attention_check._Forced, LogitsProcessor, ("__call__",)),
]

# What is hooked otherwise, and the tests that run its behaviour and fail where it is renamed.
OTHERS = {
    "transformers.AttentionInterface.get_interface, config._attn_implementation": "tests/vlm/test_attention_families.py",
    "transformers: arguments of a model body's forward, Cache.get_seq_length, Cache.get_mask_sizes": "tests/vlm/test_forward_arguments.py",
    "transformers: Cache.reorder_cache (beam search), generate() of one model object, use_cache": "tests/vlm/test_attention.py",
    "transformers: layer_types, kv_sharing_modes, layer_idx, get_decoder()": "tests/vlm/test_attention_check.py",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu": "tests/vlm/test_attention.py",
    "transformers: scores of generate() that a hook reads, Trainer.optimizer; DeepSpeed's gradient norm": "tests/train/test_finite.py",
    "transformers: logits processors, stopping criteria and streamers of generate()": "tests/vlm/test_generate.py",
    "trl: GRPOTrainer's generation, rewards, logs; the processor that it calls a second time": "tests/train/test_grpo.py",
    "trl: environment_factory, parse_response, image_processor, tool_mask of its loop over tools": "tests/train/test_zoom_rollout.py",
    "trl: VLLMGeneration (prompts, sampling parameters, the name LLM)": "tests/train/test_vllm.py",
    "trl: SFTTrainer's loss and collator; transformers.Trainer.model_accepts_loss_kwargs": "tests/train/test_sft.py",
    "transformers: get_image_features and get_input_embeddings() of a model with blank images": "tests/train/test_launch.py",
    "peft: LoraConfig, adapters by full names, merging": "tests/train/test_lora.py",
    "huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config": "tests/vlm/test_hub.py",
    "openai: AsyncOpenAI.post with a written body, limits of its connections": "tests/vlm/test_openai_backend.py",
    "transformers serve": "tests/data_construction/test_served.py",
    "gradio: routes, configuration, event handlers": "tests/demo/test_serve.py",
}

ROOT = Path(__file__).parents[2]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the calls of all overrides by the library: ours.method -> calls."""
    calls: Counter[str] = Counter()
    for ours, _, methods in OVERRIDES:
        for method in methods:
            monkeypatch.setattr(ours, method, counting(getattr(ours, method), f"{ours.__name__}.{method}", calls))
    yield calls


def counting(function: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        caller = Path(sys._getframe(1).f_code.co_filename)
        calls[name] += "site-packages" in caller.parts
        return function(*args, **kwargs)

    return counted


def subclasses_of_ours() -> set[type]:
    """All classes in our folders that extend one of transformers' or TRL's."""
    found = set()
    for folder in (vlm, train):
        for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
            for one in vars(importlib.import_module(module.name)).values():
                if isinstance(one, type) and one.__module__ == module.name:
                    bases = {base.__module__.partition(".")[0] for base in one.__mro__[1:]}
                    found |= {one} if bases & {"transformers", "trl"} else set()
    return found


def test_every_override_is_one_of_the_library_and_listed() -> None:
    for ours, theirs, methods in OVERRIDES:
        own = {name for name, value in vars(ours).items() if callable(value) and name not in ("__init__", "__doc__")}
        assert {name for name in own if hasattr(theirs, name)} == set(methods), ours.__name__
    assert {ours for ours, _, _ in OVERRIDES} == subclasses_of_ours()
    files = {ROOT / file for file in OTHERS.values()}
    assert all("pytest.mark.seam" in file.read_text(encoding="utf-8") for file in files)


def test_grpo_calls_what_is_overridden(
    called: Counter[str], tiny_vlm_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    from train.grpo import run_grpo

    keys = {
        "model": str(tiny_vlm_dir),
        "problems": str(pictures),
        "output_dir": str(tmp_path),
        "prompt_selection": None,
    }
    size = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 1}
    run_grpo({**keys, **size, "save_steps": 1, "gradient_checkpointing": False})
    assert uncalled(called, VisualGRPOTrainer, run_folder.Log, checkpoints.KeepCheckpoints, tracking.Tracked) == []
    assert uncalled(called, tracking.StopAtGap, finite.FiniteTrainer, finite.FiniteWeights) == []
    assert uncalled(called, checkpoints.StopOnSigterm) == []


def test_sft_calls_what_is_overridden(called: Counter[str], tiny_vlm_dir: Path, pictures: Path, tmp_path: Path) -> None:
    from train.sft import run_sft

    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path)}
    size = {"per_device_train_batch_size": 2, "max_steps": 1, "save_steps": 1, "held_out": 0.4}
    run_sft({**keys, **size, "gradient_checkpointing": False})
    assert uncalled(called, ColdStartTrainer, run_folder.Log, checkpoints.KeepCheckpoints, tracking.Tracked) == []
    assert uncalled(called, finite.FiniteTrainer, finite.FiniteWeights, checkpoints.StopOnSigterm) == []
    assert uncalled(called, held_out.HeldOutTrainer, held_out.EvaluateAtEnd) == []


def test_generation_calls_what_is_overridden(called: Counter[str], tiny_vlm_dir: Path) -> None:
    from vlm.load import load_vlm

    model, question = load_vlm(tiny_vlm_dir, device="cpu"), [{"role": "user", "content": "What is at A1?"}]
    with AttentionMass(model.model):
        assert list(generate.generate_stream(model, question, [], max_new_tokens=4, temperature=1.0, stop_repeats=True))
    own_stops = (stopping_criteria.Budgets, stopping_criteria.RepetitionStop, stopping_criteria.StopSwitch)
    ours = (generate._Sampler, *own_stops, generate._Pieces, attention_check._Forced)
    assert uncalled(called, *ours) == []


def uncalled(calls: Counter[str], *classes: type) -> list[str]:
    names = [f"{ours.__name__}.{method}" for ours, _, methods in OVERRIDES if ours in classes for method in methods]
    return [name for name in names if not calls[name]]


def test_a_renamed_method_is_noticed(called: Counter[str], tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This test can fail: a library that no longer calls a method leaves its count at 0."""
    from vlm.load import load_vlm

    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["streamer"] = None
        return original(self, *args, **kwargs)

    original = GenerationMixin.generate
    monkeypatch.setattr(GenerationMixin, "generate", renamed)
    model, question = load_vlm(tiny_vlm_dir, device="cpu"), [{"role": "user", "content": "What is at A1?"}]
    with torch.no_grad():
        list(generate.generate_stream(model, question, [], max_new_tokens=2))
    assert uncalled(called, generate._Pieces) == ["_Pieces.put", "_Pieces.end"]
