"""The wiring of the six stages: what decides a stage's result, what is checked before the first one starts."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import configs
from configs.errors import ConfigError
from configs.run_config import load_run_config
from configs.run_dir import changes
from reflection_v.run import Stage, _refuse_other_config
from reflection_v.stages import Pipeline, git_revision, placeless, run_all

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
    assert [changes(one.config, two.config) for one, two in zip(here.values(), there.values(), strict=True)] == [{}] * 6


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
        (r"rounds: \d+", "rounds: many", r"'loop\.rounds' in .*: wanted a whole number"),
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
        (
            "eval",
            r"noise: {kind: shift}",
            "noise: {}",
            r"The key 'sets\.unseen_noise\.kind' is missing in .*eval\.yaml",
        ),
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


@pytest.mark.parametrize("given", [True, False])
def test_a_number_of_processes_that_cannot_train_is_refused_before_the_first_stage(
    folder: Path, models: dict[str, str], tmp_path: Path, given: bool
) -> None:
    if not given:
        (folder / "run.yaml").write_text((folder / "run.yaml").read_text() + "processes: 7\n")
    with pytest.raises(ConfigError, match=r"'processes: 7': the rows of a step of .* cannot be shared evenly"):
        run_all(folder / "run.yaml", tmp_path / "out", processes=7 if given else None, **models)
    assert not any((tmp_path / "out").glob("stages/*"))
    (folder / "run.yaml").write_text((folder / "run.yaml").read_text().replace("processes: 7", "") + "processes: 0\n")
    with pytest.raises(ConfigError, match="'processes'"):
        run_all(folder / "run.yaml", tmp_path / "out", **models)


def test_the_number_of_processes_decides_no_result(folder: Path, models: dict[str, str]) -> None:
    before = {name: stage.config for name, stage in stages(folder, models).items()}
    (folder / "run.yaml").write_text((folder / "run.yaml").read_text() + "processes: 2\n")
    found = stages(folder, models)
    assert {name: stage.config for name, stage in found.items()} == before
    for name in ("sft", "grpo"):  # as two processes would read it, and nothing is left of it in this one
        check, variables = found[name].check, dict(os.environ)
        assert check is not None
        check()
        assert dict(os.environ) == variables


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


REWARD = "def brief(rollout):\n    return 1.0\n"


class Loading(Exception):
    """Raised in place of loading a model: the stage has accepted its config."""


def begins(pipeline: Pipeline, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the stage's work up to the model."""

    def load(*_: Any) -> None:
        raise Loading

    monkeypatch.setattr("train.grpo.load_for_training", load)
    monkeypatch.setattr("train.sft.load_for_training", load)
    with pytest.raises(Loading):
        getattr(pipeline, stage)()


