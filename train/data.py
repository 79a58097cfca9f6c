"""The cold start's rows: read, checked before training, and encoded into batches with the same prompts as at inference.

A row is ``{"prompt": messages with image parts, "completion": text, "images": paths, "masked": [[start, end], ...],
"mode": "think" | "direct"}``. The loss is on the completion and its end-of-turn token, and not on the ``masked`` character
spans: the model reads facts that the trace corrects later, but does not learn them.
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
from vlm.chat import control_token, encode, opened_tag, question_messages
from vlm.images import fitted_size, image_size, open_image
from vlm.load import VLM
from vlm.problem import image_path
from vlm.thinking import family_tags, fit_completion

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
    ``line`` is its line in the file, from 1.
    """

    prompt: list[dict[str, Any]]
    completion: str
    images: list[str] = field(default_factory=list)
    masked: list[tuple[int, int]] = field(default_factory=list)
    mode: str = "think"
    line: int = 0


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
    device: str = "cpu"


def reader_of(vlm: VLM) -> VLM:
    """``vlm`` for encoding only. Its batches stay on the CPU, where the trainer and its data workers expect them."""
    return VLM(_Shape(vlm.model.config, vlm.model.dtype), vlm.processor, vlm.name)


def end_of_turn(vlm: VLM) -> int:
    """The token that the chat template puts after an assistant's turn and at which generation stops.

    The tokenizer's end token may be another one: Gemma's ends the document, not the turn.

    Raises:
        UserError: the template puts no stop token there, so a trained model would never stop.
    """
    mark = "reflection"
    turns = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    turns += [{"role": "assistant", "content": [{"type": "text", "text": mark}]}]
    text = vlm.processor.apply_chat_template(turns, tokenize=False)
    after = vlm.tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    stops = vlm.model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or ())
    stops.add(vlm.tokenizer.eos_token_id)
    found = next((token for token in after if token in stops), None)
    if found is None:
        raise UserError(
            f"The chat template of {vlm.name} ends an assistant's turn without any of the model's end tokens, so a trained "
            "model would not stop: add the end-of-turn token to eos_token_id in generation_config.json."
        )
    return int(found)


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
    if not all(_is_part(part) for turn in prompt if isinstance(turn["content"], list) for part in turn["content"]):
        raise _Unusable(
            "malformed", "every part of a content must be {'type': 'image'} or {'type': 'text', 'text': TEXT}"
        )
    if not isinstance(completion, str) or not completion.strip():
        raise _Unusable("malformed", "'completion' must be text")
    for key in data:
        if not is_unicode(_row_as_json([key, data[key]])):
            raise _Unusable("malformed", f"'{key.encode(errors='replace').decode()}' holds half of a surrogate pair")
    images, masked = data.get("images") or [], data.get("masked") or []
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise _Unusable("malformed", "'images' must be a list of paths")
    spans = []
    for span in masked if isinstance(masked, list) else [None]:
        if not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)):
            raise _Unusable("malformed", "'masked' must be a list of [start, end]")
        if not 0 <= span[0] < span[1] <= len(completion):
            raise _Unusable("malformed", f"the masked span {span} is not inside the completion")
        spans.append((span[0], span[1]))
    paths = [image_path(folder, image) for image in images]
    return Row(prompt, completion, paths, spans, str(data.get("mode", "think")))


def _row_as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # a little less deep than what could not be read
        raise _Unusable("malformed", "it is nested too deeply") from None


def _is_part(part: Any) -> bool:
    """Whether ``vlm.chat.encode`` takes this part of a message. Where training met another one, the run would end there."""
    if not isinstance(part, dict):
        return False
    return part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))


def _check_text(row: Row, vlm: VLM) -> None:
    contents = [turn["content"] for turn in row.prompt if isinstance(turn["content"], list)]
    slots = sum(part["type"] == "image" for content in contents for part in content)
    if slots != len(row.images):
        raise _Unusable("image_count", f"{slots} image parts in the prompt, {len(row.images)} images")
    special = control_token(vlm.tokenizer, row.completion)
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
    letters = len(row.completion.encode()) + len(str(row.prompt).encode())
    if letters + pixels // SMALLEST_PATCH**2 + TEMPLATE_TOKENS <= limit:
        return
    completion = reader.tokenizer(row.completion, add_special_tokens=False, verbose=False)["input_ids"]
    try:
        prompt = encode(reader, [row.prompt], [[open_image(image) for image in row.images]])
    except UserError as error:
        raise _Unusable("over_long", str(error)) from None
    tokens = prompt["input_ids"].shape[1] + len(completion) + 1
    if tokens > limit:
        raise _Unusable("over_long", f"{tokens} tokens, at most {limit} are allowed")


class Collator:
    """Collates rows into a batch: ``vlm.chat.encode`` encodes the prompt, and the completion's tokens are appended.

    Prompt and completion are tokenized separately, as at inference, where no token spans the border between them. Batches hold
    ``input_ids``, ``attention_mask``, ``labels`` (B, L), left padded, and the images. A row with index ``FILLER`` has no labels.
    """

    def __init__(self, rows: Sequence[Row], vlm: VLM) -> None:
        self.rows, self.reader, self.end = rows, reader_of(vlm), end_of_turn(vlm)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [self.rows[max(feature["index"], 0)] for feature in features]
        answers = [self.completion(row) for row in rows]
        images = [[open_image(image) for image in row.images] for row in rows]
        batch = dict(encode(self.reader, [row.prompt for row in rows], images, [ids for ids, _ in answers]))
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for index, (_, wanted) in enumerate(answers):
            if features[index]["index"] != FILLER:
                labels[index, -len(wanted) :] = torch.tensor(wanted)
        return {**batch, "labels": labels}

    def completion(self, row: Row) -> tuple[list[int], list[int]]:
        """Token ids of the completion and its end-of-turn token, and their labels: ``IGNORED`` inside masked spans."""
        encoded = self.reader.tokenizer(row.completion, add_special_tokens=False, return_offsets_mapping=True)
        ids, labels = list(encoded["input_ids"]), []
        for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True):
            text = row.completion[start:end]
            # The blank of a token belongs to no fact: " blue" directly after a masked "red " keeps its label.
            if text.strip():
                start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
            hidden = any(start < span_end and end > span_start for span_start, span_end in row.masked)
            labels.append(IGNORED if hidden else token)
        return [*ids, self.end], [*labels, self.end]
