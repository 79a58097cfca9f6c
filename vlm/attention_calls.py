"""What each attention implementation of transformers is called with, in the terms of :mod:`vlm.attention_kernels`.

Under "sdpa" and "eager" a layer is given a mask over rows and keys. The flash-attention packages are given the padding mask, and know
the causal order and the window by themselves; flex attention is given a function of row and key.
"""

from typing import Any

import torch
from torch import nn

from vlm.attention_kernels import KernelCall, KernelTap


def is_supported(name: str | None) -> bool:
    """Whether the probe reads the attention implementation ``name``; also flash attention from the hub's kernels."""
    return name in ("sdpa", "eager", "flex_attention") or is_flash(name)


def is_flash(name: str | None) -> bool:
    """Whether ``name`` is one of the flash-attention packages, installed or from the hub's kernels."""
    return name is not None and ("flash_attention" in name or "flash-attn" in name)


def has_log_sum_exp(name: str) -> bool:
    """Whether a kernel under ``name`` may be seen that returns its log-sum-exp; flex attention is compiled, eager has none."""
    return name == "sdpa" or is_flash(name)


def mask_of_call(
    name: str, module: nn.Module, query: torch.Tensor, key: torch.Tensor, mask: Any, kwargs: dict[str, Any]
) -> tuple[torch.Tensor | None, bool]:
    """(mask over rows and keys or None, is_causal) of a call of the implementation ``name``.

    Args:
        query, key: (B, H, queries, D) and (B, K, L, D).
        mask, kwargs: as the attention function was given them.
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if is_flash(name):
        return _flash_mask(mask, queries, keys, causal, kwargs.get("sliding_window"), query.device)
    if name == "eager":  # without a mask, it lets every row see every key
        return mask, False
    if name == "flex_attention" and not (mask is None or isinstance(mask, torch.Tensor)):
        from torch.nn.attention.flex_attention import create_mask

        batch, heads = mask.shape[:2]
        return create_mask(mask.mask_mod, batch, heads, queries, keys, device=str(query.device)), False
    return mask, causal and name == "sdpa"


def tapped_call(
    tap: KernelTap, name: str, query: torch.Tensor, key: torch.Tensor, mask: Any, scaling: float | None
) -> KernelCall | None:
    """The kernel's call with its log-sum-exp, if ``tap`` saw one; for the flash-attention packages in rows with their padding."""
    if not is_flash(name) or tap.packed is None:
        return tap.call
    dtype, lse = tap.packed
    batch, heads, queries, width = query.shape
    if lse.ndim == 2:
        # The packed tokens in order, those of the padding left out.
        present = mask[:, -queries:].bool() if isinstance(mask, torch.Tensor) else lse.new_ones(batch, queries).bool()
        if lse.shape[1] == batch * queries:  # as in a step of a generation, whose single rows are never padding
            present = torch.ones_like(present)
        if int(present.sum()) != lse.shape[1]:
            return None
        rows = lse.new_zeros(batch, queries, heads)
        rows[present] = lse.T
        lse = rows.transpose(1, 2)
    if lse.shape != (batch, heads, queries):
        return None
    return KernelCall(query.to(dtype), key.to(dtype), width**-0.5 if scaling is None else float(scaling), lse)


def _flash_mask(
    padding: torch.Tensor | None, queries: int, keys: int, causal: bool, window: int | None, device: torch.device
) -> tuple[torch.Tensor | None, bool]:
    """What the flash-attention packages let each row see: rows and keys end together, a window counts the row itself."""
    windowed = window is not None and keys > window
    if padding is None and not windowed and (not causal or queries == keys or queries == 1):
        return None, causal
    row = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        mask = mask & (key <= row)
    if windowed:
        assert window is not None
        mask = mask & (key > row - window) & (key < row + window)
    mask = mask[None, None]
    return (mask if padding is None else mask & padding[:, None, None, -keys:].bool().to(device)), False
