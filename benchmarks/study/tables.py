"""The tables of a study, in Markdown: registered contrasts, comparisons that were not registered, crosses."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.swap import Swapped, compositions
from eval.stats import paired_over_seeds, smallest_effect

Unit = dict[str, Any]

TABLE = {
    "accuracy": "accuracy",
    "blank.accuracy": "blank image",
    "swap.difference": "swap difference",
    "swap.prior_answer_rate": "prior answer",
    "looking_share": "says it looks",
    "length_mean": "tokens",
    "attention.first_half": "mass, 1st half",
    "attention.second_half": "mass, 2nd half",
    "attention.lift.second_half": "lift, 2nd half",
    "vdm.second_half": "VDM, 2nd half",
    "cutoff.area": "cutoff area",
    "grpo.entropy_last": "entropy",
}
"""Figure of a unit -> the column title in the table of arms."""


def by_arm(units: Iterable[Unit], figure: str) -> dict[str, dict[int, float]]:
    """Arm -> seed -> value of a figure, for the units that have it."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for unit in units:
        if (value := unit["figures"].get(figure)) is not None:
            found[unit["arm"]][unit["seed"]] = value
    return dict(found)


def mean_and_interval(values: dict[int, float]) -> tuple[float, float]:
    """The mean over seeds and half the width of its 95% t-interval (0 for one seed)."""
    one = paired_over_seeds(values, dict.fromkeys(values, 0.0))
    return one["value"], (one["interval"][1] - one["value"] if one["interval"] else 0.0)


def results(study: Path, units: list[Unit], swapped: Sequence[Swapped]) -> str:
    """The whole results page, in Markdown."""
    outcome = json.loads((study / "contrasts.json").read_text(encoding="utf-8"))
    signal, gain = outcome["signal"], outcome["signal"]["gain"]
    text = ["# Results of the study", "", "Written by `benchmarks/study/report.py`; do not edit.", ""]
    text += [f"{outcome['units']} of {outcome['of']} units are finished. {made_by(study, units)}", ""]
    text += ["## Go or no go", ""]
    text += [
        f"Accuracy alone against the untrained start: {_interval(gain)}, {gain['n']} seeds; lowest entropy of the last steps "
        f"{_number(signal['lowest_entropy'])} nats a token (floor {signal['entropy_floor']}). Signal: {_yes(signal['there'])}.",
        "",
    ]
    strict = 0.05 / len(outcome["contrasts"]) if outcome["contrasts"] else 0.05
    text += ["## Registered contrasts", ""]
    text += [f"| contrast | difference | p | p (Holm) | seeds | smallest detectable at 0.05, {strict:g} | |"]
    text += ["|---|---|---|---|---|---|---|"]
    for one in outcome["contrasts"]:
        cells = [_interval(one), *(_number(one[key]) for key in ("p", "p_holm"))]
        smallest = [one["deviation"] and one["deviation"] * smallest_effect(one["n"], at) for at in (0.05, strict)]
        cells += [str(one["n"]), ", ".join(map(_number, smallest)), "final" if one["final"] else "interim"]
        text.append(f"| {one['first']} - {one['second']}, {one['figure']} | {' | '.join(cells)} |")
    text += ["", "## Arms", "", "Mean over seeds, in brackets half of the 95% t-interval.", ""]
    text += [f"| arm | seeds | {' | '.join(TABLE.values())} |", "|---" * (len(TABLE) + 2) + "|"]
    arms = list(dict.fromkeys(unit["arm"] for unit in units))
    figures = {figure: by_arm(units, figure) for figure in TABLE}
    for arm in arms:
        seeds = sum(unit["arm"] == arm for unit in units)
        cells = [_estimate(figures[figure].get(arm)) for figure in TABLE]
        text.append(f"| {arm} | {seeds} | {' | '.join(cells)} |")
    config = json.loads((study / "study.json").read_text(encoding="utf-8"))
    reference = config["reference"]
    untrained = [arm for arm in arms if not config["arms"][arm]["train"]]
    starts = {
        arm: [one for one in untrained if one != arm and _start(config, one) == _start(config, arm)] for arm in arms
    }
    text += against_reference(arms, figures, reference)
    others: dict[str, list[str]] = {}
    for one in outcome["contrasts"]:
        others.setdefault(one["first"], []).append(one["second"])
    others.setdefault(reference, [])
    for arm, seconds in others.items():
        chosen = dict.fromkeys([*seconds, reference, *starts.get(arm, [])])
        others[arm] = [other for other in chosen if other != arm and other in arms]
    others = {arm: seconds for arm, seconds in others.items() if seconds and arm in arms}
    text += moved(units, others, untrained)
    for arm in arms:
        if arm not in others and arm not in untrained:
            others[arm] = [other for other in (reference, *starts[arm]) if other in arms]
    families = [arm for arm in others if arm == reference or any(arm == one["first"] for one in outcome["contrasts"])]
    text += followed(swapped, others, untrained, families)
    text += ["", "## Crosses", "", "Change of the mean mass of the second half from the other arm to this one.", ""]
    text += ["| arm | from | total | text | weights | interaction |", "|---|---|---|---|---|---|"]
    for arm in arms:
        for other in ("to_accuracy", "to_start"):
            parts = [by_arm(units, f"cross.{other}.effects.{part}").get(arm) for part in PARTS]
            if any(parts):
                text.append(f"| {arm} | {other.removeprefix('to_')} | {' | '.join(map(_estimate, parts))} |")
    return "\n".join(text) + "\n"


