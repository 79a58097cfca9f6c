"""A hub that cannot be reached is asked once, what is cached is used, and the sentence names what helps."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from huggingface_hub import constants

from configs.errors import UserError
from train.config import SftOptions
from train.reader import load_reader
from vlm import hub
from vlm.load import load_vlm

pytestmark = pytest.mark.seam

NAME = "someone/some-model"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that answers 404 to everything; the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    online(monkeypatch, f"http://127.0.0.1:{listening.server_port}")
    yield asked
    listening.shutdown()
    listening.server_close()


def online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_hub_that_answers_is_asked(server: list[str]) -> None:
    assert hub.why_unreachable() is None and len(server) == 1
    with hub.cache_alone(None):
        assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_does_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch, "http://127.0.0.1:9")
    why = hub.why_unreachable()
    assert why is not None and "refused" in why
    with hub.cache_alone(why):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_offline_by_choice_asks_nothing(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.why_unreachable() == "HF_HUB_OFFLINE is set" and server == []


@pytest.mark.parametrize("offline", [False, True])
def test_a_model_that_is_nowhere_is_said_at_once(
    offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    online(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the hub's client tries again"))
    first = "unset HF_HUB_OFFLINE" if offline else "connect this machine"
    for load in (lambda: load_vlm(NAME), lambda: load_reader(SftOptions(model=NAME))):
        with pytest.raises(UserError) as error:
            load()
        assert all(words in str(error.value) for words in (NAME, first, "HF_HOME", "local folder"))


def test_a_cached_model_loads_without_the_network(monkeypatch: pytest.MonkeyPatch, tiny_vlm_dir: Path) -> None:
    """Each file is looked up where it is cached, and the hub's client is not asked for any."""
    online(monkeypatch, "http://127.0.0.1:9")
    asked: list[bool] = []

    def cached(loader: Any) -> Any:
        def load(name: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(constants.HF_HUB_OFFLINE)
            return loader(str(tiny_vlm_dir) if name == NAME else name, *args, **kwargs)

        return load

    for kind in ("AutoConfig", "AutoProcessor", "AutoModelForImageTextToText"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", cached(getattr(transformers, kind).from_pretrained))
    assert load_vlm(NAME).reads_images
    assert len(asked) >= 3 and all(asked) and not constants.HF_HUB_OFFLINE


def test_a_cache_that_cannot_be_written_is_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file" / "cache"))
    for unreachable in (None, "no network"):
        assert "set HF_HOME to a folder that can be" in hub.hub_remedy(unreachable)


def test_what_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert hub.why_not_writable(tmp_path) is None and hub.why_not_writable(tmp_path / "not" / "yet") is None
    assert hub.why_not_writable(tmp_path / "file") == "Not a directory"
    assert hub.why_not_writable(tmp_path / "file" / "below") == "Not a directory"
    assert hub.why_not_writable("/proc/nothing/below") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_last_of_several_threads_puts_the_flag_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first, second = hub.cache_alone("no network"), hub.cache_alone("no network")
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE
    second.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE
