"""What a user should see while GRPO trains, not only afterwards in ``log.jsonl``: steps from which nothing can be learned."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from reward.aggregate import source_of

CONSTANT = "frac_reward_zero_std"
"""TRL's share of groups whose responses all have one reward."""


class ConsoleWarnings(TrainerCallback):
    """Print a warning, each kind once in a run, for what ``cut_off``, ``not_judged``, ``crashed`` and constant groups mean.

    Args:
        trainer: has ``rows``, the responses of the last batch (``reward.aggregate.row_of``) of all processes, the
            ``composition`` of the rewards, and the user's ``own`` rewards.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.said, self.judged = trainer, set[str](), set[str]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = getattr(self.trainer, "rows", None)
        if not rows or not state.is_world_process_zero:
            return
        weighted = sorted({source_of(name) for name, term in self.trainer.composition.items() if term.weight})
        self._say("cut off", cut_off(rows, args.max_completion_length))
        for name in weighted:
            why = getattr(self.trainer.own.get(name), "crash", None)
            self._say(f"crash {name}", crashed(rows, name, why))
            if any(row["scores"].get(name, 0.0) is not None for row in rows):
                self.judged.add(name)
            elif name not in self.judged:
                self._say(f"unjudged {name}", not_judged(rows, name))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and (logs or {}).get(CONSTANT) == 1:
            self._say(
                "constant",
                f"at step {state.global_step} all responses to a prompt have the same reward, in every group, so the step teaches "
                "nothing. If this goes on, use prompt_selection, other problems, or a higher temperature.",
            )

    def _say(self, kind: str, sentence: str | None) -> None:
        if sentence is not None and kind not in self.said:
            self.said.add(kind)
            print(f"warning: {sentence}", flush=True)


def cut_off(rows: Sequence[Mapping[str, Any]], limit: int) -> str | None:
    """The warning if no response of a batch ended by itself."""
    if any(row["finished"] for row in rows):
        return None
    return (
        f"all {len(rows)} responses of a step were cut off at max_completion_length {limit}, so none gives a whole answer: raise "
        "max_completion_length, or check that the model ends its turns."
    )


def crashed(rows: Sequence[Mapping[str, Any]], name: str, why: str | None = None) -> str | None:
    """The warning if the process of a user's reward ended before it replied.

    Args:
        why: the signal or the exit code by which it ended last.
    """
    count = sum(f"{name}/crash" in row["parts"] for row in rows)
    if not count:
        return None
    return (
        f"the reward '{name}' crashed at {count} of {len(rows)} responses (its process ended{f' by {why}' if why else ''}), which it "
        f"therefore does not judge; '{name}/crash' in log.jsonl is logged for such steps. Look for native code or an exit in it."
    )


def not_judged(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The warning for a reward that has judged no response since the run began."""
    reasons = {"timed out": "timeout", "crashed": "crash"}
    counts = {words: sum(f"{name}/{part}" in row["parts"] for row in rows) for words, part in reasons.items()}
    shown = ", ".join(f"{n} {words}" for words, n in counts.items() if n)
    return (
        f"the reward '{name}' has judged none of the {len(rows)} responses so far{f' ({shown})' if shown else ''}, so it pays nothing: "
        "docs/rewards.md says what each reward needs (an image, a closed thinking span, facts); a function of your own returned None."
    )
