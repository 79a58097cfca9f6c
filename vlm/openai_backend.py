"""A model behind an OpenAI-compatible server, through the official async client. No torch here."""

import asyncio
import base64
import contextlib
import functools
import inspect
import json
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from configs.api_key import ApiKey, read_key
from configs.errors import UserError
from configs.model_name import check_url
from vlm.images import png_bytes, scaled_down
from vlm.protocol import BackendError, Reply, Request, ScoredReply, TokenScore
from vlm.served_replies import other_model, read_completion, read_scores, reason_in, remedy, status_name

MAX_BODY = 4 * 2**20
"""Bytes of a server's reply that are read, about 100 times a long answer. A longer reply is an error."""
MAX_ERROR = 2**16
"""Characters of an error's text in which the key is looked for; far more than are shown."""
CONNECT_SECONDS = 10.0
"""The longest wait for a connection. A host that is down drops the request, and the timeout of a reply may be minutes."""
MAX_RETRY_AFTER = 120.0
"""Seconds: the longest Retry-After that the client obeys."""
CONNECTIONS = 8
"""Connections of one client. Its pool examines all of them twice for each request, so several small pools cost less than a large
one."""
MAX_SEED = 2**31
"""Servers hold a seed in 32 bits with a sign; ours have 48."""
_MESSAGE_KEYS = ("role", "tool_calls", "tool_call_id")
"""What a message is sent with besides its content."""
MAX_ENCODED = 256 * 2**20
"""Bytes of encoded images that are kept while the images are in use."""


