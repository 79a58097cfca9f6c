"""What both training stages share around TRL's trainers: loading, the run of a trainer, errors, the command line."""

import contextlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from configs.command_line import explain
from configs.errors import UserError
from configs.machine import cores_a_rank
from configs.overrides import parse_arguments
from configs.packages import require_packages
from configs.processes import is_main_process, lost_connection, read_processes
from configs.run_dir import disk_full
from configs.stopping import TERMINATED, Stopped, deferred, sigterm_received, stopped_code, watch_sigterm
from configs.versions import warn_outside_range
from train.checkpoints import KeepCheckpoints, StopOnSigterm, is_final, publish
from train.config import ModelOptions, StageConfig
from train.distributed import (
    BoundSilence,
    bound_silence,
    check_same_weights,
    join_deepspeed,
    keep_names,
    whole_weights,
    world_size,
)
from train.finite import FiniteWeights, check_published, check_start
from train.lora import merge_adapter
from train.precision import announce
from train.quantization import keep_adapter_dtype, keep_trainable, quantization_config
from train.reader import load_reader, part_of, skeleton
from train.refusals import check_vocabulary, require_accepted
from train.resume import begin_random_numbers, read_mark
from train.run_folder import Log, RunFolder
from train.spawn import follow_starter, note_failure
from train.tracking import Tracked
from vlm.chat import check_template
from vlm.load import VLM, load_vlm
from vlm.model_card import keep_card
from vlm.pixel_limits import given_pixel_limits

DISK_SPARE = 64 << 20

STAGE_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,  # log.jsonl is read for curves
    "save_strategy": "steps",
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,  # train.run_folder.Log prints one line per logged step, which a log file can hold
    "logging_nan_inf_filter": False,  # train.finite stops the run at such a loss; the filter would synchronize the GPU again
    "remove_unused_columns": False,  # the data set holds row numbers, and the images are opened where they are needed
}
STAGE_REFUSED = {
    "resume_from_checkpoint": "a run resumes by itself: remove it, and give the same command with the same output_dir.",
    "save_only_model": "an interrupted run could not be resumed from such checkpoints; remove it, and set save_total_limit: 1 to "
    "save space. The finished model is saved without optimizer.",
    "remove_unused_columns": "the data set has no unused column; remove it.",
    "model_init_kwargs": "set 'model' and 'dtype' instead.",
    "hub_token": "a token must not stand in a config, which is kept in the run's folder: export it as HF_TOKEN.",
}


def check_launch(args: Any, script: str) -> None:
    """Refuse, before anything loads, a launch that a library would refuse only after the weights are loaded.

    Args:
        script: the file that DeepSpeed's launcher starts.

    Raises:
        UserError: a package that the config needs is missing, one process sees several GPUs, or DeepSpeed has no launcher.
    """
    require_packages(args)
    gpus = max(1, args.n_gpu)
    launcher = f"deepspeed --num_gpus {gpus} {script} --config ..."
    if args.deepspeed and not read_processes().launched:
        raise UserError(
            "'deepspeed' needs its launcher, but this process was started without one: start it with "
            f"'{launcher}', or remove 'deepspeed'."
        )
    if gpus > 1:
        raise UserError(
            f"One process sees {gpus} GPUs and can train on one: to use all of them, start it with '{launcher}'; to use one, set "
            "CUDA_VISIBLE_DEVICES=0."
        )


def run_stage(
    stage: StageConfig,
    script: str,
    data: str,
    train: Callable[[StageConfig, RunFolder], dict[str, Any]],
    reward_files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train in the stage's ``output_dir``, or return the summary of a run that has finished there.

    Args:
        script: see ``check_launch``.
        data: the problem set or data set that ``train`` reads.
        train: called while the folder is locked, from the start or to resume; returns the summary.
        reward_files: see ``RunFolder``.

    Raises:
        UserError: see ``check_launch``, ``RunFolder`` and ``train.resume.Resumption``.
    """
    check_launch(stage.args, script)
    require_accepted(stage.args, stage.options, world_size())
    run = RunFolder(
        stage.args.output_dir,
        stage.settings,
        is_main_process(),
        data,
        stage.options.model,
        precision_source=stage.precision.source,
        course=stage.course,
        files=reward_files,
    )
    with run.locked():
        if (summary := run.finished()) is not None:
            return summary
        stage.resumption.confirm(run.main)
        if world_size() > 1:
            bound_silence()  # the prompt selection, too, waits for other machines
        prepare_stage(stage, run.main)
        return train(stage, run)


def prepare_stage(stage: StageConfig, main: bool) -> None:
    """Print the precision in which the stage computes, and give each process no more data workers than it has cores.

    Raises:
        UserError: see ``train.precision.announce``.
    """
    announce(stage.precision, main)
    # After SIGTERM this project writes a checkpoint itself (StopOnSigterm). Trainer's own would lack the mark of a complete one.
    stage.args.enable_jit_checkpoint = False
    if stage.args.dataloader_num_workers > cores_a_rank():
        if main:
            print(
                f"dataloader_num_workers: {cores_a_rank()} instead of {stage.args.dataloader_num_workers}, the cores available",
                flush=True,
            )
        stage.args.dataloader_num_workers = cores_a_rank()


def quiet() -> None:
    """Silence what no user can act on: progress bars while saving, and deprecation warnings among the libraries."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|accelerate|torch")


