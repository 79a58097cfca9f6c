"""The cold start on a tiny random model: what is learned, what is not, and that a kill changes nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from configs.errors import UserError
from train.checkpoints import last_checkpoint
from train.data import IGNORED, Collator, read_rows
from train.sft import main, run_sft
from vlm.chat import encode, end_of_turn
from vlm.generate import generate
from vlm.images import open_image
from vlm.load import VLM, load_vlm
from vlm.model_card import what_it_reads

pytestmark = pytest.mark.seam


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir, device="cpu")


@pytest.fixture(scope="module")
def config(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, Any]:
    return {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "dataset": str(pictures / "rows.jsonl"),
        "per_device_train_batch_size": 2,
    }


@pytest.fixture(scope="module")
def finished(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps: more than one epoch of 6 rows, 2 a step."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sft") / "run"
    run_sft(config, {"output_dir": str(folder), "max_steps": 4})
    return folder


def test_prompts_are_those_of_inference(vlm: VLM, pictures: Path) -> None:
    rows, _ = read_rows(pictures / "rows.jsonl", vlm)
    collate = Collator(rows, vlm)
    batch = collate([{"index": index} for index in range(len(rows))])
    images = [[open_image(image) for image in row.images] for row in rows]
    prompts = encode(vlm, [row.prompt for row in rows], images)
    assert torch.equal(batch["pixel_values"], prompts["pixel_values"])
    for index, row in enumerate(rows):
        ids, _ = collate.completion(row)
        whole = batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()
        prompt = prompts["input_ids"][index][prompts["attention_mask"][index].bool()].tolist()
        assert whole == prompt + ids
        alone = collate([{"index": index}])
        assert alone["input_ids"][0].tolist() == whole  # a batch is its singles


def test_the_loss_is_on_the_response_and_not_on_what_it_takes_back(vlm: VLM, pictures: Path) -> None:
    rows, _ = read_rows(pictures / "rows.jsonl", vlm)
    batch = Collator(rows, vlm)([{"index": index} for index in range(len(rows))])
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        learned = labels != IGNORED
        assert torch.equal(labels[learned], ids[learned])
        text = vlm.tokenizer.decode(ids[learned][:-1])
        for start, end in row.masked:
            wrong = row.completion[start:end]
            assert wrong in row.completion and wrong not in text
        expected = row.completion
        for start, end in reversed(row.masked):
            expected = expected[:start] + expected[end:]
        assert "".join(text.split()) == "".join(expected.split())
        assert ids[-1] == labels[-1] == vlm.model.generation_config.eos_token_id


def test_a_blank_beside_a_masked_span_does_not_hide_the_next_word(vlm: VLM, pictures: Path) -> None:
    rows, _ = read_rows(pictures / "rows.jsonl", vlm)
    row = rows[1]
    start, end = row.masked[0]
    collate = Collator(rows, vlm)
    exact = collate.completion(row)[1]
    row.masked = [(start - 1, end + 1)]
    assert collate.completion(row)[1] == exact


def test_the_end_of_turn_is_the_templates(vlm: VLM) -> None:
    assert end_of_turn(vlm) == vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    stops = vlm.model.generation_config.eos_token_id
    eos = vlm.tokenizer.eos_token
    try:
        vlm.model.generation_config.eos_token_id = vlm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        vlm.tokenizer.eos_token = "<|endoftext|>"
        with pytest.raises(UserError, match="would not stop"):
            end_of_turn(vlm)
    finally:
        vlm.model.generation_config.eos_token_id, vlm.tokenizer.eos_token = stops, eos


def test_every_trainable_tensor_moves(tiny_vlm_dir: Path, finished: Path, runs: Any) -> None:
    assert runs.unmoved(tiny_vlm_dir, finished / "checkpoint-2") == []
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["loss_last"] < summary["loss_first"]


def test_frozen_parts_stay(tiny_vlm_dir: Path, config: dict[str, Any], tmp_path: Path, runs: Any) -> None:
    run_sft(config, {"output_dir": str(tmp_path), "max_steps": 1, "freeze_vision": True, "freeze_merger": True})
    stayed = runs.unmoved(tiny_vlm_dir, tmp_path)
    assert stayed == sorted(name for name in runs.weights(tiny_vlm_dir) if "visual" in name)


def test_a_trained_model_keeps_what_its_start_model_reads(
    tiny_vlm_dir: Path, finished: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    assert what_it_reads(finished) is None and not (finished / "README.md").exists()
    start = shutil.copytree(tiny_vlm_dir, tmp_path / "start")
    (start / "README.md").write_text("---\nreads: rows of digits\n---\n# A model\n")
    for given, out in ((start, tmp_path / "sft"), (tmp_path / "sft", tmp_path / "more")):
        run_sft(config, {"model": str(given), "output_dir": str(out), "max_steps": 1})
        assert what_it_reads(out) == "rows of digits"


def test_the_result_is_a_standard_folder(finished: Path, tiny_vlm_dir: Path, pictures: Path) -> None:
    trained = load_vlm(finished, device="cpu")
    rows, _ = read_rows(pictures / "rows.jsonl", trained)
    out = generate(trained, [rows[0].prompt], [[open_image(rows[0].images[0])]], max_new_tokens=2)
    assert out[0].prompt_tokens > 0
    for name in ("processor_config.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_vlm_dir / name).exists():
            assert (finished / name).exists()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    finished: Path, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    runs.kill_after(folder, 1)
    again = json.loads((folder / "settings.json").read_text())["settings"] | {"output_dir": str(folder)}
    run_sft(again)
    assert "resuming from step 1" in capsys.readouterr().out
    assert runs.column(folder) == runs.column(finished)
    assert runs.column(folder, "step") == [1, 2, 3, 4]
    ours, theirs = runs.weights(folder), runs.weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_kill_after_the_last_checkpoint_only_publishes_it(finished: Path, tmp_path: Path, runs: Any) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    for name in ("summary.json", "model.safetensors", "processor_config.json"):
        (folder / name).unlink()
    again = json.loads((folder / "settings.json").read_text())["settings"] | {"output_dir": str(folder)}
    summary = run_sft(again)
    assert summary["steps"] == 4 and runs.column(folder, "step") == [1, 2, 3, 4]
    assert runs.unmoved(folder, finished) == sorted(runs.weights(finished))
    assert not (folder / "optimizer.pt").exists()
    load_vlm(folder, device="cpu")


def test_a_finished_run_is_not_run_again(finished: Path, config: dict[str, Any], tmp_path: Path) -> None:
    before = (finished / "log.jsonl").read_bytes()
    summary = run_sft(config, {"output_dir": str(finished), "max_steps": 4})
    assert summary == json.loads((finished / "summary.json").read_text())
    assert (finished / "log.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="other settings \\(max_steps\\)"):
        run_sft(config, {"output_dir": str(finished), "max_steps": 5})


def test_only_so_many_checkpoints_are_kept(config: dict[str, Any], tmp_path: Path) -> None:
    run_sft(config, {"output_dir": str(tmp_path), "max_steps": 3, "save_total_limit": 1})
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.parametrize("last", ['{"prompt": [], "completion": "x",}', '{"prompt"', "null"])
def test_a_malformed_last_row_is_named_not_skipped(pictures: Path, tmp_path: Path, vlm: VLM, last: str) -> None:
    whole = (pictures / "rows.jsonl").read_text().strip()
    (tmp_path / "rows.jsonl").write_text(f"{whole}\n{last}")
    with pytest.raises(UserError, match=r"rows.jsonl, line 7: "):
        read_rows(tmp_path / "rows.jsonl", vlm)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        read_rows(tmp_path / "rows.jsonl", vlm)


def test_torn_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (2, 10, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "begun").write_text("{}")
    (tmp_path / "checkpoint-40").mkdir()
    (tmp_path / "checkpoint-40" / ".begun.x1y2").touch()  # a kill in the middle of the first mark
    assert last_checkpoint(tmp_path, remove_torn=False) is None
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-10", 10)
    assert not (tmp_path / "checkpoint-30").exists() and not (tmp_path / "checkpoint-40").exists()


BAD_PARTS: list[Any] = [
    None,
    "What?",
    {},
    {"type": "text"},
    {"type": "text", "text": None},
    {"text": "What?"},
    {"type": "video"},
]
BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("unreadable_picture", {"images": ["absent.png"]}),
    ("unreadable_picture", {"images": ["broken.png"]}),
    ("image_count", {"images": []}),
    ("image_count", {"images": ["0.png", "1.png"]}),
    ("over_long", {"completion": "x " * 3000}),
    ("malformed", {"completion": ""}),
    ("malformed", {"completion": "so \ud800"}),
    ("malformed", {"prompt": "What?"}),
    ("malformed", {"prompt": [{"role": "user", "content": "\ud800"}], "images": []}),
    *(("malformed", {"prompt": [{"role": "user", "content": [{"type": "image"}, part]}]}) for part in BAD_PARTS),
    ("malformed", {"prompt": [{"role": ["user"], "content": [{"type": "image"}]}]}),
    ("malformed", {"prompt": [{"role": None, "content": [{"type": "image"}]}]}),
    ("unusable_picture", {"images": ["long.png"]}),
    ("malformed", {"masked": [[0, 9999]]}),
    ("malformed", {"masked": [["a", "b"]]}),
    ("control_token", {"completion": "so <|im_end|> it is"}),
    ("control_token", {"completion": "<|image_pad|>", "masked": []}),
]


def test_rows_that_would_fail_are_dropped_and_counted(vlm: VLM, pictures: Path, tmp_path: Path) -> None:
    good = json.loads((pictures / "rows.jsonl").read_text().splitlines()[1])
    shutil.copy(pictures / "0.png", tmp_path / "0.png")
    shutil.copy(pictures / "1.png", tmp_path / "1.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("RGB", (900, 2)).save(tmp_path / "long.png")  # Qwen-VL reads at most 200 to 1
    rows = [{**good, **change} for _, change in BAD_ROWS] + [good]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, dropped = read_rows(tmp_path / "rows.jsonl", vlm)
    assert len(kept) == 1 and kept[0].completion == good["completion"]
    expected: dict[str, int] = {}
    for reason, _ in BAD_ROWS:
        expected[reason] = expected.get(reason, 0) + 1
    assert dropped.counts == expected
    assert any(line.startswith("row 2, unreadable_picture: ") and "broken.png" in line for line in dropped.examples)
    _, dropped = read_rows(pictures / "rows.jsonl", vlm, max_row_tokens=70)
    assert 0 < dropped.counts["over_long"] < 6
    with pytest.raises(UserError, match=r"no row to train on.*over_long"):
        read_rows(pictures / "rows.jsonl", vlm, max_row_tokens=10)


def test_mistakes_end_in_a_sentence(tiny_vlm_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(f"model: {tiny_vlm_dir}\ndataset: {tmp_path / 'absent.jsonl'}\noutput_dir: {tmp_path / 'out'}\n")
    assert main(["--config", str(file)]) == 1
    assert "absent.jsonl does not exist" in capsys.readouterr().err
    assert main(["--config", str(file), "--learnin_rate", "1"]) == 2
    assert "did you mean 'learning_rate'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["--config", str(file), "--output_dir", str(tmp_path / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_is_said_and_loses_nothing(
    config: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    from train.sft import ColdStartTrainer

    save = ColdStartTrainer._save

    def full(self: Any, output_dir: str, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == 3:
            Path(output_dir).mkdir(exist_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, output_dir, *args, **kwargs)

    monkeypatch.setattr(ColdStartTrainer, "_save", full)
    settings = {"output_dir": str(tmp_path), "max_steps": 4}
    with pytest.raises(UserError, match="is full: free some space, then give the same command again"):
        run_sft(config, settings)
    assert runs.column(tmp_path, "step") == [1, 2, 3]
    monkeypatch.setattr(ColdStartTrainer, "_save", save)
    run_sft(config, settings)
    assert runs.column(tmp_path) == runs.column(finished)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_kill_9_and_the_same_command_again(
    stage: str, config: dict[str, Any], pictures: Path, tmp_path: Path, runs: Any
) -> None:
    keys = {**config, "max_steps": 6}
    if stage == "grpo":
        del keys["dataset"]
        more = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 12}
        keys |= {**more, "problems": str(pictures), "prompt_selection": None}
    file = tmp_path / "config.json"  # JSON is YAML
    file.write_text(json.dumps(keys))
    root = Path(__file__).parents[2]

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, f"train/{stage}.py", "--config", str(file), "--output_dir", str(folder)]
        return subprocess.Popen(
            command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(300) == 0
    process = start(killed)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "summary.json").exists()
    assert start(killed).wait(300) == 0
    assert runs.column(killed, "step") == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "entropy"):
        assert runs.column(killed, key) == pytest.approx(runs.column(whole, key), rel=1e-6)
    assert runs.unmoved(whole, killed) == sorted(runs.weights(whole))
