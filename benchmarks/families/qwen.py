"""The Qwen families and those built like them: a grid of patches for each image, merged two by two."""

from typing import Any

import torch
import transformers

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
    noise,
)

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
    patch_values = 3 * 2 * 16  # colours, frames, pixels
    return Family(
        config.model_type, finish(model), grid_ids, lambda sizes: grid_pixels(sizes, patch_values), token_types
    )


def qwen2_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    return _qwen("Qwen2VL", vision, {"rope_parameters": rope})


def qwen2_5_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return _qwen("Qwen2_5_VL", vision, {"rope_parameters": rope})


def qwen3_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return _qwen("Qwen3VL", vision, {"rope_parameters": rope, "head_dim": 8})


FAMILIES = {"qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
