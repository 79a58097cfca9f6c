"""Checkpoints that are either complete or ignored, and a data order that a resumed run repeats."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from configs.errors import UserError
from configs.jsonl import read_log, write_json_atomic, write_text_atomic
from configs.provenance import COMPLETE
from configs.run_dir import read_record
from configs.stopping import sigterm_received

TRAINING_ONLY = (
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_state",
    "training_args",
    "scaler",
    "latest",
    "zero_to_fp32",
)
"""Files of a checkpoint, by the start of the name, that only training needs."""
BEGUN = "begun"
"""The file that marks a checkpoint as one of this project, written before anything else of it is saved."""
REMOVED = ".removed-"
"""Prefix of the name of a checkpoint that is being removed."""


class KeepCheckpoints(TrainerCallback):
    """Mark a checkpoint as complete after every process has saved its part, then remove the oldest ones over ``limit``.

    Trainer removes old checkpoints before the mark is written. With a limit of one, an interruption in between would leave
    nothing to resume from.

    Args:
        limit: the number of complete checkpoints to keep; None keeps all.
        mark: returns the content of the mark besides the step. Its ``run`` is the run's id.
    """

    def __init__(self, limit: int | None, mark: Callable[[], Mapping[str, Any]]) -> None:
        self.limit, self.mark = limit, mark

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save and args.should_save:
            folder = _folder(args, state)
            folder.mkdir(exist_ok=True)
            write_json_atomic(folder / BEGUN, {**self.mark(), "step": state.global_step})

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if args.should_save:
            folder, checkpoint = Path(args.output_dir), _folder(args, state)
            mark = {**self.mark(), "step": state.global_step, "files": sizes_of(checkpoint)}
            write_json_atomic(checkpoint / COMPLETE, mark)
            for _step, old in _complete(folder, mark.get("run"))[: -self.limit] if self.limit else []:
                _remove(old)


class StopOnSigterm(TrainerCallback):
    """After SIGTERM, finish the current step, save a checkpoint and end training. Must be added before ``KeepCheckpoints``.

    All processes stop at the same step, whichever of them received the signal. A checkpoint does not hold completions that
    will be reused, so GRPO continues until they are used up.
    """

    def __init__(self) -> None:
        self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        # accelerate wraps the loader that starts the workers, and copies the wrapper's arguments when it skips batches.
        loaders: list[Any] = [train_dataloader, getattr(train_dataloader, "base_dataloader", None)]
        for loader in loaders:
            if getattr(loader, "num_workers", 0):
                loader.worker_init_fn = partial(without_sigterm, loader.worker_init_fn)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        cycle = getattr(args, "steps_per_generation", 1) * getattr(args, "num_iterations", 1)
        wanted = torch.tensor(float(sigterm_received()), device=args.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(wanted, op=torch.distributed.ReduceOp.MAX)
        if wanted and state.global_step * args.gradient_accumulation_steps % cycle == 0:
            self.stopped = control.should_save = control.should_training_stop = True


def without_sigterm(then: Callable[[int], None] | None, worker: int) -> None:
    """``worker_init_fn`` of data workers: a signal to the whole process group must not end them during a step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if then is not None:
        then(worker)


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _remove(checkpoint: Path) -> None:
    """Rename, then remove: an interrupted removal leaves nothing that looks like a checkpoint."""
    gone = checkpoint.with_name(REMOVED + checkpoint.name)
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def last_checkpoint(folder: str | Path, run: str | None = None, remove_torn: bool = True) -> tuple[Path, int] | None:
    """The complete checkpoint with the most steps, and its step.

    Args:
        run: the run's id; checkpoints of other runs do not count. Marks of earlier versions name no run.
        remove_torn: remove what an interrupted save left.

    Raises:
        UserError: with ``remove_torn``, a checkpoint that this run did not write: it is neither removed nor overwritten.
    """
    folder = Path(folder)
    complete = _complete(folder, run)
    if remove_torn:
        whole = {path for _, path in complete}
        others = [path for path in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) if path not in whole]
        foreign = [path for path in others if not (_is_of_run(path / BEGUN, run) or _is_empty(path))]
        if foreign:
            raise UserError(
                f"{foreign[0]} was not written by this run: move it out of {folder}, or choose another output_dir."
            )
        for path in others:
            _remove(path)
        for path in folder.glob(f"{REMOVED}{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(path)
    return (complete[-1][1], complete[-1][0]) if complete else None


def _is_empty(checkpoint: Path) -> bool:
    """Whether an interruption came after the folder was made and before its first mark."""
    return checkpoint.is_dir() and all(path.name.startswith(f".{BEGUN}.") for path in checkpoint.iterdir())


def _is_of_run(mark: Path, run: str | None) -> bool:
    return mark.is_file() and (run is None or read_record(mark).get("run") in (None, run))


def _complete(folder: Path, run: str | None = None) -> list[tuple[int, Path]]:
    """(step, path) of the complete checkpoints of a run, by increasing step."""
    marks = [mark for mark in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}") if _is_of_run(mark, run)]
    paths = [mark.parent for mark in marks]
    return sorted((int(step), path) for path in paths if (step := path.name.rpartition("-")[2]).isdigit())


def complete_before(checkpoint: Path) -> list[Path]:
    """The complete checkpoints beside ``checkpoint`` that have fewer steps, in order."""
    step = int(checkpoint.name.rpartition("-")[2])
    return [path for other, path in _complete(checkpoint.parent) if other < step]


def sizes_of(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file of a checkpoint, by name relative to it."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != COMPLETE)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def is_final(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the last step: the run was interrupted before the model was published."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def publish(checkpoint: Path, folder: Path) -> None:
    """Copy model and processor of a checkpoint into ``folder``, without the files that only training needs."""
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith(TRAINING_ONLY) and path.name not in (BEGUN, COMPLETE):
            shutil.copyfile(path, folder / path.name)


def trim_log(log: Path, step: int) -> None:
    """Drop the rows logged after ``step``: a resumed run will log those steps again."""
    if log.exists():
        rows = [row for row in read_log(log) if row["step"] <= step]
        write_text_atomic(log, "".join(json.dumps(row) + "\n" for row in rows))


class EpochSampler(Sampler[int]):
    """A random sampler whose order depends on seed and epoch only.

    A run that resumes in its third epoch sees the third epoch's order, where a sampler with a running generator would give it
    the first one's. The epoch is read from the trainer's state when iteration begins: a resumed loader is a new object, and
    with several processes nothing sets the epoch of the sampler inside it.
    """

    def __init__(self, sampler: Any, seed: int, state: Callable[[], Any]) -> None:
        self.sampler, self.seed, self.state = sampler, seed, state
        self.sampler.generator = torch.Generator()

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.state().epoch or 0.0) + 1e-6)  # 2.9999999 after three epochs of thirds
        self.sampler.generator.manual_seed(self.seed + epoch)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)
