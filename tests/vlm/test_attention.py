"""The attention probe on one family: rows, layers, forms, wrappers, training, generation, and what it refuses."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import vlm.attention
import vlm.attention_kernels
from benchmarks.families import FAMILIES, IMAGE, TEXT, Family
from benchmarks.families.qwen import qwen3_vl
from configs.errors import UserError
from vlm.attention import AttentionMass, image_token_mask, response_mass
from vlm.attention_hook import observed

pytestmark = pytest.mark.seam


@pytest.fixture(scope="module")
def family() -> Family:
    return qwen3_vl()


@pytest.fixture
def fresh() -> Family:
    """For tests that change the model."""
    return qwen3_vl()


@pytest.fixture
def batch(family: Family) -> dict[str, torch.Tensor]:
    return family.batch([1, 2], [5, 9])


def recorded(model: torch.nn.Module, batch: dict[str, Any], **kwargs: Any) -> AttentionMass:
    with torch.no_grad(), AttentionMass(model, **{"layers": "all", **kwargs}) as probe:
        model(**batch)
    return probe


# Rows and layers


def test_layers(family: Family, batch: dict[str, torch.Tensor]) -> None:
    whole = recorded(family.model, batch)
    assert whole.layers == [0, 1, 2]
    assert recorded(family.model, batch, layers="last").layers == [2]
    some = recorded(family.model, batch, layers=[2, -3])
    assert some.layers == [2, 0]
    torch.testing.assert_close(some.mass, whole.mass[[2, 0]], atol=1e-6, rtol=0, equal_nan=True)


def test_chosen_rows_are_packed_to_the_left(family: Family, batch: dict[str, torch.Tensor]) -> None:
    whole = recorded(family.model, batch, per_head=True, per_token=True)
    rows = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    rows[0, [0, 14, 20]] = True  # the first is padding
    rows[1, [3, 7, 9, 21, 22]] = True
    some = recorded(family.model, batch, rows=rows, per_head=True, per_token=True)
    assert some.mass.shape == (3, 2, 5)
    for b in range(2):
        n = int(rows[b].sum())
        for name in ("mass", "lift", "token_mass"):
            wanted = getattr(whole.recording, name)[:, b, rows[b]]
            torch.testing.assert_close(
                getattr(some.recording, name)[:, b, :n], wanted, atol=1e-6, rtol=1e-5, equal_nan=True
            )
        assert some.head_mass is not None and whole.head_mass is not None
        torch.testing.assert_close(
            some.head_mass[:, b, :, :n], whole.head_mass[:, b][..., rows[b]], atol=1e-6, rtol=0, equal_nan=True
        )
    assert some.mass[:, 0, [0, 3, 4]].isnan().all()


def test_the_last_n_rows(family: Family, batch: dict[str, torch.Tensor]) -> None:
    whole = recorded(family.model, batch)
    for n in (1, 4):
        last = recorded(family.model, batch, rows=n)
        torch.testing.assert_close(last.mass, whole.mass[:, :, -n:], atol=1e-6, rtol=0)
        torch.testing.assert_close(last.lift, whole.lift[:, :, -n:], atol=1e-5, rtol=0)


def test_chunks_do_not_change_the_numbers(
    family: Family, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recorded(family.model, batch, per_token=True)

    def in_pieces() -> None:
        pieces = recorded(family.model, batch, per_token=True)
        for name in ("mass", "lift", "token_mass"):
            torch.testing.assert_close(
                getattr(pieces, name), getattr(whole, name), atol=1e-6, rtol=1e-5, equal_nan=True
            )

    monkeypatch.setattr(vlm.attention_kernels, "CHUNK", 300)  # a row or two at a time
    in_pieces()
    for chunk in (10_000, 2**25):  # as on a GPU: all sequences and heads together
        monkeypatch.setattr(vlm.attention_kernels, "_piece", lambda device, *sizes, chunk=chunk: (*sizes, chunk))
        in_pieces()


# The two forms, and what they mean


class Blind(contextlib.nullcontext[None]):
    """In place of the tap: the forward's kernel is not seen, as on a device where form (b) was not checked."""

    call = None


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3"])
@pytest.mark.parametrize("padded", [True, False])
def test_both_forms_agree(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = FAMILIES[name]()
    batch = tiny.batch([1, 2], [5, 9]) if padded else tiny.batch([2, 2])
    by_lse = recorded(tiny.model, batch, per_head=True, per_token=True)
    monkeypatch.setattr(vlm.attention, "KernelTap", Blind)
    by_indicator = recorded(tiny.model, batch, per_head=True, per_token=True)
    for field in ("head_mass", "token_mass"):
        torch.testing.assert_close(
            getattr(by_indicator, field), getattr(by_lse, field), atol=2e-6, rtol=0, equal_nan=True
        )


def test_the_kernel_is_watched_on_cpu_and_form_a_steps_in_for_the_math_kernel(
    family: Family, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    for name in ("mass_from_logsumexp", "mass_from_indicator"):
        form = getattr(vlm.attention_kernels, name)

        def counted(*args: Any, form: Any = form, name: str = name) -> Any:
            used.append(name)
            return form(*args)

        monkeypatch.setattr(f"vlm.attention_recording.{name}", counted)
    by_lse = recorded(family.model, batch)
    assert used == ["mass_from_logsumexp"] * 3
    with sdpa_kernel(SDPBackend.MATH):
        by_indicator = recorded(family.model, batch)
    assert used[3:] == ["mass_from_indicator"] * 3
    torch.testing.assert_close(by_indicator.mass, by_lse.mass, atol=1e-5, rtol=0, equal_nan=True)


def test_dropout_leaves_the_mass_before_dropout(fresh: Family) -> None:
    batch = fresh.batch([1, 1])
    wanted = recorded(fresh.model, batch, layers=[0]).mass
    fresh.model.train()
    for module in fresh.model.get_decoder().modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    torch.testing.assert_close(recorded(fresh.model, batch, layers=[0]).mass, wanted, atol=1e-6, rtol=0)


def test_uniform_attention_has_lift_one(fresh: Family) -> None:
    for module in fresh.model.get_decoder().modules():
        if hasattr(module, "q_norm"):
            module.q_norm.weight.data.zero_()
    batch = fresh.batch([1, 2], [5, 9])
    probe = recorded(fresh.model, batch, rows=4, per_token=True)
    torch.testing.assert_close(probe.lift, torch.ones_like(probe.lift), atol=1e-5, rtol=0)
    # 6 image tokens of the 17 that the shorter prompt's last row sees
    assert probe.mass[0, 0, -1] == pytest.approx(6 / int(batch["attention_mask"][0].sum()), abs=1e-6)
    assert probe.top_share[:, 0] == pytest.approx(1 / 6, abs=1e-5)
    assert probe.top_share[:, 1] == pytest.approx(1 / 12, abs=1e-5)


def test_rows_before_the_image_see_none_of_it(family: Family) -> None:
    batch = family.batch([1])
    probe = recorded(family.model, batch)
    first = int((batch["input_ids"][0] == IMAGE).nonzero()[0])
    assert (probe.mass[:, 0, :first] == 0).all() and probe.lift[:, 0, :first].isnan().all()
    assert (probe.mass[:, 0, first:] > 0).all() and (probe.mass <= 1).all()


def test_image_mask_and_token_order(family: Family, batch: dict[str, torch.Tensor]) -> None:
    probe = recorded(family.model, batch, per_token=True)
    assert torch.equal(probe.image_mask, batch["input_ids"] == IMAGE)
    assert probe.token_mass is not None and probe.token_mass.shape == (3, *batch["input_ids"].shape, 12)
    assert probe.token_mass[:, 0, :, 6:].isnan().all()  # the first sequence has one image of six tokens


# Training


def losses(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], probe: bool
) -> tuple[torch.Tensor, AttentionMass | None]:
    model.zero_grad()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with AttentionMass(model, layers="all") if probe else contextlib.nullcontext() as entered:
        loss = model(**batch, labels=labels).loss
    loss.backward()
    return loss.detach(), entered


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [None, True, False])  # None: off; else use_reentrant
def test_training_is_untouched(fresh: Family, autocast: bool, checkpointing: bool | None) -> None:
    model, batch = fresh.model.train(), fresh.batch([1, 2], [5, 9])
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        stock, _ = losses(model, batch, probe=False)
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        loss, probe = losses(model, batch, probe=True)
        model.eval()
        wanted = recorded(model, batch).mass
    assert torch.equal(loss, stock)
    assert gradients and all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in gradients.items())
    assert probe is not None and len(probe.recordings) == 1
    assert not probe.mass.requires_grad
    torch.testing.assert_close(probe.mass, wanted, atol=1e-6, rtol=0, equal_nan=True)


