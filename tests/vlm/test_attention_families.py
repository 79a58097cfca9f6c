"""The probe equals eager attention, for tiny random models of eight families, padded and generated every way."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.families import FAMILIES, IMAGE, REFERENCE, Family
from benchmarks.families.mistral import mistral3
from vlm.attention import AttentionMass, image_token_mask

pytestmark = pytest.mark.seam


@pytest.fixture(scope="module", params=REFERENCE)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    with torch.no_grad():
        yield FAMILIES[request.param]()


def eager_heads(family: Family, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mass by the book: eager maps, summed over the image columns; (layers, batch, heads, rows)."""
    family.model.set_attn_implementation("eager")
    maps = torch.stack(family.model(**batch, output_attentions=True).attentions)
    family.model.set_attn_implementation("sdpa")
    columns = batch["input_ids"] == IMAGE
    return (maps.float() * columns[None, :, None, None]).sum(-1)


LAYOUTS = [
    pytest.param([1, 1], [8, 8], "left", id="equal"),
    pytest.param([1, 2], [3, 9], "left", id="unequal-left"),
    pytest.param([2, 1], [3, 9], "right", id="unequal-right"),
    pytest.param([2, 0], [3, 9], "left", id="one-without-image"),
    pytest.param([0, 0], [3, 9], "left", id="no-image"),
    pytest.param([[0, 1, 2], [1]], [3, 9], "left", id="three-sizes-in-a-row"),
]


@pytest.mark.parametrize(("images", "lengths", "side"), LAYOUTS)
def test_equals_eager_and_leaves_the_output_alone(
    family: Family, images: list[int | list[int]], lengths: list[int], side: str
) -> None:
    batch = family.batch(images, lengths, side)
    stock = family.model(**batch).logits
    with AttentionMass(family.model, layers="all", per_head=True, per_token=True) as probe:
        out = family.model(**batch).logits
    assert torch.equal(out, stock)

    real = batch["attention_mask"].bool()
    wanted = eager_heads(family, batch)
    assert probe.head_mass is not None and probe.token_mass is not None
    assert probe.mass.shape == (3, *batch["input_ids"].shape)
    assert (probe.head_mass - wanted).transpose(2, 3)[:, real].abs().max() < 1e-5
    assert (probe.mass - wanted.mean(2))[:, real].abs().max() < 1e-5
    assert (probe.token_mass.nan_to_num(0).sum(-1) - probe.mass)[:, real].abs().max() < 1e-5
    assert probe.mass[:, ~real].isnan().all() and not probe.mass[:, real].isnan().any()


def test_without_any_padding_or_mask(family: Family) -> None:
    batch = family.batch([2], [9])
    del batch["attention_mask"]
    with AttentionMass(family.model, layers="all", per_head=True) as probe:
        family.model(**batch)
    assert probe.head_mass is not None
    assert (probe.head_mass - eager_heads(family, batch)).abs().max() < 1e-5


def test_generation_equals_one_forward_over_what_it_wrote(family: Family) -> None:
    batch = family.batch([1, 2], [3, 9])
    with AttentionMass(family.model, layers="all", per_token=True) as probe:
        # 14 steps: more than Gemma's window of 8, whose cache then drops the image.
        written = family.model.generate(**batch, max_new_tokens=14, do_sample=False, eos_token_id=None)
    rows = torch.zeros_like(written, dtype=torch.bool)
    rows[:, batch["input_ids"].shape[1] - 1 : -1] = True  # from the prompt's last row, which predicts the first token
    with AttentionMass(family.model, layers="all", rows=rows, per_token=True) as whole:
        family.model(**family.more(batch, written))
    assert probe.mass.shape == (3, 2, 14)
    torch.testing.assert_close(probe.mass, whole.mass, atol=1e-5, rtol=0)
    torch.testing.assert_close(probe.lift, whole.lift, atol=1e-5, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(probe.token_mass, whole.token_mass, atol=1e-5, rtol=0, equal_nan=True)


def test_image_tokens_are_those_whose_embedding_the_vision_features_replace(family: Family) -> None:
    """Found by experiment: change the images, and see at which positions the language model's input changes."""
    batch = family.batch([1, 2], [3, 9])
    seen: list[torch.Tensor] = []
    hook = family.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].clone()), with_kwargs=True
    )
    try:
        family.model(**batch)
        family.model(**{**batch, "pixel_values": batch["pixel_values"] * 1.5})
    finally:
        hook.remove()
    changed = (seen[0] != seen[1]).any(-1)
    mask = image_token_mask(family.model, batch["input_ids"])
    if family.name == "llava_onevision":  # a tile row's learned line break takes an image token's place
        assert not (changed & ~mask).any()
        assert (mask & ~changed).sum() == 2 * 3  # two rows of tiles in each of three images
    else:
        assert torch.equal(mask, changed)
    assert torch.equal(image_token_mask(family.model.config, batch["input_ids"]), mask)


def test_bf16_stays_close_to_eager(family: Family) -> None:
    batch = family.batch([1, 2], [24, 20])
    batch = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    family.model.to(torch.bfloat16)
    try:
        with AttentionMass(family.model, layers="all", per_head=True) as probe:
            out = family.model(**batch).logits
        assert torch.equal(out, family.model(**batch).logits)
        wanted = eager_heads(family, batch)
    finally:
        family.model.to(torch.float32)
    real = batch["attention_mask"].bool()
    assert probe.head_mass is not None and probe.head_mass.dtype == torch.float32
    assert (probe.head_mass - wanted).transpose(2, 3)[:, real].abs().max() < 2e-2


@torch.no_grad()
def test_a_sliding_window_that_cuts_the_image() -> None:
    family = mistral3(sliding_window=6)
    batch = family.batch([1, 1], [12, 12])
    with AttentionMass(family.model, layers="all", per_head=True) as probe:
        family.model(**batch)
    assert probe.head_mass is not None
    assert (probe.head_mass - eager_heads(family, batch)).abs().max() < 1e-5
    # The last row sees six tokens, none of them of the image: a mass of 0, and no lift.
    assert (probe.mass[:, :, -1] == 0).all() and probe.lift[:, :, -1].isnan().all()


@torch.no_grad()
def test_a_custom_additive_mask() -> None:
    family = FAMILIES["internvl"]()
    batch = family.batch([2], [9])
    length = batch["input_ids"].shape[1]
    bias = torch.randn(1, 1, length, length, generator=torch.Generator().manual_seed(0))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    hidden[-4:, 3:5] = True  # two image tokens that the last rows may not see
    batch["attention_mask"] = bias.masked_fill(hidden, torch.finfo(torch.float32).min)
    with AttentionMass(family.model, layers="all", per_head=True) as probe:
        family.model(**batch)
    assert probe.head_mass is not None
    assert (probe.head_mass - eager_heads(family, batch)).abs().max() < 1e-5
    share = (8 - 2) / (length - 2)
    torch.testing.assert_close(probe.lift[:, 0, -1], probe.mass[:, 0, -1] / share)
