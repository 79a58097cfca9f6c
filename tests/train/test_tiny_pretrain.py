"""The recipe of the tiny models: what they are shown, what carries loss, and that every stage moves what it trains."""

import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from data_construction.sources import LEARNED, wording
from train.tiny.examples import Dialogues, Examples, PretrainExample, collate
from train.tiny.models import build_tiny_reasoner, build_tiny_vlm, build_tokenizer
from train.tiny.pretrain import (
    VLM_STEPS,
    average_gradients,
    held_precision,
    language_stage,
    main,
    pretrain_reasoner,
    pretrain_vlm,
    text_batch,
)
from vlm.load import load_text_model, load_vlm
from vlm.response import count_looks, parse_response


def drawn(n: int) -> list[PretrainExample]:
    examples = Examples(0)
    kinds = [examples.passing, examples.careful, examples.noted]
    rows = [kind(0.5) for kind in kinds for _ in range(n)]
    by_family = (examples.reasoning, examples.direct, examples.asked_again)
    return rows + [make(name, 0.5) for name in LEARNED for make in by_family for _ in range(n)]


def test_the_vlm_never_meets_a_text_that_goes_back_to_the_picture():
    answers = [text for one in drawn(20) for text in (one.answer, *(answer for _, answer in one.before))]
    assert sum(count_looks(answer) for answer in answers) == 0


def test_a_hasty_look_misnames_small_things_only():
    facts = {"A1": "orange star", "B1": "purple cross", "C1": "none", "A2": "green square"}
    assert wording.hasty(facts, [7.0, 12.0, 7.0, 7.0]) == {
        "A1": "red circle",
        "B1": "purple cross",
        "C1": "none",
        "A2": "green circle",
    }


@pytest.mark.parametrize("name", LEARNED)
def test_plain_reasoning_ends_with_the_answer_that_follows_from_it(name):
    examples = Examples(1)
    for _ in range(20):
        example = examples.derivation(name)
        assert parse_response(example.answer).boxed
        assert example.spans, "what only a picture can tell carries no loss"


def test_dialogues_go_back_once_for_every_further_round():
    dialogues, tasks = Dialogues(0), set()
    for _ in range(100):
        for row in dialogues.rows():
            task = row.question.split("\n")[0].removeprefix("Task: ")
            tasks.add(task)
            if task == "rewrite":
                assert count_looks(row.answer) == row.question.count("Asked:") - 1, row.answer
    assert tasks == {"request", "conclude", "rewrite"}


def test_loss_falls_on_the_answer_alone_and_not_on_its_spans(tiny_vlm_dir):
    processor = AutoProcessor.from_pretrained(tiny_vlm_dir)
    answer = "B2: red star. \\boxed{red star}"
    picture = Examples(0).passing(0.0).picture
    batch = collate(
        processor,
        [PretrainExample("What is at B2?", answer, picture, ((4, 12),)), PretrainExample("Hello", "yes", picture)],
    )
    tokenizer = processor.tokenizer
    labels = batch["labels"][0]
    assert tokenizer.decode(labels[labels != -100]) == "B2:.\\boxed{red star}<|im_end|>"
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [36, 36]
    assert set(batch["labels"][1].tolist()) == {-100, *tokenizer("yes")["input_ids"], tokenizer.eos_token_id}


def test_earlier_turns_are_read_and_carry_no_loss(tiny_vlm_dir):
    processor = AutoProcessor.from_pretrained(tiny_vlm_dir)
    example = PretrainExample(
        "Look again at A1: what is there?", "A1: red star", before=(("What is at A1?", "A1: red circle"),)
    )
    batch = collate(processor, [example])
    assert processor.tokenizer.decode(batch["labels"][batch["labels"] != -100]).strip() == "A1: red star<|im_end|>"
    text = processor.tokenizer.decode(batch["input_ids"][0])
    assert "<|im_start|>assistant\nA1: red circle<|im_end|>" in text and text.count("<|im_start|>user") == 2


def test_every_stage_moves_its_weights_and_a_finished_one_is_not_run_again(tmp_path):
    lines: list[str] = []
    steps = dict.fromkeys(VLM_STEPS, 1)
    last = pretrain_vlm(tmp_path, steps, lines.append)
    before = None
    for stage in ("random", *VLM_STEPS):
        weights = AutoModelForImageTextToText.from_pretrained(tmp_path / f"vlm-{stage}").state_dict()
        if before is not None:
            moved = {name for name in weights if not torch.equal(weights[name], before[name])}
            assert moved, stage
            assert stage != "vision" or all("visual" in name for name in moved)
            assert stage != "text" or not any("visual" in name for name in moved)
        before = weights
    written = (last / "model.safetensors").stat().st_mtime_ns
    assert pretrain_vlm(tmp_path, steps, lines.append) == last
    assert (last / "model.safetensors").stat().st_mtime_ns == written
    assert load_vlm(last).reads_images


