"""QLoRA: what is packed, what is refused, what it takes; and, where bitsandbytes is installed, that it trains."""

import copy
import importlib.metadata
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.quantizers.quantizers_utils import should_convert_module

from configs.errors import ConfigError, UserError
from configs.versions import extra_of, install_command, is_installed
from train.config import Lora
from train.data import Collator, read_rows
from train.grpo import load_grpo, run_grpo
from train.launch import load_for_training
from train.lora import lora_config
from train.memory import make_plan
from train.preflight import check
from train.quantization import keep_adapter_dtype, packed_size, quantization_config, quantized_layers, trial
from train.reader import load_reader
from train.refusals import machine_refusals, model_refusals, refusals
from train.run_folder import changed_settings
from train.sft import load_sft, main, run_sft
from vlm.load import load_vlm

pytestmark = pytest.mark.seam
INSTALLED = is_installed("bitsandbytes")
needs_bitsandbytes = pytest.mark.skipif(
    not INSTALLED, reason="NOT RUN: bitsandbytes is not installed (pip install bitsandbytes)"
)

SFT = {"dataset": "none", "output_dir": "none", "lora": {"bits": 4}}
GRPO = {"problems": "none", "output_dir": "none", "lora": {"bits": 4}}
ARGS = SimpleNamespace(bf16=False, fp16=False)


def weightless(kind: str, **config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without bitsandbytes."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of this name, which fails at its first operation."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel image\nis available")

    module = SimpleNamespace(
        __version__="0.50.2",
        functional=SimpleNamespace(quantize_nf4=fail, int8_vectorwise_quant=fail, dequantize_4bit=fail),
        __spec__=None,
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: True)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.50.2" if name == "bitsandbytes" else version(name)
    )
    return module


@pytest.mark.parametrize("bits", [2, 16, True, "4"])
def test_other_numbers_of_bits_are_refused(bits: Any) -> None:
    with pytest.raises(ConfigError, match=r"'lora.bits' in the config: (wanted one of 4, 8|unknown value)"):
        load_sft({**SFT, "lora": {"bits": bits}})
    with pytest.raises(ConfigError, match="Unknown key 'bits'"):  # without adapters nothing could be trained
        load_sft({"dataset": "none", "output_dir": "none", "bits": 4})


