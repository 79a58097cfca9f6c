"""Checks before training what the rewards of a config would pay for, on one batch of the start checkpoint.

An attention reward can be raised by longer or by flatter text, and it decides alone where all answers of a group are correct.
Its correlations inside the groups that GRPO compares show before the first step what will raise it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from reward import group
from reward.aggregate import Term, combine, gate_of, lengths, source_of, terms_of, ungated

NOTABLE = 0.3
"""A correlation of at least this size whose interval excludes 0 is reported."""
LARGE_SHARE = 0.1
"""A term with less of the advantage than this pushes too little to be worth a warning."""

Scale = Literal["group", "batch", "none"]


def correlation(left: Tensor, right: Tensor, size: int, keep: Tensor) -> dict[str, Any]:
    """Within-group correlation in [-1, 1] with its 95% interval (Fisher's z; each group costs a degree of freedom) and n."""
    valid = keep.bool() & ~left.isnan() & ~right.isnan()
    counts = valid.view(-1, size).sum(1)
    freedom = int((counts - 1).clamp(min=0).sum())
    value = group.within_group_correlation(left, right, size, keep=valid)
    if math.isnan(value) or freedom < 5:
        return {"value": None, "ci95": None, "n": int(valid.sum())}
    # Clipped, because atanh(1) is infinite. Fisher's standard error is 1 / sqrt(n - 3), here with n - 1 = freedom.
    z, half = math.atanh(max(-0.999999, min(0.999999, value))), 1.96 / math.sqrt(freedom - 2)
    return {"value": value, "ci95": [math.tanh(z - half), math.tanh(z + half)], "n": int(valid.sum())}


def contributions(
    columns: Mapping[str, Tensor], terms: Mapping[str, Term], size: int, scale: Scale, normalize_first: bool = False
) -> dict[str, Tensor]:
    """(N,) what each weighted term adds to the advantage of each row; their sum is TRL's advantage.

    A row that no term can judge is in no mean and no standard deviation, and its advantage is 0. One that some terms judge
    has 0 from the others, which is also what TRL's sum makes of them.

    Args:
        scale: TRL's ``scale_rewards``.
        normalize_first: ``multi_objective_aggregation: normalize_then_sum``. TRL then always divides by the batch.
    """
    unjudged = torch.stack(list(columns.values())).isnan().all(0).view(-1, size)
    weighted = {}
    for name, term in terms.items():
        if term.weight:
            values = columns[name].view(-1, size)
            if normalize_first:
                values = (values - values.nanmean(1, keepdim=True)) / (_std(values, 1) + 1e-4)
            weighted[name] = (term.weight * values).nan_to_num(0.0).masked_fill(unjudged, math.nan)
    total = torch.stack(list(weighted.values())).sum(0)
    divisor: Any = 1.0
    if normalize_first or scale == "batch":
        divisor = _std(total.view(1, -1), 1) + 1e-4
    elif scale == "group":
        divisor = _std(total, 1) + 1e-4
    parts = {}
    for name, values in weighted.items():
        mean = values.nanmean() if normalize_first else values.nanmean(1, keepdim=True)
        parts[name] = ((values - mean) / divisor).nan_to_num(0.0).view(-1)
    return parts


def _std(values: Tensor, dim: int) -> Tensor:
    """The standard deviation without NaN, of n - 1; NaN where fewer than two values are left."""
    kept = ~values.isnan()
    apart = torch.where(kept, values - values.nanmean(dim, keepdim=True), 0.0)
    freedom = kept.sum(dim, keepdim=True) - 1
    return (apart.square().sum(dim, keepdim=True) / torch.where(freedom > 0, freedom, math.nan)).sqrt()


def forecast(
    rows: Sequence[dict[str, Any]],
    rewards: Mapping[str, float | Term],
    size: int,
    *,
    seed: int = 0,
    scale: Scale = "group",
    normalize_first: bool = False,
    drop_in_constant_groups: bool = False,
) -> dict[str, Any]:
    """Figures and warnings about a batch of rows (``reward.aggregate.row_of``), ordered by group, ``size`` rows each.

    Returns:
        ``terms``: name -> ``weight``, ``advantage_share`` (its sum of squares over that of all terms; they add up to 1),
        ``unjudged`` (share of the rows that could be paid), and correlations within groups: ``length``, ``right``,
        ``first_half``, ``second_half`` (mass) and ``flatness`` (1 where both halves have the same mass, 0 where one has all).
        ``constant_accuracy_share``: of rows. ``tie_share``: of the advantage that is given out in such groups.
        ``warnings``: ``{"term", "kind", "why"}``; ``kind`` is length, flatness, ties, against_right, outweighs, unjudged or
        no_signal. ``go``: there are none.
    """
    # The same function as in training, so that the forecast judges the columns that the trainer will see.
    terms = terms_of(rewards)
    columns = combine(rows, rewards, size, seed, drop_in_constant_groups)
    judged = ~columns["accuracy"].isnan()
    correct = torch.tensor([row["right"] for row in rows]) & judged
    outcome = correct.float().masked_fill(~judged, math.nan)
    first, second = (
        torch.tensor([row["parts"].get(f"mass/{half}_half", math.nan) for row in rows]) for half in ("first", "second")
    )
    flatness = 1.0 - (first - second).abs() / (first + second)
    constant = group.is_constant(columns["accuracy"], size)
    parts = contributions(columns, terms, size, scale, normalize_first)
    advantage = torch.stack(list(parts.values())).sum(0)
    energy = advantage.square().sum().item()
    # Not the same as ``energy``: terms may cancel in a row, but a share is of what all terms push.
    pushed = sum(values.square().sum().item() for values in parts.values())
    figures: dict[str, Any] = {}
    for name in columns:
        term, source = terms.get(name, Term()), source_of(name)
        gated = gate_of(name, term) == "right"
        paid = correct if gated else judged  # nobody is paid for an answer that cannot be judged
        plain = columns[name] if source not in rows[0]["scores"] else ungated(rows, source)
        value = columns[name] if name != source or source not in rows[0]["scores"] else plain
        share = parts[name].square().sum().item() / pushed if name in parts and pushed > 0 else 0.0
        figures[name] = {
            "weight": term.weight,
            "advantage_share": share,
            "unjudged": plain[paid].isnan().float().mean().item() if bool(paid.any()) else None,
            "length": correlation(value, lengths(rows), size, paid),
            "right": correlation(plain, outcome, size, judged),
            "first_half": correlation(value, first, size, paid),
            "second_half": correlation(value, second, size, paid),
            "flatness": correlation(value, flatness, size, paid),
        }
    report = {
        "rows": len(rows),
        "groups": len(rows) // size,
        "accuracy": outcome.nanmean().item(),
        "constant_accuracy_share": constant.float().mean().item(),
        "tie_share": advantage[constant].square().sum().item() / energy if energy > 0 else 0.0,
        "terms": figures,
    }
    warnings = _warnings(report)
    return {**report, "warnings": warnings, "go": not warnings}


def _sure(found: dict[str, Any], sign: float) -> bool:
    """Whether a correlation is notable in the direction of ``sign``, and its interval excludes 0."""
    if found["value"] is None or found["value"] * sign < NOTABLE:
        return False
    return min(end * sign for end in found["ci95"]) > 0


def _interval_in_words(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:+.2f} ({low:+.2f} to {high:+.2f}, n {found['n']})"


def _warnings(report: dict[str, Any]) -> list[dict[str, str]]:
    found = []

    def warn(term: str, kind: str, why: str) -> None:
        found.append({"term": term, "kind": kind, "why": why})

    share_of_accuracy = report["terms"]["accuracy"]["advantage_share"]
    for name, figures in report["terms"].items():
        weight, share = figures["weight"], figures["advantage_share"]
        if name in ("accuracy", "format") or not weight or share < LARGE_SHARE:
            continue
        sign = math.copysign(1.0, weight)
        way = f"has {share:.0%} of the advantage, and"
        for direction, word in ((sign, "longer"), (-sign, "shorter")):
            if source_of(name) != "length" and _sure(figures["length"], direction):
                why = f"within a group its correlation with length is {_interval_in_words(figures['length'])}"
                warn(name, "length", f"'{name}' {way} {why}: expect {word} text, whether or not the model looks more.")
        # A flat curve is no fault where late attention explains the term, so the second half is checked first.
        unseen = not _sure(figures["second_half"], sign)
        if unseen and (_sure(figures["flatness"], sign) or _sure(figures["first_half"], -sign)):
            by = "flatness" if _sure(figures["flatness"], sign) else "first_half"
            what = "an even curve" if by == "flatness" else "the mass of the first half"
            why = f"it goes with {what} ({_interval_in_words(figures[by])}) and not with the mass of the second half"
            warn(name, "flatness", f"'{name}' {way} {why}: expect the curve to be flattened by looking away early.")
        if _sure(figures["right"], -sign):
            why = f"before its gate it goes against being correct: {_interval_in_words(figures['right'])}"
            warn(name, "against_right", f"'{name}' {way} {why}.")
        if share > max(0.5, share_of_accuracy):
            warn(
                name,
                "outweighs",
                f"'{name}' {way} accuracy {share_of_accuracy:.0%}: lower its weight, or scale it by std.",
            )
        if (figures["unjudged"] or 0.0) > 0.5:
            warn(
                name,
                "unjudged",
                f"'{name}' cannot be judged in {figures['unjudged']:.0%} of the rows that it would pay.",
            )
    looking = [n for n, f in report["terms"].items() if f["weight"] and n not in ("accuracy", "format")]
    if looking and report["tie_share"] > 0.3:
        why = (
            f"{report['tie_share']:.0%} of the advantage is given out where accuracy is constant "
            f"({report['constant_accuracy_share']:.0%} of the rows): there they decide alone. Set drop_in_constant_groups, or "
            "scale_rewards: none"
        )
        warn(", ".join(looking), "ties", f"{why}.")
    if report["constant_accuracy_share"] > 0.9:
        why = f"In {report['constant_accuracy_share']:.0%} of the rows all answers of the group are correct, or all are incorrect"
        warn("accuracy", "no_signal", f"{why}: choose prompts that the model solves sometimes (prompt_selection).")
    return found


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a person reads it: one line per term, then the warnings."""

    def shown(found: Mapping[str, Any]) -> str:
        return "     -" if found["value"] is None else f"{found['value']:+6.2f}"

    lines = [
        f"{report['groups']} groups, {report['rows']} responses, accuracy {report['accuracy']:.3f}; accuracy is constant in "
        f"{report['constant_accuracy_share']:.0%} of them, where {report['tie_share']:.0%} of the advantage is given out.",
        f"{'term':32} {'weight':>7} {'share':>6}  correlation with {'length':>7} {'correct':>7} {'late mass':>10} {'flatness':>9}",
    ]
    for name, figures in report["terms"].items():
        cells = [shown(figures[key]) for key in ("length", "right", "second_half", "flatness")]
        lines.append(
            f"{name[-32:]:32} {figures['weight']:7.3g} {figures['advantage_share']:6.0%}  {'':16} {cells[0]:>7} {cells[1]:>7} "
            f"{cells[2]:>10} {cells[3]:>9}"
        )
    lines += [f"warning: {warning['why']}" for warning in report["warnings"]]
    return "\n".join([*lines, "go" if report["go"] else "no go (or go on, knowing these risks)"])
