"""Adapters reach the mixer of every block, of any family; what carries none is said; older runs keep what they began with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
)

from benchmarks.families import FAMILIES, REFERENCE
from configs.errors import UserError
from train.config import Lora
from train.grpo import run_grpo
from train.launch import freeze
from train.lora import LINEAR, check_lora, coverage, find_blocks, lora_config, target_names
from train.memory import make_plan
from train.preflight import check
from train.sft import load_sft, run_sft
from vlm.generate import generate
from vlm.images import open_image
from vlm.load import load_vlm

pytestmark = pytest.mark.seam

OLD = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # the default of the first version
ATTENTION, GATED_MLP = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
DELTA = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"}


def weightless(kind: str, **config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))


def leaves(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("name", REFERENCE)
def test_where_the_old_default_reached_every_block_the_new_one_is_the_same(name: str) -> None:
    model = FAMILIES[name]().model
    found = target_names(Lora(), model)
    assert sorted(found) == sorted(target_names(Lora(targets=OLD), model))
    assert coverage(model, found).mixer == coverage(model, found).mlp == (3, 3)


@pytest.mark.parametrize(
    ("kind", "text", "blocks", "mixer", "mlp", "experts"),
    [
        ("qwen3_5", {"num_hidden_layers": 4}, 4, DELTA | ATTENTION, GATED_MLP, 0),
        ("qwen3_5_moe", {"num_hidden_layers": 4, "num_experts": 4}, 4, DELTA | ATTENTION, GATED_MLP, 4),
        ("qwen3_vl_moe", {"num_hidden_layers": 2, "num_experts": 4}, 2, ATTENTION, set(), 2),
        (
            "lfm2_vl",
            {"model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [1]},
            3,
            {"in_proj", "out_proj", "q_proj", "k_proj", "v_proj"},
            {"w1", "w2", "w3"},
            0,
        ),
        (
            "kimi_k25",  # multi-head latent attention
            {"model_type": "deepseek_v3", "num_hidden_layers": 2, "n_routed_experts": 8, "first_k_dense_replace": 1},
            2,
            {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"},
            GATED_MLP,
            1,
        ),
        (
            "llava",  # Gated DeltaNet with fused projections, and experts
            {"model_type": "qwen3_next", "num_hidden_layers": 4, "num_experts": 4},
            4,
            ATTENTION | {"in_proj_qkvz", "in_proj_ba", "out_proj"},
            GATED_MLP,
            4,
        ),
        (
            "llava",  # fused
            {"model_type": "phi3", "num_hidden_layers": 2},
            2,
            {"qkv_proj", "o_proj"},
            {"gate_up_proj", "down_proj"},
            0,
        ),
        (
            "fuyu",
            {"model_type": "persimmon", "num_hidden_layers": 2},
            2,
            {"query_key_value", "dense"},
            {"dense_h_to_4h", "dense_4h_to_h"},
            0,
        ),
        ("mllama", {"num_hidden_layers": 4, "cross_attention_layers": [1]}, 4, ATTENTION, GATED_MLP, 0),
        (
            "llama4",
            {"num_hidden_layers": 2, "num_local_experts": 2},
            2,
            ATTENTION,
            GATED_MLP,
            2,
        ),  # its router is linear
        (
            "gemma4",
            {"num_hidden_layers": 2, "enable_moe_block": True, "num_experts": 4, "moe_intermediate_size": 8},
            2,
            ATTENTION,
            {*GATED_MLP, "per_layer_input_gate", "per_layer_projection"},
            2,
        ),
        (
            "llava",  # a state space mixer beside attention
            {"model_type": "falcon_h1", "num_hidden_layers": 2},
            2,
            {*ATTENTION, "in_proj"},
            GATED_MLP,
            0,
        ),
        (
            "blip-2",
            {"model_type": "opt", "num_hidden_layers": 2},
            2,
            {*ATTENTION - {"o_proj"}, "out_proj"},
            {"fc1", "fc2"},
            0,
        ),
    ],
)
def test_every_block_is_reached_by_its_own_names(
    kind: str, text: dict[str, Any], blocks: int, mixer: set[str], mlp: set[str], experts: int
) -> None:
    model = weightless(kind, text_config=text)
    found = find_blocks(model)
    assert len(found) == blocks and all(block.mixer for block in found)
    assert leaves([name for block in found for name in block.mixer]) == mixer
    assert leaves([name for block in found for name in block.mlp]) == mlp
    targets = target_names(Lora(), model)
    assert len(targets) == len(set(targets)) == sum(len(block.mixer) + len(block.mlp) for block in found)
    assert all(isinstance(model.get_submodule(name), LINEAR) for name in targets)
    heads = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    assert heads and not {*heads} & {*targets}
    reached, notes = check_lora(Lora(), model)
    assert reached.mixer == (blocks, blocks) and reached.experts == experts
    assert [("The experts of" in note) for note in notes] == [True] * bool(experts)


def test_blocks_of_one_part_each_and_the_linear_layers_of_gpt2() -> None:
    nemotron = weightless("nemotron_h_omni")  # a Mamba, an MLP of experts, an attention and an MLP, all called "mixer"
    assert [(leaves(block.mixer), leaves(block.mlp)) for block in find_blocks(nemotron)] == [
        ({"in_proj"}, set()),
        (set(), {"up_proj", "down_proj"}),
        (ATTENTION, set()),
        (set(), {"up_proj", "down_proj"}),
    ]
    reached = coverage(nemotron, target_names(Lora(), nemotron))
    assert reached.mixer == reached.mlp == (2, 2)
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "add_cross_attention": True}
    model = weightless("vision-encoder-decoder", encoder={"model_type": "vit", "num_hidden_layers": 1}, decoder=gpt2)
    assert [(leaves(block.mixer), leaves(block.mlp)) for block in find_blocks(model)] == [
        ({"c_attn", "q_attn", "c_proj"}, {"c_fc", "c_proj"})
    ] * 2


def test_a_qwen3_5_of_9b_carries_adapters_in_32_of_32_blocks() -> None:
    model = weightless("qwen3_5")
    assert model.config.text_config.layer_types.count("linear_attention") == 24
    reached, notes = check_lora(Lora(), model)
    assert reached.mixer == reached.mlp == (32, 32) and not notes
    assert reached.layers == 24 * 5 + 8 * 4 + 32 * 3
    assert reached.line(64) == (
        "LoRA: 32 of 32 blocks carry adapters in the mixer, 32 of 32 in the MLP (rank 64, 248 layers)"
    )
    reached, notes = check_lora(Lora(targets=OLD), model)
    assert reached.mixer == (8, 32) and reached.mlp == (32, 32)
    assert len(notes) == 1 and "24 of 32 blocks (0-2, 4-6, 8-10, 12-14, 16-18, 20-22, 24-26, 28-30)" in notes[0]
    named = notes[0].partition("add ")[2].partition(" to ")[0].split(", ")
    assert {*named} == DELTA
    assert check_lora(Lora(targets=OLD + named), model)[0].mixer == (32, 32)  # the remedy is one


def test_blocks_are_found_where_zero3_keeps_the_weights_elsewhere() -> None:
    model = FAMILIES["qwen3_vl"]().model
    before = find_blocks(model)
    for weight in model.parameters():
        weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    assert find_blocks(model) == before


@pytest.fixture(scope="module")
def config(qwen3_5_dir: Path, pictures: Path, runs: Any) -> dict[str, Any]:
    keys = {"model": str(qwen3_5_dir), "dataset": str(pictures / "rows.jsonl"), "max_steps": 3}
    return {**runs.BASE, **keys, "per_device_train_batch_size": 2, "lora": {"r": 4, "alpha": 8}}


def test_training_moves_every_mixer_of_a_hybrid_and_the_merged_model_loads(
    config: dict[str, Any],
    qwen3_5_dir: Path,
    pictures: Path,
    tmp_path: Path,
    runs: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_sft(config, {"output_dir": str(tmp_path / "run")})
    assert (
        "LoRA: 4 of 4 blocks carry adapters in the mixer, 4 of 4 in the MLP (rank 4, 31 layers)\n"
        in capsys.readouterr().out
    )
    moved = set(runs.weights(qwen3_5_dir)) - set(runs.unmoved(qwen3_5_dir, tmp_path / "run"))
    blocks = find_blocks(load_vlm(qwen3_5_dir, device="cpu").model)
    assert moved == {f"{name}.weight" for block in blocks for name in (*block.mixer, *block.mlp)}
    assert len(moved) == 3 * 5 + 4 + 4 * 3
    # The merged folder computes what the start with its adapter computes.
    from peft import PeftModel

    merged, start = (load_vlm(folder, device="cpu") for folder in (tmp_path / "run", qwen3_5_dir))
    adapted = PeftModel.from_pretrained(start.model, str(tmp_path / "run" / "adapter")).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            merged.model(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
    answer = generate(
        merged,
        [[{"role": "user", "content": [{"type": "image"}]}]],
        [[open_image(pictures / "0.png")]],
        max_new_tokens=2,
    )
    assert len(answer) == 1


def test_a_run_that_began_with_the_old_default_goes_on_with_it(
    config: dict[str, Any], qwen3_5_dir: Path, tmp_path: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first version recorded what the config said, no list, and adapted seven names."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_sft(config, {"output_dir": str(whole), "lora": {"targets": OLD}})
    said = capsys.readouterr().out
    assert "LoRA: 1 of 4 blocks carry adapters in the mixer, 4 of 4 in the MLP (rank 4, 16 layers)" in said
    assert "The mixer of 3 of 4 blocks (0-2) carries no adapter: add " in said
    shutil.copytree(whole, resumed)
    runs.kill_after(resumed, 2)
    known = json.loads((resumed / "settings.json").read_text())
    del known["settings"]["lora"]["targets"]
    known["settings"]["output_dir"] = str(resumed)
    (resumed / "settings.json").write_text(json.dumps(known))
    run_sft(config, {"output_dir": str(resumed)})
    said = capsys.readouterr().out
    assert "LoRA: 1 of 4 blocks" in said and "keeps the adapters that it began with" in said
    assert runs.column(resumed) == runs.column(whole)
    after, wanted = runs.weights(resumed), runs.weights(whole)
    assert all(torch.equal(after[name], wanted[name]) for name in wanted)
    # A list that the config names is a setting like any other.
    (resumed / "summary.json").unlink()
    with pytest.raises(UserError, match=r"other settings \(lora\.targets\)"):
        run_sft(config, {"output_dir": str(resumed), "lora": {"targets": ["q_proj"]}})


def test_grpo_prints_what_its_adapters_reach(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "problems": str(pictures),
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
    }
    batch = {
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 4,
        "prompt_selection": None,
    }
    run_grpo({**keys, **batch, "lora": {"r": 2}})
    assert (
        "LoRA: 4 of 4 blocks carry adapters in the mixer, 4 of 4 in the MLP (rank 2, 28 layers)\n"
        in capsys.readouterr().out
    )


def test_a_checkpoint_for_layers_of_other_names_is_refused(tmp_path: Path) -> None:
    model = FAMILIES["qwen3_vl"]().model
    for names, said in ((["v_proj", "1.self_attn.q_proj"], None), (["wqkv"], "layers that the model does not have")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": names}))
        if said is None:  # the ends that PEFT saves
            found = lora_config(Lora(), model, tmp_path).target_modules
            assert leaves(list(found)) == {"q_proj", "v_proj"} and coverage(model, found).layers == 3 + 1
        else:
            with pytest.raises(UserError, match=said):
                lora_config(Lora(), model, tmp_path)


def lora_findings(keys: dict[str, Any]) -> list[tuple[str, str]]:
    report = check(load_sft(keys))
    return [(finding.level, finding.said) for finding in report.findings if finding.check in ("lora", "model")]


def test_check_finds_a_mixer_without_an_adapter(config: dict[str, Any], tmp_path: Path) -> None:
    keys = {**config, "output_dir": str(tmp_path)}
    assert lora_findings(keys) == []
    assert check(load_sft(keys)).counts["lora"] == {"layers": 31, "mixers": [4, 4], "mlps": [4, 4]}
    ((level, said),) = lora_findings({**keys, "lora": {"r": 4, "targets": OLD}})
    assert level == "note" and "3 of 4 blocks (0-2)" in said and "in_proj_qkv" in said
    assert check(load_sft({**keys, "lora": {"targets": OLD}})).passed
    for targets, wanted in (
        (["z_proj"], "no linear layer named z_proj"),
        (["conv1d"], "no linear layer named conv1d"),
        ([], "at least one"),
    ):
        ((level, said),) = lora_findings({**keys, "lora": {"targets": targets}})
        assert level == "error" and wanted in said


def test_the_plan_counts_the_adapters_that_peft_makes(
    config: dict[str, Any], qwen3_5_dir: Path, tmp_path: Path
) -> None:
    from peft import get_peft_model

    for lora in ({"r": 4}, {"r": 4, "targets": OLD}, {"r": 4, "train_merger": True}):
        stage = load_sft({**config, "lora": lora, "output_dir": str(tmp_path)})
        model = load_vlm(qwen3_5_dir, device="cpu").model
        wrapped = get_peft_model(model, lora_config(stage.options.lora, model))
        made = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
        assert make_plan(stage.args, stage.options).facts["trainable"] == made


def test_a_plan_of_experts_counts_the_width_that_a_token_passes(
    config: dict[str, Any], qwen3_5_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The code of experts needs values, so that their activations come from the formula, without a word of torch's."""
    dense = json.loads((qwen3_5_dir / "config.json").read_text())
    activations = []
    # (width of an expert, experts of a token, experts, width of the shared one)
    for number, widths in enumerate([(8, 2, 4, 24), (16, 1, 8, 24), (8, 2, 4, 64)]):
        folder = tmp_path / str(number)
        shutil.copytree(qwen3_5_dir, folder)
        text = {key: value for key, value in dense["text_config"].items() if key != "intermediate_size"}
        names = ("moe_intermediate_size", "num_experts_per_tok", "num_experts", "shared_expert_intermediate_size")
        text |= {"model_type": "qwen3_5_moe_text", **dict(zip(names, widths, strict=True))}
        vision = {**dense["vision_config"], "model_type": "qwen3_5_moe_vision"}
        changed = {**dense, "model_type": "qwen3_5_moe", "text_config": text, "vision_config": vision}
        (folder / "config.json").write_text(json.dumps(changed))
        keys = {**config, "model": str(folder), "output_dir": str(tmp_path / "out")}
        assert check(load_sft(keys)).passed
        stage = load_sft({**keys, "per_device_train_batch_size": 512})  # parts are rounded to 0.01 GB
        plan = make_plan(stage.args, stage.options)
        assert plan.facts["activations_by"] == "formula"
        activations.append(plan.parts["activations"])
    assert activations[0] == activations[1] > 1
    assert activations[2] > activations[0]
    assert "fake_tensor" not in caplog.text


def test_a_frozen_vision_tower_takes_no_part_in_the_backward() -> None:
    """With adapters and gradient checkpointing TRL lets the gradient begin at the embeddings, in Qwen2.5-VL those of patches too."""
    for frozen in (False, True):
        model = FAMILIES["qwen2_5_vl"]().model
        freeze(model, "qwen2_5_vl", frozen, False)
        model.requires_grad_(False)
        model.enable_input_require_grads()
        embeddings = model.model.visual.patch_embed
        patches = embeddings(torch.zeros(4, embeddings.proj.weight[0].numel()))
        text = model.get_input_embeddings()(torch.zeros(1, 2, dtype=torch.long))
        assert patches.requires_grad is not frozen and text.requires_grad
