"""Tiny random-weight models of the eight families that the attention probe must work for, and batches for them.

Nothing comes from a hub: each family is its own transformers classes with small numbers. Weights are large enough for
attention to be far from uniform, which freshly initialised weights would leave it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB, EOS = 99, 98
# Ids of the special tokens: one that is replaced by vision features, and markers that are not.
IMAGE, VIDEO, IMAGE_START, IMAGE_END, IMAGE_BREAK = 5, 6, 7, 8, 9
FIRST_WORD = 10

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
# The towers that are built like CLIP; the Qwen towers have numbers of their own.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


@dataclass
class Family:
    """A tiny model, how one image is spelled in ids, and the pixels for images laid out over a batch."""

    name: str
    model: PreTrainedModel
    image_ids: list[int]
    pixels: Callable[[list[int]], dict[str, torch.Tensor]]
    per_token: Callable[[torch.Tensor], dict[str, torch.Tensor]] = field(default=lambda ids: {})

    def batch(
        self, images: list[int], lengths: list[int] | None = None, side: str = "left", response: int = 6
    ) -> dict[str, Any]:
        """Sequences with ``images[b]`` images and ``lengths[b]`` further words, padded on ``side``."""
        draw = torch.Generator().manual_seed(1)
        rows = []
        for n, words in zip(images, lengths or [response] * len(images), strict=True):
            text = torch.randint(FIRST_WORD, EOS, (3 + words,), generator=draw).tolist()
            rows.append([1, *text[:1], *(self.image_ids * n), *text[1:]])
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for b, row in enumerate(rows):
            at = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
            ids[b, at] = torch.tensor(row)
            mask[b, at] = 1
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **self.per_token(ids)}
        return {**batch, **self.pixels(images)} if sum(images) else batch

    def more(self, batch: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """The batch with its ids continued to ``ids``, as for a forward over what a generation wrote."""
        grown = torch.ones(ids.shape[0], ids.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
        mask = torch.cat([batch["attention_mask"], grown], 1)
        return {**batch, "input_ids": ids, "attention_mask": mask, **self.per_token(ids)}


def _finish(model: PreTrainedModel) -> PreTrainedModel:
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            scale = 0.3 if "embed" in name else 0.8 / weight[0].numel() ** 0.5
            weight.data.normal_(0, scale, generator=draw)
    model.generation_config.update(bos_token_id=1, eos_token_id=EOS, pad_token_id=0)
    # Random weights may well write an image token; real models are kept from it when they sample.
    model.generation_config.suppress_tokens = [IMAGE, VIDEO, IMAGE_START, IMAGE_END, IMAGE_BREAK]
    return model.eval()


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def _qwen(name: str, vision: dict[str, Any], text: dict[str, Any], patch_values: int) -> Family:
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": IMAGE_START,
        "vision_end_token_id": IMAGE_END,
    }
    config = getattr(transformers, f"{name}Config")(text_config={**TEXT, **text}, vision_config=vision, **tokens)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)

    def pixels(images: list[int]) -> dict[str, torch.Tensor]:
        n = sum(images)  # 4 x 6 patches, merged by 2: 6 tokens
        return {"pixel_values": _noise(n * 24, patch_values), "image_grid_thw": torch.tensor([[1, 4, 6]] * n)}

    return Family(
        name,
        _finish(model),
        [IMAGE_START, *[IMAGE] * 6, IMAGE_END],
        pixels,
        lambda ids: {"mm_token_type_ids": (ids == IMAGE).int()},
    )


def qwen2_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    return _qwen("Qwen2VL", vision, {"rope_parameters": rope}, 3 * 2 * 16)


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
    return _qwen("Qwen2_5_VL", vision, {"rope_parameters": rope}, 3 * 2 * 16)


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
    return _qwen("Qwen3VL", vision, {"rope_parameters": rope, "head_dim": 8}, 3 * 2 * 16)


def llava_onevision() -> Family:
    vision = {**VISION, "model_type": "siglip_vision_model", "image_size": 8, "vision_use_head": False}
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[8, 8], [8, 16]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = _finish(transformers.LlavaOnevisionForConditionalGeneration(config))
    # A wide image: its overview (4 tokens) and two tiles side by side (2 rows of 4 and a line break each).
    return Family(
        "LlavaOnevision",
        model,
        [IMAGE] * 14,
        lambda images: {
            "pixel_values": _noise(sum(images), 3, 3, 8, 8),
            "image_sizes": torch.tensor([[8, 16]] * sum(images)),
        },
    )


def internvl() -> Family:
    vision = {**VISION, "image_size": [16, 16], "patch_size": [4, 4]}
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        image_token_id=IMAGE,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    model = _finish(transformers.InternVLForConditionalGeneration(config))
    ids = [IMAGE_START, *[IMAGE] * 4, IMAGE_END]
    return Family("InternVL", model, ids, lambda images: {"pixel_values": _noise(sum(images), 3, 16, 16)})


def smolvlm() -> Family:
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT}, vision_config=VISION, scale_factor=2, image_token_id=IMAGE
    )
    model = _finish(transformers.SmolVLMForConditionalGeneration(config))

    def pixels(images: list[int]) -> dict[str, torch.Tensor]:
        values = torch.zeros(len(images), max(images), 3, 16, 16)
        for b, n in enumerate(images):  # all-zero images are padding to this family
            values[b, :n] = _noise(n, 3, 16, 16)
        return {"pixel_values": values}

    ids = [IMAGE_START, IMAGE_BREAK, *[IMAGE] * 4, IMAGE_START]  # fake token, position marker, patches, fake token
    return Family("SmolVLM", model, ids, pixels)


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
    model = _finish(transformers.Gemma3ForConditionalGeneration(config))
    return Family(
        "Gemma3",
        model,
        [IMAGE_START, *[IMAGE] * 4, IMAGE_END],
        lambda images: {"pixel_values": _noise(sum(images), 3, 16, 16)},
        lambda ids: {"token_type_ids": (ids == IMAGE).long()},
    )


def mistral3(sliding_window: int | None = None) -> Family:
    vision = {**VISION, "model_type": "pixtral", "head_dim": 8}
    text = {"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": sliding_window}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=IMAGE, spatial_merge_size=2, vision_feature_layer=-1
    )
    model = _finish(transformers.Mistral3ForConditionalGeneration(config))
    # 16 x 16 pixels: two rows of two tokens, a break between them and a marker at the end.
    return Family(
        "Mistral3",
        model,
        [IMAGE, IMAGE, IMAGE_BREAK, IMAGE, IMAGE, IMAGE_END],
        lambda images: {
            "pixel_values": _noise(sum(images), 3, 16, 16),
            "image_sizes": torch.tensor([[16, 16]] * sum(images)),
        },
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "Qwen2VL": qwen2_vl,
    "Qwen2_5_VL": qwen2_5_vl,
    "Qwen3VL": qwen3_vl,
    "LlavaOnevision": llava_onevision,
    "InternVL": internvl,
    "SmolVLM": smolvlm,
    "Gemma3": gemma3,
    "Mistral3": mistral3,
}
