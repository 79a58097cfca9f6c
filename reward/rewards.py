"""Rewards of one response: small pure functions ``Rollout -> Score`` with named parts, ``None`` for "cannot judge".

docs/rewards.md explains the attention terms (published form: Reflection-V, arXiv 2509.12132). Notation: n = 1..T
counts the completion tokens without the end-of-turn token, m[n] is the image mass of token n, in [0, 1], already
averaged over heads and over the configured layers; the lift is m[n] / (visible image tokens / visible tokens), 1 when
attention is uniform. Terms over a whole group of responses are in ``reward.group``.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from reward.claim_facts import Claim
from reward.claims import claims, is_true
from reward.grade import Gold, Grade, grade
from vlm.response import after_reasoning, find_reasoning, marks_answer, repeats_tags

MIN_REASONING = 8
"""Reasoning under this many tokens are not judged: the halves of so short a text are noise."""

MIN_MASS = 1e-6
"""A first half below this mean mass does not look at the image at all, and a ratio over it is rounding noise."""

NGRAM = 6
"""Words in a row that count as repeated when they stand in reasoning again: longer than any re-look cue."""

LOOP = 4
"""Occurrences from which a piece is a loop, whose first occurrence is no text of its own either."""

MAX_UNITS = 20_000
"""Words, or characters of text without spaces, that ``repetition`` reads."""

INFORMATION_RANGE = 3.0
"""Nats: what the image adds to the log probability of one token is clipped to plus or minus this much."""

LIFT_FLOOR = 0.8
"""Share of the first-half lift that the second half must keep to go without a penalty."""


@dataclass
class Rollout:
    """One sampled response and what is needed to reward it.

    ``text`` is the response without its end-of-turn token, ``token_count`` its T tokens. ``mass`` and ``lift`` have
    shape (T,), one value a token, or are None where they were not recorded; so have ``information`` and
    ``information_blank``: log p(token | image) - log p(token | another image, or a blank one) in nats. ``thought`` is
    the token span [start, end) strictly inside <think>. ``finished`` is False for a response cut off at the length limit,
    ``thinks`` for a prompt that asks for an answer without reasoning. ``facts`` are what is known of the image (place ->
    what is there), and ``seen`` a responder's yes or no on the claims (by ``Claim.statement``) that they do not cover. ``claims`` are
    those of the text, where more than the grammar has looked for them, and ``claim_counts`` what is logged about finding and asking.
    ``decimal`` is the decimal mark of the gold answer and the responses, ``"."`` or ``","``. Only a judge reads the ``question``.
    ``calls`` is the number of tool calls, of ``most_calls`` that are allowed, and None without a tool; ``call_errors`` brought an error.
    ``image_mass`` is the (T, images) mass of each image: those of the prompt, then the crops, which have 0 before they come.
    ``text`` and tokens are then the model's own, without calls and results.
    """

    text: str
    domain: str
    gold: str
    choices: list[str] | None = None
    token_count: int = 0
    finished: bool = True
    n_images: int = 1
    mass: Tensor | None = None
    lift: Tensor | None = None
    thought: tuple[int, int] | None = None
    thinks: bool = True
    information: Tensor | None = None
    information_blank: Tensor | None = None
    facts: dict[str, str] | None = None
    seen: dict[str, bool] | None = None
    claims: list[Claim] | None = None
    claim_counts: dict[str, float] | None = None
    decimal: str = "."
    question: str = ""
    calls: int | None = None
    call_errors: int = 0
    most_calls: int = 1
    image_mass: Tensor | None = None

    @property
    def problem(self) -> Gold:
        """What the answer is graded by."""
        return Gold(self.domain, self.gold, self.choices, self.decimal, self.question)

    @cached_property
    def grade(self) -> Grade:
        """The grade of the final answer; found once."""
        return grade(self.problem, self.text, self.finished)

    @property
    def verdict(self) -> Grade:
        """``grade``, by the name that users' rewards know."""
        return self.grade


@dataclass(frozen=True)
class Score:
    """``value`` is the reward (None: cannot judge); ``parts`` are logged whatever the weight and never summed."""

    value: float | None
    parts: dict[str, float] = field(default_factory=dict)


Reward = Callable[[Rollout], Score]


def accuracy_reward(rollout: Rollout) -> Score:
    """The verifier's score in [0, 1]."""
    grade = rollout.grade
    right = {} if grade.score is None else {"right": float(grade.correct)}  # a timeout is not an incorrect answer
    return Score(grade.score, {**right, **grade.parts})


