"""Does a model compute the same with the attention probe as without it? Asked once a model, before its first measurement.

Some modelling code takes another branch when the attention implementation has a name that it does not know. Entering the
probe would then change what the model writes, and the mass would be that of another model. So a short generation (a
left-padded prefill and two steps with the cache) runs without and with the probe, and the logits are compared.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from vlm.errors import UserError

PROMPT, PADDING, STEPS = 8, 3, 3
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
HALF_TOLERANCE = 2e-2

_CHECKED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def check_once(model: PreTrainedModel, probe: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
    """Compare the logits of ``model`` with and without the probe; a model that has passed is not asked again.

    It costs two generations of three tokens over prompts of eight. The model's mode, its buffers of a forward and the random
    numbers stay what they were. Under DeepSpeed and FSDP every rank must call it, as every rank enters the probe.

    Args:
        probe: makes the context manager that installs the probe.

    Raises:
        UserError: the logits differ by more than rounding, or the model cannot generate from text alone.
    """
    if model in _CHECKED:
        return
    name = type(model).__name__
    with torch.no_grad(), _as_it_was(model):
        try:
            stock = _generate(model)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"the attention probe could not be checked on {name}: a short generation from text alone fails ({reason}), so "
                "its numbers cannot be trusted there; use another model."
            ) from error
        with probe():
            probed = _generate(model)
    scale = max(1.0, float(stock.abs().max()))
    apart = float((stock - probed).abs().max()) / scale if stock.shape == probed.shape else torch.inf
    if not apart <= TOLERANCE.get(model.dtype, HALF_TOLERANCE):
        raise UserError(
            f"{name} computes something else while the attention probe is entered (its logits move by {apart * scale:.2g}): its code "
            "depends on the name of the attention implementation, so its attention mass cannot be measured; use another model."
        )
    _CHECKED.add(model)


def _generate(model: PreTrainedModel) -> torch.Tensor:
    """The logits of the prefill and of the cached steps, float32 (steps, 2, vocabulary)."""
    words = _words(model, PROMPT + STEPS)
    ids = torch.tensor([words[:PROMPT], words[:PROMPT]], device=model.device)
    mask = torch.ones_like(ids)
    mask[1, :PADDING] = 0
    ids[1, :PADDING] = words[-1]
    settings = GenerationConfig(
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        repetition_penalty=1.0,
        pad_token_id=words[-1],
        output_logits=True,
        return_dict_in_generate=True,
    )
    out: Any = model.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=[_Forced(words[PROMPT:])]
    )
    return torch.stack(out.logits).float().nan_to_num()


def _words(model: PreTrainedModel, count: int) -> list[int]:
    """Ordinary token ids, spread over the vocabulary: none that the model's configs name as special."""
    configs: list[Any] = [model.config, model.config.get_text_config(), model.generation_config]
    special: set[int] = set()
    for config in configs:
        for name, value in config.to_dict().items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                special |= {
                    token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)
                }
    size = model.config.get_text_config().vocab_size
    # From the middle of the vocabulary on: special tokens stand at its ends.
    candidates = (size // 2 + step * 7 for step in range(size))
    return [token % size for token in candidates if token % size not in special][:count]


class _Forced(LogitsProcessor):
    """Writes the given tokens, whatever the logits are: both runs then read the same."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = list(tokens)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens.pop(0)] = 0
        return forced  # type: ignore[return-value]


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's mode, and what a forward leaves behind on modules, as before.

    Qwen's models keep the offset of their positions (``rope_deltas``) from one forward to the next.
    """
    modules = list(model.modules())
    training = [module.training for module in modules]
    kept = [
        {name: value for name, value in vars(module).items() if value is None or isinstance(value, torch.Tensor)}
        for module in modules
    ]
    random = torch.get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode, values in zip(modules, training, kept, strict=True):
            module.training = mode
            vars(module).update(values)
        torch.set_rng_state(random)
