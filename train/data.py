"""The cold start's rows: read, checked before training, and encoded into batches with the same prompts as at inference.

A row is ``{"prompt": messages with image parts, "completion": text, "images": paths, "masked": [[start, end], ...],
"mode": "think" | "direct"}``. The loss is on the completion and its end-of-turn token, and not on the ``masked`` character
spans: the model reads facts that the trace corrects later, but does not learn them.

A row with tool calls has ``tools`` and, as ``completion``, messages (``train.tool_rows``). Its loss is on the model's own turns.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from configs.errors import ImageError, UserError
from configs.jsonl import is_unicode, read_jsonl
from configs.machine import usable_cores
from train.prompts import image_token
from train.tool_rows import CallTurn, Malformed, is_part, read_spans, read_tools, read_turns
from vlm.chat import control_token, encode, end_of_turn, opened_tag, question_messages
from vlm.images import fitted_size, image_size, open_image
from vlm.load import VLM
from vlm.problem import image_path
from vlm.thinking import family_tags, fit_completion
from vlm.tool_turns import call_text, replace_images, tool_turn_ids, tool_turn_text

FILLER = -1
IGNORED = -100
EXAMPLES = 5
TEMPLATE_TOKENS = 64
SMALLEST_PATCH = 14
AT_ONCE = 256
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Row:
    """One example of the cold start; ``images`` are absolute paths, ``masked`` character spans of ``completion``.

    The completion has the model's own thinking tags, and goes on where its chat template ends (``vlm.thinking.fit_completion``).
    ``line`` is its line in the file, from 1. ``tools`` are JSON schemas that the prompt offers, and ``calls`` the turns with tool
    calls between the prompt and the completion; ``images`` are those of the prompt and then those of the calls' results.
    """

    prompt: list[dict[str, Any]]
    completion: str
    images: list[str] = field(default_factory=list)
    masked: list[tuple[int, int]] = field(default_factory=list)
    mode: str = "think"
    line: int = 0
    tools: list[dict[str, Any]] = field(default_factory=list)
    calls: list[CallTurn] = field(default_factory=list)

    @property
    def prompt_images(self) -> int:
        """The number of images that the prompt shows."""
        return sum(part["type"] == "image" for turn in self.prompt for part in _parts(turn))

    @property
    def has_masked_spans(self) -> bool:
        """Whether any of its text is read and not learned."""
        return bool(self.masked) or any(turn.masked for turn in self.calls)


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return turn["content"] if isinstance(turn["content"], list) else []


@dataclass
class Dropped:
    """Rows dropped before training: their number by reason, and examples by line."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, line: int, why: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.counts[reason] <= EXAMPLES:
            self.examples.append(f"row {line}, {reason}: {why}")


class _Unusable(Exception):
    """A row that cannot be trained on: the name of the reason and an explanation."""


@dataclass
class _Shape:
    """The attributes of a model that ``vlm.chat.encode`` reads; batches are made on the CPU, wherever the model is."""

    config: Any
    dtype: torch.dtype
    generation_config: Any = None
    device: str = "cpu"


def reader_of(vlm: VLM) -> VLM:
    """``vlm`` for encoding only. Its batches stay on the CPU, where the trainer and its data workers expect them."""
    stops = getattr(vlm.model, "generation_config", None)
    return VLM(_Shape(vlm.model.config, vlm.model.dtype, stops), vlm.processor, vlm.name)


