"""GRPO on random models of families whose layers are not all alike: tensors move, and the mass is that of eager attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    PreTrainedModel,
)

from reward.rewards import REWARDS, Rollout, Score
from train.grpo import load_grpo, run_grpo
from train.grpo_trainer import VisualGRPOTrainer
from vlm.attention import image_token_mask
from vlm.attention_traits import attention_traits
from vlm.chat import encode, question_messages
from vlm.images import open_image
from vlm.load import load_vlm
from vlm.problem import read_problems

pytestmark = pytest.mark.seam
FAMILIES = ("qwen3_5_dir", "gemma4_dir")


@pytest.fixture(scope="session")
def gemma4_dir(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Gemma 4 with sliding layers and two that share keys, as a standard folder. Read only."""
    folder = tmp_path_factory.mktemp("models") / "gemma4"
    tokenizer = AutoTokenizer.from_pretrained(tiny_vlm_dir)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|video|>"]}, replace_extra_special_tokens=False)
    named = {"image_token": "<|image_pad|>", "boi_token": "<|vision_start|>", "eoi_token": "<|vision_end|>"}
    # No audio occurs, but the processor wants names for it.
    named |= {"audio_token": "<|video|>", "boa_token": "<|video|>", "eoa_token": "<|video|>"}
    tokenizer._set_model_specific_special_tokens(named)
    template = (tiny_vlm_dir / "chat_template.jinja").read_text()
    template = template.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(patch_size=16, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(),
        chat_template=template,
    )
    ids = {
        f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items() if name != "audio_token"
    }
    torch.manual_seed(0)
    model = Gemma4ForConditionalGeneration(
        Gemma4Config(
            text_config={
                "vocab_size": len(tokenizer),
                "vocab_size_per_layer_input": len(tokenizer),
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 6,
                "layer_types": ["sliding_attention", "full_attention"] * 3,
                "num_kv_shared_layers": 2,
                "sliding_window": 32,
                "hidden_size_per_layer_input": 16,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "global_head_dim": 32,
                "max_position_embeddings": 2048,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": 0,
                "eos_token_id": tokenizer.eos_token_id,
            },
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "patch_size": 16,
                "pooling_kernel_size": 2,
            },
            audio_config=None,
            audio_token_id=len(tokenizer) + 1,
            video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
            **{name: value for name, value in ids.items() if not name.startswith(("boa", "eoa"))},
        )
    )
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest, pictures: Path, runs: Any) -> dict[str, Any]:
    return {
        **runs.BASE,
        "model": str(request.getfixturevalue(request.param)),
        "problems": str(pictures),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "prompt_selection": None,
        "rewards": {"accuracy": 0.0, "format": 1.0},
    }


def early_letters(rollout: Rollout) -> Score:
    """A reward that differs between the responses of a random model."""
    letters = [letter for letter in rollout.text.lower() if letter.isalpha()]
    return Score(sum(letter < "n" for letter in letters) / max(len(letters), 1))


@pytest.mark.slow
def test_three_steps_move_the_tensors(
    config: dict[str, Any], tmp_path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REWARDS, "format", early_letters)
    run_grpo(config, {"output_dir": str(tmp_path / "run"), "max_steps": 3, "save_steps": 3})
    before, after = runs.weights(Path(config["model"])), runs.weights(tmp_path / "run")
    moved = [name for name in before if name in after and not torch.equal(before[name], after[name])]
    language = [name for name in before if "language_model" in name and name.endswith("proj.weight")]
    assert language and set(language) <= set(moved)


def eager_mass(model: PreTrainedModel, batch: Any) -> torch.Tensor:
    """The mass of each row in the last layer that "last" means, by eager maps: (B, length)."""
    traits = attention_traits(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    last = maps[sorted(traits.measured).index(traits.last)]
    return (last.float().mean(1) * image_token_mask(model, batch["input_ids"])[:, None]).sum(-1)


def test_the_mass_of_a_step_is_that_of_eager_attention(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = load_grpo(config, {"output_dir": str(tmp_path)})
    vlm = load_vlm(config["model"], device="cpu")
    problems = read_problems(config["problems"])
    trainer = VisualGRPOTrainer(vlm, problems, stage.options, stage.args)
    rollouts: list[Rollout] = []
    make = trainer._rollout
    monkeypatch.setattr(trainer, "_rollout", lambda *given: (rollouts.append(make(*given)), rollouts[-1])[1])
    trainer.model.train()
    numbers = [0] * 4 + [1] * 4
    batch = trainer._generate_and_score_completions([{"index": number} for number in numbers])
    trainer.model.eval()
    written = zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True)
    responses = [ids[kept].tolist() for ids, kept in written]
    assert len(rollouts) == 8
    for number, rollout, ids in zip(numbers, rollouts, responses, strict=True):
        turns = [question_messages(problems[number].question, 1)]
        read = encode(trainer.reader, turns, [[open_image(problems[number].images[0])]], [ids])
        wanted = eager_mass(trainer.model, read)[0, -len(ids) :][: rollout.token_count]
        known = ~rollout.mass.isnan()  # a generation never feeds its last token
        assert known.sum() >= rollout.token_count - 1
        assert (rollout.mass[known] - wanted[known]).abs().max() < 1e-5
