"""What is evaluated: anything that writes a response to a question about images, possibly continuing from a prefix.

``LocalSubject`` is a Hugging Face model in this process (a white box), ``ServedSubject`` one behind an OpenAI-compatible
server (a black box: no attention, no prefix); ``ScriptedSubject`` runs a function instead, for tests and to check a
measure against models whose grounding is known by construction (``eval.known``).
"""

import asyncio
import hashlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from PIL import Image

from configs.errors import UserError
from vlm.chat import INSTRUCTIONS, Message, question_messages
from vlm.protocol import is_whole

if TYPE_CHECKING:
    from vlm.backends import Backend, Reply
    from vlm.generate import Generation
    from vlm.load import VLM
    from vlm.tools import Change, ZoomSettings
    from vlm.zoom import ZoomAnswer

T = TypeVar("T")

# A prompt: other words would change the answers of every served model.
SHOWN_AGAIN = "Here is the picture once more. Look at it, then answer the question again."


@dataclass(frozen=True)
class ZoomOffer:
    """The zoom tool as a subject is offered it, and the session of one response with it.

    Attributes:
        change: applied to each result before the subject sees it (``eval.tampering``); None leaves the crops alone.
    """

    settings: "ZoomSettings"
    change: "Change | None" = None


@dataclass(frozen=True)
class Turn:
    """Everything that a subject is shown of a problem.

    Attributes:
        prefix: start of the response, which the subject continues.
        note: a remark that comes with the question and may be false.
        reply: its earlier answer to this question; ``again`` are the images of the next turn (``SHOWN_AGAIN``).
        seed: of the sampling.
        zoom: the zoom tool, which then cuts from ``images``; None offers no tool.
    """

    question: str
    choices: list[str] | None
    style: str
    images: list[Image.Image]
    prefix: str = ""
    note: str | None = None
    reply: str | None = None
    again: tuple[Image.Image, ...] = ()
    seed: int = 0
    zoom: ZoomOffer | None = None

    @property
    def messages(self) -> list[Message]:
        asked = question_messages(self.question, len(self.images), self.style, self.choices, self.note)
        if self.reply is None:
            return asked
        text = f"{SHOWN_AGAIN} {INSTRUCTIONS[self.style]}".strip()
        shown = [{"type": "image"}] * len(self.again) + [{"type": "text", "text": text}]
        return [*asked, {"role": "assistant", "content": self.reply}, {"role": "user", "content": shown}]

    @property
    def all_images(self) -> list[Image.Image]:
        """Every image of the conversation, in order."""
        return [*self.images, *self.again]


