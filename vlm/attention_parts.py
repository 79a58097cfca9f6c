"""The parts of a transformers model that the attention probe works on, and which models it refuses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from configs.errors import UserError

# The config fields (after transformers' aliases) whose token has its embedding replaced by vision features.
_TOKEN_FIELDS = ("image_token_id", "video_token_id")


def hf_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside wrappers (PEFT, DDP, DeepSpeed). Raises UserError if there is none."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UserError(f"{type(model).__name__} holds no transformers model; the attention probe needs one.")


def image_token_mask(model_or_config: nn.Module | PreTrainedConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """Where the embedding of a token is replaced by vision features: bool, shaped like ``input_ids``.

    Row markers, line breaks and the fake tokens around an image have ids of their own and do not count. Raises UserError
    if the model has no image token.
    """
    config = model_or_config if isinstance(model_or_config, PreTrainedConfig) else hf_model(model_or_config).config
    ids = [getattr(config, field, None) for field in _TOKEN_FIELDS]
    ids = [token for token in ids if token is not None]
    if not ids:
        raise UserError(
            f"{type(config).__name__} names no image token, so there is no attention to an image to measure; "
            "use a vision-language model."
        )
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for token in ids:
        mask |= input_ids == token
    return mask


def model_body(model: PreTrainedModel) -> nn.Module:
    """The part that every forward passes with input_ids: PEFT calls the outer ``forward`` past its hooks."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, PreTrainedModel) else model


def attention_layers(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The language model's softmax attention modules by layer number."""
    decoder = model.get_decoder()
    return {
        module.layer_idx: module
        for module in decoder.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and "Attention" in type(module).__name__
        and hasattr(module, "config")
    }


def text_configs(model: PreTrainedModel, attention: dict[int, nn.Module]) -> list[PreTrainedConfig]:
    """Every config object that the language model chooses its attention function or its mask by."""
    holders: list[Any] = [*attention.values(), model.get_decoder()]
    configs = [holder.config for holder in holders] + [model.config.get_text_config()]
    return list({id(config): config for config in configs}.values())


def choose_layers(layers: str | Sequence[int], attention: dict[int, nn.Module]) -> list[int]:
    """The layer numbers that ``layers`` of ``AttentionMass`` means. Raises UserError if one does not exist."""
    have = sorted(attention)
    if not have:
        raise UserError(
            "the language model has no attention layer that the probe can read: it needs modules of transformers' own attention "
            "classes, which have a layer_idx and a config."
        )
    if layers == "all":
        return have
    if layers == "last":
        return have[-1:]
    if isinstance(layers, str):
        raise UserError(f"layers={layers!r} is not 'last', 'all' or a list of layer numbers")
    chosen = [have[layer] if -len(have) <= layer < 0 else layer for layer in layers]
    unknown = [layer for layer in chosen if layer not in attention]
    if unknown or not chosen:
        what = f"has no attention layer {unknown[0]}" if unknown else "was asked for no layer"
        raise UserError(f"the language model {what}; its layers are {have[0]} to {have[-1]}.")
    return chosen


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise UserError for kinds of attention whose mass on the image tokens the probe would measure incorrectly.

    * Cross-attention: the image tokens of the prompt are no keys of the text's attention, and the mass on their positions
      says nothing about the image.
    * Sparse attention that chooses its keys by an indexer: transformers' modelling code hides the other keys only under the
      names "eager" and "sdpa", so that entering the probe would switch the choice off.

    Found from the config and the modules, so that a model without weights is refused too.
    """
    name, text = type(model).__name__, model.config.get_text_config()
    kinds = [type(module).__name__.lower() for module in model.get_decoder().modules()]
    if (
        any("crossattention" in kind for kind in kinds)
        or getattr(text, "cross_attention_layers", None)
        or getattr(text, "add_cross_attention", False)
        or getattr(model.config, "is_encoder_decoder", False)
    ):
        raise UserError(
            f"{name} reads its image through cross-attention, where the image tokens of the prompt are not among the keys, so "
            f"their attention mass would say nothing about the image: {_REMEDY}"
        )
    if any("indexer" in kind for kind in kinds):
        raise UserError(
            f"{name} chooses the keys of its attention by an indexer (sparse attention), which the attention probe would switch "
            f"off, so the mass would be that of another model: {_REMEDY}"
        )


_REMEDY = (
    "use a model with full attention that has the image among its text tokens, such as Qwen2.5-VL, Qwen3-VL or Gemma 3."
)
