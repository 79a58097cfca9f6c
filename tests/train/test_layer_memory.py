"""The memory of layers without storage, beside the tensors that are alive while the model's own code runs."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.random_models import shape_config
from train.activations import Arithmetic, vision_activations
from train.config import SftOptions
from train.layer_memory import Live, vision_tower
from train.reader import SHIPPED, load_reader

GRID = torch.tensor([[1, 16, 48]])
PATCHES = int(GRID.prod())


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3.5-0.8B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_vision_tower_is_planned_from_its_pixels_to_its_merger(name: str, dtype: torch.dtype) -> None:
    """A block alone left out the copy of the pixels and the interpolated positions, a fifth of the tower of Qwen3.5."""
    config = shape_config(name, 4, tiny=True)
    wide = dtype == torch.float32
    planned = vision_activations(config, PATCHES, Arithmetic(wide, False, False, None), False)
    config.text_config.vocab_size = 64
    model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    vision = config.vision_config
    pixels = torch.zeros(PATCHES, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    with torch.no_grad(), Live(model) as live:
        live.ignore(pixels)
        model.model.get_image_features(pixels, GRID)
    assert planned.measured
    assert planned.forward == pytest.approx(live.peak, rel=0.05)


def test_a_trained_vision_tower_keeps_what_each_block_keeps() -> None:
    config = shape_config("Qwen/Qwen3.5-0.8B", 4, tiny=True)
    arithmetic = Arithmetic(False, True, False, None)
    one = vision_tower(config.to_json_string(), False, True, PATCHES)
    assert one is not None and one.peak > one.kept > 0
    planned = vision_activations(config, PATCHES, arithmetic, True)
    assert planned.kept == config.vision_config.depth * one.kept
    assert planned.layer == one.peak - one.kept


@pytest.mark.parametrize("name", [name for name in SHIPPED if "Qwen" in name])
def test_the_tower_of_every_shipped_qwen_runs_without_values(name: str) -> None:
    """Else a formula takes its place without a word."""
    config = load_reader(SftOptions(model=name)).config
    assert vision_activations(config, PATCHES, Arithmetic(False, True, True, None), False).measured
