"""NaN and infinity in tensors, in models that load, and in the scores of the next token."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from vlm.finite import first_not_finite
from vlm.generate import generate, generate_stream
from vlm.load import load_model, load_text_model, load_vlm

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_tensor_that_is_not_finite_is_named(dtype: torch.dtype, value: float) -> None:
    tensors = {name: torch.full((3, 5), 6e4, dtype=dtype) for name in "abc"}
    assert first_not_finite(tensors.items()) is None  # the largest numbers of float16
    tensors["b"][2, 4] = value
    tensors["c"][0, 0] = value
    assert first_not_finite(tensors.items()) == "b"


def test_tensors_without_floating_numbers_are_skipped() -> None:
    others = [torch.empty(0), torch.arange(3), torch.empty(2, device="meta"), torch.tensor([True])]
    mixed = [("f", torch.tensor([3e38])), ("g", torch.ones(2, dtype=torch.bfloat16, requires_grad=True))]
    assert first_not_finite([]) is None
    assert first_not_finite([(str(number), tensor) for number, tensor in enumerate(others)] + mixed) is None
    bytes_ = torch.ones(4).to(torch.float8_e4m3fn)
    assert first_not_finite([("h", bytes_), ("i", torch.tensor(NAN))]) == "i"


def damaged(model: Path, folder: Path, name: str, value: float = NAN) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "value"), [("model.visual.blocks.0.norm1.bias", NAN), ("model.language_model.embed_tokens.weight", -INF)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_damaged_model_does_not_load(name: str, value: float, dtype: Any, tiny_vlm_dir: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_vlm_dir, tmp_path / "model", name, value)
    for load in (load_vlm, load_model):
        with pytest.raises(UserError, match="hold NaN or infinity") as refused:
            load(folder, dtype=dtype, device="cpu")
        assert str(folder) in str(refused.value) and f"({name})" in str(refused.value)


def test_nor_does_a_damaged_text_model(tiny_reasoner_dir: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_reasoner_dir, tmp_path / "model", "model.norm.weight")
    with pytest.raises(UserError, match=r"hold NaN or infinity \(model.norm.weight\)"):
        load_text_model(folder, device="cpu")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}, {"attention": {}}])
def test_scores_that_are_not_finite_are_no_text(settings: dict[str, Any], value: float, tiny_vlm_dir: Path) -> None:
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    talk = [{"role": "user", "content": "What is at A1?"}]
    handle = vlm.model.lm_head.register_forward_hook(lambda _module, _args, output: torch.full_like(output, value))
    with pytest.raises(UserError, match="gives NaN or infinity as scores of the next token"):
        generate(vlm, [talk, talk], [[], []], max_new_tokens=3, **settings)
    with pytest.raises(UserError, match="as scores of the next token"):
        list(generate_stream(vlm, talk, [], max_new_tokens=3))
    handle.remove()
    hooks = len(vlm.model._forward_hooks)
    assert generate(vlm, [talk], [[]], max_new_tokens=3, **settings)[0].token_ids
    assert len(vlm.model._forward_hooks) == hooks  # nothing of the look stays behind


def test_a_token_that_is_ruled_out_is_no_error(tiny_vlm_dir: Path) -> None:
    """Some models give minus infinity to tokens that nothing stands for."""
    vlm = load_vlm(tiny_vlm_dir, device="cpu")

    def rule_out(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., -3:] = -INF
        return output

    vlm.model.lm_head.register_forward_hook(rule_out)
    talk = [{"role": "user", "content": "What is at A1?"}]
    assert generate(vlm, [talk], [[]], max_new_tokens=3, temperature=1.0)[0].token_ids
