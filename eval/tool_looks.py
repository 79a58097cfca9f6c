"""The audit of tool looks: does the crop that a model zooms into decide its answer, and would it be correct without?

Each problem is answered with the zoom tool left alone. Those in which the model was shown a crop are answered again, with the returned
crop changed before the model sees it (``eval.tampering``), and compared with the answer to the crop left alone; so is the answer without
the tool. One part asks (``ask_with_tool``), the other only counts (``count_tool_looks``).

Sources: no tool and format only are comparisons of arXiv 2606.02357; the changed crops apply the swap of VisualSwap (2605.15864) to
what a tool returns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval import tampering
from eval.grounding import counterfactual, has_counterfactual, mismatched_images
from eval.runner import Answer
from eval.session import ModelSession
from eval.stats import Estimate, estimate_difference, estimate_mean, estimate_share, majority_class_score
from eval.subjects import ZoomOffer
from eval.verdicts import CONTENT, ZOOM_PROFILES, Evidence, judge_measures, zoom_profile
from reward.grade import answer_name, grade_answer
from vlm.images import open_image
from vlm.problem import Problem
from vlm.tools import Change, ZoomSettings

TAMPERED = ("faint_noise", "swapped", "misplaced", "blanked", "withheld", "format_only")
"""What is done to the returned crops, in the order of asking."""
CONTROL = "faint_noise"
"""What must change nothing. Its row is shown as a control, since "not grounded" is no fault there."""
QUESTIONS = {
    "content": ("swapped", "misplaced", "swapped_changes", "misplaced_changes"),
    "need": ("no_tool", "format_only", "withheld"),
    "controls": ("blanked", "faint_noise"),
}
"""The measures of each question; p-values and intervals are corrected for the number of measures of one question."""


@dataclass
class ToolLooks:
    """Answers with the tool.

    Attributes:
        alone: problem id -> answer with the tool left alone.
        looked: the problems in which the model got a crop; the conditions below were asked of these.
        tampered: condition -> problem id -> answer. A problem is missing where the condition is not possible.
        others: problem id -> the problem with the images that the swapped crop comes from.
        counterfactuals: the ids of those whose other image is known to have another answer.
    """

    alone: dict[str, Answer]
    looked: list[Problem]
    tampered: dict[str, dict[str, Answer]] = field(default_factory=dict)
    others: dict[str, Problem] = field(default_factory=dict)
    counterfactuals: set[str] = field(default_factory=set)


def ask_with_tool(session: ModelSession, problems: Sequence[Problem], settings: ZoomSettings) -> ToolLooks:
    """Answer the problems with the tool left alone, then those with a crop under every condition of ``TAMPERED``."""

    def ask(asked: Sequence[Problem], tag: str, change: Callable[[Problem], Change | None]) -> dict[str, Answer]:
        rows = session.ask(asked, f"zoom: {tag}", zoom=lambda problem: ZoomOffer(settings, change(problem)))
        return {row.problem_id: row for row in rows}

    with_images = [problem for problem in problems if problem.images]
    looks = ToolLooks(ask(with_images, "left alone", lambda _: None), [])
    looks.looked = [problem for problem in with_images if got_crop(looks.alone[problem.id])]
    # The other image of a problem: its counterfactual, else the image of another problem of its family.
    known = {problem.id: counterfactual(problem) for problem in looks.looked if has_counterfactual(problem)}
    looks.others = {problem.id: problem for problem in mismatched_images(with_images, session.seed)} | known
    looks.counterfactuals = set(known)

    def swap(problem: Problem) -> Change:
        return tampering.swapped([open_image(image) for image in looks.others[problem.id].images])

    seed = session.seed
    changes: dict[str, Callable[[Problem], Change | None]] = {
        "faint_noise": lambda problem: tampering.faintly_noisy(f"{seed}/{problem.id}"),
        "swapped": swap,
        "misplaced": lambda problem: tampering.misplaced(f"{seed}/{problem.id}"),
        "blanked": lambda _: tampering.blanked,
        "withheld": lambda _: tampering.withheld,
        "format_only": lambda _: tampering.format_only,
    }
    possible: dict[str, Callable[[Problem], bool]] = {
        "swapped": lambda problem: problem.id in looks.others,
        "misplaced": lambda problem: can_be_misplaced(looks.alone[problem.id]),
    }
    for name in TAMPERED:
        asked = [problem for problem in looks.looked if possible.get(name, lambda _: True)(problem)]
        looks.tampered[name] = ask(asked, name.replace("_", " "), changes[name])
    return looks


def got_crop(answer: Answer) -> bool:
    """Whether the subject was shown at least one crop."""
    return answer.status == "ok" and any(zoom.shown for zoom in answer.zooms or ())


def can_be_misplaced(answer: Answer) -> bool:
    """Whether every box that was cut leaves room for another of its size beside it."""
    cut = [zoom for zoom in answer.zooms or () if zoom.shown and zoom.box and zoom.size]
    return all(zoom.box and zoom.size and tampering.has_other_place(zoom.box, zoom.size) for zoom in cut)


def count_tool_looks(
    looks: ToolLooks, no_tool: Mapping[str, Answer], clusters: Mapping[str, str], margin: float
) -> dict[str, Any]:
    """The figures, verdicts and the name. ``no_tool``: problem id -> its answer to the same prompt without the tool.

    Returns:
        ``profile`` (name, sentence, why); ``accuracy``, ``accuracy_no_tool`` and ``gain`` on all problems; ``looked`` (share of them with
        a crop), ``calls`` and ``refused`` (per problem); ``on_looked``: figures of the problems with a crop; and ``measures``: name ->
        verdict of one condition (``judge_measures``), with ``accuracy`` under it, ``changed`` (share of other answers than left alone) and
        ``called`` (share with a call).
    """
    alone = {id_: row for id_, row in looks.alone.items() if row.status == "ok"}
    pairs = [id_ for id_ in alone if id_ in no_tool and no_tool[id_].status == "ok"]

    def share(values: Mapping[str, float]) -> Estimate:
        return estimate_share(values.values(), [clusters[id_] for id_ in values])

    def correct(rows: Mapping[str, Answer], ids: Sequence[str] | None = None) -> dict[str, float]:
        return {id_: float(rows[id_].correct) for id_ in (rows if ids is None else ids) if rows[id_].status == "ok"}

    looked = [problem.id for problem in looks.looked]
    golds, families = [p.answer for p in looks.looked], [p.family for p in looks.looked]
    chance = majority_class_score(golds, families)
    accuracy = share(correct(alone, looked))
    without = {id_: row for id_, row in no_tool.items() if id_ in set(looked) and row.status == "ok"}
    solved = [id_ for id_ in looked if alone[id_].correct and id_ in without]
    evidence: dict[str, Evidence] = {}
    described: dict[str, dict[str, Any]] = {}
    changed: dict[str, dict[str, float]] = {}
    for name, rows in {**looks.tampered, "no_tool": without}.items():
        rows = {id_: row for id_, row in rows.items() if row.status == "ok"}
        changed[name] = _changed(looks, rows)
        described[name] = {"accuracy": share(correct(rows)), "changed": share(changed[name])}
        if name != "no_tool":
            described[name]["called"] = share({id_: float(bool(row.zooms)) for id_, row in rows.items()})
        lost = {id_: float(alone[id_].correct) - value for id_, value in correct(rows).items()}
        evidence[name] = Evidence(lost, margin, clusters=clusters)
    for name in CONTENT:
        control = changed.get(CONTROL, {})
        values = {id_: value - control[id_] for id_, value in changed.get(name, {}).items() if id_ in control}
        evidence[f"{name}_changes"] = Evidence(values, margin, clusters=clusters)
    described.setdefault("swapped", {})["followed"] = share(_followed(looks))

    measures: dict[str, dict[str, Any]] = {}
    for names in QUESTIONS.values():
        judged = judge_measures({name: evidence[name] for name in names})
        measures |= {name: {**described.get(name, {}), **one} for name, one in judged.items()}
    above_chance = bool(accuracy["ci95"] and accuracy["ci95"][0] > (chance["value"] or 0.0) + margin)
    name, why = zoom_profile(measures, above_chance)
    return {
        "profile": {"name": name, "sentence": ZOOM_PROFILES[name], "why": why},
        "accuracy": share(correct(alone)),
        "accuracy_no_tool": share(correct(no_tool, pairs)),
        "gain": estimate_difference(
            [float(alone[id_].correct) - float(no_tool[id_].correct) for id_ in pairs], [clusters[id_] for id_ in pairs]
        ),
        "looked": share({id_: float(got_crop(row)) for id_, row in alone.items()}),
        "calls": _mean_per_problem({id_: float(len(row.zooms or ())) for id_, row in alone.items()}, clusters),
        "refused": _mean_per_problem(
            {id_: float(sum(zoom.error is not None for zoom in row.zooms or ())) for id_, row in alone.items()},
            clusters,
        ),
        "on_looked": {
            "n": len(looked),
            "accuracy": accuracy,
            "majority_class": chance,
            "solved_without": share({id_: float(without[id_].correct) for id_ in solved}),
        },
        "measures": measures,
        "margin": margin,
        "errors": sum(
            row.status == "error" for rows in (looks.alone, *looks.tampered.values()) for row in rows.values()
        ),
    }


def _mean_per_problem(values: Mapping[str, float], clusters: Mapping[str, str]) -> Estimate:
    return estimate_mean(values.values(), [clusters[id_] for id_ in values])


def _changed(looks: ToolLooks, rows: Mapping[str, Answer]) -> dict[str, float]:
    """Problem id -> whether the answer is another one than left alone; no answer equals no answer."""
    return {
        problem.id: float(not _same_answer(problem, looks.alone[problem.id].answer, rows[problem.id].answer))
        for problem in looks.looked
        if problem.id in rows
    }


def _same_answer(problem: Problem, first: str | None, second: str | None) -> bool:
    return first == second or answer_name(problem, first) == answer_name(problem, second)


def _followed(looks: ToolLooks) -> dict[str, float]:
    """Problem id -> whether the answer with the swapped crop is the other image's, where that is known to be another one."""
    return {
        id_: float(grade_answer(looks.others[id_], row.answer).correct)
        for id_, row in looks.tampered.get("swapped", {}).items()
        if row.status == "ok" and id_ in looks.counterfactuals
    }


def verdict_words(name: str, verdict: str) -> str:
    """The verdict of a measure of the zoom tool as it is shown."""
    return "control" if name == CONTROL else verdict
