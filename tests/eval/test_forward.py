"""VDM, attention and patch masking against direct computation."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripted_subjects import colour_problems

sys.path.insert(0, str(Path(__file__).parents[1] / "vlm"))

from tiny_families import FIRST_WORD, IMAGE, qwen2_5_vl

from eval.forward import forward_figures, forward_measures, hellinger, paint_over, read
from eval.runner import Answer
from vlm.attention import AttentionMass
from vlm.load import VLM, load_vlm


def test_hellinger_by_hand() -> None:
    p, q = (
        torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.3, 0.7]]).sqrt(),
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]]).sqrt(),
    )
    assert hellinger(p, q).tolist() == pytest.approx([math.sqrt(1 - math.sqrt(0.5)), 1.0, 0.0], abs=1e-6)


def test_vdm_and_attention_equal_two_plain_forwards_of_a_qwen2_5_vl() -> None:
    family = qwen2_5_vl()
    model, lengths = family.model, [5, 9]
    seen = family.batch([1, 2], lengths=[5, 9])
    blind = family.batch([0, 0], lengths=[5, 9])
    for row, length in enumerate(lengths):  # one and the same text
        blind["input_ids"][row, -length:] = seen["input_ids"][row, -length:]
    with_image, without = read(model, seen, lengths, attention="all"), read(model, blind, lengths)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        plain = model(**seen, output_attentions=True)
        other = model(**blind)
    attention = torch.stack(plain.attentions).mean(2)  # layers, batch, rows, keys
    for row, length in enumerate(lengths):
        stop = seen["input_ids"].shape[1]
        predicting = slice(stop - length - 1, stop - 1)
        p = plain.logits[row, predicting].softmax(-1)
        q = other.logits[row, -length - 1 : -1].softmax(-1)
        vdm = (p.sqrt() - q.sqrt()).norm(dim=-1) / math.sqrt(2)
        assert torch.allclose(hellinger(with_image.root[row], without.root[row]), vdm, atol=1e-5)
        images = seen["input_ids"][row] == IMAGE
        direct = attention[:, row, predicting][:, :, images]
        assert with_image.mass and with_image.token_mass
        assert torch.allclose(with_image.mass[row], direct.sum(-1).mean(0), atol=1e-5)
        assert torch.allclose(with_image.token_mass[row][:, : int(images.sum())], direct.mean(0), atol=1e-5)
        log_p = p.log().gather(-1, seen["input_ids"][row, -length:, None])[:, 0]
        assert torch.allclose(with_image.log_p[row], log_p, atol=1e-5)
        assert bool((seen["input_ids"][row, -length:] >= FIRST_WORD).all()) and float(vdm.max()) > 0.01


def test_painting_over_the_most_and_the_least_attended_patches() -> None:
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    heat = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    (most,) = paint_over([image], [heat], 0.25, most=True)
    (least,) = paint_over([image], [heat], 0.25, most=False)
    grey = [(x, y) for x in range(8) for y in range(4) if most.getpixel((x, y)) == (127, 127, 127)]
    assert grey == [(x, y) for x in range(4, 8) for y in range(2)]
    assert least.getpixel((0, 0)) == (127, 127, 127) and least.getpixel((4, 0)) == (255, 0, 0)
    two = paint_over([image, image], [heat, heat / 10], 0.5, most=True)
    assert two[1].getcolors() == [(32, (255, 0, 0))] and two[0].getcolors() == [(32, (127, 127, 127))]


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> Iterator[VLM]:
    yield load_vlm(tiny_vlm_dir)


def test_four_forwards_a_batch_a_resume_without_any_and_batches_like_singles(vlm: VLM, tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 4)
    fields = {"tag": "main", "style": "think", "domain": "text", "family": "f"}
    texts = ["I see red and then more red, so red.", "I see green, or I see blue, at last green."]
    answers = {
        p.id: Answer(problem_id=p.id, key=f"k{n}", text=texts[n % 2], tokens=12, **fields)  # type: ignore[arg-type]
        for n, p in enumerate(problems)
    }
    with AttentionMass(vlm.model):  # the comparison with and without the probe, once a model, has forwards of its own
        pass
    forwards = []
    hook = vlm.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        found = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think", batch_size=4)
        assert len(forwards) == 4  # for the whole batch
        again = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think", batch_size=4)
        assert len(forwards) == 4 and again == found
        alone = forward_measures(vlm, problems, answers, tmp_path / "g.jsonl", style="think", batch_size=1)
    finally:
        hook.remove()
    assert found["vdm"]["second_half"]["n"] == 4
    for one, other in zip(found["rows"], alone["rows"], strict=True):
        assert one["vdm"] == pytest.approx(other["vdm"], abs=1e-4)
        assert one["most_drop"] == pytest.approx(other["most_drop"], abs=1e-4)
    assert len(found["rows"][0]["maps"][0]) >= 1
    # Killed while the rows of the batch were written: those that are whole stay, and none is there twice.
    log = tmp_path / "f.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"".join(lines[:1]), b"".join(lines[:3]) + lines[3][:40]):
        log.write_bytes(kept)
        assert forward_measures(vlm, problems, answers, log, style="think", batch_size=4) == found
        assert log.read_bytes() == whole


def test_what_cannot_be_judged_is_passed_over(vlm: VLM, tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 4)
    fields = {"key": "k", "tag": "main", "style": "think", "domain": "text", "family": "f", "text": "a b c d e f g h i"}
    answers = {
        "p0": Answer(problem_id="p0", tokens=9, truncated=True, **fields),  # type: ignore[arg-type]
        "p1": Answer(problem_id="p1", tokens=3, **fields),  # type: ignore[arg-type]
        "p2": Answer(problem_id="p2", tokens=9, status="error", **fields),  # type: ignore[arg-type]
    }
    found = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think")
    assert found["rows"] == [] and found["vdm"]["second_half"]["value"] is None


def test_figures_by_hand() -> None:
    rows = [
        {"problem_id": "a", "vdm": [0.2, 0.4], "vdm_halves": [0.2, 0.4], "most_drop": 0.9, "least_drop": 0.1},
        {
            "problem_id": "b",
            "vdm": [0.4, 0.2],
            "vdm_halves": [0.4, 0.2],
            "most_drop": None,
            "least_drop": None,
            "why": "tiles",
        },
        {"problem_id": "c", "why": "gone"},
    ]
    found = forward_figures(rows)
    assert found["vdm"]["second_half"]["value"] == pytest.approx(0.3) and found["vdm"]["ratio"]["value"] == 1.25
    assert found["patch_masking"]["values"] == {"a": pytest.approx(0.8)} and found["not_measured"] == ["gone", "tiles"]
