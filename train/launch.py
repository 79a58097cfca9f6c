"""What both training stages share around TRL's trainers: the run folder, resuming, logs, errors, the command line.

A run folder holds ``settings.json`` (config and versions), ``log.jsonl`` (one row a logged step), ``checkpoint-N`` and, once
the run has ended, the model as a standard folder and ``summary.json``, which is written last: it says that all else is there.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from configs.machine import cores_a_rank
from configs.versions import warn_outside_range
from reward.files import REWARD_FILES, changed_files
from train.checkpoints import KeepCheckpoints, is_final, last_checkpoint, publish, trim_log
from train.config import Stage, parse_arguments
from train.lora import merge_adapter
from train.options import ModelOptions
from train.packages import require_packages
from train.precision import KEYS, announce, default, device_type, stated
from train.provenance import data_sha256, provenance
from train.ranks import check_weights, join_deepspeed, keep_names, whole_weights, world_size
from train.reader import part_of
from train.tracking import Tracked
from vlm.errors import UserError, memory_error
from vlm.jsonl import append_jsonl, read_jsonl, repair_jsonl, write_json_atomic
from vlm.load import VLM, load_vlm

DISK_SPARE = 64 << 20

STAGE_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,  # log.jsonl is read for curves
    "save_strategy": "steps",
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,  # one line a logged step instead, readable in a file too
    "remove_unused_columns": False,  # the data set holds row numbers, and the pictures are opened where they are needed
}
# What may be said otherwise when a run is gone on with: where and how often it writes, its memory, its patience.
FREE = {
    *("output_dir", "gpus", "report_to", "run_name", "disable_tqdm", "log_level", "log_completions", "probe_prompts"),
    *("num_completions_to_print", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("ddp_timeout", "max_logprob_gap", "reward_folder"),
}
FREE_KINDS = ("logging_", "save_", "vllm_", "hub_")
DECIDING = ("vllm_importance", "vllm_structured")
CUT = ("per_device_train_batch_size", "gradient_accumulation_steps")  # of one batch: the product is what counts
STAGE_REFUSED = {
    "resume_from_checkpoint": "a run resumes by itself: give the same command with the same output_dir.",
    "remove_unused_columns": "the rows are this project's own and no column is unused.",
    "model_init_kwargs": "use 'model' and 'dtype'.",
    "hub_token": "a token must not stand in a config, which is kept in the run's folder: export it as HF_TOKEN.",
}


class Log(TrainerCallback):
    """Append every logged step to ``log.jsonl`` and print a line about it; NaN becomes null.

    ``seconds`` in a row is the time spent in training steps since the run began, resumes included.
    """

    def __init__(self, path: Path, shown: Sequence[str]) -> None:
        self.path, self.shown, self.seconds, self.started = path, shown, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = read_jsonl(self.path) if self.path.exists() else []
        self.seconds = rows[-1]["seconds"] if rows else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds += time.perf_counter() - self.started

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, "seconds": round(self.seconds, 3), **logs}
        row = {key: _json_number(value) for key, value in row.items()}
        append_jsonl(self.path, [row])
        parts = [f"{key} {row[key]:.4g}" for key in self.shown if isinstance(row.get(key), int | float)]
        print(f"step {state.global_step}/{state.max_steps}: {', '.join(parts)}, {self.seconds:.0f} s", flush=True)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunFolder:
    """The folder of one training run on the data set ``data``. Only the main process writes to it.

    Args:
        precision_source: see ``train.precision.Precision``; kept beside the settings, of which the precision is one.
        files: the checksums of the user's own rewards (``reward.files.reward_files``); kept there too.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        main_process: bool,
        data: str | Path,
        precision_source: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.main, self.data, self.precision_source = Path(folder), main_process, data, precision_source
        self.settings = json.loads(json.dumps(settings, default=str))
        self.files = {REWARD_FILES: dict(files)} if files else {}
        self.log = self.path / "log.jsonl"
        self.known: dict[str, Any] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.main:
                (self.path / ".writable").touch()
                (self.path / ".writable").unlink()
        except OSError as error:
            raise UserError(
                f"The output folder {folder} cannot be written ({error.strerror}): choose another output_dir."
            ) from None

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that has ended here; None where there is one to begin or to go on with.

        Raises:
            UserError: what is here has other settings, or was trained on other data.
        """
        summary, file = self.path / "summary.json", self.path / "settings.json"
        ended = summary.exists()
        if (
            not ended
            and last_checkpoint(self.path, remove_torn=False) is None
            and not (self.path / "choice.json").exists()
        ):
            return None
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        changed = changed_settings(known.get("settings", {}), self.settings) if known or ended else []
        changed += [f"the file {name}" for name in changed_files(known, self.files)]
        with contextlib.suppress(OSError):  # a data set that is not there is said where it is read
            same = known.get("data_sha256") == data_sha256(self.data)
            if "data_sha256" in known:  # a set may have been moved, but not changed
                changed = [key for key in changed if key not in ("dataset", "problems")]
                changed += [] if same else [f"the rows of {self.data}"]
        if changed:
            raise UserError(
                f"{self.path} holds a {'finished' if ended else 'killed'} run with other settings ({', '.join(changed)}): choose "
                "another output_dir, or remove the folder to train again."
            )
        return json.loads(summary.read_text(encoding="utf-8")) if ended else None

    def begin(self) -> tuple[Path, int] | None:
        """Write ``settings.json`` and find the checkpoint to go on from (path, step), with the log cut back to it."""
        repair_jsonl(self.log) if self.main else None
        checkpoint = last_checkpoint(self.path, remove_torn=self.main)
        if self.main:
            trim_log(self.log, checkpoint[1] if checkpoint else 0)
            self.known = {
                **provenance(self.settings, self.data),
                "precision_source": self.precision_source,
                **self.files,
            }
            write_json_atomic(self.path / "settings.json", self.known)
        return checkpoint

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``log.jsonl``."""
        return read_jsonl(self.log) if self.log.exists() else []

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write ``summary.json``."""
        if self.main:
            write_json_atomic(self.path / "summary.json", summary)
        return summary


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys under which a run would take another course than the one that began."""
    free = {*FREE, *KEYS}
    keys = {key for key in {*before, *now} - free if key.startswith(DECIDING) or not key.startswith(FREE_KINDS)}
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if "steps_per_generation" not in now and "generation_batch_size" not in now:
        rows = [one.get(CUT[0], 8) * one.get(CUT[1], 1) for one in (before, now)]  # Trainer's defaults
        changed = [key for key in changed if key not in CUT or rows[0] != rows[1]]
    precisions = [stated(one) or default(device_type(one)) for one in (before, now)]
    return sorted(changed + ["precision"] * (precisions[0] != precisions[1]))


