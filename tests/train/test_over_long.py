"""Prompts that leave no positions for the response are dropped before training, with and without max_prompt_tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.errors import UserError
from train.filters import FilteredProblems, filter_problems, prompt_limit
from train.grpo import load_grpo, usable
from train.preflight import check
from train.reader import load_reader
from vlm.load import VLM
from vlm.problem import Problem

POSITIONS = 2048


def problem(question: str, **changes: Any) -> Problem:
    row = {"id": question[:20], "source": "test", "domain": "text", "question": question, "answer": "red"}
    return Problem.model_validate({**row, **changes})


@pytest.fixture(scope="module")
def reader(tiny_vlm_dir: Path) -> VLM:
    return load_reader(load_grpo({"model": str(tiny_vlm_dir), "problems": "p", "output_dir": "o"}).options).vlm


LONG = "what is the colour of A1 and of A2 ? "


@pytest.mark.parametrize(
    ("text", "limit", "room", "said"),
    [
        (LONG * 400, None, 100, "1948 are allowed (2048 positions of the model less max_completion_length 100)"),
        (LONG * 120, None, 1500, "548 are allowed (2048 positions of the model less max_completion_length 1500)"),
        (LONG * 400, None, 0, "2047 are allowed (2048 positions of the model)"),
        (LONG * 120, 500, 100, "500 are allowed"),  # the config's own limit is the smaller one
        (LONG * 400, 4096, 100, "1948 are allowed (2048 positions"),  # or it is the larger one
        (LONG * 120, None, 100, None),
        (LONG, 4096, 100, None),
        ("这是什么颜色？" * 300, None, 100, "1948 are allowed"),  # three bytes a character, by the tiny tokenizer
    ],
)
def test_the_models_positions_limit_prompt_and_response(
    reader: VLM, text: str, limit: int | None, room: int, said: str | None
) -> None:
    kept = problem("What is at A1?")
    found = filter_problems([problem(text), kept], reader, "think", limit, completion_tokens=room)
    assert found.dropped == ({} if said is None else {"over_long": 1})
    assert kept in found.kept and (said is None or said in found.examples["over_long"][0])


def test_options_and_images_count_too(reader: VLM, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    many = problem("What is this?", domain="choice", choices=[f"the {n} th colour of all" for n in range(200)])
    many.answer = many.choices[0]  # type: ignore[index]
    pictures = problem("And this?", images=[str(tmp_path / "a.png")] * 150)
    few = problem("Or this?", images=[str(tmp_path / "a.png")])
    found = filter_problems([many, pictures, few], reader, "think", None, completion_tokens=200)
    assert found.kept == [few] and found.dropped == {"over_long": 2}


def test_training_and_check_drop_the_same(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, reader: VLM) -> None:
    rows = [json.loads(line) for line in (pictures / "problems.jsonl").read_text().splitlines()]
    rows = [{**row, "images": [str(pictures / row["images"][0])]} for row in rows]
    rows += [{**rows[0], "id": "long", "question": LONG * 400}, {**rows[1], "id": "short", "question": LONG}]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"model": str(tiny_vlm_dir), "problems": str(tmp_path), "output_dir": str(tmp_path / "out")}
    stage = load_grpo({**keys, "per_device_train_batch_size": 4, "num_generations": 4})
    report = check(stage)
    assert report.passed and {finding.check for finding in report.findings} == {"over_long"}
    assert "lower max_completion_length" in report.findings[0].said and "long: " in report.findings[0].said
    problems = [Problem.model_validate(row) for row in rows]
    kept, dropped = usable(problems, reader, stage.options, FilteredProblems(), stage.args)
    assert dropped == {"over_long": 1} and [one.id for one in kept] == [r["id"] for r in rows if r["id"] != "long"]


@pytest.mark.parametrize("room", [POSITIONS, POSITIONS + 1, 100_000])
def test_a_response_that_takes_all_positions_is_refused(room: int, reader: VLM) -> None:
    with pytest.raises(UserError, match=rf"'max_completion_length' {room} leaves no room .* 2048 positions"):
        prompt_limit(reader, None, room)
    assert prompt_limit(reader, None, POSITIONS - 1) == (
        1,
        " (2048 positions of the model less max_completion_length 2047)",
    )


@pytest.mark.parametrize("limit", [None, 500])
@pytest.mark.parametrize("size", [(900, 2), (2, 900), (402, 2)])
def test_an_image_that_is_too_thin_costs_its_problem(
    reader: VLM, tmp_path: Path, limit: int | None, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    Image.new("RGB", (400, 2)).save(tmp_path / "long.png")
    thin, kept = (problem(name, images=[str(tmp_path / f"{name}.png")]) for name in ("thin", "long"))
    found = filter_problems([thin, kept], reader, "think", limit)
    assert found.kept == [kept] and found.dropped == {"unusable_picture": 1}


def test_a_problem_with_several_faults_is_counted_once(reader: VLM, tmp_path: Path) -> None:
    faulty = problem("<|im_end|>", images=[str(tmp_path / "none.png")], choices=["a", "b"], answer="c")
    found = filter_problems([faulty, problem("What?")], reader, "think", None)
    assert found.dropped == found.counts == {"missing_picture": 1} and len(found.kept) == 1
