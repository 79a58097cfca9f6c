"""GRPO with the zoom tool, through TRL's own loop over tool calls.

TRL hands a plain tool the call's arguments alone, never the row's images, so the tool is a method of an environment, of which every
response has its own. What differs from TRL's loop:

- Calls are read by ``vlm.tools.read_tool_calls``, and results are written by ``vlm.tool_turns``: the tokens are those of inference.
- The crops' images are encoded as ``vlm.chat.encode`` encodes a prompt's. TRL encodes all images again in the middle of a rollout.
- The attention mass of each turn is recorded, over all images and by image. The tokens of results have none.

Whatever exceeds ``max_completion_length`` is left out as in TRL: the result that does not fit is dropped with its crop, and the
response ends there.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from trl import GRPOTrainer

from configs.errors import ConfigError, UserError
from vlm.chat import render_prompt
from vlm.images import fit_image
from vlm.load import VLM
from vlm.response import repeats_tags, thinking_tags
from vlm.thinking import decode, reasoning_token_span
from vlm.tool_turns import call_text, image_features, tool_turn_ids, tool_turn_text
from vlm.tools import (
    TOOLS,
    BadCall,
    Change,
    ToolCall,
    ZoomResult,
    ZoomSession,
    ZoomSettings,
    read_tool_calls,
    tool_schemas,
    without_calls,
)

NAME = next(iter(TOOLS))


class ZoomEnvironment:
    """The zoom tool of one response after another, as TRL's ``environment_factory`` makes it. Public methods are tools.

    Args:
        settings, processor, change: see ``vlm.tools.ZoomSession``.
    """

    def __init__(self, settings: ZoomSettings, processor: Any, change: Callable[[], Change | None]) -> None:
        self._settings, self._processor, self._change = settings, processor, change
        self._session: ZoomSession | None = None
        self.results: list[ZoomResult] = []

    def reset(self, images: Sequence[Any] = (), **_: Any) -> None:
        """Begin a response about a row's images, as they are stored."""
        self._session = ZoomSession(images, self._settings, self._change(), self._processor)
        self.results = []

    def image_zoom_in_tool(self, call: ToolCall | BadCall) -> list[dict[str, Any]]:
        """Answer a call. TRL passes what the stand-in's ``parse_response`` read (``zoom_stand_in``).

        Args:
            call: as the model wrote it, whether good or bad.
        """
        assert self._session is not None
        self.results.append(self._session.answer(call))
        return self.results[-1].content()


def zoom_stand_in(stand_in: Any, reader: VLM) -> Any:
    """Let the processor that TRL is given encode crops in the middle of a rollout, and read the calls of a response.

    Args:
        stand_in: a copy of the model's processor, which is changed.
        reader: encodes with the processor itself.
    """

    def encoded_images(self: Any, images: Any = None, **_: Any) -> BatchFeature:
        flat = [one for row in images for one in (row if isinstance(row, list | tuple) else [row])]
        features = image_features(reader, [fit_image(image, reader.processor) for image in flat])
        floats = {key: value.to(reader.model.dtype) for key, value in features.items() if value.is_floating_point()}
        return BatchFeature({**features, **floats})

    def parsed(self: Any, ids: Any, **_: Any) -> dict[str, Any]:
        text = reader.tokenizer.decode(list(ids))
        calls = read_tool_calls(text, reader.tokenizer)
        message: dict[str, Any] = {"role": "assistant", "content": without_calls(text, calls)}
        # A bad call too gets its answer from the environment, which counts it.
        functions = [{"name": NAME, "arguments": {"call": call}} for call in calls]
        return message | ({"tool_calls": [{"type": "function", "function": one} for one in functions]} if calls else {})

    stand_in.image_processor = _with_methods(stand_in.image_processor, __call__=encoded_images)
    stand_in.tokenizer = _with_methods(stand_in.tokenizer, parse_response=parsed)
    stand_in.tokenizer.response_template = {}  # TRL parses only with a tokenizer that has one
    return stand_in


