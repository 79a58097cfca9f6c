"""Half of a surrogate pair or NUL in a user's file costs its row, never the run, and is written as JSON writes it."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from configs.jsonl import write_json_atomic
from reflection_v.cli import app

HALF = "\ud83d"
ROW = {
    "source": "t",
    "domain": "count",
    "images": ["a.png"],
    "question": "How many blue shapes are there?",
    "answer": "1",
}
BROKEN = {
    "answer": {"answer": f"1{HALF}"},
    "choices": {"domain": "choice", "choices": ["1", f"2{HALF}"]},
    "image": {"images": [f"a{HALF}.png"]},
    "NUL in an image": {"images": ["a\0.png"]},
    "family": {"meta": {"family": f"f{HALF}"}},
    "source": {"source": f"s{HALF}"},
}


@pytest.fixture
def set_of(tmp_path: Path):
    def write(change: dict[str, object]) -> Path:
        Image.new("RGB", (96, 96), "blue").save(tmp_path / "a.png")
        rows = [ROW | {"id": "broken"} | change, ROW | {"id": "whole"}]
        (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_an_evaluation_goes_on_past_a_broken_row(change: dict[str, object], set_of) -> None:
    folder = set_of(change)
    run = CliRunner().invoke(
        app, ["eval", "tiny", "--problems", str(folder), "--out", str(folder / "out"), "--main", "2"]
    )
    assert run.exit_code == 0, run.output
    report = json.loads((folder / "out" / "report.json").read_text())
    harmless = "meta" in change or "source" in change
    assert report["models"]["tiny"]["accuracy"]["n"] == 1 + harmless
    assert report["models"]["tiny"]["errors"]["n"] == 1 - harmless


@pytest.mark.parametrize("field", ["id", "question"])
def test_a_row_without_a_readable_id_or_question_is_named(field: str, set_of) -> None:
    folder = set_of({field: f"x{HALF}"})
    run = CliRunner().invoke(app, ["eval", "tiny", "--problems", str(folder), "--out", str(folder / "out")])
    assert run.exit_code in (1, 2) and f"row 1: field '{field}'" in " ".join(run.output.split())


def test_a_file_holds_what_json_would_hold(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {f"k{HALF}": f"v{HALF}"})
    assert json.loads((tmp_path / "a.json").read_text()) == {f"k{HALF}": f"v{HALF}"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--batch", "{}", "--out", "{}/x.jsonl"],
        ["ask", "--batch", "{}/q.jsonl", "--out", "{}"],
        ["sft", "tiny", "--dataset", "{}", "--out", "{}/sft", "--check"],
        ["eval", "tiny", "--problems", "{}/nothing", "--out", "{}/e"],
        ["build", "{}"],
        ["grpo", "{}"],
        ["run", "{}"],
    ],
)
def test_a_folder_where_a_file_is_wanted_is_a_sentence(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "What?"}\n')
    run = CliRunner().invoke(app, [argument.format(tmp_path) for argument in arguments])
    assert run.exit_code in (1, 2) and not isinstance(run.exception, OSError), run.exception
