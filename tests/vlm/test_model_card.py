"""What a model's card says it reads: found, bounded, shown beside answers, and handed on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm.asking import answer_question
from vlm.backends import ScriptedBackend
from vlm.identity import model_identity
from vlm.infer import main
from vlm.load import bundled_model
from vlm.model_card import MAX_LINE, keep_card, what_it_reads


def with_card(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("reads: rows of digits", "rows of digits"),
        ("reads: rows of digits.\nlicense: mit", "rows of digits"),
        ("reads: |\n  rows of\n  digits", "rows of digits"),
        ('reads: "a\\x1b[31m red line"', "a [31m red line"),
        ("reads: " + "x" * 1_000, "x" * MAX_LINE),
        ("reads: [rows, digits]", None),
        ("reads: ''", None),
        ("license: mit", None),
    ],
)
def test_the_line_is_one_bounded_line_or_none(tmp_path: Path, header: str, line: str | None) -> None:
    assert what_it_reads(with_card(tmp_path, f"---\n{header}\n---\n")) == line


def test_models_without_a_folder_have_no_card(tmp_path: Path) -> None:
    assert what_it_reads(tmp_path) is None
    assert what_it_reads("Qwen/Qwen3-VL-2B-Instruct") is what_it_reads("openai:m@http://127.0.0.1:1/v1") is None
    assert answer_question(ScriptedBackend(["2"]), [Image.new("RGB", (9, 9))], "How many?")["reads"] is None


def test_the_bundled_model_says_what_it_reads() -> None:
    assert what_it_reads("tiny") == what_it_reads(bundled_model("tiny")) != what_it_reads("tiny-reasoner")


def test_a_card_is_handed_on_and_never_replaced(tmp_path: Path) -> None:
    start, trained = with_card(tmp_path / "start", "---\nreads: 'a: #1 \"x\"'\n---\nbody\n"), tmp_path / "trained"
    trained.mkdir()
    keep_card(start, trained)
    assert what_it_reads(trained) == what_it_reads(start) == 'a: #1 "x"'
    assert "body" not in (trained / "README.md").read_text()
    keep_card(with_card(tmp_path / "other", "---\nreads: b\n---\n"), trained)
    assert what_it_reads(trained) == 'a: #1 "x"'
    keep_card("Qwen/Qwen3-VL-2B-Instruct", with_card(tmp_path / "plain", "x"))
    assert (tmp_path / "plain" / "README.md").read_text() == "x"


@pytest.mark.parametrize("extra", [[], ["--json"]], ids=["text", "json"])
def test_ask_shows_it(tmp_path: Path, tiny_vlm_dir: Path, capsys: Any, extra: list[str]) -> None:
    model = shutil.copytree(tiny_vlm_dir, tmp_path / "model")
    identity = model_identity(model)
    with_card(model, "---\nreads: rows of digits\n---\n")
    assert model_identity(model) == identity  # a card is no part of the model: answers that are there stay valid
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "How many?", "--effort", "off", "--model", str(model), *extra]) == 0
    out = capsys.readouterr().out
    if extra:
        assert json.loads(out)["reads"] == "rows of digits"
    else:
        assert out.endswith("\nThis model reads rows of digits (its model card).\n")
