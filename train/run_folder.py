"""The folder of a training run: what identifies the run, what a resume may change, and its log.

A run folder holds ``settings.json`` (config and versions), ``log.jsonl`` (one row per logged step), ``checkpoint-N`` and, after
the run has finished, the model as a standard folder and ``summary.json``. The summary is written last: everything else is then
complete.
"""

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from configs.errors import UserError
from configs.identity import data_sha256
from configs.jsonl import append_jsonl, read_log, repair_jsonl
from configs.provenance import provenance
from configs.run_dir import SHA256, RunDir, changes, make_folder, read_record
from reward.user import REWARD_FILES, with_digests
from train.checkpoints import last_checkpoint, trim_log
from train.distributed import check_shared, refused_by_all
from train.precision import KEYS, default, device_type, stated
from train.resume import CUT, changed_deepspeed, read_course
from train.resume import course as course_of
from vlm.identity import model_folder, model_identity

# Keys that may change when a run resumes, because they do not affect the result: output, logging, memory, timeouts.
FREE = {
    *("output_dir", "gpus", "report_to", "run_name", "disable_tqdm", "log_level", "log_completions", "probe_prompts"),
    *("num_completions_to_print", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"),
    *("per_device_eval_batch_size", "eval_steps", "eval_on_start"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("ddp_timeout", "max_logprob_gap", "enable_jit_checkpoint", "reward_folder"),
    *(f"judge.{key}" for key in ("api_key_env", "cache", "timeout", "max_retries", "concurrency")),
}
TRAINING_WRITES = (
    *("checkpoint-*", "adapter*", "completions", "*.json", "log.jsonl", "pass_rates*.jsonl", "wandb_run.txt"),
    *("README.md", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.model", "*.tiktoken", "*.jinja"),
    *("vocab.txt", "merges.txt"),  # of tokenizers; other .txt files may be a user's notes
)
"""Patterns of the files that a run, transformers, TRL and PEFT write into its folder."""
FREE_KINDS = ("logging_", "save_", "vllm_", "hub_")
DECIDING = ("vllm_importance", "vllm_structured")


class Log(TrainerCallback):
    """Append every logged step to ``log.jsonl``, with null for NaN, and print a line about it.

    ``seconds`` in a row is the time spent in training steps since the run began, across resumes.
    """

    def __init__(self, path: Path, shown: Sequence[str]) -> None:
        self.path, self.shown, self.seconds, self.started = path, shown, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = read_log(self.path) if self.path.exists() else []
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
    """The folder of one training run on the data set ``data``, starting from ``model``. Only the main process writes to it.

    Args:
        precision_source: see ``train.precision.Precision``; recorded beside the settings.
        course: see ``train.resume``; recorded too.
        files: the checksums of the user's own rewards (``reward.user.reward_files``); recorded too.

    Raises:
        UserError: the folder cannot be written, holds what no training run wrote, or is the folder of the start model.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        main_process: bool,
        data: str | Path,
        model: str,
        precision_source: str | None = None,
        course: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.dir = training_dir(folder)
        self.path, self.main, self.data, self.precision_source = Path(folder), main_process, data, precision_source
        self.settings = json.loads(json.dumps(settings, default=str))
        self.course = dict(course) if course is not None else course_of(self.settings, 1)
        self.files = {REWARD_FILES: dict(files)} if files else {}
        self.log = self.path / "log.jsonl"
        self.known: dict[str, Any] = {}
        self.model = model
        with refused_by_all():
            if main_process:  # another node may have its own folder, with checkpoints only
                check_output_folder(self.path, model)
        make_folder(self.path)
        self.before = self.dir.known() or {}
        # Earlier versions recorded only the start model's name. Such a run keeps it, because the key of its pass rates contains it.
        named_only = bool(self.before) and self.before.get("model_sha256") is None
        self.model_sha256 = None if named_only else model_identity(model)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for the main process; see ``configs.run_dir.RunDir.held`` for the errors, which all processes raise."""
        with contextlib.ExitStack() as held:
            with refused_by_all():
                if self.main:
                    held.enter_context(self.dir.held())
            if not self.settings.get("save_on_each_node"):
                check_shared(self.path)
            yield

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that has finished here; None if it is to be started or resumed.

        Raises:
            UserError: the run here has other settings, another start model or other data.
        """
        ended, checkpoint = self.dir.finished(), last_checkpoint(self.path, remove_torn=False)
        if ended is None and checkpoint is None and not (self.path / "choice.json").exists():
            return None
        if self.before or ended is not None:
            now = {"settings": self.settings, "model_sha256": self.model_sha256, **self.files}
            try:
                now["data_sha256"] = data_sha256(self.data)
            except OSError:  # a missing data set is reported where it is read, and a finished run needs none
                now["data_sha256"] = self.before.get("data_sha256")
            before = read_course(self.before, checkpoint[0] if checkpoint else None)
            self.dir.refuse(changed_settings(_comparable(self.before), _comparable(now), before, self.course))
        return ended

    def begin(self) -> tuple[Path, int] | None:
        """Write ``settings.json``, find the checkpoint to resume from (path, step), and truncate the log to its step.

        Raises:
            UserError: a checkpoint in the folder was not written by this run.
        """
        run = self.before.get("run")
        with refused_by_all():
            checkpoint = last_checkpoint(self.path, run, remove_torn=self.main)
        if self.main:
            repair_jsonl(self.log)
            trim_log(self.log, checkpoint[1] if checkpoint else -1)  # also the loss before the first step
            self.known = {
                "run": run or uuid.uuid4().hex,
                **provenance(self.settings, self.data),
                "model_sha256": self.model_sha256,
                "precision_source": self.precision_source,
                "course": self.course,
                **self.files,
            }
            self.dir.write(self.known)
        return checkpoint

    @property
    def mark(self) -> dict[str, Any]:
        """The content of the mark of this run's complete checkpoints."""
        return {"run": self.known.get("run"), **self.course}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``log.jsonl``."""
        return read_log(self.log) if self.log.exists() else []

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write ``summary.json``."""
        return self.dir.finish(summary) if self.main else summary


def training_dir(folder: str | Path) -> RunDir:
    """The folder of a training run, or of a probe before it."""
    return RunDir(
        Path(folder), "training run", TRAINING_WRITES, _is_training_run, record="settings.json", result="summary.json"
    )


def check_output_folder(folder: Path, model: str) -> None:
    """Refuse an output folder that holds the start model, or files that no training run wrote.

    Raises:
        UserError: it does.
    """
    start = model_folder(model)
    if start is not None and start.resolve().is_relative_to(folder.resolve()) and not _began_from(folder, start, model):
        raise UserError(f"The start model {model} lies in the output folder {folder}: choose another output_dir.")
    training_dir(folder).refuse_foreign()


def _began_from(folder: Path, start: Path, model: str) -> bool:
    """Whether the run in ``folder`` was begun, by an earlier version, from a model in a subfolder of it."""
    apart = start.resolve() != folder.resolve() and not start.name.startswith("checkpoint-")
    return apart and read_record(folder / "settings.json").get("settings", {}).get("model") == model


def _is_training_run(folder: Path) -> bool:
    found = {path.name for pattern in TRAINING_WRITES for path in folder.glob(pattern)}
    return found == {"probe.json"} or isinstance(read_record(folder / "settings.json").get("settings"), dict)


def _comparable(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's record, with the digests of model, data set and rewards under the keys that ``changes`` reads."""
    settings = known.get("settings", {})
    data = "problems" if settings.get("problems") else "dataset"
    digests = {f"model{SHA256}": known.get("model_sha256"), data + SHA256: known.get("data_sha256")}
    files = {REWARD_FILES: known.get(REWARD_FILES)}
    return with_digests({**settings, **digests, **files})


def changed_settings(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    course_before: Mapping[str, Any] | None = None,
    course_now: Mapping[str, Any] | None = None,
) -> list[str]:
    """The keys whose change would make a resumed run differ from the one that began.

    Args:
        course_before, course_now: see ``train.resume.course``. By default those of one process.
    """
    old, new = ({key: value for key, value in one.items() if not _is_free(key)} for one in (before, now))
    changed = [key for key in changes(old, new) if not _is_free(key)]  # also nested ones, such as judge.timeout
    courses = [course_before or course_of(before, 1), course_now or course_of(now, 1)]
    rows = [(one["rows_a_step"], one.get("rows_a_generation") or one["rows_a_step"]) for one in courses]
    if rows[0] == rows[1]:
        changed = [key for key in changed if key not in CUT]
    if all(one.get("deepspeed") for one in courses):  # the content of the file is compared, not its path
        changed = [key for key in changed if key.partition(".")[0] != "deepspeed"]
        changed += changed_deepspeed(courses[0]["deepspeed"], courses[1]["deepspeed"])
    precisions = [stated(one) or default(device_type(one)) for one in (before, now)]
    return sorted(changed + ["precision"] * (precisions[0] != precisions[1]))


def _is_free(key: str) -> bool:
    if key.startswith(DECIDING) or key.endswith(SHA256):
        return False
    return key in FREE or key in KEYS or key.startswith(FREE_KINDS)
