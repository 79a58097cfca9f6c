"""The memory of one layer's forward and backward, found by running its own code on tensors without storage.

torch's ``FakeTensorMode`` computes shapes and dtypes only, so a layer of a 7B model takes a second and no memory. ``Live`` counts
the bytes of the tensors that are alive, as autograd keeps them for the backward. Adapters, autocast and fused attention are those
of the run, so nothing here is an assumption about a family: a linear layer whose weight is frozen keeps no input, a norm keeps
float32 copies, a gated delta rule keeps what its implementation keeps. ``train.memory`` multiplies by the number of layers.

The attention kernel is torch's fused one, without a mask, as in a batch without padding. A gated delta rule without its package
(``flash-linear-attention``) runs its reference implementation, which keeps more than the package's kernel: on a GPU that has the
package, the estimate is an upper bound.

All of these bytes grow linearly with the tokens, since no part keeps a square matrix, so two short inputs give those of any length.
"""

import contextlib
import json
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from train.config import Lora
from train.lora import lora_config
from train.reader import part_of

SAMPLES = (256, 512)  # tokens; multiples of the 64 of a gated delta rule's chunks
FUSED = "fused_without_mask"
# transformers leaves the mask out where no row is padded, but not for tensors without values: it cannot look whether one is.
AttentionInterface.register(FUSED, sdpa_attention_forward)
AttentionMaskInterface.register(FUSED, lambda *_, **__: None)


@dataclass(frozen=True)
class LayerMemory:
    """Bytes of a layer, without its weights, their gradients and its input.

    Attributes:
        forward: the peak of a forward that keeps nothing for a backward.
        kept: what a forward keeps for the backward, with its output.
        peak: the peak of forward and backward, with what the forward keeps.
    """

    forward: int
    kept: int = 0
    peak: int = 0


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors made under it that are alive: ``now``, and at most (``peak``)."""

    def __init__(self, known: nn.Module | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        held = [*known.parameters(), *known.buffers()] if known is not None else []
        self._ignored = {tensor.untyped_storage()._cdata for tensor in held}
        self._held = held  # or the address of a freed storage would be used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes and key not in self._ignored:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def ignore(self, tensor: torch.Tensor) -> None:
        """Count a tensor no more: a weight's gradient is another part of the plan."""
        self._freed(tensor.untyped_storage()._cdata)
        self._ignored.add(tensor.untyped_storage()._cdata)
        self._held.append(tensor)