def _with_methods(original: Any, **methods: Callable[..., Any]) -> Any:
    changed, kind = copy.deepcopy(original), type(original)
    changed.__class__ = type(f"Zoom{kind.__name__}", (kind,), methods)
    return changed


def check_zoom(vlm: VLM, args: Any) -> None:
    """Refuse a model or a config with which the loop over tool calls cannot work.

    Raises:
        UserError: the chat template has no tools.
        ConfigError: vLLM, which has not been tried with images that come in the middle of a response.
    """
    if args.use_vllm:
        raise ConfigError(
            "'zoom' with use_vllm is not supported yet: vLLM's limits of images and its prompts would have to hold the crops. Set "
            "use_vllm: false, or remove 'zoom'."
        )
    call_text(vlm, [{"type": "function", "function": {"name": NAME, "arguments": {}}}])
    shown = render_prompt(vlm, [{"role": "user", "content": [{"type": "text", "text": "x"}]}], tool_schemas())
    if NAME not in shown:
        raise UserError(
            f"The chat template of {vlm.name} does not show the tools that are offered, so the model cannot call one: use a model whose "
            "chat template has tools, such as Qwen3-VL, or remove 'zoom'."
        )
    image = tool_turn_text(vlm, [{"role": "tool", "name": NAME, "content": [{"type": "image"}]}])
    if image == tool_turn_text(vlm, [{"role": "tool", "name": NAME, "content": [{"type": "text", "text": ""}]}]):
        raise UserError(
            f"The chat template of {vlm.name} shows no images in a tool's result, so the model would not see its crops: use a model "
            "whose chat template does, such as Qwen3-VL, or remove 'zoom'."
        )


class ZoomTrainer(GRPOTrainer):
    """TRL's trainer with the seams of the loop over tool calls that ``VisualGRPOTrainer`` needs; without ``zoom`` it is TRL's.

    Attributes:
        recorded: of each response the (T,) mass and lift over the model's own tokens, without end-of-turn tokens.
        by_image: of each response the (T, images) mass of each image: first the prompt's, then the crops.
        tool_masks: 1 for tokens of the model, 0 for those of results; None without the tool.
        shown: the results that each response shows.
    """

    reader: VLM
    recorded: list[tuple[Tensor, Tensor]]
    by_image: list[Tensor]
    tool_masks: list[list[int]] | None = None
    shown: list[list[ZoomResult]]
    _responses: list[list[dict[str, Any]]] | None = None
    _answered: list[int]

    def _tool_call_loop(self, prompts: Any, prompt_ids: Any, completion_ids: Any, completions: Any, *args: Any) -> Any:
        """As in TRL; while it runs, ``continued_rows`` can tell which responses a generation continues."""
        self._responses, self._answered = completions, [len(turns) for turns in completions]
        try:
            result = super()._tool_call_loop(prompts, prompt_ids, completion_ids, completions, *args)
        finally:
            self._responses = None
        self.tool_masks = result[0]
        counts = [sum(turn["role"] == "tool" for turn in turns) for turns in result[1]]
        environments: Any = self.environments
        self.shown = [one.results[:count] for one, count in zip(environments, counts, strict=True)]
        return result

    def _get_tool_suffix_ids(self, tool_messages: list[dict[str, Any]]) -> list[int]:
        """As in TRL, but with text as plain text and images in the size of the prompt's."""
        contents = [turn["content"] for turn in tool_messages if isinstance(turn["content"], list)]
        images = [part["image"] for content in contents for part in content if part["type"] == "image"]
        return tool_turn_ids(self.reader, tool_messages, images)

    def continued_rows(self) -> list[int] | None:
        """The numbers of the responses that the next generation continues; None outside of the loop.

        Those are the ones whose last message is a result that came since the last generation. TRL takes back a result that is too
        long, and a response that is full keeps one without an answer.
        """
        if self._responses is None:
            return None
        turns = list(enumerate(self._responses))
        rows = [at for at, one in turns if one[-1]["role"] == "tool" and len(one) > self._answered[at]]
        self._answered = [len(one) for one in self._responses]
        return rows


