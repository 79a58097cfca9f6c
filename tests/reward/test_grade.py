"""One list of responses, graded through every caller: the same grade. And nothing else reads or verifies answers."""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.jsonl import read_jsonl
from data_construction.difficulty import DifficultyConfig, measure
from data_construction.reading import read_conclusion
from eval.runner import answer_problems
from eval.subjects import ScriptedSubject
from reward.grade import Gold, Grade, grade, grade_answer
from reward.rewards import REWARDS, Rollout
from reward.sampling import sample_and_grade
from train.config import PromptSelection
from train.improve import judge_sample
from train.selection import sample_pass_rates
from train.tiny import model_card
from vlm.backends import Reply, ScriptedBackend
from vlm.generate import Generation
from vlm.problem import Problem

COUNT, OPTIONS = Gold("count", "3"), Gold("choice", "cat", ["cat", "dog"])
HANGS = r"\int \sqrt{\sin(x^5+1)} e^{\cos(x^3)} dx"
CASES: list[tuple[Gold, str, bool, float | None]] = [
    (COUNT, "So the count is\n3", True, 1.0),
    (COUNT, "So the count is\n3", False, 0.0),  # 3 may be the beginning of 35
    (COUNT, "The answer is 3.", True, 1.0),
    (COUNT, "The answer is 3", False, 0.0),
    (COUNT, "<think> I see: 3", False, 0.0),
    (COUNT, "<think> I see \\boxed{3} and then", False, 1.0),
    (COUNT, "<think> I see </think> \\boxed{3} because", False, 1.0),
    (COUNT, "<think> I see </think> So 3", False, 0.0),
    (COUNT, "<think> I see </think> \\boxed{3", False, 0.0),
    (COUNT, "<think> I see </think> \\boxed{3}", True, 1.0),
    (COUNT, "\\boxed{2}, or rather \\boxed{3}", True, 1.0),
    (COUNT, "\\boxed{3}, or rather \\boxed{2}", True, 0.0),
    (COUNT, "<think> I see </think> <answer>3</answer>", True, 1.0),
    (COUNT, "<think> I see </think> <answer>3</answer> and", False, 0.0),
    (COUNT, "", True, 0.0),
    (COUNT, " \n ", False, 0.0),
    (COUNT, "<think> I see 3 </think>", True, 0.0),
    (OPTIONS, "<think> fur </think> \\boxed{A}", True, 1.0),
    (OPTIONS, "<think> fur </think> \\boxed{the cat}", True, 1.0),
    (OPTIONS, "<think> fur </think> \\boxed{B}", True, 0.0),
    (OPTIONS, "It must be\nA", False, 0.0),
    (Gold("logic", "A = knight, B = knave"), "\\boxed{A = knight, B = knight}", True, 0.5),
    (Gold("expression", "x+1"), f"\\boxed{{{HANGS}}}", True, None),
    (Gold("number", "a lot"), "\\boxed{3}", True, None),
]
PROBLEMS = [
    Problem(id=f"p{i}", source="t", domain=gold.domain, question=f"q{i}", answer=gold.answer, choices=gold.choices)
    for i, (gold, *_) in enumerate(CASES)
]
SCORES = [score for *_, score in CASES]
WRITTEN = [Generation(text, [1, 2, 3], finished, 10) for _, text, finished, _ in CASES]


def write(vlm: Any, conversations: Any, images: Any, **_: Any) -> list[Generation]:
    """Stands in for ``vlm.generate.generate``: knows a problem by its question."""
    asked = [" ".join(part.get("text", "") for part in turns[-1]["content"]).split()[0] for turns in conversations]
    return [WRITTEN[int(question.removeprefix("q"))] for question in asked]


