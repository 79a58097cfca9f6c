"""The families with a Pixtral tower: images of any size, a break after each row of tokens."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import (
    IMAGE,
    IMAGE_BREAK,
    IMAGE_END,
    TEXT,
    VISION,
    Family,
    Sizes,
    finish,
    flat,
    noise,
    positions,
)

# Height and width in pixels for each size code.
PIXEL_SIZES = [(16, 16), (8, 16), (16, 24)]
PIXTRAL = {**VISION, "model_type": "pixtral", "head_dim": 8, "image_size": 32}


def row_ids(code: int, side: int = 8) -> list[int]:
    """Rows of image tokens, each for ``side`` x ``side`` pixels, with a break between them and a marker at the end."""
    height, width = (pixels // side for pixels in PIXEL_SIZES[code])
    return [*([*[IMAGE] * width, IMAGE_BREAK] * height)[:-1], IMAGE_END]


def padded_pixels(sizes: Sizes) -> dict[str, Any]:
    """Images padded to the largest, with the size of each."""
    shown = torch.tensor([PIXEL_SIZES[code] for code in flat(sizes)])
    height, width = shown.amax(0).tolist()
    return {"pixel_values": noise(len(shown), 3, height, width), "image_sizes": shown}


def _mistral3(text: dict[str, Any]) -> transformers.Mistral3ForConditionalGeneration:
    config = transformers.Mistral3Config(
        text_config={**TEXT, **text},
        vision_config=PIXTRAL,
        image_token_index=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return finish(transformers.Mistral3ForConditionalGeneration(config))


def mistral3(sliding_window: int | None = None) -> Family:
    model = _mistral3({"model_type": "mistral", "head_dim": 8, "sliding_window": sliding_window})
    return Family("mistral3", model, row_ids, padded_pixels)


def mistral4() -> Family:
    """Mistral 4's text model: latent keys and values, experts, and logits that are scaled by the position."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "llama_4_scaling_beta": 0.1,
        "max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    model = _mistral3(
        {
            "model_type": "mistral4",
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 6,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": rope,
        }
    )
    return Family("mistral3 (mistral4)", model, row_ids, padded_pixels, positions)


def pixtral() -> Family:
    """Pixtral as LLaVA's classes read it: without merging, so that a token stands for one patch."""
    config = transformers.LlavaConfig(
        text_config={"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": None},
        vision_config=PIXTRAL,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = finish(transformers.LlavaForConditionalGeneration(config))
    return Family("llava (pixtral)", model, lambda code: row_ids(code, side=4), padded_pixels)


def lighton_ocr() -> Family:
    config = transformers.LightOnOcrConfig(
        text_config={"model_type": "qwen3", **TEXT, "head_dim": 8},
        vision_config=PIXTRAL,
        image_token_id=IMAGE,
        spatial_merge_size=2,
    )
    model = finish(transformers.LightOnOcrForConditionalGeneration(config))
    return Family(config.model_type, model, row_ids, padded_pixels)


FAMILIES = {
    "mistral3": mistral3,
    "mistral3 (mistral4)": mistral4,
    "llava (pixtral)": pixtral,
    "lighton_ocr": lighton_ocr,
}
