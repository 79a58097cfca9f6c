"""What a trainer would refuse after the model is loaded is an error of --check, and of a run before anything loads."""

import copy
import inspect
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl import GRPOTrainer, SFTTrainer

from configs.errors import ConfigError, UserError
from train.config import GrpoOptions, SftOptions
from train.grpo import load_grpo, run_grpo
from train.preflight import check
from train.reader import Reader, load_reader
from train.refusals import SFT_VALUES, VALUES, machine_refusals, model_refusals, refusals, require_accepted
from train.sft import load_sft

GRPO = {"output_dir": "out", "problems": "p", "per_device_train_batch_size": 4, "num_generations": 4}
SFT = {"output_dir": "out", "dataset": "rows.jsonl"}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB") or name in ("HF_TOKEN", "NETRC"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def found(keys: dict[str, Any], grpo: bool = True, world: int = 1) -> dict[str, str]:
    stage = load_grpo({**GRPO, **keys}) if grpo else load_sft({**SFT, **keys})
    return dict(refusals(stage.args, stage.options, world))


@pytest.mark.parametrize(
    ("keys", "name", "said"),
    [
        ({"eval_strategy": "steps"}, "evaluation", "'eval_strategy: steps' needs a data set for evaluation"),
        ({"eval_strategy": "epoch"}, "evaluation", "'eval_strategy: epoch' needs a data set"),
        ({"eval_on_start": True}, "evaluation", "'eval_on_start' needs a data set"),
        ({"save_strategy": "best"}, "evaluation", "'save_strategy: best' saves no step after the best one"),
        ({"learning_rate": -1.0}, "optim", "(Invalid learning rate: -1.0)"),
        ({"adam_beta1": 1.5}, "optim", "(Invalid beta parameter"),
        ({"optim": "sgd", "weight_decay": -1.0}, "optim", "'optim: sgd' cannot be built"),
        ({"optim_args": "fast"}, "optim", "'optim: adamw_torch"),
        ({"optim": "galore_adamw"}, "optim", "needs 'optim_target_modules'"),
        ({"optim": "adamw_anyprecision"}, "optim", "torchdistx"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler", "set what it needs under lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler", "cannot be built"),
        ({"lr_scheduler_kwargs": {"colour": 1}, "lr_scheduler_type": "cosine"}, "lr_scheduler", "colour"),
        ({"fsdp": "full_shard"}, "fsdp", "this is one: start torchrun"),
        ({"liger_kernel_config": {"fused_linear_cross_entropy": True}}, "liger_kernel_config", "remove it"),
    ],
)
@pytest.mark.parametrize("grpo", [True, False])
def test_what_a_trainer_refuses_is_found_in_both_stages(keys: dict[str, Any], name: str, said: str, grpo: bool) -> None:
    assert said in found(keys, grpo)[name]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"eval_strategy": "steps"}, "or set held_out, the share of the rows to hold out"),
        ({"held_out": 0.1, "eval_strategy": "no"}, "their loss is never measured: remove one of them"),
        ({"held_out": 0.1, "load_best_model_at_end": True}, "a run's result is always its last step: remove it"),
        ({"held_out": 0.1, "save_strategy": "best"}, "saves no step after the best one"),
    ],
)
def test_what_held_out_rows_cannot_do_is_found(keys: dict[str, Any], said: str) -> None:
    assert said in found(keys, grpo=False)["evaluation"]


@pytest.mark.parametrize("keys", [{}, {"eval_steps": 5}, {"eval_strategy": "epoch"}, {"eval_on_start": False}])
def test_held_out_rows_are_measured_whenever_trl_can(keys: dict[str, Any]) -> None:
    assert found({"held_out": 0.1, **keys}, grpo=False) == {}


