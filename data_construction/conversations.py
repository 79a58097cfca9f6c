"""Rows that are conversations, as LLaVA, ShareGPT, Qwen and OpenAI write them, as problems.

The question is the last turn of the user that the assistant answers, after the exchanges before it; the gold answer is the
assistant's last turn: its box or ``<answer>``, or the whole turn where it is short.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_construction.imported_rows import (
    BadRow,
    Columns,
    ImagePlaces,
    Item,
    guess_domain,
    is_missing,
    row_decimal,
    row_domain,
    row_id,
    row_images,
    split_option_lines,
    without_leading_marks,
)
from reward.grade import read_answer
from vlm.response import MAX_ANSWER, after_reasoning, marks_answer

MAX_SHORT = 200
"""Characters of a turn that is an answer as a whole."""
MAX_TURNS = 200
KEYS = ("conversations", "conversation", "messages", "texts")
ROLES = {
    **dict.fromkeys(("human", "user", "question"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
IMAGE_KEYS = ("image", "image_url", "url", "path", "source", "bytes", "data", "base64")


def conversation_of(row: Mapping[str, Any]) -> list[Any] | None:
    """The turns of a row; None for a row that is no conversation. A cell of a table may hold them as JSON text."""
    for key in KEYS:
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise BadRow(f"its '{key}' is no JSON list") from None
        if isinstance(value, list) and value:
            return value
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and prompt:  # TRL
        end = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        return [*prompt, *end]
    return None


def read_conversation(row: Mapping[str, Any], turns: Sequence[Any], columns: Columns) -> Item:
    """The problem of a row with these turns.

    Raises:
        BadRow: why it is none.
    """
    if len(turns) > MAX_TURNS:
        raise BadRow(f"it has more than {MAX_TURNS} turns")
    if not is_missing(row.get("video")) or not is_missing(row.get("videos")):
        raise BadRow("it is about a video")
    said = [pair for turn in turns for pair in _turn(turn)]
    texts = [part for role, content in said if role == "user" for part in content if isinstance(part, str)]
    places = ImagePlaces(row_images(row, columns), texts)
    spoken = [(role, _turn_text(role, content, places)) for role, content in said if role != "system"]
    end = max((number for number, (role, _) in enumerate(spoken) if role == "assistant"), default=0)
    start = end
    while start and spoken[start - 1][0] == "user":
        start -= 1
    question = "\n".join(text for _, text in spoken[start:end]).strip()
    if not question:
        raise BadRow("it has no question that an assistant answers")
    answer = _gold_of_turn(spoken[end][1], row_domain(row, columns) == "open")
    question, choices = split_option_lines(question, answer)
    if start:  # the question may be about what was said before
        before = [f"{role.capitalize()}: {text}" for role, text in spoken[:start]]
        question = "\n".join([*before, f"User: {question}"])
    decimal = row_decimal(row, columns)
    domain = row_domain(row, columns) or guess_domain(question, answer, choices, decimal)
    found, question = places.all(), without_leading_marks(question)
    return Item(row_id(row, columns), domain, question, answer, found, choices, decimal=decimal)


def _turn(turn: Any) -> list[tuple[str, list[Any]]]:
    """The (role, parts) of a turn; an exchange such as ``{"user": ..., "assistant": ...}`` has two."""
    if not isinstance(turn, Mapping):
        raise BadRow(f"a turn of it is {type(turn).__name__}, not an object")
    role = turn.get("role") or turn.get("from")
    if role is None and isinstance(turn.get("user"), str) and isinstance(turn.get("assistant"), str):
        return [("user", [turn["user"]]), ("assistant", [turn["assistant"]])]
    if not isinstance(role, str):
        raise BadRow("a turn of it has no role ('role' or 'from')")
    if role.lower() not in ROLES:
        raise BadRow(f"a turn of it is of role {role[:30]!r}")
    content = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), None)
    if content is None or isinstance(content, str | Mapping):
        content = [content or ""]
    if not isinstance(content, list):
        raise BadRow(f"the content of a turn is {type(content).__name__}")
    return [(ROLES[role.lower()], content)]


def _turn_text(role: str, content: Sequence[Any], places: ImagePlaces) -> str:
    """The text of a turn, in which the user's images are marks."""
    pieces = []
    for part in content:
        if isinstance(part, str):
            pieces.append(places.mark(part) if role == "user" else part)
            continue
        if not isinstance(part, Mapping):
            raise BadRow(f"a part of its content is {type(part).__name__}")
        kind = part.get("type")
        image = _image_of(part)
        if kind is None:
            kind = "text" if isinstance(part.get("text"), str) else "image" if image is not None else "nothing"
        if isinstance(part.get("text"), str) and "text" in str(kind):
            pieces.append(places.mark(part["text"]) if role == "user" else part["text"])
        elif "image" in str(kind) and role == "user":
            pieces.append(places.place(image))
        else:
            raise BadRow(f"a part of its content is of type {str(kind)[:30]!r}")
    return "".join(pieces).strip()


def _image_of(part: Mapping[str, Any]) -> Any:
    """The image that a part brings along; None where it only marks the place of one."""
    for key in IMAGE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping) and not (value.get("bytes") or value.get("path")):
            value = next((value[name] for name in ("url", "data", "image") if not is_missing(value.get(name))), None)
        if not is_missing(value):
            return value
    return None


def _gold_of_turn(text: str, is_open: bool) -> str:
    """The answer that the assistant's turn gives."""
    if marks_answer(text) and (found := read_answer(text, True)):
        return found
    whole = after_reasoning(text).strip()
    if not whole:
        raise BadRow("the assistant's last turn is empty")
    if len(whole) > (MAX_ANSWER if is_open else MAX_SHORT):
        raise BadRow(
            f"the assistant's last turn is longer than {MAX_ANSWER if is_open else MAX_SHORT} characters, without a box or <answer>"
        )
    # "The answer is B" in one line is read as the answers of models are.
    return whole if is_open or "\n" in whole else read_answer(whole, True) or whole
