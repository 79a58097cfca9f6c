"""The zoom tool: a call of the model that brings it a crop of an original image.

Name, arguments and coordinates are those that Qwen3-VL was trained with. A ``ZoomSession`` answers the calls of one response,
whoever generates it: a model in this process, a server, or a trainer's rollout. What a model writes is untrusted text, so it is
read within bounds, and a bad call is a short error message for the model, never an exception. No torch here.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from PIL import Image
from pydantic import Field

from configs.errors import ImageError
from configs.schema import StrictModel
from vlm.images import Source, fit_image, open_image, pixel_limits, scaled_down, uses_pixel_policy
from vlm.pixel_limits import check_with_processor, given_pixel_limits
from vlm.response import thinking_tags

SCALE = 1000
"""Coordinates run from 0 to this, in both directions and whatever the image's proportions."""
MAX_CALL = 10_000
"""Characters of one call. A box and a label need about 100."""
MAX_CALLS = 32
"""Calls of one turn that are read."""
MAX_NESTING = 4
"""Objects and lists inside each other in a call; the zoom tool needs three."""
MAX_LABEL = 200
"""Characters of a label; what exceeds them is cut."""


class ZoomSettings(StrictModel):
    """How a model may zoom.

    Attributes:
        max_looks: calls of one response that are answered; those with bad arguments count too.
        max_pixels: the largest area of a crop, in pixels; the processor's own limit for images if None.
        min_box: the least side of a box, in pixels of the original. A smaller box grows around its centre.
    """

    max_looks: Annotated[int, Field(ge=1)] = 4
    max_pixels: Annotated[int | None, Field(ge=1)] = None
    min_box: Annotated[int, Field(ge=1)] = 28


def image_zoom_in_tool(bbox_2d: list[float], img_idx: int = 0, label: str = "") -> dict[str, Any]:
    """Zoom in on a region of an image: returns the region, cut from the original image at its full resolution.

    Args:
        bbox_2d: The region as [x1, y1, x2, y2]: its top left and bottom right corner, each coordinate from 0 to 1000, relative to the image's width and height.
        img_idx: The index of the image to zoom in on, starting from 0.
        label: The name of the object in the region.

    Returns:
        The arguments of the call.
    """  # noqa: E501  the JSON schema takes one line for each argument
    return {"bbox_2d": bbox_2d, "img_idx": img_idx, "label": label}


TOOLS: dict[str, Callable[..., Any]] = {image_zoom_in_tool.__name__: image_zoom_in_tool}
"""The tools that a model may be offered."""


