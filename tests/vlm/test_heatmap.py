"""Heat maps: attention planted on a known patch shows under the right pixels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from benchmarks.families import FAMILIES
from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.chat import encode, question_messages
from vlm.heatmap import draw_heatmap, image_maps, overlay, token_grids
from vlm.load import VLM, load_vlm
from vlm.scoring import score_responses


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VLM:
    vlm = load_vlm(tiny_vlm_dir)
    with AttentionMass(
        vlm.model
    ):  # compared with and without the probe now: with planted attention it reads no text alone
        pass
    return vlm


def response_maps(
    vlm: VLM, messages: list[Any], images: list[Image.Image], ids: list[int], layers: Any = "all"
) -> Callable[..., list[torch.Tensor]]:
    scores = score_responses(vlm, [messages], [images], [ids], attention=layers, maps=True, log_p=False)
    return lambda *span: scores.maps(0, *span)


def spotted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A grey image with a bright box (left, top, right, bottom, in pixels)."""
    picture = Image.new("RGB", size, (128, 128, 128))
    ImageDraw.Draw(picture).rectangle(box, fill=(255, 255, 0))
    return picture


@contextmanager
def attention_planted_where(vlm: VLM, chosen: Callable[[torch.Tensor], int]) -> Iterator[None]:
    """Makes every query of every layer look at one image token alone, chosen by the image tokens' embeddings.

    Queries become a fixed direction, the chosen key the same direction, the other keys 0, and positions do not turn them.
    """
    decoder = vlm.model.get_decoder()
    position: list[int] = []

    def choose(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        embeddings = kwargs["inputs_embeds"][0]
        images = kwargs["visual_pos_masks"][0].nonzero()[:, 0]
        position[:] = [int(images[chosen(embeddings[images])])]

    def aim(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(out)

    def offer(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        keys = torch.zeros_like(out)
        keys[:, position[0]] = 4.0
        return keys

    def still(module: torch.nn.Module, args: Any, out: Any) -> Any:
        return torch.ones_like(out[0]), torch.zeros_like(out[1])

    hooks = [
        decoder.register_forward_pre_hook(choose, with_kwargs=True),
        decoder.rotary_emb.register_forward_hook(still),
    ]
    for layer in decoder.layers:
        hooks += [
            layer.self_attn.q_norm.register_forward_hook(aim),
            layer.self_attn.k_norm.register_forward_hook(offer),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def most_changed(plain: torch.Tensor) -> Callable[[torch.Tensor], int]:
    """The image token whose embedding differs most from that of the plain images: the one that sees the box."""
    return lambda embeddings: int((embeddings - plain).norm(dim=-1).argmax())


def embeddings_of(vlm: VLM, images: list[Image.Image]) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    with attention_planted_where(vlm, lambda embeddings: kept.append(embeddings) or 0):  # type: ignore[func-returns-value]
        response_maps(vlm, question_messages("Where ?", len(images)), images, [41, 42])
    return kept[0]


# Sizes that the processor shrinks, stretches, or takes as they are; boxes one image token large and off the diagonal.
SPOTS = [
    pytest.param([(192, 192)], 0, (128, 32, 159, 63), id="as-is"),
    pytest.param([(640, 160)], 0, (480, 80, 533, 133), id="wide-and-shrunk"),
    pytest.param([(50, 200)], 0, (5, 130, 15, 140), id="tall-and-enlarged"),
    pytest.param([(192, 192), (400, 120)], 1, (40, 60, 80, 100), id="second-of-two"),
    pytest.param([(300, 100), (192, 192)], 0, (200, 50, 233, 83), id="first-of-two"),
]


@pytest.mark.parametrize(("sizes", "at", "box"), SPOTS)
def test_planted_attention_shows_under_the_right_pixels(
    vlm: VLM, sizes: list[tuple[int, int]], at: int, box: tuple[int, int, int, int]
) -> None:
    plain = [Image.new("RGB", size, (128, 128, 128)) for size in sizes]
    images = [
        spotted(size, box) if n == at else picture for n, (size, picture) in enumerate(zip(sizes, plain, strict=True))
    ]
    reference = embeddings_of(vlm, plain)
    with attention_planted_where(vlm, most_changed(reference)):
        maps = response_maps(vlm, question_messages("Where ?", len(sizes)), images, [41, 42, 43])()

    assert len(maps) == len(sizes)
    assert float(maps[at].max()) > 0.99  # all of the attention, in one cell
    row, column = divmod(int(maps[at].argmax()), maps[at].shape[1])
    width, height = sizes[at]
    x, y = (column + 0.5) * width / maps[at].shape[1], (row + 0.5) * height / maps[at].shape[0]
    cell = (width / maps[at].shape[1], height / maps[at].shape[0])
    assert box[0] - cell[0] / 2 <= x <= box[2] + cell[0] / 2
    assert box[1] - cell[1] / 2 <= y <= box[3] + cell[1] / 2

    drawn = overlay(images[at], maps[at])
    assert drawn.size == sizes[at]
    difference = np.abs(np.asarray(drawn, int) - np.asarray(images[at], int)).sum(-1)
    touched = np.argwhere(difference > difference.max() * 0.5)
    assert abs(touched[:, 1].mean() - x) < cell[0] and abs(touched[:, 0].mean() - y) < cell[1]


def test_maps_sum_to_the_mean_mass_of_the_predicting_rows(vlm: VLM) -> None:
    picture, ids = spotted((300, 120), (20, 20, 60, 60)), [41, 42, 43, 44]
    messages = question_messages("Where ?", 1)
    batch = encode(vlm, [messages], [[picture]], [ids])
    with torch.no_grad(), AttentionMass(vlm.model, "all", rows=5) as probe:
        vlm.model(**batch)
    whole = response_maps(vlm, messages, [picture], ids)()[0]
    assert float(whole.sum()) == pytest.approx(float(probe.mass[:, 0, :4].mean()), abs=1e-6)
    part = response_maps(vlm, messages, [picture], ids, "last")(1, 3)[0]
    assert float(part.sum()) == pytest.approx(float(probe.mass[-1, 0, 1:3].mean()), abs=1e-6)


def test_grids_of_unequal_images_in_a_batch() -> None:
    tiny = FAMILIES["qwen3_vl"]()
    batch = tiny.batch([1, 2], [3, 3])
    batch["image_grid_thw"] = torch.tensor([[1, 4, 6], [1, 6, 4], [1, 2, 12]])
    assert token_grids(tiny.model, batch, [1, 2]) == [[(2, 3)], [(3, 2), (1, 6)]]


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "gemma3", "mistral3"])
def test_grids_of_other_families(name: str) -> None:
    tiny = FAMILIES[name]()
    assert token_grids(tiny.model, tiny.batch([1, 2], [3, 3]), [1, 2]) == [[(2, 2)], [(2, 2)] * 2]


def test_refuses_in_words() -> None:
    tiles = FAMILIES["llava_onevision"]()
    with pytest.raises(UserError, match="cut images into tiles"):
        token_grids(tiles.model, tiles.batch([1]), [1])
    with pytest.raises(UserError, match="the span is empty"):
        image_maps(torch.full((2, 4), torch.nan), [(2, 2)])


def test_draw_puts_images_side_by_side_on_one_scale() -> None:
    images = [Image.new("RGB", (60, 40), "white"), Image.new("RGB", (30, 80), "white")]
    sheet = draw_heatmap(images, [torch.tensor([[0.0, 0.4]]), torch.tensor([[0.1], [0.1]])])
    assert sheet.size == (60 + 8 + 30, 80)
    strong, weak = np.asarray(sheet)[20, 55], np.asarray(sheet)[40, 80]
    assert strong.tolist() != weak.tolist()
    assert np.asarray(sheet)[20, 2].tolist() == [255, 255, 255]  # no attention leaves the image as it is
    assert overlay(images[0], torch.zeros(1, 2)).getextrema() == ((255, 255),) * 3
