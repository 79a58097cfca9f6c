"""The parts that the page draws a row of. All texts are sent as texts: the page never reads them as HTML."""

from collections.abc import Iterable, Sequence
from typing import Any

from demo.viewer.values import cut_text, text_of

Block = dict[str, Any]


def facts(items: Iterable[tuple[str, Any]]) -> Block:
    """Names and short values; those without a value are left out."""
    shown = [[name, cut_text(text_of(value), 2_000)] for name, value in items if value not in (None, "", [])]
    return {"kind": "facts", "items": shown}


def note(text: str, tone: str = "plain") -> Block:
    """A sentence. ``tone``: ``plain``, ``good`` or ``bad``."""
    return {"kind": "note", "text": cut_text(text, 4_000), "tone": tone}


def shown_text(title: str, text: str) -> Block:
    """A text as it is."""
    return marked_text(title, [[text]])


def marked_text(title: str, spans: Sequence[Sequence[Any]], legend: Sequence[Sequence[str]] = ()) -> Block:
    """A text in pieces ``[text, mark, value in [0, 1] or None, hint]``, of which only the first is needed."""
    return {
        "kind": "text",
        "title": title,
        "spans": [list(span) for span in spans],
        "legend": [list(one) for one in legend],
    }


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> Block:
    """A table. ``links``: row numbers to go to, one a line; ``current``: the line that is shown now."""
    return {"kind": "table", "title": title, "head": list(head), "rows": [list(row) for row in rows], **more}


def images(count: int) -> Block:
    """The images of the row, by their numbers."""
    return {"kind": "images", "count": min(count, 16)}


def as_in_file(content: Any) -> Block:
    """The whole row, folded."""
    return {"kind": "json", "title": "As in the file", "content": content}


def cut_spans(text: str, marks: Sequence[tuple[int, int, Sequence[Any]]]) -> list[list[Any]]:
    """A text in pieces: the spans of ``marks`` with what belongs to them, and what stands between.

    Args:
        marks: (start, end, [mark, value, hint]), in order and without overlaps.
    """
    pieces: list[list[Any]] = []
    at = 0
    for start, end, mark in marks:
        if start > at:
            pieces.append([text[at:start]])
        pieces.append([text[start:end], *mark])
        at = end
    if at < len(text):
        pieces.append([text[at:]])
    return pieces
