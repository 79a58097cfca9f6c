"""Further families: convolutions beside attention, recurrent layers, patches without a tower, images as codes."""

from typing import Any

import torch
import transformers

from benchmarks.families.base import (
    IMAGE,
    IMAGE_BREAK,
    IMAGE_END,
    IMAGE_START,
    TEXT,
    VIDEO,
    VISION,
    VOCAB,
    Family,
    Sizes,
    finish,
    flat,
    noise,
    one_size,
    tiled,
)
from benchmarks.families.llava import QWEN2

# Rows and columns of patches for each size code.
GRIDS = [(4, 6), (4, 4), (6, 6)]


def _grid_ids(code: int) -> list[int]:
    """An image whose patches are merged 2 x 2."""
    rows, columns = GRIDS[code]
    return [IMAGE_START, *[IMAGE] * (rows * columns // 4), IMAGE_END]


# Only the layers that are no convolutions have attention.
_CONVOLUTIONS = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2}


def lfm2_vl() -> Family:
    config = transformers.Lfm2VlConfig(
        text_config={"model_type": "lfm2", **TEXT, **_CONVOLUTIONS, "block_multiple_of": 8},
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 4,
            "num_patches": 16,
            "vision_use_head": False,
        },
        image_token_id=IMAGE,
        projector_hidden_size=32,
    )
    model = finish(transformers.Lfm2VlForConditionalGeneration(config))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        shown = torch.tensor([GRIDS[code] for code in flat(sizes)])
        n = int(shown.prod(1).max())
        there = torch.arange(n) < shown.prod(1)[:, None]
        return {
            "pixel_values": noise(len(shown), n, 48),
            "spatial_shapes": shown,
            "pixel_attention_mask": there.long(),
        }

    return Family(config.model_type, model, _grid_ids, pixels)


