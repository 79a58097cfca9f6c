"""One prompt: what a served model and its weights have in common, and what differs."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from eval.served_probes import Probe
from eval.served_reference import Said, Scored, Written
from vlm.protocol import BackendError, ScoredReply


@dataclass(frozen=True)
class Tolerance:
    """``log_p``: mean difference of log-probabilities, in nats per token, that rounding explains."""

    log_p: float

    @property
    def tie(self) -> float:
        """Two tokens this close, in nats, may change places by rounding alone: single tokens round by more than the mean.

        With 0.05 of bfloat16 it is 0.25: each of two logits between 16 and 32 may be off by one step of bfloat16, 0.125.
        """
        return 5 * self.log_p


@dataclass
class Comparison:
    """One probe: what server and weights have in common.

    Attributes:
        served_prompt, own_prompt: tokens of the prompt; ``text_tokens``: of the same messages without images.
        common: how many of the weights' ``own_tokens`` the reply begins with; ``whole``: the reply is the weights' own.
        margin: by how much the server's first other token falls short of the weights' choice, in nats; None where there is
            none, or no further token.
        log_p_gap, log_p_gap_max: difference of log-probabilities over ``compared`` tokens of the reply.
        differs: of ``refused``, ``prompt_tokens``, ``tokens``, ``log_probabilities``, those that do.
    """

    name: str
    kind: str
    served_prompt: int | None
    own_prompt: int
    text_tokens: int
    common: int = 0
    own_tokens: int = 0
    whole: bool = False
    margin: float | None = None
    log_p_gap: float | None = None
    log_p_gap_max: float | None = None
    compared: int = 0
    not_greedy: int | None = None
    refused: str = ""
    served_text: str = ""
    own_text: str = ""
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: Said | None = None

    def row(self) -> dict[str, Any]:
        """For the report."""
        return {key: value for key, value in vars(self).items() if key != "said"}

    def sentence(self) -> str:
        """How far apart the two are on this prompt."""
        if self.refused:
            return f"The server refuses this prompt: {self.refused}"
        parts = []
        if "prompt_tokens" in self.differs:
            parts.append(f"the prompt has {self.served_prompt} tokens there and {self.own_prompt} here")
        if "tokens" in self.differs:
            then = "the reply ends" if self.margin is None else f"the server's is {self.margin:.2g} nats less likely"
            parts.append(f"the first {self.common} of {self.own_tokens} greedy tokens are equal, then {then}")
        if "log_probabilities" in self.differs:
            parts.append(
                f"log-probabilities differ by {self.log_p_gap:.2g} nats per token, {self.log_p_gap_max:.2g} at most"
            )
        text = "; ".join(parts)
        return text[:1].upper() + text[1:] + "."


def compare_one(
    probe: Probe,
    written: Written,
    reply: ScoredReply | BackendError,
    said: Said | None,
    scored: Scored,
    tolerance: Tolerance,
) -> Comparison:
    """Compare one reply with what the weights write (``written``) and how they score it (``scored``)."""
    own = Comparison(probe.name, probe.kind, None, written.prompt_tokens, written.text_tokens)
    own.own_tokens, own.own_text = len(written.ids), written.text
    if isinstance(reply, BackendError) or said is None:
        own.refused, own.differs = str(reply), ["refused"]
        return own
    own.served_prompt = reply.prompt_tokens or None
    own.said, own.served_text, own.common, own.not_greedy = said, said.text, said.common, said.not_greedy
    own.whole = said.common == len(written.ids) == len(said.ids)
    if not own.whole:
        # A reply that ends early has no token there that would show how close the choice was.
        place = said.common
        own.margin = scored.best[place] - scored.log_p[place] if place < len(said.ids) else None
    gaps = scored.gaps(said.log_p)
    if gaps:
        own.log_p_gap, own.log_p_gap_max, own.compared = fmean(gaps), max(gaps), len(gaps)
    tied = not own.whole and own.margin is not None and own.margin <= tolerance.tie
    log_p_differ = own.log_p_gap is not None and own.log_p_gap > tolerance.log_p
    counts_differ = own.served_prompt not in (None, own.own_prompt)
    agrees = own.log_p_gap is not None and not log_p_differ and (own.whole or tied)
    if counts_differ and agrees:
        own.notes.append("The server counts the tokens of a prompt otherwise, and reads it as the weights do.")
    elif counts_differ:
        own.differs.append("prompt_tokens")
    if not own.whole and not tied:
        own.differs.append("tokens")
    if log_p_differ:
        own.differs.append("log_probabilities")
    if tied:
        own.notes.append("Two tokens are equally likely up to rounding somewhere, and the server wrote the other one.")
    return own