def check_launch(args: Any, script: str) -> None:
    """Refuse, before anything loads, a start in one process that a library would end after the weights are loaded.

    Args:
        script: what DeepSpeed's launcher is to start; none for a command that trains in one process alone.

    Raises:
        UserError: a package that the config needs is missing, several GPUs for one process, or DeepSpeed without a launcher.
    """
    require_packages(args)
    gpus = max(1, args.n_gpu)
    launcher = f"deepspeed --num_gpus {gpus} {script} --config ..."
    if args.deepspeed and "RANK" not in os.environ:
        remedy = (
            f"start it with '{launcher}', or leave deepspeed out" if script else "leave deepspeed out of its config"
        )
        raise UserError(f"'deepspeed' needs its launcher, and this is a process by itself: {remedy}.")
    if gpus > 1:
        several = f"for all of them start it with '{launcher}', for one " if script else ""
        raise UserError(f"One process sees {gpus} GPUs and can train on one: {several}set CUDA_VISIBLE_DEVICES=0.")


def prepare(stage: Stage, main: bool) -> None:
    """Say in which precision the stage computes, and give each process no more data workers than it has cores.

    Raises:
        UserError: see ``train.precision.announce``.
    """
    announce(stage.precision, main)
    if stage.args.dataloader_num_workers > cores_a_rank():
        if main:
            print(
                f"dataloader_num_workers: {cores_a_rank()} instead of {stage.args.dataloader_num_workers}, the cores there are",
                flush=True,
            )
        stage.args.dataloader_num_workers = cores_a_rank()


