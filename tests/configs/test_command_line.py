"""What a command says of an environment that does not fit: one sentence, before any work."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from configs.command_line import explain
from configs.versions import install_command
from reflection_v.cli import app

TESTED = "is newer than what was tested, 0.1"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["ask", "missing.png", "What?"], 1),
        (["eval", "tiny", "--problems", "missing"], 1),
        (["sft", "missing.yaml"], 1),
        (["run", "missing.yaml"], 1),
        (["problems", "scenes", "--n", "1", "--split", "nope", "--out", "x"], 0),
        (["ask", "--help"], 0),
        (["--help"], 0),
        (["--version"], 0),
    ],
)
def test_commands_that_load_models_say_what_was_not_tested(
    command: list[str], said: int, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site.project("numpy<0.2,>=0.1")
    result = CliRunner().invoke(app, command)
    assert result.stderr.count(TESTED) == said and TESTED not in result.stdout
    if said:
        assert TESTED in result.stderr.splitlines()[0]


def test_json_stays_json(site: Any, tmp_path: Path) -> None:
    """The line goes to standard error, so that a program that reads the answer reads JSON."""
    site.project("numpy<0.2,>=0.1")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "vlm.infer", "--image", "missing.png", "--question", "What?", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count(TESTED) == 1


@pytest.mark.parametrize(
    ("module", "extra"), [("gradio", "demo"), ("uvicorn", ""), ("sklearn", ""), ("lmms_eval.models", "bench")]
)
def test_a_package_that_is_missing_is_named_with_its_command(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configs.command_line.is_installed", lambda name: False)
    sentence, code = explain(ModuleNotFoundError(f"No module named '{module}'", name=module)) or ("", 0)
    assert code == 1 and sentence.startswith(f"The package {module.partition('.')[0]}")
    assert sentence.endswith(f"is not installed: {install_command(extra)}") and (f"'{extra}'" in sentence) == bool(
        extra
    )


def test_a_package_of_another_release_is_named() -> None:
    error = ImportError("cannot import name 'Gone' from 'transformers'", name="transformers.models")
    sentence, code = explain(error) or ("", 0)
    assert code == 1 and install_command() in sentence
    assert sentence.startswith("The installed transformers does not fit (cannot import name 'Gone'")


@pytest.mark.parametrize("module", ["vlm.nothing", "train.nothing", "reflection_v.nothing"])
def test_a_missing_module_of_our_own_is_a_bug(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(ModuleNotFoundError(f"No module named '{module}'", name=module)) is None
    assert explain(ImportError("cannot import name 'gone'", name=module)) is None
    monkeypatch.setattr("configs.command_line.is_installed", lambda name: False)
    assert explain(ModuleNotFoundError(f"No module named '{module}'", name=module)) is None


def test_the_demo_without_its_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['gradio'] = None; from reflection_v.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The package gradio (the extra 'demo') is not installed: pip install" in done.stderr


def test_lmms_eval_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.lmms.is_installed", lambda name: False)
    command = ["eval", "openai:m@http://h/v1", "--via", "lmms-eval", "--benchmark", "mmmu_val", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and f"lmms-eval is not installed: {install_command('bench')}" in result.stderr


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_full_memory_is_a_sentence(error: Exception) -> None:
    for one in (error, ExceptionGroup("tasks", [error])):
        sentence, code = explain(one) or ("", 0)
        assert code == 1 and "memory is full: end what else uses it" in sentence


@pytest.mark.parametrize("code", [errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS])
def test_a_path_that_no_file_can_have_is_a_sentence(code: int) -> None:
    sentence, exit_code = explain(OSError(code, os.strerror(code), "out/x.jsonl")) or ("", 0)
    assert sentence.startswith("out/x.jsonl cannot be used: ") and exit_code == 1