@pytest.mark.parametrize(
    ("keys", "name", "said"),
    [
        ({"loss_type": "grppo"}, "loss_type", "known are grpo, bnpo, dr_grpo, dapo"),
        ({"scale_rewards": "groups"}, "scale_rewards", "known are group, batch, none"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level", "token, sequence"),
        ({"multi_objective_aggregation": "sum"}, "multi_objective_aggregation", "sum_then_normalize"),
        ({"sync_ref_model": True}, "sync_ref_model", "with 'beta: 0' there is none"),
        ({"sync_ref_model": True, "beta": 0.1, "lora": {"r": 4}}, "sync_ref_model", "with 'lora' there is none"),
    ],
)
def test_what_grpo_refuses_at_its_first_step_is_found(keys: dict[str, Any], name: str, said: str) -> None:
    assert said in found(keys)[name]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"eval_strategy": "no", "save_strategy": "no"},
        {"eval_strategy": False, "save_strategy": False},  # the word no in YAML
        {"scale_rewards": "batch", "loss_type": "dapo"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"optim": "adafactor"},
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"sync_ref_model": True, "beta": 0.1},
        {"warmup_steps": 10, "max_steps": 20},
    ],
)
def test_what_a_trainer_accepts_is_accepted(keys: dict[str, Any]) -> None:
    assert found(keys) == {}


def test_fsdp_over_several_processes_is_accepted_and_beside_deepspeed_refused() -> None:
    assert found({"fsdp": "full_shard"}, world=2) == {}
    stage = load_grpo({**GRPO, "deepspeed": "configs/deepspeed/zero2.json"})
    stage.args.fsdp = "full_shard"
    assert "both shard" in dict(refusals(stage.args, stage.options, 2))["fsdp"]


def test_the_known_values_are_those_of_the_installed_release() -> None:
    source = inspect.getsource(GRPOTrainer) + inspect.getsource(inspect.getmodule(GRPOTrainer))  # type: ignore[arg-type]
    for key, values in VALUES.items():
        assert key in source and all(f'"{value}"' in source or f"'{value}'" in source for value in values), key
    assert all(f'"{value}"' in inspect.getsource(SFTTrainer) for value in SFT_VALUES["loss_type"])


# DeepSpeed


def deepspeed(tmp_path: Path, **changes: Any) -> str:
    config = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto"}
    config |= {"gradient_accumulation_steps": "auto", "bf16": {"enabled": "auto"}, **changes}
    (tmp_path / "ds.json").write_text(json.dumps(config))
    return str(tmp_path / "ds.json")


ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


@pytest.mark.parametrize(
    ("changes", "keys", "said"),
    [
        ({"train_micro_batch_size_per_gpu": 2}, {}, "train_micro_batch_size_per_gpu is 2 there, but per_device_train_"),
        ({"train_batch_size": 64}, {}, "train_batch_size is 64 there"),
        ({"gradient_accumulation_steps": 8}, {}, "gradient_accumulation_steps is 8 there"),
        ({"gradient_clipping": 5.0}, {}, "gradient_clipping is 5.0 there, but max_grad_norm"),
        ({"bf16": {"enabled": True}}, {"precision": "float32"}, "bf16.enabled is True there"),
        ({"bf16": {"enabled": False}}, {"precision": "bfloat16"}, "bf16.enabled is False there"),
        ({"fp16": {"enabled": True}}, {"precision": "bfloat16"}, "fp16.enabled is True there"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, {"learning_rate": 1e-5}, "optimizer.params.lr is"),
        ({"zero_optimization": {"stage": 3}}, {}, "stage3_gather_16bit_weights_on_model_save"),
        ({"zero_optimization": {"stage": 4}}, {}, "the stages are 0, 1, 2 and 3"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, {}, "shards no weights"),
        ({}, {"optim": "adafactor"}, "set zero_allow_untested_optimizer: true"),
    ],
)
def test_a_deepspeed_config_that_contradicts_is_named(
    changes: dict[str, Any], keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in found({"deepspeed": deepspeed(tmp_path, **changes), **keys})["deepspeed"]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {}),
        ({"train_micro_batch_size_per_gpu": 4, "train_batch_size": 4, "gradient_accumulation_steps": 1}, {}),
        ({"zero_optimization": ZERO3}, {}),
        ({"zero_optimization": {**ZERO3, "offload_param": {"device": "cpu"}}}, {}),
        ({"zero_allow_untested_optimizer": True}, {"optim": "adafactor"}),
        ({"bf16": {"enabled": True}}, {"precision": "bfloat16"}),
    ],
)
def test_a_deepspeed_config_that_agrees_is_accepted(
    changes: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    assert found({"deepspeed": deepspeed(tmp_path, **changes), "gradient_accumulation_steps": 1, **keys}) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'stage': 2}", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1]", "is no DeepSpeed config"),
        ('{"zero_optimization": 2}', "no DeepSpeed config"),
    ],
)
def test_a_deepspeed_file_that_is_none_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_grpo({**GRPO, "deepspeed": str(tmp_path / "ds.json")})


