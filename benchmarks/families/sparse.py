"""Families whose layers attend to a few keys that an indexer chooses for each query."""

from typing import Any

import transformers
from transformers import PreTrainedModel

from benchmarks.families.base import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    VIDEO,
    VISION,
    Family,
    finish,
    no_extras,
)
from benchmarks.families.glm import GLM_TOWER, MARKERS, ROUTED
from benchmarks.families.mistral import padded_pixels, row_ids
from benchmarks.families.qwen import AUDIO, GRIDS, grid_ids, grid_pixels, token_types

# Each query sees eight tokens of some thirty. With few heads the scores of many tokens would be exactly 0, and which of them are
# chosen would depend on the number of rows.
INDEXER = {"index_topk": 8, "index_head_dim": 8, "index_n_heads": 16}
# Multi-head latent attention: keys and values come from one small vector for each token.
LATENT = {
    **TEXT,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
CLIP_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
}


def _grid_family(model: PreTrainedModel, frames: int = 2) -> Family:
    """Reads its images as Qwen does, without types of tokens."""
    name = model.config.model_type
    return Family(name, finish(model), grid_ids, lambda sizes: grid_pixels(sizes, 3 * frames * 16), no_extras)


def glm5_next() -> Family:
    """Linear attention, and indexed layers without positions that choose pools of two tokens."""
    text = {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
        "indexer_types": ["full"] * 4,
        "qk_rope_head_dim": 0,
        "index_kpool": 2,
        "linear_head_dim": 8,
        "linear_num_heads": 2,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 3,
    }
    config = transformers.Glm5NextConfig(
        text_config=LATENT | ROUTED | INDEXER | text,
        vision_config=GLM_TOWER | {"projection_intermediate_size": 24},
        **MARKERS,
    )
    return _grid_family(transformers.Glm5NextForConditionalGeneration(config))


def minimax_m3_vl() -> Family:
    """A full layer, and sparse layers that choose blocks of four tokens."""
    text = {
        "head_dim": 8,
        "rotary_dim": 4,
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 4,
        "index_topk_blocks": 3,
    }
    config = transformers.MiniMaxM3VLConfig(
        text_config={**TEXT, **text},
        vision_config=CLIP_TOWER | {"image_size": 32},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        projector_hidden_size=32,
    )
    family = _grid_family(transformers.MiniMaxM3SparseForConditionalGeneration(config))
    family.pads_left = False  # blocks are counted from the first key, queries from the first token
    return family


def dots3_note() -> Family:
    """Indexed layers, and sliding ones with fewer heads."""
    text = {
        "num_hidden_layers": 4,
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
        "head_dim": 8,
        "sliding_window": 8,
        "moe_shared_expert_intermediate_size": 16,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 8,
        "swa_qk_nope_head_dim": 4,
        "swa_v_head_dim": 8,
    }
    config = transformers.Dots3NoteConfig(
        text_config=LATENT | ROUTED | INDEXER | text,
        vision_config=CLIP_TOWER
        | {"mlp_layer_types": ["dense"], "adapter_in_dim": 16, "adapter_out_dim": 32, "moe_intermediate_size": 16},
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "feature_size": 8,
            "downsample_hidden_size": 4,
            "adapter_input_size": 16,
            "adapter_out_dim": 32,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
    )
    return _grid_family(transformers.Dots3NoteForConditionalGeneration(config), frames=1)


def hy_v4_vl() -> Family:
    text = {
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "indexer_types": ["full", "shared", "full"],
        "hc_mult": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]},
    }
    config = transformers.HYV4VLConfig(
        text_config=LATENT | ROUTED | INDEXER | text,
        vision_config=CLIP_TOWER | {"out_hidden_size": 32, "max_image_size": 32},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )

    def image_ids(code: int) -> list[int]:
        # A learned line break after each row, in an image token's place.
        down, across = (side // 2 for side in GRIDS[code])
        return [IMAGE_START, *[IMAGE] * (down * (across + 1)), IMAGE_END]

    model = finish(transformers.HYV4VLForConditionalGeneration(config))
    return Family(config.model_type, model, image_ids, lambda sizes: grid_pixels(sizes, 3 * 16), token_types)


def mistral_large4() -> Family:
    """The last layer attends to the keys of the second."""
    text: dict[str, Any] = {
        "num_hidden_layers": 4,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "indexer_types": ["full", "full", "full", "shared"],
        "no_rope_layers": [1, 0, 1, 0],
        "kv_source_layers": [0, 1, 2, 1],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    config = transformers.MistralLarge4Config(
        text_config=LATENT | ROUTED | INDEXER | text,
        vision_config={**VISION, "model_type": "pixtral", "head_dim": 8, "image_size": 32},
        image_token_index=IMAGE,
    )
    model = finish(transformers.MistralLarge4ForConditionalGeneration(config))
    return Family(config.model_type, model, row_ids, padded_pixels)


FAMILIES = {
    "glm5_next": glm5_next,
    "minimax_m3_vl": minimax_m3_vl,
    "dots3_note": dots3_note,
    "hy_v4_vl": hy_v4_vl,
    "mistral_large4": mistral_large4,
}
