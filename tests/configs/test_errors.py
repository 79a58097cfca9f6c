"""Memory that is full is said in one sentence, wherever the error comes from."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import LONGEST, ImageError, UserError, memory_error
from vlm import infer
from vlm.load import load_vlm

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free. "
    "Process 1 has 77.90 GiB memory in use."
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError(FULL), "GPU 0 has 1.20 GiB of 79.10 GiB free: end what else uses it"),
        (torch.OutOfMemoryError("XPU out of memory."), "The GPU's memory is full: end what else uses it"),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), "The GPU's memory is full"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "The GPU's memory is full",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            "The machine's",
        ),
        (OSError(12, "Cannot allocate memory"), "The machine's memory is full"),
        (MemoryError(), "The machine's memory is full: end what else uses it"),
    ],
)
def test_full_memory_is_known(error: Exception, words: str) -> None:
    known = memory_error(error)
    assert known is not None and str(known).startswith(words) and known.exit_code == 1
    assert ("CUDA_VISIBLE_DEVICES" in str(known)) == ("GPU" in words)
    assert "a smaller batch" in str(known)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("CUDA error: out of memory"), OSError(2, "x")]
)
def test_other_errors_are_not(error: Exception) -> None:
    assert memory_error(error) is None


def test_a_full_gpu_is_said_where_the_model_loads(monkeypatch: pytest.MonkeyPatch, tiny_vlm_dir: Path) -> None:
    def full(self: Any, device: Any) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(UserError) as error:
        load_vlm(tiny_vlm_dir, device="cuda:0")
    said = str(error.value)
    assert said.startswith(
        f"Loading the weights onto cuda:0 of {tiny_vlm_dir} failed (GPU 0 has 1.20 GiB of 79.10 GiB free)"
    )
    assert "CUDA_VISIBLE_DEVICES" in said and "folder is complete" not in said


def test_a_gpu_that_fills_while_it_answers_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Any) -> int:
        raise error

    monkeypatch.setattr(infer, "run_ask", fails)
    error: Exception = torch.OutOfMemoryError(FULL)
    assert infer.main([]) == 1
    assert capsys.readouterr().err.startswith("GPU 0 has 1.20 GiB")
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        infer.main([])


def test_memory_errors_need_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert memory_error(MemoryError()) is not None and memory_error(RuntimeError("a bug")) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.png", "a b.png"),
        ("a\x1b[31mb\x07.png", "a\\x1b[31mb\\x07.png"),
        ("a\0b.png", "a\\x00b.png"),
        ("a\r\n\u2028b", "a b"),
        ("图 é ✓.png", "图 é ✓.png"),
    ],
)
def test_a_sentence_is_one_line_without_control_characters(name: str, shown: str) -> None:
    assert str(ImageError(f"The image {name} does not exist.")) == f"The image {shown} does not exist."


@pytest.mark.parametrize("length", [3_000, 10**6])
def test_a_sentence_that_repeats_a_very_long_text_keeps_its_remedy(length: int) -> None:
    said = str(UserError(f"The name {'x' * length} does not exist: check the path."))
    assert (
        len(said) < 2 * LONGEST
        and said.startswith("The name xxx")
        and said.endswith("xxx does not exist: check the path.")
    )
