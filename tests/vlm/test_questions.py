"""Question after question: the same answers as asked one by one, and how it ends."""

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ask_options import ask_options
from PIL import Image

from configs.errors import ConfigError
from reflection_v.cli import app
from vlm import asking, infer, questions
from vlm.backends import BackendError, ScriptedBackend
from vlm.infer import main
from vlm.load import VLM, load_vlm
from vlm.questions import LINE_LIMIT, PROMPT, answer_each, read_questions
from vlm.reasoning import EFFORTS, Effort

QUESTIONS = ["How many?", "Where is the star?", "Which colour, é or ü?"]
Capture = pytest.CaptureFixture[str]


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets standard input to the given bytes, as from a pipe or as typed at a terminal."""

    def give(data: bytes, kind: type[io.TextIOWrapper] = io.TextIOWrapper) -> None:
        monkeypatch.setattr("sys.stdin", kind(io.BytesIO(data), encoding="utf-8"))

    return give


@pytest.fixture(scope="module")
def vlm_() -> VLM:
    return load_vlm("tiny")  # trained: what it answers depends on the question


@pytest.fixture
def arguments(tmp_path: Path, vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a command on an image with a model that is loaded already, and that writes little."""
    monkeypatch.setitem(EFFORTS, "medium", Effort(24))
    monkeypatch.setattr(questions, "load_for_asking", lambda *_: vlm_)
    Image.effect_noise((90, 70), 90).convert("RGB").save(tmp_path / "photo.png")
    return ["--image", str(tmp_path / "photo.png"), "--temperature", "0.5", "--seed", "5"]


