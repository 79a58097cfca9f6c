"""Problems that share an image are one observation, in every measure that a report has."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.audit import AuditConfig, run_audit
from eval.benchmarks import prepare_benchmark
from eval.compare import compare
from eval.figures import image_clusters, sharing_groups
from eval.harness import EvalConfig, run_eval
from tests.eval.scripted_subjects import COLOURS, colour_problems, scripted
from vlm.problem import Problem, write_problems


def problem(id_: str, *images: str) -> Problem:
    return Problem(id=id_, source="test", domain="text", images=list(images), question="?", answer="a")


@pytest.mark.parametrize(
    ("images", "groups"),
    [
        ([["a"], ["a"], ["b"]], [["0", "1"]]),
        ([["a"], ["a", "b"], ["b"], ["c"]], [["0", "1", "2"]]),  # 0 and 2 each share one with 1
        ([["a", "b"], ["c", "d"], ["b", "c"]], [["0", "1", "2"]]),
        ([[], [], ["a"]], []),  # without an image each is its own
        ([["b", "a"], ["a", "b"]], [["0", "1"]]),
    ],
)
def test_clusters(images: list[list[str]], groups: list[list[str]]) -> None:
    problems = [problem(str(index), *some) for index, some in enumerate(images)]
    assert sharing_groups(image_clusters(problems)) == groups


def asked_often(folder: Path) -> list[Problem]:
    """Ten images, each with six problems that are answered alike."""
    first = colour_problems(folder, 10)
    return [
        one.model_copy(update={"id": f"{one.id}-{turn}", "question": f"{one.question} {turn}"})
        for one in first
        for turn in range(6)
    ]


def estimates(report: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """Every estimate of a report, by its path."""
    if not isinstance(report, dict):
        return {}
    found = {path: report} if "ci95" in report and report["n"] else {}
    for key, value in report.items():
        found |= estimates(value, f"{path}/{key}")
    return found


def first_images(turn: Any) -> str:
    """Correct on three of ten images, whatever is asked about them."""
    pixels = [image.getpixel((0, 0)) for image in turn.images]
    shown = next((name for name, value in COLOURS.items() if value in pixels), "none")
    number = int(turn.question.split()[1].rstrip(":"))
    return f"<think>I see it. Let me look again. It is {shown}.</think> \\boxed{{{shown if number < 3 else 'none'}}}"


def test_every_figure_of_an_evaluation_counts_images(tmp_path: Path) -> None:
    write_problems(asked_often(tmp_path), tmp_path)
    config = EvalConfig(k=2, sampled=60)
    for name in ("a", "b"):
        run_eval(name, tmp_path, tmp_path / name, config=config, load=lambda _: scripted(first_images))
    report = json.loads((tmp_path / "a/report.json").read_text())
    accuracy = report["models"]["a"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.3) and accuracy["ci95"] == pytest.approx([0.082, 0.603], abs=2e-3)
    found = estimates(report["models"])
    assert len(found) > 15
    assert {path for path, one in found.items() if one.get("clusters", one["n"]) == one["n"] > 10} == set()
    pair = compare(tmp_path / "a", tmp_path / "b", tmp_path / "both")["paired"]
    (difference,) = pair.values()
    # All pairs agree on ten images: as ten agreeing pairs.
    assert difference["ci95"] == pytest.approx([-0.2775, 0.2775], abs=1e-3) and difference["clusters"] == 10


def test_every_figure_of_an_audit_counts_images(tmp_path: Path) -> None:
    problems = asked_often(tmp_path)
    report = run_audit("m", problems, tmp_path / "out", config=AuditConfig(k=2), subject=scripted(first_images))
    found = estimates(report)
    del found["/majority_class"]  # never has an interval
    assert {"/measures/hint/sway", "/measures/wrong_picture", "/measures/cutoff/full"} <= set(found)
    assert {path for path, one in found.items() if one.get("clusters", one["n"]) == one["n"] > 10} == set()


def test_equal_images_of_a_benchmark_are_stored_once(tmp_path: Path) -> None:
    import datasets

    red = Image.new("RGB", (8, 8), (255, 0, 0))
    blue = Image.new("RGB", (8, 8), (0, 0, 255))
    rows = [
        {
            "category": "VD",
            "subcategory": "chart",
            "set_id": str(index),
            "figure_id": "1",
            "question_id": "0",
            "question": f"Is it red? {index}",
            "gt_answer": "1",
            "visual_input": "1",
            "image": image,
        }
        for index, image in enumerate([red, red, blue])
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "data"))
    problems, _ = prepare_benchmark("hallusionbench", tmp_path / "set", str(tmp_path / "data"))
    assert len(problems) == 3 and len(sharing_groups(image_clusters(problems))) == 1
    assert len(list((tmp_path / "set/images").iterdir())) == 2
