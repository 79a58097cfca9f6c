"""Values of rows that anybody may have written: each is taken in the type that is wanted, or is absent. Nothing here raises."""

import json
import math
from typing import Any

MAX_TEXT = 100_000
"""Characters of one text that are sent to the page."""
MAX_DEPTH = 12
MAX_ITEMS = 1_000


def text_of(value: Any) -> str:
    """A text as it is; another value as JSON, and nothing for null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(bounded_json(value), ensure_ascii=False)


def dict_of(value: Any) -> dict[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def number_of(value: Any) -> float | None:
    """A finite number; None for anything else, truth values included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def cut_text(text: str, limit: int = MAX_TEXT) -> str:
    """The text, or its beginning and how much follows."""
    return text if len(text) <= limit else f"{text[:limit]} [{len(text) - limit:,} more characters]"


def spans_of(value: Any, length: int) -> list[tuple[int, int]]:
    """The ``[start, end]`` pairs inside a text of ``length`` characters, in order and without overlaps."""
    spans: list[tuple[int, int]] = []
    pairs = [one for one in list_of(value) if isinstance(one, list | tuple) and len(one) == 2]
    for start, end in sorted((a, b) for a, b in pairs if type(a) is int and type(b) is int):
        start = max(start, spans[-1][1] if spans else 0)
        if 0 <= start < min(end, length):
            spans.append((start, min(end, length)))
    return spans


def bounded_json(value: Any, depth: int = 0) -> Any:
    """The value as JSON can express it, with bounds on its depth, the number of its items and the length of its texts."""
    if isinstance(value, str):
        return cut_text(value)
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or value.bit_length() < 1_000 else "a number of too many digits"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if depth >= MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        return {
            cut_text(str(key), 1_000): bounded_json(item, depth + 1) for key, item in list(value.items())[:MAX_ITEMS]
        }
    if isinstance(value, list | tuple):
        more = [f"... {len(value) - MAX_ITEMS:,} more"] if len(value) > MAX_ITEMS else []
        return [bounded_json(item, depth + 1) for item in value[:MAX_ITEMS]] + more
    return cut_text(str(value))