# Trackers, packages, the hub


NETRC = "machine {} login user password 0123456789012345678901234567890123456789\n"


@pytest.mark.parametrize(
    ("environment", "files", "accepted"),
    [
        ({}, {}, False),
        ({"WANDB_MODE": "offline"}, {}, True),
        ({"WANDB_MODE": "disabled"}, {}, True),
        ({"WANDB_MODE": "online"}, {}, False),
        ({"WANDB_API_KEY": "k" * 40}, {}, True),
        ({"WANDB_API_KEY": ""}, {}, False),
        ({}, {".netrc": NETRC.format("api.wandb.ai")}, True),
        ({}, {".netrc": NETRC.format("huggingface.co")}, False),
        ({}, {".netrc": "machine"}, False),
        ({"WANDB_BASE_URL": "https://w.example.org/"}, {".netrc": NETRC.format("api.wandb.ai")}, False),
        ({"WANDB_BASE_URL": "https://w.example.org/"}, {".netrc": NETRC.format("w.example.org")}, True),
        ({}, {"wandb/settings": "[default]\nmode = offline\n"}, True),
        ({}, {".config/wandb/settings": "[default]\nentity = a\n"}, False),
        ({"WANDB_MODE": "online"}, {"wandb/settings": "[default]\nmode = offline\n"}, False),
    ],
)
def test_wandb_needs_a_key_unless_it_is_offline(
    environment: dict[str, str], files: dict[str, str], accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    monkeypatch.setattr("train.refusals.missing_packages", lambda *_: [])
    for report_to in ("wandb", ["tensorboard", "wandb"]):
        args = load_sft({**SFT, "report_to": report_to}).args
        said = [sentence for _, sentence in machine_refusals(args)]
        assert said == [] if accepted else "export WANDB_API_KEY or WANDB_MODE=offline" in said[0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"report_to": "mlflow"}, "'report_to' needs the package mlflow"),
        ({"report_to": ["clearml"]}, "'report_to' needs the package clearml"),
        ({"optim": "adamw_8bit"}, "'optim' needs the package bitsandbytes"),
        ({"optim": "paged_adamw_8bit"}, "'optim' needs the package bitsandbytes"),
        ({"optim": "adamw_torch_8bit"}, "'optim' needs the package torchao"),
        ({"use_liger_kernel": True}, "'use_liger_kernel' needs the package liger_kernel"),
        ({"push_to_hub": True}, "'push_to_hub' needs a token of the hub"),
    ],
)
def test_what_the_machine_lacks_is_an_error_of_check_and_of_a_run(
    keys: dict[str, Any], said: str, tiny_vlm_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    data = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path / "out")}
    stage = load_sft({**data, "per_device_train_batch_size": 2, **keys})
    errors = [finding.said for finding in check(stage).findings if finding.level == "error"]
    assert len(errors) == 1 and said in errors[0]
    with pytest.raises(UserError, match=said):
        require_accepted(stage.args, stage.options, 1)


def test_report_to_all_is_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    args = load_sft({**SFT, "report_to": "all"}).args
    assert "all" not in args.report_to
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert list(machine_refusals(args)) == []


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(ConfigError, match="'report_to' names 'wandbb': known are"):
        list(machine_refusals(load_sft({**SFT, "report_to": "wandbb"}).args))


# The model


@pytest.fixture
def reader(tiny_vlm_dir: Path) -> Reader:
    return load_reader(GrpoOptions(model=str(tiny_vlm_dir)))


ARGS = SimpleNamespace(router_aux_loss_coef=None)


def test_a_model_that_can_be_trained_has_no_fault(reader: Reader) -> None:
    assert list(model_refusals(ARGS, GrpoOptions(), reader)) == []
    assert list(model_refusals(ARGS, SftOptions(), reader)) == []


