"""Text generation: seeded sampling in batches, with the attention mass if asked for, and a stream that can be stopped.

A batch equals its singles: the random numbers of a row come from that row's own seed, so neither its neighbours nor its
place change its text (up to the rounding of the weights' type; measured equal in float32).
"""

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from configs.errors import UserError
from vlm.chat import Message, Prefix, encode, position_limit, prefix_ids
from vlm.finite import finite_scores
from vlm.load import VLM
from vlm.protocol import TextStream
from vlm.stopping_criteria import Budgets, RepetitionStop, StopSwitch
from vlm.thinking import decode_after

if TYPE_CHECKING:
    from vlm.tools import ZoomResult

T = TypeVar("T")
N = TypeVar("N", int, float)


@dataclass
class Generation:
    """What a model wrote for one conversation.

    Attributes:
        text: the new text; put after the prefix it reads on without a seam.
        token_ids: the new tokens, without the end token.
        finished: the model ended its turn itself; False if the budget or a stopping criterion did.
        prompt_tokens: length of the prompt, image tokens and prefix included.
        mass, lift: (layers, tokens) attention to the image and its ratio to uniform attention, if asked for.
        repeats: it was stopped because it repeated itself.
        zooms: the results of its calls of the zoom tool (``vlm.tools.ZoomResult``), if it was offered the tool.
    """

    text: str
    token_ids: list[int]
    finished: bool
    prompt_tokens: int
    mass: torch.Tensor | None = field(default=None, compare=False)
    lift: torch.Tensor | None = field(default=None, compare=False)
    repeats: bool = False
    zooms: "list[ZoomResult] | None" = field(default=None, compare=False)


def generate(
    vlm: VLM,
    conversations: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float | Sequence[float] = 0.0,
    top_p: float | Sequence[float] = 1.0,
    seeds: Sequence[int] | None = None,
    prefixes: Sequence[Prefix] | None = None,
    batch_size: int = 32,
    attention: dict[str, Any] | None = None,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
    stop_repeats: bool = False,
    tools: Sequence[dict[str, Any]] = (),
) -> list[Generation]:
    """Continue N conversations; results stand in the order of the input.

    Args:
        conversations, images, prefixes: as in ``vlm.chat.encode``.
        max_new_tokens, temperature, top_p: one value for all, or N values. No row writes past the model's positions.
            Temperature 0 takes the likeliest token. ``top_p`` in (0, 1] keeps the smallest set of tokens that holds this
            share of the probability.
        seeds: N integers for sampling; drawn from torch's global generator if absent. The same seed draws the same
            numbers on the same type of device.
        attention: keyword arguments of ``vlm.attention.AttentionMass``; ``rows`` may be ``"token"`` (default) or
            ``"predicting"``. ``{}`` takes its defaults.
        streamer: a transformers streamer, for a single conversation.
        stopping: a criterion that stops the whole batch, such as ``StopSwitch``.
        stop_repeats: stop a row that repeats itself (``vlm.repetition``). Only for people who wait for an answer: training
            and evaluation see what a model writes by itself.
        tools: as in ``vlm.chat.encode``.

    Raises:
        UserError: see ``vlm.chat.encode`` and ``vlm.finite.finite_scores``; or a setting out of range.
    """
    count = len(conversations)
    temperatures = _per_row(temperature, count)
    if seeds is None:
        seeds = torch.randint(2**62, (count,)).tolist() if any(temperatures) else [0] * count
    rows = [
        _Row(*values)
        for values in zip(
            conversations,
            _each(images, count),
            _each(prefixes if prefixes is not None else [""] * count, count),
            _per_row(max_new_tokens, count),
            temperatures,
            _per_row(top_p, count),
            _each(seeds, count),
            strict=True,
        )
    ]
    results: dict[int, Generation] = {}
    for numbers in _split_batches(rows, batch_size):
        written = _generate_batch(
            vlm, [rows[number] for number in numbers], attention, streamer, stopping, stop_repeats, tools
        )
        results.update(zip(numbers, written, strict=True))
    return [results[number] for number in range(count)]


def generate_stream(
    vlm: VLM,
    messages: Sequence[Message],
    images: Sequence[Image.Image],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    prefix: Prefix = "",
    stop_repeats: bool = False,
    tools: Sequence[dict[str, Any]] = (),
) -> TextStream[Generation]:
    """Like ``generate`` for one conversation, as an iterator of text pieces that together are ``Generation.text``."""
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seeds": [seed],
        "prefixes": [prefix],
        "stop_repeats": stop_repeats,
        "tools": tools,
    }
    return TextStream(_stream(vlm, messages, images, settings))


