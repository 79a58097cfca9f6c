"""A model without its weights: config, processor, and the number of weights of each part.

For the models that this project's configs name, ``configs/*/model`` holds config and image settings, so that a check or a
plan needs neither the network nor the model's files.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

import configs
from configs.api_key import redact_tokens
from configs.errors import UserError
from configs.paths import user_path
from train.config import AUDIO_NAMES, MERGER_NAMES, VISION_NAMES, ModelOptions
from vlm.hub import cache_alone, hub_remedy, why_unreachable
from vlm.images import pixel_limits
from vlm.load import BUNDLED, VLM, bundled_model
from vlm.pixel_limits import check_with_processor, given_pixel_limits

SHIPPED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "Qwen/Qwen3.5-4B": "qwen3_5_4b",
    "Qwen/Qwen3.5-9B": "qwen3_5_9b",
    "google/gemma-4-E4B-it": "gemma4_e4b",
}


@dataclass
class Reader:
    """A model without weights.

    Attributes:
        vlm: config and processor, enough to encode prompts (``vlm.model`` cannot compute).
        exact: False if the model's own tokenizer is not available. Token counts are then upper bounds, by the tiny models'
            tokenizer, which splits unknown words into bytes.
    """

    vlm: VLM
    exact: bool

    @property
    def config(self) -> Any:
        return self.vlm.model.config


@dataclass
class _Weightless:
    config: Any
    generation_config: Any
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def load_reader(options: ModelOptions) -> Reader:
    """Config and processor of ``options.model``, with the pixel limits of the options.

    Raises:
        UserError: the model cannot be read, or it is no vision-language model.
    """
    name = options.model
    pixels = given_pixel_limits(options.min_pixels, options.max_pixels)
    folder = bundled_model(name) if name in BUNDLED and not Path(name).exists() else user_path(name)
    where, local, exact = str(folder), folder.is_dir() or name in SHIPPED, True
    unreachable = None
    if not folder.is_dir():
        where = name
        try:
            AutoConfig.from_pretrained(name, local_files_only=True)
        except Exception:  # not in the hub's cache
            if name in SHIPPED:
                where, exact = str(configs.bundled_config(f"{SHIPPED[name]}/model")), False
        unreachable = None if local else why_unreachable()
    try:
        with cache_alone(unreachable):
            config = AutoConfig.from_pretrained(where, local_files_only=local)
            stops = GenerationConfig.from_pretrained(where, local_files_only=local)
            processor = (
                AutoProcessor.from_pretrained(where, local_files_only=local, **pixels)
                if exact
                else stand_in_processor(config.model_type, where, pixels)
            )
    except Exception as error:
        reason = (redact_tokens(str(error)).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"Config and processor of {name} cannot be read ({reason}): "
            + ("check that its folder is complete." if folder.is_dir() else f"{hub_remedy(unreachable)}.")
        ) from None
    if not hasattr(processor, "image_processor"):
        raise UserError(f"{name} has no image processor: give a vision-language model.")
    check_with_processor(pixels, pixel_limits(processor))
    return Reader(VLM(_Weightless(config, stops), processor, name), exact)


def stand_in_processor(model_type: str, folder: str, pixels: dict[str, int]) -> Any:
    """A processor with the image settings in ``folder`` and the tiny models' tokenizer."""
    from train.tiny.models import CHAT_TEMPLATE, build_tokenizer

    kind = getattr(transformers, str(PROCESSOR_MAPPING_NAMES[model_type]))
    parts: dict[str, Any] = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, **pixels),
        "tokenizer": build_tokenizer(),
        "chat_template": CHAT_TEMPLATE,
    }
    if model_type == "gemma4":
        names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
        names |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
        parts["tokenizer"].add_tokens([AddedToken(token, special=True) for token in names.values()])
        for name, token in names.items():
            setattr(parts["tokenizer"], name, token)
            setattr(parts["tokenizer"], f"{name}_id", parts["tokenizer"].convert_tokens_to_ids(token))
        parts["feature_extractor"] = transformers.Gemma4AudioFeatureExtractor()
        parts["video_processor"] = transformers.Gemma4VideoProcessor()
        parts["chat_template"] = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image|>")
    else:
        video = {"qwen2_5_vl": "Qwen2VLVideoProcessor"}.get(model_type, "Qwen3VLVideoProcessor")
        parts["video_processor"] = getattr(transformers, video)()
    return kind(**parts)


@lru_cache(maxsize=4)
def skeleton(config_json: str) -> nn.Module:
    """The model of a config (its ``to_json_string()``) without storage, on torch's meta device."""
    data = json.loads(config_json)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(data.pop("model_type"), **data))
    return model  # type: ignore[no-any-return]


def count_weights(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """Numbers of weights and of trainable weights by part: ``vision``, ``merger``, ``language``, and ``audio`` if there is one."""
    every, trainable = Counter[str](), Counter[str]()
    for name, weight in model.named_parameters():
        part = part_of(name)
        every[part] += weight.numel()
        trainable[part] += weight.numel() * (weight.requires_grad and part != "audio")
    return every, trainable


def part_of(name: str) -> str:
    """The part of a model that a weight belongs to, judged by its name."""
    words = name.split(".")
    if any(word.startswith(MERGER_NAMES) or word.endswith("merger_list") for word in words):
        return "merger"
    if any(word in AUDIO_NAMES for word in words):
        return "audio"
    return "vision" if any(word in VISION_NAMES for word in words) else "language"
