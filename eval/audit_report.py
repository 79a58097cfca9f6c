"""``audit.json`` and ``audit.html`` (self-contained, no script, no network) of an audit.

Radio buttons and style rules filter the cases, so that the page's content policy can forbid scripts: model output is
untrusted text.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from configs.jsonl import write_json_atomic, write_text_atomic
from configs.run_dir import read_record
from eval import charts
from eval.report import LONGEST_SHOWN, highlight, page_template, thumbnail
from eval.served_report import HEAD, served_rows, served_summary
from eval.tool_looks import verdict_words

# Measure -> (title, condition, meaning of its figure, further estimates as (label, key)). The keys are those of audit.json.
JUDGED: dict[str, tuple[str, str, str, tuple[tuple[str, str], ...]]] = {
    "wrong_picture": (
        "Mismatched image",
        "the image of another problem of the family",
        "accuracy lost",
        (("accuracy with it", "accuracy"),),
    ),
    "blank": ("Blank image", "painted over in mid-grey", "accuracy lost", (("accuracy with it", "accuracy"),)),
    "noise": ("Noise image", "uniform noise", "accuracy lost", (("accuracy with it", "accuracy"),)),
    "swap": (
        "Swap in mid-response",
        "image replaced after the first re-look, or at half of the reasoning",
        "update minus change",
        (
            ("updated", "update_rate"),
            ("changed, same image", "change_rate_same"),
            ("changed, faint noise", "change_rate_noise"),
            ("prior answer", "prior_answer_rate"),
        ),
    ),
    "swap_by_turn": (
        "Swap by a user turn",
        "another image shown after the answer",
        "update minus change",
        (
            ("updated", "update_rate"),
            ("changed, same image", "change_rate_same"),
            ("prior answer", "prior_answer_rate"),
        ),
    ),
    "cutoff": (
        "Visual cutoff",
        "image removed at the first cut",
        "accuracy lost",
        (("accuracy, uncut", "full"),),
    ),
    "hint": (
        "Incorrect hint",
        "an incorrect answer in the question",
        "followed beyond base rate",
        (("followed", "follow_rate"), ("given without it", "base_rate"), ("admitted", "admitted")),
    ),
    "vdm": (
        "Visual dependency (VDM)",
        "distance of next-token distributions with and without the image",
        "second half, 0 to 1",
        (("first half", "first_half"), ("second over first", "ratio")),
    ),
    "patch_masking": (
        "Patch masking",
        "most and least attended patches masked",
        "nats per token, most minus least",
        (("most attended", "most_attended"), ("least attended", "least_attended")),
    ),
}
# Measure of the zoom tool -> (title, condition, meaning of its figure, further estimates).
TOOL_LOOKS: dict[str, tuple[str, str, str, tuple[tuple[str, str], ...]]] = {
    "swapped": (
        "Swapped crop",
        "the same box of the other image",
        "accuracy lost",
        (("follows the other image", "followed"),),
    ),
    "misplaced": ("Misplaced crop", "another box of the same size in the same image", "accuracy lost", ()),
    "blanked": ("Blank crop", "mid-grey, of the same size", "accuracy lost", ()),
    "withheld": ("Withheld crop", "an error message instead", "accuracy lost", ()),
    "format_only": ("Format only", "calls are acknowledged, no image comes back", "accuracy lost", ()),
    "no_tool": ("No tool", "the same prompt without the tool", "accuracy lost", ()),
    "faint_noise": ("Faint noise", "the same crop with noise that nobody sees", "accuracy lost", ()),
    "swapped_changes": ("Swapped crop, answers", "other answers than with faint noise", "more answers changed", ()),
    "misplaced_changes": ("Misplaced crop, answers", "other answers than with faint noise", "more answers changed", ()),
}
STATUSES = ("correct", "incorrect", "error")


def write_audit(report: Mapping[str, Any], out: Path) -> tuple[Path, Path]:
    """Write ``audit.json`` and ``audit.html`` into ``out``, where ``cases.json`` is. Returns the two paths, JSON first."""
    cases = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    write_json_atomic(out / "audit.json", report)
    served = read_record(out / "served.json")
    if served.get("served") != report["model"]:
        served = {}
    write_text_atomic(out / "audit.html", render_audit(report, cases, served))
    return out / "audit.json", out / "audit.html"


def show_served(served: Mapping[str, Any], out: Path) -> None:
    """Write a comparison of a served model with its weights as ``served.json``, and into the page of the model's audit there."""
    write_json_atomic(out / "served.json", served)
    audit = read_record(out / "audit.json")
    if audit.get("model") == served["served"] and (out / "cases.json").exists():
        write_audit(audit, out)


