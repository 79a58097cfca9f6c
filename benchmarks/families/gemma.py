"""The Gemma families: sliding windows, and image tokens that attend to each other in both directions."""

import transformers

from benchmarks.families.base import IMAGE, IMAGE_END, IMAGE_START, TEXT, VISION, Family, finish, flat, noise


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


FAMILIES = {"gemma3": gemma3}
