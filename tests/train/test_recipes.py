"""The recipes of Qwen3.5 and Gemma 4: their chat templates as published, and what their layers cost."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForImageTextToText

from train.activations import cache_bytes
from train.config import Lora, SftOptions
from train.data import IGNORED, Collator, read_rows
from train.launch import freeze
from train.lora import check_lora
from train.reader import load_reader, part_of, skeleton
from vlm.chat import encode, end_of_turn, opened_tag, question_messages
from vlm.load import VLM
from vlm.thinking import family_tags

# TRL ships the templates as the model pages publish them (its chat_templates/README.md names the revisions).
TEMPLATES = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"  # type: ignore[union-attr,index]
QWEN, GEMMA = "Qwen/Qwen3.5-4B", "google/gemma-4-E4B-it"
TOKENS = {
    QWEN: [],
    GEMMA: ["<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"],
}
THINKING = [
    # (model, template, what the prompt ends with by default, with thinking on, with thinking off)
    (
        QWEN,
        "qwen3_5_think",
        *("<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n"),
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    (
        QWEN,
        "qwen3_5_nothink",
        *("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_start|>assistant\n<think>\n"),
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    *[(GEMMA, f"gemma4{version}", *["<|turn>model\n"] * 3) for version in ("", "_v3", "_v5")],
]


def published(model: str, template: str) -> VLM:
    """The model's shape with its published template; words are encoded by the tiny models' tokenizer."""
    vlm = load_reader(SftOptions(model=model)).vlm
    vlm.tokenizer.add_tokens([AddedToken(token, special=True) for token in TOKENS[model]])
    vlm.processor.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    end = "<|im_end|>" if model == QWEN else "<turn|>"
    vlm.model.generation_config.eos_token_id = vlm.tokenizer.convert_tokens_to_ids(end)
    if model == GEMMA:
        vlm.tokenizer.bos_token = "<bos>"
    return vlm


def encoded(vlm: VLM, text: str) -> list[int]:
    return list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("model", "template", "default", "on", "off"), THINKING, ids=[one[1] for one in THINKING])
def test_where_a_published_prompt_ends(model: str, template: str, default: str, on: str, off: str) -> None:
    vlm = published(model, template)
    turns = question_messages("What is at A1?", 1)

    def prompt(**thinking: bool) -> str:
        return str(vlm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **thinking))

    assert prompt().endswith(default)
    assert prompt(enable_thinking=True).endswith(on) and prompt(enable_thinking=False).endswith(off)
    assert ("<|think|>" in prompt(enable_thinking=True)) == (model == GEMMA)  # a flag of the system turn
    assert opened_tag(vlm, turns) == ("<think>\n" if default.endswith("assistant\n<think>\n") else "")
    end = "<|im_end|>" if model == QWEN else "<turn|>"
    assert end_of_turn(vlm) == vlm.tokenizer.convert_tokens_to_ids(end)
    assert family_tags(vlm.tokenizer).opening == ("<think>" if model == QWEN else "<|channel>thought\n")


@pytest.mark.parametrize(("model", "template"), [one[:2] for one in THINKING], ids=[one[1] for one in THINKING])
def test_image_tokens_stand_together_between_their_marks(model: str, template: str) -> None:
    vlm = published(model, template)
    images = [Image.new("RGB", (320, 256), "red"), Image.new("RGB", (256, 320), "blue")]
    batch = encode(vlm, [question_messages("Is <image 2> like the first? <think> <|channel>thought", 2)], [images])
    ids = batch["input_ids"][0].tolist()
    names = (
        ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
        if model == QWEN
        else ("<|image>", "<|image|>", "<image|>")
    )
    start, image, end = vlm.tokenizer.convert_tokens_to_ids(list(names))
    runs = []
    for place in [place for place, token in enumerate(ids) if token == start]:
        stop = ids.index(end, place)
        assert set(ids[place + 1 : stop]) == {image}
        runs.append(stop - place - 1)
    if model == QWEN:
        assert runs == (batch["image_grid_thw"].prod(dim=1) // 4).tolist() == [80, 80]
    else:
        assert len(runs) == 2 and all(200 < run <= 280 for run in runs)  # it enlarges small images to its budget
    assert ids.count(image) == sum(runs)
    thinking = vlm.tokenizer.convert_tokens_to_ids("<think>" if model == QWEN else "<|channel>")
    # The question's tags are text: only those of the template's own ending are tokens.
    assert ids.count(thinking) == (1 if model == QWEN else 0)


@pytest.mark.parametrize(
    ("model", "template"), [(QWEN, "qwen3_5_think"), (GEMMA, "gemma4_v5")], ids=["qwen3_5", "gemma4"]
)
def test_rows_of_the_cold_start_are_the_templates_own_turns(model: str, template: str, tmp_path: Path) -> None:
    """Prompt, reasoning, answer and end, token by token as the published template writes a turn that thought."""
    vlm = published(model, template)
    prompt = question_messages("What is at A1?", 0)
    row = {
        "prompt": prompt,
        "completion": "<think> It is blue . No , red . </think> \\boxed{red}",
        "masked": [[14, 18]],
    }
    direct = {"prompt": prompt, "completion": "\\boxed{red}", "mode": "direct"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(direct) + "\n")
    rows, dropped = read_rows(tmp_path / "rows.jsonl", vlm)
    assert len(rows) == 2 and not dropped.counts
    assert [rows[0].completion[start:end] for start, end in rows[0].masked] == ["blue"]
    batch = Collator(rows, vlm)([{"index": 0}])
    answer = {"role": "assistant", "reasoning_content": "It is blue . No , red .", "content": "\\boxed{red}"}
    whole = vlm.processor.apply_chat_template([*prompt, answer], tokenize=False)
    assert batch["input_ids"][0].tolist() == encoded(vlm, whole.removesuffix("\n"))
    hidden = batch["input_ids"][0][batch["labels"][0] == IGNORED]
    assert vlm.tokenizer.decode(hidden).endswith("blue")
    # Without reasoning the text is that of thinking off.
    opened, off = (
        vlm.processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **thinking)
        for thinking in ({}, {"enable_thinking": False})
    )
    assert opened + rows[1].completion == off + "\\boxed{red}"
    assert Collator(rows, vlm)([{"index": 1}])["labels"][0][-1] == end_of_turn(vlm)


# What the layers cost


def held(cache: Any) -> int:
    """Bytes of all tensors of a cache."""
    tensors: dict[int, int] = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            for tensor in (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            ):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    tensors[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(tensors.values())


def test_the_planned_cache_of_a_hybrid_model_is_the_real_one() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    config = transformers.Qwen3_5TextConfig(**sizes, **linear, head_dim=16, num_hidden_layers=8, vocab_size=64)
    model = transformers.Qwen3_5TextModel(config).to(torch.bfloat16).eval()
    for tokens in (8, 40):
        with torch.no_grad():
            cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
        assert held(cache) == pytest.approx(cache_bytes(config, tokens), rel=0.5)  # states of some kernels are bfloat16
    grown = cache_bytes(config, 40) - cache_bytes(config, 8)
    assert grown == 32 * 2 * (2 * 2 * 16)  # two of eight layers grow


def test_the_planned_cache_of_shared_and_sliding_layers_is_the_real_one() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.Gemma4TextConfig(
        **sizes,
        **{"head_dim": 8, "global_head_dim": 16, "num_hidden_layers": 6, "num_kv_shared_layers": 2, "vocab_size": 64},
        **{"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "sliding_window": 16},
        layer_types=["sliding_attention", "full_attention"] * 3,
    )
    model = transformers.Gemma4TextModel(config).to(torch.bfloat16).eval()
    for tokens in (8, 40):
        with torch.no_grad():
            cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
        assert held(cache) == pytest.approx(cache_bytes(config, tokens), rel=0.1)  # a window keeps one token less
    assert cache_bytes(config, 41) - cache_bytes(config, 40) == 2 * 4 * 16  # the two full layers that are not shared


def test_the_shapes_cost_what_their_layers_do() -> None:
    tokens = 4096
    grows = {}
    for model in ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-9B", GEMMA):
        config = load_reader(SftOptions(model=model)).config.get_text_config()
        grows[model] = cache_bytes(config, tokens + 1) - cache_bytes(config, tokens)
    assert grows == {
        "Qwen/Qwen3-VL-8B-Instruct": 36 * 4 * 8 * 128,
        "Qwen/Qwen3.5-4B": 8 * 4 * 4 * 256,  # 8 of 32 layers
        "Qwen/Qwen3.5-9B": 8 * 4 * 4 * 256,
        GEMMA: 4 * 4 * 2 * 512,  # 4 of 42 layers: 7 attend to all tokens, 3 of these share
    }


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (QWEN, "32 of 32 blocks carry adapters in the mixer, 32 of 32 in the MLP (rank 64, 248 layers)"),
        (GEMMA, "42 of 42 blocks carry adapters in the mixer, 42 of 42 in the MLP (rank 64, 342 layers)"),
    ],
)
def test_adapters_reach_every_block(model: str, line: str) -> None:
    """Gated DeltaNet layers by their own names; shared layers of Gemma 4 by queries and output, as they have no keys."""
    found, notes = check_lora(Lora(), skeleton(load_reader(SftOptions(model=model)).config.to_json_string()))
    assert found.line(64) == f"LoRA: {line}" and not notes


def test_the_parts_of_gemma_that_are_frozen() -> None:
    every = load_reader(SftOptions(model=GEMMA)).config.to_json_string()
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("gemma4", **small(json.loads(every))))
    freeze(model, GEMMA, vision=False, merger=False)
    assert {part_of(name) for name, weight in model.named_parameters() if not weight.requires_grad} == {"audio"}
    freeze(model, GEMMA, vision=True, merger=True)
    assert {part_of(name) for name, weight in model.named_parameters() if weight.requires_grad} == {"language"}


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The published config with little width and few layers."""
    config.pop("model_type")
    text = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 64, "vocab_size_per_layer_input": 64}
    layers = {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    config["text_config"] |= {**text, **layers, "per_layer_config": None}
    config["vision_config"] |= {"num_hidden_layers": 1, "position_embedding_size": 16}
    config["audio_config"] |= {"num_hidden_layers": 1}
    return config
