"""A wheel installed in an empty folder holds everything: the command, the configs, the prompts, the models."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("vlm", "reward", "data_construction", "train", "eval", "demo", "reflection_v", "configs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="needs the dev extra"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders behind that a later one would take up."""
    source = tmp_path_factory.mktemp("source") / "project"
    everywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    at_the_root = {"build", "dist", "runs"}  # of the root alone: configs/build belongs into the wheel
    shutil.copytree(
        ROOT,
        source,
        ignore=lambda folder, names: everywhere(folder, names) | (at_the_root if Path(folder) == ROOT else set()),
    )
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's packages alone; what they depend on comes from the interpreter that runs the tests."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """The output of the installed ``reflection-v``, started in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, str(installed / "bin" / "reflection-v"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (ROOT / room).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }
    assert {name for name in files if not name.endswith(".md")} - packed == set()
    assert not [name for name in packed if name.startswith(("tests/", "docs/", "benchmarks/", "runs/"))]


def test_the_command_runs_from_the_wheel_and_not_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import reflection_v, configs; print(reflection_v.__file__, configs.bundled_config())"
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    module, config = done.stdout.split()
    assert Path(module).is_relative_to(installed) and Path(config).is_relative_to(installed)
    assert "ask" in run(installed, tmp_path, "--help")


def test_the_bundled_config_runs_in_an_empty_folder_and_ask_answers(installed: Path, tmp_path: Path) -> None:
    """The first stage of the bundled run; all six are the job of `make run`."""
    printed = run(installed, tmp_path, "run", "--only", "problems")
    assert "problems" in printed and "done in" in printed
    pictures = sorted((tmp_path / "runs" / "tiny" / "problems" / "heldout" / "images").glob("*.png"))
    assert pictures
    assert "Answer:" in run(
        installed, tmp_path, "ask", str(pictures[0]), "Grid of columns A to C, rows 1 to 3. What is at B2?"
    )
