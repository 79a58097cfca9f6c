"""Teacher-forced forwards against direct computation."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.families import FIRST_WORD, IMAGE
from benchmarks.families.qwen import qwen2_5_vl
from vlm.scoring import hellinger, mask_patches, read_batch


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
    with_image, without = (
        read_batch(model, seen, lengths, attention="all", per_token=True, distributions=True),
        read_batch(model, blind, lengths, distributions=True),
    )
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
        assert torch.allclose(with_image.mass[row], direct.sum(-1).mean(0), atol=1e-5)
        assert torch.allclose(with_image.token_mass[row][:, : int(images.sum())], direct.mean(0), atol=1e-5)
        log_p = p.log().gather(-1, seen["input_ids"][row, -length:, None])[:, 0]
        assert torch.allclose(with_image.log_p[row], log_p, atol=1e-5)
        assert bool((seen["input_ids"][row, -length:] >= FIRST_WORD).all()) and float(vdm.max()) > 0.01


def test_masking_the_most_and_the_least_attended_patches() -> None:
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    attention = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    (most,) = mask_patches([image], [attention], 0.25, most=True)
    (least,) = mask_patches([image], [attention], 0.25, most=False)
    grey = [(x, y) for x in range(8) for y in range(4) if most.getpixel((x, y)) == (127, 127, 127)]
    assert grey == [(x, y) for x in range(4, 8) for y in range(2)]
    assert least.getpixel((0, 0)) == (127, 127, 127) and least.getpixel((4, 0)) == (255, 0, 0)
    two = mask_patches([image, image], [attention, attention / 10], 0.5, most=True)
    assert two[1].getcolors() == [(32, (255, 0, 0))] and two[0].getcolors() == [(32, (127, 127, 127))]


def test_no_other_module_reads_responses_again() -> None:
    """A second forward of that kind would bring its own mode, its own rows and its own rounding."""
    root = Path(__file__).parents[2]
    folders = ("vlm", "reward", "data_construction", "eval", "train", "demo")
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    assert [file.name for file in files if "logits_to_keep=" in file.read_text(encoding="utf-8")] == ["scoring.py"]