def read_rows(
    path: str | Path, vlm: VLM, max_row_tokens: int | None = None, decode: bool = False
) -> tuple[list[Row], Dropped]:
    """Read the rows of ``path`` and drop, with a reason, those that would fail or be truncated during training.

    A multimodal row is never truncated, which would separate image tokens from their features. It is dropped instead.

    Args:
        decode: decode every image. By default checksums are compared where the format has them (``vlm.images.image_size``).

    Raises:
        UserError: the file is missing or not JSON Lines, or no row can be used (with the reasons).
    """
    path, dropped, rows = Path(path), Dropped(), []
    reader = reader_of(vlm)
    limit = _row_limit(vlm, max_row_tokens)
    tags, opened = family_tags(vlm.tokenizer), opened_tag(reader, question_messages("What is this?", 1))
    parsed = [_parsed(data, path.parent, vlm) for data in read_jsonl(path)]
    for row in parsed:
        if isinstance(row, Row):
            row.completion, row.masked = fit_completion(row.completion, row.masked, tags, opened)
            for turn in row.calls:
                turn.text, turn.masked = fit_completion(turn.text, turn.masked, tags, opened)
    calling = next((row for row in parsed if isinstance(row, Row) and row.calls), None)
    if calling is not None:  # a chat template without tools ends the run here, not in the middle of it
        call_text(reader, calling.calls[0].calls)
        tool_turn_text(reader, calling.calls[0].results)
    paths = list(dict.fromkeys(image for row in parsed if isinstance(row, Row) for image in row.images))
    sizes = dict(zip(paths, in_threads(partial(_size, decode=decode), paths), strict=True))
    for line, row in enumerate(parsed, start=1):
        try:
            if isinstance(row, _Unusable):
                raise row
            pixels = 0
            for size in map(sizes.__getitem__, row.images):
                if isinstance(size, ImageError):
                    raise _Unusable("unreadable_picture", str(size))
                _check_shape(size, vlm)
                pixels += size[0] * size[1]
            if limit is not None:
                _check_length(row, reader, limit, pixels)
        except _Unusable as error:
            dropped.add(error.args[0], line, error.args[1])
        else:
            row.line = line
            rows.append(row)
    if not rows:
        reasons = "; ".join(dropped.examples[:EXAMPLES]) or "the file holds no rows"
        raise UserError(f"{path} has no row to train on: {reasons}.")
    return rows, dropped


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``map`` by several threads, for image decoders, which release the interpreter's lock."""
    with ThreadPoolExecutor(min(16, usable_cores())) as pool:
        for start in range(0, len(items), AT_ONCE):
            yield from pool.map(function, items[start : start + AT_ONCE])


def _parsed(data: dict[str, Any], folder: Path, vlm: VLM) -> Row | _Unusable:
    try:
        row = _parse_row(data, folder)
        _check_text(row, vlm)
    except _Unusable as error:
        return error
    return row


def _parse_row(data: dict[str, Any], folder: Path) -> Row:
    prompt, completion = data.get("prompt"), data.get("completion")
    if not isinstance(prompt, list) or not prompt or not all(isinstance(turn, dict) for turn in prompt):
        raise _Unusable("malformed", "'prompt' must be a list of messages")
    if not all(isinstance(turn.get("content"), str | list) and isinstance(turn.get("role"), str) for turn in prompt):
        raise _Unusable("malformed", "every message of 'prompt' needs 'role' and 'content'")
    if not all(is_part(part) for turn in prompt if isinstance(turn["content"], list) for part in turn["content"]):
        raise _Unusable(
            "malformed", "every part of a content must be {'type': 'image'} or {'type': 'text', 'text': TEXT}"
        )
    calls: list[CallTurn] = []
    try:
        tools = read_tools(data.get("tools"))
        if isinstance(completion, list):
            calls, completion, masked = read_turns(completion, bool(tools))
            data = {**data, "masked": data.get("masked") or masked}
    except Malformed as error:
        raise _Unusable("malformed", str(error)) from None
    if not isinstance(completion, str) or not completion.strip():
        raise _Unusable("malformed", "'completion' must be text, or a list of messages that ends with the answer")
    for key in data:
        if not is_unicode(_row_as_json([key, data[key]])):
            raise _Unusable("malformed", f"'{key.encode(errors='replace').decode()}' holds half of a surrogate pair")
    images, masked = data.get("images") or [], data.get("masked") or []
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise _Unusable("malformed", "'images' must be a list of paths")
    try:
        spans = read_spans(masked, completion)
    except Malformed as error:
        raise _Unusable("malformed", str(error)) from None
    paths = [image_path(folder, image) for image in images]
    return Row(prompt, completion, paths, spans, str(data.get("mode", "think")), tools=tools, calls=calls)


def _row_as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # a little less deep than what could not be read
        raise _Unusable("malformed", "it is nested too deeply") from None


def _check_text(row: Row, vlm: VLM) -> None:
    shown = row.prompt_images + sum(turn.n_images for turn in row.calls)
    if shown != len(row.images):
        where = "the prompt and the results of its calls" if row.calls else "the prompt"
        raise _Unusable("image_count", f"{shown} image parts in {where}, {len(row.images)} images")
    for text in (*(turn.text for turn in row.calls), row.completion):
        special = control_token(vlm.tokenizer, text)
        if special is not None:
            raise _Unusable("control_token", f"the completion spells the control token {special}")


def _size(image: str, decode: bool) -> tuple[int, int] | ImageError:
    try:
        return open_image(image).size if decode else image_size(image)
    except ImageError as error:
        return error


