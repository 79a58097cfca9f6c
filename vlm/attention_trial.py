"""Tests on one image whether the attention probe can read a model; ``reflection-v doctor`` runs it."""

from typing import Any

import torch
from PIL import Image

from configs.errors import UserError
from configs.versions import install_command
from vlm.attention import AttentionMass
from vlm.attention_kernels import KernelTap
from vlm.chat import encode, question_messages


def try_attention(vlm: Any) -> dict[str, Any]:
    """The attention kernel of the model, and how the probe reads it.

    Raises:
        UserError: the probe refuses the model, or reads no attention mass.
    """
    image = Image.new("RGB", (112, 112), "orange")
    with torch.no_grad():
        with KernelTap() as tap:  # text alone: the vision tower has a kernel of its own
            vlm.model(**encode(vlm, [question_messages("Which colour?", 0)], [[]]))
        with AttentionMass(vlm.model) as probe:
            vlm.model(**encode(vlm, [question_messages("Which colour?", 1)], [[image]]))
        mass = float(probe.mass[..., -1].mean())
    if not 0 < mass <= 1:
        raise UserError(
            f"The attention probe reads no mass on an image ({mass}): install the tested releases by "
            f"{install_command()}"
        )
    form = "log-sum-exp of the kernel" if tap.call is not None else "a second call with the image's indicator"
    return {"kernel": vlm.model.config.get_text_config()._attn_implementation, "probe": form}
