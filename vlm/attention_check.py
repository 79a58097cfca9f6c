"""Checks that the attention probe reads a model and does not change it: once per model, before its first measurement.

A short generation (a left-padded prefill and two steps with the cache) and a forward without padding and cache run without the
probe and with it. The logits must be the same, and the probe must have recorded both: what a model's code does is not known
from its config alone, and a refusal must come before the work.
"""

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from configs.errors import UserError
from vlm.load import evaluation_mode

PROMPT, PADDING, STEPS = 8, 3, 3
KEPT = 4
"""Logits that the forward keeps, where a model can keep some: another branch in some families."""
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
HALF_TOLERANCE = 8e-3
"""Of the largest logit. Both runs call the same kernels, so only kernels that add up in any order may differ at all."""
EXTREME = 1e30
"""Larger logits are masks: some models write a type's minimum over tokens that are never to be written."""

_CHECKED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def check_once(model: PreTrainedModel, probe: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
    """Run ``model`` with and without the probe and compare; a model that has passed is not checked again.

    It costs twice a generation of three tokens and a forward, over prompts of eight tokens. The model's mode, what a forward
    stores on it and the random state are restored. Under DeepSpeed and FSDP every rank must call it, as every
    rank enters the probe; a rank that refuses ends with the sentence, and the launcher ends the others.

    Args:
        probe: makes the context manager that installs the probe.

    Raises:
        UserError: the logits differ by more than rounding, the model cannot read text alone, or its ``generate()`` passes by the
            forward in which the probe finds the image tokens.
    """
    if model in _CHECKED:
        return
    name = type(model).__name__
    with torch.no_grad(), _as_it_was(model):
        try:
            stock = _logits(model)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"the attention probe could not be checked on {name}: a short generation from text alone fails ({reason}), so "
                "its numbers cannot be trusted there; use another model."
            ) from error
        with probe() as entered:
            probed = _logits(model)
    if len(entered.recordings) != 2:
        raise UserError(
            f"generate() of {name} hands its text on as embeddings, past the forward in which the attention probe finds the image "
            "tokens, so their attention mass cannot be measured; use another model."
        )
    apart = difference(stock, probed)
    if not apart <= TOLERANCE.get(model.dtype, HALF_TOLERANCE):
        raise UserError(
            f"{name} computes something else while the attention probe is entered (its logits move by {apart:.2g} of the largest), so "
            "its attention mass cannot be measured; use another model."
        )
    _CHECKED.add(model)


def difference(stock: list[torch.Tensor], probed: list[torch.Tensor]) -> float:
    """The largest difference of the logits as a share of the largest logit; infinite if they cannot be compared.

    Masked logits (infinite, or of a type's minimum) must be the same ones, and are left out of the rest.
    """
    worst = 0.0
    for one, other in zip(stock, probed, strict=True):
        usual = one.isfinite() & (one.abs() < EXTREME)
        if (
            one.shape != other.shape
            or not usual.any()
            or not torch.equal(usual, other.isfinite() & (other.abs() < EXTREME))
        ):
            return torch.inf
        worst = max(worst, float((one - other)[usual].abs().max() / one[usual].abs().max().clamp(min=1e-6)))
    return worst


def _logits(model: PreTrainedModel) -> list[torch.Tensor]:
    """Logits in float32: of the prefill and the cached steps (steps, 2, vocabulary), and of a plain forward."""
    words = _words(model, PROMPT + STEPS)
    ids = torch.tensor([words[:PROMPT], words[:PROMPT]], device=model.device)
    mask = torch.ones_like(ids)
    mask[1, :PADDING] = 0
    padded = ids.masked_fill(mask == 0, words[-1])
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
    written: Any = model.generate(  # type: ignore[operator]
        input_ids=padded, attention_mask=mask, generation_config=settings, logits_processor=[_Forced(words[PROMPT:])]
    )
    kept = {"logits_to_keep": KEPT} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    read = model(input_ids=ids, use_cache=False, **kept)
    return [torch.stack(written.logits).float(), read.logits.float()]


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
    """Evaluation mode inside; afterwards each module's mode, and the tensors that a forward stores on modules, are restored.

    Qwen's models keep the offset of their positions (``rope_deltas``) from one forward to the next.
    """
    modules = list(model.modules())
    kept = [
        {name: value for name, value in vars(module).items() if value is None or isinstance(value, torch.Tensor)}
        for module in modules
    ]
    random = torch.get_rng_state()
    try:
        with evaluation_mode(model):
            yield
    finally:
        for module, values in zip(modules, kept, strict=True):
            vars(module).update(values)
        torch.set_rng_state(random)
