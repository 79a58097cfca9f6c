"""``ask --zoom``: what is printed and written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageColor
from scripted_server import Server, fails, says
from scripted_zoom import ScriptedVLM, zoom

from vlm import questions
from vlm.drawing import box_colour
from vlm.infer import main

pytestmark = pytest.mark.seam
Capture = pytest.CaptureFixture[str]
Script = Callable[..., list[str]]


@pytest.fixture
def script(tiny_vlm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Sets what the model writes; returns the arguments that ask it about a photo."""
    image = Image.new("RGB", (800, 400), "red")
    image.paste("blue", (400, 0, 800, 400))
    image.save(tmp_path / "photo.png")
    scripted = ScriptedVLM(tiny_vlm_dir, monkeypatch)
    monkeypatch.setattr(questions, "load_for_asking", lambda *_: scripted.vlm)
    monkeypatch.chdir(tmp_path)

    def write(*turns: str) -> list[str]:
        scripted.script(*turns)
        return ["photo.png", "Which colour?", "--zoom"]

    return write


def test_trace_crops_and_boxes(script: Script, tmp_path: Path, capsys: Capture) -> None:
    turns = "Closer." + zoom(500, 0, 1000, 1000, label="a mark"), zoom(0, 0, 0, 0), "\\boxed{blue}"
    assert main([*script(*turns), "--boxes", "boxes.png"]) == 0
    printed = capsys.readouterr().out
    [crop] = (tmp_path / "crops").iterdir()
    assert f'{turns[0]}\n[look 1: "a mark" image 0, pixels (400, 0, 800, 400): crops/{crop.name}]\n' in printed
    assert "[look 2: the box is empty: x1 must be less than x2, and y1 less than y2.]\n\\boxed{blue}" in printed
    assert printed.endswith("\n\nAnswer: blue\nBoxes: boxes.png\n")
    with Image.open(crop) as shown:
        assert {colour for _, colour in shown.getcolors() or []} == {(0, 0, 255)}
    with Image.open("boxes.png") as boxes:
        assert boxes.size == (800, 400)
        assert boxes.getpixel((600, 399)) == ImageColor.getrgb(box_colour(1))
        assert boxes.getpixel((200, 200)) == (255, 0, 0)


def test_json_holds_calls_boxes_and_files(script: Script, capsys: Capture) -> None:
    arguments = script(zoom(0, 0, 500, 1000), "<tool_call>?</tool_call>", "\\boxed{red}")
    assert main([*arguments, "--json", "--crops", "out/looks"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["answer"], result["finished"], result["errors"]) == ("red", True, 1)
    good, bad = result["calls"]
    assert good["arguments"] == {"bbox_2d": [0, 0, 500, 1000]}
    assert (good["name"], good["img_idx"], good["box"], good["error"]) == (
        "image_zoom_in_tool",
        0,
        [0, 0, 400, 400],
        None,
    )
    assert Path(good["crop"]).parent == Path("out/looks") and Path(good["crop"]).is_file()
    assert (bad["name"], bad["crop"], bad["box"]) == (None, None, None) and "JSON" in bad["error"]


def test_equal_crops_are_one_file(script: Script, tmp_path: Path) -> None:
    assert main(script(zoom(0, 0, 500, 1000), zoom(0, 0, 500, 1000), "\\boxed{red}")) == 0
    assert len(list((tmp_path / "crops").iterdir())) == 1


def test_looks_that_run_out_are_told(script: Script, capsys: Capture) -> None:
    assert main([*script(*[zoom(0, 0, 500, 1000)] * 9), "--looks", "1"]) == 0
    assert "Answer: none (the budget of 512 tokens or the looks ran out" in capsys.readouterr().out


def test_no_crops_no_folder(script: Script, tmp_path: Path) -> None:
    assert main(script("\\boxed{red}")) == 0
    assert not (tmp_path / "crops").exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--zoom", "--votes", "2"], "--votes"),
        (["--zoom", "--heatmap", "a.png"], "--heatmap"),
        (["--zoom", "--batch", "a.jsonl"], "--batch"),
        (["--zoom", "--looks", "0"], "at least 1"),
        (["--zoom", "--boxes", "nowhere/a.png"], "no folder"),
        (["--zoom", "--boxes", "a.txt"], "name of an image file"),
        (["--boxes", "a.png"], "needs --zoom"),
        (["--crops", "a"], "needs --zoom"),
    ],
)
def test_options_that_do_not_go_together(script: Script, extra: list[str], says: str, capsys: Capture) -> None:
    photo, question, _ = script()
    assert main([photo, question, *extra]) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_folder_that_cannot_be_written_to(script: Script, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "crops").write_text("a file")
    assert main(script(zoom(0, 0, 500, 1000), "\\boxed{red}")) == 1
    assert "name a folder by --crops" in capsys.readouterr().err


def test_model_without_tools_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    Image.new("RGB", (80, 40)).save(tmp_path / "photo.png")
    assert main([str(tmp_path / "photo.png"), "Which colour?", "--zoom"]) == 1
    error = capsys.readouterr().err
    assert "has no tools" in error and "Traceback" not in error


def test_served_model_without_tools(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 40), "red").save("photo.png")
    server.answers = [fails(400, "m does not support tools"), says(zoom(0, 0, 500, 1000)), says("\\boxed{red}")]
    assert main(["photo.png", "Which colour?", "--zoom", "--model", f"openai:m@{server.url}"]) == 0
    printed = capsys.readouterr().out
    assert "[look 1: image 0, pixels (0, 0, 40, 40): crops/" in printed and "Answer: red" in printed
