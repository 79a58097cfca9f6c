"""The claims of many responses: found by the grammar and, for the rest, by an extractor; judged by facts, else by a responder."""

from collections.abc import Sequence

from reward.claim_extractor import Asked, ClaimExtractor
from reward.claim_facts import Claim
from reward.claims import MAX_CLAIMS, Question, ask_responder, final_claims, is_true, read_text, span_of_reasoning
from reward.rewards import Rollout
from vlm.protocol import Backend

MIN_WORDS = 3
"""Words of a sentence that an extractor is asked about."""


class ClaimChecker:
    """Prepares what ``process_claims`` needs beside the facts; replies are remembered.

    Args:
        responder: is asked about claims that the facts do not cover; None skips them.
        extractor: finds claims in sentences in which the grammar finds none; None leaves them.
    """

    def __init__(self, responder: Backend | None = None, extractor: Backend | None = None) -> None:
        self.responder = responder
        self.extractor = None if extractor is None else ClaimExtractor(extractor)
        self.answered: dict[Question, bool] = {}
        self.unclear: set[Question] = set()

    def prepare(self, rollouts: Sequence[Rollout], images: Sequence[Sequence[str]]) -> None:
        """Set ``claims``, ``seen`` and ``claim_counts`` of each rollout.

        Args:
            images: the paths of each rollout's images.

        Raises:
            UserError: a model cannot be asked at all.
        """
        found = self._found(rollouts)
        for rollout, claims in zip(rollouts, found, strict=True):
            rollout.claims = claims
        if self.responder is not None:
            self._ask(self.responder, rollouts, images)

    def _found(self, rollouts: Sequence[Rollout]) -> list[list[Claim]]:
        texts = [text_of_claims(rollout) for rollout in rollouts]
        if self.extractor is None:
            return [final_claims(claims)[-MAX_CLAIMS:] for claims, _ in texts]
        before = dict(self.extractor.counts)
        further = self.extractor.claims_of([unread for _, unread in texts])
        counts = {
            name: self.extractor.counts[name] - before.get(name, 0) for name in ("malformed", "failed", "dropped")
        }
        for rollout, more in zip(rollouts, further, strict=True):
            shares = {f"extractor_{name}": count / len(rollouts) for name, count in counts.items()}
            rollout.claim_counts = {**(rollout.claim_counts or {}), "extracted": float(len(more)), **shares}
        together = [[*claims, *more] for (claims, _), more in zip(texts, further, strict=True)]
        return [final_claims(sorted(claims, key=lambda one: one.start))[-MAX_CLAIMS:] for claims in together]

    def _ask(self, responder: Backend, rollouts: Sequence[Rollout], images: Sequence[Sequence[str]]) -> None:
        open_claims: list[list[Question]] = []
        for rollout, paths in zip(rollouts, images, strict=True):
            facts, claims = rollout.facts, rollout.claims or []
            asked = [one for one in claims if facts is None or is_true(one, facts) is None] if paths else []
            open_claims.append([(tuple(paths), *one.question) for one in asked])
        known = self.answered.keys() | self.unclear
        new = list(dict.fromkeys(one for questions in open_claims for one in questions if one not in known))
        if new:
            self.answered |= ask_responder(responder, new, self.unclear)
        for rollout, questions in zip(rollouts, open_claims, strict=True):
            rollout.seen = {
                claim.statement: self.answered[one]
                for claim in rollout.claims or []
                for one in questions
                if one in self.answered and one[1:] == claim.question
            }
            cannot_tell = sum(one in self.unclear for one in questions)
            rollout.claim_counts = {**(rollout.claim_counts or {}), "cannot_tell": float(cannot_tell)}


def text_of_claims(rollout: Rollout) -> tuple[list[Claim], list[Asked]]:
    """(the claims that the grammar finds in a response, the sentences in which it finds none)."""
    start, end = span_of_reasoning(rollout.text)
    text = rollout.text[start:end]
    stated, sentences = read_text(text, rollout.facts)
    claims = [*stated, *(claim for sentence in sentences for claim in sentence.claims)]
    claims = [
        one._replace(start=one.start + start, end=one.end + start) for one in sorted(claims, key=lambda one: one.start)
    ]
    covered = [(one.start - start, one.end - start) for one in claims]
    unread, at = [], 0
    for sentence in sentences:
        while at < len(covered) and covered[at][1] <= sentence.start:
            at += 1
        reads = at < len(covered) and covered[at][0] < sentence.end
        words = text[sentence.start : sentence.end]
        if not reads and sentence.asserts and len(words.split()) >= MIN_WORDS:
            unread.append(Asked(words, sentence.start + start))
    return claims, unread
