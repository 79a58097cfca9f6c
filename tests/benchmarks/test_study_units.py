"""A study of one seed and one step, for real: start, training, audit, crosses, tables; given again, it does nothing."""

import json
from pathlib import Path

import pytest

from benchmarks.study.report import main
from benchmarks.study.run import load_study, run_study
from data_construction.records import Round, Trace
from data_construction.sources import write_set
from reward.statements import corrected_spans
from vlm.problem import Problem, read_problems

pytestmark = pytest.mark.slow

GRPO = {
    "rewards": {"accuracy": 1.0}, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 24,
    "max_steps": 1, "temperature": 1.0, "save_strategy": "no", "learning_rate": 1e-4, "prompt_selection": None,
}  # fmt: skip
SFT = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_strategy": "no"}


def looking_again(problem: Problem, right: bool) -> Trace:
    """A trace that is right after its re-look, and before it as said."""
    first, answers = problem.answer if right else "none", [problem.answer if right else "none", problem.answer]
    said = [f"what is there: {first}.", f"what is there: {problem.answer}."]
    text = f"{said[0]} Wait, let me look at the picture again. {said[1]}"
    rounds = [
        Round(request="r", reply=one, conclusion=one, answer=answer, verdict=answer == problem.answer)
        for one, answer in zip(said, answers, strict=True)
    ]
    return Trace(
        id=problem.id, problem_id=problem.id, rounds=rounds, trace=text, corrected=corrected_spans(text), status="kept"
    )


def test_a_study_of_one_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, split in (("train", "train"), ("rl", "train"), ("heldout", "heldout")):
        (run / "problems").mkdir(parents=True, exist_ok=True)
        write_set("scenes", 8, 0, split, run / "problems" / name, family_names=["place"], counterfactual=True)
    (run / "build").mkdir()
    train = read_problems(run / "problems" / "train")
    rows = [looking_again(problem, number % 2 == 0).model_dump_json() for number, problem in enumerate(train)]
    (run / "build" / "traces.jsonl").write_text("".join(row + "\n" for row in rows))
    for name, keys in (("grpo", GRPO), ("sft", SFT), ("build", {"quality": {"near_duplicate": 1.0, "min_words": 2}})):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(keys))
    (tmp_path / "study.yaml").write_text(
        json.dumps(
            {
                "run": str(run),
                "out": str(tmp_path / "out"),
                "start": {
                    "build": "build.yaml",
                    "sft": "sft.yaml",
                    "mix": {"hollow_share": 0.5},
                    "prompts": {"samples": 2, "min_right": 0, "max_right": 2, "at_least": 4},
                },
                "audit": {
                    "max_new_tokens": 24, "main": 8, "controls": 4, "hint": 0, "swap": 4, "cutoff": 4, "samples": 0,
                    "forward": 4, "shown": 0,
                },
                "cross": 4,
                "arms": {
                    "start": {"train": False, "seeds": 1},
                    "accuracy": {"seeds": 1, "rewards": {"accuracy": 1.0}},
                    "ratio": {"seeds": 1, "rewards": {"accuracy": 1.0, "attention_ratio": {"weight": 1.0, "std": 0.1}}},
                },
                "contrasts": [{"first": "ratio", "second": "accuracy", "figure": "swap.difference"}],
            }
        )
    )  # fmt: skip
    config = load_study(tmp_path / "study.yaml")
    result = run_study(config)
    assert result["units"] == 3
    start = json.loads((tmp_path / "out" / "start" / "start.json").read_text())
    assert start["rows"]["hollow_rows"] == 2
    unit = json.loads((tmp_path / "out" / "ratio" / "seed-0" / "unit.json").read_text())
    wanted = {"accuracy", "blank.accuracy", "accuracy_by_domain.text", "length_mean", "grpo.entropy_last"}
    assert wanted <= set(unit["figures"]) and set(unit["curves"]) == {"attention", "cutoff", "vdm"}
    crosses = json.loads((tmp_path / "out" / "ratio" / "seed-0" / "crosses.json").read_text())
    assert set(crosses) == {"to_accuracy", "to_start"}
    assert run_study(config) == result
    assert main([str(tmp_path / "out"), "--write", str(tmp_path / "docs")]) == 0
