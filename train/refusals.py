"""What TRL's and transformers' trainers would refuse only after the model is loaded, found from the config alone.

``--check`` reports each as an error, and a run raises the first one before anything loads. Where a library can be asked at no
cost, it is asked (optimizer, schedule, DeepSpeed's comparison); the rest are conditions of the trainers' constructors and first
steps in the tested releases. Packages that are missing are ``configs.packages``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, get_scheduler

from configs.errors import UserError
from configs.packages import missing_packages
from train.config import GrpoOptions, Lora, ModelOptions, SftOptions
from train.constructor import constructor_sentence
from train.quantization import trial
from train.reader import Reader
from train.tracking import tracker_refusals
from vlm.chat import check_template, end_of_turn
from vlm.load import VLM

Refusal = tuple[str, str]
"""The name of the check, and what is wrong with its remedy."""

VALUES: dict[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_mode": ("colocate", "server"),
}
"""The values of GRPO's keys that TRL compares only when a step uses them."""
SFT_VALUES = {"loss_type": ("nll", "dft")}
NEEDS_MODULES = ("galore", "apollo")
NEEDS_MODEL = (*NEEDS_MODULES, "lomo")
SUPPORTED_BY_ZERO = ("adamw_torch", "adamw_torch_fused")


def refusals(args: Any, options: ModelOptions, world: int) -> Iterator[Refusal]:
    """What is wrong with a config whatever machine trains; see ``machine_refusals`` for the rest.

    Args:
        world: the number of processes.
    """
    yield from _held_out_refusals(args, options)
    yield from _unknown_values(args, options)
    yield from _optimizer_refusals(args)
    yield from _schedule_refusals(args)
    yield from _sharding(args, world)
    yield from _deepspeed(args)
    if options.lora is not None and options.lora.bits:
        yield from _quantized(args, options.lora)


def machine_refusals(args: Any, options: ModelOptions | None = None) -> Iterator[Refusal]:
    """What a machine must have to train with a config: packages, and access to trackers and the hub."""
    missing = missing_packages(args, options)
    for sentence in missing:
        yield "packages", sentence
    lora = options.lora if options is not None else None
    if lora is not None and lora.bits and not missing and (failed := trial(lora)) is not None:
        yield "lora.bits", failed
    yield from tracker_refusals(args)
    if args.push_to_hub:
        from huggingface_hub import get_token

        if get_token() is None:
            yield "hub", "'push_to_hub' needs a token of the hub: run 'hf auth login', export HF_TOKEN, or remove it."


def model_refusals(args: Any, options: ModelOptions, reader: Reader) -> Iterator[Refusal]:
    """What a trainer or its first batch would refuse of a model, found without its weights."""
    vlm = reader.vlm
    try:
        check_template(vlm)
        if reader.exact and not isinstance(options, GrpoOptions):
            end_of_turn(vlm)
    except UserError as error:
        yield "chat_template", str(error)
    text = reader.config.get_text_config()
    if reader.exact:
        try:
            check_vocabulary(vlm, getattr(text, "vocab_size", None))
        except UserError as error:
            yield "vocabulary", str(error)
    if args.router_aux_loss_coef and not hasattr(text, "output_router_logits"):
        yield (
            "router_aux_loss_coef",
            f"'router_aux_loss_coef' is for a mixture of experts, and {vlm.name} is none: remove it.",
        )
    if options.lora is not None and options.lora.bits and getattr(reader.config, "quantization_config", None):
        yield (
            "lora.bits",
            f"{vlm.name} is quantized already: remove bits from 'lora', or give the model that it was made from.",
        )
    eos = getattr(args, "eos_token", None)
    if eos is not None and eos not in vlm.tokenizer.get_vocab():
        yield "eos_token", f"'eos_token' names '{eos}', which the tokenizer of {vlm.name} does not have: remove it."


def check_vocabulary(vlm: VLM, rows: int | None) -> None:
    """Compare the tokenizer with the rows of the model's embedding.

    Raises:
        UserError: a token has no row, so the first batch that holds it would end the run.
    """
    beyond = sorted((index, token) for token, index in vlm.tokenizer.get_vocab().items() if rows and index >= rows)
    if beyond:
        index, token = beyond[0]
        raise UserError(
            f"The tokenizer of {vlm.name} has the token {token!r} with number {index}, but the model's embedding has {rows} rows "
            f"({len(beyond)} tokens have none): call model.resize_token_embeddings(len(tokenizer)) and save the model, or remove "
            "the tokens from the tokenizer."
        )


