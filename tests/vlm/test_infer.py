"""Asking about an image, from Python and from the command line."""

import io
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.errors import ConfigError, UserError
from vlm.asking import answer_question
from vlm.backends import ScriptedBackend
from vlm.infer import main
from vlm.load import VLM, load_vlm
from vlm.protocol import TextStream
from vlm.reasoning import EFFORTS, BudgetedResponse, Effort

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vlm_(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((200, 150), 90).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained models never stop by themselves."""
    monkeypatch.setattr("vlm.reasoning.ANSWER_TOKENS", 4)
    for name, effort in {"off": Effort(4, style="direct"), "low": Effort(8), "medium": Effort(12)}.items():
        monkeypatch.setitem(EFFORTS, name, effort)


@pytest.mark.usefixtures("short")
def test_the_answer_and_what_is_streamed(vlm_: VLM, photo: Path) -> None:
    pieces: list[str] = []
    result = answer_question(vlm_, [photo], "How many?", effort="low", stream=pieces.append, temperature=1.0, seed=3)
    keys = {
        "answer",
        "trace",
        "text",
        "tokens",
        "seconds",
        "looks",
        "finished",
        "relooks",
        "closed",
        "votes",
        "repeats",
        "reads",
    }
    assert set(result) == keys
    assert "".join(pieces) == result["text"] and result["closed"] and 8 < result["tokens"] <= 8 + 4 + 4
    again = answer_question(vlm_, [Image.open(photo)], "How many?", effort="low", temperature=1.0, seed=3)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert answer_question(vlm_, [photo, photo.read_bytes()], "Same?", effort="medium", style="direct")["tokens"] <= 20


@pytest.mark.usefixtures("short")
def test_votes_and_where_it_looked(vlm_: VLM, photo: Path) -> None:
    result = answer_question(vlm_, [photo], "How many?", effort="low", votes=3, look=True)
    votes = result["votes"]
    assert votes["k"] == 3 and sum(votes["counts"].values()) <= 3 and 0 <= votes["agreement"] <= 1
    assert {"text", "start", "end", "mass", "lift"} == set(result["sentences"][0])
    assert all(0 < sentence["mass"] < 1 for sentence in result["sentences"])
    layers = len(vlm_.model.get_decoder().layers)
    assert result["attention_layers"]["layers"] == list(range(layers)) and result["attention_layers"]["of"] == layers
    assert float(result["attention"].maps[0].sum()) > 0


def test_a_server_answers_too(photo: Path) -> None:
    backend = ScriptedBackend(["\\boxed{2}", "\\boxed{3}", "<think> a </think> \\boxed{3}"])
    result = answer_question(backend, [photo], "How many?", votes=3)
    assert result["answer"] == "3" and result["votes"]["counts"] == {"3": 2, "2": 1}
    assert {request.seed for request in backend.requests} == {0, 1000, 2000}
    pieces: list[str] = []
    answer_question(ScriptedBackend(["\\boxed{2}"]), [photo], "How many?", stream=pieces.append)
    assert pieces == ["\\boxed{2}"]
    with pytest.raises(ConfigError, match="does not show where"):
        answer_question(ScriptedBackend(["x"]), [photo], "How many?", look=True)


def test_the_reply_is_taken_apart(vlm_: VLM, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<think> I see 3. Let me look again. It is 2. </think> \\boxed{2}"
    asked: list[Any] = []

    def answered(vlm: VLM, messages: Any, images: Any, effort: Effort, **_: Any) -> TextStream[BudgetedResponse]:
        def pieces() -> Any:
            yield from (text[:20], text[20:])
            return BudgetedResponse(text, 20, True)

        asked.append(effort)
        return TextStream(pieces())

    monkeypatch.setattr("vlm.asking.think_stream", answered)
    result = answer_question(vlm_, [photo], "How many?", effort="high")
    assert asked[0].tokens == EFFORTS["high"].tokens == 2048
    assert (result["answer"], result["looks"], result["tokens"], result["finished"]) == ("2", 1, 20, True)
    assert result["trace"] == "I see 3. Let me look again. It is 2."


def test_bad_settings(vlm_: VLM, photo: Path) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [("", {}), ("x", {"effort": "huge"}), ("x", {"style": "loud"})]
    wrong += [("x", {"votes": 0}), ("x", {"votes": 4, "temperature": 0.0})]
    for question, settings in wrong:
        with pytest.raises(UserError):
            answer_question(vlm_, [photo], question, **settings)


# The command line


@pytest.mark.usefixtures("short")
def test_it_streams_the_trace_and_then_the_answer(
    photo: Path, tiny_vlm_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--image", str(photo), "--question", "How many?", "--model", str(tiny_vlm_dir), "--effort", "low"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "\n\nAnswer: " in printed.out and "try --effort high" in printed.out and printed.err == ""
    heatmap = photo.with_name("look.png")
    assert main([*arguments, "--json", "--heatmap", str(heatmap)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert printed.out.startswith(result["text"]) and result["sentences"]
    assert Image.open(heatmap).size == Image.open(photo).size
    assert main([*arguments, "--votes", "2"]) == 0
    assert "Votes: " in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_standard_input(
    photo: Path, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def given(data: bytes, *arguments: str) -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return main([*arguments, "--model", str(tiny_vlm_dir), "--effort", "off", "--json"])

    assert given(photo.read_bytes(), "--image", "-", "--question", "What?") == 0
    assert given(b"What is it?", "--image", str(photo), "--question", "-") == 0
    capsys.readouterr()
    for data, *arguments in [(b"", "--image", "-", "--question", "x"), (b"x", "--image", "-", "--question", "-")]:
        assert given(data, *arguments) == 2  # type: ignore[arg-type]
        assert capsys.readouterr().err.count("\n") == 1


def test_urls_are_off_by_default(photo: Path, tiny_vlm_dir: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=photo.parent)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        arguments = ["--question", "x", "--model", str(tiny_vlm_dir), "--effort", "off"]
        assert main(["--image", f"{url}/photo.png", *arguments]) == 2
        assert "allow URLs with --urls" in capsys.readouterr().err
        assert main(["--image", f"{url}/photo.png", "--urls", *arguments]) == 0
        capsys.readouterr()
        for wrong in (f"{url}/none.png", "http://127.0.0.1:1/x.png", "http://[", "https://"):
            assert main(["--image", wrong, "--urls", *arguments]) == 2
            printed = capsys.readouterr()
            assert "cannot be downloaded" in printed.err and printed.err.count("\n") == 1
        server.shutdown()


def test_mistakes_end_in_one_sentence(tmp_path: Path, tiny_reasoner_dir: Path, photo: Path, capsys: Any) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for image, question, model, code, reason in [
        (tmp_path / "none.png", "What?", "tiny", 2, "none.png does not exist"),
        (tmp_path / "notes.txt", "What?", "tiny", 2, "notes.txt cannot be read as an image"),
        (photo, " ", "tiny", 1, "The question is empty"),
        (photo, "x" * 100_000, "tiny", 1, "100,000 characters"),
        (photo, "What?", str(tmp_path / "no-model"), 1, "no-model does not exist"),
        (photo, "What?", str(tiny_reasoner_dir), 1, "text-only model"),
    ]:
        assert main(["--image", str(image), "--question", question, "--model", model]) == code
        printed = capsys.readouterr()
        assert printed.out == "" and reason in printed.err and printed.err.count("\n") == 1
    for arguments, reason in [
        (["--question", "What?"], "Give an image and a question"),
        (["--image", str(photo)], "Give an image and a question"),
        (["--image", str(photo), "--question", "x", "--votes", "0"], "0 votes"),
        (["--image", str(photo), "--question", "x", "--votes", "2", "--temperature", "0"], "all be the same"),
        (["--image", str(photo), "--question", "x", "--out", "a"], "--out belongs to --batch"),
        (["--image", str(photo), "--question", "x", "--heatmap", str(tmp_path / "no" / "a.png")], "There is no folder"),
        (["--image", str(photo), "--question", "x", "--heatmap", str(tmp_path / "a")], "not the name of an image file"),
        (
            ["--image", str(photo), "--question", "x", "--heatmap", "a.png", "--model", "openai:m@http://h/v1"],
            "A server",
        ),
        (["--image", str(photo), "--question", "x", "--model", "openai:m"], "does not name a served model"),
        (["--batch", "none.jsonl", "--question", "x"], "leave the rest out"),
        (["--batch", "none.jsonl", "--chat"], "leave the rest out"),
        (["--image", str(photo), "--question", "x", "--chat"], "leave out the question, or --chat"),
        (["--image", str(photo), "--chat", "--out", "a"], "--out belongs to --batch"),
        (["--image", str(photo), "--chat", "--votes", "0"], "0 votes"),
        (["--image", "-", "--chat"], "Only one of the images"),
        (["--chat"], "Give an image and a question"),
    ]:
        assert main(arguments) in (1, 2)
        printed = capsys.readouterr()
        assert reason in printed.err and printed.err.count("\n") == 1
    assert main(["--effort", "huge"]) == 2 and "is not one of" in capsys.readouterr().err


def test_a_wrong_path_answers_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from vlm.infer import main; code = main(['--image', 'none.png', '--question', 'x']);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr == "The image none.png does not exist: check the path.\n"


def test_as_a_module(photo: Path, tiny_vlm_dir: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vlm.infer",
            "--image",
            str(photo),
            "--question",
            "What?",
            "--model",
            str(tiny_vlm_dir),
            "--effort",
            "low",
            "--json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and json.loads(done.stdout)["tokens"] > 0
