"""Numbers that are not finite (NaN, infinity): found in tensors, and in the scores from which a model takes its next token."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from configs.errors import UserError


class NotFinite(UserError):
    """A model or a run has produced NaN or infinity: the run cannot continue."""


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None where all are finite.

    Tensors without values here (on the meta device, or sharded to other processes) and integers are skipped.
    """
    named = [(name, _local(tensor)) for name, tensor in tensors]
    named = [(name, tensor) for name, tensor in named if _has_numbers(tensor)]
    # All tensors are reduced to one number first, because each read of a number waits for the GPU.
    if not named or math.isfinite(largest([tensor for _, tensor in named])):
        return None
    return next((name for name, tensor in named if not math.isfinite(largest([tensor]))), None)


def largest(tensors: list[Tensor]) -> float:
    """The largest absolute value in ``tensors``; NaN where one of them holds NaN."""
    return float(nn.utils.get_total_norm(tensors, norm_type=math.inf))


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _has_numbers(tensor: Tensor) -> bool:
    # Types of one byte (quantized weights) have no norm, and mostly no infinity.
    floating = tensor.is_floating_point() and tensor.element_size() > 1
    return floating and tensor.numel() > 0 and tensor.device.type != "meta"


def check_loaded(model: nn.Module, name: str) -> None:
    """Refuse a model whose weights hold NaN or infinity: it would repeat one token for ever, or write none.

    Raises:
        NotFinite: with the first such weight.
    """
    if (lost := first_not_finite(model.named_parameters())) is not None:
        raise NotFinite(broken_model(name, lost))


def broken_model(name: str, tensor: str) -> str:
    """The message for a loaded model whose ``tensor`` holds NaN or infinity."""
    return (
        f"The weights of {name} hold NaN or infinity ({tensor}): the training that wrote them had diverged, or the file is "
        "damaged. Use an earlier checkpoint, or restore the folder."
    )


@contextlib.contextmanager
def finite_scores(model: Any, name: str) -> Iterator[None]:
    """Inside this, ``model.generate`` ends with a sentence where the scores of a next token are NaN or infinite.

    Greedy decoding would write token 0 for ever, and sampling fails in ``torch.multinomial``; on a GPU as an assertion of
    the device, after which the process can use the GPU no more.

    Raises:
        NotFinite: inside of ``generate``.
    """

    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None and not bool(logits[:, -1].amax(-1).isfinite().all()):
            raise NotFinite(
                f"{name} gives NaN or infinity as scores of the next token: its weights are damaged, or its numbers overflow. "
                "Use an earlier checkpoint, or compute in float32 (dtype: float32, precision: float32)."
            )

    handle = (model.get_base_model() if hasattr(model, "get_base_model") else model).register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()
