"""The LLaVA families and those built like them: a CLIP-like tower, a projector and a text model."""

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
    VIDEO,
    VISION,
    Family,
    Sizes,
    finish,
    flat,
    noise,
    one_size,
    tiled,
)
from benchmarks.families.towers import TowerConfig

CLIP = {**VISION, "model_type": "clip_vision_model", "num_hidden_layers": 2}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
LLAMA = {"model_type": "llama", **TEXT}
QWEN2 = {"model_type": "qwen2", **TEXT}
# Rows and columns of tiles for each size code; a tile has 2 x 2 tokens.
ANYRES_TILES = [(1, 2), (1, 1), (2, 2)]


def _anyres_ids(code: int) -> list[int]:
    rows, columns = ANYRES_TILES[code]
    # The overview, then the tiles' rows, each with a learned line break.
    return [IMAGE] * (4 + 2 * rows * (2 * columns + 1))


def _anyres_sizes(side: int) -> list[tuple[int, int]]:
    """Height and width in pixels for each size code, for tiles of ``side`` pixels."""
    return [(rows * side, columns * side) for rows, columns in ANYRES_TILES]


def _anyres_pixels(sizes: Sizes, side: int = 8) -> dict[str, Any]:
    # The overview and at most four tiles; an image with fewer is padded.
    shown = [_anyres_sizes(side)[code] for code in flat(sizes)]
    return {"pixel_values": noise(len(shown), 5, 3, side, side), "image_sizes": torch.tensor(shown)}


def llava_onevision() -> Family:
    config = transformers.LlavaOnevisionConfig(
        text_config=QWEN2,
        vision_config={**SIGLIP, "image_size": 8},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[list(size) for size in _anyres_sizes(8)],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = finish(transformers.LlavaOnevisionForConditionalGeneration(config))
    return Family(config.model_type, model, _anyres_ids, _anyres_pixels)


def llava_next() -> Family:
    config = transformers.LlavaNextConfig(
        text_config=LLAMA,
        vision_config={**CLIP, "image_size": 8},
        image_token_index=IMAGE,
        image_grid_pinpoints=[list(size) for size in _anyres_sizes(8)],
    )
    model = finish(transformers.LlavaNextForConditionalGeneration(config))
    return Family(config.model_type, model, _anyres_ids, _anyres_pixels)


def granite4_vision() -> Family:
    """Image features are added in several layers of the text model, too."""
    config = transformers.Granite4VisionConfig(
        text_config={**TEXT, "num_hidden_layers": 4},
        vision_config={**CLIP, "hidden_size": 64},  # the config counts a head of the projector for each 64
        qformer_config={
            "model_type": "blip_2_qformer",
            "num_hidden_layers": 1,
            "intermediate_size": 24,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        image_token_index=IMAGE,
        image_grid_pinpoints=[list(size) for size in _anyres_sizes(16)],
        downsample_rate="1/2",
        deepstack_layer_map=[[0, 0], [1, 2]],
        spatial_target_layers=[0, 1, 2, 3],
    )
    model = finish(transformers.Granite4VisionForConditionalGeneration(config))
    return Family(config.model_type, model, _anyres_ids, lambda sizes: _anyres_pixels(sizes, side=16))


def llava() -> Family:
    config = transformers.LlavaConfig(text_config=LLAMA, vision_config=CLIP, image_token_index=IMAGE)
    return one_size(transformers.LlavaForConditionalGeneration(config), [IMAGE] * 16)


def vipllava() -> Family:
    config = transformers.VipLlavaConfig(
        text_config=LLAMA, vision_config=CLIP, image_token_index=IMAGE, vision_feature_layer=(-2, 2)
    )
    return one_size(transformers.VipLlavaForConditionalGeneration(config), [IMAGE] * 16)


def fast_vlm() -> Family:
    config = transformers.FastVlmConfig(text_config=QWEN2, vision_config=TowerConfig(), image_token_index=IMAGE)
    return one_size(transformers.FastVlmForConditionalGeneration(config), [IMAGE] * 16)


def perception_lm() -> Family:
    config = transformers.PerceptionLMConfig(
        text_config=LLAMA,
        vision_config=TowerConfig(as_map=False, model_args={"embed_dim": 16}),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_use_cls_token=False,
        projector_pooling_ratio=2,
    )
    model = finish(transformers.PerceptionLMForConditionalGeneration(config))
    return Family(
        config.model_type,
        model,
        lambda code: [IMAGE] * (4 * TILES[code]),
        lambda sizes: {"pixel_values": noise(1, sum(TILES[code] for code in flat(sizes)), 3, 16, 16)},
    )


def internvl() -> Family:
    config = transformers.InternVLConfig(
        text_config=QWEN2,
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=IMAGE,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    return tiled(
        transformers.InternVLForConditionalGeneration(config),
        lambda tiles: [IMAGE_START, *[IMAGE] * (4 * tiles), IMAGE_END],
    )


def qianfan_ocr() -> Family:
    config = transformers.QianfanOCRConfig(
        text_config={"model_type": "qwen3", **TEXT, "head_dim": 8},
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=IMAGE,
        image_seq_length=4,
    )
    return tiled(
        transformers.QianfanOCRForConditionalGeneration(config),
        lambda tiles: [IMAGE_START, *[IMAGE] * (4 * tiles), IMAGE_END],
    )


# Three layers with a sliding window and positions, then one that sees all and has no positions.
_COHERE2 = {
    "model_type": "cohere2",
    **TEXT,
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
}


def aya_vision() -> Family:
    config = transformers.AyaVisionConfig(text_config=_COHERE2, vision_config=SIGLIP, image_token_index=IMAGE)
    return tiled(
        transformers.AyaVisionForConditionalGeneration(config),
        lambda tiles: [IMAGE_START, *[IMAGE_BREAK, *[IMAGE] * 4] * tiles, IMAGE_END],
    )


def cohere2_vision() -> Family:
    config = transformers.Cohere2VisionConfig(
        text_config=_COHERE2, vision_config=SIGLIP, image_token_id=IMAGE, alignment_intermediate_size=32
    )
    return tiled(
        transformers.Cohere2VisionForConditionalGeneration(config),
        lambda tiles: [IMAGE_START, *[*[IMAGE] * 4, IMAGE_BREAK] * tiles, IMAGE_END],
    )


FAMILIES = {
    "llava_onevision": llava_onevision,
    "llava_next": llava_next,
    "granite4_vision": granite4_vision,
    "llava": llava,
    "vipllava": vipllava,
    "fast_vlm": fast_vlm,
    "perception_lm": perception_lm,
    "internvl": internvl,
    "qianfan_ocr": qianfan_ocr,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
}
