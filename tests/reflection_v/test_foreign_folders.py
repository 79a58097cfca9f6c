"""Every command refuses an output folder in which something stands that it did not write, and leaves it as it is."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs import bundled_config
from configs.errors import UserError
from configs.locks import lock
from data_construction.sources import write_set
from eval.benchmarks import prepare_benchmark
from reflection_v.cli import app

MODEL = {"config.json": '{"model_type": "qwen3_vl"}', "model.safetensors": "weights"}
COMMANDS = {
    "build": (["build", str(bundled_config("tiny/build.yaml")), "--problems", "SET"], "build"),
    "sft": (["sft", str(bundled_config("tiny/sft.yaml")), "--dataset", "SET/problems.jsonl"], "training run"),
    "grpo": (["grpo", str(bundled_config("tiny/grpo.yaml")), "--problems", "SET"], "training run"),
    "probe": (["grpo", str(bundled_config("tiny/grpo.yaml")), "--problems", "SET", "--probe"], "training run"),
    "improve": (
        ["improve", str(bundled_config("improve.yaml")), "--problems", "SET", "--heldout", "SET"],
        "improve run",
    ),
    "eval": (["eval", "tiny", "--problems", "SET"], "evaluation"),
    "audit": (["audit", "tiny", "--problems", "SET"], "audit"),
    "problems": (["problems", "scenes", "--n", "2"], "problem source"),
}
FOREIGN = [
    *(("build", name, files) for name, files in (("model", MODEL), ("rows", {"sft.jsonl": "{}\n"}))),
    *((name, "model", MODEL) for name in ("sft", "grpo", "probe", "improve")),
    ("eval", "report", {"report.json": '{"of": "another tool"}'}),
    ("eval", "page", {"report.html": "<p>mine</p>"}),
    ("audit", "answers", {"answers/mine.csv": "a,b"}),
    ("audit", "other rows", {"answers/mine.jsonl": '{"question": "How many?"}\n'}),
    ("problems", "my own set", {"problems.jsonl": '{"id": "1", "source": "mine"}\n'}),
]


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    write_set("scenes", 2, 0, "train", tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize(("command", "files"), [(c, f) for c, _, f in FOREIGN], ids=[f"{c}-{n}" for c, n, _ in FOREIGN])
def test_a_foreign_folder_is_refused_and_stays_as_it_is(
    command: str, files: dict[str, str], own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.load._load", lambda *_, **__: pytest.fail("a model was loaded"))
    out = tmp_path / "out"
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
    words, stage = COMMANDS[command]
    done = CliRunner().invoke(app, [*(word.replace("SET", str(own_set)) for word in words), "--out", str(out)])
    assert done.exit_code == 1 and f"which no {stage} wrote: choose an empty folder" in " ".join(done.output.split())
    found = {str(file.relative_to(out)): file.read_text() for file in out.rglob("*") if file.is_file()}
    assert {name: content for name, content in found.items() if name != ".lock"} == files


def test_problems_of_these_sources_are_drawn_anew(own_set: Path) -> None:
    write_set("scenes", 3, 1, "train", own_set)
    assert len((own_set / "problems.jsonl").read_text().splitlines()) == 3


def test_a_benchmark_does_not_overwrite_other_problems(own_set: Path) -> None:
    before = (own_set / "problems.jsonl").read_bytes()
    with pytest.raises(UserError, match="which no benchmark wrote"):
        prepare_benchmark("mathvista", own_set)
    assert (own_set / "problems.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["eval", "audit", "build"])
def test_a_folder_that_another_process_holds_is_refused(
    command: str, own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.load._load", lambda *_, **__: pytest.fail("a model was loaded"))

    def held(*_: object) -> None:
        raise BlockingIOError(11, "held")

    monkeypatch.setattr("fcntl.lockf", held)
    words, _ = COMMANDS[command]
    done = CliRunner().invoke(
        app, [*(word.replace("SET", str(own_set)) for word in words), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 1 and "is in use by another run" in done.output


def test_a_run_clears_only_its_own_leftovers(tmp_path: Path) -> None:
    from reflection_v.run import _clear_leftovers

    stages = tmp_path / "stages"
    stages.mkdir()
    for name in (".gitignore", ".sft.json.a1b2", "sft.json"):
        (stages / name).write_text(json.dumps({}))
    with lock(tmp_path):
        _clear_leftovers(tmp_path)
    assert sorted(file.name for file in stages.iterdir()) == [".gitignore", "sft.json"]


@pytest.mark.parametrize("name", ["samples.json", "stages/sft.json"])
def test_the_folder_of_a_run_or_of_other_samples_is_no_place_for_an_evaluation(
    name: str, own_set: Path, tmp_path: Path
) -> None:
    """A run's report has the name of an evaluation's."""
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    if name.startswith("stages"):
        (out / "report.json").write_text('{"schema_version": 1, "models": {}}')
    done = CliRunner().invoke(app, ["eval", "tiny", "--problems", str(own_set), "--out", str(out)])
    assert done.exit_code == 1 and "which no evaluation wrote" in " ".join(done.output.split())


def test_a_comparison_does_not_replace_what_it_compares(tmp_path: Path) -> None:
    from eval.compare import compare

    with pytest.raises(UserError, match="is one of the evaluations that are compared"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "b")
