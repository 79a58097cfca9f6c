"""One small protocol for whoever answers: a model in this process, an OpenAI-compatible server, or a script.

Only ``HFBackend`` needs torch, and imports it when it is made.
"""

import asyncio
import base64
import inspect
import io
import os
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from PIL import Image

from vlm.errors import ConfigError, UserError

if TYPE_CHECKING:
    from vlm.load import VLM, Dtype


@dataclass(frozen=True)
class Request:
    """One conversation to be continued.

    Attributes:
        messages: HF messages; ``{"type": "image"}`` parts stand for ``images`` in order.
        images: RGB pictures (``vlm.images.open_image``).
        max_tokens: of the reply.
        temperature, top_p, seed: of the sampling; temperature 0 takes the likeliest token.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image] = field(default_factory=list, repr=False)
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back. ``finish_reason``: ``stop``, ``length``, or a server's word; ``seconds``: call to reply."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class BackendError(UserError):
    """A request without a usable reply; the sentence says whose and why. It is never to be scored as a wrong answer."""


class Backend(Protocol):
    """Answers requests, any number at once."""

    name: str

    async def complete(self, request: Request) -> Reply:
        """Raises ``BackendError``, and nothing else, when there is no reply."""
        ...

    async def aclose(self) -> None:
        """Release threads and connections; safe to call twice."""
        ...


class ScriptedBackend:
    """Replies from a function or a list: for docs, demonstrations and tests.

    Args:
        script: a function of the request (plain or async) that returns a text or a ``Reply``, or raises; or an iterable
            of texts, replies and exceptions, used up in the order of the calls.

    Attributes:
        requests: every request so far.
    """

    def __init__(
        self,
        script: Callable[[Request], str | Reply | Awaitable[str | Reply]] | Iterable[str | Reply | Exception],
        name: str = "scripted",
    ) -> None:
        self.name = name
        self.requests: list[Request] = []
        self._function = script if callable(script) else None
        self._replies = iter(()) if callable(script) else iter(script)

    async def complete(self, request: Request) -> Reply:
        started = time.perf_counter()
        self.requests.append(request)
        try:
            said: Any = self._function(request) if self._function else next(self._replies)
            if inspect.isawaitable(said):
                said = await said
            if isinstance(said, Exception):
                raise said
        except StopIteration:
            raise BackendError(f"{self.name}: the script has no reply {len(self.requests)}: write one more.") from None
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{self.name}: {error}") from error
        if isinstance(said, Reply):
            return said
        words = sum(len(str(message["content"]).split()) for message in request.messages)
        return Reply(said, "stop", words, len(said.split()), time.perf_counter() - started)

    async def aclose(self) -> None:
        pass


class HFBackend:
    """A model in this process. Requests that wait together are answered in one batch; batching changes no reply.

    Args:
        vlm: from ``vlm.load``.
        batch_size: largest batch.
        linger: seconds to wait for further requests before a batch starts.
    """

    def __init__(self, vlm: "VLM", batch_size: int = 64, linger: float = 0.005) -> None:
        from vlm.generate import StopSwitch

        self.name = vlm.name
        self._stop = StopSwitch()
        self.vlm, self.batch_size, self.linger = vlm, batch_size, linger
        self._waiting: queue.Queue[tuple[Request, Future[Reply]] | None] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._closed = False
        self._guard = threading.Lock()

    async def complete(self, request: Request) -> Reply:
        started = time.perf_counter()
        future: Future[Reply] = Future()
        with self._guard:
            if self._closed:
                raise BackendError(f"{self.name}: the backend is closed.")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=f"backend {self.name}", daemon=True)
                self._worker.start()
            self._waiting.put((request, future))
        reply = await asyncio.wrap_future(future)
        return replace(reply, seconds=time.perf_counter() - started)

    async def aclose(self) -> None:
        """Ends the worker; a batch that it is still writing is given up, and its requests fail."""
        with self._guard:
            self._closed = True
            self._stop.event.set()
            worker, self._worker = self._worker, None
        if worker is not None:
            self._waiting.put(None)
            await asyncio.to_thread(worker.join)

    def _work(self) -> None:
        """Body of the worker thread: everything that touches the model happens here.

        A batch runs until its longest response is written, so a batch holds requests of one length limit: of the limit
        that the most requests wait for.
        """
        pending: dict[int, list[tuple[Request, Future[Reply]]]] = {}
        closing = False
        while True:
            while not closing and max(map(len, pending.values()), default=0) < self.batch_size:
                try:
                    item = self._waiting.get(timeout=self.linger) if pending else self._waiting.get()
                except queue.Empty:
                    break
                if item is None:  # the closing mark: after what is pending
                    closing = True
                else:
                    pending.setdefault(item[0].max_tokens, []).append(item)
            if not pending:
                return
            limit = max(pending, key=lambda tokens: len(pending[tokens]))
            batch, rest = pending[limit][: self.batch_size], pending.pop(limit)[self.batch_size :]
            if rest:
                pending[limit] = rest
            self._answer([(request, future) for request, future in batch if future.set_running_or_notify_cancel()])

    def _answer(self, batch: list[tuple[Request, "Future[Reply]"]]) -> None:
        if not batch:
            return
        try:
            replies = self._generate([request for request, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # one bad request (or too little memory for all of them) must not fail the others
                for item in batch:
                    self._answer([item])
                return
            failure = BackendError(f"{self.name}: {str(error).strip() or type(error).__name__}")
            failure.__cause__ = error
            batch[0][1].set_exception(failure)
        else:
            for (_, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)

    def _generate(self, requests: list[Request]) -> list[Reply]:
        from vlm.generate import generate

        written = generate(
            self.vlm,
            [request.messages for request in requests],
            [request.images for request in requests],
            max_new_tokens=[request.max_tokens for request in requests],
            temperature=[request.temperature for request in requests],
            top_p=[request.top_p for request in requests],
            seeds=[request.seed for request in requests],
            batch_size=self.batch_size,
            stopping=self._stop,
        )
        if self._stop.event.is_set():
            raise BackendError("the backend is closed.")
        return [
            Reply(one.text, "stop" if one.finished else "length", one.prompt_tokens, len(one.token_ids))
            for one in written
        ]


class OpenAIBackend:
    """A server that speaks the OpenAI chat API: vLLM, SGLang, ``transformers serve``, or a hosted one.

    Args:
        model: the name under which the server knows it.
        base_url: e.g. ``http://127.0.0.1:8000/v1``.
        api_key_env: name of the environment variable that holds the key. The key is read from there and nowhere else,
            and stands in no repr, log or error. Without a name none is sent: one host's key must not reach another.
        timeout: seconds for one attempt.
        max_retries: further attempts after a dropped connection, a timeout, 429 (Retry-After is obeyed) or 5xx.

    Raises:
        ConfigError: the URL is not http(s), or the named variable is not set.
    """

    def __init__(
        self, model: str, base_url: str, api_key_env: str | None = None, timeout: float = 120.0, max_retries: int = 4
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(f"'{base_url}' is not the URL of a server: write it as http://HOST:PORT/v1.")
        if url.username or url.password:
            raise ConfigError(
                "A URL must not carry a password: put the key into an environment variable (api_key_env)."
            )
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ConfigError(
                f"The environment variable {api_key_env} is not set: export the key of {url.hostname} in it."
            )
        self.name = f"openai:{model}@{base_url}"
        self.model, self.base_url, self.api_key_env = model, base_url, api_key_env
        self.timeout, self.max_retries = timeout, max_retries
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def complete(self, request: Request) -> Reply:
        import openai

        started = time.perf_counter()
        try:
            completion = await self._connect().chat.completions.create(
                model=self.model,
                messages=_openai_messages(request),
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
            )
            text, finish_reason, usage = _read_completion(completion)
        except BackendError as error:
            raise BackendError(f"{self.name}: {error}") from None
        except openai.APITimeoutError:
            raise BackendError(
                f"{self.name}: no reply within {self.timeout:g} s: raise the timeout or lower the load."
            ) from None
        except openai.APIConnectionError as error:
            reason = self._safe(error.__cause__ or error)
            raise BackendError(f"{self.name}: no connection ({reason}): is the server running at this URL?") from None
        except openai.APIStatusError as error:
            raise BackendError(f"{self.name}: the server answered {error.status_code}: {self._safe(error)}") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # a body that is not a completion
            raise BackendError(f"{self.name}: the reply cannot be read ({self._safe(error)}).") from None
        return Reply(text, finish_reason, *usage, time.perf_counter() - started)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def _connect(self) -> Any:
        """The client of this event loop: its connections cannot be used from another one."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(
                base_url=self.base_url, api_key=self._key(), timeout=self.timeout, max_retries=self.max_retries
            )
            self._loop = loop
        return self._client

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "") if self.api_key_env else "none"

    def _safe(self, error: BaseException) -> str:
        """An error's text on one line, bounded, with the key blotted out (servers like to quote it)."""
        text = " ".join(str(error).split()) or type(error).__name__
        return (text.replace(self._key(), "***") if self.api_key_env and self._key() else text)[:500]


