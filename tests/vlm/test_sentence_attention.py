"""Mass and maps by sentence agree with the probe and the heat maps that they are cut from."""

from pathlib import Path

import pytest
from PIL import Image

from configs.errors import UserError
from vlm.chat import question_messages
from vlm.load import VLM, load_vlm
from vlm.sentence_attention import attention_by_sentence, sentence_spans

TEXT = "<think> row 1: star none; row 2: none. Let me look at the picture again. 1 + 0 = 1. </think> \\boxed{1}"
MESSAGES = question_messages("How many stars?", 1)


@pytest.fixture(scope="module")
def vlm_(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.effect_noise((192, 128), 90).convert("RGB")


def test_sentences_clauses_and_the_box() -> None:
    pieces = [TEXT[start:end] for start, end in sentence_spans(TEXT)]
    assert pieces == [
        "row 1: star none;",
        "row 2: none.",
        "Let me look at the picture again.",
        "1 + 0 = 1.",
        "\\boxed{1}",
    ]
    assert sentence_spans("One two. Three", [4, 0, 99]) == [(0, 3), (4, 8), (9, 14)]
    assert sentence_spans("") == sentence_spans("<think></think>") == []
    assert [s for s, _ in sentence_spans(";" * 2000)] == [0]


def test_a_sentence_is_the_mean_of_its_tokens(vlm_: VLM, image: Image.Image) -> None:
    found = attention_by_sentence(vlm_, MESSAGES, [image], TEXT)
    assert len(found.mass) == len(found.lift) == len(vlm_.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    assert all(0 < mass < 1 for mass in found.mass)
    for sentence in found.sentences:
        assert TEXT[sentence.start : sentence.end] == sentence.text
        first, last = sentence.tokens
        assert sentence.mass == pytest.approx(sum(found.mass[first:last]) / (last - first), abs=1e-5)
        assert float(sentence.maps[0].sum()) == pytest.approx(sentence.mass, abs=1e-5)
        ids = vlm_.tokenizer(TEXT, add_special_tokens=False)["input_ids"][first:last]
        assert vlm_.tokenizer.decode(ids).strip() == sentence.text


def test_several_images_share_the_mass(vlm_: VLM, image: Image.Image) -> None:
    found = attention_by_sentence(vlm_, question_messages("Same?", 2), [image, image.rotate(90, expand=True)], TEXT)
    sentence = found.sentences[0]
    assert len(sentence.maps) == 2
    assert sum(float(one.sum()) for one in sentence.maps) == pytest.approx(sentence.mass, abs=1e-5)


def test_a_family_without_one_grid_has_mass_and_no_maps(
    vlm_: VLM, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("tiles")

    monkeypatch.setattr("vlm.scoring.token_grids", refuse)
    found = attention_by_sentence(vlm_, MESSAGES, [image], TEXT)
    assert found.note == "tiles" and found.maps == [] and found.sentences[0].maps == [] and found.sentences[0].mass > 0


def test_what_cannot_be_measured(vlm_: VLM, image: Image.Image) -> None:
    with pytest.raises(UserError, match="no image"):
        attention_by_sentence(vlm_, question_messages("x", 0), [], TEXT)
    with pytest.raises(UserError, match="no response"):
        attention_by_sentence(vlm_, MESSAGES, [image], "")
