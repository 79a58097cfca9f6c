"""Looks with the zoom tool: the responder's calls and crops in the trace, on disk and in the rows; no fact of a crop before its call."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from configs.jsonl import read_jsonl
from data_construction.agent import Episode, LoopConfig
from data_construction.build import BuildConfig, run_build
from data_construction.cohesion import rewrite_fault
from data_construction.dataset import MixConfig, thinking_row
from data_construction.derive import export, read_traces
from data_construction.prompts import load_prompts
from data_construction.quality import QualityConfig
from data_construction.records import Round, RoundZoom, Trace
from data_construction.roles import Roles
from data_construction.shards import Shard, run_merge
from data_construction.zooming import call_places, early_fact, keep_zoom
from vlm.backends import Request, ScriptedBackend
from vlm.problem import Problem, write_problems
from vlm.tools import ToolCall, ZoomResult

BOX = {"bbox_2d": [500, 0, 1000, 500], "img_idx": 0, "label": "B1"}
LOOP = LoopConfig(confirm_share=0.0, rounds=2, zoom=True)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    image = Image.new("RGB", (80, 80), "red")
    image.paste("blue", (40, 0, 80, 40))
    image.save(tmp_path / "p.png")
    return Problem(
        id="p1",
        source="test",
        domain="text",
        images=[str(tmp_path / "p.png")],
        question="Which colour is B1?",
        answer="blue",
    )


def call(arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': 'image_zoom_in_tool', 'arguments': arguments})}</tool_call>"


def text_of(request: Request) -> str:
    content = request.messages[-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def reasoner(request: Request) -> str:
    """Asks for B1; believes the second look. It writes no rewrite that keeps the facts."""
    prompt = text_of(request)
    if prompt.startswith("Task: request"):
        return "Look again at B1." if "Seen:" in prompt else "What is at B1?"
    if prompt.startswith("Task: conclude"):
        return "b1: blue. \\boxed{blue}" if "b1: blue" in prompt else "b1: red. \\boxed{red}"
    return "no rewrite"


class Responder:
    """Zooms into B1 in its second look, and says the colour in the middle of what it was shown last."""

    def __init__(self, arguments: Any = BOX) -> None:
        self.arguments, self.asked = arguments, list[Request]()

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        question = " ".join(part.get("text", "") for part in request.messages[0]["content"])
        if "again" in question and len(request.messages) == 1:
            return "I zoom in. " + call(self.arguments)
        pixel = request.images[-1].getpixel((10, 10))
        return f"b1: {'blue' if pixel == (0, 0, 255) else 'red'}"


def play(problem: Problem, folder: Path, responder: Any, config: LoopConfig = LOOP) -> Trace:
    roles = Roles(ScriptedBackend(reasoner), ScriptedBackend(responder), load_prompts("short"))
    return asyncio.run(Episode(problem, roles, config, seed=0, folder=folder).run())


def test_the_responder_chooses_the_box_and_sees_the_crop(problem: Problem, tmp_path: Path) -> None:
    responder = Responder()
    trace = play(problem, tmp_path, responder)
    assert (trace.status, trace.answer) == ("kept", "blue"), trace.why
    first, second = trace.rounds
    assert first.zooms == [] and first.reply == "b1: red" and second.reply == "b1: blue"
    (zoom,) = second.zooms
    assert zoom.arguments == BOX and zoom.box == (40, 0, 80, 40) and zoom.img_idx == 0 and zoom.error is None
    assert zoom.crop is not None and zoom.crop.startswith("crops/")
    with Image.open(tmp_path / zoom.crop) as crop:
        assert crop.size == (40, 40) and crop.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    assert all(request.extra["tools"] for request in responder.asked)
    assert [len(request.images) for request in responder.asked] == [1, 1, 2]
    assert trace.usage["by_role"]["responder"][2] == 3


def test_a_refused_call_is_kept_and_ends_nothing(problem: Problem, tmp_path: Path) -> None:
    trace = play(problem, tmp_path, Responder({"bbox_2d": [9, 9, 9, 9]}))
    assert trace.status == "wrong" and not (tmp_path / "crops").exists()
    (zoom,) = trace.rounds[1].zooms
    assert zoom.crop is None and zoom.error is not None and "empty" in zoom.error


def test_without_the_tool_nothing_is_offered(problem: Problem, tmp_path: Path) -> None:
    responder = Responder()
    trace = play(problem, tmp_path, responder, LOOP.model_copy(update={"zoom": False}))
    assert not any(request.extra for request in responder.asked) and not any(round_.zooms for round_ in trace.rounds)


def test_crops_are_named_by_their_content(tmp_path: Path) -> None:
    def keep(colour: str) -> RoundZoom:
        result = ZoomResult(ToolCall("image_zoom_in_tool", BOX), Image.new("RGB", (9, 9), colour), (0, 0, 9, 9), 0)
        return keep_zoom(result, tmp_path)

    assert keep("red").crop == keep("red").crop != keep("blue").crop
    assert len(list((tmp_path / "crops").iterdir())) == 2


ZOOM = RoundZoom(arguments=BOX, box=(40, 0, 80, 40), img_idx=0, crop="crops/a.png")
ROUNDS = [
    Round(request="What is at B1?", reply="b1: red", conclusion="b1: red", answer="red", verdict=False),
    Round(request="Look again.", reply="b1: blue", conclusion="b1: blue", answer="blue", verdict=True, zooms=[ZOOM]),
]
CUE = "Wait, let me look at the picture again."


def test_no_fact_of_a_crop_before_its_call(problem: Problem) -> None:
    fitting = f"b1: red. {CUE} b1: blue."
    assert rewrite_fault(fitting, problem, ROUNDS) == ""
    for early in (
        f"It may be blue. b1: red. {CUE} b1: blue.",
        "b1: red. Wait, let me look at the picture again at the blue one. b1: blue.",
    ):
        assert rewrite_fault(early, problem, ROUNDS) == "tells 'blue' before the call that brought the crop with it"
    # Without a crop the same words are an assumption, as before.
    without = [ROUNDS[0], ROUNDS[1].model_copy(update={"zooms": []})]
    assert rewrite_fault(f"It may be blue. b1: red. {CUE} b1: blue.", problem, without) == ""


def test_what_was_known_is_no_fact_of_the_crop() -> None:
    words = (re.compile(r"\b(?:blue|red)\b"),)
    asked = [ROUNDS[0].model_copy(update={"request": "Is B1 blue?"}), ROUNDS[1]]
    text = f"It may be blue. b1: red. {CUE} b1: blue."
    assert early_fact(text, "", ROUNDS, words) == "blue"
    assert early_fact(text, "", asked, words) == "" and early_fact(text, "Is it blue?", ROUNDS, words) == ""
    first = [ROUNDS[0].model_copy(update={"zooms": [ZOOM]}), ROUNDS[1]]
    assert early_fact(f"b1: red. {CUE} b1: blue.", "", first, words) == ""
    assert call_places(f"b1: red. {CUE} b1.", ROUNDS) == [0, len(f"b1: red. {CUE}")]


def test_a_row_has_the_calls_and_the_crops_in_their_order(problem: Problem, tmp_path: Path) -> None:
    text = f"b1: red. {CUE} b1: blue."
    trace = Trace(id="t", problem_id="p1", status="kept", rounds=ROUNDS, trace=text, answer="blue", corrected=[(4, 7)])
    row = thinking_row(problem, trace, tmp_path)
    before, result, after = row["completion"]
    assert before["content"] == f"<think> b1: red. {CUE} </think> " and before["masked"] == [[12, 15]]
    assert before["content"][12:15] == "red"
    assert before["tool_calls"] == [{"type": "function", "function": {"name": "image_zoom_in_tool", "arguments": BOX}}]
    assert result == {"role": "tool", "name": "image_zoom_in_tool", "content": [{"type": "image"}]}
    assert after["content"] == "<think> b1: blue. </think> \\boxed{blue}" and "masked" not in after
    assert row["images"] == [*problem.images, str(tmp_path / "crops/a.png")] and row["tools"] == ["image_zoom_in_tool"]
    first = trace.model_copy(update={"rounds": [ROUNDS[1]], "trace": "b1: blue.", "corrected": [(4, 8)]})
    lead, _, last = thinking_row(problem, first, tmp_path)["completion"]
    assert lead["content"] == "<think> Let me zoom in. Look again. </think> " and "masked" not in lead
    assert last["content"][last["masked"][0][0] : last["masked"][0][1]] == "blue"


def test_a_build_keeps_crops_and_replays_its_replies(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_problems([problem], tmp_path / "set")
    config = BuildConfig(problems=str(tmp_path / "set"), out=str(tmp_path / "out"), prompts="short", loop=LOOP)
    every = {"quality": QualityConfig(min_words=1), "mix": MixConfig(min_confirm=0, direct_share=0)}
    config = config.model_copy(update=every)

    def build() -> tuple[int, list[Trace]]:
        backend = ScriptedBackend(Responder())
        run_build(config, roles=Roles(ScriptedBackend(reasoner), backend, load_prompts("short")))
        return len(backend.requests), read_traces(tmp_path / "out" / "traces.jsonl")

    asked, (trace,) = build()
    assert asked == 3 and trace.status == "kept"
    (row,) = read_jsonl(tmp_path / "out" / "sft.jsonl")
    assert Path(row["images"][-1]).is_file() and Path(row["images"][-1]).parent == tmp_path / "out" / "crops"
    (tmp_path / "out" / "traces.jsonl").unlink()  # as if it had been interrupted before the episode was finished
    again, (same,) = build()
    assert again == 0 and same.rounds == trace.rounds and same.trace == trace.trace


def test_merged_shards_and_an_exported_set_have_their_crops(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_problems([problem.model_copy(update={"id": f"p{number}"}) for number in range(6)], tmp_path / "set")
    every = {"quality": QualityConfig(min_words=1, near_duplicate=1.0), "mix": MixConfig(min_confirm=0, direct_share=0)}
    config = BuildConfig(problems=str(tmp_path / "set"), out=str(tmp_path / "out"), prompts="short", loop=LOOP)
    config = config.model_copy(update=every)
    for number in (1, 2):
        roles = Roles(ScriptedBackend(reasoner), ScriptedBackend(Responder()), load_prompts("short"))
        run_build(config, roles=roles, shard=Shard(number, 2))
    run_merge(config)
    rows = read_jsonl(tmp_path / "out" / "sft.jsonl")
    crops = {Path(row["images"][-1]) for row in rows}
    assert len(rows) == 6 and all(crop.is_file() and crop.parent == tmp_path / "out" / "crops" for crop in crops)

    export(config)
    (file,) = (tmp_path / "out" / "hf" / "data").iterdir()
    exported = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    for row in exported:
        before, result, after = json.loads(row["messages"])
        assert before["tool_calls"] and result["role"] == "tool" and after["content"].endswith("\\boxed{blue}")
        (crop,) = row["crops"]
        assert crop.size == (40, 40) and len(row["images"]) == 1
        assert row["completion"].startswith("<think>") and "tool_call" not in row["completion"]
        (span,) = row["masked"]
        assert row["completion"][slice(*span)] == "red"
