"""A model behind an OpenAI-compatible server, through the official async client. No torch here."""

import asyncio
import base64
import io
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from vlm.errors import ConfigError
from vlm.protocol import BackendError, Reply, Request

MAX_BODY = 4 * 2**20
"""Bytes of a server's reply that are read: some 100 times a long answer. What is longer is given up."""
MAX_RETRY_AFTER = 120.0
"""Seconds: the longest Retry-After that the client obeys."""


class OpenAIBackend:
    """A server that speaks the OpenAI chat API: vLLM, SGLang, ``transformers serve``, or a hosted one.

    Args:
        model: the name under which the server knows it.
        base_url: e.g. ``http://127.0.0.1:8000/v1``.
        api_key_env: name of the environment variable that holds the key. The key is read from there and nowhere else,
            and stands in no repr, log or error. Without a name none is sent: one host's key must not reach another.
        timeout: seconds for one attempt.
        max_retries: further attempts after a dropped connection, a timeout, 429 (Retry-After is obeyed) or 5xx.
        concurrency: most requests under way at once; the others wait their turn here, and no timeout runs for them.

    Raises:
        ConfigError: the URL is not http(s), or the named variable is not set.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 4,
        concurrency: int = 128,
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
        self.timeout, self.max_retries, self.concurrency = timeout, max_retries, concurrency
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = asyncio.Semaphore(concurrency)

    async def complete(self, request: Request) -> Reply:
        messages = await self._messages(request)
        client = self._connect()
        async with self._gate:
            started = time.perf_counter()
            text, finish_reason, usage = await self._ask(client, request, messages)
            return Reply(text, finish_reason, *usage, time.perf_counter() - started)

    async def _ask(
        self, client: Any, request: Request, messages: list[dict[str, Any]]
    ) -> tuple[str, str, tuple[int, int]]:
        import openai

        # The client's own timeout starts anew with every byte: a server that drips would hold the episode for ever.
        patience = (self.timeout + MAX_RETRY_AFTER) * (self.max_retries + 1)
        body = request.extra | {
            "model": self.model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        try:
            async with asyncio.timeout(patience):
                # Without the typed front end, which costs as much time as the request itself (see docs/log.md).
                completion = await client.post("/chat/completions", cast_to=object, body=body)
            return _read_completion(completion)
        except BackendError as error:
            raise BackendError(f"{self.name}: {error}", error.name) from None
        except openai.APITimeoutError:
            raise BackendError(
                f"{self.name}: no reply within {self.timeout:g} s: raise the timeout or lower the load.", "timeout"
            ) from None
        except openai.APIConnectionError as error:
            reason = self._safe(error.__cause__ or error)
            sentence = f"{self.name}: no connection ({reason}): is the server running at this URL?"
            raise BackendError(sentence, "no_connection") from None
        except openai.APIStatusError as error:
            sentence = f"{self.name}: the server answered {error.status_code}: {self._safe(error)}"
            raise BackendError(sentence, f"status_{error.status_code}") from None
        except _TooLong:
            sentence = f"{self.name}: the reply is longer than {MAX_BODY // 2**20} MB and was not read."
            raise BackendError(sentence, "too_long") from None
        except TimeoutError:
            raise BackendError(f"{self.name}: no whole reply within {patience:g} s.", "timeout") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
            # a body that is not a completion
            raise BackendError(f"{self.name}: the reply cannot be read ({self._safe(error)}).", "unreadable") from None

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _messages(self, request: Request) -> list[dict[str, Any]]:
        try:
            if not request.images:
                return _openai_messages(request)
            return await asyncio.to_thread(_openai_messages, request)  # a large PNG takes a while to write
        except BackendError as error:
            raise BackendError(f"{self.name}: {error}") from None

    def _connect(self) -> Any:
        """The client of this event loop: its connections cannot be used from another one."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._key(),
                timeout=self.timeout,
                max_retries=self.max_retries,
                default_headers={"Accept-Encoding": "identity"},
                http_client=_bounded_client(self.concurrency),
            )
            self._loop, self._gate = loop, asyncio.Semaphore(self.concurrency)
        return self._client

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "") if self.api_key_env else "none"

    def _safe(self, error: BaseException) -> str:
        """An error's text on one line, bounded, with the key blotted out (servers like to quote it)."""
        text = " ".join(str(error)[:2000].split()) or type(error).__name__
        return (text.replace(self._key(), "***") if self.api_key_env and self._key() else text)[:500]


class _TooLong(Exception):
    """A body above ``MAX_BODY``."""


def _bounded_client(connections: int) -> Any:
    """The client's own HTTP client with so many connections, and bodies read up to ``MAX_BODY`` only."""
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

    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(  # of the HTTP library that this client was built on
        max_connections=connections, max_keepalive_connections=connections
    )
    return openai.DefaultAsyncHttpxClient(limits=limits, event_hooks={"response": [watch]})


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
    picture.save(data, "PNG", compress_level=1)  # a third of the time for a tenth more bytes
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"},
    }


def _read_completion(completion: Any) -> tuple[str, str, tuple[int, int]]:
    """(text, finish reason, (prompt tokens, completion tokens)) of a body, of which nothing is taken for granted."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not choices or not isinstance(choices, list):
        raise BackendError("the server's reply has no choices.", "unreadable")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise BackendError("the server's reply cannot be read: its choice has no message.", "unreadable")
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise BackendError("the server's reply is not text.", "unreadable")
    # Servers started with a reasoning parser hand the thought over apart from the answer.
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought.strip():
        text = f"<think>{thought}</think>{text}"
    usage = completion.get("usage") or {}
    counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return text, str(choices[0].get("finish_reason") or "stop")[:40], counts
