"""The two models of a run folder, and what is said of a folder that has none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import UserError
from reflection_v.cli import app
from reflection_v.trained import models_of_run


def a_run(folder: Path, *finished: str, model: str = "tiny") -> Path:
    """A run folder as ``reflection-v run`` leaves it after the stages ``finished``."""
    (folder / "stages").mkdir(parents=True)
    (folder / "stages" / "sft.running.json").write_text("{}")
    for stage in finished:
        (folder / "stages" / f"{stage}.json").write_text(
            json.dumps({"config": {"model": model if stage == "sft" else "sft"}})
        )
        (folder / stage).mkdir()
        (folder / stage / "config.json").write_text("{}")
    return folder


def test_the_last_model_that_was_trained(tmp_path: Path) -> None:
    whole = a_run(tmp_path / "whole", "problems", "sft", "grpo", model="org/base")
    assert models_of_run(whole) == ("org/base", str(whole / "grpo"))
    half = a_run(tmp_path / "half", "sft")
    assert models_of_run(half) == ("tiny", str(half / "sft"))
    (whole / "grpo" / "config.json").unlink()  # a model that was removed
    assert models_of_run(whole).trained == str(whole / "sft")


def test_a_single_training_run(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"settings": {"model": "tiny"}}))
    with pytest.raises(UserError, match="has not finished: give its command again"):
        models_of_run(folder)
    for name in ("summary.json", "config.json"):
        (folder / name).write_text("{}")
    assert models_of_run(folder) == ("tiny", str(folder))


def test_folders_without_a_trained_model(tmp_path: Path) -> None:
    begun = a_run(tmp_path / "begun", "problems")
    model = tmp_path / "model"
    model.mkdir()
    for folder, said in (
        (begun, "has no trained model yet"),
        (model, "no folder of 'reflection-v run'"),
        (tmp_path / "none", "There is no run folder"),
    ):
        with pytest.raises(UserError, match=said):
            models_of_run(folder)
        result = CliRunner().invoke(app, ["demo", "--run", str(folder)])
        assert (
            result.exit_code in (1, 2) and said in " ".join(result.stderr.split()) and "Traceback" not in result.output
        )
