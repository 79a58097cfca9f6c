"""What each layer of a language model does in place of, or as, softmax attention: the table of attention traits.

It is read from the config and the modules, so that ``--check`` has it before any weight loads, and decides what the probe
measures, which layer is "the last", and what is refused. Every result that holds an attention mass names the layers that it
covers, because in a hybrid model ("8 of 32 layers") most layers have no attention map.

| kind | keys of a row | measured |
| --- | --- | --- |
| full | all earlier tokens | yes |
| mla | all earlier tokens, from a compressed latent (multi-head latent attention) | yes: the expanded keys |
| sliding, chunked | the tokens of a window, or of a chunk | yes: 0 where the image has left it |
| indexed | the earlier tokens that an indexer chose | yes: the softmax over the chosen keys |
| linear, convolution, other | none: a state, a filter, or no mixing of tokens | no: there is no softmax over keys |

A layer may share the keys of an earlier one (Gemma 3n, Gemma 4): it is measured over those.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from configs.errors import UserError
from vlm.attention_parts import hf_model

# transformers' names of layer types (``layer_types`` of a config) to the kinds of the table.
_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "reference_sliding_attention": "sliding",
    "window_attention": "sliding",
    "chunked_attention": "chunked",
    "indexed_attention": "indexed",
    "deepseek_sparse_attention": "indexed",
    "qwen_sparse_attention": "indexed",
    "minimax_m3_sparse": "indexed",
    "hybrid": "full",  # softmax attention beside a recurrent state, in one layer
    "hybrid_sliding": "sliding",
    "linear_attention": "linear",
    "mamba": "linear",
    "conv": "convolution",
    "moe": "other",
}
# Compressed keys stand for several tokens each, so the share of one token is not defined.
_COMPRESSED = ("compressed_sparse_attention", "heavily_compressed_attention")
_SOFTMAX = ("full", "mla", "sliding", "chunked", "indexed")
_WHOLE = ("full", "mla", "indexed")
"""Kinds whose rows may reach every earlier token, the image included."""


@dataclass(frozen=True)
class LayerTrait:
    """One layer of the language model.

    Attributes:
        number: its index.
        kind: see the table of this module.
        attention: the module that computes its softmax attention; None where it has none.
        keys_of: the layer whose keys it attends to; itself, unless it shares those of an earlier one.
    """

    number: int
    kind: str
    attention: Any
    keys_of: int


@dataclass(frozen=True)
class AttentionTraits:
    """The layers of one language model, in order."""

    layers: tuple[LayerTrait, ...]

    @property
    def measured(self) -> dict[int, LayerTrait]:
        """The layers with a softmax over keys, by number."""
        return {layer.number: layer for layer in self.layers if layer.attention is not None}

    @property
    def last(self) -> int:
        """What ``layers="last"`` means: the last measured layer whose rows may reach the whole prompt.

        A sliding window that has passed the image says nothing about looking. If all layers have windows, it is the last of them.
        """
        measured = list(self.measured.values())
        whole = [layer.number for layer in measured if layer.kind in _WHOLE]
        return (whole or [layer.number for layer in measured])[-1]

    @property
    def shares_keys(self) -> bool:
        """Whether a layer attends to the keys of an earlier one. Such models may leave out the rows that no logits are kept of."""
        return any(layer.keys_of != layer.number for layer in self.layers)

    def coverage(self, layers: Sequence[int]) -> dict[str, Any]:
        """What a result over ``layers`` covers: their numbers, all layers, how many can be measured, and the kinds of all."""
        return {
            "layers": list(layers),
            "measurable": len(self.measured),
            "of": len(self.layers),
            "kinds": dict(Counter(layer.kind for layer in self.layers)),
        }


def layer_coverage(model: nn.Module, layers: str | Sequence[int]) -> dict[str, Any]:
    """``AttentionTraits.coverage`` of the ``layers`` that a measurement on ``model`` asks for. Raises UserError as the probe does."""
    traits = attention_traits(hf_model(model))
    return traits.coverage(choose_layers(layers, traits))


def attention_traits(model: PreTrainedModel) -> AttentionTraits:
    """The traits of the language model of ``model``, which may be without weights.

    Raises:
        UserError: its attention to an image is of a kind whose mass on the image tokens would mean something else: cross-attention,
            or keys that stand for several tokens.
    """
    name, decoder = type(model).__name__, model.get_decoder()
    text = getattr(decoder, "config", None) or model.config.get_text_config()
    _refuse_other_images(name, model, text)
    types = _layer_types(text)
    compressed = sorted(set(types) & set(_COMPRESSED))
    if compressed:
        raise UserError(
            f"{name} attends to keys that stand for several tokens each ({compressed[0]}), so the share of the image is not "
            f"defined: {_REMEDY}"
        )
    modules = _attention_modules(decoder)
    n_layers = max(len(types), 1 + max(modules, default=-1), int(getattr(text, "num_hidden_layers", 0) or 0))
    layers = []
    for number in range(n_layers):
        attention = modules.get(number)
        kind = _kind(types[number] if number < len(types) else None, attention)
        layers.append(LayerTrait(number, kind, attention if kind in _SOFTMAX else None, _source(number, types, text)))
    return AttentionTraits(tuple(layers))


def choose_layers(layers: str | Sequence[int], traits: AttentionTraits) -> list[int]:
    """The layer numbers that ``layers`` of ``AttentionMass`` means. Negative numbers count the measured layers from the end.

    Raises:
        UserError: no layer can be measured, or one does not exist or has no softmax attention.
    """
    have = sorted(traits.measured)
    if not have:
        raise UserError(
            "the language model has no attention layer that the probe can read: it needs modules of transformers' own attention "
            "classes, which have a layer_idx and a config."
        )
    if layers == "all":
        return have
    if layers == "last":
        return [traits.last]
    if isinstance(layers, str):
        raise UserError(f"layers={layers!r} is not 'last', 'all' or a list of layer numbers")
    chosen = [have[layer] if -len(have) <= layer < 0 else layer for layer in layers]
    if not chosen:
        raise UserError(f"the language model was asked for no layer; its layers are {have[0]} to {have[-1]}.")
    for layer in chosen:
        if 0 <= layer < len(traits.layers) and layer not in traits.measured:
            raise UserError(
                f"layer {layer} of the language model has no attention map (it is of the kind {traits.layers[layer].kind!r}); "
                f"the layers that have one are {', '.join(map(str, have))}."
            )
        if layer not in traits.measured:
            raise UserError(
                f"the language model has no attention layer {layer}; its layers are {have[0]} to {have[-1]}."
            )
    return chosen


def _refuse_other_images(name: str, model: PreTrainedModel, text: PreTrainedConfig) -> None:
    """Cross-attention: the image tokens of the prompt are no keys of the text's attention."""
    kinds = [type(module).__name__.lower() for module in model.get_decoder().modules()]
    if (
        any("crossattention" in kind for kind in kinds)
        or getattr(text, "cross_attention_layers", None)
        or getattr(text, "add_cross_attention", False)
        or getattr(model.config, "is_encoder_decoder", False)
        or getattr(text, "is_encoder_decoder", False)
    ):
        raise UserError(
            f"{name} reads its image through cross-attention, where the image tokens of the prompt are not among the keys, so "
            f"their attention mass would say nothing about the image: {_REMEDY}"
        )


