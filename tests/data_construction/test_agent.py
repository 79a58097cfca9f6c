"""The agent loop with scripted models: every branch, determinism, and no word of the scene or the answer in a prompt."""

import asyncio
from collections.abc import Callable

import pytest
from PIL import Image

from configs.jsonl import read_jsonl
from data_construction.agent import Episode, LoopConfig
from data_construction.build import BuildConfig, run_build
from data_construction.derive import read_traces
from data_construction.prompts import load_prompts
from data_construction.records import Trace
from data_construction.roles import Roles
from vlm.backends import BackendError, Reply, Request, ScriptedBackend
from vlm.problem import Problem, write_problems

NO_CONFIRM = LoopConfig(confirm_share=0.0, rounds=3)


@pytest.fixture
def problem(tmp_path) -> Problem:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.png")
    return Problem(
        id="p1",
        source="test",
        domain="count",
        images=[str(tmp_path / "p.png")],
        question="How many red shapes are there?",
        answer="4711",
        meta={"facts": {"A1": "SECRET-FACT"}, "counterfactual": {"image": str(tmp_path / "p.png"), "answer": "815"}},
    )


def text_of(request: Request) -> str:
    content = request.messages[-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class Script:
    """A reasoner whose conclusions come from a list, one a round; everything it was asked is kept."""

    def __init__(self, conclusions: list[str], request: str = "Which colours are there?", rewrite: str = "") -> None:
        self.conclusions, self.request, self.rewrite, self.seen = list(conclusions), request, rewrite, []

    def __call__(self, request: Request) -> str:
        prompt = text_of(request)
        self.seen.append(prompt)
        if prompt.startswith("Task: conclude"):
            return self.conclusions.pop(0)
        return self.rewrite if prompt.startswith("Task: rewrite") else self.request


def play(problem: Problem, script: Callable[[Request], str], look="row 1: red red", config=NO_CONFIRM) -> Trace:
    responder = ScriptedBackend(look if callable(look) else lambda request: look)
    roles = Roles(ScriptedBackend(script), responder, load_prompts("short"))
    return asyncio.run(Episode(problem, roles, config, seed=0).run())


def test_right_first_ends_without_reflection(problem):
    trace = play(problem, Script(["row 1: red red, red 4711. \\boxed{4711}"]))
    assert (trace.status, len(trace.rounds), trace.looks) == ("no_reflection", 1, 0)
    assert trace.rounds[0].verdict and trace.rounds[0].answer == "4711"


def test_wrong_then_right_is_kept_with_a_re_look_that_happened(problem):
    looks = iter(["row 1: red", "row 1: red red"])
    script = Script(["row 1: red, red 1. \\boxed{1}", "row 1: red red, red 4711. \\boxed{4711}"])
    trace = play(problem, script, lambda request: next(looks))
    assert (trace.status, len(trace.rounds), trace.looks, trace.cohesion) == ("kept", 2, 1, "template")
    assert [round_.verdict for round_ in trace.rounds] == [False, True]
    assert [trace.trace[start:end] for start, end in trace.corrected] == ["red"]


def test_a_rewrite_that_was_cut_off_is_none(problem):
    whole = "row 1: red none. Wait, let me look at the picture again. row 1: red red, red 4711."
    for reason, cohesion in (("stop", "model"), ("length", "template")):
        script = Script(
            ["row 1: red none, red 1. \\boxed{1}", "row 1: red red, red 4711. \\boxed{4711}"], rewrite=whole
        )

        def said(request: Request, script=script, reason=reason) -> Reply:
            text = script(request)
            return Reply(text, reason if text == whole else "stop")

        trace = play(problem, said, lambda r: "row 1: red red" if "again" in text_of(r) else "row 1: red none")
        assert trace.cohesion == cohesion, trace.trace


def test_a_right_conclusion_may_be_confirmed_by_one_more_look(problem):
    conclusion = "row 1: red red, red 4711. \\boxed{4711}"
    trace = play(problem, Script([conclusion] * 2), config=LoopConfig(confirm_share=1.0))
    assert (trace.status, len(trace.rounds), trace.looks, trace.corrected) == ("kept", 2, 1, [])


def test_later_correct_conclusions_may_be_confirmed_too(problem):
    conclusion = "row 1: red red, red 4711. \\boxed{4711}"
    for share, rounds in ((0.0, 2), (1.0, 4)):
        config = LoopConfig(confirm_share=1.0, confirm_again=share, rounds=4)
        trace = play(problem, Script([conclusion] * 4), config=config)
        assert (trace.status, len(trace.rounds), trace.looks) == ("kept", rounds, rounds - 1)
    corrected = ["row 1: red, red 1. \\boxed{1}", conclusion, conclusion]
    trace = play(problem, Script(corrected), config=LoopConfig(confirm_share=0.0, confirm_again=1.0, rounds=3))
    assert [one.verdict for one in trace.rounds] == [False, True, True]


def test_text_roles_are_shown_the_first_and_the_last_rounds_and_the_rewriter_all(problem):
    script = Script([f"it is {n}. \\boxed{{{n}}}" for n in (1, 2, 3, 4711)])
    trace = play(problem, script, config=LoopConfig(confirm_share=0.0, rounds=4, shown_rounds=2))
    assert trace.status == "kept"
    shown = {
        task: [p.count("Seen:") for p in script.seen if p.startswith(f"Task: {task}")]
        for task in ("request", "conclude")
    }
    assert shown == {"request": [0, 1, 2, 2], "conclude": [1, 2, 3, 3]}
    last = [p for p in script.seen if p.startswith("Task: conclude")][-1]
    assert "it is 1." in last and "it is 2." not in last and "it is 3." in last
    assert next(p for p in script.seen if p.startswith("Task: rewrite")).count("Said:") == 4


def test_never_right_is_wrong_after_the_last_round(problem):
    trace = play(problem, Script(["it is 3. \\boxed{3}"] * 3))
    assert (trace.status, len(trace.rounds), trace.trace) == ("wrong", 3, "")


def test_an_empty_conclusion_is_sampled_again(problem):
    script = Script(["", "4711 it is. \\boxed{4711}"])
    assert play(problem, script).status == "no_reflection"


@pytest.mark.parametrize(
    ("script", "look", "words"),
    [
        (Script(["", ""]), "row 1: red", "the summarizer gave no usable reply"),
        (Script([], request="  "), "row 1: red", "the requester gave no usable reply"),
        (Script([]), "   ", "the responder gave no usable reply"),
    ],
)
def test_empty_replies_end_as_a_named_error(problem, script, look, words):
    trace = play(problem, script, look)
    assert (trace.status, trace.error) == ("error", "empty") and words in trace.why


def test_a_failing_backend_and_a_missing_picture_are_errors_by_name(problem):
    def broken(request: Request) -> str:
        raise BackendError("the server said no")

    assert play(problem, Script([]), broken).why == "the server said no"
    problem.images = ["nowhere.png"]
    trace = play(problem, Script([]))
    assert trace.status == "error" and "nowhere.png" in trace.why


def test_neither_the_scene_nor_the_answer_reaches_a_prompt(problem):
    script, looks = Script(["row 1: red, red 1. \\boxed{1}"] * 3), []
    play(problem, script, lambda request: looks.append(text_of(request)) or "row 1: red red")
    prompts = "\n".join(script.seen + looks)
    assert problem.question in prompts
    for secret in ("SECRET-FACT", "4711", "815", "p.png", problem.id):
        assert secret not in prompts


def test_only_the_responder_is_given_pictures(problem):
    with_pictures = []

    def reasoner(request: Request) -> str:
        with_pictures.append(bool(request.images))
        return "it is 4711. \\boxed{4711}"

    def responder(request: Request) -> str:
        assert len(request.images) == 1
        return "row 1: red"

    play(problem, reasoner, responder)
    assert with_pictures and not any(with_pictures)


def test_every_call_is_counted_by_role(problem):
    trace = play(problem, Script(["row 1: red, red 1. \\boxed{1}", "row 1: red red, red 4711. \\boxed{4711}"]))
    assert {role: counts[2] for role, counts in trace.usage["by_role"].items()} == {
        "requester": 2,
        "responder": 2,
        "summarizer": 2,
        "rewriter": 2,
    }


def build_set(tmp_path, n=6) -> BuildConfig:
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "p.png")
    problems = [
        Problem(
            id=f"p{i}",
            source="t",
            domain="count",
            images=["p.png"],
            question=f"How many of kind {i}?",
            answer=str(i % 2),
        )
        for i in range(n)
    ]
    write_problems(problems, tmp_path / "set")
    (tmp_path / "p.png").rename(tmp_path / "set" / "p.png")
    return BuildConfig(problems=str(tmp_path / "set"), out=str(tmp_path / "out"), prompts="short", loop=NO_CONFIRM)