@dataclass(frozen=True)
class _Row:
    """One conversation to be continued, and how."""

    messages: Sequence[Message]
    images: Sequence[Image.Image]
    prefix: Prefix
    budget: int
    temperature: float
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise UserError(f"max_new_tokens is {self.budget}: it must be at least 1.")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise UserError("temperature must be 0 or more, and top_p above 0 and at most 1.")


def _generate_batch(
    vlm: VLM,
    rows: Sequence[_Row],
    attention: dict[str, Any] | None,
    streamer: BaseStreamer | None,
    stopping: StoppingCriteria | None,
    stop_repeats: bool,
    tools: Sequence[dict[str, Any]],
) -> list[Generation]:
    ends = end_tokens(vlm)
    # Neither a probe on the model nor the state that a tokenizer sets for a call may be shared by two threads.
    with vlm.lock:
        prefixes = [row.prefix for row in rows]
        batch = encode(vlm, [row.messages for row in rows], [row.images for row in rows], prefixes, tools)
        start = batch["input_ids"].shape[1]
        prompts = batch["attention_mask"].sum(dim=1).tolist()
        room = position_limit(vlm)
        budgets = [min(row.budget, room - prompt) for row, prompt in zip(rows, prompts, strict=True)]
        repetition = RepetitionStop(start, vlm.tokenizer, ends) if stop_repeats else None
        call = {
            **batch,
            "generation_config": _sampling_settings(vlm, max(budgets), ends),
            "logits_processor": [_Sampler(rows, vlm.device)],
            "stopping_criteria": StoppingCriteriaList(
                [
                    Budgets(start, budgets, vlm.device),
                    *(criterion for criterion in (stopping, repetition) if criterion is not None),
                ]
            ),
            "streamer": streamer,
        }
        with finite_scores(vlm.model, vlm.name):
            if attention is None:
                sequences, probe = vlm.model.generate(**call), None
            else:
                from vlm.attention import AttentionMass

                settings = {key: value for key, value in attention.items() if key != "rows"}
                with AttentionMass(vlm.model, **settings) as probe:
                    sequences = vlm.model.generate(**call)
        written = []
        stopped = repetition.stopped if repetition is not None else {}
        for number, (row, tokens) in enumerate(zip(rows, sequences[:, start:].tolist(), strict=True)):
            # A row that has reached its budget is padded, and nothing that is found after it counts.
            repeats = stopped.get(number, room + 1) <= budgets[number]
            budget = stopped[number] if repeats else budgets[number]
            end = next((place for place, token in enumerate(tokens[:budget]) if token in ends), None)
            ids = tokens[: budget if end is None else end]
            text = decode_after(vlm.tokenizer, prefix_ids(vlm.tokenizer, row.prefix), ids)
            written.append(Generation(text, ids, end is not None, prompts[number], repeats=repeats))
    if probe is not None:
        _add_mass(written, probe, attention or {})
    return written


def _sampling_settings(vlm: VLM, max_new_tokens: int, ends: set[int]) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,  # the sampler has added its noise before the largest score is taken
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=vlm.tokenizer.pad_token_id,
        suppress_tokens=image_token_ids(vlm.model.config) or None,
        # Set explicitly, because a checkpoint's own generation_config would fill them in, and change what "greedy" means.
        num_beams=1,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
    )


def _add_mass(written: list[Generation], probe: Any, attention: dict[str, Any]) -> None:
    from vlm.attention import response_mass

    counts = [len(generation.token_ids) for generation in written]
    rows = attention.get("rows", "token")
    masses, lifts = (response_mass(values, counts, rows=rows) for values in (probe.mass, probe.lift))
    for generation, mass, lift in zip(written, masses, lifts, strict=True):
        generation.mass, generation.lift = mass, lift


