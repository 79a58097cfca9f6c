"""Asking, stopping and testing without a page."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import demo.engine
from configs.errors import ConfigError, UserError
from demo.engine import MODELS_KEPT, Engine, Run, Sessions
from vlm.backends import BackendError, ScriptedBackend
from vlm.reasoning import CUE

IMAGE = Image.effect_noise((96, 96), 90).convert("RGB")
OTHER = Image.effect_noise((50, 70), 90).convert("RGB")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the limit would end runs that these tests want to see to their end."""
    monkeypatch.setattr(demo.engine, "RUN_SECONDS", 3600.0)


@pytest.fixture
def engine(tiny_vlm_dir: Path) -> Engine:
    return Engine([str(tiny_vlm_dir)])


def ask(engine: Engine, effort: str = "low", votes: int = 1, stop: threading.Event | None = None) -> list[Run]:
    (name,) = engine.names
    seen = []
    for run in engine.ask(name, IMAGE, "How many stars?", effort, votes, stop or threading.Event()):
        seen.append(Run(**vars(run)))
    return seen


def test_a_run_grows_and_is_watched_at_its_end(engine: Engine) -> None:
    seen = ask(engine)
    assert [run.text for run in seen] == sorted((run.text for run in seen), key=len) and len(seen) > 20
    *growing, last = seen
    assert last.state == "done" and last.attention is not None and all(run.attention is None for run in growing)
    assert sum(len(s.text) for s in last.attention.sentences) <= len(last.text)
    assert last.tokens > 0 and last.votes is not None


def test_votes_are_counted(engine: Engine) -> None:
    last = ask(engine, "off", votes=4)[-1]
    assert last.state == "done" and sum(last.votes.values()) <= 4 and 0 <= last.agreement <= 1


def test_stop_ends_a_run_at_once_and_keeps_what_was_written(engine: Engine) -> None:
    stop, seen = threading.Event(), []
    (name,) = engine.names
    for run in engine.ask(name, IMAGE, "How many?", "high", 1, stop):
        seen.append(run.text)
        if len(seen) == 5:
            stop.set()
    assert run.state == "stopped" and run.attention is not None and run.answer is None
    assert len(seen) <= 7  # the piece that was under way, and the end


def test_a_run_ends_at_the_time_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.engine, "RUN_SECONDS", 0.0)
    last = ask(engine, "high")[-1]
    assert last.state == "late" and "limit of 0 seconds" in last.note


def finished(engine: Engine, text: str) -> Run:
    (name,) = engine.names
    return Run(name, IMAGE, "How many stars?", "off", text=text, state="done", answer="1")


TEXT = "<think> row 1: star. Let me look at the image again. row 2: none. </think> \\boxed{1}"


@pytest.mark.parametrize(
    ("kind", "given", "image"),
    [
        ("again", f"<think> row 1: star. Let me look at the image again. row 2: none. {CUE}", IMAGE),
        ("swap", "<think> row 1: star. Let me look at the image again", OTHER.resize(IMAGE.size)),
        (
            "blank",
            "<think> row 1: star. Let me look at the image again",
            Image.new("RGB", IMAGE.size, (127, 127, 127)),
        ),
    ],
)
def test_a_test_goes_on_from_the_models_own_words(engine: Engine, kind: str, given: str, image: Image.Image) -> None:
    *_, run = engine.test(kind, finished(engine, TEXT), OTHER, threading.Event())
    assert run.text.startswith(given) and len(run.text) > len(given) == run.given
    assert run.image.tobytes() == image.tobytes() and run.state == "done" and run.attention is not None


def test_a_text_without_blanks_is_cut_at_half(engine: Engine) -> None:
    *_, run = engine.test("blank", finished(engine, "看图看图看图看图\\boxed{1}"), None, threading.Event())
    assert run.text.startswith("看图看图") and run.given == 4


def test_what_cannot_be_tested(engine: Engine) -> None:
    with pytest.raises(UserError, match="Choose the other image first"):
        list(engine.test("swap", finished(engine, TEXT), None, threading.Event()))
    with pytest.raises(UserError, match="no reasoning to interrupt"):
        list(engine.test("blank", finished(engine, "\\boxed{1}"), None, threading.Event()))


def served(monkeypatch: pytest.MonkeyPatch, script: Any) -> Engine:
    monkeypatch.setattr(demo.engine, "load_for_asking", lambda *_: ScriptedBackend(script))
    return Engine(["openai:m@http://127.0.0.1:1/v1"])


def test_a_server_answers_without_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served(monkeypatch, ["<think> a </think> \\boxed{2}"] * 5)
    assert list(engine.names) == ["m"]  # its address is not the visitor's to see
    last = ask(engine)[-1]
    assert (last.answer, last.attention, last.state) == ("2", None, "done") and "does not show" in last.note
    assert ask(engine, votes=4)[-1].votes == {"2": 4}
    with pytest.raises(UserError, match="cannot continue from a prefix"):
        list(engine.test("again", finished(engine, TEXT), None, threading.Event()))


def test_a_server_that_hangs_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: Any) -> str:
        import asyncio

        await asyncio.sleep(20)
        return ""

    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    assert ask(served(monkeypatch, hang), stop=stop)[-1].state == "stopped"
    assert time.monotonic() - started < 10


def test_a_server_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no connection"):
        ask(served(monkeypatch, [BackendError("no connection")]))


def test_only_models_that_were_offered(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    engine = Engine([str(tiny_vlm_dir), str(tmp_path / "x" / tiny_vlm_dir.name), "tiny"])
    assert list(engine.names) == ["tiny-vlm", "tiny-vlm (2)", "tiny"]
    for name in ("/etc", str(tiny_vlm_dir), "", None, ["tiny"], 3):
        with pytest.raises(ConfigError, match="not offered"):
            engine.model(name)
    assert engine.model("tiny-vlm") is engine.model("tiny-vlm") and MODELS_KEPT == 2


def test_sessions_are_apart_and_bounded() -> None:
    sessions = Sessions(capacity=2)
    first, second = sessions.of("a"), sessions.of("b")
    assert first is not second and sessions.of("a") is first
    sessions.of("c")
    assert second.stop.is_set() and sessions.of("b") is not second
    old = first.stop
    first.restart()
    assert old.is_set() and not first.stop.is_set()
    sessions.drop("c"), sessions.drop("nobody"), sessions.drop(None)
    with pytest.raises(UserError, match="reload the page"):
        sessions.of(None)
