"""Models on which the probe's numbers would be wrong are refused, before the first measurement."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import vlm.attention
import vlm.attention_traits
from benchmarks.families import FAMILIES, IMAGE, Family, finish
from configs.errors import UserError
from vlm import attention_check
from vlm.attention import AttentionMass
from vlm.attention_hook import observed

pytestmark = pytest.mark.seam


@pytest.fixture
def family() -> Family:
    return FAMILIES["qwen3_vl"]()


@contextlib.contextmanager
def another_branch(model: Any, when: str) -> Iterator[None]:
    """As in modelling code that notices the probe, and then computes something else."""

    def hook(layer: Any, args: Any, kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        known = not observed(layer.self_attn)
        step = output.shape[1] == 1
        return output if known or (when == "steps" and not step) or (when == "prefill" and step) else output * 2

    handle = model.get_decoder().layers[0].register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("when", ["prefill", "steps"])
def test_code_that_computes_something_else_is_refused(family: Family, when: str) -> None:
    batch = family.batch([1])
    stock = family.model(**batch).logits
    with another_branch(family.model, when):
        with pytest.raises(UserError, match="computes something else while the attention probe is entered"):
            AttentionMass(family.model, [0]).__enter__()
        # Refused, and left as it was: no observer, no generate() of the probe's.
        assert torch.equal(family.model(**batch).logits, stock)
        assert not any(observed(module) for module in family.model.modules())
        assert "generate" not in vars(family.model)
    with AttentionMass(family.model) as probe:  # a refusal is not remembered as a pass, nor as a failure
        family.model(**batch)
    assert probe.mass.isfinite().all()


def test_a_model_is_compared_once_and_left_as_it_was(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    logits = attention_check._logits
    monkeypatch.setattr(attention_check, "_logits", lambda model: runs.append(model) or logits(model))
    model, batch = family.model, family.batch([1])
    model(**batch)
    model.train()
    model.get_decoder().layers[0].eval()  # a frozen part may be in another mode than the rest
    modes = [module.training for module in model.modules()]
    deltas, random = model.model.rope_deltas.clone(), torch.get_rng_state()
    for _ in range(2):
        with AttentionMass(model):
            pass
    assert runs == [model, model]  # once without the probe and once with it, at the first entry alone
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.model.rope_deltas, deltas) and torch.equal(torch.get_rng_state(), random)
    with AttentionMass(FAMILIES["qwen3_vl"]().model):
        pass
    assert len(runs) == 4  # another model is asked anew


def test_the_check_reads_a_padded_prompt_two_cached_steps_and_a_plain_forward(family: Family) -> None:
    seen = []

    def note(body: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"]
        seen.append((tuple(kwargs["input_ids"].shape), None if mask is None else mask.sum().item()))

    hook = family.model.model.register_forward_pre_hook(note, with_kwargs=True)
    written, read = attention_check._logits(family.model)
    hook.remove()
    assert written.shape == (3, 2, 99) and read.shape == (2, attention_check.KEPT, 99)
    prompt = (2, attention_check.PROMPT)
    shown = attention_check.PROMPT * 2 - attention_check.PADDING
    assert seen == [(prompt, shown), ((2, 1), shown + 2), ((2, 1), shown + 4), (prompt, None)]


LOGITS = torch.tensor([[1.0, -4.0, 2.0]])


@pytest.mark.parametrize(
    ("stock", "probed", "wanted"),
    [
        (LOGITS, LOGITS, 0.0),
        (LOGITS, LOGITS + torch.tensor([0.0, 0.0, 0.1]), 0.025),
        (LOGITS, LOGITS[:, :2], torch.inf),
        # A masked token, as of a type's minimum, hides nothing and is no difference of its own.
        (torch.tensor([1.0, torch.finfo().min]), torch.tensor([3.0, torch.finfo().min]), 2.0),
        (torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, -torch.inf]), 0.0),
        (torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, 0.0]), torch.inf),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), torch.inf),
    ],
)
def test_differences(stock: torch.Tensor, probed: torch.Tensor, wanted: float) -> None:
    assert attention_check.difference([stock], [probed]) == pytest.approx(wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma4", "gemma4 (shared keys)"])
def test_gemma_4_is_exact_also_where_it_leaves_out_rows(name: str) -> None:
    """With ``logits_to_keep`` its layers that share keys compute the kept rows alone."""
    ids = torch.tensor([[1, 20, IMAGE, IMAGE, 30, 31, 32, 33, 34]] * 2)
    mask = torch.ones_like(ids)
    mask[1, :1] = 0  # with padding, Gemma 4 slices the mask and with it the rows
    model = FAMILIES[name]().model
    arguments = {"input_ids": ids, "attention_mask": mask}
    stock = model(**arguments, logits_to_keep=5).logits
    with AttentionMass(model, "all", rows=5) as kept:
        assert torch.equal(model(**arguments, logits_to_keep=5).logits, stock)
    with AttentionMass(model, "all", rows=5) as whole:
        model(**arguments)
    torch.testing.assert_close(kept.mass, whole.mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.lift, whole.lift, atol=1e-5, rtol=0)
    if name == "gemma4 (shared keys)":
        with AttentionMass(model, "all", rows=6), pytest.raises(UserError, match="computes 5 of the 9 rows"):
            model(**arguments, logits_to_keep=5)


def test_rows_that_are_left_out_are_refused(family: Family) -> None:
    module = family.model.get_decoder().layers[-1].self_attn
    states = torch.zeros(1, 4, 2, 8)
    with AttentionMass(family.model) as probe:
        span = vlm.attention_kernels.Positions.between(1, 0, 3, states.device)
        image = torch.zeros(1, 3, dtype=torch.bool)
        probe._forward = vlm.attention.ForwardRecorder(span, image, span, None, {2: (3, 0)}, 3, is_step=False)
        with pytest.raises(UserError, match="computes 2 of the 3 rows"):
            probe._observe(sdpa_attention_forward, module, states, states[:, :2], states[:, :2], None)


def test_a_model_without_attention_layers_is_refused_in_words(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm.attention_traits, "_attention_modules", lambda decoder: {})
    for layers in ("last", "all", [0]):
        with pytest.raises(UserError, match="no attention layer that the probe can read"):
            AttentionMass(family.model, layers)


def test_a_model_that_cannot_read_text_alone_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*args: Any, pixel_values: torch.Tensor, **kwargs: Any) -> None: ...

    monkeypatch.setattr(family.model, "generate", generate)
    with pytest.raises(UserError, match="generation from text alone fails"):
        AttentionMass(family.model).__enter__()


@pytest.mark.parametrize("name", ["mllama", "florence2", "blip-2 (t5)", "instructblip (t5)"])
def test_attention_of_another_kind_is_refused_without_weights(name: str) -> None:
    with torch.device("meta"):
        model = FAMILIES[name]().model
    with pytest.raises(UserError, match="through cross-attention"):
        AttentionMass(model)


def test_keys_that_are_not_the_texts_are_refused(family: Family) -> None:
    """Cross-attention under any name: the layer's keys are others than the tokens of the text."""
    module = family.model.get_decoder().layers[-1].self_attn
    query, keys = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 5, 8)
    with AttentionMass(family.model) as probe:
        span = vlm.attention_kernels.Positions.between(1, 0, 3, query.device)
        image = torch.zeros(1, 3, dtype=torch.bool)
        probe._forward = vlm.attention.ForwardRecorder(span, image, span, None, {2: (3, 0)}, 3, is_step=False)
        with pytest.raises(UserError, match="attends to 5 keys where the text has 3"):
            probe._observe(sdpa_attention_forward, module, query, keys, keys, None)


def test_a_layer_without_a_cache_of_its_own_is_refused_in_words(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where layers share the keys of an earlier one (Gemma 3n, Gemma 4): the cache raises a ValueError of its own."""
    with AttentionMass(family.model):
        pass

    def sizes(cache: Any, length: int, layer: int) -> tuple[int, int]:
        raise ValueError("DummyLayer has no size")

    monkeypatch.setattr(transformers.DynamicCache, "get_mask_sizes", sizes)
    cache: Any = transformers.DynamicCache()
    with pytest.raises(UserError, match="the cache has no keys of layer 2"):
        vlm.attention._key_sizes(cache, 3, 2)


def test_gemma_reads_text_alone() -> None:
    """The check's prompt has no image, which families with bidirectional image attention must take too."""
    model = finish(FAMILIES["gemma3"]().model)
    with AttentionMass(model, "all"):
        pass
