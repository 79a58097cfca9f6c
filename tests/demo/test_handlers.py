"""The events of the page without a page: what an example, a link and a question lead to."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import demo.engine
import demo.handlers
from configs.errors import ConfigError
from demo.engine import BOTH, Engine, Sessions
from demo.handlers import Handlers
from demo.image_store import ImageStore
from vlm.backends import ScriptedBackend
from vlm.reasoning import EFFORTS, Effort

REQUEST: Any = SimpleNamespace(session_hash="one")


def event(**data: Any) -> Any:
    return SimpleNamespace(_data=data)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.engine, "RUN_SECONDS", 3600.0)
    monkeypatch.setitem(EFFORTS, "medium", Effort(12))


@pytest.fixture
def handlers(tiny_vlm_dir: Path) -> Handlers:
    return Handlers(Engine([str(tiny_vlm_dir)]), ImageStore(), Sessions())


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Handlers:
    """A base that answers 1 and a trained model that answers 2."""
    scripts = {"a": ["<think> 1 </think> \\boxed{1}"] * 9, "b": ["<think> 2 </think> \\boxed{2}"] * 9}
    monkeypatch.setattr(demo.engine, "load_for_asking", lambda name, *_: ScriptedBackend(scripts[name[-1]]))
    return Handlers(Engine(["tiny"], pair=("x/a", "x/b")), ImageStore(), Sessions())


def last(yields: Any) -> Any:
    *_, result = yields
    return result


def ask(handlers: Handlers, filled: tuple[Any, ...], model: str | None = None) -> Any:
    _, image, _, question, *_ = filled
    return last(handlers.ask(image, question, model or handlers.engine.offered[0], "medium", 1, REQUEST))


def test_an_example_is_asked_at_once_and_can_then_be_tested(handlers: Handlers) -> None:
    filled = handlers.example(event(n=0), REQUEST)
    example = handlers.store.examples[0]
    assert filled[1:4] == (example.token, example.other, example.question)
    status, verdict, base, before, after, testing = ask(handlers, filled)
    assert "?example=count" in status and "Link to this question" in status
    assert "The correct answer is 1." in before["value"]
    assert (verdict["visible"], base["visible"], after["visible"], testing["visible"]) == (False, False, False, True)
    status, verdict, *_, after, testing = last(handlers.test("swap")(example.other, REQUEST))
    assert after["visible"] and "Swap image" in after["value"] and "The correct answer is 3." in after["value"]
    assert "The correct answer" not in last(handlers.test("blank")(None, REQUEST))[4]["value"]


def test_another_question_about_an_example_has_no_known_answer(handlers: Handlers) -> None:
    token = handlers.store.examples[0].token
    status, *_, before, _, _ = last(handlers.ask(token, "What?", handlers.engine.offered[0], "medium", 1, REQUEST))
    assert "The correct answer" not in before["value"] and "question=What%3F" in status


def test_a_link_is_asked_only_with_its_image(handlers: Handlers) -> None:
    filled = handlers.link(event(query="?example=count&question=Is+it+red%3F"), REQUEST)
    assert filled[3:] == ("Is it red?", handlers.engine.offered[0], "medium", 1)
    assert "Done" in ask(handlers, filled)[0]
    for query, said in (("?question=Why%3F", "choose the image"), ("?example=x", "does not have"), (3, "too long")):
        filled = handlers.link(event(query=query), REQUEST)
        assert said in filled[0]
        assert all(not isinstance(one, str) for one in ask(handlers, filled))  # nothing changes, nothing is asked
    handlers.begin(REQUEST)  # the visitor has chosen an image and asks
    token = handlers.store.examples[0].token
    assert "Done" in last(handlers.ask(token, "Why?", handlers.engine.offered[0], "medium", 1, REQUEST))[0]


def test_two_models_answer_side_by_side_and_the_difference_is_named(pair: Handlers) -> None:
    assert pair.engine.offered == [BOTH, "a (base)", "b (trained)", "tiny"]
    filled = pair.example(event(n=0), REQUEST)
    _, image, _, question, *_ = filled
    yields = list(pair.ask(image, question, BOTH, "medium", 1, REQUEST))
    shown = [(one[2]["value"], one[3]["value"]) for one in yields if isinstance(one[2], dict) and "value" in one[2]]
    assert any("a (base)" in base and "b (trained)" in before and "waiting" in before for base, before in shown)
    assert "Answer: <strong>1</strong>" in shown[-1][0]  # the base's whole answer was drawn before the other began
    _, verdict, _, before, _, testing = yields[-1]
    assert "a (base) answers <strong>1</strong>, b (trained) answers <strong>2</strong>." in verdict["value"]
    assert "The correct answer is <strong>1</strong>." in verdict["value"]
    assert "Answer: <strong>2</strong>" in before["value"] and not testing["visible"]  # a server cannot be tested
    _, verdict, base, before, *_ = ask(pair, filled, "a (base)")
    assert not verdict["visible"] and not base["visible"] and "Answer: <strong>1</strong>" in before["value"]


def test_stop_ends_both(pair: Handlers) -> None:
    _, image, _, question, *_ = pair.example(event(n=0), REQUEST)
    yields = pair.ask(image, question, BOTH, "medium", 1, REQUEST)
    next(yields)
    pair.stop(REQUEST)
    _, _, base, before, *_ = last(yields)
    session = pair.sessions.of("one")
    assert session.base is not None and session.before is None
    assert base["visible"] and not before["visible"]


def test_no_pair_no_choice_of_both(handlers: Handlers) -> None:
    with pytest.raises(ConfigError, match="not offered"):
        handlers.engine.models_of(BOTH)


def test_numbers_that_are_no_example(handlers: Handlers) -> None:
    for number in (-1, 99, True, "0", None):
        filled = handlers.example(event(n=number), REQUEST)
        assert all(not isinstance(one, str) for one in filled)
        assert all(not isinstance(one, str) for one in ask(handlers, filled))


def test_a_response_that_repeats_itself_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "I look at the image once more. " * 30
    monkeypatch.setattr(demo.engine, "load_for_asking", lambda *_: ScriptedBackend([text]))
    handlers = Handlers(Engine(["openai:m@http://127.0.0.1:1/v1"]), ImageStore(), Sessions())
    status, *_, before, _, _ = ask(handlers, handlers.example(event(n=0), REQUEST))
    assert "The response repeats itself." in status and "The response repeats itself." in before["value"]
    assert "Answer: <strong>none</strong>" in before["value"]
