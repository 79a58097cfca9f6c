"""How much the image contributes to a layer that has no attention map: linear attention and convolutions, by knockout.

    with ImageKnockout(model, batch["input_ids"], batch["attention_mask"], rows=20) as recorder:
        model(**batch, use_cache=False)
    recorder.contribution    # float32 (batch, 20), mean over such layers; 0: the image has no influence through their states

Such a layer mixes tokens through a state or a filter, so no softmax says what a row reads. Instead the layer runs twice on the
inputs that it has in this forward: with all tokens, and with the image's tokens left out of the sequence. The contribution of
row t is ||y_t - y_t without the image|| / ||y_t||.

Only the direct path through this layer is knocked out. The inputs of its text tokens may already carry what earlier layers read
from the image, so a contribution of 0 does not say that the row is free of the image.
"""

import inspect
from collections import Counter
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn

from configs.errors import UserError
from vlm.attention_parts import hf_model, image_token_mask
from vlm.attention_traits import AttentionTraits, attention_traits
from vlm.forward_arguments import cache_of

WITHOUT_MAP = ("linear", "convolution")
"""The kinds of layers (``vlm.attention_traits``) that mix tokens without a softmax over them."""


def knockout_coverage(model: nn.Module) -> dict[str, Any] | None:
    """What the contribution by knockout covers in ``model``; None if all its layers have attention maps.

    Returns:
        ``layers`` (the numbers of those that are knocked out), ``without_map`` (how many layers have no attention map), ``of`` (all
        layers) and ``kinds`` (of those without a map). Raises UserError as ``attention_traits`` does.
    """
    traits = attention_traits(hf_model(model))
    kinds = Counter(layer.kind for layer in traits.layers if layer.kind in WITHOUT_MAP)
    if not kinds:
        return None
    mixers = _find_mixers(hf_model(model), traits)
    return {"layers": list(mixers), "without_map": kinds.total(), "of": len(traits.layers), "kinds": dict(kinds)}


class ImageKnockout:
    """Records the image's contribution by knockout while it is entered, around one forward without a cache.

    The model's own output does not change. Each layer runs once more over the text tokens of each sequence that has an image.
    A model all of whose layers have attention maps gets no hook and costs nothing.

    Args:
        model: a vision-language model of transformers in evaluation mode, also wrapped by PEFT, accelerate or DeepSpeed.
        input_ids: int (batch, length), of the forward that will run.
        attention_mask: (batch, length), 0 at padding; None without padding.
        rows: the last N positions are recorded.

    Attributes:
        contributions: by layer, float32 (batch, rows) on the CPU, 0 and up. 0 in a sequence without image; NaN at padding, at
            image tokens, and where the layer's output is 0.

    Raises:
        UserError: the model has no image token; inside it: a forward with a cache, or over other tokens.
    """

    def __init__(
        self, model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: int
    ) -> None:
        inner = hf_model(model)
        self._mixers = _find_mixers(inner, attention_traits(inner))
        self._image = image_token_mask(inner, input_ids).cpu()
        present = torch.ones_like(self._image) if attention_mask is None else attention_mask.cpu().bool()
        self._text = present & ~self._image
        self._rows = rows
        self._hooks: list[Any] = []
        self.contributions: dict[int, torch.Tensor] = {}

    def __enter__(self) -> "ImageKnockout":
        self._hooks = [
            mixer.register_forward_hook(partial(self._after, number), with_kwargs=True)
            for number, mixer in self._mixers.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def contribution(self) -> torch.Tensor | None:
        """The mean of ``contributions`` over the layers, (batch, rows); None without such a layer."""
        return torch.stack(list(self.contributions.values())).nanmean(0) if self.contributions else None

    def _after(self, number: int, mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = _tensor(output)
        if cache_of(kwargs) is not None:
            raise UserError(
                "the contribution by knockout is recorded in a forward without a cache: give use_cache=False."
            )
        if hidden.shape[:2] != self._text.shape or output.shape[:2] != self._text.shape:
            raise UserError(
                f"layer {number} reads {tuple(hidden.shape[:2])} tokens where input_ids has {tuple(self._text.shape)}, so the image's "
                "tokens are unknown: give the input_ids of this forward."
            )
        with torch.no_grad():
            self.contributions[number] = torch.stack(
                [self._sequence(mixer, b, hidden, output) for b in range(len(hidden))]
            )

    def _sequence(self, mixer: nn.Module, b: int, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The contributions at the last rows of sequence ``b``."""
        text = self._text[b]
        there = text[-self._rows :]  # the recorded rows that are text
        found = torch.full(there.shape, float("nan"))
        if not self._image[b].any():
            found[there] = 0.0  # there is nothing to leave out
        elif there.any():
            # The image's tokens are taken out of the sequence, and not masked: at a masked token the state still decays, and
            # a convolution keeps a gap. Padding is taken out, too. ``forward`` is called past the hooks, or this one would
            # run again.
            alone = _tensor(mixer.forward(hidden[b : b + 1, text.to(hidden.device)]))[0]
            without = alone[len(alone) - int(there.sum()) :].float()
            whole = output[b, -self._rows :][there.to(output.device)].float()
            # 0 / 0 and x / 0 have no meaning as a share of the output.
            size = whole.norm(dim=-1)
            share = (whole - without).norm(dim=-1) / size.where(size > 0, float("nan"))
            found[there] = share.cpu()
        return found


def _find_mixers(model: nn.Module, traits: AttentionTraits) -> dict[int, nn.Module]:
    """The modules that mix tokens in the layers without an attention map, by layer.

    It is the one part of the layer that knows its layer and needs the hidden states alone: positions, for example, would have to
    be cut with the tokens. A layer without such a part, or with several, is left out.
    """
    blocks = getattr(model.get_decoder(), "layers", [])  # type: ignore[operator]
    found: dict[int, nn.Module] = {}
    for layer in traits.layers:
        if layer.kind not in WITHOUT_MAP or layer.number >= len(blocks):
            continue
        own = [part for part in blocks[layer.number].children() if getattr(part, "layer_idx", None) == layer.number]
        parts = [part for part in own if _needs_hidden_states_alone(part)]
        if len(parts) == 1:
            found[layer.number] = parts[0]
    return found


def _needs_hidden_states_alone(mixer: nn.Module) -> bool:
    first, *others = inspect.signature(mixer.forward).parameters.values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return first.name == "hidden_states" and not any(
        "position" in other.name or (other.default is inspect.Parameter.empty and other.kind not in variable)
        for other in others
    )


def _tensor(output: Any) -> torch.Tensor:
    """The hidden states that a mixer returns, alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output
