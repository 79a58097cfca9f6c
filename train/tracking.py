"""Callbacks: a run's provenance sent to what tracks it, and a stop where sampling and training disagree."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from vlm.errors import UserError

GAP = "sampling/sampling_logp_difference/mean"


class Tracked(TrainerCallback):
    """Send a run's provenance to wandb and tensorboard: their own callbacks send TRL's arguments only.

    Args:
        known: what ``provenance`` returned; it is also in ``settings.json``.
        handler: the trainer's callback handler, among whose callbacks the integrations are.
    """

    def __init__(self, known: Mapping[str, Any], handler: Any) -> None:
        self.known, self.handler = dict(known), handler

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if "wandb" in args.report_to:
            import wandb

            if wandb.run is not None:
                wandb.run.config.update({"reflection_v": self.known}, allow_val_change=True)
        for callback in self.handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_text("reflection_v", f"```\n{json.dumps(self.known, indent=2)}\n```")


class StopAtGap(TrainerCallback):
    """End a run in which sampling and training disagree about the probabilities of the very same tokens.

    vLLM computes them with other kernels and types. A small difference is corrected for (importance sampling); a large one
    means other weights, another template or a broken kernel, and rewards that teach noise.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        gap = (logs or {}).get(GAP)
        if gap is not None and gap > self.bound:
            raise UserError(
                f"At step {state.global_step} the log-probabilities of sampling and of training differ by {gap:.3g} a token on "
                f"average, more than max_logprob_gap {self.bound:g}: check that vLLM serves this very model (revision, dtype, "
                "vllm_model_impl); raise the bound only if the gap is steady."
            )
