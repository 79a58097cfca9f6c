"""The precision of a run: how it is resolved, that it decides the run, and that a resume keeps it on any machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import train.distributed
import train.grpo
import train.launch
import train.precision
import train.selection
import train.sft
from configs.errors import ConfigError, UserError
from configs.machine import Ratio
from train.grpo import load_grpo, run_grpo
from train.precision import Precision, announce, comparable, recorded, resolve, slow_here, stated
from train.run_folder import changed_settings
from train.sft import load_sft, run_sft

SFT = {"dataset": "rows.jsonl", "output_dir": "out"}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``fast(yes)``: from here on this machine, a CPU, is fast at bfloat16, or not."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)

    def set_to(yes: bool) -> None:
        monkeypatch.setattr(train.precision, "bfloat16_is_fast", lambda device: yes)

    return set_to


@pytest.mark.parametrize(
    ("config", "here", "name", "source"),
    [
        ({}, True, "float32", "default"),
        ({"precision": None, "bf16": None, "fp16": False}, True, "float32", "default"),
        ({"precision": "auto"}, True, "bfloat16", "auto"),
        ({"precision": "auto"}, False, "float32", "auto"),
        ({"precision": "bfloat16"}, False, "bfloat16", "config"),
        ({"precision": "float32"}, True, "float32", "config"),
        ({"bf16": True}, False, "bfloat16", "config"),
        ({"bf16": False}, True, "float32", "config"),
        ({"precision": "auto", "bf16": True}, False, "bfloat16", "config"),
        ({"precision": "auto", "bf16": False}, True, "float32", "config"),
        ({"precision": "bfloat16", "bf16": True}, False, "bfloat16", "config"),
        ({"precision": "float32", "bf16": False, "fp16": False}, True, "float32", "config"),
    ],
)
def test_the_precision_of_a_config(config: dict[str, Any], here: bool, name: str, source: str, fast: Any) -> None:
    fast(here)
    precision = resolve(config)
    assert (precision.name, precision.source, precision.device) == (name, source, "cpu")
    stage = load_sft({**SFT, **config})
    assert stage.args.bf16 is (name == "bfloat16") and not stage.args.fp16
    assert stage.settings["precision"] == name and stage.precision == precision


def test_float16_is_what_trl_makes_of_it() -> None:
    precision = resolve({"precision": "auto", "fp16": True})
    assert (precision.name, precision.source) == ("float16", "config")
    before, now = {"fp16": True}, {"precision": "float32"}
    assert changed_settings(before, now) == ["precision"]


def test_on_an_accelerator_trl_decides_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(train.precision, "bfloat16_is_fast", lambda device: device == "cuda")
    assert resolve({}).name == resolve({"precision": "auto"}).name == "bfloat16"
    assert resolve({"precision": "auto"}).device == "cuda"
    assert resolve({"precision": "auto", "use_cpu": True}).name == resolve({"use_cpu": True}).name == "float32"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"precision": "bf16"}, "'precision' in the config: unknown value 'bf16'; did you mean 'bfloat16'?"),
        ({"precision": "fp32"}, "unknown value 'fp32'; did you mean 'float32'?"),
        ({"precision": "int"}, "known are auto, bfloat16, float32"),
        ({"precision": 16}, "wanted one of auto, bfloat16, float32 or null, found 16"),
        ({"precison": "auto"}, "did you mean 'precision'?"),
        ({"precision": "float32", "bf16": True}, "'precision: float32' and 'bf16: true' in the config contradict"),
        ({"precision": "bfloat16", "bf16": False}, "'precision: bfloat16' and 'bf16: false' in the config contradict"),
        ({"precision": "float32", "fp16": True}, "'fp16: true' in the config contradict each other: remove fp16"),
        ({"bf16": True, "fp16": True}, "'bf16' and 'fp16' in the config are both true"),
    ],
)
def test_a_precision_that_cannot_be(keys: dict[str, Any], said: str) -> None:
    for load, config in ((load_sft, SFT), (load_grpo, {"problems": "set", "output_dir": "out"})):
        with pytest.raises(ConfigError) as refused:
            load({**config, **keys})
        assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def finished(tiny_vlm_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory, runs: Any) -> dict[str, Any]:
    """A cold start of three steps in each precision, by its name, and the keys of both. Read only."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("precisions")
    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "per_device_train_batch_size": 2}
    keys = {**runs.BASE, **keys, "max_steps": 3, "use_cpu": True}
    found: dict[str, Any] = {"keys": keys}
    for name in ("bfloat16", "float32"):
        summary = run_sft({**keys, "precision": name, "output_dir": str(folder / name)})
        assert summary["precision"] == name
        found[name] = folder / name
    return found


