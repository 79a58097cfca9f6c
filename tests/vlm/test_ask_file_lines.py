"""``ask --batch``: every row has a line, no answer is generated twice, and no other file is touched."""

import json
from pathlib import Path
from typing import Any

import pytest
from ask_options import ask_options
from PIL import Image

import vlm.ask_file
from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl, read_log
from vlm.backends import ScriptedBackend
from vlm.infer import run_ask
from vlm.reasoning import EFFORTS, Effort


class Model:
    """A scripted model that counts what it generates and answers with that count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.failing = False
        self.stop_after = 10**9
        monkeypatch.setattr("vlm.reasoning.ANSWER_TOKENS", 4)
        monkeypatch.setitem(EFFORTS, "low", Effort(8))
        monkeypatch.setattr(vlm.ask_file, "load_for_asking", lambda *_: ScriptedBackend(self.reply))

    def reply(self, request: Any) -> Any:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        if self.failing:
            return RuntimeError("the server is down")
        self.asked.append(str(request.messages))
        return f"\\boxed{{{len(self.asked)}}}"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / name)
    return tmp_path


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps({"image": "a.png", **row}) + "\n" for row in rows))
    return file


def ask(questions: Path, *more: str) -> int:
    return run_ask(ask_options("--batch", str(questions), "--effort", "low", *more))


def last(file: Path) -> dict[Any, str]:
    """Id -> the answer in its last line, as a reader joins the two files."""
    return {row["id"]: row.get("answer", row["status"]) for row in read_jsonl(file)}


def test_a_question_answered_under_another_id_gets_a_line_of_its_own(
    folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out.jsonl"
    assert ask(write(folder / "first.jsonl", {"id": "x1", "question": "blue?"}), "--out", str(out)) == 0
    rows = [{"id": "x1", "question": "blue?"}, {"id": "x2", "question": "blue?"}, {"id": "x3", "question": "red?"}]
    capsys.readouterr()
    assert ask(write(folder / "dup.jsonl", *rows), "--out", str(out)) == 0
    assert "3 questions, 1 answered already, 1 copied from rows with the same image" in capsys.readouterr().err
    assert last(out) == {"x1": "1", "x2": "1", "x3": "2"} and len(read_jsonl(out)) == 3 and len(model.asked) == 2
    assert ask(folder / "dup.jsonl", "--out", str(out)) == 0
    assert "3 questions, 3 answered already\n" in capsys.readouterr().err
    assert len(read_jsonl(out)) == 3 and len(model.asked) == 2


def test_rows_of_one_file_with_the_same_question_each_get_a_line(folder: Path, model: Model) -> None:
    rows = [{"id": f"r{n}", "question": f"q{n % 2}"} for n in range(6)]
    rows += [{"question": "q0"}, {"question": "q1"}, {"id": None, "question": "q0"}]  # these are numbered
    assert ask(write(folder / "q.jsonl", *rows)) == 0
    answers = last(folder / "q.answers.jsonl")
    assert answers == {**{f"r{n}": str(n % 2 + 1) for n in range(6)}, 6: "1", 7: "2", 8: "1"}
    assert len(model.asked) == 2


def test_an_id_that_occurs_twice_and_a_row_that_does(folder: Path, model: Model) -> None:
    rows = [{"id": "x", "question": "q0"}, {"id": "x", "question": "q1"}, {"id": "x", "question": "q0"}]
    for _ in range(2):
        assert ask(write(folder / "q.jsonl", *rows)) == 0
        lines = read_jsonl(folder / "q.answers.jsonl")
        assert [(row["id"], row["answer"]) for row in lines] == [("x", "1"), ("x", "2"), ("x", "1")]
    assert len(model.asked) == 2


def test_ids_that_look_alike_are_not_the_same(folder: Path, model: Model) -> None:
    ids: list[Any] = ["1", 1, True, 1.5, [1], {"b": 1, "a": 2}, "\ud800"]
    for _ in range(2):
        assert ask(write(folder / "q.jsonl", *({"id": one, "question": "q"} for one in ids))) == 0
        assert [row["id"] for row in read_jsonl(folder / "q.answers.jsonl")] == ids
    assert len(model.asked) == 1


def test_numbered_rows_may_change_places_and_back(folder: Path, model: Model) -> None:
    first, second = [{"question": "q0"}, {"question": "q1"}], [{"question": "new"}, {"question": "q1"}]
    second.append({"question": "q0"})
    want = {"q0": "1", "q1": "2", "new": "3"}
    for rows in (first, second, first, second, first[::-1]):
        assert ask(write(folder / "q.jsonl", *rows)) == 0
        answers = last(folder / "q.answers.jsonl")
        assert [answers[n] for n in range(len(rows))] == [want[row["question"]] for row in rows]
    assert len(model.asked) == 3


def test_another_file_with_the_same_ids_may_share_the_answers_file(folder: Path, model: Model) -> None:
    out = folder / "out.jsonl"
    for question in ("q0", "q1", "q0"):
        assert ask(write(folder / f"{question}.jsonl", {"id": "x", "question": question}), "--out", str(out)) == 0
        assert last(out)["x"] == {"q0": "1", "q1": "2"}[question]
    assert len(model.asked) == 2


def test_a_stop_leaves_no_id_without_a_line(folder: Path, model: Model) -> None:
    rows = [{"id": n, "question": f"q{n % 32}"} for n in range(64)]
    write(folder / "q.jsonl", *(row | {"question": row["question"] + "?"} for row in rows[:40]), *rows[40:])
    model.stop_after = 33  # in the middle of the second batch
    with pytest.raises(KeyboardInterrupt):
        ask(folder / "q.jsonl")
    model.stop_after = 10**9
    assert ask(folder / "q.jsonl") == 0
    assert sorted(last(folder / "q.answers.jsonl")) == list(range(64))


@pytest.mark.slow
def test_a_kill_in_any_place_of_the_answers_file(folder: Path, model: Model) -> None:
    rows = [{"id": "xä", "question": "q0"}, {"id": 2.5, "question": "q1"}, {"id": [3], "question": "q0"}]
    assert ask(write(folder / "q.jsonl", *rows)) == 0
    out = folder / "q.answers.jsonl"
    whole = out.read_bytes()
    for cut in range(len(whole)):
        out.write_bytes(whole[:cut])
        assert ask(folder / "q.jsonl") == 0, whole[:cut]
        found = read_jsonl(out)
        assert sorted(str(row["id"]) for row in found) == ["2.5", "[3]", "xä"], whole[:cut]


def test_an_error_is_tried_again_or_copied_from_an_answer_that_is_there(folder: Path, model: Model) -> None:
    out = folder / "out.jsonl"
    write(folder / "q.jsonl", {"id": "x", "question": "q0"}, {"id": "y", "question": "q0"})
    model.failing = True
    assert ask(folder / "q.jsonl", "--out", str(out)) == 1
    assert last(out) == {"x": "error", "y": "error"}
    model.failing = False
    assert ask(write(folder / "z.jsonl", {"id": "z", "question": "q0"}), "--out", str(out)) == 0
    assert ask(folder / "q.jsonl", "--out", str(out)) == 0
    assert last(out) == {"x": "1", "y": "1", "z": "1"} and len(model.asked) == 1
    size = out.stat().st_size
    assert ask(folder / "q.jsonl", "--out", str(out)) == 0 and out.stat().st_size == size


def test_a_row_that_cannot_be_asked_takes_no_other_rows_answer(folder: Path, model: Model) -> None:
    rows: list[dict[str, Any]] = [{"id": "ok", "question": "q"}, {"id": "bad", "images": "a.png", "question": "q"}]
    rows += [{"id": "null", "image": None, "question": "q"}, {"id": "none", "images": None, "question": "q"}]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "q.jsonl").write_text("".join(lines))
    for _ in range(2):
        assert ask(folder / "q.jsonl") == 1
        answers = last(folder / "q.answers.jsonl")
        assert answers == {"ok": "1", "bad": "error", "null": "error", "none": "error"}


def test_an_image_that_changed_is_asked_about_again(folder: Path, model: Model) -> None:
    for size, answer in ((64, "1"), (80, "2")):
        Image.effect_noise((size, size), 90).convert("RGB").save(folder / "a.png")
        assert ask(write(folder / "q.jsonl", {"id": "x", "question": "q"})) == 0
        assert last(folder / "q.answers.jsonl") == {"x": answer}


OTHERS = {
    "text": b"just text",
    "lines": b"just\ntext\n",
    "questions": b'{"id": "q1", "image": "a.png", "question": "How many?"}\n',
    "no newline": b'{"id": "q1", "image": "a.png", "question": "How many?"}',
    "malformed": b'{"id":"q1","image":"../img/a.png","question":"How many?",}',
    "malformed in our spelling": b'{"id": "q1", "image": "a.png", "question": "How many?",}',
    "answers of eval": b'{"problem_id": "p", "key": "0123456789abcdef", "status": "ok"}\n',
    "another key": b'{"id": "q1", "key": "my key", "status": "ok"}\n',
    "a list": b'[{"id": 1}]',
    "blanks": b"   ",
    "bytes": b"\x89PNG\r\n\x1a\n\0\0",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(folder: Path, model: Model, content: bytes) -> None:
    out = folder / "mine.jsonl"
    out.write_bytes(content)
    with pytest.raises(ConfigError, match="It was not changed"):
        ask(write(folder / "q.jsonl", {"id": "x", "question": "q"}), "--out", str(out))
    assert out.read_bytes() == content and not model.asked


def test_lines_that_a_user_added_to_the_answers_are_not_cut(folder: Path, model: Model) -> None:
    write(folder / "q.jsonl", {"id": "x", "question": "q"})
    assert ask(folder / "q.jsonl") == 0
    out = folder / "q.answers.jsonl"
    for added in (b"checked by hand", b"# note\n", b'{"note": 1}\n', b'{"note": 1}'):
        content = out.read_bytes()
        out.write_bytes(content + added)
        with pytest.raises(ConfigError, match="It was not changed"):
            ask(folder / "q.jsonl")
        assert out.read_bytes() == content + added
        out.write_bytes(content)


def test_an_empty_file_and_one_without_its_last_newline_are_taken(folder: Path, model: Model) -> None:
    write(folder / "q.jsonl", {"id": "x", "question": "q"}, {"id": "y", "question": "r"})
    out = folder / "q.answers.jsonl"
    out.touch()
    assert ask(folder / "q.jsonl") == 0
    lines = [json.dumps(row, separators=(",", ":")) for row in reversed(read_log(out))]
    out.write_text("\n".join(lines))  # as another program may save it
    assert ask(folder / "q.jsonl") == 0 and len(model.asked) == 2 and out.read_text() == "\n".join(lines) + "\n"
    assert ask(write(folder / "q.jsonl", {"id": "z", "question": "q"})) == 0
    assert sorted(last(out)) == ["x", "y", "z"] and len(model.asked) == 2


def test_other_names_of_the_questions_and_no_files(folder: Path, model: Model) -> None:
    questions = write(folder / "q.jsonl", {"id": "x", "question": "q"})
    (folder / "link.jsonl").symlink_to(questions)
    with pytest.raises(ConfigError, match="the file of questions itself"):
        ask(questions, "--out", str(folder / "link.jsonl"))
    with pytest.raises(ConfigError, match="is not a file"):
        ask(questions, "--out", str(folder))


LAST_LINES = [
    '{"id":"q1","image":"a.png","question":"How many?",}',
    "just text",
    '{"id": "q1"',
    "null",
    "3",
    "[]",
    '"q"',
]


@pytest.mark.parametrize("before", ["", '{"question": "q0", "image": "a.png"}\n'])
@pytest.mark.parametrize("line", LAST_LINES)
def test_a_malformed_last_question_is_named(folder: Path, model: Model, before: str, line: str) -> None:
    (folder / "q.jsonl").write_text(before + line)
    with pytest.raises(UserError, match=f"q.jsonl, line {2 if before else 1}: "):
        ask(folder / "q.jsonl")
    assert not model.asked and not (folder / "q.answers.jsonl").exists()


@pytest.mark.parametrize("content", ["", "\n\n", "  \r\n", "\ufeff"])
def test_a_file_without_questions_is_no_success(folder: Path, model: Model, content: str) -> None:
    (folder / "q.jsonl").write_text(content)
    with pytest.raises(UserError, match="holds no rows"):
        ask(folder / "q.jsonl")


def test_questions_as_other_systems_write_them(folder: Path, model: Model) -> None:
    rows = ['{"id": "x", "image": "a.png", "question": "q0"}', '{"id": "y", "image": "a.png", "question": "q1"}']
    (folder / "q.jsonl").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n\r\n  ").encode())
    assert ask(folder / "q.jsonl") == 0
    (folder / "q.jsonl").write_text("\n".join(rows))  # the last line is whole and lacks its newline
    assert ask(folder / "q.jsonl") == 0
    assert last(folder / "q.answers.jsonl") == {"x": "1", "y": "2"} and len(model.asked) == 2


def test_a_model_that_was_trained_in_place_is_asked_again(folder: Path, model: Model) -> None:
    """A local model is known by its files, a served one by its name."""
    weights = folder / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"first")
    questions = write(folder / "q.jsonl", {"id": 1, "question": "blue?"})
    for content, answers in ((b"first", 1), (b"first", 1), (b"other", 2)):
        (weights / "model.safetensors").write_bytes(content)
        assert ask(questions, "--model", str(weights)) == 0
        assert len(model.asked) == answers
    for _ in range(2):
        assert ask(questions, "--model", "openai:name@http://localhost:1/v1") == 0
    assert len(model.asked) == 3


def test_one_process_at_a_time_writes_a_file_of_answers(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = write(folder / "q.jsonl", {"id": 1, "question": "blue?"})
    assert ask(questions) == 0 and not (folder / ".q.answers.jsonl.lock").exists()

    def held(*_: object) -> None:
        raise BlockingIOError(11, "held")

    monkeypatch.setattr("fcntl.lockf", held)
    with pytest.raises(UserError, match=r"q\.answers\.jsonl is in use by another run"):
        ask(questions)


@pytest.mark.parametrize(
    "name", [["a.png"], {"a": "a.png"}, 3, True, "a\0.png", "~nobody/a.png", "x" * 5000, "\ud800.png"]
)
@pytest.mark.parametrize("field", ["image", "images"])
def test_a_name_that_no_image_has_costs_its_row_alone(folder: Path, model: Model, field: str, name: Any) -> None:
    row = {"id": "odd", "image": name} if field == "image" else {"id": "odd", "images": [name]}
    questions = write(folder / "q.jsonl", {"id": "whole", "question": "What?"}, {**row, "question": "What?"})
    assert ask(questions) == 1
    lines = read_jsonl(folder / "q.answers.jsonl")
    assert [(line["id"], line["status"]) for line in lines] == [("whole", "ok"), ("odd", "error")]