@dataclass(frozen=True)
class RequestShape:
    """What a server wants otherwise in the body of a request.

    Attributes:
        drop: keys that are not sent, e.g. ``("seed",)``.
        rename: key -> the server's name for it, e.g. ``{"max_tokens": "max_completion_tokens"}``.
        max_image_pixels: a larger image is scaled down to this before it is sent; None sends every image as it is.
    """

    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    max_image_pixels: int | None = None

    def of(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as this server wants them."""
        return {self.rename.get(key, key): value for key, value in settings.items() if key not in self.drop}


class OpenAIBackend:
    """A server that speaks the OpenAI chat API: vLLM, SGLang, ``transformers serve``, or a hosted one.

    Args:
        model: the name under which the server knows it.
        base_url: e.g. ``http://127.0.0.1:8000/v1``.
        api_key_env: name of the environment variable that holds the key (``configs.api_key``). The key is read from there and
            nowhere else, and stands in no repr, log, error or reply: where the server repeats it, ``***`` takes its place.
            Without a name none is sent: one host's key must not reach another.
        timeout: seconds for one attempt.
        max_retries: further attempts after a dropped connection, a timeout, 429 (Retry-After is obeyed) or 5xx.
        concurrency: most requests under way at once; the others wait their turn here, and no timeout runs for them.
        shape: what this server wants otherwise in a request's body.

    Raises:
        ConfigError: the URL is not http(s) or carries a password, or the named variable holds no key.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 4,
        concurrency: int = 128,
        shape: RequestShape | None = None,
    ) -> None:
        host = check_url(base_url)
        self.key: ApiKey | None = None if api_key_env is None else read_key(api_key_env, host)
        self.name = f"openai:{model}@{base_url}"
        self.model, self.base_url, self.api_key_env = model, base_url, api_key_env
        self.timeout, self.max_retries, self.concurrency = timeout, max_retries, concurrency
        self._clients: _Clients | None = None
        self.shape = shape or RequestShape()
        self._parts = _ImageParts(self.shape.max_image_pixels)
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = asyncio.Semaphore(concurrency)

    async def complete(self, request: Request) -> Reply:
        body = await self._body(request)
        clients = self._connect()
        async with self._gate:
            started = time.perf_counter()
            try:
                with clients.one() as client:
                    (text, finish_reason, usage), completion = await self._ask(client, body)
            except ImportError as error:  # of the HTTP library, which tells it when a client is made
                sentence = (
                    f"{self.name}: a SOCKS proxy is set, for which a package is missing ({self._safe(error)}): pip install socksio, "
                    "or unset ALL_PROXY."
                )
                raise BackendError(sentence, "no_connection") from None
            seconds = time.perf_counter() - started
            reply = Reply(self._redact(text), self._redact(finish_reason)[:40], *usage, seconds)
            if request.top_logprobs is None:
                return reply
            return ScoredReply(**vars(reply), scores=self._scores(completion, request.max_tokens))

    def _scores(self, completion: Any, max_tokens: int) -> tuple[TokenScore, ...]:
        """The log-probabilities of a completion; none if its tokens spell the key, which lies in pieces there."""
        scores = read_scores(completion, max_tokens + 1)  # the end token is one more
        for text in ("".join(one.token for one in scores), "".join(one.likeliest or "" for one in scores)):
            if self._redact(text) != text:
                return ()
        return scores

    async def _ask(self, client: Any, body: bytes) -> tuple[tuple[str, str, tuple[int, int]], Any]:
        """What ``read_completion`` reads, and the completion."""
        import openai

        # The client's own timeout starts anew with every byte: a server that drips would hold the episode for ever.
        patience = (self.timeout + MAX_RETRY_AFTER) * (self.max_retries + 1)
        try:
            async with asyncio.timeout(patience):
                # Without the typed front end, which costs as much time as the request itself (see docs/log.md).
                completion = await client.post("/chat/completions", cast_to=object, **{_raw_keyword(): body})
            self._tell_other_name(completion)
            return read_completion(completion), completion
        except BackendError as error:
            raise BackendError(f"{self.name}: {self._safe(error)}", error.name) from None
        except openai.APITimeoutError as error:
            if isinstance(error.__cause__, _http_library().ConnectTimeout):
                sentence = f"{self.name}: the host does not answer: is the server running at this URL?"
                raise BackendError(sentence, "no_connection") from None
            raise BackendError(
                f"{self.name}: no reply within {self.timeout:g} s: raise the timeout or lower the load.", "timeout"
            ) from None
        except openai.APIConnectionError as error:
            reason = self._safe(error.__cause__ or error)
            sentence = f"{self.name}: no connection ({reason}): is the server running at this URL?"
            raise BackendError(sentence, "no_connection") from None
        except openai.APIStatusError as error:
            # Redacted before it is cut: half a key would not be recognized.
            reason = reason_in(self._redact(_body_text(error)[:MAX_ERROR]))
            said = f": {reason}" if reason else " without a reason."
            sentence = (
                f"{self.name}: the server answered {error.status_code}{said}{remedy(error.status_code, self.base_url)}"
            )
            raise BackendError(sentence, status_name(error.status_code, reason)) from None
        except _TooLong:
            sentence = f"{self.name}: the reply is longer than {MAX_BODY // 2**20} MB and was not read."
            raise BackendError(sentence, "too_long") from None
        except TimeoutError:
            raise BackendError(f"{self.name}: no whole reply within {patience:g} s.", "timeout") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
            # a body that is not a completion
            raise BackendError(f"{self.name}: the reply cannot be read ({self._safe(error)}).", "unreadable") from None

    def _tell_other_name(self, completion: Any) -> None:
        """Say once if another model than the named one answers: some servers serve one model under every name."""
        other = other_model(self.model, completion)
        if other and not self._told:
            self._told = True
            sentence = f"{self.name}: the server answers as {self._redact(other)}: check the model's name."
            print(UserError(sentence), file=sys.stderr, flush=True)

    async def aclose(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None and self._loop is asyncio.get_running_loop():
            await clients.aclose()

    async def _body(self, request: Request) -> bytes:
        """The body of the HTTP request."""
        try:
            if all(self._parts.kept(image) is not None for image in request.images):
                return self._encoded(request)
            return await asyncio.to_thread(self._encoded, request)  # a large PNG takes a while to write
        except BackendError as error:
            raise BackendError(f"{self.name}: {error}") from None
        except (ValueError, TypeError, RecursionError) as error:  # NaN or a date in extra_body, half a surrogate pair
            raise BackendError(f"{self.name}: the request cannot be written as JSON ({self._safe(error)}).") from None

    def _encoded(self, request: Request) -> bytes:
        """The request as JSON. The client's own encoder would read every character of the images again."""
        settings: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % MAX_SEED,
        }
        if request.top_logprobs is not None:
            settings |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        # What the config says of this server wins over the settings of the call.
        settings = self.shape.of(settings) | request.extra | {"model": self.model}
        settings.pop("messages", None)
        images = iter(request.images)
        messages = b",".join(self._message(message, images) for message in request.messages)
        if next(images, None) is not None:
            raise BackendError("more images than image parts in the messages.")
        return b'{"messages":[' + messages + b"]," + _json(settings)[1:]

    def _message(self, message: dict[str, Any], images: Iterator[Image.Image]) -> bytes:
        """A message as JSON, with every image written out as a PNG in base64; text alone as a string, since some servers read no parts."""
        content, head = message["content"], {key: message[key] for key in _MESSAGE_KEYS if key in message}
        if not isinstance(content, str) and all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
        if isinstance(content, str):
            return _json(head | {"content": content})
        parts = [_json(part) if part["type"] == "text" else self._parts.of(next(images, None)) for part in content]
        return _json(head)[:-1] + b',"content":[' + b",".join(parts) + b"]}"

    def _connect(self) -> "_Clients":
        """The clients of this event loop: their connections cannot be used from another one."""
        loop = asyncio.get_running_loop()
        if self._clients is None or self._loop is not loop:
            self._clients = _Clients(self._open_client)
            self._loop, self._gate = loop, asyncio.Semaphore(self.concurrency)
        return self._clients

    def _open_client(self, tls: Any) -> Any:
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.key.reveal() if self.key else "none",
            timeout=_http_library().Timeout(self.timeout, connect=min(self.timeout, CONNECT_SECONDS)),
            max_retries=self.max_retries,
            default_headers={"Accept-Encoding": "identity"},
            http_client=_bounded_client(tls),
        )

    def _redact(self, text: str) -> str:
        return self.key.redact(text) if self.key else text

    def _safe(self, error: BaseException) -> str:
        """An error's text on one line, bounded, without the key (servers like to quote it)."""
        text = " ".join(self._redact(str(error)[:MAX_ERROR]).split()) or type(error).__name__
        return text[:500]


