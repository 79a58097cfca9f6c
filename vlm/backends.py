"""One small protocol for whoever answers: a model in this process, an OpenAI-compatible server, or a script.

Only ``HFBackend`` needs torch, and imports it when it is made.
"""

import asyncio
import inspect
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from configs.api_key import check_variable, read_key
from configs.errors import ConfigError
from configs.model_name import check_url, served_model
from vlm.openai_backend import OpenAIBackend, RequestShape
from vlm.protocol import Backend, BackendError, Reply, Request

if TYPE_CHECKING:
    from vlm.load import VLM, Dtype

__all__ = [
    "Backend",
    "BackendError",
    "HFBackend",
    "OpenAIBackend",
    "Reply",
    "Request",
    "RequestShape",
    "ScriptedBackend",
    "check_key",
    "check_key_has_one_server",
    "make_backend",
    "served_model",
]


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
            reply: Any = self._function(request) if self._function else next(self._replies)
            if inspect.isawaitable(reply):
                reply = await reply
            if isinstance(reply, Exception):
                raise reply
        except StopIteration:
            raise BackendError(f"{self.name}: the script has no reply {len(self.requests)}: write one more.") from None
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{self.name}: {error}") from error
        if isinstance(reply, Reply):
            return reply
        words = sum(len(str(message["content"]).split()) for message in request.messages)
        return Reply(reply, "stop", words, len(reply.split()), time.perf_counter() - started)

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
        from vlm.stopping_criteria import StopSwitch

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
                    # Without pending requests the thread sleeps; with some it waits briefly for others to join the batch.
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
    concurrency: int = 128,
    shape: RequestShape | None = None,
) -> Backend:
    """The backend that a model name stands for: ``openai:NAME@URL``, ``tiny``, a folder or a hub name.

    Args:
        text_only: no request will carry an image, so a text model will do.
        batch_size, dtype, device: of a model in this process; the others are of a server (``OpenAIBackend``).

    Raises:
        ConfigError: an ``openai:`` name without URL.
        UserError: a model that does not load.
    """
    check_variable(api_key_env)
    if (served := served_model(str(spec))) is not None:
        return OpenAIBackend(*served, api_key_env, timeout, max_retries, concurrency, shape)
    from vlm.load import load_model, load_vlm

    load = load_model if text_only else load_vlm
    return HFBackend(load(spec, dtype=dtype, device=device), batch_size)


def check_key(spec: str, api_key_env: str | None) -> None:
    """Read the key that a served model would be asked with, before anything is done for it.

    Raises:
        ConfigError: see ``configs.api_key.read_key``.
    """
    if (served := served_model(spec)) is not None and api_key_env is not None:
        read_key(api_key_env, check_url(served[1]))


def check_key_has_one_server(specs: Iterable[str], api_key_env: str | None) -> None:
    """A key is of one server: it must not be sent to another one that happens to be named in the same command.

    Raises:
        ConfigError: there is a key, and served models of more than one host among ``specs``.
    """
    if check_variable(api_key_env) is None:
        return
    hosts = {urlsplit(served[1]).netloc for spec in specs if (served := served_model(spec)) is not None}
    if len(hosts) > 1:
        raise ConfigError(
            f"The key in {api_key_env} would go to several servers ({', '.join(sorted(hosts))}): ask them one by one."
        )
