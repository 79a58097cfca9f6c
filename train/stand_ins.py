"""What TRL is given in place of a processor, of reward functions and of generation settings."""

import copy
from collections.abc import Callable
from typing import Any

from transformers import BatchFeature


def encoded_once(processor: Any) -> Any:
    """A copy of the processor that returns the batch that was encoded last.

    TRL calls the processor a second time for the images of the prompts that it has just tokenized, which would process them
    twice, and in the processor's own size. Here it gets the result of ``vlm.chat.encode``.
    """

    def encoded_batch(self: Any, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        if self.encoded is None:  # TRL tries a chat template with tools before there is a batch
            return processor(images=images, text=text, **options)
        assert len(text) == len(self.encoded["input_ids"])
        return BatchFeature(dict(self.encoded))

    stand_in = copy.deepcopy(processor)
    kind = type(processor)
    stand_in.__class__ = type(f"Encoded{kind.__name__}", (kind,), {"__call__": encoded_batch, "encoded": None})
    return stand_in


def named_stand_in(term: str) -> Callable[..., list[float | None]]:
    """A stand-in with a term's name: TRL needs a function per reward, but ``_calculate_rewards`` computes them together."""

    def stand_in(*_: Any, **__: Any) -> list[float | None]:
        raise NotImplementedError(f"{term} is computed by VisualGRPOTrainer._calculate_rewards")

    stand_in.__name__ = term
    return stand_in


def without_image_tokens(args: Any, tokens: list[int]) -> dict[str, Any]:
    """Generation settings that never sample an image token: the next forward would expect an image for it."""
    given = dict(args.generation_kwargs or {})
    if args.use_vllm:  # vLLM has no suppress_tokens
        bias = dict.fromkeys(tokens, -100.0)
        return {**given, "logit_bias": {**bias, **(given.get("logit_bias") or {})}}
    return {**given, "suppress_tokens": sorted({*tokens, *(given.get("suppress_tokens") or [])})}
