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
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image] = field(default_factory=list, repr=False)
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came back. ``finish_reason``: ``stop``, ``length``, or a server's word; ``seconds``: call to reply."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class BackendError(UserError):
    """A request without a usable reply; the message names the backend and the cause. Never score it as an incorrect answer.

    Attributes:
        name: the kind of failure in one word: ``timeout``, ``no_connection``, ``status_429``, ``unreadable``,
            ``too_long``, ``backend`` (anything else).
    """

    # One word, so that failures can be counted by kind. Messages hold names and numbers, and all differ.
    def __init__(self, message: str, name: str = "backend") -> None:
        super().__init__(message)
        self.name = name


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
