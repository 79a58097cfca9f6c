"""What ends a generation before the model does: budgets, a person, and a response that repeats itself."""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from vlm.repetition import repeats_itself
from vlm.thinking import decode


class Budgets(StoppingCriteria):
    """Each row stops at its own number of tokens."""

    def __init__(self, start: int, budgets: Sequence[int], device: torch.device) -> None:
        self.start, self.budgets = start, torch.tensor(budgets, device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return input_ids.shape[1] - self.start >= self.budgets  # type: ignore[return-value]


class RepetitionStop(StoppingCriteria):
    """Stops each row that repeats itself, after as many tokens as ``stopped`` then holds for it."""

    EVERY = 16
    READ = 3_000  # tokens; in most tokenizers more than ``WINDOW`` characters

    def __init__(self, start: int, tokenizer: Any, ends: set[int]) -> None:
        self.start, self.tokenizer, self.ends = start, tokenizer, ends
        self.stopped: dict[int, int] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        count = input_ids.shape[1] - self.start
        if count % self.EVERY == 0:
            for row, tokens in enumerate(input_ids[:, self.start :].tolist()):
                # What follows the end token is padding, which would look like a loop.
                if row in self.stopped or not self.ends.isdisjoint(tokens):
                    continue
                if repeats_itself(decode(self.tokenizer, tokens[-self.READ :])):
                    self.stopped[row] = count
        over = [row in self.stopped for row in range(len(input_ids))]
        return torch.tensor(over, device=input_ids.device)  # type: ignore[return-value]


class StopSwitch(StoppingCriteria):
    """Stops a whole batch after the token under way once ``event`` is set, from whatever thread."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)  # type: ignore[return-value]
