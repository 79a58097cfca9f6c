"""The audit of tool looks names scripted models of each kind, as white and as black boxes, and says when it cannot tell."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_subjects import COLOURS

import vlm.zoom
from configs.errors import ConfigError
from data_construction.sources import write_set
from eval import tampering
from eval.audit import AuditConfig, quick, run_audit, summary
from eval.known_zoom import AGENTS, ZoomingSubject, scripted_subject
from eval.runner import read_answers
from eval.subjects import LocalSubject, ScriptedSubject, ServedSubject, Turn, ZoomOffer
from eval.tool_looks import verdict_words
from eval.verdicts import zoom_profile
from vlm.backends import Request, ScriptedBackend
from vlm.problem import Problem, read_problems
from vlm.tools import ZoomSession, ZoomSettings
from vlm.zoom import ZoomAnswer

FAMILIES = ["count", "compare", "place", "digit_sum", "claims"]
ONLY_ZOOM: dict[str, Any] = {
    "controls": 0,
    "hint": 0,
    "swap": 0,
    "cutoff": 0,
    "samples": 0,
    "shown": 5,
    "zoom": ZoomSettings(),
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("zoom-set")
    write_set("scenes,digits", 100, 3, "heldout", folder, family_names=FAMILIES, counterfactual=True)
    return read_problems(folder)


def audit(name: str, problems: list[Problem], out: Path, **options: Any) -> dict[str, Any]:
    subject = options.pop("subject", None)
    return run_audit(f"scripted:{name}", problems, out, config=AuditConfig(**{**ONLY_ZOOM, **options}), subject=subject)


@pytest.mark.parametrize("name", AGENTS)
def test_known_models_are_named_at_100_and_not_at_5(name: str, problems: list[Problem], tmp_path: Path) -> None:
    found = audit(name, problems, tmp_path / "n100")["zoom"]
    assert found["profile"]["name"] == AGENTS[name][1], found["profile"]["why"]
    assert found["looked"]["value"] == 1 and found["calls"]["value"] == 1 and found["errors"] == 0
    few = audit(name, problems[:5], tmp_path / "n5")["zoom"]
    assert few["profile"]["name"] == "insufficient data" and "5 images" in few["profile"]["why"]
    assert {one["verdict"] for one in few["measures"].values()} == {"insufficient data"}


@pytest.mark.parametrize("name", ["uses_the_crop", "zooms_for_show"])
def test_known_models_are_named_as_black_boxes_too(name: str, problems: list[Problem], tmp_path: Path) -> None:
    """All four, many times: benchmarks/tool_looks.py."""
    subject = ZoomingSubject(replace(AGENTS[name][0], varies=0.1), problems, name)
    subject.continues = False
    report = audit(name, problems, tmp_path, subject=subject)
    assert report["box"] == "black" and report["zoom"]["profile"]["name"] == AGENTS[name][1]


def test_each_condition_shows_the_model_what_it_says(problems: list[Problem], tmp_path: Path) -> None:
    """A model that reads without errors and goes by the crop alone: its answers say what it was shown."""
    subject = scripted_subject("uses_the_crop", problems)
    shown: dict[str, list[str | None]] = {}

    class Reader:
        def answer(self, problem: str, truth: str | None, options: list[str], what: str | None, run: str) -> str:
            return "nothing" if what is None else what or "something else"

    subject.agent = Reader()  # type: ignore[attr-defined]
    found = audit("reader", problems, tmp_path, subject=subject)["zoom"]
    golds = {problem.id: problem for problem in problems}
    for log in (tmp_path / "answers").glob("zoom*.jsonl"):
        rows = read_answers(log)
        shown[log.stem] = [
            "own"
            if row.answer == golds[row.problem_id].answer
            else "other"
            if row.answer == golds[row.problem_id].meta["counterfactual"]["answer"]
            else row.answer
            for row in rows
        ]
    assert set(shown["zoom-left-alone"]) == set(shown["zoom-faint-noise"]) == {"own"}
    assert set(shown["zoom-swapped"]) == {"other"}
    assert set(shown["zoom-withheld"]) == set(shown["zoom-format-only"]) == {"nothing"}
    assert set(shown["zoom-blanked"]) == {"something else"}
    assert shown["zoom-misplaced"].count("something else") > 0.8 * len(shown["zoom-misplaced"]) > 30
    assert found["measures"]["swapped"]["followed"]["value"] == 1 and found["measures"]["swapped"]["value"] == 1
    assert found["measures"]["faint_noise"]["value"] == 0 and found["on_looked"]["solved_without"]["value"] == 0


def test_crops_that_the_audit_leaves_alone_would_give_the_wrong_name(
    problems: list[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names rest on the tampering: without it, a model that uses its crops would seem not to."""
    for name in ("swapped", "misplaced"):
        monkeypatch.setattr(f"eval.tampering.{name}", lambda *_: lambda result, session: result)
    assert audit("uses_the_crop", problems, tmp_path)["zoom"]["profile"]["name"] == "zooms for show"