def test_backward_inside_the_probe_records_nothing_twice(fresh: Family) -> None:
    model, batch = fresh.model.train(), fresh.batch([1, 1])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with AttentionMass(model) as probe:
        model(**batch).logits.sum().backward()
    assert len(probe.recordings) == 1


def test_autocast_equals_the_softmax_of_what_the_kernel_saw(
    family: Family, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast queries reach the attention function in float32 (Qwen3's norms) and the kernel in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = recorded(family.model, batch, rows=3)
        row = recorded(family.model, batch, rows=1)  # the form of a generation's steps
        monkeypatch.setattr(vlm.attention, "KernelTap", Blind)
        by_indicator = recorded(family.model, batch, rows=3)
    torch.testing.assert_close(row.mass, rows.mass[:, :, -1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(by_indicator.mass, rows.mass, atol=1e-5, rtol=0)


def test_lora(fresh: Family) -> None:
    batch = fresh.batch([1, 2], [5, 9])
    plain = recorded(fresh.model, batch).mass
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(fresh.model, lora)
    moved = recorded(wrapped, batch).mass
    assert (moved - plain).abs().nan_to_num(0).max() > 1e-3
    with wrapped.disable_adapter():
        torch.testing.assert_close(recorded(wrapped, batch).mass, plain, atol=1e-6, rtol=0, equal_nan=True)
    with AttentionMass(wrapped, layers="all") as probe:
        wrapped.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None)
    torch.testing.assert_close(probe.mass[:, :, 0], moved[:, :, -1], atol=1e-5, rtol=0)


# Generation


def test_generate_writes_the_same_and_records_each_step(family: Family, batch: dict[str, torch.Tensor]) -> None:
    sample = {"max_new_tokens": 6, "do_sample": True, "eos_token_id": None}
    torch.manual_seed(0)
    stock = family.model.generate(**batch, **sample)
    torch.manual_seed(0)
    with AttentionMass(family.model, layers=[0, 2], per_head=True, per_token=True) as probe:
        written = family.model.generate(**batch, **sample)
        # what the probe has so far can be read inside, too
        assert probe.mass.shape == (2, 2, 6)
    assert torch.equal(written, stock)
    assert probe.mass.shape == probe.lift.shape == probe.top_share.shape == (2, 2, 6)
    assert probe.head_mass is not None and probe.head_mass.shape == (2, 2, 4, 6)
    assert probe.token_mass is not None and probe.token_mass.shape == (2, 2, 6, 12)
    assert torch.equal(probe.image_mask, batch["input_ids"] == IMAGE)


def test_a_batch_equals_its_singles(family: Family) -> None:
    both = family.batch([1, 2], [5, 9])
    together = recorded(family.model, both, rows=3).mass
    for b, n in enumerate([1, 2]):
        kept = both["attention_mask"][b].bool()
        single = {k: both[k][b : b + 1, kept] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
        own = slice(0, 1) if b == 0 else slice(1, 3)
        single["image_grid_thw"] = both["image_grid_thw"][own]
        single["pixel_values"] = both["pixel_values"].view(3, 24, -1)[own].reshape(n * 24, -1)
        alone = recorded(family.model, single, rows=3).mass
        torch.testing.assert_close(together[:, b : b + 1], alone, atol=1e-5, rtol=0)


def test_a_static_cache(family: Family) -> None:
    batch = family.batch([1, 2], [5, 9])
    masses = []
    for cache in ("dynamic", "static"):
        with AttentionMass(family.model, layers="all") as probe:
            family.model.generate(
                **batch, max_new_tokens=5, do_sample=False, eos_token_id=None, cache_implementation=cache
            )
        masses.append(probe)
    torch.testing.assert_close(masses[1].mass, masses[0].mass, atol=1e-5, rtol=0)
    torch.testing.assert_close(masses[1].lift, masses[0].lift, atol=1e-5, rtol=1e-5)


def test_ended_sequences_go_on_being_recorded_and_are_cut_by_their_length(family: Family) -> None:
    batch = family.batch([1, 2], [5, 9])
    with AttentionMass(family.model, layers="all") as probe:
        written = family.model.generate(**batch, max_new_tokens=6, do_sample=False, eos_token_id=None)
    stop = int(written[0, batch["input_ids"].shape[1] + 2])  # the first sequence ends at its third token
    with AttentionMass(family.model, layers="all") as ended:
        family.model.generate(**batch, max_new_tokens=6, do_sample=False, eos_token_id=stop, pad_token_id=0)
    first, second = response_mass(ended, [2, 5])
    assert first.shape == (3, 2) and second.shape == (3, 5)
    torch.testing.assert_close(first, response_mass(probe, [2, 5])[0], atol=1e-6, rtol=0)


def test_several_generations_are_read_one_by_one(family: Family, batch: dict[str, torch.Tensor]) -> None:
    with AttentionMass(family.model) as probe:
        for steps in (2, 4):
            family.model.generate(**batch, max_new_tokens=steps, do_sample=False, eos_token_id=None)
    assert [recording.mass.shape[2] for recording in probe.recordings] == [2, 4]
    with pytest.raises(UserError, match="2 forwards or generations"):
        _ = probe.mass


def test_response_mass() -> None:
    mass = torch.arange(2 * 2 * 5.0).view(2, 2, 5)  # 4 steps
    own = response_mass(mass, [4, 2])
    assert torch.equal(own[0], mass[:, 0, 1:5]) and torch.equal(own[1], mass[:, 1, 1:3])
    before = response_mass(mass, [4, 0], rows="predicting")
    assert torch.equal(before[0], mass[:, 0, :4]) and before[1].shape == (2, 0)
    # Cut off at the limit: five tokens, of which the last was never fed.
    cut = response_mass(mass, [5, 1])[0]
    assert torch.equal(cut[:, :4], mass[:, 0, 1:]) and cut[:, 4].isnan().all()
    assert torch.equal(response_mass(mass, [5, 1], rows="predicting")[0], mass[:, 0])
    with pytest.raises(UserError, match="6 tokens does not fit the 5"):
        response_mass(mass, [6, 1])
    with pytest.raises(UserError, match="1 token counts were given for 2"):
        response_mass(mass, [4])
    with pytest.raises(UserError, match="neither 'token' nor 'predicting'"):
        response_mass(mass, [4, 2], rows="own")  # type: ignore[arg-type]


# No trace


def attention_state(family: Family) -> list[Any]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in family.model.modules()]
    return [hooks, [observed(module) for module in family.model.modules()], AttentionInterface.get_interface]


def test_no_trace_after_leaving_or_after_an_exception(family: Family, batch: dict[str, torch.Tensor]) -> None:
    before = attention_state(family)
    with AttentionMass(family.model):
        assert attention_state(family) != before
        family.model(**batch)
    assert attention_state(family) == before
    probe = AttentionMass(family.model)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"), probe:
        family.model(**{**batch, "input_ids": torch.full_like(batch["input_ids"], IMAGE)})
    assert attention_state(family) == before
    with pytest.raises(UserError, match="recorded nothing"):
        _ = probe.mass
    recorded(family.model, batch)  # and it can be probed again


def test_a_failed_forward_is_not_recorded_and_the_next_one_is(family: Family, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad(), AttentionMass(family.model) as probe:
        with pytest.raises(ValueError):
            family.model(**{**batch, "input_ids": torch.full_like(batch["input_ids"], IMAGE)})
        family.model(**batch)
    assert len(probe.recordings) == 1


def test_one_probe_a_model(family: Family, batch: dict[str, torch.Tensor]) -> None:
    other = qwen3_vl()
    with AttentionMass(family.model) as probe, AttentionMass(other.model):  # another model's is fine
        with pytest.raises(UserError, match="already carries an attention probe"), AttentionMass(family.model):
            pass
        family.model(**batch)
    assert probe.mass.shape == (1, *batch["input_ids"].shape)


def test_the_same_module_outside_a_forward_is_left_alone(family: Family) -> None:
    """A layer called by hand, as checkpointing does in the backward pass."""
    layer = family.model.get_decoder().layers[0]
    hidden = torch.randn(1, 4, 32, requires_grad=True)
    positions = family.model.get_decoder().rotary_emb(hidden, torch.arange(4).expand(3, 1, -1))
    with AttentionMass(family.model) as probe:
        checkpoint(layer, hidden, positions, use_reentrant=False).sum().backward()
    assert probe.recordings == []


# What it refuses, in words


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(UserError) as caught:
        yield
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_refuses_other_attention_implementations_by_name(fresh: Family) -> None:
    fresh.model.get_decoder().config._attn_implementation = "tree_attention"
    with refused("'tree_attention'", "it reads sdpa"):
        AttentionMass(fresh.model)


def test_refuses_models_without_image_tokens() -> None:
    text = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT))
    with refused("no image token"):
        AttentionMass(text)
    with refused("no image token"):
        image_token_mask(text.config, torch.zeros(1, 3, dtype=torch.long))
    with refused("Linear holds no transformers model"):
        AttentionMass(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("layers", "words"),
    [([3], "no attention layer 3; its layers are 0 to 2"), ([-4], "no attention layer -4"), ([], "no layer"),
     ("first", "not 'last', 'all'")],
)  # fmt: skip
def test_refuses_layers_that_do_not_exist(family: Family, layers: Any, words: str) -> None:
    with refused(words):
        AttentionMass(family.model, layers=layers)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(2, 26, dtype=torch.bool), "response mask is empty"),
        (torch.ones(2, 26), "must be a bool tensor"),
        (torch.ones(2, 25, dtype=torch.bool), "one bool for each"),
        (99, "rows=99 is out of range: the forward has"),
        (0, "at least the last one"),
    ],
)
def test_refuses_rows(family: Family, batch: dict[str, torch.Tensor], rows: Any, words: str) -> None:
    with refused(words):
        recorded(family.model, batch, rows=rows)


