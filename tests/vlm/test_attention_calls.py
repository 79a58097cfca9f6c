"""The attention implementations that the probe reads: eager by its maps, flash attention by its log-sum-exp, flex by its mask."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks.families import FAMILIES, Family
from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.attention_calls import is_supported, mask_of_call, tapped_call
from vlm.attention_kernels import KernelTap, KeyView, Positions, mass_from_logits
from vlm.attention_recording import ForwardRecorder, LayerCall

pytestmark = pytest.mark.seam
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


@pytest.fixture(scope="module", params=["gemma3", "qwen3_vl"])
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    with torch.no_grad():
        yield FAMILIES[request.param]()


def test_eager_gives_the_mass_of_sdpa(family: Family) -> None:
    batch = family.batch([1, [2, 0]], [3, 9])
    with AttentionMass(family.model, "all", per_head=True, per_token=True) as stock:
        family.model(**batch)
    family.model.set_attn_implementation({"text_config": "eager"})
    try:
        plain = family.model(**batch).logits
        with AttentionMass(family.model, "all", per_head=True, per_token=True) as probe:
            assert torch.equal(family.model(**batch).logits, plain)
            written = family.model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
    finally:
        family.model.set_attn_implementation({"text_config": "sdpa"})
    forward, generation = probe.recordings
    real = batch["attention_mask"].bool()
    assert (forward.mass - stock.mass)[:, real].abs().max() < 1e-5
    torch.testing.assert_close(forward.lift, stock.lift, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert forward.token_mass is not None and stock.token_mass is not None
    torch.testing.assert_close(forward.token_mass, stock.token_mass, atol=1e-5, rtol=0, equal_nan=True)
    with AttentionMass(family.model, "all", rows=4) as whole:
        family.model(**family.more(batch, written[:, :-1]))
    torch.testing.assert_close(generation.mass, whole.mass, atol=1e-5, rtol=0)


def test_the_mask_of_flex_attention() -> None:
    """transformers compiles the kernel and the mask, which takes a minute on a processor; the slow test below runs them."""
    query, key = states(9, 9)
    padding = torch.tensor([2, 0])

    def visible(batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return (column <= row) & (column >= padding[batch]) & (column > row - 4)

    block = create_block_mask(visible, 2, None, 9, 9, device="cpu")
    mask, is_causal = mask_of_call("flex_attention", nn.Identity(), query, key, block, {})
    row, column = torch.arange(9)[:, None], torch.arange(9)[None]
    wanted = (column <= row) & (column > row - 4) & (column >= padding[:, None, None])
    assert mask is not None and not is_causal
    assert torch.equal(mask[:, 0], wanted)
    additive = torch.zeros(2, 1, 9, 9)
    assert mask_of_call("flex_attention", nn.Identity(), query, key, additive, {})[0] is additive


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_gives_the_mass_of_sdpa() -> None:
    family = FAMILIES["llava"]()
    batch = family.batch([1, [2, 0]], [3, 9])
    with AttentionMass(family.model, "all") as stock:
        family.model(**batch)
    family.model.set_attn_implementation({"text_config": "flex_attention"})
    with AttentionMass(family.model, "all") as probe:
        family.model(**batch)
    assert (probe.mass - stock.mass)[:, batch["attention_mask"].bool()].abs().max() < 1e-5


def test_other_implementations_are_refused_by_name() -> None:
    for name in (
        "sdpa",
        "eager",
        "flex_attention",
        "flash_attention_2",
        "flash_attention_3",
        "kernels-community/flash-attn3",
    ):
        assert is_supported(name)
    assert not is_supported("tree_attention") and not is_supported(None)
    model = FAMILIES["qwen3_vl"]().model
    model.get_decoder().config._attn_implementation = "tree_attention"
    with pytest.raises(UserError, match="cannot read attn_implementation='tree_attention'"):
        AttentionMass(model)


# Flash attention: not run on a GPU here. A stand-in with the packages' operator names returns what theirs return.

library = torch.library.Library("flash_attn_stand_in", "DEF")
library.define("forward(Tensor q, Tensor k, Tensor v, Tensor visible) -> (Tensor, Tensor)")
library.define("varlen_forward(Tensor q, Tensor k, Tensor v, Tensor visible) -> (Tensor, Tensor)")


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S, H, D) in, as in flash attention; the log-sum-exp is (B, H, S)."""
    group = q.shape[2] // k.shape[2]
    query, key, value = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    logits = (query @ key.transpose(2, 3) * WIDTH**-0.5).masked_fill(~visible, -torch.inf)
    return (logits.softmax(-1).nan_to_num(0) @ value).transpose(1, 2), logits.logsumexp(-1)


