"""``--plan``: the memory estimate of a training run, by part and GPU, without a GPU.

Derived from the model's own classes (weights are counted on torch's meta device) and the settings of the run. Not measured on
GPUs. The assumptions, for T trainable weights and N processes:

- DeepSpeed with bf16 keeps bf16 weights and gradients (2 bytes each) and in the optimizer float32 weights and Adam's two
  moments (12 bytes a trainable weight). ZeRO-2 shards gradients and optimizer over N, ZeRO-3 the weights too.
- ZeRO-2's step flattens its shard of the gradients and copies it to float32: 6 T / N bytes, after the activations are freed. ZeRO-3
  does the same with one sub-group of weights at a time (``sub_group_size``, 1e9). ZeRO-2's buckets (5e8 elements, two of them for
  the gradients) are part of ``context``.
- PEFT keeps adapters in float32 (4 bytes, 4 of gradients, 8 of Adam) beside a bf16 model; DeepSpeed converts them to bf16.
- ``lora.bits`` packs the linear layers of the language model's blocks: 4 bits and 0.127 for the constants of blocks of 64 weights, or
  8 bits and a float32 per output. Other weights keep the width of ``dtype``.
- Without DeepSpeed, weights and gradients have the dtype of ``dtype`` and Adam's moments too (autocast computes in bf16).
- Activations, vision activations and logits: ``train.activations``.
- The cache of a sequence: keys and values of all its tokens (of the window's, in a sliding layer) in every layer that computes its own:
  none where a layer reads those of an earlier one (Gemma 4). A Gated DeltaNet layer has a state of fixed size instead.
- Generation by transformers: key/value cache of all sequences of a process, the prefill of their prompts (one layer, or the vision
  tower, whichever is larger), and under ZeRO-3 the whole weights. vLLM colocated: its
  share of the GPU's memory, kept during training unless it sleeps; the share must hold the weights (2 bytes each) and the
  cache of one sequence of ``vllm_max_model_length``, or vLLM does not start.
- Not held at the same time: what the frozen vision tower computes with, the loss, one layer's backward, the optimizer's step.
- On a CPU (``device``) there is no context; the libraries' own memory, about one GB a process, is not counted.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from train.activations import (
    Arithmetic,
    cache_bytes,
    decoder_activations,
    head_memory,
    patches_of_token,
    vision_activations,
)
from train.config import GrpoOptions, ModelOptions
from train.lora import target_names
from train.quantization import packed_size, quantized_layers
from train.reader import count_weights, load_reader, skeleton

GB = 1e9
GPU_MEMORY = 80.0
CONTEXT = {
    0: 2.0,
    1: 5.0,
    2: 5.0,
    3: 2.0,
}  # by ZeRO stage: CUDA context, communication buckets, fragments, in GB per GPU
VLLM_WORK = 2.0  # GB of vLLM's share for its own activations and graphs
PROMPT_TOKENS = 512  # text around the images where the config sets no limit
ANSWER_TOKENS = 1024


@dataclass
class Plan:
    """The memory estimate, in GB per GPU.

    Attributes:
        parts: by part. Those of training and those of generation are not held at the same time.
        peak: of training or generation, whichever is larger, with what both hold.
        cpu: GB of CPU memory per process for offloaded parts.
        facts: the numbers from which the plan was made.
        advice: settings to change, the most useful first; empty if it fits.
        sizes: the parts in bytes, not rounded.
    """

    parts: dict[str, float]
    peak: float
    cpu: float
    facts: dict[str, Any]
    advice: list[str]
    sizes: dict[str, float] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return self.peak <= self.facts["gpu_memory_gb"] and self.facts["vllm_wanted_gb"] <= self.parts.get("vLLM", 0.0)

    def as_json(self) -> dict[str, Any]:
        return {
            "parts_gb": self.parts,
            "peak_gb": self.peak,
            "cpu_gb": self.cpu,
            "fits": self.fits,
            **self.facts,
            "advice": self.advice,
        }


def make_plan(
    args: Any, options: ModelOptions, gpus: int | None = None, memory: float | None = None, device: str = "cuda"
) -> Plan:
    """The plan of a stage's checked config.

    Args:
        args: TRL's arguments; options: this project's.
        gpus: the number of processes, one per GPU. By default that of the config, else 1.
        memory: of one GPU, in GB; by default 80, for a CPU that of this machine.
        device: ``cuda`` or ``cpu``, on which the run computes.

    Raises:
        UserError: the model's config cannot be read, or a part to freeze is missing.
    """
    unset_hf_deepspeed_config()  # loading a ZeRO-3 config made transformers shard every model built afterwards
    reader = load_reader(options)
    world = gpus or options.gpus or 1
    if memory is None:
        memory = GPU_MEMORY if device != "cpu" else machine_memory()
    zero = zero_of(args)
    every, trainable = planned_weights(reader.config, options)
    total, trained = sum(every.values()), sum(trainable.values())

    engine = zero["stage"] > 0
    width = 2 if engine and _half(args) else {"float32": 4, "bfloat16": 2, "auto": 2}[options.dtype]
    arithmetic = Arithmetic(width == 4, _half(args), args.gradient_checkpointing, options.lora)
    split = {
        name: world if zero["stage"] >= stage else 1
        for name, stage in (("weights", 3), ("gradients", 2), ("optimizer", 1))
    }
    state = 12 if engine and _half(args) else 2 * width
    packed, packed_bytes = _packed(reader.config, options)
    more = 0 if engine else trainable["lora"] * (4 - width)  # bytes by which float32 adapters are wider than the model
    weights = ((total - packed) * width + packed_bytes + more) / split["weights"]
    gradients = (trained * width + more) / split["gradients"]
    optimizer = (trained * state + 2 * more) / split["optimizer"]
    flat = trained / world if zero["stage"] < 3 else min(trained / world, zero["sub_group"])
    step = 6 * flat if engine and _half(args) and not zero["offload_optimizer"] else 0
    context = 0.0 if device == "cpu" else CONTEXT[zero["stage"]] * GB
    cpu = 0.0
    if zero["offload_optimizer"]:
        cpu, optimizer = cpu + optimizer, 0.0
    if zero["offload_param"]:
        cpu, weights = cpu + weights, 0.0

    image, text, answer = _lengths(args, options, reader)
    rows = args.per_device_train_batch_size
    tokens = rows * (image + text + answer)
    config = reader.config.get_text_config()
    wide_trained = trainable["language"] * (width == 4) + trainable["lora"] * (width == 4 or more > 0)
    decoder = decoder_activations(reader.config, tokens, arithmetic, wide_trained)
    patches = rows * image * patches_of_token(reader.vlm.processor.image_processor)
    vision = vision_activations(reader.config, patches, arithmetic, trainable["vision"] > 0)
    head_trains = trainable["language"] > 0
    head = head_memory(config.hidden_size, config.vocab_size, tokens, arithmetic, head_trains, device)
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": decoder.kept + decoder.layer,
        "vision activations": vision.kept + vision.layer,
        "logits": head,
        "context": context,
    }
    if step:
        parts["optimizer's step"] = step
    held = weights + optimizer + context
    kept = decoder.kept + vision.kept
    training = held + gradients + max(vision.kept + vision.layer, kept + decoder.layer, kept + head, step)
    generation = 0.0
    vllm = 0.0
    if isinstance(options, GrpoOptions):
        if args.beta and options.lora is None:
            parts["reference model"] = total * width / split["weights"]
            training += parts["reference model"]
        if args.use_vllm and args.vllm_mode == "colocate":
            parts["vLLM"] = args.vllm_gpu_memory_utilization * memory * GB
            longest = args.vllm_max_model_length or getattr(config, "max_position_embeddings", 0)
            vllm = total * 2 / args.vllm_tensor_parallel_size + cache_bytes(config, longest) + VLLM_WORK * GB
            generation = held + parts["vLLM"]
            training += 0 if args.vllm_enable_sleep_mode else parts["vLLM"]
        elif not args.use_vllm:
            batch = rows * args.steps_per_generation
            parts["key/value cache"] = batch * cache_bytes(config, image + text + answer, width)
            prefill = decoder_activations(reader.config, batch * (image + text), arithmetic).forward
            seen = vision_activations(reader.config, batch * patches // rows, arithmetic, False).layer
            parts["prefill"] = max(prefill, seen)
            gathered = total * width if zero["stage"] >= 3 and args.ds3_gather_for_generation else 0
            if gathered:
                parts["gathered weights"] = gathered
            generation = held + parts["key/value cache"] + parts["prefill"] + gathered
    peak = max(training, generation) / GB
    facts = {
        "model": options.model,
        "gpus": world,
        "device": device,
        "gpu_memory_gb": memory,
        "zero_stage": zero["stage"],
        "weights": total,
        "trainable": trained,
        "weights_by_part": dict(every),
        "row_tokens": {"image": image, "text": text, "answer": answer},
        "rows_at_once": rows,
        "vllm_wanted_gb": round(vllm / GB, 2),
        "largest": "generation" if generation > training else "training",
        "activations_by": "layers run without storage" if decoder.measured else "formula",
    }
    in_gb = {name: round(size / GB, 2) for name, size in parts.items()}
    advice = [] if peak <= memory else _advice(args, options, zero, in_gb, world, generation > training)
    if vllm > parts.get("vLLM", 0.0):
        share = math.ceil(vllm / GB / memory * 20) / 20
        advice.insert(
            0,
            f"vllm_gpu_memory_utilization: {share:g}, or a lower max_prompt_tokens or max_completion_length (vLLM's cache)",
        )
    return Plan(in_gb, round(peak, 2), round(cpu / GB, 2), facts, advice, parts)


def planned_weights(config: Any, options: ModelOptions) -> tuple[Counter[str], Counter[str]]:
    """Numbers of weights and of trainable weights by part. An adapter has r x (inputs + outputs) weights per layer."""
    model = skeleton(config.to_json_string())
    every, trainable = count_weights(model)
    for frozen, part in ((options.freeze_vision, "vision"), (options.freeze_merger, "merger")):
        trainable[part] *= not frozen
    if options.lora is None:
        return every, trainable
    lora = options.lora
    layers: list[Any] = [model.get_submodule(name) for name in target_names(lora, model)]
    adapters = sum(lora.r * sum(layer.weight.shape) for layer in layers)
    merger = every["merger"] if lora.train_merger else 0
    return every + Counter(lora=adapters), Counter(lora=adapters, merger=merger)


def _packed(config: Any, options: ModelOptions) -> tuple[int, float]:
    """The number of weights that ``lora.bits`` packs, and their bytes."""
    if options.lora is None or not options.lora.bits:
        return 0, 0.0
    model = skeleton(config.to_json_string())
    layers: list[Any] = [model.get_submodule(name) for name in quantized_layers(model)]
    shapes = [layer.weight.shape for layer in layers]
    return sum(map(math.prod, shapes)), sum(packed_size(options.lora.bits, *shape) for shape in shapes)


def machine_memory() -> float:
    """This machine's memory in GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1)


