"""The Idefics families: images cut into tiles of one size, laid out as (batch, tiles)."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import IMAGE, IMAGE_BREAK, IMAGE_START, TEXT, VISION, Family, Sizes, finish, noise

# Tiles for each size code: the image alone, or several tiles and an overview.
TILES = [1, 3, 5]


def smolvlm() -> Family:
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT}, vision_config=VISION, scale_factor=2, image_token_id=IMAGE
    )
    model = finish(transformers.SmolVLMForConditionalGeneration(config))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        tiles = [sum(TILES[code] for code in row) for row in sizes]
        values = torch.zeros(len(tiles), max(tiles), 3, 16, 16)
        for b, n in enumerate(tiles):  # all-zero images are padding to this family
            values[b, :n] = noise(n, 3, 16, 16)
        return {"pixel_values": values}

    def image_ids(code: int) -> list[int]:
        # For each tile the fake token, a position marker and its patches; the fake token again at the end.
        return [*[IMAGE_START, IMAGE_BREAK, *[IMAGE] * 4] * TILES[code], IMAGE_START]

    return Family(config.model_type, model, image_ids, pixels)


FAMILIES = {"smolvlm": smolvlm}
