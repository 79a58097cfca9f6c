"""The comparison of measured memory with the plan, and the models of published shape."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.random_models import ASSUMED, shape_config
from benchmarks.real_shapes import BEGIN, END, compare, main, run_stage, table, write_between
from train.reader import skeleton


def result(**changes: float) -> dict[str, dict[str, object]]:
    parts = {"weights": 1000e6, "logits": 500e6, "gradients": 10e6, "kept": 1.0}
    return {"parts": parts, "plan": {"parts_gb": {"weights": 1.0, "logits": 0.5, "gradients": 0.03, **changes}}}


def test_a_part_holds_within_a_fifth_or_the_size_of_pages() -> None:
    assert {row["part"]: row["holds"] for row in compare(result())} == {
        "weights": True,
        "gradients": True,  # 20 MB apart: within pages and rounding
        "logits": True,
    }
    rows = {row["part"]: row for row in compare(result(logits=0.65))}
    assert not rows["logits"]["holds"] and rows["logits"]["difference"] == pytest.approx(0.3)


def test_a_stage_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"device": "cpu", "stage": "none"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "exit code 1" in run_stage(job, 10)["failed"]
    row = {"model": "m", "depth": 1, "layers": 2, "dtype": "bfloat16", "stage": "sft", "failed": "gone"}
    assert "gone" in table([row])[-1]


def test_a_difference_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for planned, code in ((0.5, 0), (0.7, 1)):
        row = {"model": "m", "depth": 1, "layers": 2, "dtype": "float32", "stage": "sft"}
        rows = [{**row, "parts": compare(result(logits=planned))}]
        monkeypatch.setattr("benchmarks.real_shapes.measure", lambda *_, rows=rows: iter(rows))
        assert main([]) == code
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["held"] is (code == 0)


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between(page, BEGIN, END, ["new"])
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", *ASSUMED])
def test_a_reduced_depth_keeps_vocabulary_and_vision_tower(name: str) -> None:
    whole, part = shape_config(name), shape_config(name, 4)
    assert part.get_text_config().num_hidden_layers == len(part.get_text_config().layer_types) == 4
    assert part.get_text_config().vocab_size == whole.get_text_config().vocab_size > 150_000
    assert part.vision_config.depth == whole.vision_config.depth
    tiny = skeleton(shape_config(name, 4, tiny=True).to_json_string())
    assert sum(weight.numel() for weight in tiny.parameters()) < 50e6
