"""Checkpoints that are complete or absent, and data in the same order after a resume."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from train.provenance import COMPLETE
from vlm.jsonl import read_jsonl, write_text_atomic

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


class KeepCheckpoints(TrainerCallback):
    """Mark a checkpoint once every process has finished its part of it, and only then remove the oldest over ``limit``.

    Trainer's own rotation comes before the mark: with a limit of one, a kill in between would leave nothing to resume from.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if args.should_save:
            folder = Path(args.output_dir)
            (folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / COMPLETE).touch()
            for _step, old in _complete(folder)[: -self.limit] if self.limit else []:
                (old / COMPLETE).unlink()  # a removal cut short leaves a torn checkpoint, not one that looks whole
                shutil.rmtree(old)


def last_checkpoint(folder: str | Path, remove_torn: bool = True) -> tuple[Path, int] | None:
    """The complete checkpoint with the most steps, and its step; what a kill left half-written is removed."""
    complete = _complete(Path(folder))
    if remove_torn:
        whole = {path for _, path in complete}
        for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if path.is_dir() and path not in whole:
                shutil.rmtree(path)
    return (complete[-1][1], complete[-1][0]) if complete else None


def _complete(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the complete checkpoints, in order."""
    paths = [mark.parent for mark in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")]
    return sorted((int(step), path) for path in paths if (step := path.name.rpartition("-")[2]).isdigit())


def complete_before(checkpoint: Path) -> list[Path]:
    """The complete checkpoints beside ``checkpoint`` that have fewer steps, in order."""
    step = int(checkpoint.name.rpartition("-")[2])
    return [path for other, path in _complete(checkpoint.parent) if other < step]


def is_final(checkpoint: Path) -> bool:
    """Whether training had reached its last step: a kill between the last checkpoint and the end of the run."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def publish(checkpoint: Path, folder: Path) -> None:
    """Copy the model and the processor of a checkpoint, without what only training needs, into ``folder``."""
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith(TRAINING_ONLY) and path.name != COMPLETE:
            shutil.copyfile(path, folder / path.name)


def trim_log(log: Path, step: int) -> None:
    """Drop the rows logged after ``step``: a resumed run will log those steps again."""
    if log.exists():
        rows = [row for row in read_jsonl(log) if row["step"] <= step]
        write_text_atomic(log, "".join(json.dumps(row) + "\n" for row in rows))


class EpochSampler(Sampler[int]):
    """A random sampler whose order in an epoch follows from seed and epoch alone.

    So a run that resumes in its third epoch sees the third epoch's order; a sampler with a running generator would give it
    the first one's. The epoch is read from the trainer's state when iteration begins: a resumed loader is a new object, and
    with several processes nobody tells the sampler inside it.
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
