"""The Qwen families and those built like them: a grid of patches for each image, merged two by two."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.families.base import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    VIDEO,
    Family,
    Sizes,
    finish,
    flat,
    no_extras,
    noise,
)

AUDIO, AUDIO_START = 3, 4

ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1]}
WINDOWED_TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "num_position_embeddings": 64,
}
QWEN3_TEXT = {"rope_parameters": ROPE | {"mrope_interleaved": True}, "head_dim": 8}
# Every other layer is a Gated DeltaNet, which has no softmax.
HYBRID_TEXT = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "head_dim": 8,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    },
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}

# Patches down and across for each size code; merged two by two these are 6, 4 and 12 tokens.
GRIDS = [(4, 6), (4, 4), (6, 8)]


def grid_pixels(sizes: Sizes, patch_values: int) -> dict[str, torch.Tensor]:
    """The patches of all images one after another, and the grid of each image."""
    grids = torch.tensor([[1, *GRIDS[code]] for code in flat(sizes)])
    return {"pixel_values": noise(int(grids.prod(1).sum()), patch_values), "image_grid_thw": grids}


def grid_ids(code: int) -> list[int]:
    """An image between its markers."""
    down, across = GRIDS[code]
    return [IMAGE_START, *[IMAGE] * (down * across // 4), IMAGE_END]


def token_types(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """1 where a token is replaced by image features."""
    return {"mm_token_type_ids": (ids == IMAGE).int()}


def _qwen(name: str, vision: dict[str, Any], text: dict[str, Any]) -> Family:
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": IMAGE_START,
        "vision_end_token_id": IMAGE_END,
    }
    config = getattr(transformers, f"{name}Config")(text_config={**TEXT, **text}, vision_config=vision, **tokens)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    return grid_family(model)


def grid_family(model: PreTrainedModel, patch_values: int = 3 * 2 * 16) -> Family:
    """A family that reads its images as Qwen does; ``patch_values``: colours x frames x pixels of a patch."""
    name = model.config.model_type
    return Family(name, finish(model), grid_ids, lambda sizes: grid_pixels(sizes, patch_values), token_types)


def qwen2_vl() -> Family:
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    return _qwen("Qwen2VL", vision, {"rope_parameters": ROPE})


def qwen2_5_vl() -> Family:
    return _qwen("Qwen2_5_VL", WINDOWED_TOWER, {"rope_parameters": ROPE})


def qwen2_5_omni_thinker() -> Family:
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config={**TEXT, "rope_parameters": ROPE},
        vision_config=WINDOWED_TOWER,
        audio_config={
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "num_mel_bins": 8,
            "max_source_positions": 8,
            "output_dim": 32,
        },
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_token_index=AUDIO,
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
        audio_start_token_id=AUDIO_START,
    )
    family = grid_family(transformers.Qwen2_5OmniThinkerForConditionalGeneration(config))
    family.per_token = no_extras  # it finds the images by their markers
    return family


def qwen3_vl() -> Family:
    return _qwen("Qwen3VL", TOWER | {"deepstack_visual_indexes": [0]}, QWEN3_TEXT)


def qwen3_vl_moe() -> Family:
    return _qwen("Qwen3VLMoe", TOWER | {"deepstack_visual_indexes": [0]}, QWEN3_TEXT | EXPERTS)


def qwen3_5() -> Family:
    return _qwen("Qwen3_5", TOWER, HYBRID_TEXT)


def qwen3_5_moe() -> Family:
    return _qwen("Qwen3_5Moe", TOWER, HYBRID_TEXT | EXPERTS)


def qwen4_exp() -> Family:
    """Every other layer attends to a few blocks of keys that an indexer chooses for each query."""
    text = {
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        # The embeddings of the first layer's pairs of tokens.
        "ple_layer_ids": [1],
        "ngram_size": 2,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 50,
        "make_ngram_vocab_size_divisible_by": 2,
        "split_ngram_parts": 1,
    }
    return _qwen("Qwen4Exp", TOWER, HYBRID_TEXT | EXPERTS | text)


FAMILIES = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen4_exp": qwen4_exp,
}