def load_for_training(options: ModelOptions, args: Any) -> VLM:
    """Load the model of a stage on the CPU (the trainer moves it to each rank's device) and freeze its frozen parts.

    With ``lora.bits`` it is loaded on the device of ``args``, TRL's arguments, because quantized weights are not moved.

    Raises:
        UserError: see ``vlm.load.load_vlm``; or a part to freeze is not found.
    """
    pixels = given_pixel_limits(options.min_pixels, options.max_pixels)
    join_deepspeed()
    device, quantization = "cpu", None
    if options.lora is not None and options.lora.bits:
        model = skeleton(load_reader(options).config.to_json_string())
        device, quantization = str(args.device), quantization_config(options.lora, model, args)
    vlm = load_vlm(options.model, dtype=options.dtype, device=device, quantization=quantization, **pixels)
    keep_trainable(vlm.model)
    check_template(vlm)
    check_vocabulary(vlm, getattr(vlm.model.config.get_text_config(), "vocab_size", None))
    keep_names(vlm.model)
    check_start(vlm)
    freeze(vlm.model, vlm.name, options.freeze_vision, options.freeze_merger)
    return vlm


def freeze(model: Any, name: str, vision: bool, merger: bool) -> None:
    """Switch off the gradients of the vision tower, and of the layers that map its features to the language model.

    Those of an audio tower are always off: it would get none, and ranks wait for every weight that should have some.

    Raises:
        UserError: the model has no part of that kind.
    """
    for wanted, part, option in ((vision, "vision", "freeze_vision"), (merger, "merger", "freeze_merger")):
        if not wanted:
            continue
        frozen = [weight for weight_name, weight in model.named_parameters() if part_of(weight_name) == part]
        if not frozen:
            raise UserError(f"{name} has no {part} part to freeze: remove '{option}'.")
        for weight in frozen:
            weight.requires_grad_(False)
    if vision:
        _leave_out_of_backward(model)
    for weight_name, weight in model.named_parameters():
        if part_of(weight_name) == "audio":
            weight.requires_grad_(False)


def _leave_out_of_backward(model: Any) -> None:
    """Keep a frozen vision tower out of the backward.

    With adapters and gradient checkpointing, TRL makes the output of every module's input embeddings require a gradient. For the
    vision tower of Qwen2.5-VL these are its patch embeddings, so that it would compute a backward that no weight needs.
    """
    for name, module in model.named_modules():
        if part_of(name) == "vision" and hasattr(module, "get_input_embeddings"):
            module.get_input_embeddings = _no_embeddings


def _no_embeddings() -> None:
    """In place of a frozen tower's ``get_input_embeddings``."""