_REMEDY = "use a model that has the image among its text tokens, such as Qwen2.5-VL, Qwen3-VL, Qwen3.5 or Gemma 3."


def _layer_types(text: PreTrainedConfig) -> list[str]:
    types = getattr(text, "layer_types", None)
    return [str(kind) for kind in types] if isinstance(types, list | tuple) else []


def _attention_modules(decoder: nn.Module) -> dict[int, nn.Module]:
    """The modules that are named an attention and know their layer. A layer's first one counts: its parts are below it."""
    found: dict[int, nn.Module] = {}
    for module in decoder.modules():
        number = getattr(module, "layer_idx", None)
        if isinstance(number, int) and "Attention" in type(module).__name__ and hasattr(module, "config"):
            found.setdefault(number, module)
    return found


def _kind(layer_type: str | None, attention: nn.Module | None) -> str:
    kind = "full" if layer_type is None else _KINDS.get(layer_type, "other")
    if attention is None:
        return kind if kind in ("linear", "convolution") else "other"
    if kind not in _SOFTMAX:
        return kind
    if any("Indexer" in type(module).__name__ for module in attention.modules()):
        return "indexed"
    # Multi-head latent attention projects keys and values from one latent of this rank.
    if kind == "full" and any("kv_a_proj" in child or "kv_b_proj" in child for child, _ in attention.named_children()):
        return "mla"
    if kind == "full" and getattr(attention, "sliding_window", None) and layer_type is None:
        return "sliding"
    return kind


def _source(number: int, types: list[str], text: PreTrainedConfig) -> int:
    """The layer whose keys layer ``number`` attends to."""
    modes = [str(mode) for mode in getattr(text, "kv_sharing_modes", None) or []]
    # A layer that shares keys may still have an indexer of its own ("reuse_but_indexer").
    if number >= min(len(modes), len(types)) or not modes[number].startswith("reuse"):
        return number
    named = getattr(text, "kv_source_layers", None)
    if named is not None and number < len(named) and isinstance(named[number], int):
        return int(named[number])
    stores = [n for n in range(number) if modes[n].startswith("store") and types[n] == types[number]]
    return stores[-1] if stores else number
