"""One question to a model that may zoom in: it writes, its calls are answered with crops, and it goes on until it writes no call.

    answer = answer_with_zoom(model, ["street.jpg"], "What does the sign say?")
    answer.answer, [result.box for result in answer.results]

A model in this process is told of the tool by its chat template, a server by OpenAI's tool calls. A server that knows no tools is
told in the text of the question. Whoever generates, the calls are read by ``vlm.tools.read_tool_calls`` and answered by one
``vlm.tools.ZoomSession``.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from vlm.asking import Model, is_local
from vlm.chat import LongPromptError, Message, check_template, question_messages, render_prompt
from vlm.images import Source
from vlm.placement import in_place
from vlm.protocol import BackendError, Request, is_whole
from vlm.response import parse_response
from vlm.tools import (
    BadCall,
    Change,
    ToolCall,
    ZoomResult,
    ZoomSession,
    ZoomSettings,
    image_zoom_in_tool,
    read_tool_calls,
    tool_schemas,
    without_calls,
)

if TYPE_CHECKING:
    from PIL import Image

    from vlm.backends import Backend
    from vlm.load import VLM

Way = Literal["template", "calls", "user images", "text", "record"]
"""How turns are written down: for a chat template, for a server with tool calls, for one that takes images from the user only, for
one without tools, or as rows of training data are."""


@dataclass(frozen=True)
class ZoomTurn:
    """What the model wrote in one turn, with the calls in it and what they brought."""

    text: str
    calls: list[ToolCall | BadCall]
    results: list[ZoomResult]


@dataclass(frozen=True)
class ZoomAnswer:
    """What a question to a model that may zoom came to.

    Attributes:
        answer: the final answer, or None.
        text: all that the model wrote, its calls included, turn after turn.
        turns: the conversation as messages: the question, the model's turns with ``tool_calls``, and turns of the role ``tool``,
            whose image parts hold the crops.
        results: what the calls brought, as the model saw it.
        tokens: tokens that the model wrote.
        finished: the model ended its last turn itself, and without a call.
        errors: calls that were refused.
    """

    answer: str | None
    text: str
    turns: list[Message]
    results: list[ZoomResult]
    tokens: int
    finished: bool
    errors: int


def answer_with_zoom(
    model: Model,
    images: Sequence[Source],
    question: str,
    *,
    settings: ZoomSettings | None = None,
    change: Change | None = None,
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    seed: int = 0,
    style: str = "think",
    choices: Sequence[str] | None = None,
    stream: Callable[[str], Any] | None = None,
    on_result: Callable[[ZoomResult], Any] | None = None,
    stop_repeats: bool = False,
) -> ZoomAnswer:
    """Ask one question about images; the model may zoom in on them.

    Args:
        model: from ``vlm.load.load_vlm``, or a backend. A server's is closed afterwards.
        images: the original images: crops are cut from them, whatever size the model is shown.
        settings, change: see ``vlm.tools.ZoomSession``.
        max_new_tokens: of all turns together.
        style: a key of ``vlm.chat.INSTRUCTIONS``.
        stream: called with every piece of text as it is written; a server's turn is one piece.
        on_result: called with what each call brought.
        stop_repeats: as in ``vlm.generate.generate``.

    Raises:
        UserError: a bad image, question or setting; a model whose chat template has no tools; a server without a usable reply.
    """
    images, question, choices = in_place(images, question, choices)
    vlm = model if is_local(model) else getattr(model, "vlm", None)
    session = ZoomSession(images, settings, change, vlm.processor if vlm is not None else None)
    asked = question_messages(question, len(session.originals), style, choices)
    course = _ZoomCourse(session, asked, max_new_tokens, temperature, seed, stream, on_result)
    if vlm is not None:
        _zoom_here(vlm, course, stop_repeats)
    else:

        async def ask_server() -> None:
            try:
                await _zoom_served(model, course)  # type: ignore[arg-type]
            finally:
                await model.aclose()  # type: ignore[union-attr]

        asyncio.run(ask_server())
    return course.answer()


async def zoom_with_backend(
    backend: "Backend",
    images: Sequence[Source],
    question: str,
    *,
    settings: ZoomSettings | None = None,
    change: Change | None = None,
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    seed: int = 0,
    style: str = "think",
    choices: Sequence[str] | None = None,
) -> ZoomAnswer:
    """As ``answer_with_zoom``, for one of many questions that a backend is asked side by side. It stays open."""
    images, question, choices = in_place(images, question, choices)
    vlm = getattr(backend, "vlm", None)
    session = ZoomSession(images, settings, change, vlm.processor if vlm is not None else None)
    asked = question_messages(question, len(session.originals), style, choices)
    course = _ZoomCourse(session, asked, max_new_tokens, temperature, seed)
    if vlm is not None:
        await asyncio.to_thread(_zoom_here, vlm, course, False)
    else:
        await _zoom_served(backend, course)
    return course.answer()


def check_zoom_template(vlm: "VLM") -> None:
    """Refuse a model whose chat template does not tell it of the tool, or drops the crop that the tool returns.

    Raises:
        UserError: one of the two.
    """
    check_template(vlm)
    turns: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    remedy = "ask a model that was trained with tools, such as Qwen3-VL, or leave out --zoom."
    if image_zoom_in_tool.__name__ not in render_prompt(vlm, turns, tool_schemas()):
        raise UserError(f"The chat template of {vlm.name} has no tools, so the model cannot zoom in: {remedy}")
    returned = [*turns, {"role": "assistant", "content": "."}, {"role": "tool", "content": [{"type": "image"}]}]
    token = getattr(vlm.processor, "image_token", None)
    if isinstance(token, str) and token not in render_prompt(vlm, returned, tool_schemas()):
        raise UserError(f"The chat template of {vlm.name} shows no image that a tool returns: {remedy}")


class _ZoomCourse:
    """One response under way.

    Attributes:
        left: tokens that may still be written.
        done: no turn follows.
    """

    def __init__(
        self,
        session: ZoomSession,
        question: list[Message],
        budget: int,
        temperature: float,
        seed: int,
        stream: Callable[[str], Any] | None = None,
        on_result: Callable[[ZoomResult], Any] | None = None,
    ) -> None:
        self.session, self.question, self.budget, self.temperature = session, question, budget, temperature
        self.first_seed, self.stream, self.on_result = seed, stream, on_result
        self.turns: list[ZoomTurn] = []
        self.tokens = 0
        self.finished = self.done = self.repeats = False

    @property
    def left(self) -> int:
        return self.budget - self.tokens

    @property
    def seed(self) -> int:
        return self.first_seed + len(self.turns)  # equal numbers in every turn would draw related turns

    @property
    def results(self) -> list[ZoomResult]:
        return [result for turn in self.turns for result in turn.results]

    @property
    def images(self) -> "list[Image.Image]":
        """The images of the messages in their order."""
        return [*self.session.originals, *(one.crop for one in self.results if one.crop is not None)]

    def messages(self, way: Way) -> list[Message]:
        return zoom_messages(self.question, self.turns, way, self.session.settings)

    def take(self, text: str, tokens: int, finished: bool, tokenizer: Any = None, repeats: bool = False) -> None:
        """Add what the model wrote, and answer its calls. A turn that was cut off is not answered."""
        calls = read_tool_calls(text, tokenizer) if finished else []
        results: list[ZoomResult] = []
        for call in calls:
            results.append(self.session.answer(call))
            if self.on_result is not None:
                self.on_result(results[-1])
        self.turns.append(ZoomTurn(text, calls, results))
        self.tokens += tokens
        self.finished, self.repeats = finished and not calls, repeats
        # One turn for each look, one in which the model is told that no look is left, and one for the answer.
        self.done = not calls or self.left <= 0 or len(self.turns) >= self.session.settings.max_looks + 2

    def answer(self) -> ZoomAnswer:
        last = self.turns[-1]
        read = parse_response(without_calls(last.text, last.calls), finished=self.finished and not self.repeats)
        return ZoomAnswer(
            read.answer if not last.calls else None,
            "\n".join(turn.text for turn in self.turns),
            self.messages("record"),
            self.results,
            self.tokens,
            self.finished,
            self.session.errors,
        )


def _zoom_here(vlm: "VLM", course: _ZoomCourse, stop_repeats: bool) -> None:
    """Let a model in this process write its turns."""
    from vlm.generate import generate_stream

    check_zoom_template(vlm)
    while not course.done:
        pieces = generate_stream(
            vlm,
            course.messages("template"),
            course.images,
            max_new_tokens=course.left,
            temperature=course.temperature,
            seed=course.seed,
            stop_repeats=stop_repeats,
            tools=tool_schemas(),
        )
        try:
            for piece in pieces:
                if course.stream is not None:
                    course.stream(piece)
        except LongPromptError:
            if not course.turns:
                raise
            course.done = True  # the crops fill the model's positions: what is written so far is the response
            return
        finally:
            pieces.close()  # after Ctrl-C the model must stop writing
        written = pieces.result
        assert written is not None  # the stream ended by itself
        course.take(written.text, len(written.token_ids), written.finished, vlm.tokenizer, written.repeats)


_REFUSED = ("status_400", "status_422", "status_500", "status_501", "server_error")
"""What servers answer to a request with a key or a part that they do not know."""


async def _zoom_served(backend: "Backend", course: _ZoomCourse) -> None:
    """Let a server write its turns. If it refuses a way of calling, the same turns are told in the next way."""
    way: Way = "calls"
    while not course.done:
        extra = {"tools": list(tool_schemas())} if way != "text" else {}
        request = Request(
            course.messages(way), course.images, course.left, course.temperature, seed=course.seed, extra=extra
        )
        try:
            reply = await backend.complete(request)
        except BackendError as error:
            other = _other_way(way, error, bool(course.turns))
            if other is None:
                raise
            way = other
            continue
        if course.stream is not None:
            course.stream(reply.text)
        course.take(reply.text, max(1, reply.completion_tokens), is_whole(reply.finish_reason))


def _other_way(way: Way, error: BackendError, crops: bool) -> Way | None:
    """The next way to try after a refusal; None if the error has another cause."""
    if error.name not in _REFUSED or way == "text":
        return None
    if way == "calls" and crops:
        return "user images"
    return "text" if "tool" in str(error).lower() else None


def zoom_messages(
    question: Sequence[Message], turns: Sequence[ZoomTurn], way: Way, settings: ZoomSettings | None = None
) -> list[Message]:
    """A conversation with tool calls as messages; its images are those of the question and then the crops, in their order.

    Args:
        question: the messages before the model's first turn.
        way: see ``Way``. Only in ``record`` the image parts hold the crops.
        settings: for ``text``, in which the question says how many looks there are.
    """
    messages = _with_tool(question, settings or ZoomSettings()) if way == "text" else list(question)
    for number, turn in enumerate(turns):
        ids = [f"call_{number}_{place}" for place in range(len(turn.calls))]
        messages.append(_model_turn(turn, ids, way))
        told = [_tool_turns(result, one, way) for result, one in zip(turn.results, ids, strict=True)]
        # Every call of a turn has its answer before the user speaks: servers check that.
        messages += [message for both in told for message in both if message["role"] == "tool"]
        messages += [message for both in told for message in both if message["role"] != "tool"]
    return messages


def _model_turn(turn: ZoomTurn, ids: Sequence[str], way: Way) -> Message:
    if way in ("template", "text") or not turn.calls:
        return {"role": "assistant", "content": turn.text}
    if way == "record":
        good = [call for call in turn.calls if isinstance(call, ToolCall)]
        calls: list[dict[str, Any]] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in good
        ]
        message = {"role": "assistant", "content": without_calls(turn.text, good)}
        return message | {"tool_calls": calls} if calls else message
    # A server takes no answer to a call that was not made, so an unreadable one is told as a call without arguments.
    calls = [
        {"id": one, "type": "function", "function": {"name": _name_of(call), "arguments": _arguments_text(call)}}
        for call, one in zip(turn.calls, ids, strict=True)
    ]
    return {"role": "assistant", "content": without_calls(turn.text, turn.calls), "tool_calls": calls}


def _tool_turns(result: ZoomResult, call_id: str, way: Way) -> list[Message]:
    """What tells the model of a result."""
    content = result.content()
    if way == "record":
        return [{"role": "tool", "name": _name_of(result.call), "content": content}]
    content = [part if part["type"] == "text" else {"type": "image"} for part in content]
    if way == "text":
        parts = [{"type": "text", "text": "<tool_response>"}, *content, {"type": "text", "text": "</tool_response>"}]
        return [{"role": "user", "content": parts}]
    message: Message = {"role": "tool", "content": content}
    if way == "template":
        return [message | {"name": _name_of(result.call)}]
    message["tool_call_id"] = call_id
    if way == "calls" or result.crop is None:
        return [message]
    said = [{"type": "text", "text": "The user shows the region as an image."}]
    return [message | {"content": said}, {"role": "user", "content": content}]


def _name_of(call: ToolCall | BadCall) -> str:
    return call.name if isinstance(call, ToolCall) else image_zoom_in_tool.__name__


def _arguments_text(call: ToolCall | BadCall) -> str:
    if not isinstance(call, ToolCall) or not isinstance(call.arguments, dict):
        return "{}"
    try:
        return json.dumps(call.arguments, allow_nan=False)
    except ValueError:  # NaN, which is no JSON
        return "{}"


def _with_tool(question: Sequence[Message], settings: ZoomSettings) -> list[Message]:
    """The question with the tool described in it."""
    (schema,) = tool_schemas()
    text = (
        f"\n\nYou can call this tool, at most {settings.max_looks} times:\n{json.dumps(schema['function'])}\n"
        'To call it, end your message with <tool_call>{"name": "image_zoom_in_tool", "arguments": '
        '{"bbox_2d": [x1, y1, x2, y2], "img_idx": 0, "label": "..."}}</tool_call>. The next message shows what it returns. '
        "Without a call, your message is the answer."
    )
    *before, last = question
    return [*before, {**last, "content": [*last["content"], {"type": "text", "text": text}]}]
