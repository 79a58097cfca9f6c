"""The whole evaluation: scripted models with known figures, and a random tiny model through the real path."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_subjects import always_looks, colour_problems, never_looks, scripted, seen, think

from configs.errors import UserError
from configs.jsonl import read_jsonl
from eval.figures import balanced_subset
from eval.harness import EvalConfig, EvalSet, evaluate, run_eval
from eval.subjects import ScriptedSubject, Turn
from vlm.problem import write_problems


def describes_well(turn: Turn) -> str:
    """Right when it may describe first; answers red at once."""
    return f"I see {seen(turn)}, so \\boxed{{{seen(turn)}}}" if turn.style == "describe" else "\\boxed{red}"


SUBJECTS = {"b": describes_well, "s": never_looks, "r": always_looks}
MODELS: dict[str, dict[str, Any]] = {
    "base": {"path": "b", "styles": ["direct", "describe"]},
    "sft": {"path": "s", "style": "think"},
    "rl": {"path": "r"},
}


def load(path: str) -> ScriptedSubject:
    return scripted(SUBJECTS[path])


def test_report_of_three_models_by_hand(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    sets = {
        "noise": EvalSet("shift", problems[:6]),
        "direct": EvalSet("skill", problems[:6], "direct"),
        "facts": EvalSet("first_look", problems[:3], "direct"),
    }
    report = evaluate(MODELS, problems, tmp_path / "out", sets=sets, load=load)
    json.dumps(report, allow_nan=False)
    base, sft, rl = (report["models"][name] for name in ("base", "sft", "rl"))

    assert base["style"] == "describe" and base["accuracy"] == base["accuracy_by_style"]["describe"]
    assert base["accuracy_by_style"]["direct"]["value"] == pytest.approx(1 / 3)
    assert (base["accuracy"]["value"], sft["accuracy"]["value"], rl["accuracy"]["value"]) == pytest.approx(
        (1, 1 / 3, 1)
    )
    assert sft["accuracy"]["n"] == 12 and sft["accuracy"]["ci95"] == pytest.approx([0.138, 0.609], abs=1e-3)
    assert sft["accuracy_by_family"]["even"]["n"] == 6 and sft["accuracy_by_domain"]["text"]["n"] == 12

    paired = report["paired"]["sft-base"]
    assert list(report["paired"]) == ["sft-base", "rl-base", "rl-sft"]
    assert paired["value"] == pytest.approx(-2 / 3) and paired["models"] == ["sft", "base"]
    assert paired["only_second"] == 8 and paired["mcnemar_p"] == pytest.approx(2 / 2**8)
    assert report["paired"]["rl-base"]["value"] == 0

    assert rl["blank_accuracy"]["value"] == 0 and rl["blank_drop"]["value"] == 1
    assert sft["blank_drop"]["value"] == 0  # it never looked
    assert rl["swap"]["difference"]["value"] == 1 and rl["swap_update_rate"]["value"] == 1
    assert rl["looks_mean"]["value"] == 1 and base["looks_mean"]["value"] == 0
    assert (
        rl["attention"]["coverage"] is None and rl["attention"]["ratio"]["value"] is None
    )  # a script has no attention: insufficient data, not 0

    assert rl["shift_accuracy"]["noise"] == {**rl["shift_accuracy"]["noise"], "value": 1.0, "n": 6}
    assert base["skill_accuracy"]["direct"]["value"] == pytest.approx(1 / 3)
    assert base["first_look_error"]["facts"]["value"] == pytest.approx(2 / 3)
    assert base["first_look_error"]["facts"]["by_family"]["odd"]["value"] == 1  # p1 alone, which is green
    assert report["paired_sets"]["direct"]["rl-base"]["value"] == pytest.approx(2 / 3)
    assert report["majority_class"]["value"] == pytest.approx(1 / 3)
    assert report["problems"] == {"n": 12, "families": {"even": 6, "odd": 6}}
    assert len(json.loads((tmp_path / "out/samples.json").read_text())) == 12


def test_a_second_evaluation_generates_nothing_and_says_the_same(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    first = evaluate(MODELS, problems, tmp_path / "out", load=load)

    class Silent(ScriptedSubject):
        def write(self, turns, **settings):  # type: ignore[no-untyped-def]
            raise AssertionError("everything was answered already")

    second = evaluate(
        MODELS, problems, tmp_path / "out", load=lambda path: Silent(SUBJECTS[path], SUBJECTS[path].__name__)
    )
    for report in (first, second):
        del report["evaluation"]
    assert first == second


def test_broken_images_lower_n_and_not_the_accuracy(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    for problem in problems[:3]:
        Path(problem.images[0]).write_bytes(b"\x89PNG but no more")
    report = evaluate({"rl": MODELS["rl"]}, problems, tmp_path / "out", load=load)
    rl = report["models"]["rl"]
    assert rl["accuracy"]["value"] == 1 and rl["accuracy"]["n"] == 9
    assert rl["errors"]["n"] == 3 and all("cannot be read" in why for why in rl["errors"]["why"])
    assert rl["blank_accuracy"]["n"] == 9 and rl["swap"]["n"] == 9


def test_nothing_answered_is_an_error_with_its_reason(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 2)
    for problem in problems:
        Path(problem.images[0]).unlink()
    with pytest.raises(UserError, match=r"none of the 2 problems could be answered: .*p0\.png"):
        evaluate({"rl": MODELS["rl"]}, problems, tmp_path / "out", load=load)
    with pytest.raises(UserError, match="problem set is empty"):
        evaluate(MODELS, [], tmp_path / "out", load=load)


def test_sizes_of_measures_are_respected_and_zero_leaves_one_out(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    config = EvalConfig(main=8, blank=4, swap=0, per_set=2, samples=3)
    sets = {"noise": EvalSet("shift", problems)}
    report = evaluate({"rl": MODELS["rl"]}, problems, tmp_path / "out", config, sets, load=load)
    rl = report["models"]["rl"]
    assert rl["accuracy"]["n"] == 8 and rl["blank_accuracy"]["n"] == 4 and "swap" not in rl
    assert rl["shift_accuracy"]["noise"]["n"] == 2 and report["problems"]["families"] == {"even": 4, "odd": 4}
    assert len(json.loads((tmp_path / "out/samples.json").read_text())) == 3


def test_spread_takes_families_in_turn_and_smaller_is_a_subset(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    ids = [problem.id for problem in balanced_subset(problems, 6, seed=1)]
    assert len({id_ for id_ in ids if int(id_[1:]) % 2}) == 3
    assert ids[:4] == [problem.id for problem in balanced_subset(problems, 4, seed=1)]
    assert ids != [problem.id for problem in balanced_subset(problems, 6, seed=2)]
    assert balanced_subset(problems, None) == problems


def test_samples_show_failures_too(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    report = evaluate(MODELS, problems, tmp_path / "out", EvalConfig(samples=2), load=load)
    assert report["models"]["sft"]["accuracy"]["value"] < 1
    samples = json.loads((tmp_path / "out/samples.json").read_text())
    assert {sample["responses"]["sft"]["right"] for sample in samples} == {True, False}
    assert samples[0]["responses"]["rl"]["text"] == think(samples[0]["answer"], samples[0]["answer"])


def test_run_eval_of_a_random_model_through_the_real_path(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    """At chance, but every measure is taken: pixels, chat template, generation, attention, page."""
    problems = colour_problems(tmp_path, 6)
    for problem in problems:
        Image.open(problem.images[0]).resize((64, 48)).save(problem.images[0])
    write_problems(problems, tmp_path / "set")
    out = tmp_path / "out"
    config = EvalConfig(max_new_tokens=12, batch_size=4, samples=2)
    report = run_eval(str(tiny_vlm_dir), tmp_path / "set", out, config=config)
    model = report["models"][tiny_vlm_dir.name]
    assert model["accuracy"]["n"] == 6 and model["errors"]["n"] == 0
    rows = read_jsonl(out / "answers" / f"{tiny_vlm_dir.name}.main-think.jsonl")
    assert len(rows) == 6
    for row in rows:
        assert len(row["mass"]) == row["tokens"] - row["truncated"] and all(0 <= mass <= 1 for mass in row["mass"])
        assert all(lift >= 0 for lift in row["lift"])
    assert json.loads((out / "report.json").read_text())["models"].keys() == report["models"].keys()
    assert tiny_vlm_dir.name in (out / "report.html").read_text()
    before = (out / "answers" / f"{tiny_vlm_dir.name}.main-think.jsonl").read_bytes()
    run_eval(str(tiny_vlm_dir), tmp_path / "set", out, config=config)
    assert (out / "answers" / f"{tiny_vlm_dir.name}.main-think.jsonl").read_bytes() == before


def test_run_eval_names_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_eval("r", tmp_path, tmp_path / "file" / "out", load=load)


def test_a_tenth_of_the_images_broken(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 1000)
    for problem in problems[::10]:
        Path(problem.images[0]).write_bytes(b"no picture")
    config = EvalConfig(swap=0, blank=0, samples=0)
    report = evaluate({"rl": MODELS["rl"]}, problems, tmp_path / "out", config, load=load)["models"]["rl"]
    assert report["accuracy"]["n"] == 900 and report["accuracy"]["value"] == 1
    rows = read_jsonl(tmp_path / "out/answers/rl.main-think.jsonl")
    named = {row["problem_id"] for row in rows if row["status"] == "error" and f"{row['problem_id']}.png" in row["why"]}
    assert named == {problem.id for problem in problems[::10]} and report["errors"]["n"] == 100
