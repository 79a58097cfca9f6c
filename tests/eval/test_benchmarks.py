"""Each benchmark from a data set with its published columns and its odd rows."""

import io
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from configs.errors import ConfigError, UserError
from eval.benchmarks import BENCHMARKS, hallusion_scores, prepare_benchmark
from eval.harness import EvalConfig, run_eval
from eval.runner import answer_problems
from eval.subjects import ScriptedSubject
from reward.grade import grade_answer
from vlm.images import open_image


def png(colour: str = "red") -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


BROKEN = {"bytes": b"\x89PNG and no more", "path": None}
VISTA = {
    "question": "How long?",
    "choices": None,
    "unit": None,
    "precision": None,
    "metadata": {"task": "vqa"},
    "image": "images/1.jpg",
}
MMMU = {"explanation": "", "img_type": "['Photo']", "topic_difficulty": "Easy", "subfield": "Law"}
MMMU |= {f"image_{n}": None for n in range(1, 8)}
HALLUSION = {
    "category": "VD",
    "subcategory": "chart",
    "visual_input": "1",
    "set_id": "0",
    "sample_note": "",
    "gt_answer_details": "",
}

# ruff: noqa: E501 - rows read best one a line
ROWS: dict[str, list[dict[str, Any]]] = {
    "mathvista": [
        {**VISTA, "pid": "1", "question_type": "multi_choice", "answer_type": "text", "choices": ["3 cm", "4 cm"], "answer": "4 cm", "decoded_image": png()},
        {**VISTA, "pid": "2", "question_type": "free_form", "answer_type": "float", "unit": "cm", "precision": 1.0, "answer": "1.2", "decoded_image": png()},
        {**VISTA, "pid": "3", "question_type": "free_form", "answer_type": "list", "answer": "[0, 8]", "decoded_image": png()},
        {**VISTA, "pid": "4", "question_type": "multi_choice", "answer_type": "text", "choices": ["3", "4"], "answer": "5", "decoded_image": png()},
        {**VISTA, "pid": "5", "question_type": "free_form", "answer_type": "integer", "answer": "", "decoded_image": png()},
    ],
    "mathvision": [
        {"id": "1", "question": "Which? <image1>", "options": ["A", "B", "C"], "image": "images/1.jpg", "decoded_image": png(), "answer": "B", "level": 1, "subject": "counting"},
        {"id": "2", "question": "Area?", "options": [], "image": "images/2.jpg", "decoded_image": png(), "answer": "\\frac{1}{2}", "level": 2, "subject": "area"},
        {"id": "2", "question": "Again?", "options": [], "image": "images/2.jpg", "decoded_image": png(), "answer": "1", "level": 2, "subject": "area"},
    ],
    "mmmu": [
        {**MMMU, "id": "law_1", "question": "<image 1> or <image 2>?", "options": "['yes', \"it's no\"]", "answer": "B", "question_type": "multiple-choice", "image_1": png(), "image_2": png("blue")},
        {**MMMU, "id": "law_2", "question": "Which <image 1>?", "options": "[]", "answer": "['ten', '10 cents']", "question_type": "open", "image_1": png()},
        {**MMMU, "id": "law_3", "question": "Value <image 1>?", "options": "[]", "answer": "8.5", "question_type": "open", "image_1": png()},
        {**MMMU, "id": "law_4", "question": "Missing <image 1>?", "options": "['x', '', 'z']", "answer": "B", "question_type": "multiple-choice", "image_1": png()},
        {**MMMU, "id": "law_5", "question": "Evil <image 1>?", "options": "[__import__('os').system('false')]", "answer": "A", "question_type": "multiple-choice", "image_1": png()},
        {**MMMU, "id": "law_6", "question": "Broken <image 1>?", "options": "['x', 'y']", "answer": "A", "question_type": "multiple-choice", "image_1": BROKEN},
    ],
    "mmmu_pro_10": [
        {**MMMU, "id": "v_1", "question": "<image 1>?", "options": str([f"o{n}" for n in range(10)]), "answer": "J", "subject": "Art", "image_1": png()},
    ],
    "mmmu_pro_vision": [{"id": "v_1", "image": png(), "options": "['a', 'b']", "answer": "B", "subject": "Art"}],
    "m3cot": [
        {"id": "m-1", "category": "c", "image_id": "1", "question": "Which?", "choices": ["a", "b", "c"], "context": "A map.", "answer": "C", "rationale": "", "split": "test", "image": png(), "domain": "science", "topic": "t"},
        {"id": "m-2", "category": "c", "image_id": "2", "question": "Which?", "choices": ["a", "b"], "context": "", "answer": "C", "rationale": "", "split": "test", "image": png(), "domain": "science", "topic": "t"},
    ],
    "hallusionbench": [
        {**HALLUSION, "figure_id": "0", "question_id": "0", "question": "Is it red?", "gt_answer": "1", "image": png()},
        {**HALLUSION, "figure_id": "0", "question_id": "1", "question": "Is it blue?", "gt_answer": "0", "image": png()},
        {**HALLUSION, "figure_id": "1", "question_id": "0", "question": "Is it red?", "gt_answer": "0", "image": png("blue")},
        {**HALLUSION, "figure_id": "1", "question_id": "1", "question": "Is it blue?", "gt_answer": "1", "image": png("blue")},
        {**HALLUSION, "figure_id": "2", "question_id": "1", "question": "Is it?", "gt_answer": "maybe", "image": png()},
    ],
}  # fmt: skip


