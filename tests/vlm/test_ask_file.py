"""A file of questions: resumed after a kill, and one bad row costs one answer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ask_options import ask_options
from PIL import Image

import vlm.ask_file
from configs.errors import UserError
from configs.jsonl import read_jsonl
from vlm.backends import ScriptedBackend
from vlm.infer import run_ask
from vlm.reasoning import EFFORTS, Effort


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.reasoning.ANSWER_TOKENS", 4)
    monkeypatch.setitem(EFFORTS, "low", Effort(8))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / name)
    rows: list[Any] = [
        {"id": "one", "image": "a.png", "question": "How many?"},
        {"id": "two", "images": ["a.png", "b.png"], "question": "Same?", "choices": ["yes", "no"]},
        {"question": "No picture: what is 1 + 1?"},
        {"id": "missing", "image": "none.png", "question": "What?"},
        {"id": "wrong", "image": "a.png", "question": 3},
        {"id": "names", "images": "a.png", "question": "x"},
        {"id": "url", "image": "http://127.0.0.1:1/x.png", "question": "x"},
        {"id": "stdin", "image": "-", "question": "x"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "q.jsonl"


def options(questions: Path, *more: str) -> SimpleNamespace:
    return ask_options("--batch", str(questions), "--effort", "low", *more)


def test_rows_are_answered_in_order_and_bad_ones_say_why(questions: Path, tiny_vlm_dir: Path) -> None:
    assert run_ask(options(questions, "--model", str(tiny_vlm_dir))) == 1
    rows = read_jsonl(questions.with_suffix(".answers.jsonl"))
    assert [row["id"] for row in rows] == ["one", "two", 2, "missing", "wrong", "names", "url", "stdin"]
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["error"] * 5
    assert all(row["text"] and row["tokens"] for row in rows[:3])
    for row, why in zip(
        rows[3:], ["does not exist", "'question'", "'images'", "is a URL", "standard input"], strict=True
    ):
        assert why in row["why"]


def test_it_goes_on_where_it_was_killed(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm.ask_file, "RESPONSES_AT_ONCE", 1)
    asked: list[str] = []

    def load(*_: Any) -> ScriptedBackend:
        def reply(request: Any) -> str:
            if len(asked) == 1:
                raise KeyboardInterrupt
            asked.append(str(request.messages))
            return "\\boxed{2}"

        return ScriptedBackend(reply)

    monkeypatch.setattr(vlm.ask_file, "load_for_asking", load)
    with pytest.raises(KeyboardInterrupt):
        run_ask(options(questions))
    out = questions.with_suffix(".answers.jsonl")
    assert [row["id"] for row in read_jsonl(out)] == ["one"]
    with out.open("a") as file:
        file.write('{"id": "two", "key": "torn')
    asked.append("past the kill")
    assert run_ask(options(questions)) == 1
    assert [row["id"] for row in read_jsonl(out) if row["status"] == "ok"] == ["one", "two", 2]
    assert len(asked) == 4
    assert run_ask(options(questions)) == 1  # only the failed ones are tried again
    assert len(asked) == 4
    run_ask(options(questions, "--votes", "2"))  # another setting is another question
    assert len(asked) == 4 + 6


def test_a_finished_file_loads_no_model(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions.write_text('{"question": "1 + 1?"}\n')
    monkeypatch.setattr(vlm.ask_file, "load_for_asking", lambda *_: ScriptedBackend(["\\boxed{2}"]))
    assert run_ask(options(questions)) == 0
    monkeypatch.setattr(vlm.ask_file, "load_for_asking", lambda *_: pytest.fail("loaded"))
    assert run_ask(options(questions)) == 0


def test_mistakes(questions: Path, tmp_path: Path) -> None:
    for more, why in [
        (["--out", str(questions)], "itself"),
        (["--out", str(tmp_path / "no" / "x.jsonl")], "no folder"),
        (["--heatmap", "x.png"], "leave the rest out"),
    ]:
        with pytest.raises(UserError, match=why):
            run_ask(options(questions, *more))
    with pytest.raises(UserError, match="does not exist"):
        run_ask(options(tmp_path / "none.jsonl"))
    questions.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1"):
        run_ask(options(questions))
