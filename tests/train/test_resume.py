"""What an interrupted run must keep under another number of processes, and what its checkpoint must hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError, UserError
from configs.provenance import begun
from train.checkpoints import sizes_of
from train.config import as_if
from train.grpo import load_grpo
from train.resume import course, resumption
from train.run_folder import changed_settings
from train.selection import read_pass_rates
from train.sft import main as sft_main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("keys", "processes", "wanted"),
    [
        ({}, 2, {}),
        ({}, 1, {"gradient_accumulation_steps": 12}),
        ({}, 4, {"gradient_accumulation_steps": 3}),
        ({}, 12, {"gradient_accumulation_steps": 1}),
        (
            {},
            5,
            r"24 rows, which 5 processes with per_device_train_batch_size 2 cannot share evenly: start it with 1 or 2 or 3 or 4",
        ),
        ({}, 8, "set per_device_train_batch_size: 3, gradient_accumulation_steps: 1"),
        ({}, 24, "set per_device_train_batch_size: 1, gradient_accumulation_steps: 1"),
        ({}, 48, "start it with 1 or 2 or 3 or 4 or 6 or 12 processes."),
        ({"accelerator_config": {"split_batches": True}}, 1, {}),
        ({"steps_per_generation": 3}, 1, {"gradient_accumulation_steps": 12, "steps_per_generation": 6}),
        ({"steps_per_generation": 3}, 3, {"gradient_accumulation_steps": 4, "steps_per_generation": 2}),
        ({"steps_per_generation": 3}, 4, "24 rows and a generation 12, which 4 processes"),
        ({"generation_batch_size": 12}, 3, {"gradient_accumulation_steps": 4}),
        ({"generation_batch_size": 12}, 4, "set per_device_train_batch_size: 3, gradient_accumulation_steps: 2."),
    ],
)
def test_how_a_number_of_processes_shares_a_step(
    keys: dict[str, Any], processes: int, wanted: dict[str, int] | str, tmp_path: Path
) -> None:
    """Begun by 2 processes: 2 rows each, 6 times a step."""
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 6}
    settings = {"output_dir": str(tmp_path), **cut, **keys}
    interrupted(tmp_path, settings, 2)
    found = resumption(settings, processes)
    if isinstance(wanted, str):
        assert wanted in str(found.refusal)
    else:
        assert found.refusal is None and found.keys == wanted
        assert bool(found.message) == bool(wanted)
        resumed = course({**settings, **wanted}, processes)
        begun = course(settings, 2)
        assert (resumed["rows_a_step"], resumed["rows_a_generation"]) == (
            begun["rows_a_step"],
            begun["rows_a_generation"],
        )
    (tmp_path / "summary.json").write_text("{}")
    assert resumption(settings, processes).refusal is None  # nothing is left to train


def interrupted(folder: Path, settings: dict[str, Any], processes: int, steps: tuple[int, ...] = (2,)) -> Path:
    """What an interrupted run leaves, with files of no content; returns the last checkpoint."""
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        torch.save({}, checkpoint / "optimizer.pt")
        names = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
        for name in ("scheduler.pt", *names):
            shutil.copy(checkpoint / "optimizer.pt", checkpoint / name)
        for name in ("config.json", "model.safetensors"):
            (checkpoint / name).write_text("weights")
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
        mark = {**course(settings, processes), "files": sizes_of(checkpoint)}
        (checkpoint / "complete").write_text(json.dumps(mark))
    known = {"settings": settings, "processes": processes, "course": course(settings, processes)}
    (folder / "settings.json").write_text(json.dumps(known))
    return checkpoint


def test_rows_that_the_user_has_cut_up_anew_are_compared_with_the_processes() -> None:
    before = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "beta": 0.1}
    begun = course(before, 2)
    for cut, processes, same in (
        ((2, 8), 1, True),
        ((4, 4), 1, True),
        ((1, 16), 1, True),
        ((4, 2), 2, True),
        ((2, 4), 4, False),  # by name only where the config says something else than before
        ((1, 8), 1, False),
        ((4, 4), 2, False),
    ):
        now = {**before, "per_device_train_batch_size": cut[0], "gradient_accumulation_steps": cut[1]}
        changed = changed_settings(before, now, begun, course(now, processes))
        assert (changed == []) == (same or now == before), (cut, processes)
    before |= {"steps_per_generation": 4}
    now = {**before, "gradient_accumulation_steps": 8, "steps_per_generation": 8}
    assert changed_settings(before, now, course(before, 2), course(now, 1)) == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"deepspeed": "configs/deepspeed/zero2.json"}, "DeepSpeed divides the optimizer state"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "DeepSpeed divides the optimizer state"),
        ({"fsdp": "full_shard"}, "FSDP divides the weights"),
        ({"parallelism_config": {"tp_size": 2}}, "parallelism_config divides the model"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size may have changed"),
        ({"average_tokens_across_devices": False}, "with average_tokens_across_devices: false the weight of a row"),
    ],
)
def test_another_number_is_refused_where_the_state_is_bound_to_it(
    keys: dict[str, Any], why: str, tmp_path: Path
) -> None:
    settings = {"output_dir": str(tmp_path), "per_device_train_batch_size": 2, **keys}
    checkpoint = interrupted(tmp_path, settings, 2)
    if "deepspeed" in keys:
        divided(checkpoint, settings)
    assert resumption(settings, 2).refusal is None
    said = str(resumption(settings, 1).refusal)
    assert f"an interrupted run of 2 processes, which 1 process cannot resume, since {why}" in said
    assert f"start it with 2 processes, or begin another output_dir with model: {checkpoint}" in said
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")  # an adapter is no model
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    assert str(resumption(settings, 1).refusal).endswith("start it with 2 processes.")
    (checkpoint / "trainer_state.json").write_text('{"global_step": 9, "max_steps": 9}')
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    assert resumption(settings, 1).refusal is None  # only the model is still to be copied


def divided(checkpoint: Path, settings: dict[str, Any]) -> None:
    """DeepSpeed's files in place of Trainer's."""
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    (checkpoint / "latest").write_text("global_step2\n")
    (checkpoint / "global_step2").mkdir()
    for rank in range(2):
        torch.save({}, checkpoint / "global_step2" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))


def test_what_a_deepspeed_config_says_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    zero2 = json.loads((ROOT / "configs" / "deepspeed" / "zero2.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(zero2))
    before = {"deepspeed": str(ROOT / "configs" / "deepspeed" / "zero2.json")}
    now = {"deepspeed": str(tmp_path / "mine.json")}
    begun = course(before, 2)
    assert begun["zero"] == 2
    assert changed_settings(before, now, begun, course(now, 2)) == []
    traffic = {
        **zero2,
        "zero_optimization": {**zero2["zero_optimization"], "overlap_comm": False, "reduce_bucket_size": 7},
    }
    (tmp_path / "mine.json").write_text(json.dumps(traffic))
    assert changed_settings(before, now, begun, course(now, 2)) == []
    (tmp_path / "mine.json").write_text(
        json.dumps({**zero2, "zero_optimization": {"stage": 3}, "gradient_clipping": 1})
    )
    assert changed_settings(before, now, begun, course(now, 2)) == [
        "deepspeed.gradient_clipping",
        "deepspeed.zero_optimization.stage",
    ]
    assert changed_settings(before, {}, begun, course({}, 2)) == ["deepspeed"]
    assert changed_settings({}, before, course({}, 2), begun) == ["deepspeed"]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("optimizer.pt", "gone", "optimizer.pt is not there"),
        ("optimizer.pt", "torn", "optimizer.pt "),
        ("scheduler.pt", "gone", "scheduler.pt is not there"),
        ("scheduler.pt", "torn", "scheduler.pt "),
        ("rng_state_1.pth", "gone", "rng_state_1.pth is not there"),
        ("trainer_state.json", "gone", "trainer_state.json is not there"),
        ("trainer_state.json", "torn", "trainer_state.json is damaged"),
        ("state", "gone", "optimizer.pt is not there (save_only_model leaves the state of training out)"),
    ],
)
def test_a_checkpoint_without_its_whole_state_is_refused_by_name(
    name: str, damage: str, said: str, marked: bool, tmp_path: Path
) -> None:
    settings = {"output_dir": str(tmp_path)}
    checkpoint = interrupted(tmp_path, settings, 2, (1, 2))
    if not marked:
        (checkpoint / "complete").write_text("")
    names = ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"] if name == "state" else [name]
    for one in names:
        content = (checkpoint / one).read_bytes()
        (checkpoint / one).unlink() if damage == "gone" else (checkpoint / one).write_bytes(
            content[: len(content) // 2]
        )
    if name == "state" and marked:
        (checkpoint / "complete").write_text(json.dumps({**course(settings, 2), "files": sizes_of(checkpoint)}))
    if name == "rng_state_1.pth" and not marked:
        return  # one file of a random state says that one process wrote it
    refusal = str(resumption(settings, 2).refusal)
    assert refusal.startswith(f"{checkpoint} cannot be resumed: {said}")
    assert "Remove that folder to resume from checkpoint-1, or begin another output_dir with model:" in refusal
    shutil.rmtree(tmp_path / "checkpoint-1")
    assert "Remove it to train again" in str(resumption(settings, 2).refusal)


def test_checkpoints_without_an_optimizer_are_not_written(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"output_dir": str(tmp_path / "out"), "save_only_model": True}
    (tmp_path / "sft.json").write_text(json.dumps({**keys, "dataset": str(pictures / "rows.jsonl")}))
    assert sft_main(["--config", str(tmp_path / "sft.json")]) == 2
    said = capsys.readouterr().err
    assert "'save_only_model'" in said and "could not be resumed" in said and "save_total_limit: 1" in said
    with pytest.raises(ConfigError, match="save_only_model"):
        load_grpo({**keys, "problems": str(pictures)})
    assert load_grpo({**keys, "save_only_model": False, "problems": str(pictures)})


def test_a_check_says_how_a_run_would_be_resumed(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(folder)}
    keys |= {"per_device_train_batch_size": 1}
    (tmp_path / "sft.json").write_text(json.dumps(keys))
    command = ["--config", str(tmp_path / "sft.json"), "--check"]
    interrupted(folder, keys, 2)
    assert sft_main(command) == 0
    said = capsys.readouterr().out
    assert "note    resume: resuming with 1 process instead of 2: gradient_accumulation_steps 1 -> 2" in said
    assert "rows_a_step 2" in said
    assert sft_main([*command, "--gpus", "2"]) == 0 and "resume" not in capsys.readouterr().out
    assert sft_main([*command, "--gpus", "3"]) == 1
    assert "error   resume: A step of the interrupted run in" in capsys.readouterr().out


def test_a_generation_keeps_its_rows_in_grpo(pictures: Path, tmp_path: Path) -> None:
    """4 rows of one process alone are no whole group of 8, which TRL would refuse."""
    cut = {"per_device_train_batch_size": 4, "num_generations": 8}
    settings = {"output_dir": str(tmp_path), "problems": str(pictures), **cut}
    with pytest.raises(ConfigError, match="divisible by 'num_generations'"):
        load_grpo(settings)
    interrupted(tmp_path, settings, 2)
    stage = load_grpo(settings)
    assert (stage.args.generation_batch_size, stage.args.gradient_accumulation_steps) == (8, 2)
    assert stage.course["rows_a_generation"] == 8 and stage.settings.get("gradient_accumulation_steps") is None
    with pytest.raises(UserError, match="cannot share evenly: start it with 1 or 2 processes"), as_if(3):
        load_grpo(settings)
    (tmp_path / "summary.json").write_text("{}")
    with as_if(3):
        assert load_grpo(settings).resumption.refusal is None


def test_pass_rates_are_read_by_whatever_number_of_processes(tmp_path: Path) -> None:
    for name in ("pass_rates.0.jsonl", "pass_rates.1.jsonl", "pass_rates.jsonl"):
        (tmp_path / name).write_text(json.dumps({"id": name, "key": "k"}) + "\n" + '{"id": "torn')
    assert len(read_pass_rates(tmp_path, "k")) == 3
    (tmp_path / "pass_rates.jsonl").unlink()
    assert begun(tmp_path)