def run_trainer(
    trainer: Any, run: RunFolder, checkpoint: tuple[Path, int] | None, shown: Sequence[str], options: ModelOptions
) -> int:
    """Train from the start or from ``checkpoint``, then save model and processor in the run folder; returns the number of steps.

    Raises:
        Stopped: SIGTERM arrived; the checkpoint of the last step is complete.
        UserError: training ended before its last step, or see ``training_errors``.
    """
    if options.lora is not None and options.lora.bits:
        keep_adapter_dtype(trainer.model)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if run.main and checkpoint is None and options.gpus not in (None, world_size()):
        print(
            f"this config is meant for {options.gpus} processes, not {world_size()}: a step has another number of rows",
            flush=True,
        )
    trainer.add_callback(Log(run.log, shown))
    trainer.add_callback(Tracked(run.known, trainer.callback_handler, run.path))
    # KeepCheckpoints removes old checkpoints itself: Trainer would do so before the new one is marked as complete.
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    if world_size() > 1:
        trainer.add_callback(BoundSilence())
    sigterm = StopOnSigterm()
    trainer.add_callback(FiniteWeights(trainer, checkpoint[0] if checkpoint else None))
    trainer.add_callback(sigterm)
    # TRL does not save its count of tokens: without this, a resumed run would count from 0.
    mark = lambda: {**run.mark, "num_tokens": getattr(trainer, "_total_train_tokens", None)}  # noqa: E731
    trainer.add_callback(KeepCheckpoints(limit, mark))
    with training_errors(run.path), deferred():
        if checkpoint is not None and is_final(checkpoint[0]):
            # All steps are done and only the copy of the model is missing. Trainer would take one more step.
            check_published(checkpoint[0])
            if run.main:
                publish(checkpoint[0], run.path)
            _complete_model(trainer.args, run, options)
            return checkpoint[1]
        if checkpoint is not None and run.main:
            print(f"resuming from step {checkpoint[1]}", flush=True)
        if checkpoint is not None:
            begin_random_numbers(trainer.args, *checkpoint)
            trainer._total_train_tokens = read_mark(checkpoint[0]).get("num_tokens") or 0
        trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
        state = trainer.state
        if state.global_step < state.max_steps:
            place = f"step {state.global_step} of {state.max_steps} in {run.path}"
            if sigterm.stopped:
                message = (
                    f"Stopped by SIGTERM at {place}: its checkpoint is complete, and the same command resumes there."
                )
                raise Stopped(message, TERMINATED)
            raise UserError(f"Training ended at {place}: give the same command again to train the remaining steps.")
        check_same_weights(trainer.model)
        trainer.save_model(str(run.path))
        _complete_model(trainer.args, run, options)
        return int(state.global_step)


def _complete_model(args: Any, run: RunFolder, options: ModelOptions) -> None:
    """Merge an adapter into the model, and keep what the card of the start model says about its images."""
    if options.lora is not None and run.main:
        with whole_weights(args):
            merge_adapter(run.path, options.model, options.dtype)
    if run.main:
        keep_card(options.model, run.path)


@contextlib.contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """Turn errors that a user can fix, a full disk or too little memory, into a ``UserError``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "The accelerator's memory is full: lower per_device_train_batch_size (and raise gradient_accumulation_steps), turn "
            "on gradient_checkpointing, or use configs/deepspeed/zero3.json."
        ) from None
    except UserError:
        raise
    except Exception as error:
        # A data worker that was still starting did not ignore the signal yet, and it ended.
        if sigterm_received() and "DataLoader worker" in str(error):
            raise Stopped(
                f"Stopped by SIGTERM in {folder}: the same command resumes from the last checkpoint."
            ) from None
        # Writers of tensors raise errors of their own on a full disk, often without a reason, so the free space decides too.
        if disk_full(error) or shutil.disk_usage(folder).free < DISK_SPARE:
            raise UserError(
                f"The disk of {folder} is full: free some space, then give the same command again. It resumes from the last "
                "complete checkpoint."
            ) from error
        raise


def command(argv: Sequence[str] | None, name: str, run: Callable[..., dict[str, Any]], load: Callable[..., Any]) -> int:
    """``main`` of a stage: parse, then check, plan or run; a user's mistake ends as a sentence and an exit code.

    ``--check`` and ``--plan`` (with ``--json``, ``--memory GB``, ``--device cpu``) read config, data and model, and train nothing.
    """
    from train.preflight import run_preflight, take_flags

    watch_sigterm()
    follow_starter()
    try:
        if is_main_process():
            warn_outside_range()
        rest, wanted = take_flags(list(sys.argv[1:] if argv is None else argv))
        config, overrides = parse_arguments(rest, name)
        if wanted["check"] or wanted["plan"]:
            return run_preflight(load, config, overrides, wanted)
        summary = run(config, overrides)
    except KeyboardInterrupt:
        stopped = "Stopped; the same command resumes from the last complete checkpoint."
        print(stopped, file=sys.stderr)
        note_failure(stopped, stopped_code())
        return stopped_code()
    except Exception as error:
        if (explained := explain(error)) is None:
            raise  # a bug, with its traceback
        print(f"error: {explained[0]}", file=sys.stderr)
        if lost_connection(error) is None:  # else the process that ended has the reason
            note_failure(*explained)
        return explained[1]
    if is_main_process():
        print(json.dumps(summary, indent=2))
    return 0
