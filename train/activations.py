"""The memory of activations, logits and caches, for ``train.memory``.

- A decoder layer, and the vision tower with one block: ``train.layer_memory`` runs it without storage. With gradient checkpointing the
  input of every layer is kept, and one layer runs forward and backward at a time; else every layer keeps what its backward needs,
  and the largest one's backward needs some more.
- Where that does not work (a mixture of experts, layers that share keys, other vision towers) a formula stands in. A layer of hidden
  size H, key/value width K, inner width I keeps tokens x (8 H + 3 K + 4 I) numbers (norms, queries, attention output, gate, up, and
  their product; I is that of the experts of one token in a mixture). Attention is fused and keeps no square matrix. In a Gated
  DeltaNet layer K is half the width of its queries, keys and values together, and its chunks' states are left out. Per-layer
  embeddings (Gemma 4) are held once a layer for every token, and its projections of them are left out.
- float32 weights under bf16 autocast (adapters always): autocast keeps a bf16 copy of each weight that is trained until the
  forward is over.
- The frozen vision tower keeps nothing for a backward; its position embeddings, one block or its merger compute at a time.
- Logits: TRL projects in tiles (``train.layer_memory.fused_head``) and keeps no (tokens x vocabulary) matrix. On a GPU its Triton kernel
  works inside the tile, elsewhere torch operators need copies of it.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from train.config import Lora
from train.layer_memory import decoder_layer, fused_head, vision_tower


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes: ``wide`` float32 weights (else bfloat16), ``half`` bfloat16 autocast, gradient checkpointing, adapters."""

    wide: bool
    half: bool
    checkpointing: bool
    lora: Lora | None

    @property
    def width(self) -> int:
        return 4 if self.wide else 2


@dataclass
class Activations:
    """Bytes of the layers of a decoder or vision tower.

    Attributes:
        kept: held from the forward to the backward.
        layer: in addition, while one layer computes.
        forward: of a forward without backward.
        measured: by the layers' own code, not by the formula.
    """

    kept: float
    layer: float
    forward: float
    measured: bool = True


