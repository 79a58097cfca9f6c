"""The GPU day without a GPU: its parts, its refusals, and a dry run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_day


def test_a_dry_run_differs_in_shapes_and_device_only() -> None:
    real, dry = gpu_day.plan_parts(False), gpu_day.plan_parts(True)
    assert [part["id"].rsplit("-", 1)[0] if part["kind"] == "probe" else part["id"] for part in real] == [
        part["id"].rsplit("-", 1)[0] if part["kind"] == "probe" else part["id"] for part in dry
    ]
    for one, other in zip(real, dry, strict=True):
        assert one.keys() == other.keys()
    assert {part["image_tokens"] for part in real if part["kind"] == "probe"} == {1024, 4096}
    assert {part["response_tokens"] for part in real} == {512}
    assert sum(part["limit"] for part in real if part["kind"] == "probe") < gpu_day.DAY


def test_a_machine_without_a_gpu_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_day.main([]) == 2
    assert "--dry" in capsys.readouterr().err


def test_a_small_gpu_is_told_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, said in ((32e9, "--sizes 3B"), (12e9, "only --dry"), (80e9, None)):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr(
            "torch.cuda.get_device_properties", lambda _, memory=memory: type("Device", (), {"total_memory": memory})
        )
        reason = gpu_day.refuse(False)
        assert reason is None if said is None else said in str(reason)


def test_failed_parts_are_rows_and_finished_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def fake(part: dict[str, Any], out: Path, limit: float) -> dict[str, Any]:
        ran.append(part["id"])
        return {"status": "failed", "reason": "memory"} if part["kind"] == "sft" else {"status": "done", "cost": 0.01}

    monkeypatch.setattr(gpu_day, "run_part", fake)
    page = tmp_path / "page.md"
    page.write_text(f"{gpu_day.BEGIN}\n{gpu_day.END}\n")
    argv = ["--dry", "--out", str(tmp_path / "out"), "--write", str(page), "--sizes", "3B"]
    assert gpu_day.main(argv) == 1
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    states = {row["id"]: row["status"] for row in rows}
    assert states["sft-3B"] == "failed" and states["probe-3B-sdpa-16"] == "done"
    assert states["probe-3B-flex-16"] == "left out"  # a row with its reason
    assert "sft-3B | failed: memory" in page.read_text() and "cost 0.01" in page.read_text()
    ran.clear()
    assert gpu_day.main(argv) == 1
    assert ran == ["sft-3B"]  # what failed is tried again, what is finished is not


def test_a_part_that_breaks_or_hangs_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"id": "probe-x", "kind": "probe"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert gpu_day.run_part(part, tmp_path, 10)["reason"].startswith("exit code 1")
    sleeper = tmp_path / "sleep"
    sleeper.write_text("#!/bin/sh\nexec sleep 30\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    assert "not finished" in gpu_day.run_part(part, tmp_path, 0.2)["reason"]


@pytest.mark.slow
def test_a_dry_run_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--dry",
        "--out",
        str(tmp_path),
        "--sizes",
        "3B",
        "--parts",
        "probe-3B-sdpa-16",
        "build",
        "sft",
        "grpo-3B-attention",
    ]
    code = gpu_day.main([*argv, "--minutes", "10"])
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert code == 0, rows
    assert rows["probe-3B-sdpa-16"]["error"] < 1e-5
    assert rows["sft-3B"]["tokens_per_second"] > 0 and rows["sft-3B"]["plan_gb"] > 0
    assert rows["grpo-3B-attention-transformers"]["step_seconds"] > 0
