"""From paired values to verdicts, and from verdicts to a profile of the model.

A verdict is ``grounded``, ``not grounded`` or ``insufficient data``. *Grounded* requires a difference that chance does not
explain. *Not grounded* requires an interval that excludes every difference that would matter (``margin``). Anything in
between, and anything with fewer than ``MIN_CLUSTERS`` independent images, is insufficient data.

Many measures are judged at once, so p-values are corrected by Holm's method and the intervals of *not grounded* by Bonferroni's.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eval.stats import Estimate, estimate_difference, estimate_mean, holm, insufficient, sign_test

Verdict = Literal["grounded", "not grounded", "insufficient data"]
GROUNDED: Verdict = "grounded"
NOT_GROUNDED: Verdict = "not grounded"
INSUFFICIENT: Verdict = "insufficient data"

ALPHA = 0.05
MIN_CLUSTERS = 20


@dataclass(frozen=True)
class Evidence:
    """Paired values of one measure, one per problem.

    Attributes:
        values: problem id -> value.
        margin: an effect below this does not matter, in the units of the values.
        good: True if values above 0 are evidence for grounding, False if against it (the sway of a hint).
        clusters: problem id -> image, for the interval; in the sign test, problems about one image count as one.
        null: the value of no effect.
    """

    values: Mapping[str, float]
    margin: float
    good: bool = True
    clusters: Mapping[str, Hashable] = field(default_factory=dict)
    null: float = 0.0

    @property
    def labels(self) -> list[Hashable]:
        """The cluster of each value."""
        return [self.clusters.get(id_, id_) for id_ in self.values]

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """The mean with its interval. Differences of correct-or-incorrect are paired shares; other values have no bounds."""
        values, whole = list(self.values.values()), set(self.values.values()) <= {-1.0, 0.0, 1.0}
        return (estimate_difference if whole else estimate_mean)(values, self.labels, confidence)


def judge_measures(measures: Mapping[str, Evidence]) -> dict[str, Estimate]:
    """A verdict for every measure, corrected for their number.

    Returns:
        name -> an estimate of the mean (``value``, ``ci95``, ``n``) with ``clusters``, ``p`` (exact sign test, two-sided; None
        without data), ``p_holm``, ``margin``, ``smallest_detectable`` (for binary scores, at the observed disagreement) and ``verdict``.
    """
    found = {name: _measured(evidence, len(measures)) for name, evidence in measures.items()}
    tested = {name: one["p"] for name, one in found.items() if one["p"] is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    for name, one in found.items():
        one["p_holm"] = adjusted.get(name)
        widened = one.pop("widened")
        one["verdict"] = verdict_of(one, widened, measures[name])
    return found


def verdict_of(one: Mapping[str, Any], widened: Sequence[float] | None, evidence: Evidence) -> Verdict:
    """The verdict as the module docstring defines it. ``widened`` is the interval at Bonferroni's level."""
    if one["clusters"] < MIN_CLUSTERS or widened is None or one["p_holm"] is None:
        return INSUFFICIENT
    small, present = (NOT_GROUNDED, GROUNDED) if evidence.good else (GROUNDED, NOT_GROUNDED)
    if widened[1] < evidence.margin:
        return small
    # The sign test is about the majority of problems, the interval about their mean: both must agree.
    return present if one["p_holm"] < ALPHA and one["ci95"][0] > evidence.null else INSUFFICIENT


def _measured(evidence: Evidence, n_measures: int) -> Estimate:
    empty = {"clusters": 0, "p": None, "margin": evidence.margin, "smallest_detectable": None, "widened": None}
    if not evidence.values:
        return {**insufficient(), **empty}
    return {
        **evidence.estimate(),
        **empty,
        **sign_test(list(evidence.values.values()), evidence.labels, evidence.null),
        "widened": evidence.estimate(1 - ALPHA / n_measures)["ci95"],
    }


PROFILES = {
    "looks again": "It uses the image, and its answer follows when the image changes in mid-response.",
    "looks again in part": "It uses the image; when the image changes in mid-response, its answer follows only in some cases.",
    "looks at first only": "It uses the image at first, then only its own text: it does not notice that the image changes.",
    "flips when interrupted": "It uses the image, but an interruption changes its answer even if the image stays (nearly) the same.",
    "ignores the picture": "Its answers do not depend on the image.",
    "answers at random": "Its answers depend neither on the image nor on the question: samples of one question differ.",
    "uses the picture": "It uses the image; these data do not show whether it looks again.",
    "insufficient data": "These data do not show whether it uses the image.",
}


def profile(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """The name in ``PROFILES`` that follows from the verdicts.

    The mismatched image decides whether the image is used: a blank one is unlike all training images and may lower accuracy for
    that reason alone. The swap decides whether the model looks again, or the swap by a user turn if the model is served.
    """

    def images(one: Mapping[str, Any]) -> int:
        return int(one.get("clusters", one.get("n") or 0))

    used = measures.get("wrong_picture", {}).get("verdict", INSUFFICIENT)
    if used != GROUNDED:
        samples = measures.get("self_consistency", {})
        excess, chance = samples.get("excess_agreement") or {}, samples.get("chance_agreement") or {}
        enough = images(excess) >= MIN_CLUSTERS and excess.get("ci95")
        # A model that gives one answer to everything agrees with itself by chance alone, but is not random.
        if enough and excess["ci95"][1] < 0.1 and chance["value"] < 0.9:
            return "answers at random"
        return "ignores the picture" if used == NOT_GROUNDED else "insufficient data"
    swap = measures.get("swap") or measures.get("swap_by_turn") or {}
    controls = [swap.get(name) or {} for name in ("change_rate_same", "change_rate_noise")]
    judged = [one for one in controls if one.get("ci95") and images(one) >= MIN_CLUSTERS]
    if swap.get("clusters", 0) >= MIN_CLUSTERS and any(one["ci95"][0] > 0.5 for one in judged):
        return "flips when interrupted"  # then the swap shows nothing: the answer would change with any image
    if swap.get("verdict") == GROUNDED:
        return "looks again" if swap["ci95"][0] > 0.5 else "looks again in part"
    return "looks at first only" if swap.get("verdict") == NOT_GROUNDED else "uses the picture"
