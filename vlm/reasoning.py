"""How long a model thinks, and how often it looks: effort as a token budget, budget forcing, and votes.

Reasoning that ends before it has gone back to the image often enough is continued with a re-look cue; one that exceeds
its budget is closed, and the answer is asked for. Source of budget forcing: s1, arXiv 2501.19393, section 3; of votes:
self-consistency, arXiv 2203.11171.

    stream = think_stream(vlm, question_messages(question, 1), [image], EFFORTS["high"])
    for piece in stream: print(piece, end="")
    stream.result       # the whole response

Without a ``<think>`` tag (a base model that was never taught one) the reasoning is what stands before the last ``\\boxed``.
"""

import bisect
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from configs.errors import ConfigError, UserError
from vlm.protocol import Request, TextStream, is_whole
from vlm.repetition import repeats_itself
from vlm.response import TAGS, closing_tag, count_looks, find_reasoning

if TYPE_CHECKING:
    from PIL import Image

    from vlm.backends import Backend
    from vlm.chat import Message
    from vlm.generate import Generation
    from vlm.load import VLM

CUE = "Wait, let me look at the picture again."
ANSWER_TOKENS = 64
"""Tokens for the answer after reasoning that was closed."""
WORTHWHILE = 16
"""If fewer tokens of the budget are left, reasoning that has ended is not continued."""
VOTE_TEMPERATURE = 0.7
MAX_VOTES = 64


@dataclass(frozen=True)
class Effort:
    """How much a model may think.

    Attributes:
        tokens: budget of the reasoning; at most half of the model's positions are used.
        looks: reasoning that ends with fewer re-looks is continued with ``CUE``.
        further: reasoning that ends is continued with ``CUE`` this many times, however many re-looks it has of its own.
        style: the instruction that goes with it, a key of ``vlm.chat.INSTRUCTIONS``.
    """

    tokens: int
    looks: int = 0
    style: str = "think"
    further: int = 0

    @property
    def forces(self) -> bool:
        """Whether reasoning that has ended may be continued."""
        return bool(self.looks or self.further)


EFFORTS = {
    "off": Effort(64, style="direct"),
    "low": Effort(128),
    "medium": Effort(512),
    "high": Effort(2048, looks=2),
}


def find_effort(name: str) -> Effort:
    """Raises UserError for a name that is not in ``EFFORTS``."""
    if name not in EFFORTS:
        raise UserError(f"The effort '{name}' is not known: use one of {', '.join(EFFORTS)}.")
    return EFFORTS[name]


@dataclass(frozen=True)
class BudgetedResponse:
    """What a model wrote under an effort; after a prefix, without it.

    Attributes:
        tokens: new tokens, forced ones included.
        finished: the model ended its turn itself.
        relooks: re-look cues that were inserted into the text.
        closed: its reasoning exceeded the budget (or never came to an answer) and was closed.
        repeats: it repeated itself (``vlm.repetition``); a model in this process was stopped there, without an answer.
    """

    text: str
    tokens: int
    finished: bool
    relooks: int = 0
    closed: bool = False
    repeats: bool = False


def think_stream(
    vlm: "VLM",
    messages: "Sequence[Message]",
    images: "Sequence[Image.Image]",
    effort: Effort,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    prefix: str = "",
    stop_repeats: bool = False,
) -> TextStream[BudgetedResponse]:
    """One conversation, piece by piece; arguments as ``vlm.generate.generate_stream``. No piece is ever taken back."""
    return TextStream(_pieces(vlm, messages, images, effort, temperature, seed, prefix, stop_repeats))


def _pieces(
    vlm: "VLM",
    messages: "Sequence[Message]",
    images: "Sequence[Image.Image]",
    effort: Effort,
    temperature: float,
    seed: int,
    prefix: str,
    stop_repeats: bool,
) -> Generator[str, None, BudgetedResponse]:
    from vlm.generate import generate_stream

    course, shown = _Course(vlm, effort, messages, prefix), ""
    while not course.done:
        stream = generate_stream(
            vlm,
            messages,
            images,
            max_new_tokens=course.budget,
            temperature=temperature,
            seed=seed + course.rounds,
            prefix=course.prefix,
            stop_repeats=stop_repeats,
        )
        written = course.text
        try:
            for piece in stream:
                written += piece
                # What stands after the end of the reasoning may yet be replaced by another look.
                safe = len(written) if course.answering or not effort.forces else _settled(course.given, written)
                if safe > len(shown):
                    yield written[len(shown) : safe]
                    shown = written[:safe]
        finally:
            stream.close()
        assert stream.result is not None  # the stream ended by itself
        course.take(stream.result)
        if len(course.text) > len(shown):
            yield course.text[len(shown) :]
            shown = course.text
    return course.response