def saved(name: str, folder: Path) -> str:
    """The rows as ``datasets`` keeps them."""
    rows = ROWS[name]
    kinds = {key: datasets.Image() for key in rows[0] if isinstance(rows[0][key], dict) and "bytes" in rows[0][key]}
    kinds |= {key: datasets.Image() for key in rows[0] if key.startswith("image_") and key != "image_id"}
    data = datasets.Dataset.from_list(rows)
    plain = {key: kind for key, kind in data.features.items() if key not in kinds}
    data = data.cast(datasets.Features({key: kinds.get(key, plain.get(key)) for key in data.column_names}))
    data.save_to_disk(str(folder / name))
    return str(folder / name)


def test_every_benchmark_has_a_fixture() -> None:
    assert set(BENCHMARKS) - {"mmmu_pro_4"} == set(ROWS)  # the 4-option config has the columns of the 10-option one


@pytest.mark.parametrize(
    ("name", "kept", "reasons"),
    [
        ("mathvista", 3, {"its answer '5' names none of its options": 1, "it has no answer": 1}),
        ("mathvision", 2, {"its id occurs twice": 1}),
        ("mmmu", 3, {"its answer 'B' names none of its options": 1, "its list of options cannot be read": 1}),
        ("mmmu_pro_10", 1, {}),
        ("mmmu_pro_vision", 1, {}),
        ("m3cot", 1, {"its answer 'C' names none of its options": 1}),
        ("hallusionbench", 4, {"gt_answer is 'maybe', not 0 or 1": 1}),
    ],
)
def test_rows_become_problems_and_odd_ones_are_named(
    name: str, kept: int, reasons: dict[str, int], tmp_path: Path
) -> None:
    problems, left_out = prepare_benchmark(name, tmp_path / "set", saved(name, tmp_path))
    assert len(problems) == kept and sum(left_out.values()) == len(ROWS[name]) - kept
    assert reasons.items() <= left_out.items()
    for problem in problems:
        assert all(open_image(image).size == (6, 4) for image in problem.images)
        assert grade_answer(problem, problem.answer.split("|")[0]).correct


