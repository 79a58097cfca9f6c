"""A package that a config needs and that is not installed is named before any model loads."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers.training_args import OptimizerNames

from configs.errors import ConfigError, UserError
from configs.packages import missing_packages, wanted_modules
from configs.versions import install_command
from train.grpo import run_grpo
from train.launch import command
from train.sft import load_sft, run_sft

ARGS: dict[str, Any] = {"deepspeed": None, "use_liger_kernel": False, "report_to": [], "optim": "adamw_torch"}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take packages away."""
    find = importlib.util.find_spec

    def take(*modules: str) -> None:
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *rest: None if name in modules else find(name, *rest)
        )

    return take


@pytest.mark.parametrize(
    ("setting", "value", "module", "remedy"),
    [
        ("deepspeed", "zero2.json", "deepspeed", install_command("gpu")),
        ("use_vllm", True, "vllm", install_command("vllm")),
        ("use_liger_kernel", True, "liger_kernel", "pip install liger-kernel"),
        ("report_to", ["wandb"], "wandb", install_command("gpu")),
        ("report_to", ["tensorboard"], "tensorboard", install_command("gpu")),
        ("report_to", ["mlflow"], "mlflow", "pip install mlflow"),
        ("report_to", ["azure_ml"], "azureml", "pip install azureml-sdk"),
        ("optim", "paged_adamw_8bit", "bitsandbytes", install_command("qlora")),
        ("optim", OptimizerNames.GALORE_ADAMW_8BIT, "galore_torch", "pip install galore-torch"),
        ("optim", "schedule_free_adamw", "schedulefree", "pip install schedulefree"),
    ],
)
def test_each_setting_names_its_package(setting: str, value: Any, module: str, remedy: str, without: Any) -> None:
    without(module)
    said = missing_packages(SimpleNamespace(**(ARGS | {setting: value})))
    assert said == [f"'{setting}' needs the package {module}, which is not installed: {remedy}"]


def test_a_config_that_needs_nothing_more_is_let_through(without: Any) -> None:
    without("deepspeed", "vllm", "wandb", "bitsandbytes")
    for optimizer in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"):
        assert wanted_modules(SimpleNamespace(**(ARGS | {"optim": optimizer}))) == []
    assert wanted_modules(SimpleNamespace(**(ARGS | {"report_to": ["kubeflow"]}))) == []


def test_a_tracker_that_does_not_exist_is_a_mistake_in_the_config() -> None:
    with pytest.raises(ConfigError, match=r"'report_to' names 'wnadb': known are .*wandb"):
        wanted_modules(SimpleNamespace(**(ARGS | {"report_to": ["wnadb"]})))


@pytest.mark.parametrize(
    ("keys", "module"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"use_liger_kernel": True}, "liger_kernel"),
        ({"optim": "lion_8bit"}, "bitsandbytes"),
    ],
)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_run_ends_before_its_model_loads(
    stage: str, keys: dict[str, Any], module: str, without: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(module)
    monkeypatch.setattr("vlm.load._load", lambda *_, **__: pytest.fail("a model loads"))
    data = {"sft": "dataset", "grpo": "problems"}[stage]
    config = {"model": "tiny", data: str(tmp_path / "none"), "output_dir": str(tmp_path / "out"), **keys}
    with pytest.raises(UserError, match=f"needs the package {module}, which is not installed: pip install"):
        {"sft": run_sft, "grpo": run_grpo}[stage](config)
    assert not (tmp_path / "out").exists()


def test_deepspeed_is_named_though_its_arguments_cannot_be_built(
    without: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("deepspeed")
    config = {"dataset": "none", "output_dir": str(tmp_path / "out"), "deepspeed": "configs/deepspeed/zero2.json"}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config))
    assert command(["--config", str(tmp_path / "sft.yaml")], "train/sft.py", run_sft, load_sft) == 1
    said = capsys.readouterr().err
    assert said == f"error: 'deepspeed' needs the package deepspeed, which is not installed: {install_command('gpu')}\n"


def test_full_memory_ends_a_stage_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise MemoryError

    (tmp_path / "sft.yaml").write_text("seed: 1")
    assert command(["--config", str(tmp_path / "sft.yaml")], "train/sft.py", full, load_sft) == 1
    assert capsys.readouterr().err.startswith("error: The machine's memory is full")


def test_a_stage_says_which_releases_were_not_tested(
    site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.project("numpy<0.2,>=0.1")
    line = "is newer than what was tested, 0.1"
    missing = ["--config", str(tmp_path / "missing.yaml")]
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert command(missing, "train/sft.py", run_sft, load_sft) == 2 and line not in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert command(missing, "train/sft.py", run_sft, load_sft) == 2 and capsys.readouterr().err.count(line) == 1
