"""``reflection-v doctor``: what it says is what the stages would do, and each thing that is in the way has its remedy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from configs import bundled_config, machine, versions
from configs.errors import UserError
from configs.versions import install_command
from reflection_v import doctor
from reflection_v.cli import app
from reflection_v.doctor import Examination
from reflection_v.doctor_report import closing_lines, sections
from reward.worker import cores
from train.precision import fastest
from vlm.attention_trial import try_attention
from vlm.load import load_vlm


def look(name: str) -> Examination:
    """One part alone."""
    exam = Examination()
    exam.add(name, doctor.PARTS[name][0])
    return exam


def test_it_says_what_the_stages_would_choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["ok"] and found["errors"] == [], result.output
    assert [*found] == ["ok", "errors", "warnings", *doctor.PARTS]
    choices = found["choices"]
    assert choices["device"] == str(load_vlm("tiny").device)
    assert choices["threads"] == torch.get_num_threads() and choices["answer_workers"] == cores()
    for stage in ("sft", "grpo"):  # precision: auto in the bundled configs
        assert f", {fastest(torch.device(choices['device']).type)} (auto: " in choices["precision"][stage]
    assert choices["precision"]["ask"].startswith(str(load_vlm("tiny", dtype="auto").model.dtype).split(".")[1])
    assert choices["attention"]["kernel"] == "sdpa"
    assert found["machine"]["cores"] == machine.usable_cores()
    assert found["speed"]["bfloat16_is_fast"] == machine.bfloat16_is_fast(found["speed"]["device"])
    assert found["speed"]["ratio"] == pytest.approx(
        found["speed"]["bfloat16_ms"] / found["speed"]["float32_ms"], rel=0.02
    )
    assert {row["package"]: row["installed"] for row in found["packages"]}["torch"] == torch.__version__.split("+")[0]
    assert found["disk"]["folder"] == str(tmp_path / "runs") and not (tmp_path / "runs").exists()
    text = "\n".join(f"{title} {name} {words}" for title, rows in sections(found) for name, words in rows)
    assert "precision of grpo" in text and "bfloat16 takes" in text and "transformers" in text
    assert closing_lines(found)[-1] == "The tiny run (make run) can run here."


def test_the_probes_form_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = load_vlm("tiny", device="cpu")
    assert "log-sum-exp" in try_attention(vlm)["probe"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # as on devices without torch's CPU kernel
        assert "indicator" in try_attention(vlm)["probe"]
    monkeypatch.setattr("vlm.attention.AttentionMass.mass", property(lambda self: torch.zeros(1, 1, 1)))
    with pytest.raises(UserError, match="reads no mass"):
        try_attention(vlm)


def in_the_way(name: str, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Put one thing in the way of the main job; returns the part that finds it."""
    monkeypatch.chdir(tmp_path)
    if name == "python":
        site.project(python=">=99")
    elif name == "missing":
        site.project("no-such-package>=1")
        return "packages"
    elif name == "broken":
        site.project("breaks>=1")
        site.package("breaks", "1.0")
        (site.folder / "breaks.py").write_text("raise OSError('libbreaks.so: cannot open shared object file')")
        return "packages"
    elif name == "torch":
        monkeypatch.setattr(torch.Tensor, "__matmul__", lambda self, other: self)
    elif name == "model":
        monkeypatch.setattr("vlm.load.BUNDLED", {"tiny": "nowhere", "tiny-reasoner": "nowhere"})
        return "choices"
    elif name == "disk":
        usage = shutil.disk_usage("/")
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10**8))
    elif name == "folder":
        (tmp_path / "runs").touch()
        return "disk"
    elif name == "temporary":
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
        return "caches"
    return name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python", ["is not >=99", "PYTHON=python3.11 make install"]),
        ("missing", ["no-such-package is not installed", "pip install -e"]),
        ("broken", ["breaks 1.0 cannot be imported (OSError: libbreaks.so", "pip install -e"]),
        ("torch", ["torch cannot multiply on cpu (an incorrect product)", "pip install -e"]),
        ("model", ["The bundled model tiny is not at", "install the project again"]),
        ("disk", ["has 0.10 GB free, and make run needs 0.6", "--out"]),
        ("folder", ["runs cannot be written (Not a directory)", "--out"]),
        ("temporary", ["temporary files", "TMPDIR"]),
    ],
)
def test_what_is_in_the_way_of_the_main_job_is_an_error_with_its_remedy(
    name: str, words: list[str], site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = install_command()
    exam = look(in_the_way(name, site, monkeypatch, tmp_path))
    said = " ".join(exam.errors)
    for word in words:
        assert (command if word == install_command() else word) in said or word in said
    assert len(exam.errors) == 1 or (name == "model" and len(exam.errors) == 2)


@pytest.mark.parametrize("found", [[], ["Something is in the way: do this."]])
def test_the_exit_code_is_1_where_the_main_job_cannot_run(
    found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(exam: Examination) -> None:
        print("a library that prints")
        exam.errors += found
        exam.warnings.append("A warning is no failure.")

    monkeypatch.setattr(doctor, "PARTS", {"python": (part, ())})
    assert doctor.main(["--json"]) == len(found)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "ok": not found,
        "errors": found,
        "warnings": ["A warning is no failure."],
        "python": None,
    }
    assert CliRunner().invoke(app, ["doctor"]).exit_code == len(found)


def test_a_part_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Examination) -> None:
        raise ZeroDivisionError("division by zero\nand more")

    exam = Examination()
    exam.add("speed", fails)
    assert exam.errors == ["'speed' could not be examined (ZeroDivisionError: division by zero)"]
    assert exam.found == {"speed": None}


