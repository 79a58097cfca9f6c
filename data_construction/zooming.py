"""Looks with the zoom tool: the responder chooses a box, sees the crop and answers; the trace keeps the calls and the crops.

In a trace the calls of a round stand behind the sentence that announces its look, those of the first round before all text. What a
crop showed may therefore be told only behind that sentence (``early_fact``).
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.jsonl import temporary_beside
from data_construction.records import Round, RoundZoom
from vlm.drawing import content_name
from vlm.images import png_bytes
from vlm.response import relook_starts, split_sentences

if TYPE_CHECKING:
    from vlm.tools import ZoomResult

CROPS = "crops"
"""The folder of the crops in a build's folder."""


def keep_zoom(result: "ZoomResult", folder: Path) -> RoundZoom:
    """The record of one call. Its crop is written below ``folder``, named by its content, so that a repeated call writes nothing new."""
    name = None
    if result.crop is not None:
        content = png_bytes(result.crop)
        name = f"{CROPS}/{content_name(content, 'png')}"
        _store(folder / name, lambda: content)
    arguments = getattr(result.call, "arguments", None)
    return RoundZoom(
        arguments=arguments if isinstance(arguments, dict) else {},
        box=result.box,
        img_idx=result.img_idx,
        crop=name,
        error=result.error,
    )


def join_crops(folders: Iterable[Path], target: Path) -> None:
    """Copy the crops of several builds' folders into ``target``. Their names are by content, so equal names are equal files."""
    for folder in folders:
        for crop in sorted((folder / CROPS).glob("*.png")):
            _store(target / CROPS / crop.name, crop.read_bytes)


def _store(file: Path, read: Callable[[], bytes]) -> None:
    """Write a file whose name tells its content, unless it is there. Others see the whole file or none."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(file) as temporary:
        temporary.write_bytes(read())
        os.replace(temporary, file)


def call_places(text: str, rounds: Sequence[Round]) -> list[int]:
    """Where in a trace the calls of each round stand: at 0 in the first round, then behind the sentence of the round's re-look."""
    starts = relook_starts(text)[: len(rounds) - 1]
    ends = [end for _, end in split_sentences(text)]
    return [0, *(next((end for end in ends if end > start), len(text)) for start in starts)]


def early_fact(text: str, question: str, rounds: Sequence[Round], words: Sequence[re.Pattern[str]]) -> str:
    """A word out of a crop that a trace tells before the call that brought the crop; "" if there is none.

    Args:
        words: match what carries a fact (numbers, colours, shapes). A word that the question, a request, or an earlier round holds is no
            fact of the crop.
    """
    known = f"{question} {rounds[0].request}".lower()
    for place, round_ in zip(call_places(text, rounds), rounds, strict=False):
        seen = f"{round_.reply} {round_.conclusion}".lower()
        known += f" {round_.request.lower()}"
        if any(zoom.crop for zoom in round_.zooms):
            for pattern in words:
                new = set(pattern.findall(seen)) - set(pattern.findall(known))
                if early := new & set(pattern.findall(text[:place].lower())):
                    return min(early)
        known += f" {seen}"
    return ""


def zoom_messages_of(
    text: str, rounds: Sequence[Round], masked: Sequence[tuple[int, int]], think: tuple[str, str], end: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """A trace with calls as the messages of a cold-start row (``train.tool_rows``), and the crops in their order.

    Args:
        masked: character spans of the trace that carry no loss.
        think: the opening and the closing tag around each turn's text.
        end: what follows the last one: the answer.
    """
    opening, closing = think
    messages: list[dict[str, Any]] = []
    crops: list[str] = []
    start = 0
    for place, round_ in zip(call_places(text, rounds), rounds, strict=False):
        shown = [zoom for zoom in round_.zooms if zoom.crop]
        if not shown:
            continue
        lead = text[start:place].strip() or f"Let me zoom in. {round_.request}"
        turn = _thinking_turn(lead, opening, closing, _spans_within(masked, start, place, text) if place else [])
        messages.append(turn | {"tool_calls": [_called_message(zoom) for zoom in shown]})
        for zoom in shown:
            messages.append({"role": "tool", "name": TOOL, "content": [{"type": "image"}]})
            crops.append(str(zoom.crop))
        start = place
    last = _thinking_turn(text[start:].strip(), opening, closing, _spans_within(masked, start, len(text), text))
    messages.append(last | {"content": last["content"] + end})
    return messages, crops


TOOL = "image_zoom_in_tool"


def _called_message(zoom: RoundZoom) -> dict[str, Any]:
    return {"type": "function", "function": {"name": TOOL, "arguments": zoom.arguments}}


def _thinking_turn(text: str, opening: str, closing: str, masked: list[list[int]]) -> dict[str, Any]:
    shifted = [[start + len(opening), end + len(opening)] for start, end in masked]
    turn: dict[str, Any] = {"role": "assistant", "content": f"{opening}{text}{closing}"}
    return turn | {"masked": shifted} if shifted else turn


def _spans_within(masked: Sequence[tuple[int, int]], start: int, end: int, text: str) -> list[list[int]]:
    """The spans within one stripped piece of the text, counted from its first character."""
    first = start + len(text[start:end]) - len(text[start:end].lstrip())
    return [[low - first, high - first] for low, high in masked if first <= low and high <= end]
