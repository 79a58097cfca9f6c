"""What ``grpo --probe`` says of the zoom tool: whether the start checkpoint calls it, and whether calling pays.

A model that never calls learns nothing about calling from GRPO, since every group then is without a call. Whether calling pays is
measured against the same prompts with every crop withheld (an error message instead): their difference is what crops add.
"""

from collections.abc import Sequence
from typing import Any

from eval.stats import estimate_difference

SELDOM = 0.02
"""Share of responses with a call below which most groups have none."""


def zoom_report(
    rows: Sequence[dict[str, Any]], withheld: Sequence[dict[str, Any]], size: int, images: Sequence[str]
) -> dict[str, Any]:
    """Calls and accuracy of sampled responses, as ``reward.aggregate.row_of`` describes them, ordered by prompt.

    Args:
        withheld: of responses to the same prompts whose crops were withheld.
        size: responses a prompt.
        images: of each prompt the cluster of its images (``eval.figures.image_clusters``): prompts that share one are dependent.

    Returns:
        ``called`` (share of the responses with a call), ``calls`` (mean), ``error_share`` (of the calls), ``accuracy`` and
        ``accuracy_withheld``, and ``crops_add``: their difference by prompt, with its interval.
    """

    def accuracies(some: Sequence[dict[str, Any]]) -> list[float]:
        starts = range(0, len(some), size)
        return [sum(float(row["right"]) for row in some[start : start + size]) / size for start in starts]

    with_crops, without = accuracies(rows), accuracies(withheld)
    calls = [row["parts"]["zoom/calls"] for row in rows]
    errors = sum(row["parts"].get("zoom/error_share", 0.0) * count for row, count in zip(rows, calls, strict=True))
    return {
        "responses": len(rows),
        "called": sum(count > 0 for count in calls) / len(rows),
        "calls": sum(calls) / len(rows),
        "error_share": errors / sum(calls) if sum(calls) else None,
        "accuracy": sum(with_crops) / len(with_crops),
        "accuracy_withheld": sum(without) / len(without),
        "crops_add": estimate_difference((a - b for a, b in zip(with_crops, without, strict=True)), images),
    }


def zoom_in_words(report: dict[str, Any]) -> str:
    """The report as lines of text, with what follows from it."""
    called, added = report["called"], report["crops_add"]
    lines = [
        f"zoom tool: {called:.0%} of {report['responses']} responses call it, {report['calls']:.2f} calls a response"
        + (f", {report['error_share']:.0%} of the calls bad" if report["error_share"] is not None else "")
    ]
    if called < SELDOM:
        lines.append(
            "  The start checkpoint hardly calls the tool, so GRPO has no calls to learn from: do a cold start on responses with tool "
            "calls first (docs/your-own-data.md)."
        )
        return "\n".join(lines)
    lines.append(
        f"  accuracy {report['accuracy']:.2f} with crops, {report['accuracy_withheld']:.2f} with every crop withheld"
    )
    interval = added.get("ci95")
    if not interval:
        lines.append("  Whether calling pays: insufficient data; raise probe_prompts.")
    elif interval[0] > 0:
        lines.append(
            f"  Calling pays: crops add {added['value']:+.2f} (95%: {interval[0]:+.2f} to {interval[1]:+.2f})."
        )
    elif interval[1] < 0:
        lines.append(
            f"  Calling costs: crops add {added['value']:+.2f} (95%: {interval[0]:+.2f} to {interval[1]:+.2f})."
        )
    else:
        lines.append(
            f"  No effect of the crops is shown: {added['value']:+.2f} (95%: {interval[0]:+.2f} to {interval[1]:+.2f}). GRPO with accuracy "
            "alone would not favour calls here."
        )
    return "\n".join(lines)
