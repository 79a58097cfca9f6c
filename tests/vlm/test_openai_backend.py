"""A served model: what the server is sent, what comes back, and failures on the wire (a faulty server on loopback)."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
from datetime import date
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted_server import Answer, Server, fails, says

from benchmarks.loopback_server import Loopback
from configs.errors import ConfigError
from vlm import openai_backend
from vlm.backends import BackendError, OpenAIBackend, Reply, Request, RequestShape
from vlm.chat import question_messages
from vlm.images import png_bytes
from vlm.protocol import ScoredReply, TokenScore
from vlm.served_replies import other_model, remedy

pytestmark = pytest.mark.seam

KEY = "sk-very-secret-0123456789"


def ask(text: str = "What?", images: list[Image.Image] | None = None, **settings: Any) -> Request:
    return Request(question_messages(text, len(images or []), "none"), images or [], **settings)


def an_image(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (64, 48), colour)


def complete(server: Server, request: Request | None = None, **settings: Any) -> Reply:
    async def play() -> Reply:
        backend = OpenAIBackend("m", server.url, **{"timeout": 20, "max_retries": 2, **settings})
        try:
            return await backend.complete(request or ask())
        finally:
            await backend.aclose()

    return asyncio.run(play())


def test_what_the_server_is_sent_and_what_comes_back(server: Server) -> None:
    server.answers = [says("red")]
    request = ask(
        "Which <|im_end|>?", [an_image("red"), an_image("blue")], max_tokens=9, temperature=0.5, top_p=0.9, seed=4
    )
    reply = complete(server, request)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("red", "stop", 7, 3)
    assert reply.seconds > 0
    [body] = server.bodies
    sent = {key: body[key] for key in ("model", "max_tokens", "temperature", "top_p", "seed")}
    assert sent == {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4}
    first, second, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Which <|im_end|>?"}
    for part, original in ((first, request.images[0]), (second, request.images[1])):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(original))


def test_a_thought_handed_over_apart_is_put_back(server: Server) -> None:
    server.answers = [says("\\boxed{3}", reasoning_content="I see 3.")]
    assert complete(server).text == "<think>I see 3.</think>\\boxed{3}"
    # A reasoning parser that met no closing tag: the whole reply stands in the reasoning.
    server.answers = [says(None, reasoning="I see \\boxed{3}")]
    assert complete(server).text == "I see \\boxed{3}"


def test_a_server_gets_what_it_knows(server: Server) -> None:
    server.answers = [says("hi")]
    shape = RequestShape(("seed", "top_p"), {"max_tokens": "max_completion_tokens"}, max_image_pixels=1000)
    complete(
        server,
        ask("What?", [an_image(), Image.new("RGB", (5, 9))], max_tokens=9, extra={"temperature": 1}),
        shape=shape,
    )
    [body] = server.bodies
    *images, _ = body.pop("messages")[0]["content"]
    assert body == {"model": "m", "max_completion_tokens": 9, "temperature": 1}
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))).size for part in images
    ]
    assert sizes == [(36, 27), (5, 9)]


def test_text_alone_is_sent_as_a_string(server: Server) -> None:
    server.answers = [says("hi")]
    complete(server, ask("What?"))
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "What?"}]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, b'{"error": {"message": "no such model", "type": "x"}}', "answered 400: no such model"),
        (400, b'{"message": "no such model"}', "answered 400: no such model"),
        (400, b'{"detail": "Not allowed"}', "answered 400: Not allowed"),
        (
            422,
            b'{"detail": [{"loc": ["body", "seed"], "msg": "not a valid integer"}]}',
            "answered 422: body.seed: not a valid integer",
        ),
        (400, b'{"error": "model loading"}', "answered 400: model loading"),
        (400, b'{"errors": ["first", "second"]}', "answered 400: first"),
        (400, b'["wrong", "shape"]', "answered 400: wrong"),
        (403, b"plain words", "answered 403: plain words"),
        (403, b"<html><head><title>403 Forbidden</title></head><body>x</body></html>", "answered 403: 403 Forbidden"),
        (403, b"<html><style>p {}</style><body><p>Access &amp; rights</p></body>", "answered 403: Access & rights"),
        (
            400,
            b'{"error": {"message": "Provider returned error", "metadata": {"raw": "{\\"error\\": \\"too hot\\"}"}}}',
            "answered 400: too hot",
        ),
        (400, b"", "answered 400 without a reason"),
        (200, b'{"error": {"message": "overloaded", "code": 529}}', "an error: overloaded"),
        (200, b'{"choices": [{"error": {"message": "gone"}, "message": {"content": ""}}]}', "an error: gone"),
        (400, b'{"error": ' + b"[" * 9000, "answered 400: ."),
        (400, b'{"message": "' + b"x" * 9000 + b'"}', "answered 400: x{199}…"),
    ],
)
def test_the_reason_of_the_server_is_shown(server: Server, status: int, body: bytes, reason: str) -> None:
    server.answers = [lambda request: (status, {}, body)]
    with pytest.raises(BackendError, match=reason) as caught:
        complete(server, max_retries=0)
    assert "Error code" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (429, b'{"error": {"message": "You exceeded your current quota"}}', "quota"),
        (402, b"{}", "quota"),
        (429, b'{"error": {"message": "Rate limit reached"}}', "status_429"),
        (401, b"{}", "status_401"),
        (200, b'{"error": "x"}', "server_error"),
    ],
)
def test_the_kind_of_failure_is_one_word(server: Server, status: int, body: bytes, name: str) -> None:
    server.answers = [lambda request: (status, {}, body)]
    with pytest.raises(BackendError) as caught:
        complete(server, max_retries=0)
    assert caught.value.name == name


def test_a_forgotten_v1_and_a_proxy_get_their_remedy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [fails(404, "Not Found")]
    server.url = server.url.removesuffix("/v1")
    with pytest.raises(BackendError, match="ends in /v1"):
        complete(server, max_retries=0)
    assert remedy(404, "http://h/v1") == remedy(400, "http://h") == ""
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
        "HTTPS_PROXY",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert "NO_PROXY" in remedy(503, "http://127.0.0.1:8000/v1") and remedy(503, "http://far/v1") == ""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert remedy(503, "http://127.0.0.1:8000/v1") == ""


@pytest.mark.parametrize(
    ("message", "ended", "text", "reason"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "stop", "ab", "stop"),
        ({"content": ["a", "b"]}, "end_turn", "ab", "stop"),
        (
            {"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]},
            "stop",
            "<think>t</think>a",
            "stop",
        ),
        ({"content": "a"}, None, "a", "stop"),
        ({"content": "a"}, "max_tokens", "a", "length"),
        ({"content": "a"}, "MAX_TOKENS", "a", "length"),
        ({"content": "a"}, "content_filter", "a", "filtered"),
        ({"content": "a"}, "SAFETY", "a", "filtered"),
        ({"content": None, "refusal": "I cannot."}, "stop", "I cannot.", "filtered"),
        ({"content": "a"}, "error", "a", "failed"),
        ({"content": "a"}, "tool_calls", "a", "tool_calls"),
        ({"content": "", "reasoning_content": "all of it"}, "stop", "all of it", "stop"),
        ({"content": "", "reasoning_content": "so far"}, "length", "<think>so far", "length"),
    ],
)
def test_replies_are_read_in_every_shape(
    server: Server, message: dict[str, Any], ended: Any, text: str, reason: str
) -> None:
    body = {
        "choices": [{"index": 0, "finish_reason": ended, "message": {"role": "assistant", **message}}],
        "usage": None,
    }
    server.answers = [lambda request: (200, {}, json.dumps(body).encode())]
    reply = complete(server)
    assert (reply.text, reply.finish_reason) == (text, reason)


def test_the_key_comes_from_the_environment_and_stays_out_of_sight(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-host")
    server.answers = [says("hi")]
    caplog.set_level(0)
    complete(server)
    assert "sk-of-another-host" not in str(server.headers)
    complete(server, api_key_env="MY_KEY")
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    backend = OpenAIBackend("m", server.url, "MY_KEY")
    assert KEY not in f"{backend!r} {backend.name} {vars(backend)}"
    server.answers = [fails(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(BackendError, match=r"the server answered 401: .*\*\*\*") as caught:
        complete(server, api_key_env="MY_KEY")
    assert KEY not in str(caught.value) and KEY not in caplog.text
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        OpenAIBackend("m", server.url, "MY_KEY")


def test_passing_failures_are_retried(server: Server) -> None:
    server.answers = [fails(429, **{"Retry-After": "0"}), fails(500), says("at last")]
    assert complete(server).text == "at last" and len(server.bodies) == 3
    server.answers = [lambda request: (0, {}, b""), says("again")]
    assert complete(server).text == "again"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fails(400, "too long"), "answered 400: .*too long"),
        (fails(500, "broken"), "answered 500"),
        (lambda request: (0, {}, b""), "no connection"),
        (lambda request: (200, {}, b"not json"), "."),
        (lambda request: (200, {}, b"[]"), "."),
        (lambda request: (200, {}, b"{}"), "no choices"),
        (lambda request: (200, {}, b'{"choices": []}'), "no choices"),
        (lambda request: (200, {}, b'{"choices": [{"index": 0}]}'), "cannot be read"),
        (lambda request: (200, {}, b'{"choices": [{"message": {"content": 5}}]}'), "not text"),
        (lambda request: (200, {}, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'), "."),
        (lambda request: (200, {"Content-Type": "text/html"}, b"<html>proxy</html>"), "."),
        (lambda request: (200, {"Content-Length": "9999"}, b'{"choices'), "."),
    ],
)
def test_unusable_replies_are_named(server: Server, answer: Answer, reason: str) -> None:
    server.answers = [answer]
    with pytest.raises(BackendError, match=reason) as caught:
        complete(server, max_retries=0, timeout=3)
    assert str(caught.value).startswith(f"openai:m@{server.url}: ") and "\n" not in str(caught.value)


def test_no_server_and_a_silent_one(server: Server) -> None:
    async def nobody() -> None:
        await OpenAIBackend("m", "http://127.0.0.1:9/v1", max_retries=0).complete(ask())

    with pytest.raises(BackendError, match="is the server running"):
        asyncio.run(nobody())
    silence = threading.Event()
    server.answers = [lambda request: (200, {}, str(silence.wait(5)).encode())]
    with pytest.raises(BackendError, match=r"no reply within 0\.3 s"):
        complete(server, timeout=0.3, max_retries=0)
    silence.set()


def test_a_host_that_does_not_answer_is_not_waited_for_as_long_as_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.openai_backend.CONNECT_SECONDS", 0.3)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(
            0
        )  # nobody accepts: behind the first connections the kernel drops the others, as a host that is down does
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        backend = OpenAIBackend("m", f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout=600, max_retries=0)
        with pytest.raises(BackendError, match="the host does not answer: is the server running") as caught:
            asyncio.run(asyncio.wait_for(backend.complete(ask()), 60))
    assert caught.value.name == "no_connection"


def test_a_server_that_answers_as_another_model_is_told_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"model": "of\x1bothers", "choices": [{"message": {"content": "red"}, "finish_reason": "stop"}]}
    server.answers = [lambda request: (200, {}, json.dumps(body).encode())] * 2

    async def twice() -> list[Reply]:
        backend = OpenAIBackend("m7", server.url)
        replies = [await backend.complete(ask()) for _ in range(2)]
        await backend.aclose()
        return replies

    assert [reply.text for reply in asyncio.run(twice())] == ["red", "red"]
    said = capsys.readouterr().err
    assert said.count("the server answers as of\\x1bothers: check the model's name") == 1


@pytest.mark.parametrize(
    ("asked", "named", "other"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("Qwen/Qwen3-32B", "qwen3-32b", False),
        ("vlm/models/tiny-vlm", "/data/vlm/models/tiny-vlm", False),
        ("gemma", "gemma-3-270m-q4_k_m.gguf", False),
        ("nobody", "gemma-3-270m", True),
        ("nobody", None, False),
        ("nobody", ["x"], False),
    ],
)
def test_names_of_one_model(asked: str, named: object, other: bool) -> None:
    assert bool(other_model(asked, {"model": named})) is other
    assert other_model(asked, [named]) == ""


def test_images_and_parts_must_match(server: Server) -> None:
    server.answers = [says("hi")]
    for parts, images in ((2, [an_image()]), (0, [an_image()])):
        with pytest.raises(BackendError, match="images than image parts"):
            complete(server, Request(question_messages("What?", parts), images))
    assert server.bodies == []


def test_the_body_is_what_the_client_itself_would_write(server: Server) -> None:
    server.answers = [says("hi")]
    parts = [{"type": "text", "text": 'a "quote", \\ and 图片 \u2028'}, {"type": "image"}, {"type": "text", "text": ""}]
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "?"},
    ]
    extra = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "messages": [], "model": "another"}
    request = Request(messages, [an_image("blue")], max_tokens=5, temperature=0.25, seed=2**47 + 1, extra=extra)
    complete(server, request)
    [sent] = server.bodies
    image = {"type": "image_url", "image_url": {"url": sent["messages"][1]["content"][1]["image_url"]["url"]}}
    turns = [messages[0], {"role": "user", "content": [parts[0], image, parts[2]]}, messages[2]]
    settings = {"model": "m", "messages": turns, "max_tokens": 5, "temperature": 0.25, "top_p": 1.0, "seed": 1}
    assert sent == extra | settings

    async def by_the_client() -> None:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=server.url, api_key="none") as client:
            await client.post("/chat/completions", cast_to=object, body=sent)

    asyncio.run(by_the_client())
    assert server.raw[0] == server.raw[1]
    assert server.headers[0]["content-type"] == server.headers[1]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("text", "extra"),
    [("?", {"a": float("nan")}), ("?", {"a": {1, 2}}), ("?", {"a": date(2026, 1, 1)}), ("\ud800", {})],
)
def test_what_is_no_json_is_a_named_error(server: Server, text: str, extra: dict[str, Any]) -> None:
    request = Request([{"role": "user", "content": [{"type": "text", "text": text}]}], extra=extra)
    with pytest.raises(BackendError, match=r"^openai:m@.*: the request cannot be written as JSON"):
        complete(server, request)
    assert server.raw == []


def test_an_image_in_use_is_encoded_once_and_like_a_fresh_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(openai_backend, "png_bytes", lambda image: written.append(id(image)) or png_bytes(image))
    server.answers = [says("hi")]
    red, blue = an_image("red"), an_image("blue")

    async def play() -> int:
        backend = OpenAIBackend("m", server.url)
        for images in ([red], [red, blue], [blue], [blue, red]):
            await backend.complete(ask("What?", images))
        await backend.complete(ask("What?", [an_image("red")]))
        await backend.aclose()
        return len(backend._parts._kept)

    assert asyncio.run(play()) == 2  # the last image is gone, and what was written of it too
    assert len(written) == 3 and written[:2] == [id(red), id(blue)]
    for body, images in zip(server.bodies, ([red], [red, blue], [blue], [blue, red], [red]), strict=True):
        urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:-1]]
        assert urls == [f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}" for image in images]


def test_encoded_images_are_kept_up_to_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_backend, "MAX_ENCODED", 700)
    server.answers = [says("hi")]
    images = [an_image(colour) for colour in ("red", "blue", "lime")]

    async def play() -> int:
        backend = OpenAIBackend("m", server.url)
        for _ in range(2):
            await backend.complete(ask("What?", images))
        return sum(len(part) for _, part in backend._parts._kept.values())

    assert 0 < asyncio.run(play()) <= 700
    assert server.bodies[0] == server.bodies[1]


def test_connections_are_reused_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Loopback):
        opened = 0

        async def _serve(self, *stream: Any) -> None:
            self.opened += 1
            await super()._serve(*stream)

    async def play(concurrency: int, requests: int) -> tuple[int, int, int]:
        loopback = Counting(delay=0.02)
        listening = await loopback.start()
        backend = OpenAIBackend("m", loopback.url, concurrency=concurrency)
        for _ in range(2):
            await asyncio.gather(*(backend.complete(ask(f"{n}")) for n in range(requests)))
        assert backend._clients is not None
        clients, busy = len(backend._clients._clients), sum(backend._clients._busy)
        await backend.aclose()
        listening.close()
        assert busy == 0 and loopback.counts["ok"] == 2 * requests
        return loopback.most, loopback.opened, clients

    assert asyncio.run(play(20, 60)) == (20, 20, 3)  # 8 + 8 + 4
    assert asyncio.run(play(20, 1)) == (1, 1, 1)
    assert asyncio.run(play(1, 10)) == (1, 1, 1)


def test_one_server_backend_serves_one_event_loop_after_another(server: Server) -> None:
    server.answers = [says("hi")]
    backend = OpenAIBackend("m", server.url)
    assert asyncio.run(backend.complete(ask())).text == asyncio.run(backend.complete(ask())).text == "hi"


@pytest.mark.parametrize("url", ["host:8000", "ftp://host/v1", "http://", "http://user:pass@host/v1"])
def test_urls(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIBackend("m", url)
    assert "pass@" not in str(caught.value)


def scored(*entries: Any) -> Answer:
    """A reply of which each token is (token, log-probability, top_logprobs)."""
    content = [
        entry
        if not isinstance(entry, tuple)
        else {"token": entry[0], "logprob": entry[1], "top_logprobs": [{"token": t, "logprob": p} for t, p in entry[2]]}
        for entry in entries
    ]
    message = {"role": "assistant", "content": "red"}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": content}}
    return lambda request: (200, {}, json.dumps({"choices": [choice], "usage": {}}).encode())


def test_log_probabilities_are_asked_for_and_read(server: Server) -> None:
    server.answers = [scored(("re", -0.5, [("re", -0.5), ("blu", -1)]), ("d", -2, [("d.", -1)]), ("!", -3.0, []))]
    reply = complete(server, ask(top_logprobs=2))
    assert isinstance(reply, ScoredReply) and server.bodies[0]["logprobs"] and server.bodies[0]["top_logprobs"] == 2
    assert reply.scores == (TokenScore("re", -0.5, "re"), TokenScore("d", -2.0, "d."), TokenScore("!", -3.0, None))
    assert not isinstance(complete(server), ScoredReply) and "logprobs" not in server.bodies[1]


@pytest.mark.parametrize(
    "fault",
    [
        None,
        "x",
        {},
        {"token": 3, "logprob": -1},
        {"token": "a"},
        {"token": "a", "logprob": True},
        {"token": "a", "logprob": "-1"},
    ],
)
def test_log_probabilities_end_where_one_is_malformed(server: Server, fault: Any) -> None:
    server.answers = [scored(("re", -0.5, []), fault, ("d", -1, []))]
    reply = complete(server, ask(top_logprobs=2))
    assert isinstance(reply, ScoredReply) and [one.token for one in reply.scores] == ["re"] and reply.text == "red"


def test_log_probabilities_are_bounded_and_spell_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [scored(*[("a" * 900, -1, [])] * 50)]
    reply = complete(server, ask(top_logprobs=2, max_tokens=4))
    assert isinstance(reply, ScoredReply) and len(reply.scores) == 5 and len(reply.scores[0].token) == 200
    monkeypatch.setenv("MY_KEY", KEY)
    server.answers = [scored(*[(letter, -1, []) for letter in KEY])]
    reply = complete(server, ask(top_logprobs=2, max_tokens=100), api_key_env="MY_KEY")
    assert isinstance(reply, ScoredReply) and reply.scores == ()
    for odd in ([], "x", {"content": 3}, None, {"tokens": []}):
        body = json.dumps({"choices": [{"message": {"content": "red"}, "logprobs": odd}]}).encode()
        server.answers = [lambda request, body=body: (200, {}, body)]
        assert complete(server, ask(top_logprobs=2)).text == "red"