def require_accepted(args: Any, options: ModelOptions, world: int) -> None:
    """Refuse a config that a trainer would refuse after the model is loaded.

    Raises:
        UserError: names the first fault.
    """
    for _, sentence in (*machine_refusals(args, options), *refusals(args, options, world)):
        raise UserError(sentence)


def _held_out_refusals(args: Any, options: ModelOptions) -> Iterator[Refusal]:
    """Only SFT can hold rows out, and only with ``held_out``: what depends on them cannot work otherwise."""
    held_out = getattr(options, "held_out", 0)
    remedy = "and measure its checkpoints with 'reflection-v eval'"
    if isinstance(options, SftOptions):
        remedy = "or set held_out, the share of the rows to hold out, such as 0.05"
    strategy = _plain_value(args.eval_strategy)
    if held_out and strategy == "no":
        yield (
            "evaluation",
            f"'held_out: {held_out}' takes rows out of training, and with 'eval_strategy: no' their loss is never measured: remove "
            "one of them.",
        )
    elif strategy != "no" and not held_out:
        yield (
            "evaluation",
            f"'eval_strategy: {strategy}' needs a data set for evaluation, and training reads none: remove it, {remedy}.",
        )
    elif args.eval_on_start and not held_out:
        yield (
            "evaluation",
            f"'eval_on_start' needs a data set for evaluation, and training reads none: remove it, {remedy}.",
        )
    if _plain_value(args.save_strategy) == "best":
        yield (
            "evaluation",
            "'save_strategy: best' saves no step after the best one, so an interrupted run could not resume: set save_strategy: "
            "steps, and measure its checkpoints with 'reflection-v eval'.",
        )
    if args.load_best_model_at_end:
        yield "evaluation", constructor_sentence("--load_best_model_at_end requires")


def _unknown_values(args: Any, options: ModelOptions) -> Iterator[Refusal]:
    grpo = isinstance(options, GrpoOptions)
    for key, known in (VALUES if grpo else SFT_VALUES).items():
        value = getattr(args, key)
        if value not in known:
            yield (
                key,
                f"'{key}' has the value '{value}', which TRL refuses at the first step: known are {', '.join(known)}.",
            )
    if (args.fp16 and args.bf16_full_eval) or (args.bf16 and args.fp16_full_eval):
        yield (
            "precision",
            "'fp16_full_eval' and 'bf16_full_eval' change nothing while a run trains: remove them.",
        )
    if (args.liger_kernel_config or {}).get("fused_linear_cross_entropy"):
        yield (
            "liger_kernel_config",
            "'liger_kernel_config' has fused_linear_cross_entropy, which TRL's trainers refuse: remove it.",
        )
    if grpo and args.sync_ref_model and (args.beta == 0 or options.lora is not None):
        reason = "with 'beta: 0' there is none" if args.beta == 0 else "with 'lora' there is none in memory"
        yield "sync_ref_model", f"'sync_ref_model' follows the reference model, and {reason}: remove sync_ref_model."


def _optimizer_refusals(args: Any) -> Iterator[Refusal]:
    """Ask transformers for the optimizer, and the optimizer for its settings, with one weight."""
    name = _plain_value(args.optim)
    if any(part in name for part in NEEDS_MODULES) and args.optim_target_modules is None:
        yield "optim", f"'optim: {name}' needs 'optim_target_modules', the names of the layers it projects: set it."
    missing = [sentence for sentence in missing_packages(args) if sentence.startswith("'optim'")]
    if missing or any(part in name for part in NEEDS_MODEL):
        return
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        kind([torch.nn.Parameter(torch.zeros(1))], **{"weight_decay": args.weight_decay, **settings})
    except Exception as error:  # each optimizer has checks and errors of its own
        yield (
            "optim",
            f"'optim: {name}' cannot be built from this config ({_error_line(error)}): check learning_rate, weight_decay, adam_* and "
            "optim_args, or choose another optim.",
        )


