"""Where a config comes from: files, and the command line on top."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from configs import bundled_config
from configs.errors import ConfigError
from configs.overrides import parse_arguments, read_config
from configs.schema import check_keys


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "must hold keys"),
        ("", "must hold keys"),
        ("a: 1\na: 2\n", "'a' is twice"),
        ("model: {{ model }}\n", "a key must be a text"),  # a template that nobody has filled in
        ("seed: 2026-13-45\n", "not valid YAML"),  # read as a date
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(file)
    with pytest.raises(ConfigError, match="There is no config at"):
        read_config(tmp_path / "absent.yaml")


def test_command_lines() -> None:
    argv = [
        "--config",
        "c.yaml",
        "--learning_rate=1e-4",
        "--prompt_selection.samples",
        "4",
        "--local_rank=0",
        "--bf16",
        "true",
    ]
    config, overrides = parse_arguments(argv, "train/grpo.py")
    assert config == "c.yaml"
    assert overrides == {"learning_rate": "1e-4", "prompt_selection": {"samples": 4}, "bf16": True}
    assert parse_arguments(["c.yaml"], "x") == ("c.yaml", {})
    for bad in ([], ["--config"], ["a.yaml", "b.yaml"], ["--config", "c.yaml", "--x", "[1"]):
        with pytest.raises(ConfigError):
            parse_arguments(bad, "train/grpo.py")


def write(folder: Path, **files: str) -> Path:
    """Write NAME.yaml for each; returns the path of the last."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def test_a_file_holds_only_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path, first="a: 1\nb: {x: 1, y: 2}\nc: [1, 2]\n", second="base: first.yaml\nb: {y: 3}\nd: 4\n")
    file = write(tmp_path / "mine", own="base: ../second.yaml\nb: {z: 5}\nc: [3]\n")
    settings = read_config(file, {"b": {"x": 7}})
    assert settings == {"a": 1, "b": {"x": 7, "y": 3, "z": 5}, "c": [3], "d": 4}
    assert settings.file == file and settings.folder == tmp_path / "mine"
    assert read_config(settings, {"a": 2}).file == file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: own.yaml\n", r"leads back to a config that is based on it: own\.yaml -> own\.yaml"),
        ("base: other.yaml\n", r"'base' in .*other\.yaml leads back .*: own\.yaml -> other\.yaml -> own\.yaml"),
        ("base: absent.yaml\n", r"'base' in .*own\.yaml names .*absent\.yaml, which does not exist"),
        ("base: bad.yaml\n", r"The config .*bad\.yaml must hold keys"),
    ],
)
def test_a_base_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, other="base: own.yaml\n", bad="- 1\n", own=text)
    with pytest.raises(ConfigError, match=said):
        read_config(file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "2026-13-45"], "'--seed': the value '2026-13-45' cannot be read"),
        (["--lora", "4", "--lora.r", "3"], "'--lora.r' is a key of 'lora', which is given a value of its own"),
    ],
)
def test_values_of_the_command_line_that_cannot_be_read(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_arguments(["--config", "c.yaml", *words], "train")


def test_a_wrong_key_names_the_base_that_may_hold_it(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("learning_rat: 1\n")
    (tmp_path / "mid.yaml").write_text("base: low.yaml\n")
    (tmp_path / "top.yaml").write_text("base: mid.yaml\n")
    settings = read_config(read_config(tmp_path / "top.yaml"), {"seed": 1})
    assert settings.where == f"{tmp_path / 'top.yaml'} (based on mid.yaml, low.yaml)"


def test_a_base_that_is_no_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, own="base: grpo\n")
    with pytest.raises(ConfigError, match=r"'base' in .*own\.yaml must name a YAML file.*found 'grpo'"):
        check_keys(read_config(file), Numbers, where=file)
    assert check_keys(read_config(file), Study) == {"base": "grpo"}  # a study's own key, which names a model


@dataclass
class Numbers:
    beta: float = 0.0


@dataclass
class Study:
    base: str = "tiny"


SHARED = {"freeze_vision": True, "dtype": "bfloat16", "bf16": True, "gradient_checkpointing": True, "seed": 0}
GRPO = {
    **{"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0, "num_generations": 8, "temperature": 1.0},
    "rewards": {"accuracy": 1.0, "format": 0.2, "attention_ratio": 0.2, "grounding_penalty": 0.1},
    "prompt_selection": {
        **{"samples": 8, "min_right": 1, "max_right": 7, "prompts": 8000, "batch_size": 32, "at_least": 512}
    },
    "max_completion_length": 1024,
}
VLLM = {"freeze_merger": False, "learning_rate": 1e-6, "use_vllm": True, "max_logprob_gap": 0.1}
LORA = {"gpus": 1, "freeze_merger": True, "lora": {"r": 64, "alpha": 128}}
STAGES: dict[str, tuple[int, dict[str, Any]]] = {
    "sft": (23, {"gpus": 8, "learning_rate": 1e-5, "per_device_train_batch_size": 2, "freeze_merger": False}),
    "sft_lora": (22, {**LORA, "learning_rate": 1e-4, "per_device_train_batch_size": 4}),
    "grpo": (38, {**GRPO, **VLLM, "gpus": 8, "vllm_mode": "colocate", "deepspeed": "configs/deepspeed/zero2.json"}),
    "grpo_lora": (32, {**GRPO, **LORA, "learning_rate": 1e-5, "per_device_train_batch_size": 8}),
    "grpo_server": (
        38,
        {**GRPO, **VLLM, "gpus": 6, "vllm_mode": "server", "deepspeed": "configs/deepspeed/zero3.json"},
    ),
}
MODELS = {
    "qwen2_5_vl_3b": ("Qwen/Qwen2.5-VL-3B-Instruct", 1003520),
    "qwen2_5_vl_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", 1003520),
    "qwen3_vl": ("Qwen/Qwen3-VL-8B-Instruct", 1048576),
    "qwen3_5_4b": ("Qwen/Qwen3.5-4B", 1048576),
    "qwen3_5_9b": ("Qwen/Qwen3.5-9B", 1048576),
    "gemma4_e4b": ("google/gemma-4-E4B-it", None),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_of_a_large_model(model: str, stage: str) -> None:
    """What the files said when each held all of its keys."""
    settings = read_config(bundled_config(f"{model}/{stage}.yaml"))
    name, pixels = MODELS[model]
    count, stated = STAGES[stage]
    wanted = {**SHARED, **stated, "model": name, "max_pixels": pixels}
    assert {key: settings.get(key) for key in wanted} == wanted
    assert len(settings) == count and ("deepspeed" in settings) == (settings["gpus"] > 1)


@pytest.mark.parametrize(
    "value", ["!!int ''", "!!float x", "!!bool x", "!!timestamp x", "!!binary é", "2026-99-99", "{[1]: 2}"]
)
def test_a_tag_that_does_not_fit_its_value_is_no_traceback(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {value}\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read_config(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="'--a'"):
        parse_arguments(["c.yaml", "--a", value], "reflection-v build")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 1500, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("a: &a [*a]", "unfold to more than 100,000 values"),
        ("a: &a {b: *a}", "unfold to more than 100,000 values"),
        (
            "a: &a [x, x, x]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij")),
            "unfold",
        ),
    ],
)
def test_a_file_that_unfolds_without_end_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path / "a.yaml")


def test_an_alias_may_be_used_often(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert read_config(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}
