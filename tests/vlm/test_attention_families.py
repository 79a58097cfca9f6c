"""The probe equals eager attention in every family: tiny random models, padded and generated every way."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks import attention_families
from benchmarks.attention_families import BEGIN, BOUND, DOCS, END, FORWARDS, eager_mass, measure
from benchmarks.families import FAMILIES, IMAGE, REFERENCE, Family
from benchmarks.families.mistral import mistral3
from vlm.attention import AttentionMass, image_token_mask

pytestmark = pytest.mark.seam

# Families whose processors resize every image to one size.
ONE_SIZE = {
    "gemma3",
    "gemma3n",
    "paligemma",
    "paligemma (gemma2)",
    "llava",
    "vipllava",
    "fast_vlm",
    "idefics2",
    "deepseek_vl",
    "deepseek_vl_hybrid",
    "janus",
    "chameleon",
    "blip-2 (opt)",
    "blip-2 (t5)",
    "instructblip (llama)",
    "instructblip (t5)",
    "mllama",
    "florence2",
    "udop",
    "kosmos-2",
    "git",
}
# Families that the probe does not measure, and a part of the reason that it gives.
REFUSED = {
    "blip-2 (opt)": "a short generation from text alone fails",
    "blip-2 (t5)": "through cross-attention",
    "instructblip (llama)": "a short generation from text alone fails",
    "instructblip (t5)": "through cross-attention",
    "mllama": "through cross-attention",
    "florence2": "through cross-attention",
    "udop": "names no image token",
    "kosmos-2": "names no image token",
    "git": "names no image token",
}


# One family of each kind of layer and of image; the others are slow tests.
QUICK = {
    *REFERENCE,
    "qwen3_5",
    "qwen4_exp",
    "gemma4 (shared keys)",
    "kimi_k25",
    "lfm2_vl",
    "paligemma (gemma2)",
    "florence2",
    "git",
}
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("name", EACH)
def test_equals_eager_and_leaves_the_model_alone(name: str) -> None:
    family = FAMILIES[name]()
    assert len({family.image_ids(code).count(IMAGE) for code in range(3)}) == (1 if name in ONE_SIZE else 3)
    result = measure(family)
    if name in REFUSED:
        assert result.refusal is not None and REFUSED[name] in result.refusal
        return
    assert result.refusal is None and result.changed == []
    assert set(result.forward_errors) == set(FORWARDS)
    assert result.holds, result
    assert result.layers and result.forward_errors["left padding"] > 0  # two kernels never round alike


def test_the_documentation_names_each_family() -> None:
    text = DOCS.read_text(encoding="utf-8")
    between = text.partition(BEGIN)[2].partition(END)[0]
    assert [name for name in FAMILIES if f"| `{name}` |" not in between] == []


@pytest.mark.parametrize("change", ["mass", "steps"])
def test_a_wrong_mass_is_found(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = attention_families._probed

    def shifted(probe: AttentionMass) -> torch.Tensor:
        is_generation = probe.mass.shape[-1] == max(attention_families.ENDS)
        return probed(probe) * (0.999 if is_generation == (change == "steps") else 1)

    monkeypatch.setattr(attention_families, "_probed", shifted)
    result = measure(FAMILIES["qwen2_vl"]())
    assert not result.holds
    forward, generation = result.forward_errors["left padding"], result.generation_error or 0.0
    assert (forward > BOUND) == (change == "mass") and (generation > BOUND) == (change == "steps")


@pytest.fixture(scope="module", params=REFERENCE)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    with torch.no_grad():
        yield FAMILIES[request.param]()


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
        wanted = eager_mass(family.model, batch, [0, 1, 2])
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
    assert (probe.head_mass - eager_mass(family.model, batch, [0, 1, 2])).abs().max() < 1e-5
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
    assert (probe.head_mass - eager_mass(family.model, batch, [0, 1, 2])).abs().max() < 1e-5
    share = (8 - 2) / (length - 2)
    torch.testing.assert_close(probe.lift[:, 0, -1], probe.mass[:, 0, -1] / share)