def zero_of(args: Any) -> dict[str, Any]:
    """Sharding (the ZeRO stage) and offloading in DeepSpeed's config."""
    given = args.deepspeed
    if given is None:
        return {"stage": 0, "offload_optimizer": False, "offload_param": False, "sub_group": 0}
    data = given if isinstance(given, Mapping) else json.loads(Path(given).read_text(encoding="utf-8"))
    zero = data.get("zero_optimization", {})

    def on_cpu(key: str) -> bool:
        return bool(zero.get(key, {}).get("device", "none") != "none")

    return {
        "stage": int(zero.get("stage", 0)),
        "offload_optimizer": on_cpu("offload_optimizer"),
        "offload_param": on_cpu("offload_param"),
        "sub_group": int(zero.get("sub_group_size", 1e9)),
    }


def _half(args: Any) -> bool:
    return bool(args.bf16 or args.fp16)


def _lengths(args: Any, options: ModelOptions, reader: Any) -> tuple[int, int, int]:
    """(image, text, answer) tokens of the longest row that the settings allow, with one image per row."""
    pixels, merge = _pixel_limit(reader.vlm.processor, options.max_pixels)
    image = pixels // merge**2 if merge else 0
    if isinstance(options, GrpoOptions):
        answer = args.max_completion_length
        text = max(0, options.max_prompt_tokens - image) if options.max_prompt_tokens else PROMPT_TOKENS
        image = min(image, options.max_prompt_tokens or image)
    else:
        limit = getattr(options, "max_row_tokens", None)
        answer, text = ANSWER_TOKENS, PROMPT_TOKENS
        if limit:
            image = min(image, limit)
            text, answer = min(text, limit - image), max(0, limit - image - text)
    return image, text, answer


