"""What the audit does to a crop: the pixels that the model is shown, checked against the images they must come from."""

import numpy as np
import pytest
from PIL import Image

from eval import tampering
from eval.tampering import NOTED, WITHHELD, has_other_place, other_place
from eval.tool_calls import record_zoom
from vlm.tools import Change, ZoomResult, ZoomSession, ZoomSettings

BOX = {"bbox_2d": [100, 200, 300, 400], "img_idx": 0, "label": "clock"}


def ramp(width: int = 200, height: int = 100, blue: int = 0) -> Image.Image:
    """Every pixel tells where it is from: red is its column, green its row, blue its image."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([column, row, np.full_like(row, blue)], -1).astype(np.uint8))


def zoom(change: Change | None, arguments: object = BOX, settings: ZoomSettings | None = None) -> ZoomResult:
    return ZoomSession([ramp()], settings or ZoomSettings(min_box=1), change=change).call(arguments)


def pixels(result: ZoomResult) -> np.ndarray:
    assert result.crop is not None
    return np.asarray(result.crop).astype(int)


def test_left_alone() -> None:
    left_alone = zoom(None)
    assert left_alone.box == (20, 20, 60, 40) and pixels(left_alone)[0, 0].tolist() == [20, 20, 0]


def test_the_swapped_crop_is_the_same_box_of_the_other_image() -> None:
    crop = pixels(zoom(tampering.swapped([ramp(blue=9)])))
    assert crop.shape == (20, 40, 3) and crop[0, 0].tolist() == [20, 20, 9] and crop[-1, -1].tolist() == [59, 39, 9]
    # Of an image of another size, the same part.
    large = pixels(zoom(tampering.swapped([Image.fromarray(np.full((300, 900, 3), 7, np.uint8))])))
    assert large.shape == (20, 40, 3) and set(large.flat) == {7}


def test_the_misplaced_crop_is_from_elsewhere_in_the_same_image() -> None:
    own = pixels(zoom(None))
    places = set()
    for seed in "abcdefgh":
        crop = pixels(zoom(tampering.misplaced(seed)))
        assert crop.shape == own.shape and not {tuple(one) for one in crop.reshape(-1, 3)} & {
            tuple(one) for one in own.reshape(-1, 3)
        }
        assert (crop == pixels(zoom(tampering.misplaced(seed)))).all()
        places.add(tuple(crop[0, 0]))
    assert len(places) > 4


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 20), (160, 80, 200, 100), (70, 30, 130, 70), (0, 40, 200, 60), (90, 0, 110, 100)]
)
def test_another_place_overlaps_nothing_and_stays_inside(box: tuple[int, int, int, int]) -> None:
    assert has_other_place(box, (200, 100))
    for seed in range(50):
        left, top, right, bottom = other_place(box, (200, 100), str(seed))
        assert (right - left, bottom - top) == (box[2] - box[0], box[3] - box[1])
        assert 0 <= left < right <= 200 and 0 <= top < bottom <= 100
        assert left >= box[2] or right <= box[0] or top >= box[3] or bottom <= box[1]


def test_a_large_box_leaves_no_other_place() -> None:
    assert not has_other_place((60, 30, 160, 80), (200, 100)) and not has_other_place((0, 0, 200, 100), (200, 100))
    assert other_place((60, 30, 160, 80), (200, 100), "") == (0, 0, 100, 50)
    assert other_place((0, 0, 110, 60), (200, 100), "") == (90, 40, 200, 100)


def test_blank_noise_withheld_and_format_only() -> None:
    own = pixels(zoom(None))
    assert set(pixels(zoom(tampering.blanked)).flat) == {127} and pixels(zoom(tampering.blanked)).shape == own.shape
    noisy = pixels(zoom(tampering.faintly_noisy("p")))
    assert 0 < np.abs(noisy - own).max() <= 4
    withheld, noted = zoom(tampering.withheld), zoom(tampering.format_only)
    assert withheld.crop is None and withheld.content() == [{"type": "text", "text": f"Error: {WITHHELD}"}]
    assert noted.crop is None and noted.error is None and noted.content() == [{"type": "text", "text": NOTED}]
    assert noted.box == withheld.box == (20, 20, 60, 40) and noted.call == zoom(None).call


def test_a_refused_call_is_the_same_under_every_change() -> None:
    refused = zoom(None, {"bbox_2d": [5, 5, 5, 5]})
    changes = (tampering.swapped([ramp()]), tampering.misplaced(""), tampering.faintly_noisy(""))
    for change in (*changes, tampering.blanked, tampering.withheld, tampering.format_only):
        again = zoom(change, {"bbox_2d": [5, 5, 5, 5]})
        assert again.crop is None and again.content() == refused.content() and type(again) is ZoomResult


def test_what_is_kept_of_a_call() -> None:
    kept = record_zoom(zoom(tampering.withheld), [ramp()])
    assert (kept.box, kept.size, kept.img_idx, kept.label) == ((20, 20, 60, 40), (200, 100), 0, "clock")
    assert not kept.shown and kept.told == f"image 1, 40 x 20 pixels at 20, 20 ({WITHHELD})"
    assert record_zoom(zoom(None), [ramp()]).shown
    unread = record_zoom(zoom(None, "no object"), [ramp()])
    assert unread.box is None and unread.error is not None and unread.told.startswith("a call that cannot be read (")
