"""The 2 x 2 cross: what only the text changed counts as text, what only the weights changed as weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from eval.cross import cross, cross_effects
from eval.runner import Answer
from vlm.load import VLM, load_vlm
from vlm.problem import Problem

LONG = "<think> A1 is red . Let me look again . A1 is red . A2 is blue . </think> \\boxed{red}"
SHORT = "<think> red . Let me look again . It is red . </think> \\boxed{red}"


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    made = []
    for index, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (96, 96), colour).save(tmp_path / f"{index}.png")
        images = [str(tmp_path / f"{index}.png")]
        made.append(
            Problem(id=f"p{index}", source="t", domain="text", images=images, question="What is at A1?", answer="red")
        )
    return made


def answers(problems: list[Problem], text: str, tokens: int = 20) -> dict[str, Answer]:
    return {
        p.id: Answer(
            problem_id=p.id, key="k", tag="main", style="think", domain="text", family="text", text=text, tokens=tokens
        )
        for p in problems
    }


def other_weights(folder: Path) -> VLM:
    vlm = load_vlm(folder, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in vlm.model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return vlm


def test_another_text_read_by_the_same_weights_is_text(tiny_vlm_dir: Path, problems: list[Problem]) -> None:
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    found = cross({"before": (vlm, answers(problems, LONG)), "after": (vlm, answers(problems, SHORT))}, problems)
    effects = {name: one["value"] for name, one in found["effects"].items()}
    assert found["n"] == 3 and effects["weights"] == effects["interaction"] == 0.0
    assert effects["text"] == effects["total"] != 0.0
    assert found["cells"]["before by before"] == found["cells"]["before by after"]


def test_the_same_text_read_by_other_weights_is_weights(tiny_vlm_dir: Path, problems: list[Problem]) -> None:
    vlm, other = load_vlm(tiny_vlm_dir, device="cpu"), other_weights(tiny_vlm_dir)
    found = cross({"before": (vlm, answers(problems, LONG)), "after": (other, answers(problems, LONG))}, problems)
    effects = {name: one["value"] for name, one in found["effects"].items()}
    assert effects["text"] == effects["interaction"] == 0.0 and effects["weights"] == effects["total"] != 0.0


def test_what_one_cannot_read_nobody_is_asked_about(tiny_vlm_dir: Path, problems: list[Problem]) -> None:
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    short = answers(problems, SHORT) | answers(problems[:1], "red", tokens=2)
    found = cross({"before": (vlm, answers(problems, LONG)), "after": (vlm, short)}, problems)
    assert found["n"] == 2


def test_a_change_is_text_plus_weights_plus_both() -> None:
    cells = {("a", "a"): 0.5, ("a", "r"): 0.3, ("r", "a"): 0.25, ("r", "r"): 0.2}
    split = cross_effects(cells, "a", "r")
    assert split == pytest.approx({"total": 0.3, "text": 0.1, "weights": 0.05, "interaction": 0.15})
