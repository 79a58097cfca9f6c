"""What a question imports, and the collector that rests meanwhile."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from configs.errors import UserError
from vlm import infer, questions
from vlm.startup import collection_paused

ROOT = Path(__file__).parents[2]
NOT_NEEDED = [
    *["datasets", "gradio", "math_verify", "matplotlib", "openai", "pandas", "peft", "scipy.stats", "sklearn", "trl"],
    *["data_construction", "demo", "eval", "reward", "train"],
]
"""Packages that cost seconds and that no question to a model in this process uses."""


def test_a_question_imports_only_what_it_needs(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "photo.png")
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from reflection_v.cli import app\n"
        "for more in ([], ['--heatmap', 'look.png', '--votes', '2']):\n"
        f"    arguments = ['ask', 'photo.png', 'What?', '--model', {str(tiny_vlm_dir)!r}, '--effort', 'off', *more]\n"
        "    done = CliRunner().invoke(app, arguments)\n"
        "    assert done.exit_code == 0, done.output\n"
        "assert 'transformers.generation' in sys.modules\n"
        f"print([name for name in {NOT_NEEDED!r} if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_collector_rests_while_a_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resting: list[bool] = []

    def load(*_: object) -> None:
        resting.append(not gc.isenabled())
        raise UserError("no model")

    monkeypatch.setattr(questions, "load_for_asking", load)
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    assert infer.main(["--image", str(tmp_path / "photo.png"), "--question", "What?"]) == 1
    assert resting == [True] and gc.isenabled()


def test_what_is_loaded_is_not_looked_at_again() -> None:
    class Node:
        def __init__(self) -> None:
            self.me = self

    with collection_paused():
        nodes = [Node() for _ in range(1000)]
        assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    try:
        assert gc.isenabled() and frozen > len(nodes)
        found = {id(thing) for thing in gc.get_objects()}  # frozen ones are not listed
        assert not any(id(node) in found for node in nodes)
    finally:
        gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
