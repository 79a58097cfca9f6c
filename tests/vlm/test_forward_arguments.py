"""Ids, mask and cache are found under the present name, a former one, a later one, and by position."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from benchmarks.families import FAMILIES, Family
from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.forward_arguments import ArgumentReader, cache_of

pytestmark = pytest.mark.seam

IDS, MASK, CACHE = torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3), DynamicCache()


class Present(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, cache: Any = None, **kwargs: Any) -> None: ...


class Former(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, past_key_values: Any = None) -> None: ...


class Later(nn.Module):
    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, key_store: Any = None, **rest: Any
    ) -> None: ...


class Unknown(nn.Module):
    def forward(self, tokens: Any = None, mask: Any = None, store: Any = None, position_ids: Any = None) -> None: ...


@pytest.mark.parametrize("body", [Present(), Former(), Later(), Unknown()])
def test_by_position(body: nn.Module) -> None:
    given = ArgumentReader(body).read((IDS, MASK, CACHE), {})
    assert given.ids is IDS and given.mask is MASK and given.cache is CACHE


@pytest.mark.parametrize(
    ("body", "name"),
    [(Present(), "cache"), (Present(), "past_key_values"), (Former(), "past_key_values"), (Later(), "key_store"),
     (Later(), "past_key_values")],
)  # fmt: skip
def test_by_name(body: nn.Module, name: str) -> None:
    given = ArgumentReader(body).read((IDS,), {"attention_mask": MASK, name: CACHE})
    assert given.ids is IDS and given.mask is MASK and given.cache is CACHE
    given = ArgumentReader(body).read((), {"input_ids": IDS})
    assert given.ids is IDS and given.mask is None and given.cache is None


def test_under_names_that_nobody_knows() -> None:
    reader = ArgumentReader(Unknown())
    given = reader.read((), {"position_ids": IDS + 1, "store": CACHE, "mask": MASK, "tokens": IDS})
    assert given.ids is IDS and given.mask is MASK and given.cache is CACHE
    given = reader.read((), {"position_ids": IDS})  # positions are no ids
    assert given.ids is None and given.mask is None and given.cache is None


def test_masks_and_numbers_of_an_image_are_not_taken_for_those_of_the_text() -> None:
    reader, grid = ArgumentReader(Later()), torch.ones(1, 3, dtype=torch.long)
    given = reader.read((IDS,), {"pixel_attention_mask": torch.ones(1, 9), "input_features_mask": torch.ones(1, 9)})
    assert given.ids is IDS and given.mask is None
    for name in ("image_grid_thw", "spatial_shapes", "image_sizes", "mm_token_type_ids", "position_ids", "labels"):
        assert reader.read((), {name: grid}).ids is None
    assert reader.read((), {"tokens": IDS, "inputs_embeds": torch.ones(1, 3, 8)}).ids is None


def test_the_cache_of_keyword_arguments_alone() -> None:
    assert cache_of({"cache": CACHE}) is CACHE and cache_of({"store": CACHE}) is CACHE
    assert cache_of({"past_key_values": "a cache of another kind"}) == "a cache of another kind"
    assert cache_of({"cache": None, "input_ids": IDS}) is None


@pytest.fixture(scope="module")
def family() -> Family:
    return FAMILIES["qwen3_vl"]()


@torch.no_grad()
def test_the_probe_records_alike_by_position_and_by_name(family: Family) -> None:
    batch = family.batch([1, 1])
    with AttentionMass(family.model) as named:
        family.model(**batch)
    rest = {key: value for key, value in batch.items() if key not in ("input_ids", "attention_mask")}
    with AttentionMass(family.model) as placed:
        family.model.model(batch["input_ids"], batch["attention_mask"], **rest)
    assert torch.equal(named.mass, placed.mass)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_of_generation_without_a_cache_is_an_error_and_never_a_number(
    family: Family, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """As when a release hands the cache over in a way that is not known: one step alone must not pass for a forward."""
    with AttentionMass(family.model):
        pass
    read = ArgumentReader.read

    def blind(self: ArgumentReader, args: Any, kwargs: Any) -> Any:
        given = read(self, args, kwargs)
        return type(given)(given.ids, given.mask, None)

    monkeypatch.setattr(ArgumentReader, "read", blind)
    with pytest.raises(UserError, match="found no cache in a step of generate"), AttentionMass(family.model):
        family.model.generate(**family.batch([1]), max_new_tokens=steps)


@torch.no_grad()
def test_a_hidden_cache_outside_of_generate_is_an_error_too(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = family.batch([1])
    with AttentionMass(family.model):
        pass
    cache: Any = next(one for one in family.model(**batch, use_cache=True).values() if isinstance(one, DynamicCache))
    read = ArgumentReader.read
    monkeypatch.setattr(
        ArgumentReader,
        "read",
        lambda self, args, kwargs: type(given := read(self, args, kwargs))(given.ids, given.mask, None),
    )
    with pytest.raises(UserError, match="keys where the text has 1"), AttentionMass(family.model):
        names = list(inspect.signature(family.model.forward).parameters)
        name = next(name for name in ("cache", "past_key_values") if name in names)
        family.model(batch["input_ids"][:, -1:], **{name: cache})


@torch.no_grad()
def test_one_new_token_has_the_mass_of_the_row_that_predicts_it(family: Family) -> None:
    batch = family.batch([1, 2], [3, 9])
    with AttentionMass(family.model) as whole:
        family.model(**batch)
    with AttentionMass(family.model) as probe:
        family.model.generate(**batch, max_new_tokens=1, min_new_tokens=1)
    assert probe.mass.shape == (1, 2, 1)
    torch.testing.assert_close(probe.mass[..., 0], whole.mass[..., -1], atol=1e-6, rtol=0)
