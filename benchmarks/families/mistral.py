"""The families with a Pixtral tower: images of any size, a break after each row of tokens."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import IMAGE, IMAGE_BREAK, IMAGE_END, TEXT, VISION, Family, Sizes, finish, flat, noise

# Height and width in pixels for each size code; a token stands for 8 x 8 pixels.
PIXEL_SIZES = [(16, 16), (8, 16), (16, 24)]


def row_ids(code: int) -> list[int]:
    """Rows of image tokens with a break between them, and a marker at the end."""
    height, width = (side // 8 for side in PIXEL_SIZES[code])
    return [*([*[IMAGE] * width, IMAGE_BREAK] * height)[:-1], IMAGE_END]


def padded_pixels(sizes: Sizes) -> dict[str, Any]:
    """Images padded to the largest, with the size of each."""
    shown = torch.tensor([PIXEL_SIZES[code] for code in flat(sizes)])
    height, width = shown.amax(0).tolist()
    return {"pixel_values": noise(len(shown), 3, height, width), "image_sizes": shown}


def mistral3(sliding_window: int | None = None) -> Family:
    vision = {**VISION, "model_type": "pixtral", "head_dim": 8, "image_size": 32}
    text = {"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": sliding_window}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=IMAGE, spatial_merge_size=2, vision_feature_layer=-1
    )
    model = finish(transformers.Mistral3ForConditionalGeneration(config))
    return Family(config.model_type, model, row_ids, padded_pixels)


FAMILIES = {"mistral3": mistral3}
