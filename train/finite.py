"""Whether a run is still finite: it stops at the first loss, gradient or weight that is NaN or infinite.

Nothing that is not finite is ever saved, so the last checkpoint of a run is one to resume from, and the same command ends with
the same sentence. transformers, left to itself, logs the mean of the losses before in place of a NaN, goes on to the last step,
and saves what is left.

- The loss is looked at before its backward: with DeepSpeed the backward takes the optimizer's step as well.
- Gradients are looked at before they are clipped: clipping spreads one NaN over all of them, and an infinite norm makes all
  of them 0, which is a step that teaches nothing.
- Weights are looked at after each step, before each save, and when a run resumes from a checkpoint.

All processes stop at the same place: one that goes on alone would wait for the others for ever.
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
"""The key of a batch under which the numbers of its rows (or problems) stand."""
SHOWN = 8
SMALLEST_SCALE = 2.0**-10
"""float16 halves its loss scale at each gradient that overflows; from 65536, it gets here only if all of them do."""


class Numbered:
    """A collator whose batches say which rows they hold."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collate(features), NUMBERS: torch.tensor([feature["index"] for feature in features])}


class FiniteTrainer(Trainer):
    """A trainer that stops at the first loss or gradient that is not finite, and saves finite weights only."""

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
        """What ``generate`` returns; the end of the run where the model gives no finite scores to sample from.

        Raises:
            NotFinite: in all processes.
        """
        lost, sampled = None, None
        try:
            with finite_scores(self.accelerator.unwrap_model(self.model), "the model"):
                sampled = generate()
        except NotFinite:
            if is_deepspeed_zero3_enabled():  # the others wait for this one at their next token, and end when it does
                raise
            lost = "the scores of the next token, from which responses are sampled, are NaN or infinite"
        self.stop_if(lost)
        return sampled  # type: ignore[return-value]

    def stop_if(self, lost: str | None, rows: str = "", step: int | None = None) -> None:
        """End the run in all processes if ``lost`` says in any of them what is not finite.

        Args:
            rows: that it was computed from, where they are known.
            step: that it came of; the one under way where not given.

        Raises:
            NotFinite: with what the first such process says.
        """
        found = of_any_process((lost, rows) if lost else None, self.args.device)
        if found is not None:
            raise NotFinite(diverged(self.args, self.state.global_step + 1 if step is None else step, *found))

    def row_names(self, numbers: Sequence[int]) -> str:
        """What the rows of a batch are called in the user's file; nothing where that is not known."""
        return ""

    def _lost_gradient(self) -> str | None:
        """What is not finite of the gradient of a step, before it is clipped; with DeepSpeed, after its step was taken."""
        if self.is_deepspeed_enabled:
            norm = None if self.args.fp16 else self.accelerator.clip_grad_norm_([], math.inf)
            # Releases before 0.19 say -1 of a norm that is not finite.
            finite = norm is None or 0 <= float(norm) < math.inf
            return None if finite else "the gradient holds NaN or infinity"
        if (scaler := self.accelerator.scaler) is not None:
            # float16 looks for gradients that overflow by itself, leaves their step out and scales the loss down.
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
    """Looks at the weights after each step, and at what a run resumes from.

    Args:
        trainer: whose weights they are.
        checkpoint: that the run resumes from.
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
        # A weight that ZeRO-3 shards has no values here; it is looked at before it is saved.
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
    """Refuse a start model whose weights are not finite, also where ZeRO-3 has sharded them, which hides them from its loader.

    Raises:
        NotFinite: with the first such weight.
    """
    if is_deepspeed_zero3_enabled() and (lost := first_not_finite_weight(vlm.model, frozen=True)) is not None:
        raise NotFinite(broken_model(vlm.name, lost))


def _state_of(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    for values in optimizer.state.values():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, Tensor):
                yield f"the optimizer's {name}", value


def of_any_process(found: T | None, device: Any) -> T | None:
    """What the first process has found that has found anything; the same in all of them."""
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
    """What to say of a run that has diverged at ``step``."""
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
    """What to say of a checkpoint that is marked as complete (by an earlier version) and holds numbers that are not finite."""
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
        NotFinite: with the number of such tensors.
    """
    if names := lost_in_files(checkpoint)[0]:
        raise NotFinite(bad_checkpoint(checkpoint, names[0]))


def lost_in_files(folder: Path) -> tuple[list[str], int]:
    """Names of the saved tensors of a folder that are not finite, and the number of all."""
    from safetensors import safe_open

    names, count = [], 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                count += 1
                names += [name] if first_not_finite([(name, tensors.get_tensor(name))]) else []
    return names, count