class _OneSequence:
    """In place of the boundaries of the sequences in a vision tower, whose values a tensor without storage does not have."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __getitem__(self, index: Any) -> "_OneSequence":
        return self

    def __sub__(self, other: Any) -> "_OneSequence":
        return self

    def tolist(self) -> list[int]:
        return [self.length]


def decoder_layer(
    config_json: str, kind: str, lora_json: str | None, wide: bool, half: bool, tokens: int
) -> LayerMemory | None:
    """The memory of a decoder layer on ``tokens`` tokens, of one sequence or several.

    Args:
        config_json: the model's config (its ``to_json_string()``); ``kind`` is one of its ``layer_types``.
        lora_json: the fields of ``Lora``, or None if the layer is trained in full.
        wide: the weights are float32, otherwise bfloat16; ``half``: autocast computes in bfloat16.

    Returns:
        None if the layer's code needs values, as the routing of a mixture of experts does.
    """
    return _at(_decoder_samples(config_json, kind, lora_json, wide, half), tokens)


@lru_cache(maxsize=64)
def _decoder_samples(
    config_json: str, kind: str, lora_json: str | None, wide: bool, half: bool
) -> list[LayerMemory | None]:
    model, mode = _one_layer(config_json, kind, lora_json, wide)
    if model is None:
        return [None]
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)

    def forward(states: torch.Tensor) -> torch.Tensor:
        return decoder(inputs_embeds=states, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    shapes = [(1, tokens, decoder.config.hidden_size) for tokens in SAMPLES]
    return [
        _run_layer(model, mode, forward, shape, half, layers[0] if layers is not None else None) for shape in shapes
    ]


def vision_tower(config_json: str, wide: bool, half: bool, patches: int) -> LayerMemory | None:
    """The memory of a vision tower with one block, from the pixels to the merger; ``kept`` is that of the block.

    The whole tower runs, since a learned position table that is interpolated (Qwen3-VL, Qwen3.5) holds more before the first block
    than a block does: four neighbours of every patch, twice in float32. None if its code is not that of the Qwen families.
    """
    return _at(_vision_samples(config_json, wide, half), patches)


@lru_cache(maxsize=64)
def _vision_samples(config_json: str, wide: bool, half: bool) -> list[LayerMemory | None]:
    model, mode = _one_layer(config_json, None, None, wide)
    tower = getattr(getattr(model, "model", None), "visual", None)
    if tower is None or not hasattr(tower, "blocks"):
        return [None]
    vision = tower.config
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2

    def forward(values: torch.Tensor) -> torch.Tensor:
        values = values.type(tower.dtype)  # the copy is held while the tower runs, as in the model's own code
        return tower(values, grid_thw=None, **_grid_values(len(values), tower)).pooler_output  # type: ignore[no-any-return]

    return [_run_layer(tower, mode, forward, (patches, pixels), half, tower.blocks[0], True) for patches in SAMPLES]


def _grid_values(patches: int, tower: Any) -> dict[str, Any]:
    """What a tower computes from the values of an image's grid, precomputed. A tower takes what it needs and drops the rest."""
    whole = _OneSequence(patches)
    return {
        "position_ids": torch.empty(patches, 2, dtype=torch.long),
        "interp_indices": torch.empty(patches, 4, dtype=torch.long),
        "interp_weights": torch.empty(patches, 4),
        "window_index": torch.empty(patches // tower.spatial_merge_size**2, dtype=torch.long),
        "cu_seqlens": whole,
        "cu_window_seqlens": whole,
    }


def _at(samples: list[LayerMemory | None], tokens: int) -> LayerMemory | None:
    """The line through the two samples."""
    first, second = samples[0], samples[-1]
    if first is None or second is None:
        return None

    def line(name: str) -> int:
        low, high = getattr(first, name), getattr(second, name)
        return int(low + (high - low) * (tokens - SAMPLES[0]) / (SAMPLES[1] - SAMPLES[0]))

    return LayerMemory(line("forward"), line("kept"), line("peak"))


@lru_cache(maxsize=64)
def fused_head(tokens: int, width: int, vocabulary: int, wide: bool, half: bool, trained: bool) -> LayerMemory:
    """The memory of TRL's head and loss, which hold a tile of the logits (``trl.kernels.chunked_logprob``)."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    dtype = torch.float32 if wide else torch.bfloat16
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        head = nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(trained)

        def forward(states: torch.Tensor) -> torch.Tensor:
            labels = torch.empty(tokens, dtype=torch.long)
            outputs = ChunkedLogProbFunction.apply(
                states[0], head.weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",)
            )
            return outputs[0]  # type: ignore[no-any-return]

        measured = _run_layer(head, mode, forward, (1, tokens, width), half)
    assert measured is not None
    return measured


def _one_layer(config_json: str, kind: str | None, lora_json: str | None, wide: bool) -> tuple[Any, FakeTensorMode]:
    """A model of one decoder layer and one vision block, without storage; (None, ...) if its class refuses that."""
    data = json.loads(config_json)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        config = AutoConfig.for_model(data.pop("model_type"), **data)
        text, vision = config.get_text_config(), getattr(config, "vision_config", None)
        text.num_hidden_layers = 1
        if getattr(text, "layer_types", None):
            text.layer_types = [kind or text.layer_types[0]]
        if hasattr(vision, "depth"):
            vision.depth = 1  # type: ignore[union-attr]
        if getattr(text, "num_kv_shared_layers", None):
            return None, mode  # a layer alone has no other to read keys from
        dtype = torch.float32 if wide else torch.bfloat16
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=FUSED)
            if lora_json is not None:
                from peft import get_peft_model

                model.requires_grad_(False)
                adapters = lora_config(Lora(**json.loads(lora_json)), model)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a name that transformers gives up
                    model = get_peft_model(model, adapters).base_model.model
    except Exception:  # another family's classes may want more layers, or other settings
        return None, mode
    made: dict[int, Any] = {}
    with mode:
        for module in model.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None and id(tensor) not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        if isinstance(tensor, nn.Parameter):
                            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                        made[id(tensor)] = (empty, tensor)
                    own[name] = made[id(tensor)][0] if tensor is not None else None
    for name, weight in model.named_parameters():
        if part_of(name) == "audio":
            weight.requires_grad_(False)
    return model, mode


def _run_layer(
    model: nn.Module,
    mode: FakeTensorMode,
    forward: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    half: bool,
    layer: nn.Module | None = None,
    pixels: bool = False,
) -> LayerMemory | None:
    """Run forward and backward. ``kept`` is that of ``layer``, by default of all that ``forward`` runs.

    The input has the weights' dtype and a gradient, unless it is ``pixels``.
    """
    hooks, marks = [], [0, 0]
    try:
        with mode, _quiet_about_failures():
            dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
            states = torch.empty(shape, dtype=torch.float32 if pixels else dtype, requires_grad=not pixels)
            with Live(model) as alone, torch.no_grad(), _autocast(half):
                alone.ignore(states)
                forward(states)
            with Live(model) as live:
                live.ignore(states)
                for weight in model.parameters():
                    if weight.requires_grad:
                        hooks.append(weight.register_post_accumulate_grad_hook(lambda weight: live.ignore(weight.grad)))
                if layer is not None:
                    hooks.append(layer.register_forward_pre_hook(lambda *_: marks.__setitem__(0, live.now)))
                    hooks.append(layer.register_forward_hook(lambda *_: marks.__setitem__(1, live.now)))
                with _autocast(half):
                    output = forward(states)
                kept = live.now if layer is None else marks[1] - marks[0]
                output.backward(torch.empty_like(output))
        return LayerMemory(alone.peak, kept, live.peak)
    except Exception:  # code that needs values, or an operator without a shape rule
        return None
    finally:
        for hook in hooks:
            hook.remove()
        for weight in model.parameters():
            weight.grad = None


@contextlib.contextmanager
def _quiet_about_failures() -> Iterator[None]:
    """An operator without a shape rule ends in None here; torch would log its traceback as an error first."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _autocast(half: bool) -> Any:
    # Tensors without storage are on the CPU, whatever device the plan is for: the rules of autocast hardly differ.
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=half)
