"""How much a vision-language model looks at its image: the exact attention mass of each token on the image tokens.

    with AttentionMass(model, layers="last") as probe:
        model.generate(**batch, max_new_tokens=100)
    probe.mass      # float32 (layers, batch, 1 + steps) in [0, 1]; NaN in padded rows
    probe.lift      # the same divided by what uniform attention would give

``mass[l, b, n] = mean over heads of the sum over image tokens j of softmax(q_n k_j)``: the A_n of Reflection-V (arXiv
2509.12132, section on the visual-attention reward). It is recorded inside the forward or generation that happens anyway,
through transformers' ``AttentionInterface`` (:mod:`vlm.attention_hook`); the model's outputs and gradients stay those of its own
kernel. Which layers have such a mass is found by :mod:`vlm.attention_traits`, and the sums are in :mod:`vlm.attention_kernels`;
``docs/attention.md`` has the cost, the limits and the sources.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import Cache

from configs.errors import UserError
from vlm.attention_calls import has_log_sum_exp, is_supported, mask_of_call, tapped_call
from vlm.attention_check import check_once
from vlm.attention_hook import forget, observe, observed
from vlm.attention_kernels import KernelTap, Positions
from vlm.attention_parts import hf_model, image_token_mask, model_body
from vlm.attention_recording import ForwardRecorder, LayerCall, Recording, joined, response_mass
from vlm.attention_traits import attention_traits, choose_layers
from vlm.forward_arguments import ArgumentReader

__all__ = ["AttentionMass", "Recording", "image_token_mask", "response_mass"]


class AttentionMass:
    """Records the attention mass on the image tokens while it is entered, around any forward or ``generate``.

    *Around a forward* the rows are all positions, or those chosen with ``rows``. *Around generate()* (any forward that is
    given a cache) they come one at a time: index 0 is the prompt's last row, which predicts token 1, index n the row of
    generated token n; so (layers, batch, 1 + steps). The image tokens are the prompt's; sequences that have ended go on
    being recorded, and the caller cuts them (:func:`response_mass`).

    Args:
        model: a vision-language model of transformers, also wrapped by PEFT, accelerate or DeepSpeed.
        layers: ``"last"``, ``"all"``, or layer numbers of the language model (negative ones count from the end), among those that
            have a softmax over keys (:mod:`vlm.attention_traits`, also for what "last" means).
        rows: which rows of a forward. None: all. A bool tensor (batch, length): each sequence's chosen rows, packed to
            the left and padded with NaN to the longest. An int N: the last N positions.
        per_head: also keep ``head_mass``.
        per_token: also keep ``token_mass`` (heat maps) and ``top_share``.

    Raises:
        UserError: the model has no image tokens or an attention implementation that the probe cannot read, a layer does
            not exist, no row is chosen, or (on entering) the model already carries a probe. Inside it: what would leave
            the mass unknown (beam search, assisted decoding, continuous batching, a cache filled outside, ...).
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Literal["last", "all"] | Sequence[int] = "last",
        rows: torch.Tensor | int | None = None,
        per_head: bool = False,
        per_token: bool = False,
    ) -> None:
        self._model = hf_model(model)
        image_token_mask(self._model, torch.zeros(1, 1, dtype=torch.long))  # refuses a text-only model
        self.traits = attention_traits(self._model)
        self.layers = choose_layers(layers, self.traits)
        self._body = model_body(self._model)
        self._arguments = ArgumentReader(self._body)
        self._attention: list[Any] = [self.traits.measured[layer].attention for layer in self.layers]
        self.rows = _check_rows(rows)
        self.per_head, self.per_token = per_head, per_token
        self.recordings: list[Recording] = []
        self._steps: list[Recording] = []  # of the generation under way
        self._generating = 0  # calls of generate() under way
        self._generated_to = 0
        self._cache: Any = None
        self._generation_images: tuple[torch.Tensor, Positions] | None = None
        self._forward: ForwardRecorder | None = None
        self._kept: Any = None  # logits_to_keep of the forward under way
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._check_implementation()

    @property
    def coverage(self) -> dict[str, Any]:
        """Which layers the mass covers, of how many and of which kinds: ``AttentionTraits.coverage``."""
        return self.traits.coverage(self.layers)

    def _check_implementation(self) -> None:
        for name in {module.config._attn_implementation for module in self._attention}:
            if not is_supported(name):
                raise UserError(
                    f"the attention probe cannot read attn_implementation={name!r}; it reads sdpa, flash attention, flex_attention "
                    "and eager. Load the model with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
                )

    def __enter__(self) -> "AttentionMass":
        if any(observed(layer.attention) for layer in self.traits.measured.values()):
            raise UserError(
                f"this {type(self._model).__name__} already carries an attention probe; leave that one first, or ask it "
                "for more layers."
            )
        self._check_implementation()
        check_once(self._model, lambda: AttentionMass(self._model, self.layers)._installed())
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uninstall()

    @contextlib.contextmanager
    def _installed(self) -> Iterator["AttentionMass"]:
        self._install()
        try:
            yield self
        finally:
            self._uninstall()

    def _install(self) -> None:
        observe(self._attention, self._observe)
        self._hooks = [
            self._body.register_forward_pre_hook(self._before, with_kwargs=True),
            self._body.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]
        # On this one object: PEFT and DeepSpeed call generate() of the model that they wrap.
        self._generate = vars(self._model).get("generate")
        vars(self._model)["generate"] = self._watched(self._model.generate)  # type: ignore[arg-type]

    def _uninstall(self) -> None:
        vars(self._model).pop("generate", None)
        if self._generate is not None:
            vars(self._model)["generate"] = self._generate
        for hook in self._hooks:
            hook.remove()
        forget(self._attention)
        self._hooks, self._forward = [], None
        self._close_generation()

    # Results

    @property
    def recording(self) -> Recording:
        """The one recording. Raises UserError if nothing ran inside the probe, or more than one forward or generation."""
        done = [*self.recordings, *([joined(self._steps)] if self._steps else [])]
        if not done:
            raise UserError(
                "the attention probe recorded nothing: no forward of this model ran inside it. Continuous batching "
                "(generate_batch) and vLLM run outside; use generate() or a forward."
            )
        if len(done) > 1:
            raise UserError(
                f"{len(done)} forwards or generations ran inside one attention probe; read probe.recordings one by one "
                "(generate(use_cache=False) runs one forward a token: leave the cache on)."
            )
        return done[0]

    @property
    def mass(self) -> torch.Tensor:
        """See :class:`Recording`, as for the properties below."""
        return self.recording.mass

    @property
    def lift(self) -> torch.Tensor:
        return self.recording.lift

    @property
    def head_mass(self) -> torch.Tensor | None:
        return self.recording.head_mass

    @property
    def token_mass(self) -> torch.Tensor | None:
        return self.recording.token_mass

    @property
    def top_share(self) -> torch.Tensor:
        return self.recording.top_share

    @property
    def image_mask(self) -> torch.Tensor:
        return self.recording.image_mask

    # Before, during and after a forward

    def _watched(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate`` that says while it runs that the forwards are its steps."""

        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._generating += 1
            try:
                return generate(*args, **kwargs)
            finally:
                self._generating -= 1

        return watched

    def _before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._arguments.read(args, kwargs)
        ids, mask, cache = given.ids, given.mask, given.cache
        if ids is None:
            raise UserError("the attention probe finds the image tokens by input_ids; call the model with them.")
        if self._generating and cache is None:
            raise UserError(
                "the attention probe found no cache in a step of generate(), so it cannot tell which row it sees: leave "
                f"the cache on. If it is on, transformers {transformers.__version__} hands the cache over in a way that this "
                "release does not know: install one that it was tested with (reflection-v doctor names them)."
            )
        batch, length = ids.shape
        past = 0 if cache is None else int(cache.get_seq_length())
        if past == 0:
            self._close_generation()
            image_mask = image_token_mask(self._model, ids)
            images = (image_mask, Positions.of(image_mask))
            rows = self._choose_rows(batch, length, ids.device, last_only=cache is not None)
        else:
            if not self._steps or past != self._generated_to or self._generation_images is None:
                raise UserError(
                    "the attention probe met a cache that was filled outside it, so it cannot know the image tokens; "
                    "enter the probe before the prompt is read."
                )
            if length != 1 or self.rows is not None:
                raise UserError(
                    "around generate() the attention probe records one row a step: leave out rows=, and do not use "
                    "assisted decoding or a chunked prefill."
                )
            images = self._generation_images
            rows = Positions.between(batch, 0, 1, ids.device)
        padding = None
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            # Positions of this forward only: with a cache the mask covers what came before, too.
            padding = ~mask[:, past : past + length].to(ids.device, torch.bool).gather(1, rows.index)
        sizes = {n: _key_sizes(cache, length, self.traits.measured[n].keys_of) for n in self.layers}
        if cache is not None:
            self._generated_to, self._generation_images, self._cache = past + length, images, cache
            vars(cache)["reorder_cache"] = _refuse_beams  # on this one object, until the generation is closed
        self._kept = kwargs.get("logits_to_keep")
        self._forward = ForwardRecorder(rows, *images, padding, sizes, length, is_step=cache is not None)

    def _choose_rows(self, batch: int, length: int, device: torch.device, last_only: bool) -> Positions:
        if isinstance(self.rows, torch.Tensor):
            if self.rows.shape != (batch, length):
                raise UserError(
                    f"rows has shape {tuple(self.rows.shape)}, but the forward's input_ids has {(batch, length)}; "
                    "give one bool for each of its tokens."
                )
            return Positions.of(self.rows.to(device))
        n_rows = self.rows or (1 if last_only else length)
        if n_rows > length:
            raise UserError(f"rows={n_rows} is out of range: the forward has {length} tokens")
        return Positions.between(batch, length - n_rows, length, device)

    def _after(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        forward, self._forward = self._forward, None
        if forward is None or output is None:  # the forward raised: nothing to keep
            return
        missing = [layer for layer in self.layers if layer not in forward.layers]
        if missing:
            raise UserError(
                f"the attention of layer {missing[0]} did not come through the attention probe, so its mass is unknown; "
                f"{type(self._model).__name__} does not use transformers' AttentionInterface there; choose other layers."
            )
        recording = forward.recording(self.layers)
        (self._steps if forward.is_step else self.recordings).append(recording)

    def _close_generation(self) -> None:
        if self._steps:
            self.recordings.append(joined(self._steps))
        if self._cache is not None:
            vars(self._cache).pop("reorder_cache", None)
        self._steps, self._generation_images, self._cache, self._generated_to = [], None, None, 0

    def _observe(
        self,
        stock: Callable[..., Any],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        """Runs the model's own attention function and, in a chosen layer of a forward, records what it attends to."""
        layer, forward = int(module.layer_idx), self._forward  # type: ignore[arg-type]
        # Gradient checkpointing runs layers again in the backward pass: no forward is under way, nothing to record.
        if forward is None or layer not in forward.n_keys:
            return stock(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
        self._refuse_call(layer, forward, query, key, kwargs)
        name, tap = str(module.config._attn_implementation), KernelTap()  # type: ignore[union-attr]
        # A single row, as in a generation's step, is cheaper to weigh from scratch than by watching the kernel.
        with contextlib.nullcontext() if forward.one_row or not has_log_sum_exp(name) else tap:
            out = stock(module, query, key, value, attention_mask, **kwargs)
        with torch.no_grad():
            mask, is_causal = forward.shared(
                attention_mask,
                (kwargs.get("sliding_window"), kwargs.get("is_causal"), key.shape[2], query.shape[2]),
                lambda: mask_of_call(name, module, query, key, attention_mask, kwargs),
            )
            call = tapped_call(tap, name, query, key, attention_mask, kwargs.get("scaling"))
        maps = out[1] if name == "eager" else None
        softcap, sinks = (None, None) if name == "sdpa" else (kwargs.get("softcap"), kwargs.get("s_aux"))
        seen = LayerCall(layer, query, key, mask, is_causal, kwargs.get("scaling"), call, maps, softcap, sinks)
        forward.record(seen, self.per_head, self.per_token)
        return out  # type: ignore[no-any-return]

    def _refuse_call(
        self, layer: int, forward: ForwardRecorder, query: torch.Tensor, key: torch.Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Raise UserError for a call of a layer's attention whose mass would be unknown."""
        where = f"layer {layer} of {type(self._model).__name__}"
        if torch.compiler.is_compiling():
            raise UserError("the attention probe cannot record inside torch.compile; run the model uncompiled.")
        if kwargs.get("cache") is not None and not isinstance(kwargs["cache"], Cache):
            raise UserError("the attention probe cannot record continuous batching (a paged cache); use generate().")
        if kwargs.get("cu_seq_lens_q") is not None:
            raise UserError("the attention probe cannot record packed sequences; give the batch with padding.")
        if kwargs.get("position_bias") is not None:
            raise UserError("the attention probe cannot record attention with a position bias.")
        left_out = forward.n_queries - query.shape[2]
        # Layers that share the keys of earlier ones may leave out all but the last rows, those that the caller keeps logits of.
        if left_out and (left_out < 0 or query.shape[2] != self._kept or not forward.keeps(left_out)):
            raise UserError(
                f"{where} computes {query.shape[2]} of the {forward.n_queries} rows, so the attention probe cannot tell which they "
                "are: leave out logits_to_keep, or choose other layers."
            )
        if key.shape[2] != forward.n_keys[layer]:
            raise UserError(
                f"{where} attends to {key.shape[2]} keys where the text has {forward.n_keys[layer]}, so they are not the text's "
                "tokens and the mass on the image is unknown: this kind of attention (cross-attention, or keys of another "
                "sequence) is not supported; choose other layers or another model."
            )


def _key_sizes(cache: Cache | None, length: int, layer: int) -> tuple[int, int]:
    """(number of keys, token of the first key) of a layer in a forward of ``length`` tokens.

    A sliding window's cache drops old keys: key i of a layer is then token i + offset.
    """
    if cache is None:
        return length, 0
    try:
        keys, offset = cache.get_mask_sizes(length, layer)
    except (ValueError, NotImplementedError, IndexError) as error:
        raise UserError(
            f"the cache has no keys of layer {layer}, so its attention mass cannot be read around generate(): choose other layers."
        ) from error
    return int(keys), int(offset)


def _refuse_beams(beam_idx: torch.Tensor) -> None:
    raise UserError("the attention probe cannot follow beam search, which swaps sequences; use num_beams=1.")


def _check_rows(rows: torch.Tensor | int | None) -> torch.Tensor | int | None:
    if isinstance(rows, torch.Tensor):
        if rows.dtype != torch.bool or rows.ndim != 2:
            raise UserError(f"rows must be a bool tensor (batch, length), not {rows.dtype} {tuple(rows.shape)}")
        if not rows.any():
            raise UserError("rows chooses no token: the response mask is empty")
    elif isinstance(rows, int) and rows < 1:
        raise UserError(f"rows={rows} chooses no token: ask for at least the last one")
    return rows