def lfm3_vl() -> Family:
    config = transformers.Lfm3VlConfig(
        text_config={"model_type": "lfm3", **TEXT, **_CONVOLUTIONS, "head_dim": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "patch_size": 4,
            "layer_types": ["conv", "full_attention"],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
        projector_hidden_size=32,
    )
    model = finish(transformers.Lfm3VlForConditionalGeneration(config))

    def pixels(sizes: Sizes) -> dict[str, Any]:
        shown = [GRIDS[code] for code in flat(sizes)]
        return {
            "pixel_values": noise(sum(rows * columns for rows, columns in shown), 96),
            "image_grid_thw": torch.tensor([(1, *grid) for grid in shown]),
        }

    return Family(config.model_type, model, _grid_ids, pixels)


def minicpmv4_6() -> Family:
    """One attention layer after three recurrent ones, as in Qwen3.5; patches in a row, merged 4 x 4."""
    config = transformers.MiniCPMV4_6Config(
        text_config={
            "model_type": "qwen3_5_text",
            **TEXT,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
        vision_config={**VISION, "image_size": 32, "num_hidden_layers": 2, "insert_layer_id": 0},
        insert_layer_id=0,
        image_size=32,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = finish(transformers.MiniCPMV4_6ForConditionalGeneration(config))
    grids = [(4, 8), (4, 4), (8, 8)]

    def pixels(sizes: Sizes) -> dict[str, Any]:
        shown = [grids[code] for code in flat(sizes)]
        return {
            "pixel_values": noise(1, 3, 4, 4 * sum(rows * columns for rows, columns in shown)),
            "target_sizes": torch.tensor(shown, dtype=torch.int),
        }

    def image_ids(code: int) -> list[int]:
        rows, columns = grids[code]
        return [IMAGE_START, *[IMAGE] * (rows * columns // 16), IMAGE_END]

    return Family(config.model_type, model, image_ids, pixels)


def molmo2() -> Family:
    """Image features are added to the embedding of their tokens, which attend to each other in both directions."""
    config = transformers.Molmo2Config(
        text_config={**TEXT, "additional_vocab_size": 0, "head_dim": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "image_size": [16, 16],
            "patch_size": 4,
        },
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "text_hidden_size": 32,
        },
        image_patch_id=IMAGE,
        image_start_token_id=IMAGE_START,
        image_end_token_id=IMAGE_END,
        low_res_image_start_token_id=VIDEO,
        frame_start_token_id=VOCAB + 1,
        frame_end_token_id=VOCAB + 2,
    )
    model = finish(transformers.Molmo2ForConditionalGeneration(config))
    columns = [1, 0, 2]  # tiles side by side for each size code, after the overview

    def pixels(sizes: Sizes) -> dict[str, Any]:
        codes = list(flat(sizes))
        crops = sum(1 + columns[code] for code in codes)
        # Of each crop's 4 x 4 patches, which are pooled into which of its 2 x 2 tokens.
        patches = torch.arange(16 * crops).view(crops, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4)
        return {
            "pixel_values": noise(crops, 16, 48),
            "image_token_pooling": patches,
            "image_grids": torch.tensor([(2, 2, 2 * bool(columns[code]), 2 * columns[code]) for code in codes]),
        }

    def image_ids(code: int) -> list[int]:
        tiles = [IMAGE_START, *[*[IMAGE] * (2 * columns[code]), IMAGE_BREAK] * 2, IMAGE_END]
        return [VIDEO, *[IMAGE] * 4, IMAGE_END, *(tiles if columns[code] else [])]

    return Family(config.model_type, model, image_ids, pixels, lambda ids: {"mm_token_type_ids": (ids == IMAGE).long()})


def ovis2() -> Family:
    # Markers with features of their own around an image and after each tile.
    first, after, last, unused = IMAGE_START, IMAGE_BREAK, IMAGE_END, VIDEO
    config = transformers.Ovis2Config(
        text_config=QWEN2,
        vision_config={**VISION, "vocab_size": 20, "hidden_stride": 2, "num_visual_indicator_tokens": 4},
        image_token_id=IMAGE,
        visual_indicator_token_ids=(first, after, last, unused),
        vocab_size=VOCAB,
        hidden_size=32,
    )
    return tiled(
        transformers.Ovis2ForConditionalGeneration(config),
        lambda tiles: [first, *[*[IMAGE] * 4, after] * tiles, last],
    )


def phi4_multimodal() -> Family:
    config = transformers.Phi4MultimodalConfig(
        **TEXT,
        vision_config={**VISION, "num_hidden_layers": 2, "crop_size": 16, "image_token_id": IMAGE},
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "input_size": 16,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": 16,
            "audio_token_id": VIDEO,
        },
    )
    model = finish(transformers.Phi4MultimodalForCausalLM(config))
    # transformers 5.24 records a tower's layers twice if a forward asks the tower for outputs before the whole model.
    model(input_ids=torch.tensor([[1]]), output_attentions=True)
    tiles = [(1, 2), (1, 1), (2, 2)]  # rows and columns for each size code; a tile has 2 x 2 tokens

    def pixels(sizes: Sizes) -> dict[str, Any]:
        # The overview, at most four tiles, and one of padding. Without padding transformers 5.24 has no mask for the tower,
        # and its sdpa then reads the patches causally, which eager does not.
        shown = [tiles[code] for code in flat(sizes)]
        mask = torch.ones(len(shown), 6, 4, 4)
        mask[:, 5, 3:] = 0
        return {
            "image_pixel_values": noise(len(shown), 6, 3, 16, 16),
            "image_sizes": 16 * torch.tensor(shown),
            "image_attention_mask": mask,
        }

    def image_ids(code: int) -> list[int]:
        rows, columns = tiles[code]
        # Each row of the tiles and of the overview ends with a learned break; another stands between the two.
        return [IMAGE] * (2 * rows * (2 * columns + 1) + 1 + 2 * 3)

    return Family(config.model_type, model, image_ids, pixels)


def fuyu() -> Family:
    """Without a vision tower: patches are projected, with a break after each row."""
    config = transformers.FuyuConfig(
        text_config={"model_type": "persimmon", **TEXT}, image_size=16, patch_size=4, image_token_id=IMAGE
    )
    model = finish(transformers.FuyuForCausalLM(config))
    grids = [(2, 3), (2, 2), (3, 3)]

    def image_ids(code: int) -> list[int]:
        rows, columns = grids[code]
        return [*[*[IMAGE] * columns, IMAGE_BREAK] * rows, IMAGE_END]

    def pixels(sizes: Sizes) -> dict[str, Any]:
        return {"pixel_values": noise(1, sum(grids[code][0] * grids[code][1] for code in flat(sizes)), 48)}

    return Family(config.model_type, model, image_ids, pixels)


_CODES = {"embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}


def chameleon() -> Family:
    """An image becomes codes, whose embeddings replace the image tokens'."""
    names = {"<image>": IMAGE, **{f"IMGIMG{letter}Z": 10 + n for n, letter in enumerate("ABCDEFGH")}}
    config = transformers.ChameleonConfig(
        **TEXT, vq_config={**_CODES, "num_embeddings": 8, "resolution": 8}, vocabulary_map=names
    )
    return one_size(
        transformers.ChameleonForConditionalGeneration(config), [IMAGE_START, *[IMAGE] * 16, IMAGE_END], side=8
    )


def emu3() -> Family:
    """Codes as in Chameleon, and one for the end of each row."""
    names = {
        "<image>": IMAGE,
        "<|extra_200|>": IMAGE_BREAK,
        **{f"<|visual token {n:06}|>": 10 + n for n in range(8)},
    }
    config = transformers.Emu3Config(
        text_config={**TEXT, "attention_dropout": 0.0},
        vq_config={
            **_CODES,
            "codebook_size": 8,
            "hidden_size": 32,
            "attn_resolutions": [],
            "temporal_downsample_factor": 1,
        },
        vocabulary_map=names,
    )
    model = finish(transformers.Emu3ForConditionalGeneration(config))
    sides = [(8, 8), (4, 8), (8, 12)]  # height and width for each size code; a code stands for 2 x 2 pixels

    def image_ids(code: int) -> list[int]:
        height, width = sides[code]
        return [IMAGE_START, *[IMAGE] * (height // 2 * (width // 2 + 1)), IMAGE_END]

    def pixels(sizes: Sizes) -> dict[str, Any]:
        shown = torch.tensor([sides[code] for code in flat(sizes)])
        height, width = shown.amax(0).tolist()
        return {"pixel_values": noise(len(shown), 3, height, width), "image_sizes": shown}

    return Family(config.model_type, model, image_ids, pixels)


FAMILIES = {
    "lfm2_vl": lfm2_vl,
    "lfm3_vl": lfm3_vl,
    "minicpmv4_6": minicpmv4_6,
    "molmo2": molmo2,
    "ovis2": ovis2,
    "phi4_multimodal": phi4_multimodal,
    "fuyu": fuyu,
    "chameleon": chameleon,
    "emu3": emu3,
}
