"""The arguments of the colocated vLLM engine that TRL does not pass."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from trl.generation import vllm_generation

from vlm.problem import Problem

NOT_SHOWN = ("video", "audio")
"""Kinds of input that no problem has."""


def engine_arguments(problems: list[Problem], model: Any, args: Any) -> dict[str, Any]:
    """What vLLM's ``LLM(...)`` needs beside TRL's arguments.

    At its start the engine runs a dummy prompt with as many inputs of each kind as a prompt may hold, to see how much memory is
    left for its cache. Without a limit that prompt holds a video too, which costs memory, and fails for processors that
    read videos otherwise than vLLM writes them.
    """
    # With a limit of 0 images vLLM would load no vision tower, and the weights of training's would have no place.
    most = max([len(problem.images) for problem in problems] + [1])
    given: dict[str, Any] = {"limit_mm_per_prompt": {"image": most} | dict.fromkeys(NOT_SHOWN, 0)}
    if not (args.bf16 or args.fp16) and model.dtype == torch.float32:
        # vLLM runs weights of float32 in bfloat16 unless told otherwise, and would sample from another distribution.
        given["dtype"] = "float32"
    return given


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