def think_batch(
    vlm: "VLM",
    conversations: "Sequence[Sequence[Message]]",
    images: "Sequence[Sequence[Image.Image]]",
    effort: Effort,
    *,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    batch_size: int = 32,
    stop_repeats: bool = False,
) -> list[BudgetedResponse]:
    """N conversations at once; each comes out as ``think_stream`` would write it. Arguments as ``vlm.generate.generate``."""
    from vlm.generate import generate

    courses = [_Course(vlm, effort, messages) for messages in conversations]
    seeds = seeds or [0] * len(conversations)
    while active := [number for number, course in enumerate(courses) if not course.done]:
        written = generate(
            vlm,
            [conversations[number] for number in active],
            [images[number] for number in active],
            max_new_tokens=[courses[number].budget for number in active],
            temperature=temperature,
            seeds=[seeds[number] + courses[number].rounds for number in active],
            prefixes=[courses[number].prefix for number in active],
            batch_size=batch_size,
            stop_repeats=stop_repeats,
        )
        for number, generation in zip(active, written, strict=True):
            courses[number].take(generation)
    return [course.response for course in courses]


async def think_served(
    backend: "Backend",
    messages: "Sequence[Message]",
    images: "Sequence[Image.Image]",
    effort: Effort,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> BudgetedResponse:
    """The same for a backend. A server does not continue a given prefix, so only the effort's budget and instruction apply."""
    request = Request(list(messages), list(images), effort.tokens + ANSWER_TOKENS, temperature, seed=seed)
    reply = await backend.complete(request)
    return BudgetedResponse(
        reply.text, reply.completion_tokens, is_whole(reply.finish_reason), repeats=repeats_itself(reply.text)
    )


class _Course:
    """One response under way: what is written so far, and what to ask the model for next.

    Attributes:
        ids: new tokens so far; ``text`` is how they read after the prefix.
        budget: tokens of the next round.
        given: what stands before ``text``: the thinking tag that the prompt opens, if it does, and the prefix.
        answering: the reasoning has ended and is not continued any more.
    """

    def __init__(self, vlm: "VLM", effort: Effort, messages: "Sequence[Message]", prefix: str = "") -> None:
        from vlm.chat import opened_tag, position_limit, prefix_ids

        self.tokenizer, self.effort, self.given = vlm.tokenizer, effort, opened_tag(vlm, messages) + prefix
        self.start = prefix_ids(vlm.tokenizer, prefix)
        self.limit = position_limit(vlm)
        self.budget = max(1, min(effort.tokens, self.limit // 2))
        self.thinking_left = self.budget
        self.ids: list[int] = []
        self.rounds = self.relooks = 0
        self.answering = self.closed = self.finished = self.repeats = self.done = False

    @property
    def prefix(self) -> list[int]:
        return [*self.start, *self.ids]

    @property
    def text(self) -> str:
        return self._read(self.ids)

    @property
    def response(self) -> BudgetedResponse:
        return BudgetedResponse(self.text, len(self.ids), self.finished, self.relooks, self.closed, self.repeats)

    def take(self, written: "Generation") -> None:
        """Add what the model wrote, then decide: another look, the answer, or the end."""
        self.ids += written.token_ids
        self.rounds += 1
        self.thinking_left -= len(written.token_ids)
        self.finished, room = written.finished, self.limit - written.prompt_tokens - len(written.token_ids)
        self.repeats = written.repeats  # asked for its answer, a model in a loop would invent one
        if self.answering or self.repeats or room <= ANSWER_TOKENS:
            self.done = True
            return
        text = self.given + self.text
        end = reasoning_end(text)
        if end is None and written.finished:
            end = len(text)
        if (
            end is not None
            and end >= len(self.given)
            and (count_looks(text[:end]) < self.effort.looks or self.relooks < self.effort.further)
            and self.thinking_left >= WORTHWHILE
        ):
            self._cut(end - len(self.given))
            self._append((" " if self.text.strip() and not self.text[-1:].isspace() else "") + CUE)
            self.relooks += 1
            self.budget = self.thinking_left
            return
        reasoning = find_reasoning(text)
        opened = reasoning.opened and not reasoning.closed
        if written.finished and (not opened or "\\boxed" in text):
            self.done = True
            return
        if opened or end is None:  # still thinking, or ended without an answer
            self._append((f" {closing_tag(text)} " if opened else " ") + "\\boxed{")
            self.closed = True
        self.answering, self.budget = True, ANSWER_TOKENS

    def _cut(self, characters: int) -> None:
        """Keep so many characters of the new text. A token across the cut is encoded again."""
        kept = self.text[:characters].rstrip()
        whole = (
            bisect.bisect_right(range(len(self.ids) + 1), len(kept), key=lambda n: len(self._read(self.ids[:n]))) - 1
        )
        self.ids = self.ids[: max(0, whole)]
        self._append(kept[len(self.text) :])

    def _append(self, text: str) -> None:
        if text:
            self.ids += self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _read(self, ids: list[int]) -> str:
        from vlm.thinking import decode_after

        return decode_after(self.tokenizer, self.start, ids)


def reasoning_end(text: str) -> int | None:
    """Character at which the reasoning ends: ``</think>``, or the last ``\\boxed`` of a text without tags; None while it lasts."""
    reasoning, box = find_reasoning(text), text.rfind("\\boxed")
    if reasoning.closed:
        return reasoning.end
    return None if reasoning.opened or box < 0 else box


def _settled(given: str, written: str) -> int:
    """How many characters of ``written`` are before the end of the reasoning, whatever the model writes next."""
    end = reasoning_end(given + written)
    if end is not None:
        settled = end - len(given)
    else:
        ends = [*(tags.closing.lower() for tags in TAGS), "\\boxed"]
        starts = [n for end in ends for n in range(1, len(end)) if written.lower().endswith(end[:n])]
        settled = len(written) - max(starts, default=0)
    return len(written[: max(0, settled)].rstrip())


# Votes


@dataclass(frozen=True)
class Votes:
    """K answers to one question, counted.

    Attributes:
        winner: index of the first response that gave the most common answer; 0 if none gave any.
        agreement: share of all K that gave it, in [0, 1].
        counts: answer, as first spelled -> how many gave it.
    """

    winner: int
    agreement: float
    counts: dict[str, int]


def count_votes(answers: Sequence[str | None]) -> Votes:
    """Count answers that differ in nothing but case, spaces and the writing of a number as one."""
    names = [None if answer is None else _plain(answer) for answer in answers]
    counted = Counter(name for name in names if name is not None)
    if not counted:
        return Votes(0, 0.0, {})
    best, most = counted.most_common(1)[0]  # of equals, the first to be given
    spelled = {
        name: str(answer) for name, answer in reversed(list(zip(names, answers, strict=True))) if name is not None
    }
    return Votes(names.index(best), most / len(answers), {spelled[name]: n for name, n in counted.most_common()})


def _plain(answer: str) -> str:
    text = " ".join(answer.lower().split()).rstrip(".")
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def vote_seeds(seed: int, votes: int) -> list[int]:
    """Seeds of the K responses of one question, far enough apart that no two rounds share a seed."""
    if not 1 <= votes <= MAX_VOTES:
        raise ConfigError(f"{votes} votes were asked for: 1 to {MAX_VOTES} are possible.")
    return [seed + 1_000 * number for number in range(votes)]


def vote_temperature(votes: int, temperature: float | None) -> float:
    """The temperature to sample at: as given, else 0 for one vote and ``VOTE_TEMPERATURE`` for several.

    Raises:
        ConfigError: several votes at temperature 0.
    """
    if temperature is None:
        return 0.0 if votes == 1 else VOTE_TEMPERATURE
    if votes > 1 and temperature == 0:
        raise ConfigError("Votes at temperature 0 would all be the same: leave out --temperature, or raise it.")
    return temperature


def with_style(effort: Effort, style: str) -> Effort:
    """The effort with another instruction; ``think`` leaves the one that it brings."""
    return effort if style == "think" else replace(effort, style=style)
