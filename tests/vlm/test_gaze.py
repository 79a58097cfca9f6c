"""Mass and maps by sentence agree with the probe and the heat maps that they are cut from."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.errors import UserError
from vlm.chat import question_messages
from vlm.gaze import sentence_spans, watch
from vlm.heatmap import response_maps
from vlm.load import VLM, load_vlm

TEXT = "<think> row 1: star none; row 2: none. Let me look at the picture again. 1 + 0 = 1. </think> \\boxed{1}"
MESSAGES = question_messages("How many stars?", 1)


@pytest.fixture(scope="module")
def vlm_(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
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


def test_a_sentence_is_the_mean_of_its_tokens(vlm_: VLM, picture: Image.Image) -> None:
    gaze = watch(vlm_, MESSAGES, [picture], TEXT)
    assert len(gaze.mass) == len(gaze.lift) == len(vlm_.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    assert all(0 < mass < 1 for mass in gaze.mass)
    for sentence in gaze.sentences:
        assert TEXT[sentence.start : sentence.end] == sentence.text
        first, last = sentence.tokens
        assert sentence.mass == pytest.approx(sum(gaze.mass[first:last]) / (last - first), abs=1e-5)
        assert float(sentence.maps[0].sum()) == pytest.approx(sentence.mass, abs=1e-5)
        ids = vlm_.tokenizer(TEXT, add_special_tokens=False)["input_ids"][first:last]
        assert vlm_.tokenizer.decode(ids).strip() == sentence.text


def test_it_agrees_with_the_heat_map_of_the_span(vlm_: VLM, picture: Image.Image) -> None:
    gaze = watch(vlm_, MESSAGES, [picture], TEXT)
    sentence = gaze.sentences[2]
    (expected,) = response_maps(vlm_, MESSAGES, [picture], TEXT, sentence.tokens)
    torch.testing.assert_close(sentence.maps[0], expected, atol=1e-6, rtol=0)
    (whole,) = response_maps(vlm_, MESSAGES, [picture], TEXT)
    torch.testing.assert_close(gaze.maps[0], whole, atol=1e-6, rtol=0)


def test_several_pictures_share_the_mass(vlm_: VLM, picture: Image.Image) -> None:
    gaze = watch(vlm_, question_messages("Same?", 2), [picture, picture.rotate(90, expand=True)], TEXT)
    sentence = gaze.sentences[0]
    assert len(sentence.maps) == 2
    assert sum(float(heat.sum()) for heat in sentence.maps) == pytest.approx(sentence.mass, abs=1e-5)


def test_a_family_without_one_grid_has_mass_and_no_maps(
    vlm_: VLM, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("tiles")

    monkeypatch.setattr("vlm.heatmap.token_grids", refuse)
    gaze = watch(vlm_, MESSAGES, [picture], TEXT)
    assert gaze.note == "tiles" and gaze.maps == [] and gaze.sentences[0].maps == [] and gaze.sentences[0].mass > 0


def test_what_cannot_be_watched(vlm_: VLM, picture: Image.Image) -> None:
    with pytest.raises(UserError, match="no picture"):
        watch(vlm_, question_messages("x", 0), [], TEXT)
    with pytest.raises(UserError, match="no response"):
        watch(vlm_, MESSAGES, [picture], "")