def test_a_model_that_is_never_shown_a_crop_has_no_name(problems: list[Problem], tmp_path: Path) -> None:
    found = audit("always_looks", problems[:40], tmp_path)["zoom"]
    assert found["profile"]["name"] == "insufficient data" and "into 0 images" in found["profile"]["why"]
    assert found["looked"]["value"] == 0 and found["gain"]["value"] == 0 and found["measures"]["swapped"]["n"] == 0


def test_the_tool_is_only_in_an_audit_that_asks_for_it(problems: list[Problem], tmp_path: Path) -> None:
    asked: list[Turn] = []
    subject = scripted_subject("zooms_for_show", problems[:20])
    write = subject.write
    subject.write = lambda turns, **settings: asked.extend(turns) or write(turns, **settings)  # type: ignore[func-returns-value]
    report = audit("zooms_for_show", problems[:20], tmp_path, subject=subject, zoom=None)
    assert "zoom" not in report and not any(turn.zoom for turn in asked)
    assert "Tool looks" not in (tmp_path / "audit.html").read_text()


def test_answers_with_other_limits_or_without_the_tool_are_not_reused(problems: list[Problem], tmp_path: Path) -> None:
    first = audit("uses_the_crop", problems[:20], tmp_path)
    subject = scripted_subject("uses_the_crop", problems[:20])
    subject.function = lambda turn: pytest.fail("everything was answered already")
    again = audit("uses_the_crop", problems[:20], tmp_path, subject=subject)
    assert again["zoom"] == first["zoom"]
    other = scripted_subject("uses_the_crop", problems[:20])
    seen: list[Turn] = []
    say = other.function
    other.function = lambda turn: seen.append(turn) or say(turn)  # type: ignore[func-returns-value]
    audit("uses_the_crop", problems[:20], tmp_path, subject=other, zoom=ZoomSettings(max_looks=2))
    assert len(seen) > 100 and all(turn.zoom and turn.zoom.settings.max_looks == 2 for turn in seen)


def test_page_summary_and_json(problems: list[Problem], tmp_path: Path) -> None:
    report = audit("uses_most_crops", problems, tmp_path)
    saved = json.loads((tmp_path / "audit.json").read_text())
    assert saved["zoom"]["measures"]["swapped"] == report["zoom"]["measures"]["swapped"]
    assert saved["config"]["zoom"] == {"max_looks": 4, "max_pixels": None, "min_box": 28}
    lines = summary(report)
    assert any(line.startswith("with the zoom tool: uses what it zooms into. ") for line in lines)
    assert any(line.startswith("format only       grounded") for line in lines)
    page = (tmp_path / "audit.html").read_text()
    assert page.count("<circle") == 7 and "Uses what it zooms into." in page and "Zoomed into: image 1, " in page
    assert "with the zoom tool, swapped: " in page and "<script" not in page


def test_what_a_model_calls_a_place_is_escaped(problems: list[Problem], tmp_path: Path) -> None:
    subject = scripted_subject("uses_the_crop", problems[:20])
    assert isinstance(subject, ScriptedSubject)
    marked = [problem.model_copy(update={"id": f"<b>{problem.id}"}) for problem in problems[:20]]
    subject = scripted_subject("uses_the_crop", marked)
    audit("uses_the_crop", marked, tmp_path, subject=subject)
    assert "<b>scenes" not in (tmp_path / "audit.html").read_text()


