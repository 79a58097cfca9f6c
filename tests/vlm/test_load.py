"""Folders load as they are saved, and every broken one ends in a sentence that names folder and remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from vlm.chat import encode, question_messages
from vlm.load import bundled_model, load_model, load_text_model, load_vlm


@pytest.fixture
def copy(tiny_vlm_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_vlm_dir, tmp_path / "my-model"))


def test_a_folder_loads_in_float32_evaluation_mode_left_padded(tiny_vlm_dir: Path) -> None:
    for name in (tiny_vlm_dir, str(tiny_vlm_dir)):
        vlm = load_vlm(name)
        assert vlm.name == str(tiny_vlm_dir) and vlm.reads_images and not vlm.model.training
        assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.float32}
        assert vlm.tokenizer is vlm.processor.tokenizer and vlm.tokenizer.padding_side == "left"
        assert vlm.device.type == "cpu" or torch.cuda.is_available()


def test_dtype_is_as_stated(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    half = load_vlm(tiny_vlm_dir, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    half.model.save_pretrained(tmp_path)
    half.processor.save_pretrained(tmp_path)
    assert load_vlm(tmp_path).model.dtype == torch.float32
    assert load_vlm(tmp_path, dtype="auto").model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="dtype 'float16' is not known"):
        load_vlm(tiny_vlm_dir, dtype="float16")  # type: ignore[arg-type]


def test_settings_for_the_processor(tiny_vlm_dir: Path) -> None:
    assert load_vlm(tiny_vlm_dir, max_pixels=64 * 64, min_pixels=32 * 32).processor.image_processor.size == {
        "shortest_edge": 32 * 32,
        "longest_edge": 64 * 64,
    }


def test_text_models(tiny_reasoner_dir: Path, tiny_vlm_dir: Path) -> None:
    model = load_text_model(tiny_reasoner_dir)
    assert model.tokenizer is model.processor and not model.reads_images
    assert model.tokenizer.padding_side == "left"
    with pytest.raises(UserError, match="text-only model"):
        load_vlm(tiny_reasoner_dir)
    with pytest.raises(UserError, match="vision-language model"):
        load_text_model(tiny_vlm_dir)
    assert not load_model(tiny_reasoner_dir).reads_images and load_model(tiny_vlm_dir).reads_images


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./nowhere", "does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("nowhere", "does not exist"),
        (Path("runs/sft"), "does not exist"),
        ("a/b/c", "does not exist"),
        ("", "does not exist"),
        ("no-such-owner/no-such-model", "Loading the config of no-such-owner/no-such-model failed"),
    ],
)
def test_names_that_lead_nowhere(
    name: str | Path, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        load_vlm(name)


def test_a_file_is_not_a_model(copy: Path) -> None:
    with pytest.raises(UserError, match="is a file: give the folder"):
        load_vlm(copy / "config.json")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (["config.json"], "has no config.json"),
        (["processor_config.json", "preprocessor_config.json"], "has no processor .*processor.save_pretrained"),
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer"),
        (["model.safetensors"], "has no weights"),
    ],
)
def test_a_folder_without(copy: Path, missing: list[str], reason: str) -> None:
    for name in missing:
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=reason) as caught:
        load_vlm(copy)
    assert str(copy) in str(caught.value)


def test_an_adapter_alone(copy: Path) -> None:
    (copy / "config.json").rename(copy / "adapter_config.json")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_vlm(copy)


@pytest.mark.parametrize("content", ["{not json", "[]", '{"model_type": "no_such_model"}', "{}"])
def test_a_damaged_config(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load_vlm(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"Loading the weights of .* failed"):
        load_vlm(copy)


def test_missing_tensors_are_not_replaced_by_random_ones(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    config["text_config"].pop("layer_types", None)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lack 11 tensors"):
        load_vlm(copy)


def test_bundled_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_vlm_dir: Path) -> None:
    with pytest.raises(UserError, match="no bundled model 'huge'"):
        bundled_model("huge")
    monkeypatch.setattr("vlm.load.__file__", str(tmp_path / "load.py"))
    with pytest.raises(UserError, match=r"train\.tiny\.pretrain"):
        load_vlm("tiny")
    shutil.copytree(tiny_vlm_dir, tmp_path / "models" / "tiny-vlm")
    assert bundled_model("tiny") == bundled_model("tiny-vlm") == tmp_path / "models" / "tiny-vlm"
    assert load_vlm("tiny").name == "tiny"


def test_loading_prints_nothing(tiny_vlm_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_vlm(tiny_vlm_dir)
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    "change", [{"pad_token": None}, {"pad_token": None, "padding_side": "right"}, {"pad_token": "<|im_end|>"}]
)
def test_a_tokenizer_without_a_pad_token_pads_all_the_same(copy: Path, change: dict[str, object]) -> None:
    file = copy / "tokenizer_config.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in {**kept, **change}.items() if value is not None}))
    vlm = load_vlm(copy)
    assert vlm.tokenizer.pad_token_id is not None and vlm.tokenizer.padding_side == "left"
    batch = encode(vlm, [question_messages(text, 0) for text in ("What?", "What is at A1?")], [[], []])
    assert (
        batch["attention_mask"].sum(1).tolist()[0] < batch["input_ids"].shape[1]
        and batch["attention_mask"][:, -1].all()
    )