def make_backend(
    spec: str | Path,
    *,
    text_only: bool = False,
    batch_size: int = 64,
    dtype: "Dtype" = "float32",
    device: str | None = None,
    api_key_env: str | None = None,
    timeout: float = 120.0,
    max_retries: int = 4,
) -> Backend:
    """The backend that a model name stands for: ``openai:NAME@URL``, ``tiny``, a folder or a hub name.

    Args:
        text_only: no request will carry a picture, so a text model will do.

    Raises:
        ConfigError: an ``openai:`` name without URL.
        UserError: a model that does not load.
    """
    text = str(spec)
    if text.startswith("openai:"):
        match = re.fullmatch(r"openai:(.+?)@(https?://.+)", text)
        if match is None:
            raise ConfigError(f"'{text}' does not name a served model: write openai:NAME@http://HOST:PORT/v1.")
        return OpenAIBackend(match[1], match[2], api_key_env, timeout, max_retries)
    from vlm.load import load_model, load_vlm

    load = load_model if text_only else load_vlm
    return HFBackend(load(spec, dtype=dtype, device=device), batch_size)


def _openai_messages(request: Request) -> list[dict[str, Any]]:
    """The messages with every picture written out as a PNG in base64."""
    pictures = iter(request.images)
    messages = []
    for message in request.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [part if part["type"] == "text" else _image_part(next(pictures, None)) for part in content]
        messages.append({"role": message["role"], "content": content})
    if next(pictures, None) is not None:
        raise BackendError("more pictures than image parts in the messages.")
    return messages


def _image_part(picture: Image.Image | None) -> dict[str, Any]:
    if picture is None:
        raise BackendError("fewer pictures than image parts in the messages.")
    data = io.BytesIO()
    picture.save(data, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"},
    }


def _read_completion(completion: Any) -> tuple[str, str, tuple[int, int]]:
    choices = getattr(completion, "choices", None)
    if not choices:
        raise BackendError("the server's reply has no choices.")
    message = choices[0].message
    text = message.content or ""
    # Servers started with a reasoning parser hand the thought over apart from the answer.
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if isinstance(thought, str) and thought.strip():
        text = f"<think>{thought}</think>{text}"
    if not isinstance(text, str):
        raise BackendError("the server's reply is not text.")
    usage = completion.usage
    counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    return text, choices[0].finish_reason or "stop", counts