def quiet() -> None:
    """Silence what no user can act on: the savers' progress bars, and deprecations between the libraries below."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|accelerate|torch")


def load_for_training(options: ModelOptions) -> VLM:
    """Load the model of a stage on the CPU (the trainer places it on each rank's device) and freeze what is to stay.

    Raises:
        UserError: see ``vlm.load.load_vlm``; or a part to freeze is not found.
    """
    pixels = {"min_pixels": options.min_pixels, "max_pixels": options.max_pixels}
    given = {key: value for key, value in pixels.items() if value is not None}
    join_deepspeed()
    vlm = load_vlm(options.model, dtype=options.dtype, device="cpu", **given)
    keep_names(vlm.model)
    freeze(vlm.model, vlm.name, options.freeze_vision, options.freeze_merger)
    return vlm


def freeze(model: Any, name: str, vision: bool, merger: bool) -> None:
    """Switch off the gradients of the vision tower, and of the layers that map its features to the language model.

    Raises:
        UserError: the model has no part of that kind.
    """
    for wanted, part, option in ((vision, "vision", "freeze_vision"), (merger, "merger", "freeze_merger")):
        if not wanted:
            continue
        frozen = [weight for weight_name, weight in model.named_parameters() if part_of(weight_name) == part]
        if not frozen:
            raise UserError(f"{name} has no {part} part that could be frozen: leave {option} out.")
        for weight in frozen:
            weight.requires_grad_(False)


def run_trainer(
    trainer: Any, run: RunFolder, checkpoint: tuple[Path, int] | None, shown: Sequence[str], options: ModelOptions
) -> None:
    """Train from the start or from ``checkpoint``, and leave model and processor in the run folder."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if run.main and options.gpus not in (None, world_size()):
        print(
            f"this config is meant for {options.gpus} processes, not {world_size()}: a step takes other rows",
            flush=True,
        )
    trainer.add_callback(Log(run.log, shown))
    trainer.add_callback(Tracked(run.known, trainer.callback_handler, run.path))
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    trainer.add_callback(KeepCheckpoints(limit))
    with training_errors(run.path):
        if checkpoint is not None and is_final(checkpoint[0]):
            # Trainer would take one more step; all that is missing is the copy of the model.
            if run.main:
                publish(checkpoint[0], run.path)
            _merge(trainer.args, run, options)
            return
        if checkpoint is not None and run.main:
            print(f"going on from step {checkpoint[1]}", flush=True)
        trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
        check_weights(trainer.model)
        trainer.save_model(str(run.path))
        _merge(trainer.args, run, options)


def _merge(args: Any, run: RunFolder, options: ModelOptions) -> None:
    if options.lora is not None and run.main:
        with whole_weights(args):
            merge_adapter(run.path, options.model, options.dtype)


@contextlib.contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """Turn what a user can mend, a full disk or too little memory, into a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "The accelerator's memory is full: lower per_device_train_batch_size (and raise gradient_accumulation_steps), turn "
            "on gradient_checkpointing, or use configs/deepspeed/zero3.json."
        ) from None
    except Exception as error:
        # The savers wrap a full disk in errors of their own, so the disk itself is asked.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or shutil.disk_usage(folder).free < DISK_SPARE:
            raise UserError(
                f"The disk of {folder} is full: free some space and give the same command again; it goes on from the last "
                "complete checkpoint."
            ) from error
        raise


def is_main_process() -> bool:
    """Whether this process writes files and talks (rank 0)."""
    return int(os.environ.get("RANK", "0")) == 0


def command(argv: Sequence[str] | None, name: str, run: Callable[..., dict[str, Any]], load: Callable[..., Any]) -> int:
    """``main`` of a stage: parse, then check, plan or run; a user's mistake is a sentence and an exit code.

    ``--check`` and ``--plan`` (with ``--json``, ``--memory GB``) look at config, data and model before anything is trained.
    """
    from train.preflight import run_preflight, take_flags

    if is_main_process():
        warn_outside_range()
    try:
        rest, wanted = take_flags(list(sys.argv[1:] if argv is None else argv))
        config, overrides = parse_arguments(rest, name)
        if wanted["check"] or wanted["plan"]:
            return run_preflight(load, config, overrides, wanted)
        summary = run(config, overrides)
    except (UserError, MemoryError, RuntimeError) as error:
        known = error if isinstance(error, UserError) else memory_error(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    if is_main_process():
        print(json.dumps(summary, indent=2))
    return 0
