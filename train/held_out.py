"""Held-out rows of the cold start: which rows are not trained on, and their loss.

``held_out: 0.05`` takes 5% of the usable rows out of training. Rows that share an image are on the same side, also through
further rows, and so are rows without an image that have the same prompt: a trace about an image that was trained on would say
little about others. ``eval_loss`` is the mean over the tokens that carry loss, and so it depends neither on the batch size nor
on the number of processes. Trainer's own is a mean of the means of batches.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from configs.errors import UserError
from configs.identity import fingerprint
from eval.figures import clusters_of
from train.data import IGNORED, Row

LOSS = "eval_loss"
"""The key of the held-out loss in the log."""


def evaluation_defaults(checked: Mapping[str, Any]) -> dict[str, Any]:
    """Trainer's keys about evaluation for a config that holds rows out; empty for another.

    The loss is measured before the first step and at each checkpoint, so that it tells which checkpoint to take. (If
    ``eval_steps`` is not given, Trainer would measure it as often as it logs.)
    """
    if not checked.get("held_out"):
        return {}
    saves = checked.get("save_strategy", "steps")
    batch = checked.get("per_device_train_batch_size")  # of which the memory is known to be enough
    return {
        "eval_strategy": "steps" if saves == "steps" else "epoch",
        "eval_on_start": True,
        **(
            {"eval_steps": checked["save_steps"]} if "save_steps" in checked else {"eval_steps": 500}
        ),  # Trainer's save_steps
        **({"per_device_eval_batch_size": batch} if batch else {}),
    }


def split_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The indices of the rows to train on and of those to hold out, each in the order of the rows.

    The split depends on the rows, ``share`` and ``seed`` only, not on where the files are. At least one group of rows that
    belong together is held out.

    Raises:
        UserError: all rows belong together, so that one side would be empty.
    """
    if not share:
        return list(range(len(rows))), []
    names = _image_names(image for row in rows for image in row.images)
    # An image that is shown in no other row is a group of its own, and so is a prompt without one.
    clusters = clusters_of(
        (index, [names[image] for image in row.images] or [f"prompt {row.prompt}"]) for index, row in enumerate(rows)
    )
    groups: dict[str, list[int]] = defaultdict(list)
    for index, cluster in clusters.items():
        groups[cluster].append(index)
    if len(groups) == 1:
        raise UserError(
            f"'held_out: {share}' needs rows about at least two images, and the usable rows ({len(rows)}) share images or a prompt "
            "with each other: remove 'held_out', or add rows about other images."
        )
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted, held_out = max(1, round(share * len(rows))), list[int]()
    for group in order:
        if len(held_out) + len(group) <= wanted:
            held_out += group
    smallest = min(order, key=len)
    held = set(held_out or smallest)
    return [index for index in range(len(rows)) if index not in held], sorted(held)


def _image_names(images: Iterable[str]) -> dict[str, str]:
    """Image -> a name that copies of it share. Only files of equal size are read, because others differ."""
    sizes: dict[str, int] = {}
    for image in images:
        try:
            sizes[image] = Path(image).stat().st_size
        except (OSError, ValueError):  # embedded in the row
            sizes[image] = -1
    often = Counter(sizes.values())
    return {image: image if size < 0 or often[size] == 1 else fingerprint(Path(image)) for image, size in sizes.items()}


class EvaluateAtEnd(TrainerCallback):
    """Measure the held-out loss after the last step too, whose number may be no multiple of ``eval_steps``."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.eval_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps:
            control.should_evaluate = True


class HeldOutTrainer(Trainer):
    """A trainer whose ``eval_loss`` is the mean over all tokens with a label, of all batches and processes."""

    _loss_sum, _tokens = 0.0, 0

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        tokens = int((inputs["labels"][:, 1:] != IGNORED).sum())  # the first position is predicted from nothing
        result = super().prediction_step(model, inputs, *args, **kwargs)
        if tokens and result[0] is not None:  # a batch of filler rows has none
            self._loss_sum, self._tokens = self._loss_sum + float(result[0]) * tokens, self._tokens + tokens
        return result

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._loss_sum, self._tokens = 0.0, 0
        with torch.random.fork_rng(
            devices=[]
        ):  # a loader draws a number when it starts, and training's must not change
            output: Any = super().evaluation_loop(*args, **kwargs)
        sums = torch.tensor([self._loss_sum, self._tokens], dtype=torch.float64)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        output.metrics[LOSS] = float(sums[0] / sums[1])
        return output


def held_out_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``eval_loss`` in the rows of a log: of the first and the last measurement, and the lowest with its step."""
    found = [(row[LOSS], row["step"]) for row in rows if row.get(LOSS) is not None]
    if not found:
        return {}
    best = min(found)
    return {
        f"{LOSS}_first": found[0][0],
        f"{LOSS}_last": found[-1][0],
        f"{LOSS}_lowest": best[0],
        f"{LOSS}_lowest_step": best[1],
    }