def response_format(rollout: Rollout) -> Score:
    """1 for a finished response with a marked answer behind exactly one closed thinking span, else 0.

    The answer is marked by ``\\boxed{}`` or ``<answer>``. An answer in front of the span, or inside it alone, does not count.
    A prompt may have opened the span already. One that asks for no reasoning needs no span, but an unclosed or a second one
    is not paid there either.
    """
    # Each condition is a part of its own, so that the log shows which one a policy still breaks.
    text, span = rollout.text, find_reasoning(rollout.text)
    direct = not (rollout.thinks or span.opened or span.closed)
    parts = {
        "closed": float(direct or span.closed),
        # An empty span is no reasoning.
        "reasoned": float(not rollout.thinks or any(map(str.isalnum, text[span.start : span.end]))),
        # Nothing follows a span that is opened behind the closed one, so such an answer is not seen.
        "marked": float(marks_answer(after_reasoning(text)) and not marks_answer(text[: span.start])),
        "once": float(not repeats_tags(text)),
        "finished": float(rollout.finished),
    }
    return Score(float(all(parts.values())), parts)


def halves(values: Tensor) -> tuple[float, float]:
    """Means of the first and the second half of a (T,) tensor, T >= 2; for odd T the middle value is in neither."""
    half = len(values) // 2
    return values[:half].mean().item(), values[len(values) - half :].mean().item()


def _judgeable(rollout: Rollout) -> bool:
    """Whether attention can be judged: finished, with an image, reasoning that is long enough, and a record."""
    if not rollout.finished or rollout.n_images == 0 or rollout.mass is None or rollout.lift is None:
        return False
    if rollout.thought is None or rollout.thought[1] - rollout.thought[0] < MIN_REASONING:
        return False
    return bool(torch.isfinite(rollout.mass).all() and torch.isfinite(rollout.lift).all())


def _inside(rollout: Rollout, values: Tensor | None) -> Tensor:
    assert values is not None and rollout.thought is not None
    return values[rollout.thought[0] : rollout.thought[1]]


def _gated(rollout: Rollout, term: float | None, parts: dict[str, float]) -> Score:
    """The term where the answer is correct, 0 where it is incorrect, None where the term or the answer cannot be judged.

    The ungated term is kept as the part ``term``: its correlation with correctness says what the gate hides.
    """
    if term is None or rollout.grade.score is None:
        return Score(None, parts)
    return Score(term if rollout.grade.correct else 0.0, {"term": term, **parts})


def _ratio(first: float, second: float) -> float | None:
    return second / first if first >= MIN_MASS else None


def attention_ratio(rollout: Rollout) -> Score:
    """Published form: mean mass of the second half of the completion over that of the first, if correct; in [0, inf).

    Means stand for the sums of the paper's formula and an odd middle token is dropped, so that the two halves weigh the
    same (r_v of section 3.3, arXiv 2509.12132, as transcribed).
    """
    if not _judgeable(rollout):
        return Score(None)
    assert rollout.mass is not None
    first, second = halves(rollout.mass)
    return _gated(rollout, _ratio(first, second), {"first_half": first, "second_half": second})


def attention_ratio_clipped(rollout: Rollout) -> Score:
    """min(ratio, 1) over the reasoning alone, if correct; in [0, 1]. Nothing is gained by looking late more than early."""
    if not _judgeable(rollout):
        return Score(None)
    first, second = halves(_inside(rollout, rollout.mass))
    ratio = _ratio(first, second)
    return _gated(rollout, None if ratio is None else min(ratio, 1.0), {"first_half": first, "second_half": second})


def attention_late_mass(rollout: Rollout) -> Score:
    """Mean mass of the reasoning's second half, if correct; in [0, 1]. It cannot be raised by looking away early."""
    if not _judgeable(rollout):
        return Score(None)
    _, second = halves(_inside(rollout, rollout.mass))
    return _gated(rollout, second, {})


def grounding_penalty(rollout: Rollout, floor: float = LIFT_FLOOR) -> Score:
    """Penalty for ungrounded reasoning: 0 while the second-half lift keeps ``floor`` of the first half's, down to -1.

    It uses lift, not mass, because a longer text alone lowers the mass of later tokens, which must not cost anything. Correct answers only;
    how much of it is charged is bounded by the group (``reward.group.bounded_penalty``), so that a correct answer never
    falls below an incorrect one.
    """
    if not _judgeable(rollout):
        return Score(None)
    first, second = halves(_inside(rollout, rollout.lift))
    kept = _ratio(first, second)
    term = None if kept is None else -min(max(1.0 - kept / floor, 0.0), 1.0)
    return _gated(rollout, term, {"lift_first_half": first, "lift_second_half": second})


def image_information(rollout: Rollout) -> Score:
    """How much the image raises the probability of the text: mean over the reasoning's second half of log p(token | image) - log p(token |
    another image of equal size), each clipped to ``INFORMATION_RANGE``, if correct; in nats a token.

    The text is the same both times, so it cannot be raised by writing about looking. A blank image lies off the
    distribution of training; its difference is logged beside (part ``blank``) and not rewarded. After PAPO, arXiv 2507.06448.
    """
    values = rollout.information
    if not _judgeable(rollout) or values is None or not bool(torch.isfinite(values).all()):
        return Score(None)
    parts = {}
    if rollout.information_blank is not None and bool(torch.isfinite(rollout.information_blank).all()):
        parts["blank"] = halves(
            _inside(rollout, rollout.information_blank).clamp(-INFORMATION_RANGE, INFORMATION_RANGE)
        )[1]
    first, second = halves(_inside(rollout, values).clamp(-INFORMATION_RANGE, INFORMATION_RANGE))
    return _gated(rollout, second, {"first_half": first, "second_half": second, **parts})