@pytest.mark.parametrize("extra", [[], ["--votes", "2"]], ids=["one", "votes"])
def test_the_answers_are_those_of_single_questions(
    arguments: list[str], extra: list[str], typed: Callable[..., None], capsys: Capture
) -> None:
    arguments += extra
    singles = []
    for question in QUESTIONS:
        assert main([*arguments, "--question", question]) == 0
        singles.append(capsys.readouterr().out)
    assert len(set(singles)) > 1  # which of them differ depends on the processor's rounding
    typed("\n".join(QUESTIONS).encode())
    assert main([*arguments, "--chat"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "".join(single + "\n" for single in singles) and printed.err == ""


def test_json_lines_and_the_heat_map_of_the_last_question(
    arguments: list[str], typed: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    heatmap = tmp_path / "look.png"
    arguments += ["--json", "--heatmap", str(heatmap)]
    singles, maps = [], []
    for question in QUESTIONS:
        assert main([*arguments, "--question", question]) == 0
        singles.append(json.loads(capsys.readouterr().out) | {"seconds": 0})
        maps.append(heatmap.read_bytes())
    assert len(set(maps)) > 1
    typed(f"{QUESTIONS[0]}\n\n{'x' * 30_000}\n{QUESTIONS[2]}\n".encode())
    assert main([*arguments, "--chat"]) == 1  # one question was not answered
    printed = capsys.readouterr()
    first, refused, last = (json.loads(line) for line in printed.out.splitlines())
    assert [first | {"seconds": 0}, last | {"seconds": 0}] == [singles[0], singles[2]]
    assert refused["status"] == "error" and "30,000 characters" in refused["why"]
    assert printed.err.count("\n") == 1 and refused["why"] in printed.err
    assert heatmap.read_bytes() == maps[2]


def test_a_terminal_is_prompted_and_an_empty_line_ends(
    arguments: list[str], typed: Callable[..., None], capsys: Capture
) -> None:
    for data in (b"How many?\n\nnever asked\n", b"How many?\n"):  # an empty line, or Ctrl-D
        typed(data, Terminal)
        assert main(arguments) == 0
        printed = capsys.readouterr()
        shown = printed.out + printed.err
        assert shown.count(PROMPT) == 2 and shown.count("Answer: ") == 1


def test_without_a_question_a_pipe_needs_the_option(
    arguments: list[str], typed: Callable[..., None], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(b"How many?\n")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "--chat" in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    monkeypatch.setattr("sys.stdin", None)  # closed by the shell
    for more in ([], ["--chat"], ["--question", "-"]):
        assert main([*arguments, *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_an_image_in_the_place_of_the_question_is_noticed(arguments: list[str], capsys: Capture) -> None:
    assert main([*arguments, "--question", arguments[1]]) == 2
    printed = capsys.readouterr()
    assert "name of a file" in printed.err and "--chat" in printed.err and printed.err.count("\n") == 1


def test_ctrl_c_stops_an_answer_and_at_the_prompt_the_command(
    arguments: list[str], typed: Callable[..., None], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = QUESTIONS[0]
    assert main([*arguments, "--question", question]) == 0
    alone = capsys.readouterr().out
    shown, real = [0], asking.answer_question

    def interrupted(*given: Any, stream: Any, **settings: Any) -> Any:
        def show(piece: str) -> None:
            stream(piece)
            shown[0] += 1
            if shown[0] == 2:
                raise KeyboardInterrupt

        return real(*given, stream=show, **settings)

    monkeypatch.setattr(questions, "answer_question", interrupted)
    typed(f"{question}\n{question}\n".encode())
    assert main([*arguments, "--chat"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith(alone + "\n") and printed.out.count("Answer: ") == 1
    assert printed.err == "\nStopped this answer.\n"
    typed(b"", Terminal)
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(arguments) == 130
    assert capsys.readouterr().err.endswith("Stopped.\n")


def test_an_interrupted_answer_leaves_the_model_free(vlm_: VLM, arguments: list[str]) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    try:
        asking.answer_question(vlm_, [arguments[1]], "How many?", stream=interrupt)
    except KeyboardInterrupt as error:  # whose traceback keeps the frames, as the one at a prompt does
        kept = error
        taken: list[bool] = []
        other = threading.Thread(target=lambda: taken.append(vlm_.lock.acquire(timeout=0)))
        other.start()
        other.join()
        assert taken == [True] and kept.__traceback__ is not None


def test_a_server_is_asked_again_after_a_failure(
    arguments: list[str], typed: Callable[..., None], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = ["\\boxed{2}", BackendError("scripted: no connection"), "\\boxed{3}"]
    backend = ScriptedBackend(replies)
    monkeypatch.setattr(questions, "load_for_asking", lambda *_: backend)
    typed(b"How many?\nWhere?\nWhich?\n")
    assert main([*arguments, "--chat", "--model", "openai:m@http://127.0.0.1:1/v1"]) == 1
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if "Answer" in line] == ["Answer: 2", "Answer: 3"]
    assert printed.err == "scripted: no connection\n"
    assert [len(request.messages) for request in backend.requests] == [1, 1, 1]  # no history
    assert {request.seed for request in backend.requests} == {5}


@pytest.mark.parametrize(
    ("given", "images", "question", "chat"),
    [
        (["a.png", "What?"], ["a.png"], "What?", False),
        (["a.png", "b.png", "What?"], ["a.png", "b.png"], "What?", False),
        (["a.png"], ["a.png"], None, False),
        (["a.png", "--chat"], ["a.png"], None, True),
        (["a.png", "b.png", "--chat"], ["a.png", "b.png"], None, True),
        (["--image", "a.png", "--question", "What?"], ["a.png"], "What?", False),
        (["--image", "a.png", "What?"], ["a.png"], "What?", False),
        (["--question", "What?", "a.png", "b.png"], ["a.png", "b.png"], "What?", False),
        (["--image", "a.png", "b.png", "--chat"], ["a.png", "b.png"], None, True),
        ([], [], None, False),
    ],
)
def test_which_argument_is_the_question(
    given: list[str], images: list[str], question: str | None, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    seen: list[Any] = []
    monkeypatch.setattr(infer, "run_ask", lambda options: seen.append(options) or 0)
    assert CliRunner().invoke(app, ["ask", *given]).exit_code == 0
    (options,) = seen
    assert (options.image, options.question, options.chat) == (images, question, chat)
    assert vars(options) == vars(ask_options(*given))  # both commands are one


def test_lines_of_any_kind(typed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    typed(b"a\r\n \n\xff\xfe b\n" + b"x" * (2 * LINE_LIMIT + 3) + b"\nlast")
    lines = [line.rstrip("\n") for line in read_questions(sys.stdout)]
    assert [line[:4] for line in lines] == ["a", "\ufffd\ufffd b", "xxxx", "last"]
    assert len(lines[2]) == LINE_LIMIT
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="Standard input is closed"):
        answer_each(print, print, sys.stdout)
