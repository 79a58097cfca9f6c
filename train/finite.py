"""Finite checks: a run stops at the first loss, gradient or weight that is NaN or infinite.

Only finite weights are saved, so a run can resume from its last checkpoint, and the same command then stops with the same
message. transformers alone would log the mean of the earlier losses in place of a NaN, train to the last step, and save the
result.

- The loss is checked before its backward, because DeepSpeed's backward also takes the optimizer's step.
- Gradients are checked before clipping, which would spread one NaN over all of them. With an infinite norm it would set all of
  them to 0, and the step would change nothing.
- Weights are checked after each step, before each save, and when a run resumes from a checkpoint.

All processes stop at the same place: a process that continues alone would wait for the others forever.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from train.checkpoints import complete_before, last_checkpoint
from train.distributed import whole, world_size
from vlm.finite import NotFinite, broken_model, finite_scores, first_not_finite, largest
from vlm.load import VLM

T = TypeVar("T")
NUMBERS = "numbers"
"""The key of a batch that holds the numbers of its rows (or problems)."""
SHOWN = 8
SMALLEST_SCALE = 2.0**-10
"""float16 halves its loss scale at each overflow. Starting at 65536, it falls this low only if every step overflows."""


class Numbered:
    """A collator that adds the numbers of the rows to each batch, so that an error can name them."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collate(features), NUMBERS: torch.tensor([feature["index"] for feature in features])}