class _TooLong(Exception):
    """A body above ``MAX_BODY``."""


class _Clients:
    """Clients with ``CONNECTIONS`` connections each, opened as requests need them.

    Args:
        make: a new client, given the TLS settings that all of them share (certificates take long to load).
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._tls: Any = None
        self._clients: list[Any] = []
        self._busy: list[int] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[Any]:
        """A client with a free connection, which is the caller's until the block ends."""
        number = next((n for n, busy in enumerate(self._busy) if busy < CONNECTIONS), len(self._busy))
        if number == len(self._clients):
            self._tls = self._tls or _http_library().create_ssl_context()
            self._clients.append(self._make(self._tls))
            self._busy.append(0)
        self._busy[number] += 1
        try:
            yield self._clients[number]
        finally:
            self._busy[number] -= 1

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()


class _ImageParts:
    """Image parts of messages as JSON, each kept as long as its image is in use, since an episode shows it in every round.

    An image that was given once must not be changed afterwards.
    """

    def __init__(self, max_pixels: int | None = None) -> None:
        self._max_pixels = max_pixels
        self._kept: dict[int, tuple[weakref.ref[Image.Image], bytes]] = {}

    def kept(self, image: Image.Image) -> bytes | None:
        """The part of this very image, if it is there."""
        made_of, part = self._kept.get(id(image), (None, None))
        return part if made_of is not None and made_of() is image else None

    def of(self, image: Image.Image | None) -> bytes:
        """The part of an image, which is encoded if need be. Safe to call from several threads."""
        if image is None:
            raise BackendError("fewer images than image parts in the messages.")
        if (part := self.kept(image)) is not None:
            return part
        url = b"data:image/png;base64," + base64.b64encode(png_bytes(scaled_down(image, self._max_pixels)))
        part = b'{"type":"image_url","image_url":{"url":"' + url + b'"}}'
        if len(part) + sum(len(other) for _, other in list(self._kept.values())) <= MAX_ENCODED:
            key, kept = id(image), self._kept
            kept[key] = (weakref.ref(image, lambda _: kept.pop(key, None)), part)
        return part


def _json(value: Any) -> bytes:
    """As the client writes JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


@functools.cache
def _raw_keyword() -> str:
    """The argument of the client's ``post`` that takes a finished body: ``content``, in its 2.x releases ``body``."""
    from openai import AsyncOpenAI

    return "content" if "content" in inspect.signature(AsyncOpenAI.post).parameters else "body"


def _http_library() -> Any:
    """The HTTP library that the client was built on (httpx, or a successor of it)."""
    import openai

    return sys.modules[type(openai.DEFAULT_CONNECTION_LIMITS).__module__.partition(".")[0]]


def _bounded_client(tls: Any) -> Any:
    """The client's own HTTP client with ``CONNECTIONS`` connections, and bodies read up to ``MAX_BODY`` only."""
    import openai

    class TooLong(_TooLong, openai.OpenAIError):  # the client hands its own errors on at once, all others it retries
        pass

    def bounded(chunks: Callable[[], AsyncIterator[bytes]]) -> Callable[[], AsyncIterator[bytes]]:
        async def read() -> AsyncIterator[bytes]:
            size = 0
            async for chunk in chunks():
                size += len(chunk)
                if size > MAX_BODY:
                    raise TooLong
                yield chunk

        return read

    async def watch(response: Any) -> None:
        response.aiter_bytes = bounded(response.aiter_bytes)

    limits = _http_library().Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    return openai.DefaultAsyncHttpxClient(verify=tls, limits=limits, event_hooks={"response": [watch]})


def _body_text(error: Any) -> str:
    """The body of an error's response; the error's own text where the body was not read."""
    try:
        return str(error.response.text)
    except Exception:  # the HTTP library's own kinds: the response was closed before it was read
        return str(error)
