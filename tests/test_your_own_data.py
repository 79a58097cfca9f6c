"""docs/your-own-data.md for real: thirty images as JSON Lines through build, sft and eval, by its own commands."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from configs.jsonl import read_jsonl
from reflection_v.cli import app

DOCS = Path(__file__).parents[1] / "docs" / "your-own-data.md"
SMALL = {
    "build": "--loop.rounds 2",
    "sft": "--max_steps 2 --per_device_train_batch_size 4",
    "eval": "--max_new_tokens 8 --blank 4 --swap 4",
}


def own_set(folder: Path, n: int) -> None:
    """Images of different sizes and modes, one of them broken, as a user would have them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(n):
        mode = ("RGB", "RGBA", "L", "P")[index % 4]
        picture = Image.new("RGB", (120 + 10 * index, 200), (200, 220, 240))
        ImageDraw.Draw(picture).rectangle([20, 20, 60 + index, 90], fill=(200, 30, 30))
        name = f"images/{index:02d}.png"
        picture.convert(mode).save(folder / name)
        rows.append(
            {
                "id": f"own-{index}",
                "source": "own",
                "domain": "yes_no",
                "images": [name],
                "question": "Is there a red box?",
                "answer": "yes",
            }
        )
    (folder / rows[7]["images"][0]).write_bytes(b"not a picture")
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def commands() -> dict[str, str]:
    """The documented command of each stage."""
    text = DOCS.read_text()
    found = re.findall(r"^reflection-v (build|sft|eval) (.+)$", text, flags=re.MULTILINE)
    return dict(found)


def test_thirty_pictures_through_the_documented_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_vlm_dir: Path
) -> None:
    own_set(tmp_path / "my" / "set", 30)
    own_set(tmp_path / "my" / "heldout", 8)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(Path(__file__).parents[1] / "configs")
    documented = commands()
    assert list(documented) == ["build", "sft", "eval"]
    for stage, line in documented.items():
        models = {"build": "--model tiny --reasoner tiny-reasoner --prompts short", "sft": f"--model {tiny_vlm_dir}"}
        words = shlex.split(f"{stage} {line} {models.get(stage, '')} {SMALL[stage]}")
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    traces = read_jsonl(tmp_path / "my/traces/traces.jsonl")
    assert len(traces) == 29 and "own-7" not in {trace["problem_id"] for trace in traces}
    built = json.loads((tmp_path / "my/traces/build.json").read_text())
    assert built["problems"] == 29 and built["dropped"] == {"unreadable_picture": 1}
    assert "07.png" in built["dropped_examples"]["unreadable_picture"][0]
    assert (tmp_path / "my/sft/model.safetensors").exists()
    report = json.loads((tmp_path / "my/report/report.json").read_text())
    (one,) = report["models"].values()
    assert (one["accuracy"]["n"], one["errors"]["n"]) == (7, 1)
    assert (tmp_path / "my/report/report.html").exists()
