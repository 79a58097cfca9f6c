"""The LLaVA families and those built like them: a CLIP-like tower, a projector and a text model."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    VIDEO,
    VISION,
    Family,
    Sizes,
    finish,
    flat,
    noise,
)

# Height and width in pixels for each size code; a tile has 8 x 8 pixels and 2 x 2 tokens.
ANYRES_SIZES = [(8, 16), (8, 8), (16, 16)]


def llava_onevision() -> Family:
    vision = {**VISION, "model_type": "siglip_vision_model", "image_size": 8, "vision_use_head": False}
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[list(size) for size in ANYRES_SIZES],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = finish(transformers.LlavaOnevisionForConditionalGeneration(config))

    def image_ids(code: int) -> list[int]:
        height, width = (side // 8 for side in ANYRES_SIZES[code])
        # The overview, then the tiles' rows, each with a learned line break.
        return [IMAGE] * (4 + 2 * height * (2 * width + 1))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        # The overview and at most four tiles; an image with fewer is padded.
        shown = [ANYRES_SIZES[code] for code in flat(sizes)]
        return {"pixel_values": noise(len(shown), 5, 3, 8, 8), "image_sizes": torch.tensor(shown)}

    return Family(config.model_type, model, image_ids, pixels)


def internvl() -> Family:
    vision = {**VISION, "image_size": [16, 16], "patch_size": [4, 4]}
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        image_token_id=IMAGE,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    model = finish(transformers.InternVLForConditionalGeneration(config))
    tiles = [1, 3, 5]  # one tile, or several and an overview
    return Family(
        config.model_type,
        model,
        lambda code: [IMAGE_START, *[IMAGE] * (4 * tiles[code]), IMAGE_END],
        lambda sizes: {"pixel_values": noise(sum(tiles[code] for code in flat(sizes)), 3, 16, 16)},
    )


FAMILIES = {"llava_onevision": llava_onevision, "internvl": internvl}
