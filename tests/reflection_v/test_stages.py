"""The wiring of the six stages: what decides a stage's result, what is checked before the first one starts."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import configs
from reflection_v.config import load_run_config
from reflection_v.run import Stage, _refuse_other_config, differences
from reflection_v.stages import Pipeline, git_revision, placeless, run_all
from vlm.errors import ConfigError

TINY = configs.bundled_config().parent


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """Two folders that stand for models: fingerprints need files, not weights."""
    for name in ("vlm", "reasoner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"model_type": "{name}"}}')
    return {"model": str(tmp_path / "vlm"), "reasoner": str(tmp_path / "reasoner")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled config, to be changed."""
    return Path(shutil.copytree(TINY, tmp_path / "config"))


def stages(folder: Path, models: dict[str, str], out: str = "out") -> dict[str, Stage]:
    config = load_run_config(folder / "run.yaml", **models)
    return {stage.name: stage for stage in Pipeline(config, Path(out)).stages()}


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first match of a pattern: the tests know the keys of the bundled configs, not their values."""
    text, times = re.subn(old, new, file.read_text(), count=1)
    assert times == 1
    file.write_text(text)


def test_the_order_and_what_each_needs(folder: Path, models: dict[str, str]) -> None:
    found = stages(folder, models)
    assert list(found) == ["problems", "build", "sft", "grpo", "eval", "report"]
    done: set[str] = set()
    for stage in found.values():
        assert set(stage.needs) <= done
        done.add(stage.name)


def test_a_config_says_what_and_not_where(folder: Path, models: dict[str, str]) -> None:
    here, there = stages(folder, models, "here"), stages(folder, models, "/there")
    assert [differences(one.config, two.config) for one, two in zip(here.values(), there.values(), strict=True)] == [
        []
    ] * 6


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("run.yaml", r"seed: \d+", "seed: 71", ["problems", "build", "sft", "grpo", "eval"]),
        ("run.yaml", r"n: \d+", "n: 71", ["problems"]),
        ("build.yaml", r"rounds: \d+", "rounds: 71", ["build"]),
        ("sft.yaml", r"num_train_epochs: \d+", "num_train_epochs: 71", ["sft"]),
        ("grpo.yaml", r"temperature: [\d.]+", "temperature: 0.71", ["grpo"]),
        ("eval.yaml", r"blank: \d+", "blank: 71", ["eval"]),
    ],
)
def test_a_change_touches_the_stages_that_it_decides(
    folder: Path, models: dict[str, str], file: str, old: str, new: str, changed: list[str]
) -> None:
    before = stages(folder, models)
    edit(folder / file, old, new)
    after = stages(folder, models)
    assert [name for name in before if before[name].config != after[name].config] == changed


@pytest.mark.parametrize(("name", "state", "saved"), [("sft", "", "summary.json"), ("grpo", ".running", "choice.json")])
def test_a_stage_keeps_the_precision_that_it_began_with(
    folder: Path, models: dict[str, str], tmp_path: Path, name: str, state: str, saved: str
) -> None:
    """The tiny configs of the version before said bf16: true, and its records and settings know nothing else."""
    out = tmp_path / "out"
    record = {key: value for key, value in stages(folder, models)[name].config.items() if key != "precision"}
    (out / "stages").mkdir(parents=True)
    (out / "stages" / f"{name}{state}.json").write_text(json.dumps({"config": {**record, "bf16": True}}))
    (out / name).mkdir()
    (out / name / "settings.json").write_text(json.dumps({"settings": {"bf16": True}}))
    (out / name / saved).write_text("{}")

    def said() -> list[str]:
        found = stages(folder, models, str(out))
        try:
            _refuse_other_config(found[name], list(found.values()), out)
        except ConfigError as error:
            return re.findall(r"with another config \((.*?)\)", str(error))
        return []

    assert said() == []
    for precision, changed in (("bfloat16", []), ("float32", ["precision: bfloat16, now float32"])):
        edit(folder / f"{name}.yaml", r"precision: \w+", f"precision: {precision}")
        assert said() == changed
    edit(folder / f"{name}.yaml", r"precision: \w+", "precision: auto")
    (out / name / saved).unlink()  # nothing came of it, so nothing depends on it
    assert said() == []


def test_another_model_in_the_same_folder_is_noticed(folder: Path, models: dict[str, str]) -> None:
    before = stages(folder, models)
    (Path(models["model"]) / "config.json").write_text("{}")
    after = stages(folder, models)
    assert [name for name in before if before[name].config != after[name].config] == ["build", "sft", "eval"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"rounds: \d+", "round: 4", r"Unknown key 'loop\.round' in .*build\.yaml; did you mean 'rounds'"),
        (r"rounds: \d+", "rounds: many", r"'loop\.rounds' in .* should be a valid integer"),
    ],
)
def test_a_wrong_build_config_is_named_at_once(
    folder: Path, models: dict[str, str], old: str, new: str, words: str
) -> None:
    edit(folder / "build.yaml", old, new)
    with pytest.raises(ConfigError, match=words):
        stages(folder, models)


@pytest.mark.parametrize(
    ("stage", "old", "new", "words"),
    [
        ("sft", "learning_rate:", "learning_rat:", "Unknown key 'learning_rat' in .*; did you mean 'learning_rate'"),
        ("sft", r"save_steps: \d+", "save_steps: [1, 2]", "'save_steps' in .*: wanted a number, found"),
        ("grpo", r"num_generations: \d+", "num_generations: 8.5", "'num_generations' in .* found 8.5"),
        ("eval", "blank:", "blanks:", r"Unknown key 'blanks' in .*eval\.yaml; did you mean 'blank'"),
        ("eval", "kind: skill", "kind: skil", r"unknown value 'skil'; did you mean 'skill'"),
        ("eval", "  describe:", "  descibe:", r"'sets' names 'descibe', which is no problem set"),
        ("grpo", "attention_ratio:", "attention_ration:", "attention_ration"),
    ],
)
def test_a_wrong_config_of_a_later_stage_is_named_before_the_first(
    folder: Path, models: dict[str, str], stage: str, old: str, new: str, words: str
) -> None:
    edit(folder / f"{stage}.yaml", old, new)
    check = stages(folder, models)[stage].check
    assert check is not None
    with pytest.raises(ConfigError, match=words):
        check()


def test_the_bundled_configs_are_accepted(folder: Path, models: dict[str, str]) -> None:
    for stage in stages(folder, models).values():
        if stage.check is not None:
            stage.check()


def test_sets_of_the_users_own_take_the_place_of_the_configs(
    folder: Path, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Stage]] = []
    monkeypatch.setattr("reflection_v.stages.run_stages", lambda stages, *_, **__: seen.append(stages) or {})
    for name in ("mine", "held"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "problems.jsonl").write_text("")
    run_all(folder / "run.yaml", tmp_path / "out", problems=tmp_path / "mine", heldout=tmp_path / "held", **models)
    sets: dict[str, Any] = seen[0][0].config["sets"]
    assert set(sets["train"]) == set(sets["heldout"]) == {"sha256"} and "rl" not in sets
    with pytest.raises(ConfigError, match=r"There is no problem set at .*/none"):
        run_all(folder / "run.yaml", tmp_path / "out", problems=tmp_path / "none", **models)


@pytest.mark.parametrize(("given", "out"), [("run.yaml", "runs/config"), ("other.yaml", "runs/other")])
def test_the_folder_of_a_run_is_named_after_its_config(
    folder: Path, models: dict[str, str], given: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("reflection_v.stages.run_stages", lambda _, out, *__, **___: seen.append(out) or {})
    (folder / "other.yaml").write_text((folder / "run.yaml").read_text())
    run_all(folder / given, None, **models)
    assert seen == [Path(out)]


def test_problems_are_drawn_once(folder: Path, models: dict[str, str], tmp_path: Path) -> None:
    (folder / "run.yaml").write_text(
        "problems:\n  train: {source: scenes, n: 2, split: train, families: [count]}\n"
        "  heldout: {source: scenes, n: 3, split: heldout, seed: 9}\n"
        "build: build.yaml\nsft: sft.yaml\ngrpo: grpo.yaml\neval: eval.yaml\n"
    )
    (folder / "eval.yaml").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    config = load_run_config(folder / "run.yaml", **models)
    assert Pipeline(config, out).problems() == {"train": 2, "heldout": 3}
    written = {file: file.stat().st_mtime_ns for file in out.rglob("*.*")}
    assert Pipeline(config, out).problems() == {"train": 2, "heldout": 3}
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.*")} == written


def test_placeless_keeps_all_but_paths() -> None:
    assert placeless({"dataset": "a", "output_dir": "b", "seed": 1}) == {"seed": 1}


def test_the_revision_is_a_commit_or_nothing() -> None:
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40