@pytest.mark.parametrize(
    "absent",
    [["torch"], ["typer", "rich", "torch"], ["packaging", "torch"], ["huggingface_hub", "psutil", "torch"]],
)
def test_it_works_where_packages_are_missing(absent: list[str], site: Any, tmp_path: Path) -> None:
    site.project("typer", "huggingface-hub", "torch")  # so few that importing them takes no time
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); from reflection_v import doctor;"
        "doctor.PARTS.pop('choices'), doctor.PARTS.pop('speed'); sys.exit(doctor.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for flag in (["--json"], []):
        command = [sys.executable, "-c", code, *flag]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        if flag:
            found = json.loads(done.stdout)
            assert found["machine"]["cores"] >= 1 and found["disk"]["writable"]
            assert any(absent[0] in line for line in found["errors"]), found["errors"]
        else:
            assert "error: " in done.stdout and "cannot run here" in done.stdout


def gpu(monkeypatch: pytest.MonkeyPatch, memory: Callable[[int], tuple[int, int]]) -> None:
    """Two GPUs of 80 GB."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "H100")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr("torch.cuda.mem_get_info", memory)


def test_a_gpu_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, lambda index: ((12 * 10**8, 79 * 10**9)[index], 80 * 10**9))
    exam = look("gpus")
    assert exam.found["gpus"][0] == {"index": 0, "name": "H100", "free_gb": 1.2, "total_gb": 80.0}
    (warning,) = exam.warnings
    assert warning.startswith("GPU 0 has 1.2 of 80 GB free: another process uses it; choose another with CUDA_VISIBLE_")
    assert exam.errors == []


def test_a_gpu_without_room_for_a_context_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ...")

    gpu(monkeypatch, full)
    exam = look("gpus")
    assert [row["free_gb"] for row in exam.found["gpus"]] == [None, None]
    assert "GPU 1 cannot be used (RuntimeError: CUDA error: out of memory)" in exam.warnings[1]


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def old() -> bool:
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", old)
    exam = look("gpus")
    assert exam.found["gpus"] == [] and "driver on your system is too old" in exam.warnings[0]
    assert "update the driver" in exam.warnings[0]


def test_a_torch_without_cuda_beside_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "finds no GPU" in look("gpus").warnings[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert look("gpus").warnings == []


def test_a_home_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home" / "huggingface"))
    exam = Examination()
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))  # as matplotlib does when it is imported
    exam.found["gpus"] = [{"index": 0}]
    exam.add("caches", doctor.look_at_caches)
    assert exam.errors == []
    assert [line.split("set ")[1].split()[0] for line in exam.warnings] == [
        "MPLCONFIGDIR",
        "HF_HOME",
        "TRITON_CACHE_DIR",
    ]
    assert all("(Not a directory)" in line for line in exam.warnings)


def test_extras_name_the_command_that_installs_them(site: Any) -> None:
    site.project('absent-one>=1; extra == "demo"', 'numpy; extra == "gpu"', extras=("demo", "gpu"))
    assert look("extras").found["extras"] == {
        "demo": {"missing": ["absent-one"], "install": install_command("demo")},
        "gpu": {"missing": [], "install": install_command("gpu")},
    }


def test_releases_outside_the_range_are_warnings(site: Any) -> None:
    site.project("numpy<0.2,>=0.1", "scipy>=999")
    exam = look("packages")
    assert [row["state"] for row in exam.found["packages"]] == ["newer", "older"] and exam.errors == []
    assert "is newer than what was tested, 0.1" in exam.warnings[0] and install_command() in exam.warnings[1]


def test_a_checkout_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PROJECT", "no-such-project")
    versions.declared.cache_clear()
    exam = look("python")
    assert exam.errors == [] and install_command() in exam.warnings[0]
    assert look("packages").errors == [] and look("extras").found == {"extras": {}}
    versions.declared.cache_clear()


def test_a_run_that_has_begun_does_not_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A begun run keeps its precision; the doctor tells of a new one, and leaves no folder behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    exam = look("choices")
    assert exam.errors == [] and not [path for path in tmp_path.iterdir() if path.name.startswith("no-run")]
    assert "began with it" not in str(exam.found["choices"]["precision"])
    assert bundled_config().is_file()