class Subject(Protocol):
    """``fingerprint`` changes when the model does: saved answers of another fingerprint are not reused.

    ``continues``: it can continue from a prefix, as the measures that cut a response require.
    """

    name: str
    fingerprint: str
    continues: bool

    def write(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        attention: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> "Sequence[Generation | UserError]":
        """One generation per turn, in order, without the prefix; greedy at temperature 0. An error instead of a
        generation (or raised, for the whole call) becomes a row with status ``error``."""
        ...

    def head(self, text: str, tokens: int) -> str:
        """The first ``tokens`` tokens of a response."""
        ...


class LocalSubject:
    """A vision-language model in this process; all turns of a call form one batch."""

    continues = True

    def __init__(self, vlm: "VLM"):
        self.vlm = vlm
        self.name = vlm.name
        self.fingerprint = weights_checksum(vlm.model)

    def write(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        attention: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> "list[Generation]":
        from vlm.generate import generate

        if any(turn.zoom for turn in turns):
            from vlm.zoom import answer_with_zoom

            asked = [_zoom_question(turn, max_new_tokens, temperature) for turn in turns]
            return [_from_zoom(answer_with_zoom(self.vlm, **one)) for one in asked]
        return generate(
            self.vlm,
            [turn.messages for turn in turns],
            [turn.all_images for turn in turns],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[turn.seed for turn in turns],
            prefixes=[turn.prefix for turn in turns] if any(turn.prefix for turn in turns) else None,
            batch_size=len(turns),
            attention=attention,
        )

    def head(self, text: str, tokens: int) -> str:
        from vlm.chat import prefix_ids

        return self.vlm.tokenizer.decode(
            prefix_ids(self.vlm.tokenizer, text)[:tokens], clean_up_tokenization_spaces=False
        )


def covered_layers(subject: "Subject", layers: Any) -> dict[str, Any] | None:
    """Which layers a subject's attention covers (``AttentionTraits.coverage``); None where it has none to show."""
    if not isinstance(subject, LocalSubject):
        return None
    from vlm.attention_traits import layer_coverage

    return layer_coverage(subject.vlm.model, layers)


class ServedSubject:
    """A model behind a backend, with ``parallel`` requests at a time. Token counts are those of the server."""

    continues = False

    def __init__(self, backend: "Backend", parallel: int = 16):
        self.backend, self.parallel = backend, parallel
        self.name = backend.name
        self.fingerprint = backend.name

    def write(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        attention: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> "list[Generation | UserError]":
        from vlm.backends import Request

        if any(turn.prefix for turn in turns):
            raise RuntimeError("a served model cannot continue from a prefix")
        if any(turn.zoom for turn in turns):
            from vlm.zoom import zoom_with_backend

            asked = [_zoom_question(turn, max_new_tokens, temperature) for turn in turns]
            answers = asyncio.run(self._gather([zoom_with_backend(self.backend, **one) for one in asked]))
            return [one if isinstance(one, UserError) else _from_zoom(one) for one in answers]
        requests = [Request(t.messages, t.all_images, max_new_tokens, temperature, seed=t.seed) for t in turns]
        replies = asyncio.run(self._gather([self.backend.complete(request) for request in requests]))
        return [_as_generation(reply) for reply in replies]

    async def _gather(self, calls: "Sequence[Coroutine[Any, Any, T]]") -> "list[T | UserError]":
        """What the calls return, in their order, ``parallel`` at a time."""
        limit = asyncio.Semaphore(self.parallel)

        async def one(call: "Coroutine[Any, Any, T]") -> "T | UserError":
            async with limit:
                try:
                    return await call
                except UserError as error:
                    return error

        try:
            return list(await asyncio.gather(*map(one, calls)))
        finally:
            await self.backend.aclose()  # its connections belong to this event loop, which ends here

    def head(self, text: str, tokens: int) -> str:
        raise RuntimeError("the tokens of a served model are not known")


class ScriptedSubject:
    """``function(turn)`` returns the text that follows the turn's prefix; a token is a word. No attention."""

    continues = True

    def __init__(self, function: Callable[[Turn], str], name: str = "scripted"):
        self.function = function
        self.name = name
        self.fingerprint = f"scripted:{name}"

    def write(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        attention: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> "list[Generation]":
        from vlm.generate import Generation

        written = []
        for turn in turns:
            words = self.function(turn).split(" ")
            written.append(
                Generation(
                    text=" ".join(words[:max_new_tokens]),
                    token_ids=list(range(min(len(words), max_new_tokens))),
                    finished=len(words) <= max_new_tokens,
                    prompt_tokens=len(turn.question.split()),
                    mass=None,
                )
            )
        return written

    def head(self, text: str, tokens: int) -> str:
        return " ".join(text.split(" ")[:tokens])


class RecordedSubject(ScriptedSubject):
    """Replaces a model whose answers are in a log: it has the fingerprint of that model and generates nothing."""

    def __init__(self, name: str, fingerprint: str):
        super().__init__(lambda turn: "", name)
        self.fingerprint = fingerprint
        self.continues = not fingerprint.startswith("openai:")

    def write(self, turns: Sequence[Turn], **settings: Any) -> "list[UserError]":  # type: ignore[override]
        return [UserError("not answered in the log: evaluate without --rescore to answer it.") for _ in turns]


def _zoom_question(turn: Turn, max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """A turn that offers the zoom tool, as the arguments of ``vlm.zoom.answer_with_zoom`` but the model."""
    if turn.zoom is None or turn.prefix or turn.note or turn.reply is not None:
        raise RuntimeError("the zoom tool is offered to whole questions only, and to all or none of a batch")
    return {
        "images": turn.images,
        "question": turn.question,
        "settings": turn.zoom.settings,
        "change": turn.zoom.change,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": turn.seed,
        "style": turn.style,
        "choices": turn.choices,
    }


def _from_zoom(answer: "ZoomAnswer") -> "Generation":
    from vlm.generate import Generation

    return Generation(answer.text, list(range(answer.tokens)), answer.finished, 0, zooms=answer.results)


def _as_generation(reply: "Reply | UserError") -> "Generation | UserError":
    from vlm.generate import Generation

    if isinstance(reply, UserError):
        return reply
    if reply.finish_reason in ("filtered", "failed"):  # not the model's answer, so it must not count as incorrect
        return UserError(f"the server ended the reply itself ({reply.finish_reason})")
    ids = list(range(reply.completion_tokens))  # a server sends no token ids; only their number is used
    return Generation(reply.text, ids, is_whole(reply.finish_reason), reply.prompt_tokens)


def load_subject(
    path: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32", api_key_env: str | None = None
) -> Subject:
    """Load a model by name: a folder, hub name or bundled model, or ``openai:NAME@URL`` for a served one.

    Args:
        api_key_env: the environment variable that holds the server's key.

    Raises:
        UserError: it does not load, or the server does not answer a first question.
    """
    if path.startswith("openai:"):
        from vlm.backends import make_backend

        subject = ServedSubject(make_backend(path, api_key_env=api_key_env))
        (first,) = subject.write([Turn("Say yes.", None, "none", [])], max_new_tokens=1)
        if isinstance(first, UserError):
            raise first
        return subject
    from vlm.load import load_vlm

    return LocalSubject(load_vlm(path, dtype=dtype))


def warn_about_reuse(subject: Subject, answers: Path, pattern: str) -> None:
    """Warn that saved answers are reused: a server may have other weights under the same name, which cannot be detected."""
    if isinstance(subject, ServedSubject) and any(answers.glob(pattern)):
        print(
            f"{subject.name} is known by its name and address alone: answers saved in {answers} are used again. If the "
            "server has other weights since then, choose another --out.",
            file=sys.stderr,
        )


def weights_checksum(model: Any) -> str:
    """16 hexadecimal digits of the model's weights, the same on every machine.

    The hash covers each tensor's name, shape and the exact integer sum of its bits. Integer sums do not depend on the order of
    summation, so every machine gets the same one.
    """
    import torch

    digest = hashlib.sha256(type(model).__name__.encode())
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.detach().contiguous().view(views[tensor.element_size()])
        digest.update(f"{name}{tuple(tensor.shape)}{int(bits.sum(dtype=torch.int64))}".encode())
    return digest.hexdigest()[:16]