def _check_shape(size: tuple[int, int], vlm: VLM) -> None:
    try:
        fitted_size(size, vlm.processor)
    except ImageError as error:
        raise _Unusable("unusable_picture", str(error)) from None


def _row_limit(vlm: VLM, max_row_tokens: int | None) -> int | None:
    positions = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (max_row_tokens, positions) if isinstance(limit, int)]
    return min(limits, default=None)


def _check_length(row: Row, reader: VLM, limit: int, pixels: int) -> None:
    """Check the length of a row. It is encoded only if it may be too long: a token has at least one byte, or one patch."""
    letters = len(row.completion.encode()) + len(str((row.prompt, row.tools, row.calls)).encode())
    if letters + pixels // SMALLEST_PATCH**2 + TEMPLATE_TOKENS * (1 + len(row.calls)) <= limit:
        return
    images = [open_image(image) for image in row.images]
    try:
        prompt = encode(reader, [row.prompt], [images[: row.prompt_images]], tools=[row.tools])
    except UserError as error:
        raise _Unusable("over_long", str(error)) from None
    completion, _ = response_tokens(reader, row, images[row.prompt_images :], end=0)
    tokens = prompt["input_ids"].shape[1] + len(completion)
    if tokens > limit:
        raise _Unusable("over_long", f"{tokens} tokens, at most {limit} are allowed")


class Collator:
    """Collates rows into a batch: ``vlm.chat.encode`` encodes the prompt, and the completion's tokens are appended.

    Prompt and completion are tokenized separately, as at inference, where no token spans the border between them. Batches hold
    ``input_ids``, ``attention_mask``, ``labels`` (B, L), left padded, and the images. A row with index ``FILLER`` has no labels.
    """

    def __init__(self, rows: Sequence[Row], vlm: VLM) -> None:
        self.rows, self.reader, self.end = rows, reader_of(vlm), end_of_turn(vlm)
        self.image_token = image_token(vlm.model.config)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [self.rows[max(feature["index"], 0)] for feature in features]
        images = [[open_image(image) for image in row.images] for row in rows]
        answers = [self.completion(row, shown[row.prompt_images :]) for row, shown in zip(rows, images, strict=True)]
        batch = self._encode(rows, images, [ids for ids, _ in answers])
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for index, (_, wanted) in enumerate(answers):
            if features[index]["index"] != FILLER:
                labels[index, -len(wanted) :] = torch.tensor(wanted)
        return {**batch, "labels": labels}

    def _encode(self, rows: Sequence[Row], images: Sequence[Sequence[Any]], ids: list[list[int]]) -> dict[str, Any]:
        prompts = [shown[: row.prompt_images] for row, shown in zip(rows, images, strict=True)]
        batch = dict(encode(self.reader, [row.prompt for row in rows], prompts, ids, [row.tools for row in rows]))
        if any(row.calls for row in rows):
            replace_images(self.reader, batch, images, self.image_token)
        return batch

    def completion(self, row: Row, images: Sequence[Any] = ()) -> tuple[list[int], list[int]]:
        """Token ids of the response up to its end-of-turn token, and their labels; see ``response_tokens``."""
        return response_tokens(self.reader, row, images, self.end)


def response_tokens(reader: VLM, row: Row, images: Sequence[Any], end: int) -> tuple[list[int], list[int]]:
    """Token ids of a row's response, with its calls and their results, and their labels.

    Labels are the model's own turns, each with its end-of-turn token ``end``. They are ``IGNORED`` inside masked spans and in what
    the chat template writes for the results. ``images`` are those of the results.
    """
    ids: list[int] = []
    labels: list[int] = []
    shown = 0
    for turn in row.calls:
        own, wanted = _text_tokens(reader, turn.text + call_text(reader, turn.calls, turn.text), turn.masked)
        result = tool_turn_ids(reader, turn.results, images[shown : shown + turn.n_images])
        shown += turn.n_images
        ids += [*own, end, *result]
        labels += [*wanted, end, *[IGNORED] * len(result)]
    own, wanted = _text_tokens(reader, row.completion, row.masked)
    return [*ids, *own, end], [*labels, *wanted, end]


def _text_tokens(reader: VLM, completion: str, masked: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    encoded = reader.tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, labels = list(encoded["input_ids"]), []
    for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True):
        text = completion[start:end]
        # The blank of a token belongs to no fact: " blue" directly after a masked "red " keeps its label.
        if text.strip():
            start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        hidden = any(start < span_end and end > span_start for span_start, span_end in masked)
        labels.append(IGNORED if hidden else token)
    return ids, labels
