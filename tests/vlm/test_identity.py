"""A model is known by the content of its files."""

import os
import shutil
from pathlib import Path

import pytest

import configs.identity
from configs.errors import UserError
from configs.identity import fingerprint
from vlm.identity import model_identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that stands for a model: an identity needs files, not weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(200)) * 100)
    return folder


def test_a_copy_is_the_same_model_whenever_it_was_made(model: Path, tmp_path: Path) -> None:
    known = model_identity(model)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    assert model_identity(copy) == known


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"])
def test_a_model_that_changed_in_place_is_another(model: Path, name: str) -> None:
    known = model_identity(model)
    content = (model / name).read_bytes() if (model / name).exists() else b""
    (model / name).write_bytes(content[:-1] + b"!")  # of the same size, where the file was there
    assert model_identity(model) != known


@pytest.mark.parametrize(
    "name",
    [
        "log.jsonl",
        "settings.json",
        "report.json",
        "train.txt",
        "optimizer.pt",
        "README.md",
        "checkpoint-5/model.safetensors",
    ],
)
def test_what_training_keeps_beside_a_model_does_not_count(model: Path, name: str) -> None:
    known = model_identity(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("another")
    assert model_identity(model) == known


def test_of_a_large_file_blocks_from_all_over_it_are_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning and its end may be parts that training froze."""
    monkeypatch.setattr(configs.identity, "WHOLE", 1000)
    monkeypatch.setattr(configs.identity, "BLOCK", 100)
    known = model_identity(model)
    content = bytearray((model / "model.safetensors").read_bytes())
    middle = len(content) // 2
    content[middle - 200 : middle + 200] = bytes(400)
    (model / "model.safetensors").write_bytes(content)
    assert model_identity(model) != known


def test_a_file_that_did_not_change_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = model_identity(model)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert model_identity(model) == known


def test_a_name_of_the_hub_or_of_a_server_has_none(tmp_path: Path) -> None:
    assert model_identity("Qwen/Qwen2.5-VL-7B-Instruct") is None
    assert model_identity("openai:name@http://localhost:1/v1") is None
    assert model_identity("tiny") != model_identity("tiny-reasoner") != None  # noqa: E711


def test_a_bundled_model_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.load.BUNDLED", {"tiny": "no-such-folder"})
    with pytest.raises(UserError, match="bundled model tiny is not at"):
        model_identity("tiny")


def test_a_fingerprint_sees_content_and_names_not_places(tmp_path: Path) -> None:
    for folder, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_text(content)
    prints = {folder: fingerprint(tmp_path / folder) for folder in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]
    (tmp_path / "b" / "weights").rename(tmp_path / "b" / "other")
    assert fingerprint(tmp_path / "b") != prints["a"]
