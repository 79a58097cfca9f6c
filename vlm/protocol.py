"""What goes to a backend and what comes back: a request, a reply or a stream, an error. Pure Python."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from configs.errors import UserError

R = TypeVar("R")


@dataclass(frozen=True)
class Request:
    """One conversation to be continued.

    Attributes:
        messages: HF messages; ``{"type": "image"}`` parts stand for ``images`` in order.
        images: RGB images (``vlm.images.open_image``).
        max_tokens: of the reply.
        temperature, top_p, seed: of the sampling; temperature 0 takes the likeliest token.
        extra: further keys of a server's request body, e.g. ``{"chat_template_kwargs": {"enable_thinking": False}}``;
            a model in this process knows none.
        top_logprobs: ask a server for the log-probabilities of its tokens and of this many likeliest ones at each place; the
            reply is then a ``ScoredReply``.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image] = field(default_factory=list, repr=False)
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    top_logprobs: int | None = None


_ENDINGS = {
    "stop": {
        "stop",
        "stop_sequence",
        "end_turn",
        "eos",
        "eos_token",
        "complete",
        "completed",
        "finish",
        "none",
        "null",
        "",
    },
    "length": {
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "token_limit",
    },
    "filtered": {
        "content_filter",
        "safety",
        "recitation",
        "refusal",
        "blocklist",
        "prohibited_content",
        "sensitive",
        "spii",
    },
    "failed": {
        "error",
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "timeout",
        "insufficient_system_resource",
        "network_error",
    },
}


def ending_of(word: object) -> str:
    """A server's word for the end of a reply as a ``Reply.finish_reason``: one of the project's four, or the word itself."""
    folded = str(word or "").strip().lower()
    return next((ours for ours, theirs in _ENDINGS.items() if folded in theirs), folded[:40])


def is_whole(finish_reason: str) -> bool:
    """Whether a reply ended by itself: not cut off, not withheld, not broken off by the server."""
    return ending_of(finish_reason) not in ("length", "filtered", "failed", "too_long")


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        finish_reason: ``stop``; ``length`` (cut off at the limit of tokens), ``filtered`` (withheld or cut by a content filter),
            ``failed`` (the server ended it by an error), ``too_long`` (not read to its end), or a server's word for something
            else (``tool_calls``).
        seconds: from the call to the reply.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class TokenScore:
    """One token of a reply as a server reports it.

    Attributes:
        token: its text.
        log_p: its log-probability, in nats.
        likeliest: the text of the likeliest token at its place; None if the server did not say.
    """

    token: str
    log_p: float
    likeliest: str | None = None


@dataclass(frozen=True)
class ScoredReply(Reply):
    """A server's reply to a request that asked for log-probabilities (``Request.top_logprobs``).

    Attributes:
        scores: of its tokens in order, as far as the server sent them; empty if it sent none.
    """

    scores: tuple[TokenScore, ...] = ()


class BackendError(UserError):
    """A request without a usable reply; the message names the backend and the cause. Never score it as an incorrect answer.

    Attributes:
        name: the kind of failure in one word: ``timeout``, ``no_connection``, ``status_429``, ``quota``, ``server_error``,
            ``unreadable``, ``too_long``, ``backend`` (anything else).
    """

    # One word, so that failures can be counted by kind. Messages hold names and numbers, and all differ.
    def __init__(self, message: str, name: str = "backend") -> None:
        super().__init__(message)
        self.name = name


LASTING = {"status_401", "status_402", "status_403", "status_404", "status_405", "status_410", "quota"}
"""Names of failures that no later request changes: the key, the account, the model's name, the URL."""


class TextStream(Iterator[str], Generic[R]):
    """Pieces of a text while it is written. ``close()``, or dropping the stream, stops the model within one token.

    Attributes:
        result: what ``pieces`` returned, once the stream has ended by itself; None before.
    """

    def __init__(self, pieces: Generator[str, None, R]) -> None:
        self._pieces = pieces
        self.result: R | None = None

    def __iter__(self) -> "TextStream[R]":
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.result = self.result or end.value  # a second call after the end brings no value
            raise

    def close(self) -> None:
        self._pieces.close()


class Backend(Protocol):
    """Answers requests, any number at once."""

    name: str

    async def complete(self, request: Request) -> Reply:
        """Raises ``BackendError``, and nothing else, when there is no reply."""
        ...

    async def aclose(self) -> None:
        """Release threads and connections; safe to call twice."""
        ...