@pytest.mark.parametrize("tokens", [["<look>"], ["<a>", "<b>", "word"]])
def test_a_token_without_a_row_of_the_embedding_is_named(tokens: list[str], reader: Reader) -> None:
    processor = copy.deepcopy(reader.vlm.processor)
    have, rows = len(processor.tokenizer), reader.config.get_text_config().vocab_size
    processor.tokenizer.add_tokens([f"<filler{n}>" for n in range(rows - have)])  # up to the rows that there are
    reader.vlm.processor = processor
    assert list(model_refusals(ARGS, GrpoOptions(), reader)) == []
    processor.tokenizer.add_tokens(tokens)
    ((name, said),) = model_refusals(ARGS, GrpoOptions(), reader)
    assert name == "vocabulary" and f"the token '{tokens[0]}' with number {rows}" in said
    assert f"({len(tokens)} tokens have none)" in said and "resize_token_embeddings" in said


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template, so no question can be put to it: copy chat_template.jinja"),
        ("{{ raise_exception('no system turn') }}", "failed .*no system turn.*: check chat_template.jinja"),
        ("{% for %}", "The chat template of .* failed"),
    ],
)
def test_a_chat_template_that_is_missing_or_fails_is_named_once(
    template: str | None, said: str, tiny_vlm_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_vlm_dir, model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("processor_config.json", "tokenizer_config.json"):
        if (model / name).exists():
            data = json.loads((model / name).read_text())
            data.pop("chat_template", None)
            (model / name).write_text(json.dumps(data))
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    grpo = {**GRPO, "model": str(model), "problems": str(pictures), "output_dir": str(tmp_path / "out")}
    sft = {**SFT, "model": str(model), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path / "out")}
    for stage in (load_grpo(grpo), load_sft(sft)):
        errors = [finding for finding in check(stage).findings if finding.level == "error"]
        assert [one.check for one in errors] == ["chat_template"] and re.search(said, errors[0].said)
    with pytest.raises(UserError, match=said):
        run_grpo(grpo)


def test_further_faults_of_a_model(reader: Reader) -> None:
    args = SimpleNamespace(router_aux_loss_coef=0.01, eos_token="<end>")
    names = dict(model_refusals(args, SftOptions(), reader))
    assert set(names) == {"router_aux_loss_coef", "eos_token"} and "'<end>'" in names["eos_token"]
    known = SimpleNamespace(router_aux_loss_coef=0.0, eos_token=reader.vlm.tokenizer.eos_token)
    assert list(model_refusals(known, SftOptions(), reader)) == []


# The constructor of the config


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"per_device_train_batch_size": 3}, r"3 responses .* not divisible by 'num_generations' 4: change per_device"),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 3}, r"18 responses .* 'num_generations' 4"),
        ({"generation_batch_size": 6}, r"'generation_batch_size' 6 is no multiple of the 4 responses"),
        ({"num_generations": 1}, r"'num_generations' must be at least 2, found 1"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, r"'lr_scheduler_type: reduce_lr_on_plateau' follows a loss"),
        ({"lr_scheduler_type": "greedy"}, r"'lr_scheduler_type: greedy' follows a loss"),
        ({"load_best_model_at_end": True}, r"'load_best_model_at_end' publishes another step"),
        ({"logging_steps": 0}, r"'logging_steps'"),
        ({"dataloader_prefetch_factor": 2}, r"'dataloader_num_workers'"),
        (
            {"gradient_accumulation_steps": 0},
            r"'gradient_accumulation_steps' in the config must be at least 1, found 0",
        ),
        ({"per_device_train_batch_size": 0}, r"'per_device_train_batch_size' in the config must be at least 1"),
        ({"max_completion_length": 0}, r"'max_completion_length' in the config must be at least 1, found 0"),
        ({"gpus": 0}, r"'gpus' in the config must be at least 1"),
        ({"temperature": 0.0}, r"'temperature' in the config must be above 0, found 0.0"),
        ({"temperature": -1.0}, r"'temperature' in the config must be above 0"),
        ({"top_p": 1.5}, r"'top_p' in the config must be at most 1"),
    ],
)
def test_what_the_constructor_refuses_names_its_key(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_grpo({**GRPO, **keys})