def _pixel_limit(processor: Any, limit: int | None) -> tuple[int, int]:
    """(the largest number of pixels of an image, the side of an image token in pixels)."""
    reader = processor.image_processor
    size = getattr(reader, "size", None)
    longest = getattr(size, "longest_edge", None)
    side = getattr(reader, "patch_size", None)
    if isinstance(tokens := getattr(reader, "max_soft_tokens", None), int):  # Gemma 4 sizes an image by its tokens
        side *= reader.pooling_kernel_size
        return tokens * side**2, side
    if not isinstance(longest, int) or not isinstance(side, int) or not hasattr(reader, "merge_size"):
        return limit or 1_000_000, 28
    return min(longest, limit or longest), side * reader.merge_size


def _advice(
    args: Any, options: ModelOptions, zero: Mapping[str, Any], parts: Mapping[str, float], world: int, generating: bool
) -> list[str]:
    """Settings that reduce the largest part, the most useful first."""
    advice = []
    if generating and "vLLM" in parts:
        advice.append("lower vllm_gpu_memory_utilization, or run vLLM as a server (vllm_mode: server)")
    if generating and "gathered weights" in parts:
        advice.append("ds3_gather_for_generation: false (slower), or vLLM")
    if not generating and "vLLM" in parts and not args.vllm_enable_sleep_mode:
        advice.append("vllm_enable_sleep_mode: true")
    if not args.gradient_checkpointing:
        advice.append("gradient_checkpointing: true")
    states = parts["weights"] + parts["gradients"] + parts["optimizer"]
    moving = parts["activations"] + parts["vision activations"] + parts.get("key/value cache", 0.0)
    by_states = []
    if world > 1 and zero["stage"] < 3:
        by_states.append(f"deepspeed: configs/deepspeed/zero{max(2, zero['stage'] + 1)}.json")
    if options.lora is None:
        by_states.append("lora: {r: 64}")
    elif not options.lora.bits and not getattr(args, "use_vllm", False):
        by_states.append("lora: {bits: 4} (QLoRA)")
    if not zero["offload_optimizer"]:
        by_states.append("deepspeed: configs/deepspeed/zero3_offload.json (optimizer in CPU memory, slower)")
    if options.dtype == "float32" and zero["stage"] == 0:
        by_states.append("deepspeed: configs/deepspeed/zero2.json (bf16 weights, float32 in the optimizer)")
    by_states.append(f"more than {world} GPUs")
    by_rows = []
    if args.per_device_train_batch_size > 1:
        by_rows.append("a lower per_device_train_batch_size with a higher gradient_accumulation_steps")
    by_rows.append("a lower max_pixels")
    return advice + (by_states + by_rows if states >= moving else by_rows + by_states)