def scripted(monkeypatch, reasoner, responder=lambda request: "row 1: red"):
    def make(name, **settings):
        return ScriptedBackend(reasoner if settings.get("text_only") else responder)

    monkeypatch.setattr("data_construction.build.make_backend", make)


def guess_one(request: Request) -> str:
    return "Look." if text_of(request).startswith("Task: request") else "row 1: red, red 1. \\boxed{1}"


def test_build_counts_every_problem_once_and_a_second_run_repeats_none(tmp_path, monkeypatch):
    config = build_set(tmp_path)
    scripted(monkeypatch, guess_one)
    counts = run_build(config)
    assert (counts["problems"], counts["no_reflection"], counts["wrong"], counts["errors"]) == (6, 3, 3, 0)
    before = (tmp_path / "out/traces.jsonl").read_bytes()
    scripted(monkeypatch, lambda request: pytest.fail("a finished problem was asked again"))
    assert run_build(config) == counts
    assert (tmp_path / "out/traces.jsonl").read_bytes() == before


def test_errors_are_tried_again_and_a_torn_row_is_cut(tmp_path, monkeypatch):
    config = build_set(tmp_path)

    def flaky(request: Request) -> str:
        if "kind 3" in text_of(request):
            raise BackendError("busy")
        return guess_one(request)

    scripted(monkeypatch, flaky)
    assert run_build(config)["errors"] == 1
    with open(tmp_path / "out/traces.jsonl", "a") as file:
        file.write('{"problem_id": "p9", "torn')
    scripted(monkeypatch, guess_one)
    counts = run_build(config)
    assert (counts["errors"], counts["no_reflection"] + counts["wrong"]) == (0, 6)
    assert len(read_traces(tmp_path / "out/traces.jsonl")) == 6
    assert len(read_jsonl(tmp_path / "out/traces.jsonl")) == 7


@pytest.mark.parametrize("prompts", ["short", "full"])
@pytest.mark.parametrize("failing", ["request", "look", "conclude"])
def test_turns_alternate_as_strict_servers_want_them(problem: Problem, failing: str, prompts: str) -> None:
    """Also where a reply is repaired: some servers refuse two turns of one role in a row, and a last turn of the assistant."""

    def reason(request: Request) -> str:
        task = "conclude" if "oxed" in str(request.messages[0]) else "request"
        return (
            ""
            if task == failing
            else "row 1: red red, red 1. \\boxed{1}"
            if task == "conclude"
            else "Which colours are there?"
        )

    backends = [ScriptedBackend(reason), ScriptedBackend(lambda request: "" if failing == "look" else "row 1: red red")]
    asyncio.run(Episode(problem, Roles(*backends, load_prompts(prompts)), NO_CONFIRM, seed=0).run())
    requests = [request for backend in backends for request in backend.requests]
    assert len(requests) > 1 and (prompts == "short" or any(len(request.messages) > 2 for request in requests))
    for request in requests:
        roles = [message["role"] for message in request.messages]
        turns = roles[roles[0] == "system" :]
        assert turns == (["user", "assistant"] * len(turns))[: len(turns)] and turns[-1] == "user"
