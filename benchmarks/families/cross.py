"""Families that read the image otherwise than among the text's own tokens: by cross-attention, in an encoder, or in front of it."""

from dataclasses import replace
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.families.base import FIRST_WORD, IMAGE, TEXT, VISION, VOCAB, Family, Sizes, finish, flat, noise

_OPT = {
    "model_type": "opt",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": TEXT["eos_token_id"],
    "pad_token_id": 0,
}
_T5 = {
    "model_type": "t5",
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_QFORMER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def _pixels(sizes: Sizes) -> dict[str, Any]:
    return {"pixel_values": noise(len(list(flat(sizes))), 3, 16, 16)}


def _family(name: str, model: PreTrainedModel, image: list[int]) -> Family:
    return Family(name, finish(model), lambda code: image, _pixels)


def _blip2(name: str, text: dict[str, Any]) -> Family:
    config = transformers.Blip2Config(
        text_config=text,
        vision_config=VISION,
        qformer_config=_QFORMER,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    return _family(name, transformers.Blip2ForConditionalGeneration(config), [IMAGE] * 4)


def blip2() -> Family:
    return _blip2("blip-2 (opt)", _OPT)


def blip2_t5() -> Family:
    return _blip2("blip-2 (t5)", _T5)


def _instructblip(name: str, text: dict[str, Any]) -> Family:
    """The queries that become image tokens read the question, too."""
    config = transformers.InstructBlipConfig(
        text_config=text,
        vision_config=VISION,
        qformer_config=_QFORMER,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    family = _family(name, transformers.InstructBlipForConditionalGeneration(config), [IMAGE] * 4)

    def pixels(sizes: Sizes) -> dict[str, Any]:
        images = _pixels(sizes)
        question = torch.full((len(images["pixel_values"]), 3), FIRST_WORD)
        return {**images, "qformer_input_ids": question, "qformer_attention_mask": torch.ones_like(question)}

    return replace(family, pixels=pixels)


def instructblip() -> Family:
    return _instructblip("instructblip (llama)", {"model_type": "llama", **TEXT})


def instructblip_t5() -> Family:
    return _instructblip("instructblip (t5)", _T5)


def mllama() -> Family:
    config = transformers.MllamaConfig(
        text_config={
            **TEXT,
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_output_dim": 32,
            "supported_aspect_ratios": [[1, 1]],
            "intermediate_layers_indices": [0],
            "max_num_tiles": 1,
        },
        image_token_index=IMAGE,
    )
    return _family(config.model_type, transformers.MllamaForConditionalGeneration(config), [IMAGE])


def florence2() -> Family:
    config = transformers.Florence2Config(
        text_config={
            "vocab_size": VOCAB,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
        },
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [8, 16],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "window_size": 2,
            "projection_dim": 32,
        },
        image_token_id=IMAGE,
    )
    return _family(config.model_type, transformers.Florence2ForConditionalGeneration(config), [IMAGE] * 4)


def udop() -> Family:
    config = transformers.UdopConfig(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, image_size=16, patch_size=4
    )
    return _family(config.model_type, transformers.UdopForConditionalGeneration(config), [IMAGE])


def kosmos2() -> Family:
    """Image tokens are told by a mask of their own, and have no id."""
    config = transformers.Kosmos2Config(
        text_config={"vocab_size": VOCAB, "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4},
        vision_config=VISION,
        latent_query_num=4,
    )
    return _family(config.model_type, transformers.Kosmos2ForConditionalGeneration(config), [IMAGE] * 4)


def git() -> Family:
    """Image features are put in front of the text, and have no tokens."""
    config = transformers.GitConfig(
        vision_config=VISION,
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return _family(config.model_type, transformers.GitForCausalLM(config), [])


FAMILIES = {
    "blip-2 (opt)": blip2,
    "blip-2 (t5)": blip2_t5,
    "instructblip (llama)": instructblip,
    "instructblip (t5)": instructblip_t5,
    "mllama": mllama,
    "florence2": florence2,
    "udop": udop,
    "kosmos-2": kosmos2,
    "git": git,
}
