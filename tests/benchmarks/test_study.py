"""The study's runner: units in order, resumed, tabled; the bundled study is one that can start."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import run as study
from benchmarks.study import start as study_start
from benchmarks.study.config import StudyConfig
from benchmarks.study.run import flat, load_study, run_study, units
from configs import bundled_config
from configs.errors import ConfigError, UserError

KEYS = {"run": "runs/tiny"}


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    arms = {"before": {"train": False, "seeds": 1}, "accuracy": {"seeds": 3, "rewards": {"accuracy": 1.0}}}
    arms["other"] = {"seeds": 3, "rewards": {"accuracy": 1.0}}
    contrast = {"first": "other", "second": "accuracy", "figure": "swap.difference"}
    file = tmp_path / "study.yaml"
    grpo = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 1, "rewards": {"format": 0.5}}
    (tmp_path / "grpo.yaml").write_text(json.dumps(grpo))
    start = {"build": "build.yaml", "sft": "sft.yaml"}
    for name in start.values():
        (tmp_path / name).write_text("{}")
    keys = {**KEYS, "out": str(tmp_path / "out"), "start": start, "arms": arms, "contrasts": [contrast], "cross": 0}
    file.write_text(json.dumps(keys))
    return load_study(file)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Units are not trained; their figures are made up from arm and seed."""
    done: list[tuple[str, int]] = []

    def unit(config: StudyConfig, name: str, seed: int) -> dict[str, Any]:
        done.append((name, seed))
        gain = {"before": 0.0, "accuracy": 0.2, "other": 0.25}[name]
        figures = {
            "accuracy": 0.5 + gain + seed / 100,
            "swap.difference": gain + seed**2 / 100,
            "grpo.entropy_last": 0.3,
        }
        row = {"arm": name, "seed": seed, "seconds": 1.0, "figures": figures}
        folder = study.unit_folder(config, name, seed)
        folder.mkdir(parents=True)
        (folder / "unit.json").write_text(json.dumps(row))
        return row

    monkeypatch.setattr(study, "run_unit", unit)
    monkeypatch.setattr(study, "prepare", lambda *_: {})
    return done


def test_the_bundled_study_can_start(tmp_path: Path) -> None:
    config = load_study(bundled_config("tiny/study/study.yaml"), {**KEYS, "out": str(tmp_path)})
    assert len(config.contrasts) == 2 and all(
        config.arms[name].seeds == 8 for one in config.contrasts for name in (one.first, one.second)
    )
    assert len(units(config)) == 5 * 8 + 5 * 3 + 1
    for one in config.contrasts:  # an arm and its control push equally hard
        first, second = (config.arms[name].rewards for name in (one.first, one.second))
        source = one.first
        assert first[source] == second[f"shuffled({source})"] and first[source]["std"] > 0


def test_units_go_seed_by_seed_and_finished_ones_are_kept(config: StudyConfig, ran: list[tuple[str, int]]) -> None:
    assert run_study(config, minutes=0)["units"] == 0 and ran == []
    first = run_study(config, only="accuracy")
    assert ran == [("accuracy", 0), ("accuracy", 1), ("accuracy", 2)] and first["units"] == 3
    result = run_study(config)
    assert ran[3:] == [("before", 0), ("other", 0), ("other", 1), ("other", 2)]
    assert run_study(config) == result and len(ran) == 7
    contrast = result["contrasts"][0]
    assert contrast["value"] == pytest.approx(0.05) and contrast["n"] == 3 and contrast["p_holm"] == contrast["p"]
    rows = list(csv.DictReader((Path(config.out) / "units.csv").open()))
    assert len(rows) == 7 and float(rows[0]["accuracy"]) == 0.5


def test_a_study_says_whether_there_is_a_signal(config: StudyConfig, ran: list[tuple[str, int]]) -> None:
    assert run_study(config, only="before")["signal"]["there"] is None
    assert run_study(config)["signal"]["there"] is True
    high_floor = config.model_copy(update={"entropy_floor": 0.5})
    assert study.signal(high_floor, study.finished(config))["there"] is False