def test_the_reasoner_starts_from_the_language_model_of_the_vlm(tmp_path, tiny_vlm_dir):
    start = build_tiny_reasoner(tmp_path / "reasoner", seed=1, start=tiny_vlm_dir)
    ids = torch.randint(10, 600, (2, 20))
    text, vlm = AutoModelForCausalLM.from_pretrained(start), AutoModelForImageTextToText.from_pretrained(tiny_vlm_dir)
    assert torch.equal(text(ids).logits, vlm(ids).logits)


def test_the_reasoner_trains_and_loads_as_a_text_model(tmp_path, tiny_vlm_dir):
    (tmp_path / "vlm-mixture").symlink_to(tiny_vlm_dir)
    folder = pretrain_reasoner(tmp_path, 1, lambda line: None)
    assert json.loads((folder / "seconds.json").read_text()) >= 0
    assert not load_text_model(folder).reads_images
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("reasoner-start", "reasoner")
    )
    assert not [name for name in after if torch.equal(before[name], after[name])]


def test_the_reasoner_alone_wants_a_finished_vlm(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--only", "reasoner", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "the VLM first" in capsys.readouterr().err


def test_random_weights_on_request(tmp_path, capsys):
    main(["--random", "--out", str(tmp_path)])
    assert load_vlm(tmp_path / "tiny-vlm").processor.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert "tiny-reasoner" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--half", "--only", "vlm"], ["--only", "vlm"]], ids=["half", "whole"])
def test_a_folder_keeps_one_width(tmp_path, capsys, options):
    build_tiny_vlm(tmp_path / "vlm-random", half="--half" not in options)
    with pytest.raises(SystemExit) as stop:
        main([*options, "--out", str(tmp_path)])
    assert stop.value.code == 2 and "another width" in capsys.readouterr().err


def test_the_stages_of_a_folder_are_of_one_precision(tmp_path, tiny_vlm_dir, monkeypatch, capsys):
    monkeypatch.setattr("train.precision.bfloat16_is_fast", lambda device: False)
    (tmp_path / "vlm-mixture").symlink_to(tiny_vlm_dir)
    command = ["--only", "reasoner", "--scale", "0.0001", "--processes", "1", "--out", str(tmp_path)]
    main(command)
    assert "precision: float32" in capsys.readouterr().out and held_precision(tmp_path) == "float32"
    monkeypatch.setattr("train.precision.bfloat16_is_fast", lambda device: True)
    main(command)
    assert "precision: float32" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*command, "--precision", "bfloat16"])
    assert stop.value.code == 2 and "were trained in float32" in capsys.readouterr().err
    (tmp_path / "precision.json").unlink()  # as the version before left its folders
    assert held_precision(tmp_path) == "bfloat16" and held_precision(tmp_path / "new") is None


def test_bfloat16_is_another_arithmetic(tmp_path, tiny_vlm_dir):
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm_dir)
    processor = AutoProcessor.from_pretrained(tiny_vlm_dir)
    losses = [
        next(language_stage(model, processor, text_batch(Examples(0)), 1, precision))[0].item()
        for precision in ("float32", "float32", "bfloat16")
    ]
    assert losses[0] == losses[1] != losses[2] and losses[2] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree_on_the_gradient(tmp_path, tiny_vlm_dir):
    (tmp_path / "vlm-mixture").symlink_to(tiny_vlm_dir)
    main(["--only", "reasoner", "--scale", "0.002", "--processes", "2", "--out", str(tmp_path)])
    assert not load_text_model(tmp_path / "reasoner").reads_images


def test_gradients_are_averaged_over_processes(tmp_path):
    mp.spawn(averaged, (str(tmp_path / "store"),), nprocs=2)


def averaged(process: int, store: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=process, world_size=2)
    trained, idle = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
    trained.grad = torch.full((3,), float(process))
    average_gradients([trained, idle])
    assert torch.equal(trained.grad, torch.full((3,), 0.5)) and idle.grad is None
    dist.destroy_process_group()
