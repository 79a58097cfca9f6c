"""The parts of a transformers model that the attention probe works on."""

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
    # Phi-4 keeps the image's token with its vision tower.
    for holder in (config, getattr(config, "vision_config", None)):
        ids = [getattr(holder, field, None) for field in _TOKEN_FIELDS]
        ids = [token for token in ids if token is not None]
        if ids:
            break
    if not ids:
        raise UserError(
            f"{type(config).__name__} names no image token whose embedding the image replaces, so there is no attention to an image "
            "to measure; use a vision-language model that has the image among its text tokens."
        )
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for token in ids:
        mask |= input_ids == token
    return mask


def model_body(model: PreTrainedModel) -> nn.Module:
    """The part that every forward passes with input_ids: PEFT calls the outer ``forward`` past its hooks."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, PreTrainedModel) else model