def test_refuses_what_would_leave_the_mass_unknown(family: Family, batch: dict[str, torch.Tensor]) -> None:
    model = family.model
    with refused("recorded nothing", "generate_batch"), AttentionMass(model) as probe:
        _ = probe.mass
    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    with refused("cache that was filled outside"), AttentionMass(model):
        model(input_ids=batch["input_ids"][:, -1:], past_key_values=cache)
    with refused("by input_ids"), AttentionMass(model):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    with refused("leave out rows="), AttentionMass(model, rows=2):
        model.generate(**batch, max_new_tokens=3)
    with refused("beam search"), AttentionMass(model):
        model.generate(**batch, max_new_tokens=3, num_beams=2)
    with refused("leave the cache on"), AttentionMass(model) as probe:
        model.generate(**batch, max_new_tokens=3, min_new_tokens=3, use_cache=False)
        _ = probe.mass
    with refused("per_token=True"):
        _ = recorded(model, batch).top_share


def test_refuses_a_paged_cache(family: Family) -> None:
    module = family.model.get_decoder().layers[-1].self_attn
    states = torch.zeros(1, 4, 3, 8)
    with AttentionMass(family.model) as probe:
        probe._forward = vlm.attention.ForwardRecorder(
            *[vlm.attention_kernels.Positions.between(1, 0, 3, torch.device("cpu"))],
            torch.zeros(1, 3, dtype=torch.bool), vlm.attention_kernels.Positions.between(1, 0, 0, torch.device("cpu")),
            None, {2: (3, 0)}, 3, is_step=False,
        )  # fmt: skip
        with refused("continuous batching"):
            probe._observe(sdpa_attention_forward, module, states, states[:, :2], states[:, :2], None, cache=object())


def test_a_layer_that_bypasses_the_interface_is_refused(
    family: Family, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing weights are an error, never zeros."""
    with AttentionMass(family.model, layers="all") as probe:
        module = probe.traits.measured[2].attention
        monkeypatch.setattr(module, "forward", lambda hidden_states, **kwargs: (hidden_states, None))
        with refused("layer 2 did not come through"):
            family.model(**batch)
    assert probe.recordings == []