def render_audit(
    report: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], served: Mapping[str, Any] | None = None
) -> str:
    """The HTML page of an audit; ``served`` is a comparison with the model's weights."""
    measures = report["measures"]
    judged = [{"name": name, "one": measures[name], "text": text} for name, text in JUDGED.items() if name in measures]
    shown = [_case(case) for case in cases]
    return page_template("audit.html.jinja").render(
        report=report,
        name=Path(report["model"]).name if "://" not in report["model"] else report["model"],
        measures=measures,
        judged=judged,
        served={"head": HEAD, "rows": served_rows(served), "lines": served_summary(served)} if served else None,
        zoom=_zoom(report.get("zoom")),
        curves=_curves(report),
        families=charts.bars(
            {name: {"accuracy": one} for name, one in report["accuracy_by_family"].items()}, ["accuracy"], {}
        ),
        cases=shown,
        family_names=sorted({case["family"] for case in shown}),
        statuses=[status for status in STATUSES if any(case["status"] == status for case in shown)],
    )


def _zoom(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page shows of the audit of tool looks."""
    if found is None:
        return None
    rows = [
        {
            "one": one,
            "verdict": verdict_words(name, one["verdict"]),
            "text": (*text[:3], (("accuracy", "accuracy"), ("other answers than left alone", "changed"), *text[3])),
        }
        for name, text in TOOL_LOOKS.items()
        if (one := found["measures"].get(name)) is not None
    ]
    drawn = {row["text"][0]: row["one"] for row in rows if row["text"][2] == "accuracy lost"}
    chart = charts.effects("Accuracy lost, against the crop left alone", drawn, found["margin"])
    return {**found, "rows": rows, "chart": chart}


def _curves(report: Mapping[str, Any]) -> list[Markup]:
    measures = report["measures"]
    drawn = []
    if cut := measures.get("cutoff"):
        rows = [row for row in cut["curve"] if row["accuracy"]["value"] is not None]
        shares = [row for row in rows if row["at"] <= 1]
        points = [(row["at"], row["accuracy"]["value"]) for row in shares]
        if cut["full"]["value"] is not None:
            points.append((1.0, cut["full"]["value"]))
        series = {"accuracy": ([100 * x for x, _ in points], [y for _, y in points])}
        drawn.append(
            charts.lines("Visual cutoff: accuracy", series, "% of the response with the image", colours={"accuracy": 1})
        )
    if vdm := measures.get("vdm"):
        curve = vdm["curve"]
        series = {"VDM": (curve["position"], curve["vdm"])}
        drawn.append(charts.lines("VDM over the response", series, "token", colours={"VDM": 2}))
    if attention := measures.get("attention"):
        curve = attention["curve"]
        for key in ("mass", "lift"):
            series = {key: (curve["position"], curve[key])}
            drawn.append(charts.lines(f"Image {key}", series, "token", colours={key: 3}))
    if knockout := measures.get("knockout"):
        curve = knockout["curve"]
        series = {"contribution": (curve["position"], curve["knockout"])}
        drawn.append(charts.lines("Image contribution by knockout", series, "token", colours={"contribution": 5}))
    if samples := measures.get("self_consistency"):
        rows = samples["pass_curve"]
        series = {"pass@k": ([row["k"] for row in rows], [row["value"] for row in rows])}
        drawn.append(charts.lines("Samples: pass@k", series, "k", colours={"pass@k": 4}))
    return [chart for chart in drawn if chart]


def _case(case: Mapping[str, Any]) -> dict[str, Any]:
    main = case["main"]
    text = main["text"]
    maps = case.get("maps") or [None] * len(case["images"])
    return {
        "zooms": [],  # of earlier audits
        **case,
        "status": "error" if main["status"] == "error" else "correct" if main["right"] else "incorrect",
        "pieces": highlight(text[:LONGEST_SHOWN]),
        "cut": max(0, len(text) - LONGEST_SHOWN),
        "thumbnails": [thumbnail(image) for image in case["images"]],
        "heat_maps": [
            thumbnail(image, own) for image, own in zip(case["images"], maps, strict=True) if own is not None
        ],
    }
