"""The Idefics families, and Aria with an Idefics tower: images cut into tiles of one size, or resampled to a few tokens."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import (
    IMAGE,
    IMAGE_BREAK,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    TILES,
    VISION,
    Family,
    Sizes,
    finish,
    flat,
    noise,
)


def _tile_ids(code: int) -> list[int]:
    # For each tile the fake token, a position marker and its patches; the fake token again at the end.
    return [*[IMAGE_START, IMAGE_BREAK, *[IMAGE] * 4] * TILES[code], IMAGE_START]


def _tile_pixels(sizes: Sizes) -> dict[str, Any]:
    tiles = [sum(TILES[code] for code in row) for row in sizes]
    values = torch.zeros(len(tiles), max(tiles), 3, 16, 16)
    for b, n in enumerate(tiles):  # all-zero images are padding to these families
        values[b, :n] = noise(n, 3, 16, 16)
    return {"pixel_values": values}


def smolvlm() -> Family:
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT}, vision_config=VISION, scale_factor=2, image_token_id=IMAGE
    )
    model = finish(transformers.SmolVLMForConditionalGeneration(config))
    return Family(config.model_type, model, _tile_ids, _tile_pixels)


def idefics3() -> Family:
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **TEXT}, vision_config=VISION, scale_factor=2, image_token_id=IMAGE
    )
    model = finish(transformers.Idefics3ForConditionalGeneration(config))
    return Family(config.model_type, model, _tile_ids, _tile_pixels)


def idefics2() -> Family:
    """Images of several sizes, each resampled to four tokens."""
    config = transformers.Idefics2Config(
        text_config={"model_type": "mistral", **TEXT, "sliding_window": None},
        vision_config=VISION,
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        image_token_id=IMAGE,
    )
    model = finish(transformers.Idefics2ForConditionalGeneration(config))
    sides = [(16, 16), (8, 16), (16, 8)]

    def pixels(sizes: Sizes) -> dict[str, Any]:
        values = torch.zeros(len(sizes), max(map(len, sizes)), 3, 16, 16)
        mask = torch.zeros(*values.shape[:2], 16, 16, dtype=torch.long)
        for b, codes in enumerate(sizes):  # all-zero images are padding to this family
            values[b, : len(codes)] = noise(len(codes), 3, 16, 16)
            for n, code in enumerate(codes):
                height, width = sides[code]
                mask[b, n, :height, :width] = 1
        return {"pixel_values": values, "pixel_attention_mask": mask}

    return Family(config.model_type, model, lambda code: [IMAGE_START, *[IMAGE] * 4, IMAGE_START], pixels)


def aria() -> Family:
    config = transformers.AriaConfig(
        text_config={**TEXT, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
        vision_config={**VISION, "model_type": "idefics3_vision"},
        image_token_index=IMAGE,
        projector_patch_to_query_dict={16: 4},
    )
    model = finish(transformers.AriaForConditionalGeneration(config))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        n = sum(TILES[code] for code in flat(sizes))
        mask = torch.ones(n, 16, 16, dtype=torch.bool)
        mask[0, 8:] = False  # the lower half of the first is padding
        return {"pixel_values": noise(n, 3, 16, 16), "pixel_mask": mask}

    return Family(config.model_type, model, lambda code: [IMAGE_START, *[IMAGE] * (4 * TILES[code]), IMAGE_END], pixels)


FAMILIES = {"smolvlm": smolvlm, "idefics2": idefics2, "idefics3": idefics3, "aria": aria}
