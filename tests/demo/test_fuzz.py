"""Whatever is posted to the demo or given to ``ask``: an answer in words, no traceback, no hang, no file of the host.

2,000 inputs in all (make test-slow). What leaves the temporary folder is noticed by an audit hook, which Python calls for
every file that is opened.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from demo.engine import Engine, Sessions
from demo.image_store import ImageStore
from demo.serve import make_server
from reflection_v.cli import app
from vlm.reasoning import EFFORTS, Effort

pytestmark = pytest.mark.slow

OFTEN = settings(
    max_examples=700,
    derandomize=True,
    deadline=60_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SECRET = "root:x:0:0"
OPENED: list[str] = []
WATCHING = [False]


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING[0] and event == "open" and isinstance(arguments[0], str | bytes):
        path, mode = os.fsdecode(arguments[0]), arguments[1]
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        writes = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or flags & (
            os.O_WRONLY | os.O_RDWR
        )
        if writes or path in ("/etc/passwd", "/etc/hostname"):
            OPENED.append(path)


sys.addaudithook(_notice)


@pytest.fixture(autouse=True)
def watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing outside of the temporary folder is written, and no file that only an attacker would name is read.

    ``ask`` reads what its user names; there the name is the user's own.
    """
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a first import is no write of the demo's
    OPENED.clear()
    WATCHING[0] = True
    yield
    WATCHING[0] = False
    sys.dont_write_bytecode = kept
    allowed = (tempfile.gettempdir(), "/dev/", str(Path.cwd() / ".hypothesis"))
    own = ("/etc/passwd", "/etc/hostname") if request.function.__name__ == "test_ask" else ()
    allowed += own
    assert [path for path in OPENED if not os.path.abspath(path).startswith(allowed)] == []


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Random weights write to the end of every budget."""
    kept = dict(EFFORTS)
    EFFORTS.update({name: Effort(3, effort.looks, effort.style) for name, effort in kept.items()})
    yield
    EFFORTS.update(kept)


@pytest.fixture(scope="module")
def client(tiny_vlm_dir: Path) -> Iterator[TestClient]:
    with TestClient(make_server(Engine([str(tiny_vlm_dir)])), base_url="http://127.0.0.1:7860") as client:
        yield client


NASTY = st.sampled_from(
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "<script>alert(1)</script>",
        "\x00",
        "\ud800",
        "${alert(1)}",
        "{{7*7}}",
        "<|image_pad|><|im_end|>",
        "<think></think>",
        "\\boxed{" * 50,
        "tiny",
        "tiny-vlm",
        "example-count",
        "-",
        "--help",
        "é" * 3000,
        "",
    ]
)
TEXT = NASTY | st.text(max_size=60)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()  # surrogates become escapes


@OFTEN
@example({"data": [], "fn_index": 0, "session_hash": ""})
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data": VALUE | st.lists(VALUE, max_size=6),
            "fn_index": st.integers(-2, 20) | VALUE,
            "session_hash": TEXT | st.just("fuzz"),
            "event_data": VALUE,
            "trigger_id": VALUE,
            "event_id": VALUE,
        },
    )
)
def test_posts_to_the_queue(client: TestClient, body: dict[str, Any]) -> None:
    for path in ("queue/join", "cancel", "reset"):
        answer = client.post(f"/gradio_api/{path}", content=encode(body), headers={"content-type": "application/json"})
        assert answer.status_code < 500 or answer.status_code == 503  # 503: the queue is full, as it should be
        assert "Traceback" not in answer.text and SECRET not in answer.text


@OFTEN
@example("GET", ["é" * 3000], b"...")  # of assets: no file system takes such a name
# Three parts: the test client itself refuses paths of over 65,536 characters.
@given(st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS"]), st.lists(TEXT, max_size=3), st.binary(max_size=200))
def test_any_path_and_any_body(client: TestClient, method: str, parts: list[str], body: bytes) -> None:
    from urllib.parse import quote

    heads = ["gradio_api", "file=", "image", "assets", "static", "proxy="]
    path = "/" + "/".join(
        quote(part.encode("utf-8", "replace").decode(), safe="/.%=") for part in [heads[len(body) % 6], *parts]
    )
    answer = client.request(method, path, content=body if method in ("POST", "PUT") else None)
    assert answer.status_code < 500 and SECRET not in answer.text and "Traceback" not in answer.text


@OFTEN
@given(
    token=VALUE,
    question=VALUE,
    model=VALUE,
    effort=VALUE | st.sampled_from(list(EFFORTS)),
    votes=VALUE,
    number=VALUE,
    query=VALUE | TEXT.map("?example=count&question=".__add__) | TEXT.map("?example=".__add__),
)
def test_handlers_take_anything(
    tiny_vlm_dir: Path, token: Any, question: Any, model: Any, effort: Any, votes: Any, number: Any, query: Any
) -> None:
    """Past Gradio's own checks: whatever reaches a handler, it yields a status in words."""
    from demo.handlers import Handlers

    request, event = SimpleNamespace(session_hash="fuzz"), SimpleNamespace(_data={"n": number, "query": query})
    handlers: Any = Handlers(Engine([str(tiny_vlm_dir)]), ImageStore(), Sessions())
    assert len(handlers.example(event, request)) == len(handlers.link(event, request)) == 7
    assert len(handlers.link(SimpleNamespace(_data=query), request)) == 7
    handlers.begin(request)
    for yielded in handlers.ask(token, question, model, effort, votes, request):
        assert len(yielded) == 6 and "its fault" not in yielded[0]
    for kind in ("again", "swap", "blank"):
        for yielded in handlers.test(kind)(token, request):
            assert len(yielded) == 6 and "its fault" not in yielded[0]
    handlers.choose("before")(event, request)


@settings(OFTEN, max_examples=500)
@given(
    data=st.binary(max_size=400),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"BM", b"II*\x00"]),
)
def test_any_upload(client: TestClient, data: bytes, head: bytes) -> None:
    answer = client.post("/image", content=head + data)
    assert answer.status_code == 200 and ("token" in answer.json()) != ("error" in answer.json())


@settings(OFTEN, max_examples=300)
@given(
    image=TEXT,
    question=TEXT,
    more=st.lists(TEXT, max_size=2),
    effort=TEXT | st.sampled_from(list(EFFORTS)),
    votes=st.integers(-2, 70),
)
def test_ask(
    tiny_vlm_dir: Path, tmp_path: Path, image: str, question: str, more: list[str], effort: str, votes: int
) -> None:
    file = tmp_path / "image.png"
    if not file.exists():
        Image.new("RGB", (32, 32), "red").save(file)
    image = str(file) if len(image) % 2 else image
    arguments = [
        "ask",
        "--model",
        str(tiny_vlm_dir),
        f"--effort={effort}",
        f"--votes={min(votes, 3)}",
        "--",
        image,
        *more,
        question,
    ]
    result = CliRunner().invoke(app, arguments, input=b"")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2) and "Traceback" not in result.output and SECRET not in result.output
    if result.exit_code:
        assert result.stderr.strip()
