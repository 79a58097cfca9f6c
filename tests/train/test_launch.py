"""Starts that are refused before a weight loads, runs that may be resumed, and weights at the end of a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainingArguments

import train.distributed
import train.grpo
import train.probe
import train.sft
from configs.errors import ConfigError, UserError
from train.distributed import check_same_weights, first_disagreement
from train.grpo import run_grpo
from train.improve import ImproveConfig, run_improve
from train.probe import run_probe
from train.run_folder import RunFolder, changed_settings
from train.sft import run_sft
from vlm.load import load_vlm


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    for module in (train.grpo, train.probe, train.sft):
        monkeypatch.setattr(module, "load_for_training", refuse)
    monkeypatch.setattr("vlm.load.load_vlm", refuse)


@pytest.fixture
def starts(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path) -> dict[str, Any]:
    """Each training command by name, to be called with keys of its config."""
    sft = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path / "out")}
    grpo = {**sft, "problems": str(pictures), "per_device_train_batch_size": 8}
    del grpo["dataset"]

    def improve(keys: dict[str, Any], **own: Any) -> Any:
        (tmp_path / "sft.json").write_text(json.dumps(keys))
        sets = {"problems": str(pictures), "heldout": str(pictures), "out": str(tmp_path / "rounds")}
        return run_improve(ImproveConfig(**sets, **own, sft=str(tmp_path / "sft.json")))

    return {
        "train/sft.py": lambda keys: run_sft({**sft, **keys}),
        "train/grpo.py": lambda keys: run_grpo({**grpo, **keys}),
        "train/probe.py": lambda keys: run_probe({**grpo, **keys}),
        "improve": improve,
    }


@pytest.mark.parametrize("name", ["train/sft.py", "train/grpo.py", "train/probe.py"])
def test_a_start_that_cannot_train_is_refused_before_anything_loads(
    name: str, starts: dict[str, Any], no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="'deepspeed' needs its launcher") as refused:
        starts[name]({"deepspeed": "configs/deepspeed/zero2.json"})
    assert "deepspeed --num_gpus 1 " + name in str(refused.value)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    with pytest.raises(UserError, match=r"One process sees 4 GPUs .* CUDA_VISIBLE_DEVICES=0") as refused:
        starts[name]({"per_device_train_batch_size": 8})
    assert f"deepspeed --num_gpus 4 {name}" in str(refused.value)


def test_improve_refuses_a_number_of_processes_before_anything_loads(starts: dict[str, Any], no_weights: None) -> None:
    with pytest.raises(ConfigError, match="cannot be shared evenly by 3 processes"):
        starts["improve"]({"per_device_train_batch_size": 8}, processes=3)


def test_a_model_for_the_cpu_stays_where_it_loaded(tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 a move would take the frozen weights off their GPU; nothing else needs one."""
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *args: pytest.fail("the model was moved"))
    assert load_vlm(tiny_vlm_dir, device="cpu").model.device.type == "cpu"


@pytest.fixture(scope="module")
def killed(tiny_vlm_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory, runs: Any) -> Path:
    """A cold start that was killed after its first step. Read only."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("killed")
    rows = folder / "rows.jsonl"
    text = (pictures / "rows.jsonl").read_text()
    for picture in pictures.glob("*.png"):
        shutil.copy(picture, folder)
    rows.write_text(text)
    keys = {"model": str(tiny_vlm_dir), "dataset": str(rows), "per_device_train_batch_size": 2, "max_steps": 2}
    run_sft({**runs.BASE, **keys, "output_dir": str(folder / "run")})
    runs.kill_after(folder / "run", 1)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-5}, r"interrupted run with other settings \(learning_rate\)"),
        ({"max_steps": 3, "seed": 7}, r"\(max_steps, seed\)"),
        ({"model": "tiny"}, r"\(the files of tiny\)"),
        ({"gradient_accumulation_steps": 2}, r"\(gradient_accumulation_steps\)"),
        ({"dataset": "other"}, r"\(the files of .*other.jsonl\)"),
    ],
)
def test_a_killed_run_is_not_gone_on_with_under_other_settings(
    killed: Path, changes: dict[str, Any], said: str, tmp_path: Path, no_weights: None
) -> None:
    shutil.copytree(killed / "run", tmp_path / "run")
    settings = json.loads((killed / "run" / "settings.json").read_text())["settings"]
    if "dataset" in changes:
        (tmp_path / "other.jsonl").write_text("".join((killed / "rows.jsonl").read_text().splitlines(True)[:4]))
        changes = {"dataset": str(tmp_path / "other.jsonl")}
    with pytest.raises(UserError, match=said):
        run_sft({**settings, **changes, "output_dir": str(tmp_path / "run")})


def test_what_does_not_change_the_course_may_change(killed: Path, tmp_path: Path, runs: Any) -> None:
    shutil.copytree(killed, tmp_path / "moved")
    settings = json.loads((killed / "run" / "settings.json").read_text())["settings"]
    moved = {"dataset": str(tmp_path / "moved" / "rows.jsonl"), "output_dir": str(tmp_path / "moved" / "run")}
    smaller = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    run_sft({**settings, **moved, **smaller, "logging_steps": 1, "save_steps": 2, "save_total_limit": 1})
    assert runs.column(tmp_path / "moved" / "run", "step") == [1, 2]


def test_settings_are_compared_by_what_they_decide() -> None:
    before = {"beta": 0.0, "vllm_mode": "server", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    assert changed_settings(before, {**before, "vllm_mode": "colocate", "max_logprob_gap": 1, "ddp_timeout": 9}) == []
    assert changed_settings(before, {**before, "vllm_importance_sampling_cap": 1, "beta": 1}) == [
        "beta",
        "vllm_importance_sampling_cap",
    ]
    cut = {**before, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    assert changed_settings(before, cut) == []
    assert changed_settings(before, {**cut, "steps_per_generation": 4}) == [
        "gradient_accumulation_steps",
        "per_device_train_batch_size",
        "steps_per_generation",
    ]


@pytest.mark.parametrize("saved", ["choice.json", "summary.json"])
def test_a_run_is_not_gone_on_with_under_an_edited_reward(
    pictures: Path, tmp_path: Path, saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``choice.json`` is what a killed run leaves first, ``summary.json`` what a finished one leaves last."""

    class Loading(Exception):
        pass

    def load(*_: Any) -> None:
        raise Loading

    monkeypatch.setattr(train.grpo, "load_for_training", load)
    for folder in ("project", "project/mine", "elsewhere"):
        (tmp_path / folder).mkdir()
    config, out = tmp_path / "project/grpo.yaml", tmp_path / "out"
    keys = {"problems": str(pictures), "output_dir": str(out), "per_device_train_batch_size": 8}
    rewards = {"accuracy": 1.0, "shuffled(mine/words.py:brief)": 0.1, "mine/words.py:long": 0.1}
    config.write_text(json.dumps({**keys, "rewards": rewards}))
    code = "def brief(rollout):\n    return 1.0\nlong = brief\n"
    reward = tmp_path / "project/mine/words.py"
    reward.write_text(code)
    monkeypatch.chdir(tmp_path / "elsewhere")

    stage = train.grpo.load_grpo(config)
    run = RunFolder(
        out, stage.settings, True, pictures, stage.options.model, files=train.grpo._reward_files(stage.options)
    )
    run.begin()
    (out / saved).write_text('{"steps": 1}')

    def again(file: Path) -> Any:
        if saved == "summary.json":
            return run_grpo(file)
        with pytest.raises(Loading):
            run_grpo(file)

    again(config)
    shutil.move(tmp_path / "project", tmp_path / "moved")
    again(tmp_path / "moved/grpo.yaml")
    shutil.move(tmp_path / "moved", tmp_path / "project")
    run_settings = json.loads((out / "settings.json").read_text())
    reward.write_text(code.replace("1.0", "2.0"))
    with pytest.raises(
        UserError, match=r"run with other settings \(the file mine/words\.py\): choose another output folder"
    ):
        run_grpo(config)
    assert list(run_settings.pop("reward_files")) == ["mine/words.py"]
    (out / "settings.json").write_text(json.dumps(run_settings))  # of a version that kept no checksums
    again(config)


def test_a_moved_reward_folder_changes_no_course() -> None:
    assert changed_settings({"reward_folder": "/a", "beta": 0.0}, {"reward_folder": "/b", "beta": 0.0}) == []
    assert changed_settings({"beta": 0.0}, {"reward_folder": "/b", "beta": 0.0}) == []


def test_the_sums_by_which_processes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(3, 3)
    check_same_weights(model)
    whole = train.distributed._sums(model.weight)
    monkeypatch.setattr(train.distributed, "AT_ONCE", 4)
    assert torch.allclose(torch.stack(train.distributed._sums(model.weight)), torch.stack(whole), rtol=1e-12)
    lost = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    assert first_disagreement(["a"], [lost, lost.clone()]) is None  # all have diverged alike
    assert first_disagreement(["a"], [lost, torch.ones(2, dtype=torch.float64)]) == "a"


@pytest.mark.seam
@torch.no_grad()
def test_a_blank_image_is_read_in_a_forward_and_never_in_generation(
    tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, reads = load_vlm(tiny_vlm_dir, device="cpu"), []
    train.distributed.BlankImages(vlm)
    features = vlm.model.get_image_features
    monkeypatch.setattr(vlm.model, "get_image_features", lambda **keys: reads.append(1) or features(**keys))
    text = vlm.tokenizer(["What is at A1?"], return_tensors="pt")
    stock = load_vlm(tiny_vlm_dir, device="cpu").model
    assert torch.equal(vlm.model(**text).logits, stock(**text).logits) and len(reads) == 1
    written = vlm.model.generate(**text, max_new_tokens=3, do_sample=False)
    assert torch.equal(written, stock.generate(**text, max_new_tokens=3, do_sample=False)) and len(reads) == 1
