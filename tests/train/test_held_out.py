"""Rows that are held out of the cold start: which they are, that none is trained on, and that their loss is what it says."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError, UserError
from train.data import IGNORED, Collator, Row, read_rows
from train.finite import NUMBERS
from train.held_out import split_rows
from train.preflight import check
from train.sft import ColdStartTrainer, load_sft, main, run_sft
from vlm.load import load_vlm

pytestmark = pytest.mark.seam


def row(*images: Path, prompt: str = "q", line: int = 0) -> Row:
    return Row([{"role": "user", "content": prompt}], "a", [str(image) for image in images], line=line)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Ten files of equal size; the last one is a copy of the first."""
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % (number % 9))
    return paths


def test_rows_that_belong_together_stand_on_one_side(images: list[Path]) -> None:
    rows = [row(image) for image in images[:8] for _ in range(3)]
    rows += [row(images[0], images[1]), row(images[9]), row(prompt="no image"), row(prompt="no image")]
    together = [
        [0, 1, 2, 3, 4, 5, 24, 25],
        [26, 27],
        *([number * 3 + one for one in range(3)] for number in range(2, 8)),
    ]
    seen = set()
    for seed in range(20):
        trained, held_out = split_rows(rows, 0.25, seed)
        assert sorted([*trained, *held_out]) == list(range(len(rows)))
        assert trained == sorted(trained) and held_out == sorted(held_out)
        for group in together:
            assert len({index in held_out for index in group}) == 1
        assert 1 <= len(held_out) <= 7  # a quarter of 28
        assert split_rows(rows, 0.25, seed) == (trained, held_out)
        seen.add(tuple(held_out))
    assert len(seen) > 5  # the seed decides


