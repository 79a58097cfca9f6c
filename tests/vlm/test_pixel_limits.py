"""min_pixels and max_pixels: limits that no image meets are refused, with both values, wherever they are given."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from train.config import GrpoOptions, ModelOptions
from train.grpo import load_grpo
from train.reader import load_reader
from train.sft import load_sft
from vlm.images import fitted_size, pixel_limits
from vlm.load import load_vlm
from vlm.pixel_limits import check_pixel_limits, check_with_processor

REFUSED: list[tuple[dict[str, int], str]] = [
    ({"min_pixels": 0}, r"'min_pixels' must be at least 1, found 0"),
    ({"max_pixels": 0}, r"'max_pixels' must be at least 1, found 0"),
    ({"max_pixels": -602112}, r"'max_pixels' must be at least 1, found -602112"),
    ({"min_pixels": 4096, "max_pixels": 0}, r"'max_pixels' must be at least 1, found 0"),
    (
        {"min_pixels": 602112, "max_pixels": 3136},
        r"'max_pixels' 3136 is below 'min_pixels' 602112, .*: raise max_pixels",
    ),
    ({"min_pixels": 3137, "max_pixels": 3136}, r"'max_pixels' 3136 is below 'min_pixels' 3137"),
]
ACCEPTED: list[dict[str, int]] = [{}, {"min_pixels": 1}, {"max_pixels": 1}, {"min_pixels": 3136, "max_pixels": 3136}]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_limits_that_no_image_meets_are_refused_by_both_stages(
    given: dict[str, int], said: str, tmp_path: Path
) -> None:
    for load, data in ((load_grpo, "problems"), (load_sft, "dataset")):
        with pytest.raises(ConfigError, match=said):
            load({"output_dir": str(tmp_path), data: "data", **given})


@pytest.mark.parametrize("given", ACCEPTED)
def test_limits_that_an_image_can_meet_are_accepted(given: dict[str, int]) -> None:
    check_pixel_limits(given.get("min_pixels"), given.get("max_pixels"))
    assert GrpoOptions(**given) and ModelOptions(**given)


@pytest.mark.parametrize(
    ("given", "own", "said"),
    [
        (
            {"max_pixels": 784},
            (3136, 12845056),
            "'max_pixels' 784 is below 'min_pixels' 3136 of the processor, so no image can meet both",
        ),
        ({"max_pixels": 0}, (3136, 12845056), "'max_pixels' must be at least 1, found 0"),
        ({"min_pixels": 1000}, (56, 999), None),  # images are resized to the minimum
        ({"min_pixels": 9, "max_pixels": 8}, (1, 100), r"'max_pixels' 8 is below 'min_pixels' 9, so"),
        ({"max_pixels": 3136}, (3136, 12845056), None),
        ({}, (100, 1), None),  # the processor's own fault is not the config's
        ({"max_pixels": 784}, None, None),  # a sizing rule of its own
    ],
)
def test_a_limit_is_compared_with_the_processors_own(
    given: dict[str, int], own: tuple[int, int] | None, said: str | None
) -> None:
    if said is None:
        return check_with_processor(given, own)
    with pytest.raises(ConfigError, match=said):
        check_with_processor(given, own)


def test_the_model_that_loads_says_the_same_as_the_check(tiny_vlm_dir: Path) -> None:
    own: Any = pixel_limits(load_reader(ModelOptions(model=str(tiny_vlm_dir))).vlm.processor)
    said = rf"'max_pixels' 784 is below 'min_pixels' {own[0]} of the processor, so no image"
    with pytest.raises(ConfigError, match=said):
        load_reader(ModelOptions(model=str(tiny_vlm_dir), max_pixels=784))
    with pytest.raises(ConfigError, match=said):
        load_vlm(tiny_vlm_dir, max_pixels=784)
    processor = load_reader(ModelOptions(model=str(tiny_vlm_dir))).vlm.processor
    with pytest.raises(ConfigError, match=said):
        fitted_size((640, 480), processor, max_pixels=784)
    assert load_reader(ModelOptions(model=str(tiny_vlm_dir), min_pixels=784, max_pixels=784))