def made_by(study: Path, units: Iterable[Unit]) -> str:
    """The commits of the code that trained the units. Units of several commits may not be comparable."""
    files = [study / unit["arm"] / f"seed-{unit['seed']}" / "grpo" / "settings.json" for unit in units]
    commits = Counter(json.loads(file.read_text(encoding="utf-8")).get("git") for file in files if file.exists())
    listed = ", ".join(f"{(commit or 'unknown')[:12]} ({n} units)" for commit, n in commits.most_common())
    return f"Trained at commit {listed}." if listed else ""


AGAINST = ("swap.difference", "accuracy", "attention.second_half", "attention.lift.second_half", "length_mean")
"""The figures in which each arm is compared with the reference."""


def against_reference(
    arms: Sequence[str], figures: dict[str, dict[str, dict[int, float]]], reference: str
) -> list[str]:
    """Each arm minus the reference of the same seed: what its reward adds to the accuracy reward alone."""
    text = [
        "",
        f"## Against {reference} (not registered)",
        "",
        "Paired over the seeds that both have; p is not corrected.",
        "",
    ]
    text += [f"| arm | seeds | {' | '.join(TABLE[figure] for figure in AGAINST)} |", "|---" * (len(AGAINST) + 2) + "|"]
    for arm in arms:
        made = [paired_over_seeds(figures[of].get(arm, {}), figures[of].get(reference, {})) for of in AGAINST]
        if arm != reference and made[0]["n"] > 1:
            cells = [_tested(one) for one in made]
            text.append(f"| {arm} | {made[0]['n']} | {' | '.join(cells)} |")
    return text


MOVED = {
    "attention.ratio": "mass, 2nd half / 1st half",
    "attention.first_half": "mass, 1st half",
    "attention.second_half": "mass, 2nd half",
    "attention.lift.second_half": "lift, 2nd half",
    "vdm.first_half": "VDM, 1st half",
    "vdm.second_half": "VDM, 2nd half",
    "patch_masking.most_attended": "moved by masking the most attended patches",
    "patch_masking.least_attended": "moved by masking the least attended patches",
    "cutoff.area": "cutoff area",
    "accuracy": "accuracy",
    "length_mean": "tokens",
    "looking_share": "says it looks",
    "grpo.entropy_last": "entropy",
}
"""Figures that show whether a reward moved what it pays for, and what else it moved."""


def moved(units: Iterable[Unit], others: Mapping[str, Sequence[str]], untrained: Sequence[str]) -> list[str]:
    """Each arm against its control, the reference and its untrained start, figure by figure."""
    units = list(units)
    text = ["", "## What the rewards moved (not registered)", ""]
    text += ["Paired over seeds, the arm's untrained start against each; p is not corrected for the number of figures."]
    for arm, seconds in others.items():
        text += ["", f"| {arm} | {' | '.join(f'- {other}' for other in seconds)} |", "|---" * (len(seconds) + 1) + "|"]
        for figure, name in MOVED.items():
            values = by_arm(units, figure)
            own, cells = values.get(arm, {}), []
            for other in seconds:
                against = values.get(other, {})
                if other in untrained and against:
                    against = dict.fromkeys(own, next(iter(against.values())))
                cells.append(_tested(paired_over_seeds(own, against)))
            text.append(f"| {name} | {' | '.join(cells)} |")
    return text


def followed(
    swapped: Sequence[Swapped], others: Mapping[str, Sequence[str]], untrained: Sequence[str], families: Sequence[str]
) -> list[str]:
    """The swap difference over problems that count in both arms; for the arms in ``families`` also by family."""
    text = ["", "## What the swap difference is made of (not registered)", ""]
    text += ["Over problems that count in both arms, altogether and by family; p is not corrected.", ""]
    text += ["| contrast | over | problems per seed | difference | p | seeds |", "|---|---|---|---|---|---|"]
    for arm, other in ((arm, other) for arm, seconds in others.items() for other in seconds):
        for part in compositions(swapped, arm, other, other in untrained):
            cells = [part["over"], f"{part['pairs']:.0f}", _interval(part), _number(part["p"]), str(part["n"])]
            if part["over"] == "shared problems" or arm in families:
                text.append(f"| {arm} - {other} | {' | '.join(cells)} |")
    return text


PARTS = ("total", "text", "weights", "interaction")


def _estimate(values: dict[int, float] | None) -> str:
    if not values:
        return "-"
    mean, reach = mean_and_interval(values)
    digits = 1 if mean >= 10 else 3
    return f"{mean:.{digits}f}" + (f" ({reach:.{digits}f})" if reach else "")


def _start(config: dict[str, Any], arm: str) -> str:
    return str(config["arms"][arm]["start"])


def _interval(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    if one["interval"] and not any(one["interval"]):
        return "none in any seed"
    ends = f" ({one['interval'][0]:+.3f} to {one['interval'][1]:+.3f})" if one["interval"] else ""
    return f"{one['value']:+.3f}{ends}"


def _tested(one: dict[str, Any]) -> str:
    return f"{_interval(one)}, p {_number(one['p'])}" if one["n"] > 1 else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known yet"}[value]
