"""GLM and other families that read a grid of patches as Qwen does, with towers and texts of their own."""

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
    no_extras,
    noise,
)
from benchmarks.families.qwen import GRIDS, ROPE, WINDOWED_TOWER, grid_family, grid_ids, grid_pixels, token_types

MARKERS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": IMAGE_START,
    "image_end_token_id": IMAGE_END,
}
GLM_TOWER = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
GLM_TEXT = {**TEXT, "rope_parameters": ROPE | {"partial_rotary_factor": 1.0}}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}


def _glm(name: str, text: dict[str, Any]) -> Family:
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=GLM_TOWER, **MARKERS)
    return grid_family(getattr(transformers, f"{name}ForConditionalGeneration")(config))


def glm4v() -> Family:
    return _glm("Glm4v", GLM_TEXT)


def glm4v_moe() -> Family:
    return _glm("Glm4vMoe", GLM_TEXT | ROUTED)


def glm46v() -> Family:
    return _glm("Glm46V", {"model_type": "glm4v_text", **GLM_TEXT})


def glm_ocr() -> Family:
    return _glm("GlmOcr", GLM_TEXT)


def ernie4_5_vl_moe() -> Family:
    text = {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": [16, 16],
        "moe_num_shared_experts": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }
    tower = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4}
    config = transformers.Ernie4_5_VLMoeConfig(text_config={**TEXT, **text}, vision_config=tower, **MARKERS)
    family = grid_family(transformers.Ernie4_5_VLMoeForConditionalGeneration(config), 3 * 16)
    # Its experts for images also take the markers.
    family.per_token = lambda ids: {
        **token_types(ids),
        "moe_mm_token_type_ids": ((ids == IMAGE) | (ids == IMAGE_START) | (ids == IMAGE_END)).int(),
    }
    return family


def paddleocr_vl() -> Family:
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    config = transformers.PaddleOCRVLConfig(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": ROPE},
        vision_config=tower,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
    )

    def pixels(sizes: Sizes) -> dict[str, torch.Tensor]:
        batch = grid_pixels(sizes, 3 * 16)
        return {**batch, "pixel_values": batch["pixel_values"].view(-1, 3, 4, 4)}

    model = finish(transformers.PaddleOCRVLForConditionalGeneration(config))
    return Family(config.model_type, model, grid_ids, pixels, token_types)


def video_llama_3() -> Family:
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 4,
    }
    config = transformers.VideoLlama3Config(
        text_config={"model_type": "qwen2", **TEXT}, vision_config=tower, image_token_id=IMAGE, video_token_id=VIDEO
    )

    def pixels(sizes: Sizes) -> dict[str, torch.Tensor]:
        return {**grid_pixels(sizes, 3 * 16), "image_merge_sizes": torch.tensor([2 for _ in flat(sizes)])}

    model = finish(transformers.VideoLlama3ForConditionalGeneration(config))
    return Family(config.model_type, model, grid_ids, pixels, no_extras)


def hunyuan_vl() -> Family:
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "max_image_size": 32,
        "min_image_size": 8,
    }
    config = transformers.HunYuanVLConfig(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": ROPE},
        vision_config=tower,
        image_token_id=IMAGE,
        im_start_id=IMAGE_START,
        im_end_id=IMAGE_END,
    )

    def image_ids(code: int) -> list[int]:
        # A learned line break after each row, and a beginning and an end: all in image tokens' places.
        down, across = (side // 2 for side in GRIDS[code])
        return [IMAGE_START, *[IMAGE] * (down * (across + 1) + 2), IMAGE_END]

    model = finish(transformers.HunYuanVLForConditionalGeneration(config))
    return Family(config.model_type, model, image_ids, lambda sizes: grid_pixels(sizes, 3 * 16), token_types)


def exaone4_5() -> Family:
    text = {
        "model_type": "exaone4",
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = transformers.Exaone4_5_Config(
        text_config={**TEXT, **text},
        vision_config=WINDOWED_TOWER | {"num_key_value_heads": 2},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    family = grid_family(transformers.Exaone4_5_ForConditionalGeneration(config))
    family.per_token = no_extras
    return family


def step3p7() -> Family:
    """Its sliding layers have more heads than the others."""
    text = {
        "head_dim": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "sliding_window": 8,
        "num_sliding_attention_heads": 6,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "share_expert_dim": 16,
    }
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 2,
        "max_position_embeddings": 64,
    }
    config = transformers.Step3p7Config(text_config={**TEXT, **text}, vision_config=tower, image_token_id=IMAGE)
    tiles = [0, 2, 4]  # beside the whole image of four tokens; a tile has one

    def pixels(sizes: Sizes) -> dict[str, Any]:
        counts = [tiles[code] for code in flat(sizes)]
        local = {"pixel_values_local": noise(sum(counts), 3, 8, 8)} if sum(counts) else {}
        return {"pixel_values": noise(len(counts), 3, 16, 16), "num_local_patches": counts, **local}

    def image_ids(code: int) -> list[int]:
        return [*[IMAGE_START, IMAGE, IMAGE_END] * tiles[code], IMAGE_START, *[IMAGE] * 4, IMAGE_END]

    return Family(config.model_type, finish(transformers.Step3p7ForConditionalGeneration(config)), image_ids, pixels)


FAMILIES = {
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "glm46v": glm46v,
    "glm_ocr": glm_ocr,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "paddleocr_vl": paddleocr_vl,
    "video_llama_3": video_llama_3,
    "hunyuan_vl": hunyuan_vl,
    "exaone4_5": exaone4_5,
    "step3p7": step3p7,
}