class FiniteTrainer(Trainer):
    """A trainer that stops at the first loss or gradient that is not finite, and saves only finite weights."""

    model: Any  # the trainer's own types allow None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        numbers = inputs.get(NUMBERS)
        result = super().compute_loss(model, {k: v for k, v in inputs.items() if k != NUMBERS}, *args, **kwargs)
        loss = (result[0] if isinstance(result, tuple) else result).detach()
        if model.training:
            lost = None if bool(loss.isfinite().all()) else "NaN" if bool(loss.isnan().any()) else "infinite"
            rows = self.row_names(numbers.tolist()) if lost and numbers is not None else ""
            self.stop_if(lost and f"the loss is {lost}", rows)
        return result

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.stop_if(self._lost_gradient())
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        lost = first_not_finite_weight(self.model)
        self.stop_if(lost and f"the weight {lost} holds NaN or infinity", step=self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def finite_sample(self, generate: Callable[[], T]) -> T:
        """Return what ``generate`` returns, or end the run if the scores that the model samples from are not finite.

        Raises:
            NotFinite: in all processes.
        """
        lost, sampled = None, None
        try:
            with finite_scores(self.accelerator.unwrap_model(self.model), "the model"):
                sampled = generate()
        except NotFinite:
            if is_deepspeed_zero3_enabled():  # the others wait for this process at their next token, and end with it
                raise
            lost = "the scores of the next token, from which responses are sampled, are NaN or infinite"
        self.stop_if(lost)
        return sampled  # type: ignore[return-value]

    def stop_if(self, lost: str | None, rows: str = "", step: int | None = None) -> None:
        """End the run in all processes if ``lost`` names, in any of them, something that is not finite.

        Args:
            rows: the rows that it was computed from, if they are known.
            step: the step that produced it. By default the current one.

        Raises:
            NotFinite: with the message of the first such process.
        """
        found = of_any_process((lost, rows) if lost else None, self.args.device)
        if found is not None:
            raise NotFinite(diverged(self.args, self.state.global_step + 1 if step is None else step, *found))

    def row_names(self, numbers: Sequence[int]) -> str:
        """The names of a batch's rows in the user's file; empty if they are not known."""
        return ""

    def _lost_gradient(self) -> str | None:
        """What is not finite in the gradient of a step, before clipping; with DeepSpeed, after its step."""
        if self.is_deepspeed_enabled:
            norm = None if self.args.fp16 else self.accelerator.clip_grad_norm_([], math.inf)
            # Releases before 0.19 return -1 for a norm that is not finite.
            finite = norm is None or 0 <= float(norm) < math.inf
            return None if finite else "the gradient holds NaN or infinity"
        if (scaler := self.accelerator.scaler) is not None:
            # float16 detects overflowing gradients itself, skips their step and lowers the loss scale.
            small = scaler.get_scale() < SMALLEST_SCALE
            return "the gradient holds NaN or infinity at every loss scale of float16" if small else None
        named = [(name, weight.grad) for name, weight in self.model.named_parameters() if weight.grad is not None]
        gradients = [gradient for _, gradient in named]
        if not gradients or bool(nn.utils.get_total_norm(gradients).isfinite()):
            return None
        if (lost := first_not_finite(named)) is not None:
            return f"the gradient of {lost} holds NaN or infinity"
        return f"the norm of the gradient overflows (its largest number is {largest(gradients):.3g})"


class FiniteWeights(TrainerCallback):
    """Checks the weights after each step, and weights and optimizer state when a run resumes.

    Args:
        trainer: the trainer of the model.
        checkpoint: the checkpoint that the run resumes from.
    """

    def __init__(self, trainer: FiniteTrainer, checkpoint: Path | None) -> None:
        self.trainer, self.checkpoint = trainer, checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.checkpoint is None:
            return
        lost = first_not_finite_weight(self.trainer.model, frozen=True)
        lost = lost or first_not_finite(_state_of(self.trainer.optimizer))
        if (lost := of_any_process(lost, args.device)) is not None:
            raise NotFinite(bad_checkpoint(self.checkpoint, lost))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Under ZeRO-3 a weight is empty here; it is checked before it is saved.
        named = ((name, weight) for name, weight in self.trainer.model.named_parameters() if weight.requires_grad)
        lost = first_not_finite(named)
        self.trainer.stop_if(lost and f"the weight {lost} holds NaN or infinity", step=state.global_step)


def first_not_finite_weight(model: nn.Module, frozen: bool = False) -> str | None:
    """The name of the first weight with NaN or infinity, also under ZeRO-3, where all processes must call it."""
    weights = [(name, weight) for name, weight in model.named_parameters() if frozen or weight.requires_grad]
    if not any(hasattr(weight, "ds_id") for _, weight in weights):
        return first_not_finite(weights)
    found = None
    for name, weight in weights:
        with whole(weight):  # in all processes, whatever was found before
            found = found or first_not_finite([(name, weight)])
    return found


def check_start(vlm: VLM) -> None:
    """Under ZeRO-3, refuse a start model whose weights are not finite. Its loader, which checks otherwise, sees no sharded weights.

    Raises:
        NotFinite: names the first such weight.
    """
    if is_deepspeed_zero3_enabled() and (lost := first_not_finite_weight(vlm.model, frozen=True)) is not None:
        raise NotFinite(broken_model(vlm.name, lost))


def _state_of(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    for values in optimizer.state.values():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, Tensor):
                yield f"the optimizer's {name}", value


def of_any_process(found: T | None, device: Any) -> T | None:
    """The first process's ``found`` that is not None, returned in all processes."""
    if world_size() == 1:
        return found
    flag = torch.tensor(float(found is not None), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    if not flag.item():
        return None
    everyone: list[T | None] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, found)
    return next(one for one in everyone if one is not None)


def diverged(args: Any, step: int, lost: str, rows: str = "") -> str:
    """The message for a run that has diverged at ``step``."""
    kept = last_checkpoint(args.output_dir, remove_torn=False)
    saved = f"The checkpoint of step {kept[1]} is kept" if kept else "No checkpoint had been saved"
    lower = "lower learning_rate or max_grad_norm" + (", or take precision: float32," if args.bf16 or args.fp16 else "")
    remedy = f"Look at {rows}, or {lower}" if rows else f"{lower[0].upper()}{lower[1:]}"
    where = f" ({rows})" if rows else ""
    return (
        f"Training has diverged: at step {step} {lost}{where}. {saved}, and no model is published. {remedy} in another "
        "output_dir."
    )


def shortened(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def bad_checkpoint(checkpoint: Path, lost: str) -> str:
    """The message for a complete checkpoint (of an earlier version) that holds numbers that are not finite."""
    names, count = lost_in_files(checkpoint)
    where = f"{len(names)} of {count} tensors ({names[0]}{', ...' if len(names) > 1 else ''})" if names else lost
    before = [path for path in complete_before(checkpoint) if not lost_in_files(path)[0]]
    then = f"then resumes from {before[-1].name}" if before else "then begins again"
    return (
        f"{checkpoint} holds NaN or infinity in {where}: training had diverged before it was saved, so it is neither resumed from "
        f"nor published. Remove that folder, and the same command {then}; or train in another output_dir with a lower "
        "learning_rate."
    )


def check_published(checkpoint: Path) -> None:
    """Refuse to publish a checkpoint whose weights are not finite.

    Raises:
        NotFinite: names the number of such tensors.
    """
    if names := lost_in_files(checkpoint)[0]:
        raise NotFinite(bad_checkpoint(checkpoint, names[0]))


def lost_in_files(folder: Path) -> tuple[list[str], int]:
    """The names of a folder's saved tensors that are not finite, and the number of all tensors."""
    from safetensors import safe_open

    names, count = [], 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                count += 1
                names += [name] if first_not_finite([(name, tensors.get_tensor(name))]) else []
    return names, count
