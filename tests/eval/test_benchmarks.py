"""Each benchmark from a data set with its published columns and its odd rows."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from configs.errors import ConfigError, UserError
from data_construction.listed_text import read_options
from eval.benchmarks import (
    BENCHMARKS,
    BadRow,
    prepare_benchmark,
    read_hallusionbench,
    read_m3cot,
    read_mathvista,
    read_mmmu,
)
from eval.hallusion import hallusion_scores
from eval.harness import EvalConfig, evaluate, run_eval
from eval.runner import answer_problems
from eval.subjects import ScriptedSubject, Turn
from reflection_v.cli import app
from reward.grade import grade_answer
from vlm.images import open_image
from vlm.labels import option_label
from vlm.problem import Problem, read_problems


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


def test_the_first_problems_alone_and_what_the_report_says_of_them(tmp_path: Path) -> None:
    """Another limit in the same folder has a report of its own; a batch is asked only if an answer of it is missing."""
    asked: list[str] = []

    def says_yes(turn: Turn) -> str:
        asked.append(turn.question)
        return "\\boxed{yes}"

    data, folder, config = saved("hallusionbench", tmp_path), tmp_path / "set", EvalConfig(swap=0, blank=0)

    def run(limit: int | None) -> dict[str, Any]:
        prepare_benchmark("hallusionbench", folder, data, limit=limit)
        return run_eval("m", folder, tmp_path / "out", config=config, load=lambda _: ScriptedSubject(says_yes))

    for limit, rows, n, new in ((2, 2, 2, 2), (None, 5, 4, 4), (3, 3, 3, 0)):
        asked.clear()
        report = run(limit)
        account = report["problems"]["benchmark"]
        assert (report["problems"]["n"], len(asked)) == (n, new)
        assert (account["limit"], account["rows"], account["asked"], account["split"]) == (limit, rows, n, None)
        assert account["dropped"] == ({"gt_answer is 'maybe', not 0 or 1": 1} if limit is None else {})
        assert report["models"]["m"]["benchmark"]["aAcc"]["n"] == n
        assert f"{n} problems of hallusionbench" in " ".join((tmp_path / "out/report.html").read_text().split())


def test_the_first_problems_of_any_set(tmp_path: Path) -> None:
    problems, _ = prepare_benchmark("hallusionbench", tmp_path / "set", saved("hallusionbench", tmp_path))
    subject = ScriptedSubject(lambda _: "\\boxed{yes}")
    config = EvalConfig(limit=3, swap=0, blank=0)
    report = evaluate({"m": {"path": "m"}}, problems, tmp_path / "out", config, load=lambda _: subject)
    assert report["problems"]["n"] == 3 and report["evaluation"]["config"]["limit"] == 3
    with pytest.raises(ConfigError, match="'limit' is 0"):
        EvalConfig(limit=0)


def test_the_command_says_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = ScriptedSubject(lambda _: "\\boxed{yes}")
    monkeypatch.setattr("eval.harness.load_subject", lambda *_, **__: subject)
    data, out = saved("hallusionbench", tmp_path), tmp_path / "out"
    words = [
        "eval",
        "m",
        "--benchmark",
        "hallusionbench",
        "--data",
        data,
        "--out",
        str(out),
        "--swap",
        "0",
        "--blank",
        "0",
    ]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert (
        "5 rows read, 4 can be asked, 1 dropped" in done.stderr and "1 row dropped: gt_answer is 'maybe'" in done.stderr
    )
    assert json.loads(done.stdout)["problems"]["benchmark"]["rows"] == 5
    done = CliRunner().invoke(app, [*words, "--limit", "2"])
    assert "the first 2 rows of the only split (no name)" in done.stderr and "n 2" in done.stdout
    done = CliRunner().invoke(app, [*words, "--split", "test"])
    assert done.exit_code == 1 and "so leave out --split" in " ".join(done.stderr.split())
    done = CliRunner().invoke(app, ["eval", "m", "--problems", str(out / "problems"), "--data", data])
    assert done.exit_code == 2 and "--data and --split go with --benchmark" in " ".join(done.stderr.split())


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown benchmark 'mathvsita'"):
        prepare_benchmark("mathvsita", tmp_path)
    with pytest.raises(UserError, match="no column 'pid': it is not mathvista"):
        prepare_benchmark("mathvista", tmp_path / "a", saved("m3cot", tmp_path))
    with pytest.raises(UserError, match="cannot be loaded"):
        prepare_benchmark("mathvista", tmp_path / "b", str(tmp_path / "nowhere/at-all"))


OPTIONS = {
    "Python": """['a', "it's", 'c']""",
    "JSON": '["a", "it\'s", "c"]',
    "tuple": """('a', "it's", 'c')""",
    "list": ["a", "it's", "c"],
    "numpy": np.array(["a", "it's", "c"], dtype=object),
    "numpy as text": """['a' "it's" 'c']""",
    "numpy as code": """array(['a', "it's", 'c'],\n      dtype=object)""",
    "numpy on several lines": """['a'\n "it's"\n 'c']""",
    "by letter": {"A": "a", "B": "it's", "C": "c"},
    "by letter, in another order": {"C": "c", "A": "a", "B": "it's"},
    "by letter, filled up": {"A": "a", "B": "it's", "C": "c", "D": None, "E": float("nan")},
    "by letter in brackets": {"(A)": "a", "(B)": "it's", "(C)": "c"},
    "by letter as JSON": '{"A": "a", "B": "it\'s", "C": "c"}',
    "by letter as Python": """{'A': 'a', 'B': "it's", 'C': 'c'}""",
    "texts and labels": {"text": ["a", "it's", "c"], "label": ["A", "B", "C"]},
    "labels in another order": {"label": ["C", "A", "B"], "text": ["c", "a", "it's"]},
    "lettered lines": "A. a\nB. it's\nC. c",
    "lettered lines in brackets": "(A) a\n(B) it's\n\n(C) c\n",
    "spaces around": """  ['a ', " it's", ' c']\n""",
}


@pytest.mark.parametrize("form", OPTIONS)
def test_options_in_every_form(form: str) -> None:
    assert read_options(OPTIONS[form]) == ["a", "it's", "c"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("['a\nb', 'c']", ["a\nb", "c"]),
        ('["a\nb", "c"]', ["a\nb", "c"]),
        ("['a\\nb',\n 'c']", ["a\nb", "c"]),
        ("['a\r\nb',\n 'c\nd']", ["a\r\nb", "c\nd"]),
        (r"['$\\frac{1}{2}$', '$\\beta$']", [r"$\frac{1}{2}$", r"$\beta$"]),
        (r"['$\frac{1}{2}$', '$\beta$', '\alpha', '\vec{a}', '\d']", [r"$\frac{1}{2}$", r"$\beta$", r"\alpha", r"\vec{a}", r"\d"]),
        ("[1, 2.5, 3]", ["1", "2.5", "3"]),
        ("[1 2 3]", ["1", "2", "3"]),
        (np.array([1, 2]), ["1", "2"]),
        ('["a", null, ""]', ["a", "(not given)", "(not given)"]),
        (["a", None, float("nan")], ["a", "(not given)", "(not given)"]),
        ({"A": "a", "C": "c"}, ["a", "(not given)", "c"]),
        ({"yes": 1, "no": 0}, ["1", "0"]),
        ({"yes": 1, "no": 0, "NO": 2}, ["1", "0", "2"]),
        ({option_label(n): n for n in range(30)}, [str(n) for n in range(30)]),
        ("\n".join(f"{option_label(n)}. {n}" for n in range(30)), [str(n) for n in range(30)]),
        ("['a', ['b', 'c']]", ["a", "['b', 'c']"]),
        ("{'a'}", None),
        ("", None),
        ("[]", None),
        ("{}", None),
        (None, None),
        ("plain words", None),
        ("A. only one", None),
        ("A. a\nC. c", None),
        ("(A) a\nand more", None),
        (7, None),
    ],
)  # fmt: skip
def test_odd_options(value: Any, expected: list[str] | None) -> None:
    assert read_options(value) == expected


@pytest.mark.parametrize(
    "text",
    ["['a', __import__('os')]", "['a'", "[" * 15_000, "['a', 'b'] + ['c']", "[*'ab']", "['" + "a" * 30_000 + "']", "{" * 9_000, "[{[}]", "['a', b'c'", "{[]: 1}"],
)  # fmt: skip
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|too long"):
        read_options(text)


@pytest.mark.parametrize(
    ("precision", "words"),
    [(1.0, " Give 1 decimal place."), ("2", " Give 2 decimal places."), (0, " Give 0 decimal places."), (2.0, " Give 2 decimal places.")]
    + [(empty, "") for empty in (float("nan"), "NaN", "nan", "", " ", None, "none", -1, float("inf"), 1e300, "two")],
)  # fmt: skip
def test_precision_of_mathvista(precision: Any, words: str) -> None:
    row = {
        **VISTA,
        "pid": "1",
        "question_type": "free_form",
        "answer_type": "float",
        "answer": "1.2",
        "decoded_image": png(),
    }
    assert read_mathvista({**row, "precision": precision}).question == "How long?" + words
    assert read_mathvista({**row, "metadata": '{"task": "vqa"}'}).family == "vqa"
    assert read_mathvista({**row, "metadata": None, "pid": 3.0}).id == "3"
    assert read_mathvista({**row, "unit": float("nan")}).question == "How long?"
    with pytest.raises(BadRow, match="it has no answer"):
        read_mathvista({**row, "answer": float("nan")})


@pytest.mark.parametrize(
    ("answer", "gold", "domain"),
    [
        ("['ten', '10 cents']", "ten|10 cents", "text"),
        ('["ten", "10 cents"]', "ten|10 cents", "text"),
        (["Law"], "Law", "text"),
        ("[0, 8]", "[0, 8]", "text"),
        ("[2, 3)", "[2, 3)", "text"),
        ("8.5", "8.5", "number"),
        (8.5, "8.5", "number"),
    ],
)
def test_answers_of_mmmu(answer: Any, gold: str, domain: str) -> None:
    row = {
        **MMMU,
        "id": "1",
        "question": "?",
        "options": "[]",
        "answer": answer,
        "question_type": "open",
        "image_1": png(),
    }
    assert (read_mmmu(row).answer, read_mmmu(row).domain) == (gold, domain)


def test_empty_cells_are_no_text() -> None:
    row = {"id": 1.0, "question": "Which?", "choices": ["a", "b"], "answer": "A", "image": png()}
    for empty in (float("nan"), None, "", " "):
        item = read_m3cot({**row, "context": empty, "domain": empty})
        assert (item.question, item.family, item.id) == ("Which?", "", "1")


def test_a_question_about_an_image_is_not_asked_without_it() -> None:
    row = {**HALLUSION, "figure_id": "1", "question_id": "0", "question": "Is it red?", "gt_answer": "0"}
    assert read_hallusionbench({**row, "visual_input": "0"}).images == []
    assert read_hallusionbench({**row, "filename": "./VD/1.png"}).images == ["./VD/1.png"]
    with pytest.raises(BadRow, match="it has no image"):
        read_hallusionbench({**row, "image": None})


def seen_by(problem: Problem) -> list[str]:
    """The prompt of a problem: its texts, and the colours of its images where they stand."""
    images = [open_image(image) for image in problem.images]
    turn = Turn(problem.question, problem.choices, "none", images)
    shown = (COLOURS[image.getpixel((0, 0))] for image in turn.all_images)
    return [part.get("text") or next(shown) for part in turn.messages[0]["content"]]


COLOURS: dict[Any, str] = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "lime", (0, 0, 0): "black"}


@pytest.mark.parametrize(
    ("question", "options", "numbers", "prompt"),
    [
        ("Is <image 1> like <image 2>?", ["yes", "no"], (1, 2), ["Is ", "red", " like ", "blue", "?\n(A) yes\n(B) no"]),
        ("Is <image 2> like <image 1>?", ["yes", "no"], (1, 2), ["Is ", "blue", " like ", "red", "?\n(A) yes\n(B) no"]),
        ("See <image 1>.", ["<image 3>", "<image 2>"], (1, 2, 3), ["See ", "red", ".\n(A) ", "lime", "\n(B) ", "blue"]),
        ("Which?", ["<image 2>", "<image 1>", "neither"], (1, 2, 3), ["lime", "Which?\n(A) ", "blue", "\n(B) ", "red", "\n(C) neither"]),
        ("See <image 3>, <image 1>.", ["x", "y"], (1, 3), ["See ", "lime", ", ", "red", ".\n(A) x\n(B) y"]),
        ("See <image 2>, <image 3>.", ["x", "y"], (1, 3), ["red", "See (image 2, not given), ", "lime", ".\n(A) x\n(B) y"]),
        ("See <image 99>.", ["x", "y"], (1,), ["red", "See <image 99>.\n(A) x\n(B) y"]),
        ("See.", ["x", "y"], (1, 2), ["red", "blue", "See.\n(A) x\n(B) y"]),
    ],
)  # fmt: skip
def test_interleaved_images_stand_where_they_are_named(
    question: str, options: list[str], numbers: tuple[int, ...], prompt: list[str], tmp_path: Path
) -> None:
    images = {f"image_{n}": png(("red", "blue", "lime")[n - 1]) for n in numbers}
    row = {
        **MMMU,
        "id": "1",
        "question": question,
        "options": str(options),
        "answer": "A",
        "question_type": "multiple-choice",
    }
    datasets.Dataset.from_list([{**row, **images}]).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    (problem,), _ = prepare_benchmark("mmmu", tmp_path / "set", str(tmp_path))
    assert seen_by(problem) == prompt
    (read,) = read_problems(tmp_path / "set")
    assert seen_by(read) == prompt


def test_the_image_of_mathvision_stands_where_it_is_named(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "question": "If <image1> is cut, what is <image2>?",
        "options": [],
        "decoded_image": png(),
        "answer": "1",
        "subject": "x",
    }
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "test.parquet")
    (problem,), _ = prepare_benchmark("mathvision", tmp_path / "set", str(tmp_path))
    assert seen_by(problem) == ["If ", "red", " is cut, what is ?"]


def test_a_folder_of_json_lines_with_images_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "pics").mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(folder / "pics/a.png")
    datasets.Dataset.from_list(
        [{"id": "1", "image": "pics/a.png", "options": "['a','b']", "answer": "A", "subject": "x"}]
    ).to_json(folder / "test.jsonl")
    problems, _ = prepare_benchmark("mmmu_pro_vision", tmp_path / "set", str(folder))
    assert len(problems) == 1 and open_image(problems[0].images[0]).size == (6, 4)