@functools.cache
def tool_schemas() -> tuple[dict[str, Any], ...]:
    """The tools' JSON schemas, as chat templates and OpenAI's API take them."""
    from transformers.utils import get_json_schema

    schemas = [get_json_schema(tool) for tool in TOOLS.values()]
    for schema in schemas:  # Qwen's and OpenAI's tools do not describe what comes back
        schema["function"].pop("return", None)
    return tuple(schemas)


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote, and its characters [start, end) in the text of its turn. The arguments are not checked."""

    name: str
    arguments: Any
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class BadCall:
    """What a model wrote as a call and cannot be read as one: what to tell it, and the characters [start, end)."""

    error: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ZoomResult:
    """What one call brought.

    Attributes:
        call: the call as the model wrote it.
        crop: the image that the model sees next; None after an error.
        box: (left, top, right, bottom) of the crop in pixels of the original.
        img_idx, label: of the call; None and "" if the call could not be read.
        error: a short sentence for the model, or None.
    """

    call: ToolCall | BadCall
    crop: Image.Image | None = None
    box: tuple[int, int, int, int] | None = None
    img_idx: int | None = None
    label: str = ""
    error: str | None = None

    def content(self) -> list[dict[str, Any]]:
        """The content parts of the turn with role ``tool``: the crop, or the error as text."""
        if self.crop is None:
            return [{"type": "text", "text": f"Error: {self.error or 'no image was returned.'}"}]
        return [{"type": "image", "image": self.crop}]


Change = Callable[[ZoomResult, "ZoomSession"], ZoomResult]


class ZoomSession:
    """Answers the calls of one response.

    Args:
        originals: the images of the question as they are stored, not as the model was shown them: files, or images.
        settings: the limits; the defaults if None.
        change: gets each result, and returns the one that the model sees. An audit tampers with crops here and nowhere else.
        processor: the model's processor or image processor. A crop is then sized by its pixel policy, as every image is.

    Attributes:
        calls: calls so far, those that were refused included.
        errors: calls that brought an error, counted before ``change``.

    Raises:
        ImageError: an original that cannot be read.
        ConfigError: a ``max_pixels`` below the processor's least image.
    """

    def __init__(
        self,
        originals: Sequence[Source],
        settings: ZoomSettings | None = None,
        change: Change | None = None,
        processor: Any = None,
    ) -> None:
        self.originals = [open_image(image) for image in originals]
        self.settings, self.change, self.processor = settings or ZoomSettings(), change, processor
        self.calls = self.errors = 0
        if uses_pixel_policy(processor):
            check_with_processor(given_pixel_limits(None, self.settings.max_pixels), pixel_limits(processor))

    def call(self, arguments: Any) -> ZoomResult:
        """Zoom in. Bad arguments, and a call after the last one that is allowed, are a result with an error."""
        return self.answer(ToolCall(image_zoom_in_tool.__name__, arguments))

    def answer(self, call: ToolCall | BadCall) -> ZoomResult:
        """As ``call``, for a call out of ``read_tool_calls``."""
        self.calls += 1
        result = self._zoom(call)
        self.errors += result.error is not None
        return result if self.change is None else self.change(result, self)

    def cut(self, img_idx: int, box: tuple[int, int, int, int]) -> Image.Image:
        """A part of an original, in the size in which the model gets it.

        Args:
            img_idx: the index of the original.
            box: (left, top, right, bottom) in its pixels.

        Raises:
            ImageError: the part is too long and thin for the processor.
        """
        crop, most = self.originals[img_idx].crop(box), self.settings.max_pixels
        if uses_pixel_policy(self.processor):
            return fit_image(crop, self.processor, max_pixels=most)
        return scaled_down(crop, most)

    def _zoom(self, call: ToolCall | BadCall) -> ZoomResult:
        if self.calls > self.settings.max_looks:
            return ZoomResult(
                call, error=f"no call is left: at most {self.settings.max_looks} are allowed. Answer now."
            )
        if isinstance(call, BadCall):
            return ZoomResult(call, error=call.error)
        if call.name not in TOOLS:
            return ZoomResult(call, error=f"there is no such tool: use {', '.join(TOOLS)}.")
        if (fault := self._fault(call.arguments)) is not None:
            return ZoomResult(call, error=fault)
        asked = image_zoom_in_tool(**call.arguments)
        img_idx, label = asked["img_idx"], asked["label"][:MAX_LABEL]
        box = pixel_box(asked["bbox_2d"], self.originals[img_idx].size, self.settings.min_box)
        try:
            return ZoomResult(call, self.cut(img_idx, box), box, img_idx, label)
        except ImageError:
            return ZoomResult(call, None, box, img_idx, label, "the box is too long and thin: choose a wider one.")

    def _fault(self, arguments: Any) -> str | None:
        """What is wrong with the arguments, for the model; None if they are good. Nothing of them is repeated."""
        if not isinstance(arguments, dict) or "bbox_2d" not in arguments:
            return "give the arguments as an object with bbox_2d: [x1, y1, x2, y2]."
        if not arguments.keys() <= {"bbox_2d", "img_idx", "label"}:
            return "the arguments are bbox_2d, img_idx and label, and no others."
        box, img_idx = arguments["bbox_2d"], arguments.get("img_idx", 0)
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_coordinate, box)):
            return "bbox_2d must be a list of four numbers: [x1, y1, x2, y2]."
        if not all(0 <= value <= SCALE for value in box):  # NaN fails every comparison
            return f"the box lies outside of the image: coordinates run from 0 to {SCALE}."
        if not (box[0] < box[2] and box[1] < box[3]):
            return "the box is empty: x1 must be less than x2, and y1 less than y2."
        if not isinstance(img_idx, int) or isinstance(img_idx, bool) or not 0 <= img_idx < len(self.originals):
            return f"there is no such image: img_idx must be an integer from 0 to {len(self.originals) - 1}."
        if not isinstance(arguments.get("label", ""), str):
            return "label must be a text."
        return None


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def pixel_box(bbox_2d: Sequence[float], size: tuple[int, int], min_box: int = 1) -> tuple[int, int, int, int]:
    """The box in pixels of an image of ``size`` (width, height) that holds a box in coordinates of 0 to ``SCALE``.

    A side below ``min_box`` grows around its centre, and is moved where it would leave the image.
    """
    spans = []
    for low, high, length in ((bbox_2d[0], bbox_2d[2], size[0]), (bbox_2d[1], bbox_2d[3], size[1])):
        start, end = math.floor(low * length / SCALE), math.ceil(high * length / SCALE)
        wanted = min(max(end - start, min_box), length)
        # Two doubled centres of whole pixels, so that no rounding moves a box that is large enough.
        start = min(max((start + end - wanted) // 2, 0), length - wanted)
        spans.append((start, start + wanted))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


_OPENS, _CLOSES = "<tool_call>", "</tool_call>"


def read_tool_calls(text: str, tokenizer: Any = None) -> list[ToolCall | BadCall]:
    """The calls in what a model wrote in one turn, in their order.

    A call stands in ``<tool_call>`` tags, as JSON with ``name`` and ``arguments`` (the Hermes form), or in the form that the
    tokenizer's own response template reads. What stands in a thinking span is no call. At most ``MAX_CALLS`` are read, each of at
    most ``MAX_CALL`` characters.

    Args:
        text: the turn, without the prompt.
        tokenizer: the model's tokenizer, if its calls may have a form of their own.
    """
    found: list[ToolCall | BadCall] = []
    outside, at = _without_thinking(text), 0
    while (start := outside.find(_OPENS, at)) >= 0:
        if len(found) == MAX_CALLS:
            found.append(BadCall(f"too many calls in one turn: at most {MAX_CALLS} are read.", start, len(text)))
            break
        close = outside.find(_CLOSES, start)
        at = len(text) if close < 0 else close + len(_CLOSES)
        found.append(_read_call(text[start : min(at, start + MAX_CALL + 1)], close >= 0, start, at, tokenizer))
    if not found and _has_template(tokenizer):
        found = [replace(one, start=0, end=len(text)) for one in _by_template(text, tokenizer)[:MAX_CALLS]]
    return found


def write_tool_call(name: str, arguments: Any) -> str:
    """A call as ``read_tool_calls`` reads it. The arguments may be a text that holds their JSON."""
    # An escaped "<" means the same in JSON, and no label can then end the call.
    return _OPENS + json.dumps({"name": name, "arguments": arguments}).replace("<", "\\u003c") + _CLOSES


def _without_thinking(text: str) -> str:
    """The text with blanks for its thinking. A span may lack its opening tag, which chat templates write, or its closing tag."""
    pieces: list[str] = []
    at, opened = 0, 0  # a first tag that closes ends a span that began with the text
    thinking = next((not opens for _, _, opens in thinking_tags(text)), False)
    for begin, end, opens in thinking_tags(text):
        if opens and not thinking:
            pieces.append(text[at:begin])
            opened, thinking = begin, True
        elif not opens and thinking:
            pieces.append(" " * (end - opened))
            at, thinking = end, False
    return "".join([*pieces, " " * (len(text) - opened) if thinking else text[at:]])


def _read_call(piece: str, closed: bool, start: int, end: int, tokenizer: Any) -> ToolCall | BadCall:
    """The call in one pair of tags."""
    if len(piece) > MAX_CALL:
        return BadCall(f"the call is longer than {MAX_CALL:,} characters.", start, end)
    if not closed:
        return BadCall(f"the call has no end: close it with {_CLOSES}.", start, end)
    read = call_json(piece[len(_OPENS) : -len(_CLOSES)])
    if isinstance(read, dict) and isinstance(read.get("name"), str):
        return ToolCall(read["name"], _arguments(read.get("arguments")), start, end)
    calls = _by_template(piece, tokenizer) if _has_template(tokenizer) else []
    if len(calls) == 1:
        return replace(calls[0], start=start, end=end)
    return BadCall('write the call as JSON: {"name": ..., "arguments": {...}}.', start, end)


def call_json(text: str) -> Any:
    """A value of untrusted JSON; None if it is none, too long, nested deeper than ``MAX_NESTING``, or holds a number without end."""
    if len(text) > MAX_CALL:
        return None
    try:
        value = json.loads(text, parse_float=_finite_number, parse_constant=_finite_number)
    except (ValueError, RecursionError):
        return None
    return value if _nesting(value) <= MAX_NESTING else None


def _finite_number(text: str) -> float:
    """A number that can be written as JSON again: not NaN, which Python's own reader takes, and not 1e999."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _arguments(value: Any) -> Any:
    """The arguments of a call; some models and servers write the object as a text."""
    return call_json(value) if isinstance(value, str) else value


def _nesting(value: Any) -> int:
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _has_template(tokenizer: Any) -> bool:
    return getattr(tokenizer, "response_template", None) is not None


def _by_template(text: str, tokenizer: Any) -> list[ToolCall]:
    """The calls that the tokenizer's response template finds; none where it fails."""
    if len(text) > MAX_CALL:
        return []
    try:
        parsed = tokenizer.parse_response(text, prefix="", tools=list(tool_schemas()))
        functions = [one["function"] for one in parsed.get("tool_calls") or ()]
        # By way of JSON, what a template makes of a text is bounded like every other call.
        read = [(one["name"], one.get("arguments")) for one in functions]
        calls = [
            ToolCall(name, call_json(given if isinstance(given, str) else json.dumps(given))) for name, given in read
        ]
    except Exception:  # a template is a program of the model's author, and the text is anything
        return []
    return [one for one in calls if isinstance(one.name, str)]


def without_calls(text: str, calls: Sequence[ToolCall | BadCall]) -> str:
    """The turn without its calls."""
    kept, at = [], 0
    for call in calls:
        kept.append(text[at : call.start])
        at = call.end
    return "".join([*kept, text[at:]]).rstrip()
