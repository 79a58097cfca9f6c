"""Asking about a picture, from Python and from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vlm.infer
from vlm.errors import UserError
from vlm.infer import EFFORTS, answer_question, main
from vlm.load import VLM, load_vlm

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
    monkeypatch.setattr(vlm.infer, "EFFORTS", {"low": 8, "medium": 12, "high": 16})


@pytest.mark.usefixtures("short")
def test_the_answer_and_what_is_streamed(vlm_: VLM, photo: Path) -> None:
    pieces: list[str] = []
    result = answer_question(vlm_, [photo], "How many?", effort="low", stream=pieces.append, temperature=1.0, seed=3)
    assert set(result) == {"answer", "trace", "text", "tokens", "seconds", "looks", "finished"}
    assert "".join(pieces) == result["text"] and result["tokens"] == 8 and not result["finished"]
    again = answer_question(vlm_, [Image.open(photo)], "How many?", effort="low", temperature=1.0, seed=3)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert answer_question(vlm_, [photo, photo.read_bytes()], "Same?", effort="medium", style="direct")["tokens"] <= 12


def test_the_reply_is_taken_apart(vlm_: VLM, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm.generate

    text = "<think> I see 3. Let me look again. It is 2. </think> \\boxed{2}"

    class Said(list[str]):
        generation = vlm.generate.Generation(text, list(range(20)), True, 50)

    asked: list[Any] = []
    monkeypatch.setattr(
        vlm.generate, "generate_stream", lambda *args, **kwargs: (asked.append(kwargs), Said([text[:20], text[20:]]))[1]
    )
    result = answer_question(vlm_, [photo], "How many?", effort="high")
    assert asked[0]["max_new_tokens"] == EFFORTS["high"] == 2048
    assert (result["answer"], result["looks"], result["tokens"], result["finished"]) == ("2", 1, 20, True)
    assert result["trace"] == "I see 3. Let me look again. It is 2."


def test_bad_settings(vlm_: VLM, photo: Path) -> None:
    for arguments in (([photo], "", {}), ([photo], "x", {"effort": "huge"}), ([photo], "x", {"style": "loud"})):
        with pytest.raises(UserError):
            answer_question(vlm_, arguments[0], arguments[1], **arguments[2])


# The command line


@pytest.mark.usefixtures("short")
def test_it_streams_the_trace_and_then_the_answer(
    photo: Path, tiny_vlm_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--image", str(photo), "--question", "How many?", "--model", str(tiny_vlm_dir), "--effort", "low"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "\n\nAnswer: " in printed.out and "8 tokens ran out" in printed.out and printed.err == ""
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert printed.out.startswith(result["text"])


def test_mistakes_end_in_one_sentence(tmp_path: Path, tiny_reasoner_dir: Path, photo: Path, capsys: Any) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for image, question, model, code, reason in [
        (tmp_path / "none.png", "What?", "tiny", 2, "none.png does not exist"),
        (tmp_path / "notes.txt", "What?", "tiny", 2, "notes.txt cannot be read as a picture"),
        (photo, " ", "tiny", 1, "The question is empty"),
        (photo, "x" * 100_000, "tiny", 1, "100,000 characters"),
        (photo, "What?", str(tmp_path / "no-model"), 1, "no-model does not exist"),
        (photo, "What?", str(tiny_reasoner_dir), 1, "text-only model"),
    ]:
        assert main(["--image", str(image), "--question", question, "--model", model]) == code
        printed = capsys.readouterr()
        assert printed.out == "" and reason in printed.err and printed.err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        main(["--question", "What?"])
    assert caught.value.code == 2


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
    assert done.returncode == 2 and done.stderr == "The picture none.png does not exist: check the path.\n"


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
