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
    assert said in zoom_in_words(zoom_report(rows, withheld, size=4))


def test_calls_and_errors_are_counted() -> None:
    report = zoom_report(rows_with(0.5, 2, errors=0.5) + rows_with(0.5, 0), rows_with(0.5, 0) * 2, size=4)
    assert report["called"] == 0.5 and report["calls"] == 1.0 and report["error_share"] == 0.5
    assert report["accuracy"] == report["accuracy_withheld"] == 0.5
