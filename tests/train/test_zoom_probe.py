"""What the probe concludes about the zoom tool, from made-up responses."""

from typing import Any

import pytest

from train.zoom_probe import zoom_in_words, zoom_report


def rows_with(accuracy: float, calls: int, prompts: int = 64, errors: float = 0.0) -> list[dict[str, Any]]:
    """Four responses a prompt, of which a share is correct."""
    parts = {"zoom/calls": float(calls)} | ({"zoom/error_share": errors} if calls else {})
    return [{"right": number < 4 * accuracy, "parts": parts} for _ in range(prompts) for number in range(4)]


@pytest.mark.parametrize(
    ("rows", "withheld", "said"),
    [
        (rows_with(0.25, 0), rows_with(0.25, 0), "hardly calls the tool"),
        (rows_with(1.0, 2), rows_with(0.25, 2), "Calling pays: crops add +0.75"),
        (rows_with(0.25, 1), rows_with(1.0, 1), "Calling costs: crops add -0.75"),
        (rows_with(0.5, 1), rows_with(0.5, 1), "No effect of the crops is shown"),
        (rows_with(1.0, 1, prompts=1), rows_with(0.0, 1, prompts=1), "insufficient data"),
    ],
)
def test_each_case_has_its_words(rows: list[dict[str, Any]], withheld: list[dict[str, Any]], said: str) -> None:
    images = [str(number) for number in range(len(rows) // 4)]
    assert said in zoom_in_words(zoom_report(rows, withheld, size=4, images=images))


def test_calls_and_errors_are_counted() -> None:
    rows = rows_with(0.5, 2, errors=0.5) + rows_with(0.5, 0)
    report = zoom_report(rows, rows_with(0.5, 0) * 2, size=4, images=[str(number) for number in range(128)])
    assert report["called"] == 0.5 and report["calls"] == 1.0 and report["error_share"] == 0.5
    assert report["accuracy"] == report["accuracy_withheld"] == 0.5


def test_prompts_that_share_an_image_are_one_piece_of_evidence() -> None:
    mixed = rows_with(1.0, 1, prompts=32) + rows_with(0.25, 1, prompts=32)
    apart, together = ([str(number // share) for number in range(64)] for share in (1, 16))
    one, other = (zoom_report(mixed, rows_with(0.25, 1), 4, images)["crops_add"] for images in (apart, together))
    assert one["value"] == other["value"] and one["ci95"] is not None and one["ci95"][0] > 0
    assert other["ci95"] is None or other["ci95"][0] < one["ci95"][0]