def test_rules_of_the_rows(tmp_path: Path) -> None:
    sets = {name: prepare_benchmark(name, tmp_path / f"set-{name}", saved(name, tmp_path))[0] for name in ROWS}
    vista = sets["mathvista"]
    assert vista[1].question == "How long? (Unit: cm) Give 1 decimal place." and vista[1].domain == "number"
    assert vista[1].domain == "number"
    assert grade_answer(vista[1], "1.23 cm").correct and not grade_answer(vista[1], "1.3").correct
    assert grade_answer(vista[0], "(B)").correct
    assert grade_answer(vista[2], "[0,8]").correct
    vision = sets["mathvision"]
    assert vision[0].choices is None and vision[0].domain == "choice" and "image1" not in vision[0].question
    assert grade_answer(vision[1], "0.5").correct
    mmmu = sets["mmmu"]
    assert len(mmmu[0].images) == 2 and mmmu[0].choices == ["yes", "it's no"]
    assert grade_answer(mmmu[1], "10 cents").correct and grade_answer(mmmu[1], "Ten").correct
    assert mmmu[2].domain == "number" and sets["mmmu_pro_10"][0].choices == [f"o{n}" for n in range(10)]
    assert sets["mmmu_pro_vision"][0].choices is None and sets["m3cot"][0].question == "A map.\nWhich?"


def test_three_accuracies_by_hand(tmp_path: Path) -> None:
    """Always yes: 2 of 4 questions; no figure with both right; no question right on both figures."""
    problems, _ = prepare_benchmark("hallusionbench", tmp_path / "set", saved("hallusionbench", tmp_path))
    settings: dict[str, Any] = {"style": "direct", "tag": "main"}
    yes = answer_problems(ScriptedSubject(lambda _: "\\boxed{yes}"), problems, log_path=tmp_path / "a", **settings)
    scores = hallusion_scores(problems, yes)
    assert [scores[key]["value"] for key in ("aAcc", "fAcc", "qAcc")] == [0.5, 0, 0] and scores["fAcc"]["n"] == 2
    reds = ScriptedSubject(
        lambda t: (
            "\\boxed{yes}" if ("red" in t.question) == (t.images[0].getpixel((0, 0)) == (255, 0, 0)) else "\\boxed{no}"
        ),
        "sees",
    )
    assert {
        one["value"]
        for one in hallusion_scores(
            problems, answer_problems(reds, problems, log_path=tmp_path / "b", **settings)
        ).values()
    } == {1.0}
    mixed = [yes[0], yes[1], yes[2].model_copy(update={"status": "error"}), yes[3]]
    assert hallusion_scores(problems, mixed)["fAcc"]["n"] == 1  # the figure with an error is left out


def test_a_benchmark_runs_through_the_harness(tmp_path: Path) -> None:
    prepare_benchmark("hallusionbench", tmp_path / "set", saved("hallusionbench", tmp_path))
    subject = ScriptedSubject(lambda _: "\\boxed{yes}")
    report = run_eval(
        "m", tmp_path / "set", tmp_path / "out", config=EvalConfig(swap=0, blank=0), load=lambda _: subject
    )
    assert report["models"]["m"]["benchmark"]["aAcc"]["value"] == 0.5


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown benchmark 'mathvsita'"):
        prepare_benchmark("mathvsita", tmp_path)
    with pytest.raises(UserError, match="no column 'pid': it is not mathvista"):
        prepare_benchmark("mathvista", tmp_path / "a", saved("m3cot", tmp_path))
    with pytest.raises(UserError, match="cannot be loaded"):
        prepare_benchmark("mathvista", tmp_path / "b", str(tmp_path / "nowhere/at-all"))


def test_a_folder_of_json_lines_with_images_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "pics").mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(folder / "pics/a.png")
    datasets.Dataset.from_list(
        [{"id": "1", "image": "pics/a.png", "options": "['a','b']", "answer": "A", "subject": "x"}]
    ).to_json(folder / "test.jsonl")
    problems, _ = prepare_benchmark("mmmu_pro_vision", tmp_path / "set", str(folder))
    assert len(problems) == 1 and open_image(problems[0].images[0]).size == (6, 4)
