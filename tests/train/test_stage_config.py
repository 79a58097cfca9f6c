"""Configs: keys and types are checked before TRL sees them, and every complaint names key, wanted and found."""

import json
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig, SFTConfig

from configs.errors import ConfigError
from configs.overrides import merge
from train.config import GrpoOptions, Lora, PromptSelection
from train.grpo import load_grpo
from train.sft import load_sft

GRPO: dict[str, Any] = {"output_dir": "out", "problems": "set"}
SFT: dict[str, Any] = {"output_dir": "out", "dataset": "rows.jsonl"}

BAD_GRPO = [
    ({"num_generation": 8}, "Unknown key 'num_generation'", "did you mean 'num_generations'"),
    ({"reward": {"accuracy": 1}}, "Unknown key 'reward'", "did you mean 'rewards'"),
    ({"num_generations": [1, 2]}, "'num_generations'", "wanted a whole number or null, found [1, 2] (a list)"),
    (
        {"max_completion_length": 12.7},
        "'max_completion_length'",
        "wanted a whole number or null, found 12.7 (a number)",
    ),
    ({"max_steps": "ten"}, "'max_steps'", "wanted a whole number, found 'ten' (text)"),
    ({"max_steps": True}, "'max_steps'", "found True (true or false)"),
    ({"learning_rate": "fast"}, "'learning_rate'", "wanted a number, found 'fast' (text)"),
    ({"log_completions": "yes please"}, "'log_completions'", "wanted true or false"),
    ({"lr_scheduler_type": "cosin"}, "'lr_scheduler_type'", "did you mean 'cosine'"),
    ({"attention_rows": "tokens"}, "'attention_rows'", "did you mean 'token'"),
    ({"attention_layers": [1.5]}, "'attention_layers[0]'", "wanted a whole number"),
    ({"prompt_selection": {"sampels": 4}}, "Unknown key 'prompt_selection.sampels'", "did you mean 'samples'"),
    ({"prompt_selection": {"samples": "8"}}, "'prompt_selection.samples'", "wanted a whole number, found '8' (text)"),
    ({"prompt_selection": {"min_right": 3, "max_right": 2}}, "min_right", "found 3, 2 and 8"),
    ({"prompt_selection": {"candidates": 0}}, "'prompt_selection.candidates'", "at least 1"),
    ({"rewards": {"acuracy": 1.0}}, "Unknown reward 'acuracy'", "did you mean 'accuracy'"),
    ({"rewards": {"accuracy": "much"}}, "'rewards.accuracy'", "wanted a number"),
    ({"rewards": {"accuracy": 0, "format": 0}}, "All weights", "nothing to learn"),
    ({"rewards": {"accuracy": 1, "grounding_penalty": -1}}, "'grounding_penalty'", "negative"),
    ({"rewards": {"accuracy": 1, "grounding_penalty": {"weight": 1, "std": 0.2}}}, "'grounding_penalty'", "its std"),
    (
        {"rewards": {"accuracy": 1, "grounding_penalty": 1}, "multi_objective_aggregation": "normalize_then_sum"},
        "'grounding_penalty'",
        "sum_then_normalize",
    ),
    ({"reward_weights": [1.0]}, "'reward_weights'", "'rewards'"),
    ({"use_transformers_continuous_batching": True}, "'use_transformers_continuous_batching'", "attention"),
    ({"per_device_train_batch_size": 6, "num_generations": 4}, "num_generations", "divisible"),
    ({"num_iterations": 4, "save_steps": 3}, "'save_steps'", "multiple of 4"),
    ({"problems": ""}, "'problems' is missing", "--problems"),
    ({"output_dir": None}, "'output_dir'", ""),
]


@pytest.mark.parametrize(("keys", "named", "said"), BAD_GRPO)
def test_a_bad_key_or_value_is_named(keys: dict[str, Any], named: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_grpo({**GRPO, **keys})
    assert named in str(error.value) and said in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"max_length": 512}, "max_row_tokens"),
        ({"packing": True}, "not packed"),
        ({"dataset": ""}, "'dataset' is missing"),
        ({"datasets": "x"}, "did you mean 'dataset'"),
        ({"resume_from_checkpoint": True}, "resumes by itself"),
        ({"hub_token": "hf_secret"}, "export it as HF_TOKEN"),
        ({"freeze_vision": 1}, "wanted true or false, found 1"),
    ],
)
def test_the_cold_start_refuses_what_would_harm_it(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="'") as error:
        load_sft({**SFT, **keys})
    assert said in str(error.value)


def test_values_that_yaml_reads_clumsily_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "grpo.yaml"
    file.write_text("output_dir: out\nproblems: set\nlearning_rate: 1e-4\nnum_generations: 4\nscale_rewards: none\n")
    stage = load_grpo(file, {"per_device_train_batch_size": 4})
    assert stage.args.learning_rate == 1e-4 and stage.args.num_generations == 4
    assert stage.args.scale_rewards == "none"


def test_the_record_of_a_run_holds_the_settings_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("output_dir: out\nproblems: set\ntemperature: 0.7\nlora: {r: 8, alpha: 16}\n")
    (tmp_path / "grpo.yaml").write_text("base: base.yaml\nlora: {r: 4}\n")
    stage = load_grpo(tmp_path / "grpo.yaml")
    assert stage.settings["lora"] == {"r": 4, "alpha": 16} and stage.options.lora == Lora(4, 16)
    assert stage.settings["temperature"] == stage.args.temperature == 0.7 and "base" not in stage.settings


def test_without_an_accelerator_the_cpu_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert load_sft(SFT).args.use_cpu and not load_sft(SFT).args.bf16
    assert load_sft({**SFT, "bf16": True}).args.bf16


def test_the_projects_defaults_give_way_to_the_config() -> None:
    args = load_sft(SFT).args
    assert args.max_length is None and not args.packing and args.logging_steps == 1 and args.save_total_limit == 2
    assert load_sft({**SFT, "logging_steps": 7, "save_total_limit": 3}).args.logging_steps == 7
    stage = load_grpo(GRPO)
    assert stage.args.beta == 0.0 and stage.args.temperature == 1.0
    assert stage.options.prompt_selection == PromptSelection()
    assert load_grpo({**GRPO, "prompt_selection": None}).options.prompt_selection is None


def test_overrides_reach_into_nested_keys() -> None:
    stage = load_grpo(
        {**GRPO, "prompt_selection": {"samples": 4, "max_right": 3}}, {"prompt_selection": {"min_right": 2}}
    )
    selection = stage.options.prompt_selection
    assert (selection.samples, selection.min_right, selection.max_right) == (4, 2, 3)
    assert merge({"a": {"b": 1}, "c": [1]}, {"a": {"d": 2}, "c": [2]}) == {"a": {"b": 1, "d": 2}, "c": [2]}


def test_own_keys_do_not_collide_with_those_of_trl() -> None:
    own = set(GrpoOptions.__dataclass_fields__)
    assert not own & set(GRPOConfig.__dataclass_fields__)
    assert not own & set(SFTConfig.__dataclass_fields__)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_deepspeed_configs_leave_sizes_to_the_trainer(name: str) -> None:
    file = Path(__file__).parents[2] / "configs" / "deepspeed" / f"{name}.json"
    data = json.loads(file.read_text())
    assert data["zero_optimization"]["stage"] == int(name[-1])
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert data[key] == "auto"
