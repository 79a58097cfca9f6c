"""Rows of the cold start with tool calls: ``completion`` is then the messages of the response, as chat APIs have them.

    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is at B2?"}]}],
     "completion": [
       {"role": "assistant", "content": "<think> B2 is too small to read . </think>", "masked": [[8, 10]],
        "tool_calls": [{"type": "function", "function": {"name": "image_zoom_in_tool",
                                                         "arguments": {"bbox_2d": [500, 0, 750, 250]}}}]},
       {"role": "tool", "name": "image_zoom_in_tool", "content": [{"type": "image"}]},
       {"role": "assistant", "content": "<think> B2 is red . </think> \\boxed{red}"}],
     "tools": ["image_zoom_in_tool"],
     "images": ["scene.png", "crop.png"]}

Every call is followed by its result, and the last message is the answer. ``images`` are those of the prompt, then those of the results.
``tools`` are names out of ``vlm.tools.TOOLS``, or JSON schemas, that the prompt offers; a row without calls may offer them too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm.tools import TOOLS, tool_schemas


class Malformed(Exception):
    """What is wrong with a row."""


@dataclass
class CallTurn:
    """A turn that the model ends with calls: its text, the spans of it that are not learned, the calls, and their results.

    ``calls`` are ``tool_calls`` of a message, ``results`` messages of role ``tool``.
    """

    text: str
    masked: list[tuple[int, int]]
    calls: list[dict[str, Any]]
    results: list[dict[str, Any]]

    @property
    def n_images(self) -> int:
        """The number of images in the results."""
        contents = [turn["content"] for turn in self.results if isinstance(turn["content"], list)]
        return sum(part["type"] == "image" for content in contents for part in content)


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The JSON schemas of a row's ``tools``. Raises Malformed."""
    if value is None:
        return []
    ours = dict(zip(TOOLS, tool_schemas(), strict=True))
    found: list[dict[str, Any]] = []
    for tool in value if isinstance(value, list) else [None]:
        schema = ours.get(tool) if isinstance(tool, str) else tool
        if not isinstance(schema, dict) or not isinstance(_function_of(schema).get("name"), str):
            raise Malformed(f"'tools' must be a list of JSON schemas, or of the names {', '.join(TOOLS)}")
        found.append(schema)
    return found


def read_turns(messages: Sequence[Any], offered: bool) -> tuple[list[CallTurn], str, list[Any]]:
    """The turns with calls of a response given as messages, its answer, and the answer's masked spans.

    Args:
        offered: whether the prompt offers tools.

    Raises:
        Malformed: the messages are no response that training can use.
    """
    if not messages or not all(isinstance(turn, dict) for turn in messages):
        raise Malformed("'completion' must be text, or a list of messages that ends with the answer")
    *before, last = messages
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise Malformed("the last message of 'completion' must be the assistant's answer, without calls")
    turns: list[CallTurn] = []
    for turn in before:
        role, calls = turn.get("role"), turn.get("tool_calls")
        if role == "assistant":
            _check_calls(calls)
            if turns and len(turns[-1].results) != len(turns[-1].calls):
                raise Malformed("every call of 'completion' needs its result, a message of role 'tool'")
            text = _own_text(turn)
            turns.append(CallTurn(text, read_spans(turn.get("masked"), text), calls, []))
        elif role == "tool" and turns and _is_result(turn):
            turns[-1].results.append(turn)
        else:
            raise Malformed(
                "the messages of 'completion' must be the assistant's, with calls, and after each those of role 'tool', whose "
                "content is text or image and text parts"
            )
    if turns and len(turns[-1].results) != len(turns[-1].calls):
        raise Malformed("every call of 'completion' needs its result, a message of role 'tool'")
    if turns and not offered:
        raise Malformed(
            f"'completion' calls a tool that the prompt does not offer: add 'tools': [\"{next(iter(TOOLS))}\"]"
        )
    return turns, _own_text(last), last.get("masked") or []


def read_spans(value: Any, text: str) -> list[tuple[int, int]]:
    """The character spans of ``text`` that are not learned. Raises Malformed."""
    spans = []
    for span in (value or []) if isinstance(value or [], list) else [None]:
        if not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)):
            raise Malformed("'masked' must be a list of [start, end]")
        if not 0 <= span[0] < span[1] <= len(text):
            raise Malformed(f"the masked span {span} is not inside the completion")
        spans.append((span[0], span[1]))
    return spans


def is_part(part: Any) -> bool:
    """Whether ``vlm.chat.encode`` takes this part of a message. Where training met another one, the run would end there."""
    if not isinstance(part, dict):
        return False
    return part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))


def _own_text(turn: dict[str, Any]) -> str:
    content = turn.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(is_part(part) and part["type"] == "text" for part in parts):
        raise Malformed("the assistant's messages in 'completion' must have text as their content")
    return "".join(part["text"] for part in parts)


def _check_calls(calls: Any) -> None:
    functions = [_function_of(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    good = [one for one in functions if isinstance(one.get("name"), str) and isinstance(one.get("arguments"), dict)]
    if not calls or len(good) != len(calls):
        raise Malformed(
            "an assistant's message before the last must have 'tool_calls': a list of {'type': 'function', 'function': {'name': "
            "NAME, 'arguments': {...}}}"
        )


def _function_of(call: dict[str, Any]) -> dict[str, Any]:
    inner = call.get("function", call)
    return inner if isinstance(inner, dict) else {}


def _is_result(turn: dict[str, Any]) -> bool:
    content = turn.get("content")
    return isinstance(content, str) or (isinstance(content, list) and all(map(is_part, content)))
