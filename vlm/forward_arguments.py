"""What a forward of a transformers model was called with: ids, mask and cache, however its signature names them.

transformers renames arguments between releases (``past_key_values`` became ``cache`` in 5.24, and both are accepted until
5.40), and callers pass them by position or by name. Whoever hooks forwards reads them here.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache

IDS = ("input_ids", "decoder_input_ids")
MASKS = ("attention_mask", "decoder_attention_mask", "padding_mask")
MODALITIES = ("pixel", "image", "video", "audio", "feature", "vision")
OTHERS = (*MODALITIES, "mask", "position", "type", "label", "grid", "thw", "size", "shape", "cache")
"""Parts of names of arguments that are no ids of the text, also where they look like them."""
CACHES = ("cache", "past_key_values", "cache_params")


@dataclass(frozen=True)
class ForwardArguments:
    """The arguments of one forward; None where they were not given.

    Attributes:
        ids: int64 (batch, length).
        mask: the attention mask as given: (batch, keys), a prepared one of four dimensions, or a dict of those.
        cache: the key/value cache.
    """

    ids: torch.Tensor | None
    mask: Any
    cache: Cache | None


class ArgumentReader:
    """Reads the arguments of the forwards of one module.

    Args:
        module: the module whose forwards are hooked. Its signature is read once.
    """

    def __init__(self, module: nn.Module) -> None:
        self.signature = inspect.signature(module.forward)

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ForwardArguments:
        """The arguments as a forward hook with ``with_kwargs=True`` receives them.

        The cache is recognised by its type, so that it is found under any name. Ids and mask are looked for under the names
        that are known; under an unknown one, ids are the first integers of shape (batch, length), and a mask is named a mask, covers
        the ids and belongs to no image.
        """
        given = self.signature.bind_partial(*args, **kwargs).arguments
        variadic = [p.name for p in self.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        for name in variadic:
            given = {**given, **given.pop(name, {})}
        # By type, because releases disagree on the name.
        caches = [value for value in given.values() if isinstance(value, Cache)]
        ids, mask = _first(given, IDS), _first(given, MASKS)
        if ids is None and given.get("inputs_embeds") is None:
            ids = next((value for name, value in given.items() if _is_ids(name, value)), None)
        if mask is None and ids is not None:
            mask = next((value for name, value in given.items() if _is_mask(name, value, ids)), None)
        return ForwardArguments(ids, mask, caches[0] if caches else None)


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a forward, under its present or a former name; None without one.

    For hooks that see keyword arguments only. Caches that are no ``transformers.Cache`` count as well.
    """
    typed = [value for value in kwargs.values() if isinstance(value, Cache)]
    return typed[0] if typed else _first(kwargs, CACHES)


def _is_ids(name: str, value: Any) -> bool:
    other = any(word in name for word in OTHERS)
    return (
        not other and isinstance(value, torch.Tensor) and value.ndim == 2 and value.dtype in (torch.int32, torch.int64)
    )


def _is_mask(name: str, value: Any, ids: torch.Tensor) -> bool:
    if not name.endswith("mask") or any(word in name for word in MODALITIES) or not isinstance(value, torch.Tensor):
        return False
    return value.ndim >= 2 and value.shape[0] == ids.shape[0] and value.shape[-1] >= ids.shape[1]


def _first(given: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := given.get(name)) is not None), None)
