"""The Gemma families: sliding windows, layers that share keys, and image tokens that attend to each other in both directions."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.families.base import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    VISION,
    VOCAB,
    Family,
    Sizes,
    finish,
    flat,
    noise,
)
from benchmarks.families.towers import TowerConfig


def gemma3() -> Family:
    vision = {**VISION, "vision_use_head": False}
    text = {
        **TEXT,
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=IMAGE_START,
        eoi_token_index=IMAGE_END,
    )
    model = finish(transformers.Gemma3ForConditionalGeneration(config))
    # Every image is resized to one size.
    return Family(
        config.model_type,
        model,
        lambda code: [IMAGE_START, *[IMAGE] * 4, IMAGE_END],
        lambda sizes: {"pixel_values": noise(len(list(flat(sizes))), 3, 16, 16)},
        lambda ids: {"token_type_ids": (ids == IMAGE).long()},
    )


# Columns and rows of patches by size code; two by two of them are pooled into one soft token.
_PATCHES = ((4, 4), (6, 4), (4, 2))


def _positions(n: int, columns: int, rows: int) -> torch.Tensor:
    """Of ``n`` patches at most: (column, row) of each patch, and -1 for the padding after them."""
    x, y = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    there = torch.stack([x.flatten(), y.flatten()], 1)
    return torch.cat([there, torch.full((n - len(there), 2), -1)])


def _soft_tokens(name: str, model: PreTrainedModel, per_token: int, n: int, values: int) -> Family:
    """A family whose image is a list of at most ``n`` patches of ``values`` numbers with their positions."""
    shapes = [(columns, rows) if per_token > 1 else (columns // 2, rows // 2) for columns, rows in _PATCHES]

    def image_ids(code: int) -> list[int]:
        columns, rows = shapes[code]
        return [IMAGE_START, *[IMAGE] * (columns * rows // per_token), IMAGE_END]

    def pixels(sizes: Sizes) -> dict[str, torch.Tensor]:
        positions = torch.stack([_positions(n, *shapes[code]) for code in flat(sizes)])
        return {"pixel_values": noise(len(positions), n, values).sigmoid(), "image_position_ids": positions}

    return Family(name, finish(model), image_ids, pixels, lambda ids: {"mm_token_type_ids": (ids == IMAGE).long()})


_TOKENS = {
    "image_token_id": IMAGE,
    "boi_token_id": IMAGE_START,
    "eoi_token_id": IMAGE_END,
    # Not in the vocabulary: these modalities do not occur.
    "video_token_id": VOCAB + 1,
    "audio_token_id": VOCAB + 2,
}


def _gemma4_text(**changes: Any) -> dict[str, Any]:
    return {
        **TEXT,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 8,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        **changes,
    }


def _gemma4(name: str, **changes: Any) -> Family:
    vision = {**VISION, "num_key_value_heads": 2, "head_dim": 8, "pooling_kernel_size": 2, "position_embedding_size": 8}
    del vision["image_size"]
    config = transformers.Gemma4Config(
        text_config=_gemma4_text(**changes), vision_config=vision, audio_config=None, **_TOKENS
    )
    return _soft_tokens(name, transformers.Gemma4ForConditionalGeneration(config), 4, 24, 48)


def gemma4() -> Family:
    """As the large ones: bidirectional attention within an image, keys that are the values, experts."""
    return _gemma4(
        "gemma4",
        hidden_size_per_layer_input=0,
        use_bidirectional_attention="vision",
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
    )


def gemma4_shared() -> Family:
    """As Gemma 4 E2B and E4B: per-layer inputs, and two last layers that have no keys of their own."""
    return _gemma4(
        "gemma4 (shared keys)",
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCAB,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
    )


def gemma4_unified() -> Family:
    """Without a vision tower: merged patches are projected."""
    config = transformers.Gemma4UnifiedConfig(
        text_config=_gemma4_text(),
        vision_config={
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 16,
            "mm_posemb_size": 8,
            "output_proj_dims": 16,
        },
        audio_config=None,
        **_TOKENS,
    )
    return _soft_tokens("gemma4_unified", transformers.Gemma4UnifiedForConditionalGeneration(config), 1, 6, 192)


def gemma3n() -> Family:
    text = {
        **TEXT,
        "head_dim": 8,
        "sliding_window": 8,
        "num_hidden_layers": 5,
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0],
    }
    # Image and audio markers stand behind the words, each in a table of its own.
    config = transformers.Gemma3nConfig(
        text_config=text,
        vision_config=TowerConfig(patch_size=8, vocab_size=8, vocab_offset=VOCAB),
        audio_config={
            "hidden_size": 16,
            "vocab_size": 8,
            "vocab_offset": VOCAB + 8,
            "input_feat_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": (4, 4),
        },
        vision_soft_tokens_per_image=4,
        image_token_id=IMAGE,
        audio_token_id=VOCAB + 9,
    )
    return Family(
        "gemma3n",
        finish(transformers.Gemma3nForConditionalGeneration(config)),
        lambda code: [IMAGE_START, *[IMAGE] * 4, IMAGE_END],
        lambda sizes: {"pixel_values": noise(len(list(flat(sizes))), 3, 16, 16)},
        lambda ids: {"token_type_ids": (ids == IMAGE).long()},
    )


def _paligemma(name: str, text: dict[str, Any]) -> Family:
    config = transformers.PaliGemmaConfig(
        text_config={**TEXT, "head_dim": 8, **text},
        vision_config={**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=IMAGE,
        vocab_size=VOCAB,
        projection_dim=32,
        hidden_size=32,
    )
    return Family(
        name,
        finish(transformers.PaliGemmaForConditionalGeneration(config)),
        lambda code: [IMAGE] * 16,
        lambda sizes: {"pixel_values": noise(len(list(flat(sizes))), 3, 16, 16)},
        # The prefix, which is read in both directions: up to the last image here, so that words are left to be read in one.
        lambda ids: {"token_type_ids": (ids == IMAGE).flip(1).cumsum(1).flip(1).eq(0).long()},
    )


def paligemma() -> Family:
    return _paligemma("paligemma", {"model_type": "gemma"})


def paligemma2() -> Family:
    """With Gemma 2's text model, which caps the logits of its attention."""
    return _paligemma(
        "paligemma (gemma2)",
        {"model_type": "gemma2", "sliding_window": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.5},
    )


FAMILIES = {
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4 (shared keys)": gemma4_shared,
    "gemma4_unified": gemma4_unified,
    "gemma3n": gemma3n,
    "paligemma": paligemma,
    "paligemma (gemma2)": paligemma2,
}
