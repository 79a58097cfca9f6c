"""The arithmetic of :class:`vlm.attention.AttentionMass`: how much softmax mass chosen rows put on the image keys.

Exact, and without a rows x keys map of scores of its own:

* :func:`mass_from_logsumexp`, form (b): ``sum over image keys of exp(q.k * scale - lse)``, where ``lse`` is the
  log-sum-exp over *all* keys that the forward's own kernel has computed anyway. :class:`KernelTap` reads it off torch's
  CPU flash kernel, together with the queries and keys exactly as that kernel saw them (after autocast).
* :func:`mass_from_indicator`, form (a): a second attention call whose values are the image indicator, because
  ``softmax(Q K^T) @ indicator`` *is* the mass. Used wherever (b) has not been checked: other devices, the math kernel.
* :func:`mass_from_logits`, the plain softmax over all keys in chunks of rows: for the single row of a generation's step, where it
  is one vector a head and costs less than either, and for logits with a soft cap or a sink.
* :func:`mass_from_maps`, where the attention function returns its weights anyway (eager).

Notation: B batch, H query heads, K key heads (H a multiple of K), R chosen rows, I image keys, L keys, D head width.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Floats of logits held at a time. On a CPU 2 MiB: small enough for its caches, large enough that calling the operators costs little
# beside their work. On a GPU 128 MiB, so that few kernels are started (not run).
CHUNK, GPU_CHUNK = 2**19, 2**25


@dataclass
class KernelCall:
    """What the forward's kernel was called with, and the log-sum-exp it returned: float32 (B, heads, queries)."""

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    lse: torch.Tensor


class KernelTap(TorchDispatchMode):
    """Watches the operators that run under it and keeps the call of a flash attention kernel, if there is one.

    Nothing is replaced: the operators run as they would, so outputs, gradients and what autograd saves stay the same to
    the bit, whatever transformers did to heads and masks before it called ``scaled_dot_product_attention``.

    Attributes:
        call: the call of torch's CPU flash kernel.
        packed: (query dtype, log-sum-exp) of a kernel of the flash-attention packages, versions 2 and 3, whose operators return the
            output and then the log-sum-exp, float32 (B, H, queries) or, of sequences without their padding, (H, tokens).
    """

    def __init__(self) -> None:
        super().__init__()
        self.call: KernelCall | None = None
        self.packed: tuple[torch.dtype, torch.Tensor] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            scale = (kwargs or {}).get("scale")
            self.call = KernelCall(args[0], args[1], args[0].shape[-1] ** -0.5 if scale is None else scale, out[1])
        elif "flash_attn" in func.name() and isinstance(out, tuple | list) and len(out) > 1:
            lse = out[1]
            if isinstance(lse, torch.Tensor) and lse.dtype == torch.float32 and lse.ndim in (2, 3):
                self.packed = (args[0].dtype, lse)
        return out


