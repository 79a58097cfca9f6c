"""Folders of vision-language models with a published shape and random weights, for benchmarks that measure memory and time.

The config is a shipped one (``configs/*/model``) or one of ``ASSUMED``, with fewer decoder layers where memory demands it. The
vocabulary, the vision tower and the widths stay. The tokenizer is a stand-in: words of the tiny models, filled up to the published
vocabulary, the image tokens at the published ids. Nothing is downloaded.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

import configs
from train.reader import SHIPPED, stand_in_processor
from train.tiny.models import CONTROL, END, PAD, build_tokenizer

# Not shipped with the project. Layers, width, heads and vocabulary are those that public descriptions of the model name
# (24 layers, 1,024 wide, 8 heads of which 2 key heads, 6 layers with a cache; 16 heads of 128 in a Gated DeltaNet layer). The inner
# width and the vision tower are assumed.
ASSUMED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3.5-0.8B": {
        "like": "Qwen/Qwen3.5-4B",
        "text": {
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "linear_num_value_heads": 16,
        },
        "vision": {
            "depth": 12,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_heads": 12,
            "out_hidden_size": 1024,
        },
    }
}
TINY = {
    "text": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2},
    "vision": {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
}
"""Widths for a dry run: the classes and the vocabulary's ids stay, the matrices shrink."""


def shape_config(name: str, depth: int | None = None, tiny: bool = False) -> Any:
    """The config of a model by its hub name, with ``depth`` decoder layers."""
    assumed = ASSUMED.get(name, {})
    folder = configs.bundled_config(f"{SHIPPED[assumed.get('like', name)]}/model")
    data = json.loads((Path(str(folder)) / "config.json").read_text(encoding="utf-8"))
    text, vision = data["text_config"], data["vision_config"]
    changes = [assumed, TINY] if tiny else [assumed]
    for change in changes:
        text |= change.get("text", {})
        vision |= change.get("vision", {})
    if tiny and "head_dim" in text:
        text["head_dim"] = 16
        text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2}
        text["linear_num_value_heads"] = 2
        text["rope_parameters"] |= {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}
    elif tiny:
        text["rope_parameters"] |= {"mrope_section": [2, 3, 3]}
        vision["fullatt_block_indexes"] = [1]
    if depth is not None or assumed:
        text["num_hidden_layers"] = depth = depth or text["num_hidden_layers"]
        text["layer_types"] = (text["layer_types"] * 8)[:depth]
        text["max_window_layers"] = depth
    return AutoConfig.for_model(data.pop("model_type"), **data)


def build_random_model(folder: Path, name: str, depth: int | None, dtype: str, tiny: bool = False) -> Path:
    """Write the folder of a model with random weights; one that is complete is used again."""
    mark = {"name": name, "depth": depth, "dtype": dtype, "tiny": tiny}
    done = folder / "random_model.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == mark:
        return folder
    config = shape_config(name, depth, tiny)
    source = str(configs.bundled_config(f"{SHIPPED[ASSUMED.get(name, {}).get('like', name)]}/model"))
    processor = stand_in_processor(config.model_type, source, {})
    processor.tokenizer = published_tokenizer(config)
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=kind)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.02)
            else:
                weight.fill_(1.0 if "norm" in weight_name else 0.0)
    model.generation_config = GenerationConfig(**_stops(processor.tokenizer))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    done.write_text(json.dumps(mark), encoding="utf-8")
    return folder


def _stops(tokenizer: Any) -> dict[str, Any]:
    return {"eos_token_id": tokenizer.convert_tokens_to_ids(END), "pad_token_id": tokenizer.convert_tokens_to_ids(PAD)}


def published_tokenizer(config: Any) -> Any:
    """The tiny models' tokenizer with every image token at its published id and fillers up to the published vocabulary."""
    small = build_tokenizer()
    size = config.get_text_config().vocab_size
    places = {
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
    }
    rest = [token for token in small.get_vocab() if token not in places]
    ids = dict(places)
    taken = set(places.values())
    free = (number for number in range(size) if number not in taken)
    ids |= {token: next(free) for token in rest}
    ids |= {f"<filler_{number}>": number for number in free}
    backend = json.loads(small.backend_tokenizer.to_str())
    backend["model"]["vocab"] = dict(sorted(ids.items(), key=lambda item: item[1]))
    for token in backend["added_tokens"]:
        token["id"] = ids[token["content"]]
    backend["added_tokens"].sort(key=lambda token: token["id"])
    return type(small)(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in CONTROL if token not in (PAD, END)],
        padding_side="left",
        model_max_length=4096,
        chat_template=small.chat_template,
        clean_up_tokenization_spaces=False,
    )
