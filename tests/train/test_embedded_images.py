"""Images that stand in a row as base64 are named as that by --check, with the command that writes them to files."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from train.grpo import load_grpo
from train.preflight import check
from train.sft import load_sft
from vlm.chat import question_messages
from vlm.embedded import is_embedded


def encoded(kind: str) -> str:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


TEXTS = [
    *(encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")),
    "data:image/png;base64," + encoded("PNG"),
    "DATA:image/jpeg;base64," + encoded("JPEG"),
    "data:,x",
    encoded("PNG") + "\n",
]
PATHS = [
    "a.png",
    "/9j/a.png",
    "/9j/",
    "iVBORw0KGgo",
    "iVBORw0KGgo" + "A" * 60 + ".png",
    "data/a.png",
    "https://x/a.png",
    "",
    "x" * 5000,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:24])
def test_an_image_in_text_is_known(text: str) -> None:
    assert is_embedded(text)


@pytest.mark.parametrize("text", PATHS, ids=lambda text: text[:24])
def test_a_path_is_none(text: str) -> None:
    assert not is_embedded(text)


@pytest.fixture
def keys(tiny_vlm_dir: Path, tmp_path: Path) -> dict[str, Any]:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "good.png")
    return {"model": str(tiny_vlm_dir), "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 1}


def test_grpo_names_them_with_the_remedy(keys: dict[str, Any], tmp_path: Path) -> None:
    row = {"source": "test", "domain": "text", "question": "What is at A1?", "answer": "red"}
    rows = [{**row, "id": f"p{n}", "images": [text]} for n, text in enumerate(["good.png", *TEXTS, "absent.png"])]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    report = check(
        load_grpo({**keys, "problems": str(tmp_path), "num_generations": 2, "gradient_accumulation_steps": 2})
    )
    found = {finding.check: finding.said for finding in report.findings}
    assert set(found) == {"embedded_picture", "missing_picture"} and report.counts["problems"] == 1
    assert found["embedded_picture"].startswith(f"{len(TEXTS)} rows (p1: iVBORw0KGgo")
    assert "'reflection-v problems FILE --out SET'" in found["embedded_picture"]
    assert max(len(part) for part in found["embedded_picture"].split("; ")) < 200  # not the image itself
    assert "absent.png" in found["missing_picture"]


def test_sft_names_them_too(keys: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        {"prompt": question_messages("What is at A1?", 1), "completion": "red", "images": [text]}
        for text in ("good.png", TEXTS[0], TEXTS[1])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    report = check(load_sft({**keys, "dataset": str(tmp_path / "rows.jsonl")}))
    (finding,) = report.findings
    assert finding.check == "unreadable_picture" and finding.said.count("is an image as base64, not a path") == 2