@dataclass
class Positions:
    """Positions along one axis, one list a sequence, padded to the longest.

    ``index`` int64 (B, N); ``valid`` bool (B, N), false in the padding; ``span`` is set where every sequence has the
    same unbroken span, which is then read as a view instead of a copy.
    """

    index: torch.Tensor
    valid: torch.Tensor
    span: slice | None

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Positions":
        """The true positions of a bool (B, L) mask, in order."""
        counts = mask.sum(1)
        width = int(counts.max())
        # A stable sort brings the true positions to the front and keeps their order.
        index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        valid = torch.arange(width, device=mask.device) < counts[:, None]
        first = int(index[0, 0]) if width else 0
        unbroken = torch.arange(first, first + width, device=mask.device)
        together = bool((valid & (index == unbroken)).all())
        return cls(index.masked_fill(~valid, 0), valid, slice(first, first + width) if together else None)

    @classmethod
    def between(cls, batch: int, start: int, stop: int, device: torch.device) -> "Positions":
        """The positions start..stop (exclusive) of every sequence."""
        index = torch.arange(start, stop, device=device).expand(batch, -1)
        return cls(index, torch.ones_like(index, dtype=torch.bool), slice(start, stop))

    def shifted(self, offset: int) -> "Positions":
        """The same positions counted from ``offset``; those before it are gone (a sliding window's cropped cache)."""
        if offset == 0:
            return self
        if self.span is not None and self.span.start >= offset:
            return Positions(self.index - offset, self.valid, slice(self.span.start - offset, self.span.stop - offset))
        index = self.index - offset
        return Positions(index.clamp(min=0), self.valid & (index >= 0), None)

    def sequences(self, which: slice) -> "Positions":
        """Those of some sequences."""
        return Positions(self.index[which], self.valid[which], self.span)

    def take(self, states: torch.Tensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The states at these positions of (B, heads, length, ...), or at some of them in order: (B, heads, N or stop - start, ...)."""
        stop = self.index.shape[1] if stop is None else stop
        if self.span is not None:
            return states[:, :, self.span.start + start : self.span.start + stop]
        batch = torch.arange(states.shape[0], device=states.device)[:, None, None]
        heads = torch.arange(states.shape[1], device=states.device)[None, :, None]
        return states[batch, heads, self.index[:, None, start:stop]]

    def columns(self, part: torch.Tensor) -> torch.Tensor:
        """The columns at these positions of (B, heads, r, L): (B, heads, r, N)."""
        if self.span is not None:
            return part[..., self.span]
        return part.gather(3, self.index[:, None, None, :].expand(-1, part.shape[1], part.shape[2], -1))


class KeyView:
    """Which keys the chosen rows see. Shared by all layers that were given the same mask.

    Args:
        rows: the chosen rows, as query indices.
        images: the image tokens, as key indices of this layer.
        indicator: float32 (B, at most L), 1 at this layer's image keys; no image key lies beyond it.
        mask: the layer's mask as its attention function got it: None, bool (true = seen) or additive float, of shape
            (B or 1, H or 1, queries, at least L).
        is_causal: where ``mask`` is None, whether row i sees the keys 0..i or all of them.
        n_keys: L.

    ``tokens`` and ``image_tokens``, (B, R), count the keys and the image keys that a row sees, in the mean over heads where each
    head has a mask of its own. ``open`` says that
    every row sees every image key, so that nothing has to be hidden.
    """

    def __init__(
        self,
        rows: Positions,
        images: Positions,
        indicator: torch.Tensor,
        mask: torch.Tensor | None,
        is_causal: bool,
        n_keys: int,
    ) -> None:
        self.rows, self.images, self.is_causal, self.n_keys = rows, images, is_causal, n_keys
        self.indicator = indicator
        self.mask = None
        if mask is not None:
            self.mask = mask[..., :n_keys].expand(rows.index.shape[0], -1, -1, -1)
            self.tokens, self.image_tokens = self._count()
        elif is_causal:
            self.tokens = rows.index + 1
            after_all = images.index.masked_fill(~images.valid, n_keys).contiguous()
            self.image_tokens = torch.searchsorted(after_all, rows.index.contiguous(), right=True)
        else:
            self.tokens = torch.full_like(rows.index, n_keys)
            self.image_tokens = images.valid.sum(1, keepdim=True).expand_as(rows.index)
        additive = self.mask is not None and self.mask.dtype != torch.bool
        sees_all = (self.image_tokens == images.index.shape[1]) | ~rows.valid
        self.open = (sees_all.all(1) & (not additive)).tolist()

    def _count(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.mask is not None
        n_rows, kind = self.rows.index.shape[1], torch.int64 if self.mask.shape[1] == 1 else torch.float32
        tokens = torch.empty_like(self.rows.index, dtype=kind)
        image_tokens = torch.empty_like(tokens)
        step = max(1, 4 * CHUNK // max(1, self.mask.shape[0] * self.mask.shape[1] * self.n_keys))
        for start in range(0, n_rows, step):
            part = seen(self.rows.take(self.mask, start, min(start + step, n_rows)))
            columns = self.images.columns(part) & self.images.valid[:, None, None, :]
            for counts, which in ((tokens, part), (image_tokens, columns)):
                of_heads = which.sum(-1)
                counts[:, start : start + step] = of_heads[:, 0] if kind == torch.int64 else of_heads.float().mean(1)
        return tokens, image_tokens

    def bias(self, start: int, stop: int, sequences: slice = slice(None)) -> torch.Tensor | None:
        """What the mask adds to the logits of the rows start..stop on the image keys: 0 or minus infinity, or an additive mask's own.

        Float32 (sequences, H or 1, stop - start, I); None where these sequences' rows see all image keys.
        """
        if all(self.open[sequences]):
            return None
        hidden = ~self.images.valid[sequences, None, None, :]
        added: torch.Tensor | float = 0.0
        if self.mask is not None:
            part = self.rows.sequences(sequences).take(self.mask[sequences], start, stop)
            columns = self.images.sequences(sequences).columns(part)
            if self.mask.dtype == torch.bool:
                hidden = hidden | ~columns
            else:
                added = columns
        elif self.is_causal:
            hidden = hidden | (
                self.images.index[sequences, None, None, :] > self.rows.index[sequences, None, start:stop, None]
            )
        return torch.where(hidden, -torch.inf, added).float()

    def mask_rows(self, start: int, stop: int) -> torch.Tensor | None:
        """The mask of the rows start..stop over all keys, (B, heads, stop - start, L); None where they see all keys."""
        if self.mask is not None:
            return self.rows.take(self.mask, start, stop)
        if not self.is_causal:
            return None
        return torch.arange(self.n_keys, device=self.rows.index.device) <= self.rows.index[:, None, start:stop, None]


def seen(mask: torch.Tensor) -> torch.Tensor:
    """A bool or additive float mask as bool. An additive mask hides with the dtype's minimum or minus infinity."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def as_kernel_sees(states: torch.Tensor) -> torch.Tensor:
    """Under autocast the forward's kernel casts its inputs first. To be called where autocast is still on."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def _image_keys(key: torch.Tensor, images: Positions) -> torch.Tensor:
    """(B, K, L, D) -> float32 (B * K, D, I), ready for a batched matmul."""
    picked = images.take(key)
    return picked.reshape(-1, *picked.shape[2:]).float().transpose(1, 2)


def _piece(device: torch.device, batch: int, key_heads: int) -> tuple[int, int, int]:
    """(sequences, key heads, floats of logits) at a time: a CPU works best on one matrix that fits its caches, a GPU on all."""
    return (1, 1, CHUNK) if device.type == "cpu" else (batch, key_heads, GPU_CHUNK)


def mass_from_logsumexp(
    call: KernelCall, view: KeyView, heads: int, key_heads: int, per_token: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Form (b). Returns the mass, float32 (B, H, R), and with ``per_token`` its head mean a key, float32 (B, R, I).

    The numbers at rows that are padding are meaningless: the caller replaces them.
    """
    batch, n_rows = view.rows.index.shape
    n_images, width = view.images.index.shape[1], call.query.shape[-1]
    group, device = heads // key_heads, call.query.device
    # For a single query row transformers may pack the heads of a group into the query axis; both orders are the same.
    query = view.rows.take(call.query.reshape(batch, heads, -1, width)).unflatten(1, (key_heads, group))
    lse = view.rows.take(call.lse.reshape(batch, heads, -1)).unflatten(1, (key_heads, group))
    # The log-sum-exp as one more column of the queries, beside a column of ones of the keys: the matmul subtracts it. The rows of a
    # group stand together, since they meet the same keys.
    rows = torch.empty(batch, key_heads, n_rows, group, width + 1, device=device)
    torch.mul(query.movedim(2, 3).float(), call.scale, out=rows[..., :width])
    torch.neg(lse.movedim(2, 3), out=rows[..., width])
    # Where transformers repeated the keys for grouped queries, one copy of each is enough.
    keys = torch.ones(batch, key_heads, n_images, width + 1, device=device)
    keys[..., :width] = view.images.take(call.key[:, :: call.key.shape[1] // key_heads])

    mass = torch.empty(batch, key_heads, n_rows, group, device=device)
    token = torch.zeros(batch, n_rows, n_images, device=device) if per_token else None
    ones = torch.ones(n_images, device=device)
    n_batch, n_keys, chunk = _piece(device, batch, key_heads)
    step = max(1, min(n_rows, chunk // max(1, n_batch * n_keys * group * n_images)))
    buffer = torch.empty(n_batch * n_keys * step * group * n_images, device=device)
    for first, start in itertools.product(range(0, batch, n_batch), range(0, n_rows, step)):
        stop = min(start + step, n_rows)
        sequences, there = slice(first, first + n_batch), slice(start, stop)
        bias = view.bias(start, stop, sequences)
        if bias is not None:  # (b, heads or 1, r, I) -> (b, key heads or 1, r, group or 1, I)
            bias = bias.unflatten(1, (key_heads, group) if bias.shape[1] > 1 else (1, 1)).movedim(3, 2)
        for head in range(0, key_heads, n_keys):
            of_heads = slice(head, head + n_keys)
            part = rows[sequences, of_heads, there]
            logits = buffer[: part.numel() // (width + 1) * n_images].view(*part.shape[:-1], n_images)
            pairs = logits.view(-1, (stop - start) * group, n_images)
            torch.bmm(part.reshape(len(pairs), -1, width + 1), keys[sequences, of_heads].flatten(0, 1).mT, out=pairs)
            if bias is not None:
                logits += bias if bias.shape[1] == 1 else bias[:, of_heads]
            weights = logits.exp_()
            mass[sequences, of_heads, there] = torch.mv(weights.view(-1, n_images), ones).view(part.shape[:-1])
            if token is not None:
                token[sequences, there] += weights.sum((1, 3)) / heads
    return mass.movedim(3, 2).flatten(1, 2), token


def mass_from_indicator(
    query: torch.Tensor, key: torch.Tensor, scale: float, view: KeyView, per_token: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Form (a), from (B, H, queries, D) and (B, K, L, D). Returns what :func:`mass_from_logsumexp` returns.

    A key's own share is the mass times the softmax over the image keys alone, so it needs no map over all keys either.
    """
    batch, heads, key_heads = query.shape[0], query.shape[1], key.shape[1]
    n_rows, n_images = view.rows.index.shape[1], view.images.index.shape[1]
    key, n_keys, width = key.float(), key.shape[2], key.shape[3]
    group = heads // key_heads

    indicator = torch.nn.functional.pad(view.indicator, (0, n_keys - view.indicator.shape[1]))
    # As wide as a key: fused kernels want values of the keys' width. All columns say the same.
    values = indicator[:, None, :, None].expand(batch, 1, n_keys, width).contiguous()
    keys = key if group == 1 else key.repeat_interleave(group, dim=1)
    image_keys = _image_keys(key, view.images) if per_token else None

    mass = torch.empty(batch, heads, n_rows, device=query.device)
    token = torch.empty(batch, n_rows, n_images, device=query.device) if per_token else None
    step = max(1, CHUNK // max(1, batch * n_keys))
    if image_keys is not None:
        step = max(1, min(step, CHUNK // max(1, batch * heads * n_images)))
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        rows = view.rows.take(query, start, stop).float()
        mask = view.mask_rows(start, stop)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.float()
        out = torch.nn.functional.scaled_dot_product_attention(
            rows, keys, values.expand(-1, heads, -1, -1), attn_mask=mask, scale=scale
        )
        mass[:, :, start:stop] = out[..., 0]
        if image_keys is not None and token is not None:
            logits = rows.reshape(batch * key_heads, -1, width) @ image_keys * scale
            logits = logits.view(batch, heads, stop - start, n_images)
            bias = view.bias(start, stop)
            if bias is not None:
                logits += bias
            # A row that sees no image key has no softmax over them; its mass of 0 is the answer for each.
            shares = logits.softmax(-1).nan_to_num_(0.0)
            token[:, start:stop] = (shares * mass[:, :, start:stop, None]).mean(1)
    return mass, token


def mass_from_logits(
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    view: KeyView,
    per_token: bool,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The plain softmax over all keys, a chunk of rows at a time. Takes and returns what :func:`mass_from_indicator` does.

    Args:
        softcap: the logits become ``softcap * tanh(logits / softcap)`` before the mask.
        sinks: (H,): a logit of each head that takes part in the softmax and belongs to no key.
    """
    batch, heads, key_heads, n_keys = query.shape[0], query.shape[1], key.shape[1], key.shape[2]
    n_rows, n_images = view.rows.index.shape[1], view.images.index.shape[1]
    keys = key.reshape(batch * key_heads, n_keys, -1).float().transpose(1, 2)
    mass = torch.empty(batch, heads, n_rows, device=query.device)
    token = torch.empty(batch, n_rows, n_images, device=query.device) if per_token else None
    step = max(1, CHUNK // max(1, batch * heads * n_keys))
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        rows = view.rows.take(query, start, stop).float() * scale
        logits = torch.bmm(rows.reshape(batch * key_heads, -1, query.shape[-1]), keys)
        logits = logits.view(batch, heads, stop - start, n_keys)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        mask = view.mask_rows(start, stop)
        if mask is not None:
            logits = logits.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        if sinks is not None:
            sink = sinks.float().view(1, heads, 1, 1).expand(batch, heads, stop - start, 1)
            weights = torch.cat([logits, sink], -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        _weigh_images(weights, view, mass, token, start)
    return mass, token


def mass_from_maps(maps: torch.Tensor, view: KeyView, per_token: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The mass in attention weights (B, H, queries, L). Returns what :func:`mass_from_logsumexp` does."""
    weights = view.rows.take(maps)[..., : view.n_keys].float()
    mass = torch.empty(weights.shape[:3], device=maps.device)
    n_rows, n_images = view.rows.index.shape[1], view.images.index.shape[1]
    token = torch.empty(maps.shape[0], n_rows, n_images, device=maps.device) if per_token else None
    _weigh_images(weights, view, mass, token, 0)
    return mass, token


def _weigh_images(
    weights: torch.Tensor, view: KeyView, mass: torch.Tensor, token: torch.Tensor | None, start: int
) -> None:
    """Writes the mass of the weights (B, H, r, L) of the rows from ``start`` on, and each image key's share."""
    stop = start + weights.shape[2]
    width = view.indicator.shape[1]
    mass[:, :, start:stop] = (weights[..., :width] @ view.indicator[:, None, :, None])[..., 0]
    if token is not None:  # image keys that a sliding window has dropped have no weight
        columns = view.images.columns(weights.mean(1)[:, None])[:, 0]
        token[:, start:stop] = columns * view.images.valid[:, None]