def decoder_activations(config: Any, tokens: int, arithmetic: Arithmetic, wide_trained: int = 0) -> Activations:
    """The activations of the language model on ``tokens`` tokens; ``wide_trained`` of its weights are float32 and trained."""
    text = config.get_text_config()
    counts = Counter(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
    adapters = json.dumps(asdict(arithmetic.lora), sort_keys=True) if arithmetic.lora is not None else None
    given = config.to_json_string()
    wide, half, inputs = arithmetic.wide, arithmetic.half, tokens * text.hidden_size * arithmetic.width
    found = {kind: decoder_layer(given, kind, adapters, wide, half, tokens) for kind in counts}
    plain = found  # generation has no autocast, which matters where the weights are float32
    if wide and half:
        plain = {kind: decoder_layer(given, kind, adapters, wide, False, tokens) for kind in counts}
    layers = {kind: layer for kind, layer in found.items() if layer is not None}
    forwards = [layer.forward for layer in plain.values() if layer is not None]
    if len(layers) < len(counts) or len(forwards) < len(counts):
        return _by_formula(text, tokens, arithmetic)
    if arithmetic.checkpointing:
        largest = max(layer.peak for layer in layers.values())
        copies = 2 * wide_trained if half else 0
        return Activations(text.num_hidden_layers * inputs + copies, largest, max(forwards))
    kept = sum(counts[kind] * layer.kept for kind, layer in layers.items())
    return Activations(kept, max(layer.peak - layer.kept for layer in layers.values()), max(forwards))


def _by_formula(text: Any, tokens: int, arithmetic: Arithmetic) -> Activations:
    hidden, inner, number = text.hidden_size, _inner_width(text), 2 if arithmetic.half else arithmetic.width
    full = [number * tokens * (8 * hidden + 3 * width + 4 * inner) for width in map(_mixer_width, _layers(text))]
    by_layer = (getattr(text, "hidden_size_per_layer_input", None) or 0) * text.num_hidden_layers * number * tokens
    if arithmetic.checkpointing:
        return Activations(
            by_layer + text.num_hidden_layers * number * tokens * hidden, max(full), by_layer + max(full), False
        )
    return Activations(by_layer + sum(full), 0.0, by_layer + max(full), False)


def vision_activations(config: Any, patches: int, arithmetic: Arithmetic, trained: bool) -> Activations:
    """The activations of the vision tower; frozen unless ``trained``."""
    vision = getattr(config, "vision_config", None)
    hidden: int = getattr(vision, "hidden_size", 0)
    if not hidden or not patches:
        return Activations(0.0, 0.0, 0.0)
    depth: Any = getattr(vision, "depth", None) or getattr(vision, "num_hidden_layers", 1)
    inputs = patches * hidden * arithmetic.width
    tower = vision_tower(config.to_json_string(), arithmetic.wide, arithmetic.half, patches)
    if tower is None:
        inner = getattr(vision, "intermediate_size", None) or 4 * hidden
        full = (2 if arithmetic.half else arithmetic.width) * patches * (10 * hidden + 3 * inner)
        if not trained:
            return Activations(0.0, inputs + full, inputs + full, False)
        return Activations(depth * (inputs if arithmetic.checkpointing else full), full, full, False)
    if not trained:
        return Activations(0.0, tower.forward, tower.forward)
    if arithmetic.checkpointing:
        return Activations(depth * inputs, tower.peak, tower.forward)
    return Activations(depth * tower.kept, tower.peak - tower.kept, tower.forward)


def head_memory(width: int, vocabulary: int, tokens: int, arithmetic: Arithmetic, trained: bool, device: str) -> float:
    """Bytes of the projection to the vocabulary and the loss, forward and backward."""
    wide, half = arithmetic.wide, arithmetic.half
    if device == "cpu":
        return fused_head(tokens, width, vocabulary, wide, half, trained).peak
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    number = 2 if half else arithmetic.width
    tile = min(tokens, TOKEN_CHUNK_SIZE) * min(vocabulary, _CHUNKED_LOGPROB_CHUNK_SIZE) * number
    gradients = (
        (tokens + trained * vocabulary) * width * (4 + arithmetic.width)
    )  # accumulated in float32, then converted
    return tile + gradients


def patches_of_token(reader: Any) -> int:
    """Patches that become one image token."""
    side = getattr(reader, "pooling_kernel_size", None) or getattr(reader, "merge_size", None) or 2
    return int(side) ** 2


def _mixer_width(layer: "_Layer") -> float:
    return layer.delta_width / 2 if layer.kind == "linear_attention" else layer.kv_width


def cache_bytes(config: Any, tokens: int, width: int = 2) -> int:
    """Bytes of the cache of one sequence: keys and values of ``width`` bytes, states of Gated DeltaNet layers in float32."""
    total = 0
    for layer in _layers(config):
        if layer.kind == "linear_attention":
            total += layer.state_bytes
        elif layer.kind.endswith("attention") and not layer.shares_cache:
            window = getattr(config, "sliding_window", None) if layer.kind == "sliding_attention" else None
            total += 2 * width * layer.kv_width * min(tokens, window or tokens)
    return total


@dataclass
class _Layer:
    """What the memory of a decoder layer depends on.

    Attributes:
        kind: as in the config's ``layer_types``.
        kv_width: numbers in the keys of a token, and in its values.
        shares_cache: it reads the keys and values of an earlier layer.
        delta_width, state_bytes: numbers in queries, keys and values of a token, and the state of a sequence, of a Gated
            DeltaNet layer.
    """

    kind: str
    kv_width: int
    shares_cache: bool
    delta_width: int
    state_bytes: int


def _layers(config: Any) -> list[_Layer]:
    count = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * count
    own = getattr(config, "per_layer_config", None) or [config] * count
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    keys, values = (
        getattr(config, f"linear_num_{part}_heads", 0) * getattr(config, f"linear_{part}_head_dim", 0)
        for part in ("key", "value")
    )
    width = 2 * keys + values
    state = 4 * values * getattr(config, "linear_key_head_dim", 0) + 2 * width * getattr(
        config, "linear_conv_kernel_dim", 0
    )
    return [
        _Layer(kind, _kv_width(layer), number >= count - shared, width, state)
        for number, (kind, layer) in enumerate(zip(kinds, own, strict=True))
    ]


def _inner_width(config: Any) -> int:
    """The inner width of a block's MLP; in a mixture of experts the sum over the experts of one token."""
    experts = (getattr(config, "moe_intermediate_size", None) or 0) * (
        getattr(config, "num_experts_per_tok", None) or 0
    )
    experts += getattr(config, "shared_expert_intermediate_size", None) or 0
    return max(getattr(config, "intermediate_size", None) or 0, experts) or 4 * config.hidden_size


def _kv_width(config: Any) -> int:
    head: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return head * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