def test_the_split_does_not_depend_on_where_the_files_are(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = [Path(shutil.copy(image, tmp_path / "elsewhere")) for image in images]
    assert split_rows([row(one) for one in images], 0.3, 1) == split_rows([row(one) for one in moved], 0.3, 1)


def test_a_small_share_still_holds_one_group_out_and_no_share_none(images: list[Path]) -> None:
    rows = [row(image) for image in images[:3] for _ in range(4)] + [row(images[3])] * 2
    assert split_rows(rows, 0.01, 0)[1] == [12, 13]  # the smallest group
    assert split_rows(rows, 0.0, 0) == (list(range(14)), [])


def test_an_empty_side_is_refused(images: list[Path]) -> None:
    for rows in ([row(images[0])] * 5, [row(images[0], images[1]), row(images[1])], [row(images[0]), row(images[9])]):
        with pytest.raises(
            UserError, match=r"'held_out: 0.5' needs rows about at least two images, and the usable rows \(\d\)"
        ):
            split_rows(rows, 0.5, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="'held_out' must be at least 0 and below 1"):
        load_sft({"dataset": "none", "output_dir": "none", "held_out": share})


@pytest.fixture(scope="module")
def keys(tiny_vlm_dir: Path, pictures: Path, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that holds 2 of 6 rows out, over two epochs of 4 rows, 2 a step, with the loss at steps 0, 2 and 4."""
    return {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "dataset": str(pictures / "rows.jsonl"),
        "output_dir": str(tmp_path_factory.mktemp("held") / "run"),
        "per_device_train_batch_size": 2,
        "held_out": 0.34,
        "eval_steps": 2,
        "max_steps": 4,
        "seed": 3,
    }


@pytest.fixture(scope="module")
def batches() -> list[list[int]]:
    """The rows of every batch that ``finished`` computed a gradient of."""
    return []


@pytest.fixture(scope="module")
def finished(keys: dict[str, Any], batches: list[list[int]]) -> Path:
    torch.set_num_threads(1)
    step = ColdStartTrainer.training_step

    def watch(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batches.append(inputs[NUMBERS].tolist())
        return step(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColdStartTrainer, "training_step", watch)
        run_sft(keys)
    return Path(keys["output_dir"])


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """The held-out losses of a run by step; each step was measured once."""
    found = [(line["step"], line["eval_loss"]) for line in log(folder) if "eval_loss" in line]
    assert len(dict(found)) == len(found)
    return dict(found)


def held_out_loss(model: Path, dataset: Path, held_out: list[int]) -> float:
    """The mean over the tokens of the held-out rows, by one forward per row."""
    vlm = load_vlm(model, device="cpu")
    rows, _ = read_rows(dataset, vlm)
    collate, total, tokens = Collator(rows, vlm), 0.0, 0
    for index in held_out:
        batch = collate([{"index": index}])
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = vlm.model(**batch).logits[:, :-1]
        total += float(torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=IGNORED, reduction="sum"))
        tokens += int((labels != IGNORED).sum())
    return total / tokens


def test_held_out_rows_are_never_trained_on(finished: Path, keys: dict[str, Any], batches: list[list[int]]) -> None:
    rows, _ = read_rows(keys["dataset"], load_vlm(keys["model"], device="cpu"))
    trained, held_out = split_rows(rows, keys["held_out"], keys["seed"])
    assert len(held_out) == 2
    assert sorted(index for batch in batches for index in batch) == sorted(trained * 2)  # each row once an epoch
    data = json.loads((finished / "data.json").read_text())
    assert data["rows"] == 4 and data["held_out"] == 2


def test_the_loss_is_that_of_a_forward_over_the_held_out_rows(finished: Path, keys: dict[str, Any]) -> None:
    rows, _ = read_rows(keys["dataset"], load_vlm(keys["model"], device="cpu"))
    _, held_out = split_rows(rows, keys["held_out"], keys["seed"])
    lengths = {
        len(Collator(rows, load_vlm(keys["model"], device="cpu")).completion(rows[index])[0]) for index in held_out
    }
    assert len(lengths) == 2  # a mean of means would be another number
    found = losses(finished)
    assert sorted(found) == [0, 2, 4]
    for step, folder in ((0, Path(keys["model"])), (2, finished / "checkpoint-2"), (4, finished)):
        assert found[step] == pytest.approx(held_out_loss(folder, Path(keys["dataset"]), held_out), rel=1e-5)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["held_out"] == 2
    assert (summary["eval_loss_first"], summary["eval_loss_last"]) == (found[0], found[4])
    assert summary["eval_loss_lowest"] == min(found.values()) == found[summary["eval_loss_lowest_step"]]


def test_the_loss_does_not_depend_on_the_batch_size(finished: Path, keys: dict[str, Any], tmp_path: Path) -> None:
    changed = {"output_dir": str(tmp_path), "per_device_eval_batch_size": 1, "max_steps": 2}
    run_sft(keys, changed)
    assert losses(tmp_path) == pytest.approx(
        {step: one for step, one in losses(finished).items() if step < 4}, rel=1e-6
    )


def test_a_killed_run_measures_what_an_uninterrupted_one_measures(
    finished: Path, keys: dict[str, Any], tmp_path: Path, runs: Any
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    runs.kill_after(folder, 3)
    run_sft(keys, {"output_dir": str(folder)})
    assert losses(folder) == losses(finished)
    loss = [[line["loss"] for line in log(one) if "loss" in line] for one in (folder, finished)]
    assert loss[0] == loss[1] and len(loss[0]) == 4
    changes = {"output_dir": str(folder), "held_out": 0.5}
    with pytest.raises(UserError, match="held_out"):
        run_sft(keys, changes)


def test_a_run_that_saved_nothing_measures_the_start_once(
    finished: Path, keys: dict[str, Any], tmp_path: Path, runs: Any
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    runs.kill_after(folder, 0)
    run_sft(keys, {"output_dir": str(folder)})
    assert losses(folder) == losses(finished)


def test_measuring_changes_no_step(keys: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    """With dropout each step depends on the random numbers that were drawn before it."""
    dropout = {"lora": {"r": 2, "alpha": 4, "dropout": 0.5}, "max_steps": 3}
    for name, more in (("often", {"eval_steps": 1}), ("never", {"eval_steps": 50, "eval_on_start": False})):
        run_sft(keys, {"output_dir": str(tmp_path / name), **dropout, **more})
    often, never = ([line["loss"] for line in log(tmp_path / name) if "loss" in line] for name in ("often", "never"))
    assert often == never and sorted(losses(tmp_path / "never")) == [3]  # the last step is always measured


def test_the_default_measures_at_each_checkpoint() -> None:
    base = {"dataset": "none", "output_dir": "none"}
    args = load_sft({**base, "held_out": 0.05, "save_steps": 30, "per_device_train_batch_size": 3}).args
    assert (args.eval_strategy, args.eval_steps, args.eval_on_start) == ("steps", 30, True)
    assert args.per_device_eval_batch_size == 3
    assert load_sft({**base, "held_out": 0.05}).args.eval_steps == args.__dataclass_fields__["save_steps"].default
    assert load_sft({**base, "held_out": 0.05, "save_strategy": "epoch"}).args.eval_strategy == "epoch"
    assert load_sft({**base, "held_out": 0.05, "eval_steps": 7}).args.eval_steps == 7
    assert load_sft(base).args.eval_strategy == "no"


def test_the_check_counts_both_sides(keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(load_sft({**keys, "output_dir": str(tmp_path / "out")}))
    assert report.passed and report.counts["rows"] == 4 and report.counts["held_out"] == 2
    report = check(load_sft({**keys, "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 5}))
    assert "4 usable rows are fewer than the 5 of one step" in {one.check: one.said for one in report.findings}["batch"]
    one = json.loads(Path(keys["dataset"]).read_text().splitlines()[1])
    one["images"] = [str(Path(keys["dataset"]).parent / image) for image in one["images"]]
    (tmp_path / "rows.jsonl").write_text((json.dumps(one) + "\n") * 6)
    (tmp_path / "sft.json").write_text(
        json.dumps({**keys, "output_dir": str(tmp_path / "out"), "dataset": str(tmp_path / "rows.jsonl")})
    )
    assert main(["--config", str(tmp_path / "sft.json"), "--check"]) == 1
    assert "error   held_out: 'held_out: 0.34' needs rows about at least two images" in capsys.readouterr().out
    assert main(["--config", str(tmp_path / "sft.json")]) == 1
    assert "'held_out: 0.34' needs rows about at least two images" in capsys.readouterr().err


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_two_processes_measure_the_same_loss(keys: dict[str, Any], tmp_path: Path) -> None:
    """3 of 6 rows are held out, which two processes cannot share evenly."""
    three = {**keys, "held_out": 0.5, "per_device_train_batch_size": 1, "max_steps": 2, "lora": {"r": 2, "alpha": 4}}
    (tmp_path / "sft.json").write_text(json.dumps(three))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port())]
    command += ["-m", "train.sft", "--config", str(tmp_path / "sft.json"), "--output_dir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows, _ = read_rows(keys["dataset"], load_vlm(keys["model"], device="cpu"))
    _, held_out = split_rows(rows, 0.5, keys["seed"])
    found = losses(tmp_path / "two")
    assert sorted(found) == [0, 2]
    for step, folder in ((0, Path(keys["model"])), (2, tmp_path / "two")):
        assert found[step] == pytest.approx(held_out_loss(folder, Path(keys["dataset"]), held_out), rel=1e-5)
    assert json.loads((tmp_path / "two" / "data.json").read_text())["held_out"] == 3
