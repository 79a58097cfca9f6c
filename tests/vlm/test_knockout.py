"""Contribution by knockout: it equals a layer that never received the image, and leaves the model alone."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from benchmarks.families import FAMILIES, IMAGE, Family
from configs.errors import UserError
from vlm.knockout import ImageKnockout, knockout_coverage
from vlm.scoring import read_batch

ROWS = 9


@pytest.fixture(scope="module", params=["qwen3_5", "lfm2_vl"])
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def convolutions() -> Family:
    return FAMILIES["lfm2_vl"]()


def mixer(family: Family, layer: int) -> Any:
    block = family.model.get_decoder().layers[layer]
    return block.linear_attn if family.name == "qwen3_5" else block.conv


def hooks(family: Family) -> int:
    return sum(len(module._forward_hooks) for module in family.model.modules())


@torch.no_grad()
def record(family: Family, batch: dict[str, Any], rows: int = ROWS) -> ImageKnockout:
    with ImageKnockout(family.model, batch["input_ids"], batch["attention_mask"], rows) as recorder:
        family.model(**batch, use_cache=False)
    return recorder


@torch.no_grad()
def token_by_token(family: Family, batch: dict[str, Any], layer: int, kept: torch.Tensor) -> torch.Tensor:
    """(batch, ROWS, hidden) of the layer when it is given only the tokens ``kept``, one a step, with a cache."""
    inputs = []
    hook = mixer(family, layer).register_forward_pre_hook(
        lambda _, args, kwargs: inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    family.model(**batch, use_cache=False)
    hook.remove()
    found = torch.full((*kept.shape, inputs[0].shape[-1]), float("nan"))
    for b, t_kept in enumerate(kept):
        cache = DynamicCache(config=family.model.config.get_text_config())
        for t in t_kept.nonzero()[:, 0].tolist():
            found[b, t] = mixer(family, layer)(inputs[0][b : b + 1, t : t + 1], cache)[0, 0]
    return found[:, -ROWS:]


def test_equals_a_layer_that_never_received_the_image(family: Family) -> None:
    batch = family.batch([[0], [1, 2], []], [5, 8, 6])
    recorder = record(family, batch)
    coverage = knockout_coverage(family.model)
    assert coverage is not None and coverage["layers"] == list(recorder.contributions) == [0, 2]
    assert coverage["without_map"] == 2 and coverage["of"] == 4 and list(coverage["kinds"].values()) == [2]
    present, image = batch["attention_mask"].bool(), batch["input_ids"] == IMAGE
    for layer, found in recorder.contributions.items():
        whole = token_by_token(family, batch, layer, present)
        without = token_by_token(family, batch, layer, present & ~image)
        wanted = (whole - without).norm(dim=-1) / whole.norm(dim=-1)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, equal_nan=True)
        assert found.isnan().equal((~present | image)[:, -ROWS:])
        assert float(found[:2].nan_to_num().max()) > 0.1
        assert float(found[2].nan_to_num().abs().max()) == 0  # no image
    mean = torch.stack(list(recorder.contributions.values())).mean(0)
    torch.testing.assert_close(recorder.contribution, mean, equal_nan=True)


def test_the_model_is_left_alone(family: Family) -> None:
    batch, before = family.batch([[0], [1]], [5, 8]), hooks(family)
    with torch.no_grad():
        plain = family.model(**batch, use_cache=False).logits
        with ImageKnockout(family.model, batch["input_ids"], batch["attention_mask"], ROWS):
            assert hooks(family) == before + 2
            assert family.model(**batch, use_cache=False).logits.equal(plain)
        recorder = ImageKnockout(family.model, batch["input_ids"], batch["attention_mask"], ROWS)
        with pytest.raises(UserError, match="use_cache=False"), recorder:
            family.model(**batch, use_cache=True)
        other = ImageKnockout(family.model, batch["input_ids"][:1], batch["attention_mask"][:1], ROWS)
        with pytest.raises(UserError, match="give the input_ids of this forward"), other:
            family.model(**batch, use_cache=False)
    assert hooks(family) == before


def test_a_batch_equals_its_singles() -> None:
    family = FAMILIES["qwen3_5"]()
    batch = family.batch([[0], [2], []], [4, 9, 6])
    together = record(family, batch, rows=5).contribution
    assert together is not None
    first = int(batch["image_grid_thw"][0].prod())
    shown = [(batch["pixel_values"][:first], slice(0, 1)), (batch["pixel_values"][first:], slice(1, 2)), None]
    for b, pixels in enumerate(shown):
        there = batch["attention_mask"][b].bool()
        alone = {name: batch[name][b : b + 1, there] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
        if pixels is not None:
            alone |= {"pixel_values": pixels[0], "image_grid_thw": batch["image_grid_thw"][pixels[1]]}
        single = record(family, alone, rows=5).contribution
        assert single is not None
        torch.testing.assert_close(together[b], single[0], rtol=1e-3, atol=1e-4)


def test_a_convolution_that_has_passed_the_image_has_no_contribution(convolutions: Family) -> None:
    batch = convolutions.batch([[0]], [6])
    reach = mixer(convolutions, 0).conv_kernel_size - 1
    last = int((batch["input_ids"][0] == IMAGE).nonzero()[-1])
    after = batch["input_ids"].shape[1] - last - 1
    for found in record(convolutions, batch, rows=after).contributions.values():
        assert (found[0, :reach] > 0.01).all() and found[0, reach:].abs().max() < 1e-5
        assert after > reach + 3


def test_a_filter_of_the_own_token_alone_has_no_contribution() -> None:
    family = FAMILIES["lfm2_vl"]()
    weight = mixer(family, 0).conv.weight
    weight.data[..., :-1] = 0
    found = record(family, family.batch([[0], [1]], [5, 8])).contributions
    assert found[0].nan_to_num().abs().max() < 1e-5 and found[2].nan_to_num().max() > 0.01


def test_scores_have_the_rows_that_predict_the_response(family: Family) -> None:
    batch, lengths = family.batch([[0], [1]], [5, 8]), [3, 6]
    scores = read_batch(family.model, batch, lengths, knockout=True, attention="last")
    wanted = record(family, batch, rows=7).contribution
    assert wanted is not None
    for row, length in enumerate(lengths):
        torch.testing.assert_close(scores.knockout[row], wanted[row, 6 - length : 6])
    assert read_batch(family.model, batch, lengths).knockout == []


def test_a_model_without_such_layers_has_no_measure_and_no_hook() -> None:
    family = FAMILIES["qwen3_vl"]()
    batch, before = family.batch([[0]], [5]), hooks(family)
    assert knockout_coverage(family.model) is None
    with ImageKnockout(family.model, batch["input_ids"], batch["attention_mask"], ROWS) as recorder, torch.no_grad():
        assert hooks(family) == before
        family.model(**batch, use_cache=False)
    assert recorder.contribution is None
    assert read_batch(family.model, batch, [4], knockout=True).knockout == []


@pytest.mark.parametrize("name", ["qwen4_exp", "glm5_next", "minicpmv4_6"])
def test_further_hybrid_families_are_covered(name: str) -> None:
    family = FAMILIES[name]()
    coverage = knockout_coverage(family.model)
    assert coverage is not None and len(coverage["layers"]) == coverage["without_map"]