def test_a_missing_bitsandbytes_is_named_with_its_command(
    absent: None,
    tiny_vlm_dir: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extra = extra_of("bitsandbytes")
    command = "pip install bitsandbytes" if extra is None else install_command(extra)
    said = f"'lora.bits' needs the package bitsandbytes, which is not installed: {command}"
    keys = {
        **SFT,
        "model": str(tiny_vlm_dir),
        "dataset": str(pictures / "rows.jsonl"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "sft.json").write_text(json.dumps(keys))
    assert main(["--config", str(tmp_path / "sft.json"), "--check"]) == 1
    assert f"error   packages: {said}\n" in capsys.readouterr().out
    monkeypatch.setattr("vlm.load._load", lambda *_, **__: pytest.fail("a model loads"))
    rl = {**GRPO, "model": str(tiny_vlm_dir), "problems": str(pictures), "output_dir": str(tmp_path / "out")}
    for run, config in ((run_sft, keys), (run_grpo, rl)):
        with pytest.raises(UserError) as refused:
            run(config)
        assert str(refused.value) == said
    assert not (tmp_path / "out").exists()
    report = check(load_sft({**keys, "gpus": 8}))  # this machine is not the one that trains
    assert ("note" if not torch.accelerator.is_available() else "error", said) in {
        (one.level, one.said) for one in report.findings
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_a_device_without_kernels_is_refused_with_the_reason(
    bits: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "supports, and on this machine's" in str(trial(Lora(bits=bits)))
    assert "it fails (no kernel image): install the release for the device, or remove bits" in str(
        trial(Lora(bits=bits))
    )
    monkeypatch.setattr("train.refusals.missing_packages", lambda *_: [])
    stage = load_sft({**SFT, "lora": {"bits": bits}})
    assert "no kernel image" in dict(machine_refusals(stage.args, stage.options))["lora.bits"]
    monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
    assert "or later, found 0.50.2: pip install --upgrade bitsandbytes" in str(trial(Lora(bits=bits)))


@pytest.mark.parametrize("bits", [4, 8])
def test_who_moves_whole_weights_is_refused(bits: int) -> None:
    lora = {"lora": {"bits": bits}}
    for stage, said in (
        (load_sft({**SFT, **lora, "deepspeed": "configs/deepspeed/zero3.json"}), "ZeRO-3 cannot shard"),
        (load_sft({**SFT, **lora, "fsdp": "full_shard"}), "FSDP cannot shard"),
        (load_grpo({**GRPO, **lora, "use_vllm": True}), "vLLM takes whole ones"),
    ):
        assert f"'lora.bits: {bits}' packs weights" in dict(refusals(stage.args, stage.options, 2))["lora.bits"]
        assert said in dict(refusals(stage.args, stage.options, 2))["lora.bits"]
    for stage in (load_sft({**SFT, **lora, "deepspeed": "configs/deepspeed/zero2.json"}), load_grpo({**GRPO, **lora})):
        assert "lora.bits" not in dict(refusals(stage.args, stage.options, 2))


def test_a_model_that_is_quantized_already_is_refused(tiny_vlm_dir: Path) -> None:
    stage = load_sft({**SFT, "model": str(tiny_vlm_dir)})
    reader = load_reader(stage.options)
    assert "lora.bits" not in dict(model_refusals(stage.args, stage.options, reader))
    reader.config.quantization_config = {"load_in_4bit": True}
    assert "is quantized already: remove bits" in dict(model_refusals(stage.args, stage.options, reader))["lora.bits"]


@pytest.mark.parametrize(
    ("kind", "text", "packed", "kept"),
    [
        ("qwen2_5_vl", {"num_hidden_layers": 2}, {"q_proj", "o_proj", "down_proj"}, set()),
        ("qwen3_vl", {"num_hidden_layers": 2}, {"q_proj", "o_proj", "down_proj"}, set()),
        ("llava", {"model_type": "falcon_h1", "num_hidden_layers": 2}, {"in_proj", "q_proj"}, {"out_proj"}),
        ("llama4", {"num_hidden_layers": 2, "num_local_experts": 2}, {"q_proj", "gate_proj"}, {"router"}),
    ],
)
def test_what_adapters_can_correct_is_packed_and_nothing_else(
    kind: str, text: dict[str, Any], packed: set[str], kept: set[str], stand_in: Any
) -> None:
    model = weightless(kind, text_config=text)
    names = quantized_layers(model)
    skipped = quantization_config(Lora(bits=4), model, ARGS).llm_int8_skip_modules
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert [name for name in linear if should_convert_module(name, skipped)] == [
        name for name in linear if name in set(names)
    ]
    leaves = {name.rpartition(".")[2] for name in names}
    assert packed <= leaves and not kept & leaves
    assert not any("vis" in name or "merger" in name or "projector" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [({}, torch.float32), ({"bf16": True}, torch.bfloat16), ({"fp16": True}, torch.float16)],
)
def test_the_arithmetic_is_that_of_the_run(given: dict[str, bool], dtype: torch.dtype, stand_in: Any) -> None:
    model = weightless("qwen3_vl", text_config={"num_hidden_layers": 2})
    made = quantization_config(Lora(bits=4), model, SimpleNamespace(**{**vars(ARGS), **given}))
    assert (made.load_in_4bit, made.load_in_8bit) == (True, False)
    assert made.bnb_4bit_compute_dtype == dtype
    assert made.bnb_4bit_quant_type == "nf4" and made.bnb_4bit_use_double_quant
    eight = quantization_config(Lora(bits=8), model, ARGS)
    assert (eight.load_in_4bit, eight.load_in_8bit) == (False, True)


def test_the_plan_counts_packed_weights() -> None:
    assert packed_size(4, 1024, 1024) / 2**20 == pytest.approx((4 + 0.127) / 8, abs=1e-4)
    assert packed_size(8, 16, 32) == 16 * 32 + 4 * 16
    weights = {}
    for bits in (None, 8, 4):
        stage = load_sft(
            "configs/qwen2_5_vl_7b/sft_lora.yaml",
            {**SFT, "lora": {"r": 64, "bits": bits}, "use_cpu": True, "bf16": False},
        )
        weights[bits] = make_plan(stage.args, stage.options).parts["weights"]
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944) / 1e9  # of the 7B model's blocks
    assert weights[None] - weights[8] == pytest.approx(linear * (2 - 1), rel=0.01)
    assert weights[None] - weights[4] == pytest.approx(linear * (2 - 0.5159), rel=0.01)


def test_another_number_of_bits_is_another_run() -> None:
    assert changed_settings({"lora": {"r": 4}}, {"lora": {"r": 4, "bits": 4}}) == ["lora.bits"]


def test_adapters_keep_float32_and_a_trained_merger_its_values(tiny_vlm_dir: Path) -> None:
    from peft import get_peft_model

    model = load_vlm(tiny_vlm_dir, device="cpu").model
    merger = {name: weight.clone() for name, weight in model.named_parameters() if ".merger." in name}
    adapted = get_peft_model(model, lora_config(Lora(r=2, train_merger=True), model))
    for weight in adapted.parameters():
        if weight.requires_grad:  # as TRL does
            weight.data = weight.data.to(torch.bfloat16)
    keep_adapter_dtype(adapted)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained and {weight.dtype for weight in trained.values()} == {torch.float32}
    for name, weight in merger.items():
        end = name.partition(".merger.")[2]
        copies = [one for path, one in trained.items() if ".merger.modules_to_save." in path and path.endswith(end)]
        assert len(copies) == 1 and torch.equal(copies[0], weight)


@pytest.fixture(scope="module")
def keys(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, Any]:
    return {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "dataset": str(pictures / "rows.jsonl"),
        "per_device_train_batch_size": 3,
        "held_out": 0.2,
        "eval_steps": 1,
        "max_steps": 3,
    }


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_a_cold_start_on_packed_weights_trains_every_adapter_and_is_merged_into_the_whole_model(
    bits: int, keys: dict[str, Any], tmp_path: Path, runs: Any
) -> None:
    folder = tmp_path / "run"
    summary = run_sft(keys, {"output_dir": str(folder), "lora": {"r": 4, "alpha": 4, "bits": bits}})
    assert summary["eval_loss_last"] < summary["eval_loss_first"]
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    assert all(bool(weight.any()) for name, weight in adapter.items() if "lora_B" in name)  # they begin at 0
    before, after = runs.weights(Path(keys["model"])), runs.weights(folder)
    assert {name: weight.dtype for name, weight in before.items()} == {
        name: weight.dtype for name, weight in after.items()
    }
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    found = {key.rpartition(".lora_")[2]: one for key, one in adapter.items() if "layers.0.mlp.up_proj" in key}
    assert torch.allclose(after[name], before[name] + found["B.weight"] @ found["A.weight"], atol=1e-6)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["settings"]["lora"]["bits"] == bits and settings["versions"]["bitsandbytes"]
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    for part in ("summary.json", "model.safetensors"):
        (killed / part).unlink()
    for number in (2, 3):
        shutil.rmtree(killed / f"checkpoint-{number}")
    run_sft(keys, {"output_dir": str(killed), "lora": {"r": 4, "alpha": 4, "bits": bits}})
    course = []
    for one in (folder, killed):
        rows = [json.loads(line) for line in (one / "log.jsonl").read_text().splitlines()]
        course.append([(row["step"], row.get("loss", row.get("eval_loss"))) for row in rows])
    assert course[0] == course[1] and len(course[0]) == 3 + 4


@needs_bitsandbytes
def test_gradients_pass_packed_layers_also_after_an_evaluation(keys: dict[str, Any]) -> None:
    """They equal those of the same weights unpacked. The first forward in evaluation mode must not change the layers."""
    stage = load_sft({**keys, "output_dir": "none", "lora": {"r": 4, "bits": 4}})
    packed = load_for_training(stage.options, stage.args)
    rows, _ = read_rows(keys["dataset"], packed)
    batch = Collator(rows, packed)([{"index": 1}, {"index": 2}])
    with torch.no_grad():
        packed.model(**batch)
    whole = copy.deepcopy(packed.model).dequantize()
    gradients = []
    for model in (packed.model, whole):
        model.train()
        inputs = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        handle = model.get_input_embeddings().register_forward_hook(lambda *_, inputs=inputs: inputs)
        model(**batch).loss.backward()
        handle.remove()
        gradients.append(inputs.grad)
    assert float(gradients[1].norm()) > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@needs_bitsandbytes
def test_the_attention_rewards_measure_a_packed_model(taught: Path, pictures: Path, tmp_path: Path) -> None:
    keys = {"model": str(taught), "problems": str(pictures), "output_dir": str(tmp_path), "prompt_selection": None}
    keys |= {"rewards": {"accuracy": 1.0, "format": 0.2, "attention_ratio": 0.5}, "lora": {"r": 4, "bits": 4}}
    keys |= {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 32, "max_steps": 1}
    summary = run_grpo({**keys, "gradient_checkpointing": False, "save_steps": 1})
    assert summary["steps"] == 1
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert 0 < row["mass/first_half"] < 1
