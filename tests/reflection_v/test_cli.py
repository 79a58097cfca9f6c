"""The command line: what it imports, and how each kind of mistake ends."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.errors import ConfigError, UserError
from data_construction.shards import Shard
from reflection_v import cli
from reflection_v.cli import app

COMMANDS = ["run", "problems", "build", "sft", "grpo", "improve", "eval", "audit", "ask", "demo", "view", "doctor"]


def call(*arguments: object) -> Any:
    """Exit code and output as a shell would see them; an unexpected exception is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_front_door_imports_nothing_heavy() -> None:
    code = (
        "import sys, reflection_v.cli; print([m for m in ('torch', 'transformers', 'trl', 'PIL') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_help_lists_every_command_with_an_example() -> None:
    printed = call("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in printed
        assert f"reflection-v {command}" in call(command, "--help").stdout.split("Examples:")[1]


def test_every_command_is_named_in_this_test() -> None:
    assert sorted(COMMANDS) == sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runn"], 2, "No such command 'runn'"),
        (["run", "--ou", "x"], 2, "--out"),
        (["run", "missing.yaml"], 2, "There is no config at missing.yaml"),
        (["run", "folder"], 2, "folder cannot be read"),
        (["run", "bad.yaml"], 2, "Unknown key 'sede' in bad.yaml; did you mean 'seed'?"),
        (["run", "type.yaml"], 2, "'seed' in type.yaml: wanted a whole number"),
        (["problems", "scenes", "--n", "0", "--out", "x"], 2, "should be greater than or equal to 1"),
        (["problems", "scenes", "--n", "many", "--out", "x"], 2, "--n': Input should be a valid integer"),
        (["problems", "sceens", "--n", "1", "--out", "x"], 2, "Unknown problem source 'sceens'"),
        (["problems", "scenes", "--n", "1", "--split", "test", "--out", "x"], 2, "Unknown split 'test'"),
        (["problems", "scenes", "--n", "1", "--out", "file/x"], 1, "file/x cannot be written: Not a directory"),
        (["problems", "scenes", "--n", "1", "--out", "/proc/x"], 1, "/proc/x cannot be written"),
        (["build", "missing.yaml", "--problems", "p", "--out", "x"], 2, "There is no config at missing.yaml"),
        (["build", "model.yaml", "--problems", "none", "--out", "x"], 1, "No problem set at none"),
        (
            ["build", "bad.yaml", "--problems", "p", "--out", "x"],
            2,
            "Unknown key 'sede' in bad.yaml; did you mean 'seed'?",
        ),
        (["sft", "missing.yaml"], 2, "There is no config at missing.yaml"),
        (["grpo", "missing.yaml"], 2, "There is no config at missing.yaml"),
        (["sft", "file.yaml", "--seed"], 2, "'--seed' needs a value"),
        (["sft", "file.yaml", "more"], 2, "unexpected 'more'"),
        (["sft", "file.yaml", "--out", "file/x"], 1, "file/x cannot be written: Not a directory"),
        (["ask", "missing.png", "What?"], 2, "missing.png"),
        (["ask", "file", "What?"], 2, "file"),
        (["demo", "--allowed_host", "https://lab.example"], 2, "--allowed_host 'https://lab.example' is not the name"),
        (["demo", "--allowed_host", "lab.example", "--allowed-host", ""], 2, "--allowed_host '' is not the name"),
        (["demo", "--root_path", "look"], 2, "--root_path 'look' is not a path"),
        (["view", "nowhere"], 2, "nowhere does not exist: give a folder of a build or a training run"),
        (["view", "."], 2, ". holds nothing to show: looked for traces.jsonl"),
        (["view", ".", "--root_path", "look"], 2, "--root_path 'look' is not a path"),
        (["demo", "--root-path", "/image"], 2, "--root_path '/image' begins like a path of the page itself"),
    ],
)
def test_a_mistake_ends_with_a_sentence(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, text in (
        ("bad.yaml", "sede: 1"),
        ("type.yaml", "seed: [1]"),
        ("file.yaml", "seed: 1"),
        ("model.yaml", "model: tiny"),
        ("file", ""),
    ):
        (tmp_path / name).write_text(text)
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.replace("│", "").split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("The model is missing: name another."), 1, "The model is missing"),
        (ConfigError("The key is wrong."), 2, "The key is wrong"),
        (ExceptionGroup("tasks", [UserError("The server is down.")]), 1, "The server is down"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "disk is full: OUT could not be written"),
        (ExceptionGroup("tasks", [OSError(errno.ENOSPC, "No space left on device", "x")]), 1, "disk is full: OUT"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), 1, "out/x cannot be used: Permission denied"),
        (KeyboardInterrupt(), 130, "Stopped"),
    ],
)
def test_errors_of_the_work_end_with_a_sentence(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("data_construction.sources.write_problems", fail)
    result = call("problems", "scenes", "--n", "1", "--out", tmp_path)
    assert result.exit_code == code
    assert words.replace("OUT", str(tmp_path)) in result.stderr and result.stderr.count("\n") == 1


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("data_construction.sources.write_problems", fail)
    with pytest.raises(ZeroDivisionError):
        call("problems", "scenes", "--n", "1", "--out", tmp_path)


def test_a_closed_pipe_is_no_error() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = f"{sys.executable} -m reflection_v.cli run --help | head -1"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_problems_writes_a_set(tmp_path: Path) -> None:
    result = call("problems", "scenes", "--n", "3", "--seed", "5", "--family", "count", "--out", tmp_path / "set")
    assert result.exit_code == 0, result.output
    assert "3 problems in" in result.stdout
    from vlm.problem import read_problems

    problems = read_problems(tmp_path / "set")
    assert len(problems) == 3 and all(Path(problem.images[0]).is_file() for problem in problems)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_training_gets_the_command_lines_values(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(config: Path, overrides: dict[str, Any]) -> dict[str, int]:
        seen.append((config, overrides))
        return {"steps": 2}

    monkeypatch.setattr(f"train.{stage}.run_{stage}", record)
    file, out = tmp_path / "stage.yaml", tmp_path / "out"
    file.write_text("seed: 1")
    result = call(stage, file, "--model", "tiny", "--out", out, "--learning_rate", "2.0e-4", "--rewards.format", "0.5")
    assert result.exit_code == 0 and "steps: 2" in result.stdout
    overrides = {"learning_rate": 2e-4, "rewards": {"format": 0.5}, "output_dir": str(out), "model": "tiny"}
    assert seen == [(file, overrides)]


def test_build_gets_the_command_lines_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(config: Any, dry_run: int | None, shard: Shard | None) -> dict[str, int]:
        seen.append((config, shard))
        return {"kept": 0 if shard else 1}

    monkeypatch.setattr("data_construction.build.run_build", run)
    (tmp_path / "build.yaml").write_text("loop: {rounds: 2, temperature: 0.5}\nmodel: tiny")
    options = ["--problems", "my/set", "--out", tmp_path / "out", "--model", "other", "--loop.rounds", "3"]
    result = call("build", tmp_path / "build.yaml", *options)
    assert result.exit_code == 0, result.output
    ((config, shard),) = seen
    assert (config.problems, config.out, config.model, shard) == ("my/set", str(tmp_path / "out"), "other", None)
    assert (config.loop.rounds, config.loop.temperature) == (3, 0.5)
    assert call("build", tmp_path / "build.yaml", *options, "--shard", "3/8").exit_code == 0  # it may keep nothing
    assert seen[1][1] == Shard(3, 8)


@pytest.mark.parametrize(
    "options",
    [
        ("--shard", "0/8"),
        ("--shard", "9/8"),
        ("--shard", "x"),
        ("--shard", "1/2", "--merge"),
        ("--merge", "--dry-run", "3"),
        ("--shard", "1/2", "--export", "hf"),
    ],
)
def test_options_of_shards_that_make_no_sense_are_bad_arguments(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "build.yaml").write_text("seed: 1")
    result = call("build", tmp_path / "build.yaml", "--problems", "set", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and "shard" in result.stderr and not (tmp_path / "out").exists()


def test_a_merge_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "build.yaml").write_text("seed: 1")
    result = call("build", tmp_path / "build.yaml", "--problems", "set", "--out", tmp_path / "out", "--merge")
    assert result.exit_code == 1 and "holds no shards" in result.stderr


def test_the_console_script_is_the_app() -> None:
    assert callable(cli.main)


@pytest.mark.parametrize(
    "command", [["--help"], ["problems", "--help"], ["problems", "absent.csv", "--out", "x"], ["ask", "--out", "x"]]
)
def test_no_color_means_no_color(command: list[str], tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "reflection_v.cli", *command],
        env=os.environ | paths | {"NO_COLOR": "1"},
        capture_output=True,
        cwd=tmp_path,
    )
    assert b"\x1b[" not in done.stdout + done.stderr and (done.stdout + done.stderr).strip()