def process_claims(rollout: Rollout) -> Score:
    """Share of the reasoning's claims about the image that are true, in [0, 1]; None where none can be checked.

    Claims are ``key: value`` statements and prose; of several about one thing the last one counts (``reward.claims``).
    """
    true = []
    for claim in claims(rollout.text, rollout.facts) if rollout.claims is None else rollout.claims:
        holds = None if rollout.facts is None else is_true(claim, rollout.facts)
        if holds is None:  # not about the known scene: the responder may have answered it
            holds = (rollout.seen or {}).get(claim.statement)
        true += [] if holds is None else [holds]
    counts = rollout.claim_counts or {}
    if not true:
        return Score(None, {"claims": 0.0, **counts})
    return Score(sum(true) / len(true), {"claims": float(len(true)), "false": float(len(true) - sum(true)), **counts})


def tool_cost(rollout: Rollout) -> Score:
    """Cost of tool calls: minus the share of the allowed calls that a correct response made, in [-1, 0]; a bad call costs the same."""
    if rollout.calls is None or not rollout.finished:
        return Score(None)
    return _gated(rollout, -min(rollout.calls / rollout.most_calls, 1.0), {})


# Scripts without spaces between words. Korean has spaces and is not among them.
_WIDE = r"\u3000-\u30ff\u31f0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"  # Chinese, Japanese, and their punctuation
_NARROW = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_RUN = re.compile(rf"(?P<wide>[{_WIDE}])|(?P<narrow>[{_NARROW}])|[^{_WIDE}{_NARROW}]+")
_WORD = 10
_SIZES = {"wide": 5, "narrow": 2, None: _WORD}  # a word weighs as much as two Chinese characters or five letters
_LONG = 40  # characters of a run that is no longer a word or a formula, but text that avoids its spaces


def _units(text: str) -> Iterator[tuple[str, int]]:
    """The words of a text, and the characters of what is written without spaces, each with its size in tenths of a word."""
    for word in text.split():
        if len(word) <= _LONG and word.isascii():  # the usual word, at once
            yield word, _WORD
            continue
        for match in _RUN.finditer(word):
            run = match[0]
            if len(run) > _LONG:
                yield from ((character, _SIZES["narrow"]) for character in run)
            else:
                yield run, _SIZES[match.lastgroup]


def repetition(rollout: Rollout) -> Score:
    """Penalty for repetition: minus the share of the reasoning's ``NGRAM``-word pieces that occurred before; in [-1, 0].

    Of a piece that occurs ``LOOP`` times the first occurrence counts too, so that text that is nothing but a loop has -1. In
    text without spaces, two Chinese or Japanese characters stand for a word, or five letters of another script.
    """
    span = find_reasoning(rollout.text)
    text = rollout.text[span.start : span.end].strip() or rollout.text
    units = list(islice(_units(text.lower()), MAX_UNITS))
    words, sizes = [word for word, _ in units], [size for _, size in units]
    pieces: list[tuple[str, ...]] = []  # one begins at each unit, as far as the text reaches
    end, length = 0, 0
    for start, first in enumerate(sizes):
        while end < len(units) and length < NGRAM * _WORD:
            length += sizes[end]
            end += 1
        if length < NGRAM * _WORD:
            break
        pieces.append(tuple(words[start:end]))
        length -= first
    if not pieces:
        return Score(0.0)
    times = Counter(pieces)
    # A piece has the weight of the unit at which it begins: the characters of a word together count as much as a word.
    total = sum(sizes[: len(pieces)])
    first_at = dict(zip(reversed(pieces), range(len(pieces) - 1, -1, -1), strict=True))
    fresh = sum(sizes[at] for piece, at in first_at.items() if times[piece] < LOOP)
    return Score(fresh / total - 1.0)


REWARDS: dict[str, Reward] = {
    "accuracy": accuracy_reward,
    "format": response_format,
    "attention_ratio": attention_ratio,
    "attention_ratio_clipped": attention_ratio_clipped,
    "attention_late_mass": attention_late_mass,
    "grounding_penalty": grounding_penalty,
    "image_information": image_information,
    "process_claims": process_claims,
    "repetition": repetition,
    "tool_cost": tool_cost,
}

GATED = (
    "attention_ratio",
    "attention_ratio_clipped",
    "attention_late_mass",
    "grounding_penalty",
    "image_information",
    "tool_cost",
)
"""The terms that measure looking: paid for correct answers only, unjudged where there is nothing to read."""