@pytest.fixture
def killed(finished: dict[str, Any], tmp_path: Path, runs: Any) -> Any:
    """``killed(name)``: a copy of the run in that precision as a kill after its first step leaves it, begun with ``auto``."""

    def make(name: str) -> dict[str, Any]:
        shutil.copytree(finished[name], tmp_path / name)
        runs.kill_after(tmp_path / name, 1)
        return {**finished["keys"], "output_dir": str(tmp_path / name)}

    return make


def same(one: Path, other: Path, runs: Any) -> bool:
    weights, others = runs.weights(one), runs.weights(other)
    return runs.column(one) == runs.column(other) and all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_precision_decides_the_run(finished: dict[str, Any], runs: Any) -> None:
    assert not same(finished["bfloat16"], finished["float32"], runs)
    assert runs.column(finished["bfloat16"]) == pytest.approx(runs.column(finished["float32"]), rel=0.05)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_a_resume_on_another_machine_keeps_the_precision(
    name: str,
    killed: Any,
    finished: dict[str, Any],
    fast: Any,
    runs: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = killed(name)
    fast(name == "float32")  # where auto would be the other one
    monkeypatch.setattr(train.precision, "measure_bfloat16", lambda **_: Ratio(1.0, 7.9))
    summary = run_sft({**keys, "precision": "auto"})
    said = capsys.readouterr().out
    assert f"precision: {name} (auto: the run in {keys['output_dir']} began with it)" in said
    assert ("bfloat16 takes 7.9 times as long as float32" in said) == (name == "bfloat16")
    assert summary["precision"] == name and same(Path(keys["output_dir"]), finished[name], runs)
    written = json.loads((Path(keys["output_dir"]) / "settings.json").read_text())
    assert written["settings"]["precision"] == name and written["precision_source"] == "auto"
    assert run_sft({**keys, "precision": "auto"}) == summary  # finished, and known again


@pytest.mark.parametrize("bf16", [True, None])
def test_a_run_of_the_version_before_is_resumed_in_what_it_began_with(
    bf16: bool | None, killed: Any, finished: dict[str, Any], fast: Any, runs: Any
) -> None:
    """Its settings know bf16 alone; the tiny config said bf16: true, and says precision: auto now."""
    name = "bfloat16" if bf16 else "float32"
    keys = killed(name)
    file = Path(keys["output_dir"]) / "settings.json"
    old = json.loads(file.read_text())
    del old["settings"]["precision"], old["precision_source"]
    if bf16:
        old["settings"]["bf16"] = True
    file.write_text(json.dumps(old))
    fast(False)
    with pytest.raises(UserError, match=r"interrupted run with other settings \(precision\)"):
        run_sft({**keys, "precision": "float32" if bf16 else "bfloat16"})
    run_sft({**keys, "precision": "auto"} if bf16 else keys)
    assert same(Path(keys["output_dir"]), finished[name], runs)


def test_an_explicit_change_is_refused(killed: Any, fast: Any) -> None:
    keys = killed("float32")
    fast(False)
    for change in ({"precision": "bfloat16"}, {"bf16": True}, {"precision": "auto", "bf16": True}):
        with pytest.raises(UserError, match=r"interrupted run with other settings \(precision\)"):
            run_sft({**keys, **change})
    for same_choice in ({"precision": "float32"}, {"bf16": False}, {"precision": "auto"}, {}):
        assert load_sft({**keys, **same_choice}).precision.name == "float32"


def test_a_run_that_saved_nothing_is_begun_anew(killed: Any, fast: Any) -> None:
    keys = killed("bfloat16")
    fast(False)
    folder = Path(keys["output_dir"])
    assert recorded(folder) == "bfloat16"
    shutil.rmtree(folder / "checkpoint-1")
    for checkpoint in folder.glob("checkpoint-*"):
        assert not (checkpoint / "complete").exists()
    assert recorded(folder) is None and resolve({**keys, "precision": "auto"}).name == "float32"
    (folder / "pass_rates.jsonl").write_text("")  # of a prompt selection, sampled in that precision
    assert recorded(folder) == "bfloat16"


def test_the_config_of_a_record_is_compared_by_what_came_of_it(killed: Any, fast: Any, tmp_path: Path) -> None:
    folder, rate = Path(killed("bfloat16")["output_dir"]), {"learning_rate": 1e-3}
    for before in ({"bf16": True}, {"precision": "auto"}, {"precision": "bfloat16"}, {}):
        for now in ({"precision": "auto"}, {}, {"bf16": True}, {"precision": "bfloat16"}, {"precision": "float32"}):
            old, new = comparable({**rate, **before}, {**rate, **now}, folder)
            assert (old == new) == (now != {"precision": "float32"}) and old == {**rate, "precision": "bfloat16"}
    assert comparable({"bf16": True}, {**rate, "precision": "float32"}, tmp_path / "none") == ({}, rate)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_prompts_are_chosen_in_the_precision_of_the_run(
    name: str, tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def sample(*_: Any, **__: Any) -> None:
        raise Enough(str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "torch.float32")

    monkeypatch.setattr(train.selection, "sample_pass_rates", sample)
    keys = {"model": str(tiny_vlm_dir), "problems": str(pictures), "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(Enough, match=f"torch.{name}"):
        run_grpo({**keys, "precision": name, "per_device_train_batch_size": 8})
    assert load_grpo({**keys, "precision": name}).args.bf16 is (name == "bfloat16")


@pytest.mark.parametrize(
    ("precision", "here", "ratio", "lines"),
    [
        (Precision("float32", "auto", "cpu"), False, None, ["precision: float32 (auto: this processor has no fast"]),
        (
            Precision("bfloat16", "auto", "cpu"),
            True,
            None,
            ["precision: bfloat16 (auto: this processor is fast at it)"],
        ),
        (Precision("float32", "config", "cpu"), True, None, ["precision: float32"]),
        (Precision("bfloat16", "config", "cpu"), True, None, ["precision: bfloat16"]),
        (
            Precision("bfloat16", "config", "cpu"),
            False,
            7.94,
            ["precision: bfloat16", "bfloat16 takes 7.9 times as long"],
        ),
        (Precision("bfloat16", "config", "cpu"), False, 0.8, ["precision: bfloat16"]),
    ],
)
def test_what_is_said_at_the_start(
    precision: Precision,
    here: bool,
    ratio: float | None,
    lines: list[str],
    fast: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(**_: Any) -> Ratio:
        assert ratio is not None, "measured without need"
        return Ratio(1.0, ratio)

    fast(here)
    monkeypatch.setattr(train.precision, "measure_bfloat16", measure)
    announce(precision, main=True)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(lines) and all(line.startswith(start) for line, start in zip(said, lines, strict=True))
    announce(precision, main=False)
    assert capsys.readouterr().out == ""
    assert (slow_here(precision) is not None) == (len(lines) == 2)


def test_machines_that_differ_must_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(names: list[Any], mine: str) -> None:
        names[:] = [mine, others]

    monkeypatch.setattr(train.distributed, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    others = "float32"
    announce(Precision("float32", "auto", "cpu"), main=False)
    with pytest.raises(UserError, match=r"bfloat16, float32\): set precision: bfloat16 or precision: float32"):
        announce(Precision("bfloat16", "auto", "cpu"), main=True)


def test_data_workers_are_no_more_than_the_cores(
    fast: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast(False)
    monkeypatch.setattr(train.launch, "cores_a_rank", lambda: 2)
    for given, used in ((0, 0), (2, 2), (4, 2)):
        stage = load_sft({**SFT, "dataloader_num_workers": given})
        train.launch.prepare_stage(stage, main=True)
        assert stage.args.dataloader_num_workers == used
        assert ("dataloader_num_workers: 2 instead of 4" in capsys.readouterr().out) == (given == 4)


def test_what_a_config_states() -> None:
    assert stated({}) is None and stated({"precision": "auto"}) == "auto" and stated({"bf16": False}) == "float32"


def test_a_plan_for_gpus_takes_auto_as_they_would(
    tmp_path: Path, fast: Any, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    """The machine that plans need not be the one that trains, and under DeepSpeed weights and optimizer follow the precision."""
    fast(False)
    keys = {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "dtype": "bfloat16", "deepspeed": "configs/deepspeed/zero2.json"}
    keys |= {"dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path), "gpus": 2}

    def optimizer(precision: str) -> float:
        (tmp_path / "sft.yaml").write_text(json.dumps({**keys, "precision": precision}))
        assert train.sft.main(["--config", str(tmp_path / "sft.yaml"), "--plan", "--json"]) == 0
        return float(json.loads(capsys.readouterr().out)["plan"]["parts_gb"]["optimizer"])

    assert optimizer("auto") == optimizer("bfloat16") != optimizer("float32")


def test_a_check_names_the_precision_of_the_run_and_not_of_its_own_device(
    fast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check reads the config as on a CPU, also where an accelerator will train."""
    from train.preflight import _precision_of_the_run

    fast(False)
    zero = {"deepspeed": "configs/deepspeed/zero2.json"}
    assert _precision_of_the_run({"precision": "auto"}, "c") == {}
    assert _precision_of_the_run(zero, "c") == _precision_of_the_run({**zero, "precision": "auto"}, "c")
    assert _precision_of_the_run(zero, "c") == {"precision": "bfloat16"}
    assert _precision_of_the_run({**zero, "precision": "float32"}, "c") == {}
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("train.precision.device_type", lambda config: "cuda")
    monkeypatch.setattr("train.precision.bfloat16_is_fast", lambda device: device == "cuda")
    assert _precision_of_the_run({"precision": "auto"}, "c") == {"precision": "bfloat16"}
    assert _precision_of_the_run({"precision": "auto", "use_cpu": True}, "c") == {}
    assert _precision_of_the_run({"bf16": False}, "c") == {}
