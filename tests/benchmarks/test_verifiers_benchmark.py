"""benchmarks/verifiers.py: rows, counts and peers; benchmarks/regrade.py: saved answers graded again."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import regrade, verifiers
from configs.errors import UserError
from configs.jsonl import append_jsonl, read_jsonl
from eval.runner import Answer
from reward.judge import Judge
from vlm.backends import ScriptedBackend
from vlm.problem import Problem, read_problems, write_problems
from vlm.protocol import Request


def test_the_table_has_no_row_twice_and_only_known_domains() -> None:
    rows = [row for file in ("table", "frozen") for row in read_jsonl(verifiers.ANSWERS / f"{file}.jsonl")]
    assert len({row["id"] for row in rows}) == len(rows) == 1775
    about_verifiers = verifiers.read_rows("all")
    assert len(about_verifiers) == 1743
    assert {row["domain"] for row in rows} - {row["domain"] for row in about_verifiers} == {
        "format",
        "admission",
        "repetition",
    }
    assert all(isinstance(row["correct"], bool) and ("answer" in row) != ("response" in row) for row in about_verifiers)


def test_false_positives_negatives_and_unjudged_rows_are_apart() -> None:
    rows = [
        {"correct": correct, "domain": domain}
        for correct, domain in ((True, "a"), (True, "a"), (False, "b"), (False, "b"))
    ]
    verdicts = [True, None, True, False]
    total = verifiers.counts(rows, verdicts)
    assert total == {"agreement": 0.5, "false_positives": 1, "false_negatives": 0, "unjudged": 1, "n": 4}
    by_domain = verifiers.counts_by("domain", rows, verdicts)
    assert by_domain["a"]["unjudged"] == 1 and by_domain["b"]["false_positives"] == 1


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        ({"domain": "number", "gold": "12", "answer": "12.0"}, True),
        ({"domain": "number", "gold": "12", "answer": "13"}, False),
        ({"domain": "number", "gold": "no number", "answer": "13"}, None),
        ({"domain": "number", "gold": "12", "response": "It is 12", "finished": False}, False),
        ({"domain": "choice", "gold": "B", "choices": ["cat", "dog"], "answer": "dog"}, True),
    ],
)
def test_a_row_is_graded_as_the_project_grades(row: dict[str, object], passed: bool | None) -> None:
    assert verifiers.passes(row) is passed


@pytest.mark.parametrize(
    ("peer", "gold", "answer", "passed"),
    [
        ("math_verify", "1/2", "0.5", True),
        ("math_verify", "1/2", "0.6", False),
        ("trl_accuracy_reward", "12", "12", True),
        ("trl_accuracy_reward", "12", "13", False),
        ("lmms_eval_exact_match", "Red star", "red star.", True),
        ("lmms_eval_exact_match", "red star", "red", False),
        ("lmms_eval_relaxed_match", "100", "104", True),
        ("lmms_eval_relaxed_match", "100", "106", False),
    ],
)
def test_peers_give_verdicts(peer: str, gold: str, answer: str, passed: bool) -> None:
    assert verifiers.PEERS[peer][1](gold, answer) is passed


def saved(problem: Problem, folder: Path, **changes: object) -> None:
    """Append an answer to a log as an evaluation writes it."""
    row = {
        "problem_id": problem.id, "key": "k", "tag": "main", "style": "think", "domain": problem.domain, "family": "f",
        "text": f"<think> x </think> \\boxed{{{problem.answer}}}", "answer": problem.answer, "score": 1.0, **changes,
    }  # fmt: skip
    append_jsonl(folder / "answers" / "main.jsonl", [Answer.model_validate(row).model_dump()])


def test_saved_answers_are_graded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem(
        id="p", source="s", domain="count", images=["a.png"], question="How many?", answer="3",
        meta={"counterfactual": {"image": "b.png", "answer": "4"}},
    )  # fmt: skip
    write_problems([problem], tmp_path / "set")
    (tmp_path / "run" / "answers").mkdir(parents=True)
    saved(problem, tmp_path / "run", key="same")
    saved(problem, tmp_path / "run", key="changed", score=0.0)
    saved(problem, tmp_path / "run", key="of the other image", tag="swap: other picture", text="\\boxed{4}", answer="4")
    saved(problem.model_copy(update={"id": "q"}), tmp_path / "run", key="unknown problem")
    arguments = [str(tmp_path / "run"), "--problems", str(tmp_path / "set"), "--json"]
    assert regrade.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["answers"] == 3 and figures["of_other_problems"] == 1
    assert figures["changed"] == 1 and figures["by_change"] == {"count: 0.0 to 1.0": 1}
    assert read_problems(tmp_path / "set")  # nothing was written
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="There is no log of answers below"):
        regrade.main(arguments)


def test_a_judge_has_figures_of_its_own(tmp_path: Path) -> None:
    def say(request: Request) -> str:
        prompt = request.messages[0]["content"][0]["text"]
        if "two plus two" in prompt:
            return "CORRECT"
        if "unsure" in prompt:
            return "CANNOT TELL"
        if "swap" in prompt:
            return "CORRECT" if prompt.index("Reference answer:") < prompt.index("Student's answer:") else "INCORRECT"
        return "CORRECT" if '"yes"' in prompt else "INCORRECT"

    rows = [
        {"id": str(number), "domain": "text", "gold": "star", "answer": answer, "correct": correct}
        for number, (answer, correct) in enumerate(
            [("yes", True), ("yes", False), ("no", True), ("no", False), ("unsure", True), ("swap", False)]
        )
    ]
    rows.append({"id": "c", "domain": "choice", "gold": "B", "choices": ["a", "b"], "answer": "B", "correct": True})
    judge = Judge(ScriptedBackend(say), tmp_path)
    found = verifiers.judge_figures(judge, rows)
    assert found["n"] == 7 and found["false_positives"] == 1 and found["false_negatives"] == 2
    assert found["unjudged"] == 2 and found["agreement"] == round(2 / 7, 4)
    assert found["cannot_tell"] == found["order"] == round(1 / 7, 4) and found["unreadable"] == 0.0
    assert "A) a; B) b" in verifiers.judge_case(rows[-1]).question and not verifiers.judge_case(rows[0]).question