def by_reward(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    rows = [Rollout(text, *gold[:3], finished=finished) for gold, text, finished, _ in CASES]
    return [REWARDS["accuracy"](row).value for row in rows]


def by_selection(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    patch.setattr("reward.sampling.generate", write)
    selection = PromptSelection(samples=1, batch_size=5, min_right=0, max_right=1)
    sample_pass_rates(
        SimpleNamespace(name="m"),  # type: ignore[arg-type]
        PROBLEMS,
        selection,
        style="think",
        temperature=1.0,
        max_new_tokens=8,
        seed=0,
        folder=tmp_path,
    )
    rows = {row["id"]: row["samples"] for row in read_jsonl(tmp_path / "pass_rates.jsonl")}
    return [rows[problem.id][0]["right"] for problem in PROBLEMS]


def by_improve(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    patch.setattr("reward.sampling.generate", write)
    limits = {"style": "think", "max_new_tokens": 8, "batch_size": 7, "seed_name": "0"}
    batches = sample_and_grade(SimpleNamespace(), PROBLEMS, 1, **limits)  # type: ignore[arg-type]
    return [judge_sample(sample, 0.0, 0)["right"] for _, samples in batches for sample in samples]


def by_difficulty(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    rates = {}
    for number, problem in enumerate(PROBLEMS):  # one at a time: the script knows which one is asked
        one = WRITTEN[number]
        backend = ScriptedBackend(lambda _, one=one: Reply(one.text, "stop" if one.finished else "length"))
        config = DifficultyConfig(weak="a", strong="b", samples=1)
        limits = {"seed": 0, "concurrency": 1, "batch_size": 1, "stop_after": 1}
        rates |= measure(
            [problem.id], {problem.id: problem}, config, tmp_path, lambda *_, backend=backend, **__: backend, **limits
        )
    return [rates[problem.id]["weak"] for problem in PROBLEMS]


def by_eval(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    class Written(ScriptedSubject):
        def write(self, turns: Any, **_: Any) -> list[Generation]:
            return [WRITTEN[int(turn.question.removeprefix("q"))] for turn in turns]

    subject = Written(str)
    rows = answer_problems(subject, PROBLEMS, style="think", log_path=tmp_path / "log.jsonl", tag="t")
    assert all((row.status == "error") == (row.score is None) for row in rows)
    return [row.score for row in rows]


def by_model_card(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Any]:
    rows = [(problem.model_copy(update={"meta": {"family": problem.id}}), {}) for problem in PROBLEMS]
    patch.setattr(model_card, "problems", lambda *_, **__: iter(rows))
    patch.setattr("reward.sampling.generate", write)
    found = model_card.accuracy_by_family(SimpleNamespace(), "think", [], 1)  # type: ignore[arg-type]
    return [found[problem.id] for problem in PROBLEMS]


@pytest.mark.parametrize(
    "caller", [by_reward, by_selection, by_improve, by_difficulty, by_eval, by_model_card], ids=lambda one: one.__name__
)
def test_every_caller_gives_the_same_grade(
    caller: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = caller(tmp_path, monkeypatch)
    if caller in (by_reward, by_eval):
        assert given == SCORES
    else:  # these ask only whether it is correct; None or False where nobody can say
        assert [one in (True, 1.0) for one in given] == [score == 1.0 for score in SCORES]
    if caller is by_selection:
        assert [one is None for one in given] == [score is None for score in SCORES]


def test_a_grade_says_what_was_read_and_why() -> None:
    whole = grade(COUNT, "<think> x </think> \\boxed{3}", True)
    assert whole == Grade(1.0, {"off_by": 0.0}, "right", "3") and whole.correct and whole.right
    cut = grade(COUNT, "So the count is\n3", False)
    assert (cut.score, cut.answer, cut.reason, cut.correct) == (0.0, None, "no answer", False)
    late = grade_answer(Gold("expression", "x+1"), HANGS)
    assert (late.score, late.answer, late.reason, late.correct) == (None, HANGS, "timeout", False)


def test_the_agent_loop_reads_the_answer_that_is_graded() -> None:
    read = 0
    for gold, text, finished, _ in CASES:
        _, answer, fault = read_conclusion(text, "stop" if finished else "length")
        if not fault:
            read += 1
            assert answer == grade(gold, text, finished).answer
    assert read > 3


def test_a_users_reward_finds_the_grade_by_its_earlier_name() -> None:
    row = Rollout("\\boxed{3}", "count", "3")
    assert row.verdict is row.grade and row.verdict.right and row.verdict.score == 1.0


# Imports

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "vlm", "data_construction", "eval", "train", "demo", "reflection_v", "benchmarks")
OF_THE_VERIFIERS_THEMSELVES = {"benchmarks/rewards.py", "benchmarks/verifiers.py"}
VERIFYING = {
    f"reward.{name}"
    for name in (
        "aliases",
        "parsing",
        "cues",
        "quantity",
        "options",
        "yes_no",
        "structures",
        "expression",
        "units",
        "verifiers",
        "notation",
        "phrases",
        "tables",
    )
}


def modules_imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reads_answers(tree: ast.AST) -> bool:
    """Whether a file asks ``parse_response`` for its answer at once."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "answer"
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "parse_response"
        for node in ast.walk(tree)
    )


def test_only_reward_reads_and_verifies_answers() -> None:
    guilty = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name, tree = str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))
            below = modules_imported(tree) & VERIFYING
            if below and name not in OF_THE_VERIFIERS_THEMSELVES:
                guilty.append(f"{name} imports {', '.join(sorted(below))}")
            if reads_answers(tree) and package != "vlm":
                guilty.append(f"{name} reads an answer")
    assert not guilty, guilty
