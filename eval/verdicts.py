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


ZOOM_PROFILES = {
    "uses what it zooms into": "Its answer depends on what the crop shows, and without a crop it is less often correct.",
    "zooms for show": "It calls the tool, but what the crop shows makes no difference to its answer.",
    "would not need to zoom": "Its answer depends on what the crop shows, but without one it is as often correct.",
    "insufficient data": "These data do not show what its zooming is for.",
}


CONTENT = ("swapped", "misplaced")
"""Changes of a returned crop that leave its size and style: they decide whether its content counts."""
WITHOUT_CROP = ("no_tool", "format_only", "withheld")
"""Conditions in which no crop comes back: they decide whether the model needs one."""


def zoom_profile(measures: Mapping[str, Mapping[str, Any]], above_chance: bool) -> tuple[str, str]:
    """(the name in ``ZOOM_PROFILES``, what decided it or is missing) of a model that was audited with the zoom tool.

    *Does the content of a crop count?* Yes, if a swapped or a misplaced crop costs accuracy. No, if for each of them one of two is
    excluded: that it costs accuracy, or that it changes more answers than faint noise does. Lost accuracy can only be excluded for a
    model that has some to lose (``above_chance``).

    *Is a crop needed?* Yes, if accuracy is lost in all of ``WITHOUT_CROP``. No, if that is excluded in one of them: then the model has a
    way to do without.
    """

    def verdict(name: str) -> str:
        return str(measures.get(name, {}).get("verdict", INSUFFICIENT))

    images = {name: int(measures.get(name, {}).get("clusters", 0)) for name in CONTENT}
    content = [
        name for name in CONTENT if images[name] >= MIN_CLUSTERS
    ]  # large boxes leave no other place in the image
    if not content:
        seen = f"It zoomed into {max(images.values())} images whose crops can be changed"
        return "insufficient data", f"{seen}: a name needs {MIN_CLUSTERS}."
    if all(
        (above_chance and verdict(name) == NOT_GROUNDED) or verdict(f"{name}_changes") == NOT_GROUNDED
        for name in content
    ):
        return "zooms for show", f"A {' or '.join(content)} crop changes its answers by less than the margin."
    if not any(verdict(name) == GROUNDED for name in content):
        return "insufficient data", "It is open whether the content of a crop changes its answers."
    needs = {verdict(name) for name in WITHOUT_CROP}
    if NOT_GROUNDED in needs:
        return "would not need to zoom", "A changed crop costs accuracy, no crop costs less than the margin."
    if needs == {GROUNDED}:
        return "uses what it zooms into", "A changed crop costs accuracy, and so does none."
    return "insufficient data", "The content of a crop changes its answers, but it is open whether it needs one."