def _varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed tokens: the output is (tokens, H, D) and the log-sum-exp (H, tokens)."""
    out, lse = _attend(q[None], k[None], v[None], visible)
    return out[0], lse[0]


library.impl("forward", _attend, "CPU")
library.impl("varlen_forward", _varlen, "CPU")


def states(queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, HEADS, queries, WIDTH, generator=draw),
        torch.randn(2, KEY_HEADS, keys, WIDTH, generator=draw),
    )


def plain_mass(query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    group = HEADS // KEY_HEADS
    logits = query @ key.repeat_interleave(group, 1).transpose(2, 3) * WIDTH**-0.5
    weights = logits.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights * images[:, None, None]).sum(-1)


@pytest.mark.parametrize(
    ("queries", "keys", "padded", "window"),
    [
        (9, 9, None, None),
        (9, 9, "left", None),
        (9, 9, "right", 4),
        (9, 9, None, 3),
        (1, 9, "left", None),
        (1, 9, None, 4),
    ],
)
def test_flash_attention_by_its_log_sum_exp(queries: int, keys: int, padded: str | None, window: int | None) -> None:
    query, key = states(queries, keys)
    padding = None
    if padded:
        padding = torch.ones(2, keys, dtype=torch.long)
        padding[0, slice(0, 3) if padded == "left" else slice(-3, None)] = 0
    real = torch.ones(2, keys, dtype=torch.bool) if padding is None else padding.bool()
    # By the book: causal, padding hidden, a window that counts the row itself.
    row, column = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None]
    visible = (column <= row) & (column > row - (window or keys)) & real[:, None, None]

    images = torch.zeros(2, keys, dtype=torch.bool)
    images[:, 4:6] = True
    module = nn.Identity()
    arguments: dict[str, Any] = {"sliding_window": window, "is_causal": True}
    with KernelTap() as tap:
        q, k = query.transpose(1, 2), key.transpose(1, 2)
        if padding is None or queries == 1:
            torch.ops.flash_attn_stand_in.forward(q, k, k, visible)
        else:  # the packages are given the tokens without their padding, one sequence after another
            among = real[:, -queries:].flatten()
            packed = torch.block_diag(*[visible[b, 0][real[b]][:, real[b]].float() for b in range(2)]).bool()[
                None, None
            ]
            flat = [states.reshape(2 * keys, -1, WIDTH)[among] for states in (q, k, k)]
            torch.ops.flash_attn_stand_in.varlen_forward(*flat, packed)
    call = tapped_call(tap, "flash_attention_2", query, key, padding, None)
    mask, is_causal = mask_of_call("flash_attention_2", module, query, key, padding, arguments)
    rows = Positions.between(2, keys - queries, keys, query.device)
    recorder = ForwardRecorder(
        Positions.between(2, 0, queries, query.device),
        images,
        Positions.of(images),
        None,
        {0: (keys, 0)},
        queries,
        False,
    )
    wanted = plain_mass(query, key, visible, images)
    present = real.gather(1, rows.index)
    for seen in (call, None):  # with the log-sum-exp, and without it by the other forms
        recorder.record(LayerCall(0, query, key, mask, is_causal, None, seen), per_head=True, per_token=False)
        mass = recorder.layers[0][0]
        assert (mass - wanted).transpose(1, 2)[present].abs().max() < 1e-5
    if queries > 1:
        assert call is not None


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_logits_with_a_soft_cap_and_sinks(softcap: float | None, sinks: bool) -> None:
    query, key = states(9, 9)
    images = torch.zeros(2, 9, dtype=torch.bool)
    images[:, 2:5] = True
    view = KeyView(Positions.between(2, 0, 9, query.device), Positions.of(images), images.float(), None, True, 9)
    sink = torch.randn(HEADS, generator=torch.Generator().manual_seed(1)) if sinks else None
    mass, token = mass_from_logits(query, key, WIDTH**-0.5, view, True, softcap, sink)
    logits = query @ key.repeat_interleave(2, 1).transpose(2, 3) * WIDTH**-0.5
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    if sink is not None:
        logits = torch.cat([logits, sink[None, :, None, None].expand(2, HEADS, 9, 1)], -1)
    wanted = logits.softmax(-1)[..., :9]
    torch.testing.assert_close(mass, (wanted * images[:, None, None]).sum(-1), atol=1e-6, rtol=1e-5)
    assert token is not None
    torch.testing.assert_close(token, wanted[..., 2:5].mean(1), atol=1e-6, rtol=1e-5)


def test_a_kernels_log_sum_exp_of_another_shape_is_not_used() -> None:
    query, key = states(9, 9)
    tap = KernelTap()
    tap.packed = (torch.float32, torch.zeros(HEADS, 7))
    assert tapped_call(tap, "flash_attention_2", query, key, None, None) is None
    tap.packed = (torch.float32, torch.zeros(2, HEADS, 16))
    assert tapped_call(tap, "flash_attention_3", query, key, None, None) is None
