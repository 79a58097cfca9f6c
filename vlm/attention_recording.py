"""What :class:`vlm.attention.AttentionMass` keeps of a forward: the layers' masses, gathered into one tensor a quantity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from configs.errors import UserError
from vlm.attention_kernels import (
    KernelCall,
    KeyView,
    Positions,
    as_kernel_sees,
    mass_from_indicator,
    mass_from_logits,
    mass_from_logsumexp,
    mass_from_maps,
)

T = TypeVar("T")
_SHARED = 6  # masks of a forward that are kept: full, sliding and chunked ones, with their views


@dataclass
class LayerCall:
    """What a layer's attention function was called with, and what could be seen of its work.

    Attributes:
        layer: its number.
        query, key: (B, H, queries, D) and (B, K, L, D).
        mask: which keys a row sees (:class:`vlm.attention_kernels.KeyView`), or None.
        is_causal: where ``mask`` is None, whether row i sees the keys 0..i.
        scaling: factor of the logits; None means D**-0.5.
        call: the call of the kernel, with its log-sum-exp, if it could be seen.
        maps: the attention weights (B, H, queries, L), where the function returns them.
        softcap: the logits' soft cap: ``softcap * tanh(logits / softcap)``.
        sinks: (H,): a learned logit of each head beside those of the keys.
    """

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    is_causal: bool
    scaling: float | None
    call: KernelCall | None
    maps: torch.Tensor | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


@dataclass
class Recording:
    """What one forward, or one generation, recorded. Rows as in :class:`vlm.attention.AttentionMass`; all float32.

    Attributes:
        mass: (layers, batch, rows), in [0, 1]; NaN in rows that are padding.
        lift: (layers, batch, rows): mass / (image tokens seen / tokens seen); 1 is uniform attention; NaN also where the
            row sees no image token.
        head_mass: (layers, batch, heads, rows), with ``per_head``.
        token_mass: (layers, batch, rows, image tokens), mean over heads, with ``per_token``; the image tokens in the
            order of the prompt, NaN beyond a sequence's own.
        image_mask: bool (batch, prompt tokens), where the image tokens are.
    """

    mass: torch.Tensor
    lift: torch.Tensor
    head_mass: torch.Tensor | None
    token_mass: torch.Tensor | None
    image_mask: torch.Tensor

    @property
    def top_share(self) -> torch.Tensor:
        """The share of the mass that sits on its single top image token, (layers, batch, rows) in (0, 1]."""
        if self.token_mass is None:
            raise UserError("the top image token needs AttentionMass(..., per_token=True)")
        if self.token_mass.shape[-1] == 0:
            return torch.full_like(self.mass, torch.nan)
        return self.token_mass.nan_to_num(0.0).amax(-1) / self.mass


class ForwardRecorder:
    """One forward under way: which rows and image tokens to record, and what the layers have recorded so far.

    Args:
        rows: the chosen rows.
        image_mask: bool (batch, prompt tokens); ``images`` are its positions.
        padding: bool, shaped like ``rows``, true where the row is padding; None if there is none.
        sizes: for each layer to record, how many keys it has and the token that its first key belongs to (a sliding
            window's cache drops old keys; 0 otherwise).
        n_queries: tokens of the forward, which are the query rows of each layer.
        is_step: whether the forward belongs to a generation.
    """

    def __init__(
        self,
        rows: Positions,
        image_mask: torch.Tensor,
        images: Positions,
        padding: torch.Tensor | None,
        sizes: dict[int, tuple[int, int]],
        n_queries: int,
        is_step: bool,
    ) -> None:
        self.rows, self.images, self.image_mask, self.is_step = rows, images, image_mask, is_step
        self.n_queries = n_queries
        self.valid = rows.valid if padding is None else rows.valid & ~padding
        self.n_keys = {layer: keys for layer, (keys, _) in sizes.items()}
        self.offsets = {layer: offset for layer, (_, offset) in sizes.items()}
        self.one_row = rows.index.shape[1] == 1
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]] = {}
        self._shared: dict[Any, tuple[Any, Any]] = {}

    def shared(self, mask: Any, name: Any, make: Callable[[], T]) -> T:
        """``make()``, made once for the layers that are handed the same ``mask`` object and have the same ``name``.

        The mask is kept alive with it, so that no other object gets its id. Only the latest few are kept: where an indexer makes a
        mask for each layer, keeping them all would take as much memory as the maps.
        """
        key = (id(mask), name)
        if key not in self._shared:
            while len(self._shared) >= _SHARED:
                self._shared.pop(next(iter(self._shared)))
            self._shared[key] = (mask, make())
        made: T = self._shared[key][1]
        return made

    def keeps(self, left_out: int) -> bool:
        """Whether all chosen rows stand after the first ``left_out`` ones."""
        return not bool((self.rows.valid & (self.rows.index < left_out)).any())

    @torch.no_grad()
    def record(self, seen: LayerCall, per_head: bool, per_token: bool) -> None:
        """Weighs a layer, given what its attention function was given."""
        layer, query, key, mask = seen.layer, seen.query, seen.key, seen.mask
        batch, heads, queries, width = query.shape
        is_causal = queries > 1 and mask is None and seen.is_causal
        # An empty static cache has room for keys to come; stock sdpa drops them here, too.
        n_keys = queries if is_causal else key.shape[2]
        view = self._view(mask, is_causal, n_keys, self.offsets[layer], self.n_queries - queries)
        scale = width**-0.5 if seen.scaling is None else float(seen.scaling)
        query, key = as_kernel_sees(query), as_kernel_sees(key[:, :, :n_keys])
        with torch.autocast(query.device.type, enabled=False):
            mass: torch.Tensor
            token: torch.Tensor | None
            if self.images.index.shape[1] == 0:  # a batch without images: the sum over nothing is 0
                mass = torch.zeros(batch, heads, self.rows.index.shape[1], device=query.device)
                token = mass.new_zeros(batch, self.rows.index.shape[1], 0) if per_token else None
            elif seen.maps is not None:
                mass, token = mass_from_maps(seen.maps, view, per_token)
            elif self.one_row or seen.softcap is not None or seen.sinks is not None:
                mass, token = mass_from_logits(query, key, scale, view, per_token, seen.softcap, seen.sinks)
            elif seen.call is not None:
                mass, token = mass_from_logsumexp(seen.call, view, heads, key.shape[1], per_token)
            else:
                mass, token = mass_from_indicator(query, key, scale, view, per_token)
        self.layers[layer] = (mass if per_head else mass.mean(1), token, view.tokens, view.image_tokens)

    def _view(self, mask: torch.Tensor | None, is_causal: bool, n_keys: int, offset: int, left_out: int) -> KeyView:
        def make() -> KeyView:
            indicator = self.image_mask[:, offset:][:, :n_keys].float()
            rows = self.rows.shifted(left_out)
            return KeyView(rows, self.images.shifted(offset), indicator, mask, is_causal, n_keys)

        return self.shared(mask, (is_causal, n_keys, offset, left_out), make)

    def recording(self, layers: list[int]) -> Recording:
        """The recorded layers as tensors."""
        done = [self.layers[layer] for layer in layers]
        seen = torch.stack([tokens for _, _, tokens, _ in done])
        images = torch.stack([image_tokens for _, _, _, image_tokens in done])
        unknown = ~self.valid | (seen == 0)
        if len({mass.shape for mass, _, _, _ in done}) > 1:
            raise UserError(
                "the layers have unequal numbers of heads, so their head_mass cannot be one tensor: leave out per_head, or choose "
                "layers with as many heads."
            )
        mass = torch.stack([mass for mass, _, _, _ in done])
        head_mass = None
        if mass.ndim == 4:
            head_mass = mass.masked_fill(unknown[:, :, None], torch.nan)
            mass = mass.mean(2)
        # Sums of exponentials can pass 1 by a rounding error.
        mass = mass.masked_fill(unknown, torch.nan).clamp(max=1.0)
        token_mass = None
        if done[0][1] is not None:
            token_mass = torch.stack([token for _, token, _, _ in done if token is not None])
            token_mass = token_mass.masked_fill(unknown[..., None] | ~self.images.valid[:, None], torch.nan)
        lift = (mass / (images / seen)).masked_fill(images == 0, torch.nan)
        return Recording(mass, lift, head_mass, token_mass, self.image_mask)


def joined(steps: list[Recording]) -> Recording:
    """The steps of a generation as one recording."""

    def cat(parts: list[torch.Tensor | None], dim: int) -> torch.Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there, dim) if there else None

    return Recording(
        mass=torch.cat([step.mass for step in steps], 2),
        lift=torch.cat([step.lift for step in steps], 2),
        head_mass=cat([step.head_mass for step in steps], 3),
        token_mass=cat([step.token_mass for step in steps], 2),
        image_mask=steps[0].image_mask,
    )


def response_mass(
    probe: "Recording | torch.Tensor | Any",
    token_counts: Sequence[int],
    rows: Literal["token", "predicting"] = "token",
) -> list[torch.Tensor]:
    """The mass of each response token, cut out of a generation's rows: one (layers, T) tensor a sequence.

    Args:
        probe: an ``AttentionMass``, a recording or its tensor, with the rows laid out as a generation leaves them:
            (layers, batch, 1 + steps).
        token_counts: T of each sequence, without its end token and padding.
        rows: ``"token"`` takes the row of token n itself; ``"predicting"`` the row that predicted it (n - 1). A generation
            never feeds its very last token, so in an answer cut off at the limit the last own row is NaN.

    Raises:
        UserError: the counts do not fit the rows.
    """
    mass = probe if isinstance(probe, torch.Tensor) else probe.mass
    if rows not in ("token", "predicting"):
        raise UserError(f"rows={rows!r} is neither 'token' nor 'predicting'")
    if len(token_counts) != mass.shape[1]:
        raise UserError(f"{len(token_counts)} token counts were given for {mass.shape[1]} recorded sequences")
    if any(not 0 <= count <= mass.shape[2] for count in token_counts):
        raise UserError(
            f"a response of {max(token_counts)} tokens does not fit the {mass.shape[2]} recorded rows (1 + steps)"
        )
    first = 1 if rows == "token" else 0
    padded = torch.nn.functional.pad(mass, (0, 1), value=torch.nan)
    return [padded[:, n, first : first + count] for n, count in enumerate(token_counts)]