def test_what_was_run_cannot_change_under_its_name(config: StudyConfig, ran: list[tuple[str, int]]) -> None:
    run_study(config)
    more = {**config.arms, "accuracy": config.arms["accuracy"].model_copy(update={"seeds": 4})}
    assert run_study(config.model_copy(update={"arms": more}))["units"] == 8  # seeds may be added
    other = {**more, "other": config.arms["other"].model_copy(update={"rewards": {"accuracy": 2.0}})}
    with pytest.raises(UserError, match=r"other settings \(arms\.other\.rewards\."):
        run_study(config.model_copy(update={"arms": other}))
    fewer = {**more, "accuracy": config.arms["accuracy"].model_copy(update={"seeds": 2})}
    with pytest.raises(UserError, match=r"other settings \(arms\.accuracy\.seeds\)"):
        run_study(config.model_copy(update={"arms": fewer}))
    with pytest.raises(UserError, match="contrasts"):  # what was registered stays
        run_study(config.model_copy(update={"arms": more, "contrasts": []}))
    Path(config.grpo).write_text(Path(config.grpo).read_text().replace('"max_steps": 1', '"max_steps": 2'))
    with pytest.raises(UserError, match="grpo"):  # what a file says counts, not its name
        run_study(config.model_copy(update={"arms": more}))


def test_a_base_model_that_was_trained_in_place_is_another_study(
    config: StudyConfig, ran: list[tuple[str, int]], tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    config = config.model_copy(update={"base": str(tmp_path / "base")})
    run_study(config)
    (tmp_path / "base" / "model.safetensors").write_text("trained")
    with pytest.raises(UserError, match=r"other settings \(the files of .*base\)"):
        run_study(config)


def test_a_study_is_of_one_precision(
    config: StudyConfig, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.precision == "float32"
    assert study._grpo_keys(config, "accuracy", 0)["precision"] == "float32"
    handed: list[Any] = []
    monkeypatch.setattr(study, "prepare", lambda *arguments: handed.append(arguments[-1]))
    run_study(config)
    assert handed == ["float32"]
    with pytest.raises(UserError, match=r"other settings \(precision\)"):
        run_study(config.model_copy(update={"precision": "bfloat16"}))
    file = Path(config.out) / "study.json"
    before = json.loads(file.read_text())
    del before["precision"]  # of a version whose GRPO config said bf16: true
    file.write_text(json.dumps({**before, "grpo": {**before["grpo"], "bf16": True}}))
    with pytest.raises(UserError, match=r"other settings \(grpo\.precision, precision\)|other settings"):
        run_study(config)


def test_a_study_trains_its_start_in_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[dict[str, Any]] = []

    def run_sft(source: str, given: dict[str, Any]) -> dict[str, Any]:
        keys.append(given)
        return {}

    monkeypatch.setattr("train.sft.run_sft", run_sft)
    monkeypatch.setattr(study_start, "_start_rows", lambda *_: {})
    monkeypatch.setattr(study_start, "_choose", lambda *_: {})
    study_start.prepare(study_start.Start(), "tiny", tmp_path, {}, tmp_path / "start", "bfloat16")
    assert keys[0]["precision"] == "bfloat16"


def test_an_arm_says_all_of_its_rewards(config: StudyConfig) -> None:
    keys = study._grpo_keys(config, "accuracy", 2)
    assert keys["rewards"] == {"format": 0.0, "accuracy": 1.0} and keys["seed"] == 2
    assert keys["output_dir"].endswith("accuracy/seed-2/grpo")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"reference": "none"}, "no arm 'none'"),
        ({"arms": {"accuracy": {"rewards": {"acuracy": 1.0}}}}, "did you mean 'accuracy'"),
        ({"arms": {"accuracy": {"seed": 3}}}, "seed"),
        ({"out": ""}, "must say 'out'"),
        ({"precision": "auto"}, "'precision' in .*: unknown value 'auto'; known are float32, bfloat16"),
        ({"arms": {"accuracy": {"rewards": {"accuracy": 1.0}, "keys": {"bf16": True}}}}, "contradict each other"),
    ],
)
def test_a_bad_study_is_refused(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    (tmp_path / "grpo.yaml").write_text("{}")
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps({**KEYS, "out": "o", "arms": {"accuracy": {"rewards": {"accuracy": 1.0}}}, **keys}))
    with pytest.raises(ConfigError, match=said):
        load_study(file)


def test_figures_are_flat() -> None:
    report = {
        "accuracy": {"value": 0.5, "ci95": [0, 1], "n": 4},
        "swap": {"difference": {"value": None}, "n": 3},
        "blank": {"value": 0.2, "n": 4, "verdict": "grounded", "area": 0.7, "accuracy": {"value": 0.1, "n": 4}},
        "why": "x",
    }
    assert flat(report) == {"accuracy": 0.5, "swap.n": 3.0, "blank": 0.2, "blank.area": 0.7, "blank.accuracy": 0.1}