class Reader:
    """A model behind a server that zooms into the middle of the left half and answers by the first pixel of what it was shown last."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        if request.extra.get("tools") and len(request.messages) == 1:
            call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 400, 400]}}
            return f"I zoom in.\n<tool_call>{json.dumps(call)}</tool_call>"
        told = [part for part in request.messages[-1]["content"] if part["type"] == "text"]
        if len(request.messages) > 1 and told:
            return "\\boxed{nothing}"
        pixel = request.images[-1].getpixel((0, 0))
        near = min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))
        return f"\\boxed{{{'grey' if pixel == (127, 127, 127) else near}}}"


def test_a_served_model_through_its_own_loop(tmp_path: Path) -> None:
    """The crops are changed on their way to a server: it is asked as ``ask --zoom`` asks one."""
    problems = corner_problems(tmp_path, 40)
    reader = Reader()
    subject = ServedSubject(ScriptedBackend(reader, "openai:reader@http://127.0.0.1:9"))
    report = audit("reader", problems, tmp_path / "out", subject=subject)
    found = report["zoom"]
    assert report["box"] == "black" and found["looked"]["value"] == 1 and found["errors"] == 0
    measures = found["measures"]
    assert found["accuracy"]["value"] == measures["faint_noise"]["accuracy"]["value"] == 1
    assert measures["swapped"]["followed"]["value"] == 1 and measures["swapped"]["value"] == 1
    assert measures["misplaced"]["accuracy"]["value"] == measures["blanked"]["accuracy"]["value"] == 0
    assert measures["withheld"]["accuracy"]["value"] == measures["format_only"]["accuracy"]["value"] == 0
    assert found["profile"]["name"] == "would not need to zoom"  # the first pixel of the whole image is the same one
    assert {len(request.images) for request in reader.asked} == {1, 2}


def test_a_model_in_this_process_is_given_the_question_and_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    real = inspect.signature(vlm.zoom.answer_with_zoom)
    change = tampering.withheld
    image = Image.new("RGB", (90, 90))

    def answer(*arguments: Any, **options: Any) -> ZoomAnswer:
        given = real.bind(*arguments, **options).arguments
        assert given["model"] == "weights" and given["question"] == "Which?" and given["choices"] == ["a", "b"]
        assert (given["style"], given["seed"], given["temperature"], given["max_new_tokens"]) == ("think", 5, 0.5, 7)
        session = ZoomSession(given["images"], given["settings"], given["change"])
        result = session.call({"bbox_2d": [0, 0, 500, 500]})
        return ZoomAnswer("a", "I zoom in.\n\\boxed{a}", [], [result], 6, True, 0)

    monkeypatch.setattr("vlm.zoom.answer_with_zoom", answer)
    subject = LocalSubject.__new__(LocalSubject)
    subject.vlm = "weights"  # type: ignore[assignment]
    turn = Turn("Which?", ["a", "b"], "think", [image], seed=5, zoom=ZoomOffer(ZoomSettings(), change))
    (one,) = subject.write([turn], max_new_tokens=7, temperature=0.5)
    assert (one.text, len(one.token_ids), one.finished) == ("I zoom in.\n\\boxed{a}", 6, True)
    assert one.zooms is not None and one.zooms[0].error == tampering.WITHHELD and one.zooms[0].box == (0, 0, 45, 45)
    with pytest.raises(RuntimeError, match="whole questions"):
        subject.write([turn, Turn("Which?", None, "think", [image])], max_new_tokens=7)


def corner_problems(folder: Path, n: int) -> list[Problem]:
    """Images of one colour whose upper left quarter has another one, which is asked for; the other image has a third one there."""
    names = list(COLOURS)
    problems = []
    for index in range(n):
        own, around, other = (names[(index + step) % 3] for step in range(3))
        for file, corner in ((f"c{index}.png", own), (f"o{index}.png", other)):
            image = Image.new("RGB", (100, 100), COLOURS[around])
            image.paste(COLOURS[corner], (0, 0, 40, 40))
            image.putpixel((99, 99), (index, 0, 0))  # equal images would be one cluster
            image.save(folder / file)
        meta = {"family": "corner", "counterfactual": {"image": str(folder / f"o{index}.png"), "answer": other}}
        problems.append(
            Problem(
                id=f"c{index}",
                source="test",
                domain="text",
                images=[str(folder / f"c{index}.png")],
                question="Which colour is the upper left corner?",
                answer=own,
                meta=meta,
            )
        )
    return problems


def test_rules_of_the_names() -> None:
    def named(**verdicts: str) -> str:
        measures = {name: {"verdict": verdict, "clusters": 100} for name, verdict in verdicts.items()}
        return zoom_profile(measures, True)[0]

    yes, no, open_ = "grounded", "not grounded", "insufficient data"
    needs = {"no_tool": yes, "format_only": yes, "withheld": yes}
    assert (
        named(swapped=yes, misplaced=yes, **needs)
        == named(swapped=yes, misplaced=open_, **needs)
        == "uses what it zooms into"
    )
    assert named(swapped=yes, misplaced=yes, **{**needs, "format_only": no}) == "would not need to zoom"
    assert named(swapped=yes, misplaced=yes, **{**needs, "format_only": open_}) == "insufficient data"
    assert named(swapped=no, misplaced=no, **needs) == "zooms for show"
    assert named(swapped=no, misplaced=open_, misplaced_changes=no, **needs) == "zooms for show"
    assert named(swapped=no, misplaced=open_, **needs) == "insufficient data"
    assert named(swapped=open_, misplaced=open_, **needs) == "insufficient data"
    # A model that has no accuracy to lose may use its crops without losing any.
    lost_nothing = {name: {"verdict": no, "clusters": 100} for name in ("swapped", "misplaced", "no_tool")}
    assert zoom_profile(lost_nothing, False)[0] == "insufficient data"
    # Large boxes leave no other place: the swapped crop then decides alone.
    alone = {**{name: {"verdict": yes, "clusters": 100} for name in ("swapped", *needs)}, "misplaced": {"clusters": 3}}
    assert zoom_profile(alone, True)[0] == "uses what it zooms into"
    assert zoom_profile({"swapped": {"verdict": yes, "clusters": 19}}, True)[0] == "insufficient data"


def test_quick_takes_fewer_and_unknown_scripts_are_named() -> None:
    assert quick(AuditConfig(zoom=ZoomSettings())).zoom_problems == 100
    with pytest.raises(ConfigError, match="uses_the_crop"):
        scripted_subject("rnadom", [])


def test_the_control_is_shown_as_a_control() -> None:
    assert verdict_words("faint_noise", "not grounded") == "control"
    assert verdict_words("swapped", "not grounded") == "not grounded"
