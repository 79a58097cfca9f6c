"""The table of attention traits: which layers have an attention map, what "last" means, and what a result says it covers."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from benchmarks.families import FAMILIES, IMAGE, TEXT, VISION
from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.attention_traits import AttentionTraits, LayerTrait, attention_traits, choose_layers
from vlm.labels import coverage_text

pytestmark = pytest.mark.seam


def traits_of(kinds: str) -> AttentionTraits:
    """Layers of the kinds that the letters stand for."""
    names = {"f": "full", "s": "sliding", "l": "linear", "c": "convolution", "m": "mla", "i": "indexed", "k": "chunked"}
    layers = [LayerTrait(n, names[kind], None if kind in "lc" else nn.Identity(), n) for n, kind in enumerate(kinds)]
    return AttentionTraits(tuple(layers))


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ("fff", 2),
        ("sfs", 1),  # a window that has passed the image says nothing about looking
        ("lllflll", 3),
        ("sss", 2),
        ("kfkk", 1),
        ("smil", 2),
    ],
)
def test_the_last_layer_is_the_last_whose_rows_reach_the_image(kinds: str, wanted: int) -> None:
    assert choose_layers("last", traits_of(kinds)) == [wanted]


def test_layers_are_chosen_among_those_with_an_attention_map() -> None:
    traits = traits_of("lflfcf")
    assert choose_layers("all", traits) == [1, 3, 5]
    assert choose_layers([-1, 1, -3], traits) == [5, 1, 1]
    with pytest.raises(UserError, match=r"layer 4 .* no attention map .*'convolution'.* are 1, 3, 5"):
        choose_layers([4], traits)
    with pytest.raises(UserError, match=r"no attention layer 6; its layers are 1 to 5"):
        choose_layers([6], traits)
    with pytest.raises(UserError, match=r"no attention layer -4"):
        choose_layers([-4], traits)
    with pytest.raises(UserError, match="no attention layer that the probe can read"):
        choose_layers("last", traits_of("lc"))


def test_what_a_result_covers_is_said_in_words() -> None:
    traits = traits_of("lllf" * 2)
    assert traits.coverage([7]) == {"layers": [7], "measurable": 2, "of": 8, "kinds": {"linear": 6, "full": 2}}
    assert coverage_text(traits.coverage([3, 7])) == "2 of 8 layers (2 have attention maps: 6 linear, 2 full)"
    assert coverage_text(traits_of("fff").coverage([2])) == "1 of 3 layers"


@pytest.mark.parametrize(
    ("family", "kinds", "keys_of"),
    [
        ("qwen2_5_vl", ["full"] * 3, [0, 1, 2]),
        ("gemma3", ["sliding", "full", "sliding"], [0, 1, 2]),
        ("qwen3_5", ["linear", "full"] * 2, [0, 1, 2, 3]),
    ],
)
def test_traits_of_families(family: str, kinds: list[str], keys_of: list[int]) -> None:
    traits = attention_traits(FAMILIES[family]().model)
    assert [layer.kind for layer in traits.layers] == kinds
    assert [layer.keys_of for layer in traits.layers] == keys_of
    assert not traits.shares_keys


def gemma4(shared: int) -> Any:
    config = transformers.Gemma4Config(
        text_config={
            **TEXT,
            "num_hidden_layers": 6,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": shared,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 99,
        },
        vision_config={**VISION, "num_key_value_heads": 2, "head_dim": 8},
        audio_config=None,
        image_token_id=IMAGE,
    )
    return transformers.Gemma4ForConditionalGeneration(config)


def test_layers_that_share_keys_name_the_layer_that_has_them() -> None:
    """Found without weights: ``--check`` builds the model on the meta device."""
    with torch.device("meta"):
        traits = attention_traits(gemma4(shared=3))
    assert [layer.keys_of for layer in traits.layers] == [0, 1, 2, 1, 2, 1]
    assert traits.shares_keys and traits.last == 5 and sorted(traits.measured) == list(range(6))


def test_linear_attention_is_not_taken_for_softmax_attention_by_its_name() -> None:
    """Kimi, GLM-5 and Bailing name their recurrent layers an attention, too; the config says what they are."""
    with torch.device("meta"):
        model = FAMILIES["qwen3_5"]().model
    for layer in model.get_decoder().layers:
        if hasattr(layer, "linear_attn"):
            named = type("DeltaAttention", (type(layer.linear_attn),), {})
            layer.linear_attn.__class__ = named
            layer.linear_attn.config = model.config.text_config
    assert sorted(attention_traits(model).measured) == [1, 3]


def test_compressed_keys_are_refused() -> None:
    with torch.device("meta"):
        model = FAMILIES["qwen3_5"]().model
    model.get_decoder().config.layer_types = ["compressed_sparse_attention"] * 4
    with pytest.raises(UserError, match="stand for several tokens each"):
        attention_traits(model)


@torch.no_grad()
def test_a_hybrid_model_is_measured_on_its_softmax_layers_and_says_so() -> None:
    family = FAMILIES["qwen3_5"]()
    batch = family.batch([1, [2, 1]], [3, 9])
    with AttentionMass(family.model) as last, pytest.raises(UserError, match="already carries"):
        AttentionMass(family.model, [1]).__enter__()
    with AttentionMass(family.model) as last:
        family.model(**batch)
    with AttentionMass(family.model, "all") as every:
        family.model(**batch)
    assert last.coverage == {"layers": [3], "measurable": 2, "of": 4, "kinds": {"linear": 2, "full": 2}}
    assert every.coverage["layers"] == [1, 3]
    assert torch.equal(last.mass.nan_to_num(2), every.mass[1:].nan_to_num(2))
    with pytest.raises(UserError, match="layer 0 of the language model has no attention map"):
        AttentionMass(family.model, [0])