class _Sampler(LogitsProcessor):
    """Turns "take the largest score" into sampling, each row from its own generator (the Gumbel-max trick).

    argmax(score / temperature - log(-log u)) with u uniform in [0, 1) is a draw from softmax(score / temperature). A u
    of 0 only rules its token out for the step; drawing -log u directly could give 0 and force the token. Rows of
    temperature 0 keep their scores.
    """

    def __init__(self, rows: Sequence[_Row], device: torch.device) -> None:
        self.sampled = [number for number, row in enumerate(rows) if row.temperature > 0]
        chosen = [rows[number] for number in self.sampled]
        self.temperatures = torch.tensor([row.temperature for row in chosen], device=device)[:, None]
        self.top_ps = torch.tensor([row.top_p for row in chosen], device=device)[:, None]
        self.generators = [torch.Generator(device).manual_seed(row.seed) for row in chosen]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.sampled:
            return scores
        chosen = scores[self.sampled].float() / self.temperatures
        if (self.top_ps < 1).any():
            chosen = self._nucleus(chosen)
        noise = torch.empty_like(chosen)
        for row, generator in zip(noise, self.generators, strict=True):
            row.uniform_(generator=generator)
        drawn = scores.clone()
        drawn[self.sampled] = (chosen - (-noise.log()).log()).to(scores.dtype)
        return drawn  # type: ignore[return-value]

    def _nucleus(self, scores: torch.Tensor) -> torch.Tensor:
        ordered, places = scores.sort(dim=-1, descending=True)
        share = ordered.softmax(dim=-1)
        before = share.cumsum(dim=-1) - share  # what the likelier tokens hold already; 0 for the likeliest
        ordered = ordered.masked_fill((before >= self.top_ps) & (self.top_ps < 1), float("-inf"))
        return torch.empty_like(scores).scatter_(-1, places, ordered)


class _Pieces(BaseStreamer):
    """Decodes tokens as they come, holding back bytes that do not yet make a character; text goes into a queue."""

    def __init__(self, tokenizer: Any, prefix: list[int], ends: set[int], pieces: "queue.Queue[Any]") -> None:
        self.tokenizer, self.ends, self.pieces = tokenizer, ends, pieces
        self.ids, self.shown, self.context = list(prefix), len(prefix), max(0, len(prefix) - 8)
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
        elif int(value) not in self.ends:
            self.ids.append(int(value))
            self._show(self._new_text())

    def end(self) -> None:
        self._show(self._new_text(), last=True)

    def _new_text(self) -> str:
        # Some tokenizers decode a token differently at the start of a text, so some shown tokens go before the new ones.
        return decode_after(self.tokenizer, self.ids[self.context : self.shown], self.ids[self.shown :])

    def _show(self, text: str, last: bool = False) -> None:
        if text and (last or not text.endswith("\ufffd")):
            self.pieces.put(text)
            self.context, self.shown = self.shown, len(self.ids)


def _stream(
    vlm: VLM,
    messages: Sequence[Message],
    images: Sequence[Image.Image],
    settings: dict[str, Any],
) -> Generator[str, None, Generation]:
    pieces: queue.Queue[Any] = queue.Queue()
    stop = StopSwitch()

    def work() -> None:
        try:
            with vlm.lock:
                prefix = prefix_ids(vlm.tokenizer, settings["prefixes"][0])
                streamer = _Pieces(vlm.tokenizer, prefix, end_tokens(vlm), pieces)
                written = generate(vlm, [messages], [images], streamer=streamer, stopping=stop, **settings)
            pieces.put(written[0])
        except BaseException as error:  # raised again where the stream is read
            pieces.put(error)

    thread = threading.Thread(target=work, name="generate_stream", daemon=True)
    thread.start()
    try:
        while isinstance(piece := pieces.get(), str):
            yield piece
        if isinstance(piece, BaseException):
            raise piece
        return piece
    finally:
        stop.event.set()
        thread.join()


def end_tokens(vlm: VLM) -> set[int]:
    """The tokens that end a response."""
    ends = vlm.model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, list) else [ends]) | {vlm.tokenizer.eos_token_id}
    return {token for token in tokens if token is not None}


def image_token_ids(config: Any) -> list[int]:
    """Tokens that stand for images. If the model wrote one, the next prompt would read it as an image."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "vision_start_token_id")
    return sorted({token for name in names if isinstance(token := getattr(config, name, None), int)})


def _per_row(value: N | Sequence[N], count: int) -> list[N]:
    return _each(value if isinstance(value, Sequence) else [value] * count, count)


def _each(values: Sequence[T], count: int) -> list[T]:
    if len(values) != count:
        raise UserError(f"{len(values)} values were given for {count} conversations: give one for each.")
    return list(values)


def _split_batches(rows: Sequence[_Row], batch_size: int) -> Iterator[list[int]]:
    """Rows of similar length together: little padding; the longest first: memory runs out early or never."""

    def size(row: _Row) -> float:
        text = sum(len(str(turn["content"])) for turn in row.messages) / 4
        return text + len(row.prefix) + sum(image.width * image.height for image in row.images) / 28**2

    order = sorted(range(len(rows)), key=lambda number: (-size(rows[number]), number))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
