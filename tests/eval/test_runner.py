"""Answering and keeping answers: resume, errors apart, truncation, halves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_subjects import always_looks, colour_problems, never_looks, scripted, seen, think

from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl
from eval.runner import Answer, answer_problems, correct_by_id, read_answers
from eval.subjects import ScriptedSubject, Turn
from vlm.generate import Generation
from vlm.problem import Problem


class Counting(ScriptedSubject):
    """Counts what it is asked, and is killed in its ``kill_at``-th batch."""

    def __init__(self, kill_at: int = 0):
        super().__init__(always_looks)
        self.asked = 0
        self.batches = 0
        self.kill_at = kill_at

    def write(self, turns, **settings):  # type: ignore[no-untyped-def]
        self.batches += 1
        if self.batches == self.kill_at:
            raise KeyboardInterrupt
        self.asked += len(turns)
        return super().write(turns, **settings)


def ask(subject: ScriptedSubject, problems: list[Problem], log: Path, **settings) -> list[Answer]:  # type: ignore[no-untyped-def]
    return answer_problems(
        subject, problems, **{"style": "think", "log_path": log, "tag": "main", "batch_size": 4, **settings}
    )


def test_answers_come_in_the_order_of_the_problems_and_name_what_was_said(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    answers = ask(scripted(always_looks), problems, tmp_path / "log.jsonl")
    assert [answer.problem_id for answer in answers] == [problem.id for problem in problems]
    assert [answer.answer for answer in answers] == [problem.answer for problem in problems]
    first = answers[0]
    assert first.correct and first.score == 1 and first.looks == 1 and not first.truncated
    assert first.tokens == len(first.text.split(" ")) and first.mass is None
    assert correct_by_id(ask(scripted(never_looks), problems, tmp_path / "log.jsonl"))["p1"] == 0


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    whole = ask(Counting(), problems, tmp_path / "whole.jsonl")
    log = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(Counting(kill_at=3), problems, log)
    assert len(read_jsonl(log)) == 8
    with open(log, "a") as file:
        file.write('{"problem_id": "p1')  # a kill in the middle of a write
    second = Counting()
    assert ask(second, problems, log) == whole
    assert second.asked == 4
    assert sorted(row["problem_id"] for row in read_jsonl(log)) == sorted(problem.id for problem in problems)
    third = Counting()
    assert ask(third, problems, log) == whole and third.asked == 0


def test_a_batch_that_was_half_written_is_generated_whole_and_saved_once(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    log = tmp_path / "log.jsonl"
    whole = ask(Counting(), problems, log)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:6]))
    subject = Counting()
    assert ask(subject, problems, log) == whole
    assert subject.asked == 8  # the batch of rows 5 to 8 with its old neighbours, and the last one
    assert len(read_jsonl(log)) == 12


@pytest.mark.parametrize("change", ["question", "picture", "model", "style", "length", "tag"])
def test_a_saved_answer_is_not_reused_when_what_decided_it_changed(tmp_path: Path, change: str) -> None:
    problems = colour_problems(tmp_path, 3)
    log = tmp_path / "log.jsonl"
    ask(Counting(), problems, log)
    subject = Counting()
    settings: dict[str, Any] = {}
    if change == "question":
        problems[0].question += "?"
    elif change == "picture":
        Path(problems[0].images[0]).write_bytes((tmp_path / "blue.png").read_bytes())
    elif change == "model":
        subject.fingerprint = "another"
    else:
        changes: dict[str, dict[str, Any]] = {
            "style": {"style": "direct"},
            "length": {"max_new_tokens": 99},
            "tag": {"tag": "other"},
        }
        settings = changes[change]
    answers = ask(subject, problems, log, **settings)
    assert subject.asked == 3  # its batch
    if change == "picture":
        assert answers[0].answer == "blue" and len(read_jsonl(log)) == 4


def test_a_changed_gold_answer_is_graded_again_and_not_written_again(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 3)
    log = tmp_path / "log.jsonl"
    first = ask(scripted(always_looks), problems, log)
    assert [answer.correct for answer in first] == [True] * 3
    problems[0].answer = "green"
    subject = Counting()
    second = ask(ScriptedSubject(subject.function, "always_looks"), problems, log)
    assert [answer.correct for answer in second] == [False, True, True] and second[0].text == first[0].text
    assert second[0].graded != first[0].graded and second[1] == first[1]
    assert len(read_jsonl(log)) == 4  # the new grade is in the log, once
    assert ask(scripted(always_looks), problems, log) == second and len(read_jsonl(log)) == 4


def test_an_ungradable_text_is_kept_and_graded_when_the_gold_answer_is_fixed(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 2)
    problems[0] = problems[0].model_copy(update={"domain": "number", "answer": "no number"})
    log = tmp_path / "log.jsonl"
    answers = ask(scripted(always_looks), problems, log)
    assert answers[0].status == "error" and "gold answer cannot be read" in answers[0].why and answers[0].text
    problems[0] = problems[0].model_copy(update={"answer": "3"})
    mended = ask(scripted(always_looks), problems, log)
    assert mended[0].status == "ok" and mended[0].score == 0.0


def test_broken_images_are_counted_apart_and_tried_again(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    good = Path(problems[0].images[0]).read_bytes()
    Path(problems[0].images[0]).write_bytes(b"not a picture")
    Path(problems[5].images[0]).unlink()
    log = tmp_path / "log.jsonl"
    answers = ask(scripted(always_looks), problems, log)
    broken = [answer for answer in answers if answer.status == "error"]
    assert [answer.problem_id for answer in broken] == ["p0", "p5"]
    assert all(answer.score is None and Path(problems[0].images[0]).parent.name in answer.why for answer in broken)
    assert len(correct_by_id(answers)) == 10 and set(correct_by_id(answers).values()) == {1.0}
    assert ask(scripted(always_looks), problems, log) == answers
    assert len(read_jsonl(log)) == 12  # the same failure is not written twice
    Path(problems[0].images[0]).write_bytes(good)
    assert ask(scripted(always_looks), problems, log)[0].correct


def test_one_question_that_is_refused_costs_one_row(tmp_path: Path) -> None:
    def picky(turn: Turn) -> str:
        if "Number 3" in turn.question:
            raise UserError("The question is too long.")
        return always_looks(turn)

    answers = ask(scripted(picky), colour_problems(tmp_path), tmp_path / "log.jsonl")
    assert [answer.problem_id for answer in answers if answer.status == "error"] == ["p3"]
    assert answers[3].why == "The question is too long."


def test_an_unreadable_gold_answer_is_no_wrong_answer(tmp_path: Path) -> None:
    problem = colour_problems(tmp_path, 1)[0].model_copy(update={"domain": "count", "answer": "several"})
    (answer,) = ask(scripted(always_looks), [problem], tmp_path / "log.jsonl")
    assert answer.status == "error" and answer.score is None and "several" in answer.why


def test_a_truncated_answer_counts_only_if_boxed(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 2)

    def rambles(turn: Turn) -> str:
        boxed = "\\boxed{red} and so on and on" if "Number 0" in turn.question else "I see green"
        return f"{boxed} and on and on and on"

    answers = ask(scripted(rambles), problems, tmp_path / "log.jsonl", max_new_tokens=3)
    assert [answer.truncated for answer in answers] == [True, True]
    assert [answer.correct for answer in answers] == [True, False]
    assert answers[1].answer is None and answers[1].status == "ok"


def test_attention_is_kept_by_token_and_by_halves(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 3)

    class Attentive(ScriptedSubject):
        def write(self, turns, **settings):  # type: ignore[no-untyped-def]
            assert settings["attention"] == {"layers": "all"}
            written = []
            for turn in turns:
                length, text = [9, 4, 10][int(turn.question.split()[1].rstrip(":"))], think("red", seen(turn))
                mass = torch.arange(length, dtype=torch.float32).repeat(2, 1) / 10
                mass[1] += 0.2  # a second layer: its mean with the first is 0.1 higher
                finished = length < 10
                if not finished:
                    mass[:, -1] = torch.nan
                written.append(Generation(text, list(range(length)), finished, 5, mass, mass * 2))
            return written

    long, short, cut = ask(Attentive(always_looks), problems, tmp_path / "log.jsonl", attention={"layers": "all"})
    assert long.mass == pytest.approx([0.1 + n / 10 for n in range(9)], abs=1e-5)
    assert long.mass_halves == pytest.approx((0.25, 0.75))  # tokens 0-3 and 5-8; the middle one is in neither
    assert long.lift_halves == pytest.approx((0.5, 1.5))
    assert short.mass is not None and short.mass_halves is None
    assert cut.truncated and len(cut.mass or []) == 9 and cut.mass_halves is None
    json.dumps(cut.model_dump(), allow_nan=False)


def test_unknown_style_and_foreign_log_are_named(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 1)
    with pytest.raises(ConfigError, match="Unknown prompt style 'thnik'"):
        ask(scripted(always_looks), problems, tmp_path / "log.jsonl", style="thnik")
    (tmp_path / "log.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(UserError, match="not a log of answers"):
        read_answers(tmp_path / "log.jsonl")
