"""What TRL's code around vLLM leaves open: arguments of the colocated engine, and whether vLLM read the prompts of training."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from trl.generation import vllm_generation

from configs.errors import UserError
from vlm.images import pixel_settings
from vlm.load import VLM
from vlm.problem import Problem

NOT_SHOWN = ("video", "audio")
"""Kinds of input that no problem has."""


def engine_arguments(problems: Sequence[Problem], vlm: VLM, args: Any) -> dict[str, Any]:
    """What vLLM's ``LLM(...)`` needs beside TRL's arguments.

    Images come in the size in which training reads them, and vLLM's processor must not resize them again: its second resize
    changes an image where the limits are narrow, or where those of the config are not the model's own.

    At its start the engine runs a dummy prompt with as many inputs of each kind as a prompt may hold, to see how much memory is
    left for its cache. Without a limit that prompt holds a video too, which costs memory, and fails for processors that
    read videos otherwise than vLLM writes them.
    """
    # With a limit of 0 images vLLM would load no vision tower, and the weights of training's would have no place.
    most = max([len(problem.images) for problem in problems] + [1])
    given: dict[str, Any] = {"limit_mm_per_prompt": {"image": most} | dict.fromkeys(NOT_SHOWN, 0)}
    size = fitted_limits(vlm.processor)
    if size is not None:
        given["mm_processor_kwargs"] = {"size": size}
    if not (args.bf16 or args.fp16) and vlm.model.dtype == torch.float32:
        # vLLM runs weights of float32 in bfloat16 unless told otherwise, and would sample from another distribution.
        given["dtype"] = "float32"
    return given


def fitted_limits(processor: Any) -> dict[str, int] | None:
    """Pixel limits that every image made by ``fit_image`` keeps, so that a second resize leaves it as it is."""
    settings = pixel_settings(processor)
    if settings is None:
        return None
    factor, low, high = settings
    # Both sides are rounded up where an image is scaled up to min pixels, and the short side of a thin one, at most 200 to 1,
    # where it is scaled down to max pixels.
    scaled_up = low + factor * (math.sqrt(low * 200) + math.sqrt(low / 200)) + factor * factor
    scaled_down = factor * math.sqrt(high * 200)
    return {"shortest_edge": factor * factor, "longest_edge": math.ceil(max(high, scaled_up, scaled_down))}


@contextlib.contextmanager
def arguments_added(given: dict[str, Any]) -> Iterator[None]:
    """While TRL makes its trainer: its ``LLM(...)`` gets these arguments too. TRL has no way to pass them."""
    module: Any = vllm_generation
    engine = getattr(module, "LLM", None)
    if engine is None:  # vLLM is not installed, as TRL will say if it is needed
        yield
        return
    module.LLM = lambda **arguments: engine(**arguments, **given)
    try:
        yield
    finally:
        module.LLM = engine


def forget_image_features(generation: Any) -> None:
    """Drop what the colocated engine's vision tower made of images with earlier weights.

    The engine keeps it by image, and TRL resets only the cache of prefixes: where the tower or the merger is trained, an image that
    comes again would be sampled for with old features.
    """
    generation.llm.llm_engine.reset_encoder_cache()


@contextlib.contextmanager
def read_as_trained(generation: Any, prompt_ids: Sequence[list[int]], image_token: int | None) -> Iterator[None]:
    """While vLLM samples: end the run if the prompts that it read are not ``prompt_ids``, those that training reads.

    The gap between the log-probabilities would show it too, but as an average over all tokens it may stay below its bound.

    Args:
        generation: TRL's ``VLLMGeneration``.

    Raises:
        UserError: vLLM read other tokens, or a server other numbers of tokens for the images.
    """
    generate: Callable[..., Any] = generation.generate
    place: Callable[..., Any] = generation._place_features

    def checked(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        for read, trained in zip(result[0], prompt_ids, strict=True):
            if list(read) != list(trained):
                raise _other_prompt(_runs(read, image_token), _runs(trained, image_token))
        return result

    def checked_features(features: Any, trained: list[int]) -> Any:
        if features is not None:
            read = [one["length"] for one in features["mm_placeholders"]["image"]]
            if read != _runs(trained, image_token):
                raise _other_prompt(read, _runs(trained, image_token))
        return place(features, trained)

    generation.generate, generation._place_features = checked, checked_features
    try:
        yield
    finally:
        del generation.generate, generation._place_features


def _runs(ids: Sequence[int], token: int | None) -> list[int]:
    """The lengths of the runs of a token: the number of tokens of each image."""
    return [len(list(run)) for one, run in groupby(ids) if one == token]


def _other_prompt(read: list[int], trained: list[int]) -> UserError:
    if read != trained:
        return UserError(
            f"vLLM read images of {read} tokens in a prompt in which training reads {trained}, so it would sample for other images: "
            "it resized them. Set min_pixels and max_pixels within the limits of the model's own processor, or use_vllm: false."
        )
    return UserError(
        "vLLM read other tokens than training around the images of a prompt, so it would sample for another prompt: set "
        "use_vllm: false for this model."
    )
