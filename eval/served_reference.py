"""The weights' side of a comparison with a served model: what this process writes for a probe, and how it scores a reply."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.served_probes import Probe
from vlm.chat import Message, encode, prefix_ids
from vlm.generate import end_tokens, generate
from vlm.load import VLM
from vlm.protocol import ScoredReply
from vlm.scoring import score_responses
from vlm.thinking import Alignment


@dataclass(frozen=True)
class Written:
    """What the weights write for a probe, greedily.

    Attributes:
        prompt_tokens: of the prompt, image tokens included; ``text_tokens``: of the same messages without their images.
    """

    ids: list[int]
    text: str
    prompt_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class Said:
    """A server's reply in the tokens of the weights.

    Attributes:
        common: how many tokens of the weights' own response it begins with.
        log_p: the server's log-probabilities of the first tokens, as far as its tokens are those of ``ids``.
        not_greedy: the place of the first token that the server itself did not find the likeliest; None if there is none.
    """

    text: str
    ids: list[int]
    common: int
    log_p: list[float] = field(default_factory=list)
    not_greedy: int | None = None


@dataclass(frozen=True)
class Scored:
    """A reply as the weights score it, token by token, in nats: ``log_p`` of its tokens, ``best`` of the likeliest ones."""

    log_p: list[float]
    best: list[float]

    @property
    def shortfall(self) -> float:
        """By how much a token falls short of the likeliest one, at most: 0 for a reply that the weights would write."""
        return max((best - own for own, best in zip(self.log_p, self.best, strict=True)), default=0.0)

    def gaps(self, log_p: Sequence[float]) -> list[float]:
        """Distances from a server's log-probabilities."""
        return [abs(own - other) for own, other in zip(self.log_p, log_p, strict=False)]


@dataclass(frozen=True)
class Reference:
    """A model in this process that a served one is compared with."""

    vlm: VLM
    max_new_tokens: int
    batch_size: int

    def write(self, probes: Sequence[Probe]) -> list[Written]:
        """The greedy response to each probe."""
        written = generate(
            self.vlm,
            [probe.messages for probe in probes],
            [probe.images for probe in probes],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return [
            Written(
                one.token_ids,
                one.text,
                one.prompt_tokens,
                self.prompt_tokens(show_images(probe, ())) if probe.images else one.prompt_tokens,
            )
            for probe, one in zip(probes, written, strict=True)
        ]

    def prompt_tokens(self, probe: Probe) -> int:
        """The length of a probe's prompt, image tokens included."""
        return int(encode(self.vlm, [probe.messages], [probe.images])["input_ids"].shape[1])

    def read(self, reply: ScoredReply, written: Written) -> Said:
        """A server's reply in the tokens of the weights."""
        tokenizer = self.vlm.tokenizer
        ends = {tokenizer.decode([token]) for token in end_tokens(self.vlm)}
        scores = list(reply.scores)
        cut = next((place for place, one in enumerate(scores) if one.token in ends), len(scores))
        own = Alignment(tokenizer, written.ids)
        # A parser of reasoning changes the text and leaves the tokens; characters over several tokens are whole in the text alone.
        spelled = "".join(one.token for one in scores[:cut])
        text = max(reply.text, spelled, key=lambda told: _common_length(told, own.text))
        # A server may send anything: half a surrogate pair is no text to a tokenizer, and a reply may pass its limit.
        text = text.encode("utf-8", "replace").decode("utf-8")
        same = _common_length(text, own.text)
        common = max(t for t in range(len(written.ids) + 1) if own.length(t) <= same)
        ids = [*written.ids[:common], *prefix_ids(tokenizer, text[own.length(common) :])][: self.max_new_tokens + 1]
        pieces = Alignment(tokenizer, ids)
        log_p: list[float] = []
        for place, one in enumerate(scores[: min(cut, len(ids))]):
            if one.token != pieces.text[pieces.length(place) : pieces.length(place + 1)]:
                break  # from here on the server's tokens are others, so that their places do not match
            log_p.append(one.log_p)
        not_greedy = (place for place, one in enumerate(scores) if one.likeliest not in (None, one.token))
        return Said(text, ids, common, log_p, next(not_greedy, None))

    def score(
        self, probes: Sequence[Probe], responses: Sequence[Sequence[int]], in_sequence: bool = False
    ) -> list[Scored]:
        """How the weights score a response to each probe; ``in_sequence`` as in ``vlm.scoring.score_responses``."""
        scored: list[Scored] = []
        for first in range(0, len(probes), self.batch_size):
            part = slice(first, first + self.batch_size)
            scores = score_responses(
                self.vlm,
                [probe.messages for probe in probes[part]],
                [probe.images for probe in probes[part]],
                responses[part],
                distributions=True,
                in_sequence=in_sequence,
            )
            for log_p, root in zip(scores.log_p, scores.root, strict=True):
                scored.append(Scored(log_p.tolist(), (2 * root.amax(-1).log()).tolist()))
        return scored


def show_images(probe: Probe, kept: Sequence[int]) -> Probe:
    """The probe with those of its images alone that ``kept`` numbers; the parts of the others leave the messages."""
    numbers = iter(range(len(probe.images)))

    def parts(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [part for part in content if part["type"] == "text" or next(numbers) in kept]

    messages: list[Message] = [{**message, "content": parts(message["content"])} for message in probe.messages]
    return Probe(probe.name, probe.kind, messages, [probe.images[number] for number in kept])


def _common_length(one: str, other: str) -> int:
    """The number of characters with which two texts begin alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