@pytest.mark.parametrize(
    ("place", "name", "keys"),
    [
        ("config/my_rewards.py", "my_rewards.py:brief", ""),  # the example of docs/rewards.md
        ("config/mine/my_rewards.py", "mine/my_rewards.py:brief", ""),
        ("config/my_rewards.py", "shuffled(my_rewards.py:brief)", ""),
        ("elsewhere/my_rewards.py", "my_rewards.py:brief", ""),  # where the command runs
        ("rewards/my_rewards.py", "my_rewards.py:brief", "reward_folder: ../rewards\n"),
        ("my_rewards.py", "../my_rewards.py:brief", ""),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_reward_file_is_where_the_check_found_it(
    models: dict[str, str],
    folder: Path,
    tmp_path: Path,
    place: str,
    name: str,
    keys: str,
    relative: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(REWARD)
    edit(folder / "grpo.yaml", r"\n  attention_ratio:", f"\n  {name}: 0.1\n  attention_ratio:")
    (folder / "grpo.yaml").write_text((folder / "grpo.yaml").read_text() + keys)
    config = load_run_config(Path("../config/run.yaml") if relative else folder / "run.yaml", **models)
    pipeline = Pipeline(config, Path("out"))
    pipeline.check_grpo()
    begins(pipeline, "grpo", monkeypatch)


def test_a_reward_file_that_is_missing_is_named_before_the_first_stage(
    models: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    edit(folder / "grpo.yaml", r"\n  attention_ratio:", "\n  my_rewards.py:brief: 0.1\n  attention_ratio:")
    check = stages(folder, models)["grpo"].check
    assert check is not None
    with pytest.raises(ConfigError, match=r"there is no file my_rewards\.py in .*config or in"):
        check()


@pytest.mark.parametrize("state", ["", ".running"])
def test_a_reward_file_that_was_edited_is_named_and_a_moved_one_is_not(
    models: dict[str, str], folder: Path, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "my_rewards.py").write_text(REWARD)
    edit(folder / "grpo.yaml", r"\n  attention_ratio:", "\n  my_rewards.py:brief: 0.1\n  attention_ratio:")
    record, out = tmp_path / f"out/stages/grpo{state}.json", tmp_path / "out"
    (out / "stages").mkdir(parents=True)
    (out / "grpo").mkdir()

    def refuse(where: Path) -> None:
        found = stages(where, models, str(out))
        _refuse_other_config(found["grpo"], list(found.values()), out)

    begun = stages(folder, models, str(out))["grpo"].config
    for recorded in (begun, {key: value for key, value in begun.items() if key != "reward_files"}):
        record.write_text(json.dumps({"config": recorded}))  # the second as before there were checksums
        refuse(folder)
        refuse(Path(shutil.move(folder, tmp_path / "moved")))
        shutil.move(tmp_path / "moved", folder)
    record.write_text(json.dumps({"config": begun | {"reward_folder": "/before"}}))
    refuse(folder)
    (folder / "my_rewards.py").write_text(REWARD.replace("1.0", "2.0"))
    with pytest.raises(ConfigError, match=r"another config \(the file my_rewards\.py: .*\)\. Give another --out"):
        refuse(folder)


@pytest.mark.parametrize(("stage", "key"), [("sft", "deepspeed"), ("grpo", "deepspeed")])
def test_other_relative_names_mean_the_same_in_check_and_stage(
    models: dict[str, str], folder: Path, tmp_path: Path, stage: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (folder / f"{stage}.yaml").write_text((folder / f"{stage}.yaml").read_text() + f"{key}: own.json\n")
    pipeline = Pipeline(load_run_config(folder / "run.yaml", **models), Path("out"))
    for find in (getattr(pipeline, f"check_{stage}"), getattr(pipeline, stage)):
        with pytest.raises(ConfigError, match=r"'deepspeed' in .*config/\w+\.yaml: there is no file own\.json"):
            find()


def test_prompts_that_are_missing_are_named_before_the_first_stage(folder: Path, models: dict[str, str]) -> None:
    edit(folder / "build.yaml", r"prompts: \w+", "prompts: no/such/folder")
    check = stages(folder, models)["build"].check
    assert check is not None
    with pytest.raises(ConfigError, match="The prompts folder no/such/folder lacks"):
        check()


def test_a_key_that_is_missing_is_named_before_the_first_stage(
    folder: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "roles: {reasoner: {model: 'openai:m@http://h/v1', api_key_env: MY_KEY}}\n"
    (folder / "build.yaml").write_text((folder / "build.yaml").read_text() + role)
    monkeypatch.delenv("MY_KEY", raising=False)
    check = stages(folder, models)["build"].check
    assert check is not None
    with pytest.raises(ConfigError, match="MY_KEY is not set: export the key of h"):
        check()
    monkeypatch.setenv("MY_KEY", "sk-very-secret\n")
    check()


def test_the_name_of_a_key_decides_no_result(folder: Path, models: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "stages").mkdir(parents=True)
    text = (folder / "build.yaml").read_text()

    def build(name: str) -> Stage:
        role = f"roles: {{reasoner: {{model: 'openai:m@http://h/v1', api_key_env: {name}}}}}\n"
        (folder / "build.yaml").write_text(text + role)
        return stages(folder, models, str(out))["build"]

    old = build("MY_KEY").config
    assert "MY_KEY" not in json.dumps(old)
    old["roles"]["reasoner"]["api_key_env"] = "MY_KEY"  # as records of earlier versions hold it
    (out / "stages/build.running.json").write_text(json.dumps({"config": old}))
    _refuse_other_config(build("OTHER_KEY"), [], out)


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("sft", "hub_token: hf_hidden"),
        ("grpo", "hub_token: hf_hidden"),
        ("grpo", "vllm_server_base_url: http://me:hf_hidden@host:8000"),
        ("grpo", "responder: openai:m@http://me:hf_hidden@host/v1"),
        ("grpo", "responder: openai:m@http://host/v1?key=hf_hidden"),
    ],
)
def test_a_token_in_a_training_config_is_refused_and_not_repeated(
    folder: Path, models: dict[str, str], tmp_path: Path, stage: str, line: str
) -> None:
    found = stages(folder, models)
    out = tmp_path / "out"
    (out / "stages").mkdir(parents=True)
    (out / f"stages/{stage}.running.json").write_text(json.dumps({"config": found[stage].config}))
    (folder / f"{stage}.yaml").write_text((folder / f"{stage}.yaml").read_text() + line + "\n")
    with pytest.raises(ConfigError, match=f"'{line.partition(':')[0]}' in .*{stage}.yaml") as caught:
        run_all(folder / "run.yaml", out, **models)
    assert "hf_hidden" not in str(caught.value)
    assert not any("hf_hidden" in file.read_text() for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize("file", ["build", "run"])
def test_a_password_in_a_models_url_reaches_no_record(folder: Path, models: dict[str, str], file: str) -> None:
    if file == "build":
        line = "roles: {reasoner: {model: 'openai:m@http://me:hidden@h/v1'}}\n"
        (folder / "build.yaml").write_text((folder / "build.yaml").read_text() + line)
    else:
        models = {**models, "reasoner": "openai:m@http://me:hidden@h/v1"}
    with pytest.raises(ConfigError, match="must not carry a password") as caught:
        stages(folder, models)
    assert "hidden" not in str(caught.value)


def test_the_revision_is_a_commit_or_nothing() -> None:
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40