def _schedule_refusals(args: Any) -> Iterator[Refusal]:
    name = _plain_value(args.lr_scheduler_type)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    steps = args.max_steps if args.max_steps > 0 else 100
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except Exception as error:  # a TypeError for a key that is missing or unknown, a ValueError for its value
        yield (
            "lr_scheduler",
            f"'lr_scheduler_type: {name}' cannot be built ({_error_line(error)}): set what it needs under lr_scheduler_kwargs, or "
            "choose another one, such as cosine.",
        )


def _sharding(args: Any, world: int) -> Iterator[Refusal]:
    if args.fsdp and args.deepspeed:
        yield "fsdp", "'fsdp' and 'deepspeed' both shard the model: remove one of them."
    elif args.fsdp and world == 1:
        yield "fsdp", "'fsdp' shards the model over several processes, and this is one: start torchrun, or remove fsdp."


def _quantized(args: Any, lora: Lora) -> Iterator[Refusal]:
    """Whoever moves whole weights between processes or to vLLM cannot take packed ones: two weights in a byte, without a shape."""
    key, remedy = f"'lora.bits: {lora.bits}'", "remove bits from 'lora', or"
    if args.deepspeed and (deepspeed_settings(args).get("zero_optimization") or {}).get("stage", 0) == 3:
        yield (
            "lora.bits",
            f"{key} packs weights, which ZeRO-3 cannot shard: {remedy} set deepspeed: configs/deepspeed/zero2.json.",
        )
    if args.fsdp:
        yield "lora.bits", f"{key} packs weights, which FSDP cannot shard here: {remedy} remove fsdp."
    if getattr(args, "use_vllm", False):
        yield "lora.bits", f"{key} packs weights, and vLLM takes whole ones after each step: {remedy} remove use_vllm."


def _deepspeed(args: Any) -> Iterator[Refusal]:
    """What DeepSpeed's config says otherwise than the training config, and settings of ZeRO that end a run."""
    if not args.deepspeed:
        return
    config = deepspeed_settings(args)
    file = args.deepspeed if isinstance(args.deepspeed, str) else "the DeepSpeed config"
    zero = config.get("zero_optimization") or {}
    for line in getattr(getattr(args, "hf_deepspeed_config", None), "mismatches", []):
        match = re.fullmatch(r"- ds (.+?)=(.*) vs hf (.+?)=(.*)", line)
        found = f"{match[1]} is {match[2]} there, but {match[3]} is {match[4]} here" if match else line
        yield (
            "deepspeed",
            f"'deepspeed' {file} contradicts the config: {found}. Set \"auto\" there, or make them equal.",
        )
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield "deepspeed", f"'deepspeed' {file} has zero_optimization.stage {stage!r}: the stages are 0, 1, 2 and 3."
        return
    if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        yield (
            "deepspeed",
            f"'deepspeed' {file} is ZeRO-3 without stage3_gather_16bit_weights_on_model_save, so no model could be saved at the "
            "end: set it to true under zero_optimization.",
        )
    if stage == 3 and args.auto_find_batch_size:
        yield (
            "deepspeed",
            "'auto_find_batch_size' is not possible under ZeRO-3: remove it, and lower the batch size yourself.",
        )
    parameters = (zero.get("offload_param") or {}).get("device", "none")
    if stage < 3 and parameters != "none":
        yield (
            "deepspeed",
            f"'deepspeed' {file} has offload_param with ZeRO-{stage}, which shards no weights: remove it, or set stage 3.",
        )
    name = _plain_value(args.optim)
    own = "optimizer" in config or config.get("zero_allow_untested_optimizer")
    if stage > 0 and not own and name not in SUPPORTED_BY_ZERO:
        yield (
            "deepspeed",
            f"'deepspeed' {file} refuses 'optim: {name}', which is not tested with ZeRO: set zero_allow_untested_optimizer: true "
            "there, or optim: adamw_torch.",
        )


def deepspeed_settings(args: Any) -> Mapping[str, Any]:
    """The DeepSpeed config of a training config, as it is in its file."""
    given = args.deepspeed
    return given if isinstance(given, Mapping) else json.loads(Path(given).read_text(encoding="utf-8"))


def _plain_value(value: Any) -> str:
    return str(getattr(value, "value", value))


def _error_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