def own_positions(ids: Sequence[int], mask: Sequence[int] | None, ends: Sequence[int]) -> list[list[int]]:
    """Positions of the model's own tokens in a response, one list a turn, each without its end-of-turn token.

    Args:
        mask: 1 for the model's tokens, 0 for those of results; None if all are the model's.
    """
    turns, start = [], 0
    for own, run in groupby([1] * len(ids) if mask is None else mask[: len(ids)]):
        stop = start + len(list(run))
        if own:
            turns.append(list(range(start, stop - (ids[stop - 1] in ends))))
        start = stop
    return turns


def image_masses(token_mass: Tensor, sequences: Sequence[Sequence[int]], image_token: int | None) -> list[Tensor]:
    """Of (layers, B, rows, image tokens) the (layers, B, rows) mass of each image; NaN where a sequence has fewer images.

    An image is an unbroken run of image tokens. Families that break it into rows or tiles have a mass for each of these.
    """
    runs = [[len(list(run)) for token, run in groupby(ids) if token == image_token] for ids in sequences]
    columns = []
    for place in range(max(map(len, runs), default=0)):
        column = token_mass.new_full(token_mass.shape[:3], torch.nan)
        for row, lengths in enumerate(runs):
            if place < len(lengths):
                start = sum(lengths[:place])
                column[:, row] = token_mass[:, row, :, start : start + lengths[place]].sum(-1)
        columns.append(column)
    return columns


def joined_rows(before: Tensor, after: Tensor) -> Tensor:
    """Two (T, images) parts of a response as one; an image that came later has mass 0 before."""
    width = max(before.shape[1], after.shape[1])
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (before, after)])


def read_own_turns(tokenizer: Any, turns: Sequence[Sequence[int]]) -> tuple[str, tuple[int, int] | None]:
    """What the model wrote in its turns as one response, and its reasoning as a token span over all of these tokens.

    Calls are left out of the text, and the reasoning of all turns is one span of it: a turn may close its span before a call, and
    the next one open another. The token span reaches from the first of these to the last and holds the calls between them.
    """
    if len(turns) == 1:
        return decode(tokenizer, turns[0]), reasoning_token_span(tokenizer, turns[0])
    texts = [decode(tokenizer, turn) for turn in turns]
    found = [reasoning_token_span(tokenizer, turn) for turn in turns]
    starts = [sum(map(len, turns[:number])) for number in range(len(turns))]
    spans = [(start + span[0], start + span[1]) for start, span in zip(starts, found, strict=True) if span]
    thought = (spans[0][0], spans[-1][1]) if spans and found[-1] is not None else None
    text = "\n".join(without_calls(one, read_tool_calls(one, tokenizer)) for one in texts)
    if any(map(repeats_tags, texts)) or None in found:
        return text, thought  # a turn with two spans, or with an open one, stays as it is: its format is not whole
    tags = thinking_tags(text)
    kept = {next((one for one in tags if one[2]), None), tags[-1]}
    for start, end, opens in reversed(tags):
        if (start, end, opens) not in kept:
            text = text[:start] + text[end:]
    return text, thought


def rollout_calls(trainer: ZoomTrainer, row: int, count: int, n_images: int) -> dict[str, Any]:
    """What ``reward.rewards.Rollout`` holds about the calls of a response; ``n_images`` are those of its prompt."""
    settings: Any = trainer.options.zoom  # type: ignore[attr-defined]
    shown = trainer.shown[row]
    crops = sum(one.crop is not None for one in shown)
    masses = trainer.by_image[row][:count]
    whole = masses.shape[1] >= n_images + crops  # not for families that break an image into several runs of tokens
    return {
        "calls": len(shown),
        "call_errors": sum(one.error is not None for one in shown),
        "most_calls": settings.max_looks,
        "image_mass": masses[:, : n_images + crops] if whole else None,
    }
