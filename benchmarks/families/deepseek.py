"""DeepSeek's families, Janus, and Kimi K2.5, whose text model is DeepSeek V3's: latent keys and values, and experts."""

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
    one_size,
    tiled,
)
from benchmarks.families.llava import LLAMA, QWEN2, SIGLIP

# The tower of Segment Anything: attention within windows, and over all in one layer.
SAM = {
    "hidden_size": 16,
    "output_channels": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "mlp_dim": 24,
}


def deepseek_vl() -> Family:
    config = transformers.DeepseekVLConfig(text_config=LLAMA, vision_config=SIGLIP, image_token_id=IMAGE)
    return one_size(transformers.DeepseekVLForConditionalGeneration(config), [IMAGE] * 16)


def deepseek_vl_hybrid() -> Family:
    """Two towers, the second for the same image in higher resolution."""
    config = transformers.DeepseekVLHybridConfig(
        text_config=LLAMA,
        vision_config=SIGLIP,
        high_res_vision_config={"model_type": "sam_vision_model", **SAM},
        image_token_id=IMAGE,
    )
    model = finish(transformers.DeepseekVLHybridForConditionalGeneration(config))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        n = len(list(flat(sizes)))
        return {"pixel_values": noise(n, 3, 16, 16), "high_res_pixel_values": noise(n, 3, 64, 64)}

    return Family(config.model_type, model, lambda code: [IMAGE] * 16, pixels)


def got_ocr2() -> Family:
    config = transformers.GotOcr2Config(
        text_config=QWEN2, vision_config={**SAM, "patch_size": 8}, image_token_index=IMAGE
    )
    return tiled(
        transformers.GotOcr2ForConditionalGeneration(config),
        lambda tiles: [IMAGE_START, *[IMAGE] * (4 * tiles), IMAGE_END],
        side=64,
    )


def janus() -> Family:
    config = transformers.JanusConfig(
        text_config=LLAMA,
        vision_config={**VISION, "projection_dim": 32, "mlp_ratio": 2.0, "num_image_tokens": 16},
        # For images that the model writes.
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 8,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
            "num_hidden_layers": 1,
        },
        image_token_id=IMAGE,
    )
    return one_size(transformers.JanusForConditionalGeneration(config), [IMAGE_START, *[IMAGE] * 16, IMAGE_END])


def kimi_k25() -> Family:
    config = transformers.Kimi_K25Config(
        text_config={
            "model_type": "deepseek_v3",
            **TEXT,
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 6,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "num_mtp_layers": 0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        },
        projection_hidden_size=16,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
    )
    model = finish(transformers.Kimi_K25ForConditionalGeneration(config))
    grids = [(4, 6), (4, 4), (6, 6)]  # rows and columns of patches for each size code, merged by 2

    def pixels(sizes: Sizes) -> dict[str, Any]:
        shown = [grids[code] for code in flat(sizes)]
        return {
            "pixel_values": noise(sum(rows * columns for rows, columns in shown), 3, 4, 4),
            "image_grid_thw": torch.tensor([(1, *grid) for grid in shown]),
        }

    def image_ids(code: int) -> list[int]:
        rows, columns = grids[code]
        return [IMAGE_START, *[IMAGE] * (rows * columns // 4), IMAGE_END]

    return Family(config.model_type, model, image_ids, pixels)


FAMILIES = {
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "got_ocr2": got_ocr2,
    "janus": janus,
    "kimi_k25": kimi_k25,
}
