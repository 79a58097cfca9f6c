"""The two files of an evaluation: ``report.html`` (self-contained, no script, no network) and ``report.json``.

Model output and questions are untrusted text: the template escapes everything. The page's content policy forbids
scripts and network as a second barrier.
"""

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from configs.errors import ImageError, UserError
from configs.jsonl import read_log, write_json_atomic, write_text_atomic
from eval import charts
from eval.runner import Answer
from vlm.images import open_image
from vlm.labels import coverage_text
from vlm.problem import Problem
from vlm.response import count_looks, split_sentences

THUMBNAIL = 320  # pixels of the longer side
LONGEST_SHOWN = 6000  # characters of a response

# Stage -> title of a chart -> name of a curve -> its key in the stage's log.jsonl.
LEARNING_CURVES: dict[str, dict[str, dict[str, str]]] = {
    "sft": {
        "SFT: loss": {"loss": "loss", "held-out loss": "eval_loss"},
        "SFT: token accuracy": {"token accuracy": "mean_token_accuracy"},
    },
    "grpo": {
        "GRPO: reward": {"total": "reward"},
        "GRPO: share of correct answers": {"correct": "accuracy/right"},
        "GRPO: tokens per response": {"tokens": "completions/mean_length"},
        "GRPO: re-looks per response": {"re-looks": "looks/mean"},
        "GRPO: image mass": {"first half": "mass/first_half", "second half": "mass/second_half"},
        "GRPO: lift": {"first half": "lift/first_half", "second half": "lift/second_half"},
        "GRPO: entropy": {"entropy": "entropy"},
        "GRPO: shares": {"constant groups": "frac_reward_zero_std", "truncated": "completions/clipped_ratio"},
    },
}


def write_report(
    report: dict[str, Any],
    out_dir: str | Path,
    logs: Mapping[str, str | Path],
    samples: str | Path | Sequence[Mapping[str, Any]] = (),
    name: str = "report",
) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``out_dir``.

    Args:
        report: of ``eval.harness.evaluate``; a run adds ``data``, ``grpo``, ``seconds`` and other keys, and all of them go
            into the JSON. Every part may be missing: the page shows what there is.
        logs: stage (``sft``, ``grpo``) -> its ``log.jsonl``, one row a step; missing files are skipped.
        samples: rows of ``pick_samples``, or the file that holds them.

    Returns:
        The two paths, JSON first.
    """
    out = Path(out_dir)
    rows = {stage: read_log(path) for stage, path in logs.items() if Path(path).exists()}
    shown = json.loads(Path(samples).read_text(encoding="utf-8")) if isinstance(samples, str | Path) else samples
    write_json_atomic(out / f"{name}.json", report)
    write_text_atomic(out / f"{name}.html", render(report, rows, shown))
    return out / f"{name}.json", out / f"{name}.html"


def read_report(folder: str | Path) -> dict[str, Any]:
    """report.json of an evaluation.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    file = Path(folder) / "report.json"
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if not report["models"]:
            raise KeyError("models")
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is no finished evaluation (report.json): run reflection-v eval first.") from None
    return report


def pick_samples(problems: Sequence[Problem], answers: Mapping[str, Sequence[Answer]], n: int) -> list[dict[str, Any]]:
    """``n`` problems to show with every model's response, taken in turn from each pattern of correct and incorrect.

    Taking patterns in turn ("only the last model is correct", "all are incorrect", ...) shows failures as well as successes;
    within a pattern those with the most re-looks come first.
    """
    by_model = {name: {answer.problem_id: answer for answer in rows} for name, rows in answers.items()}
    patterns: dict[tuple[bool, ...], list[Problem]] = defaultdict(list)
    for problem in problems:
        found = [rows[problem.id] for rows in by_model.values()]
        if all(answer.status == "ok" for answer in found):
            patterns[tuple(answer.correct for answer in found)].append(problem)
    last = list(by_model.values())[-1]
    for members in patterns.values():
        members.sort(key=lambda problem: -min(last[problem.id].looks, 3))  # stable: families stay in turn
    queues = [patterns[key] for key in sorted(patterns, key=lambda key: key[::-1], reverse=True)]
    picked = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return [
        {
            **problem.model_dump(include={"id", "question", "choices", "answer", "images"}),
            "family": problem.family,
            "responses": {
                name: {
                    key: getattr(rows[problem.id], "correct" if key == "right" else key)
                    for key in ("text", "answer", "right", "truncated", "looks")
                }
                for name, rows in by_model.items()
            },
        }
        for problem in picked[:n]
    ]


def render(
    report: Mapping[str, Any], logs: Mapping[str, Sequence[Mapping[str, Any]]], samples: Sequence[Mapping[str, Any]]
) -> str:
    """The HTML page. ``logs`` are the rows of each stage's log."""
    models = report.get("models", {})
    return page_template("report.html.jinja").render(
        report=report,
        models=models,
        colours={name: index % charts.SERIES for index, name in enumerate(models)},
        families=_family_chart(report),
        attention=_attention_charts(models),
        learning=_learning_charts(logs),
        samples=[_show(sample) for sample in samples],
        evaluation_sets=[
            (title, key)
            for title, key in (
                ("Images unlike those of training: accuracy", "shift_accuracy"),
                ("Skills from before training: accuracy", "skill_accuracy"),
                ("Single facts: share incorrect", "first_look_error"),
            )
            if any(model.get(key) for model in models.values())
        ],
    )


def page_template(name: str) -> Template:
    """A page of ``eval/templates``, which escapes every value."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": format_estimate,
        "signed": format_difference,
        "figure": format_number,
        "layers": coverage_text,
    }
    return environment.get_template(name)


def format_estimate(estimate: Mapping[str, Any] | None) -> Markup:
    """``0.712 [0.684, 0.739] n = 1,000`` with markup for the interval; "insufficient data" without a value."""
    if not estimate or estimate.get("value") is None:
        return Markup('<span class="none">insufficient data</span>')
    interval = estimate.get("ci95")
    digits = 3 if abs(estimate["value"]) < 10 else 1
    low_high = (
        f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else estimate.get("why_no_interval", "")
    )
    shown = Markup("<b>{}</b> <small><span>{}</span> <span>n = {:,}</span></small>")
    return shown.format(f"{estimate['value']:.{digits}f}", low_high, estimate["n"])


def format_difference(estimate: Mapping[str, Any] | None) -> Markup:
    """An estimate with its sign; bold only if the interval excludes 0."""
    if not estimate or estimate.get("value") is None:
        return Markup('<span class="none">insufficient data</span>')
    interval = estimate.get("ci95")
    low_high = f"[{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else estimate.get("why_no_interval", "")
    value = Markup("<b>{}</b>" if interval and (interval[0] > 0 or interval[1] < 0) else "{}")
    shown = Markup("{} <small><span>{}</span> <span>n = {:,}</span></small>")
    return shown.format(value.format(f"{estimate['value']:+.3f}"), low_high, estimate["n"])


def format_number(value: Any) -> str:
    """A number as text, with at most four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def highlight(text: str) -> list[tuple[str, bool]]:
    """The whole text in pieces, in order; True marks a sentence that is a re-look."""
    pieces: list[tuple[str, bool]] = []
    done = looks = 0
    for start, end in split_sentences(text):
        before, looks = looks, count_looks(text[:end])
        if looks > before:
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
    return [(piece, marked) for piece, marked in [*pieces, (text[done:], False)] if piece]


def _family_chart(report: Mapping[str, Any]) -> Markup:
    by_model = {name: model.get("accuracy_by_family", {}) for name, model in report.get("models", {}).items()}
    families = sorted({family for estimates in by_model.values() for family in estimates})
    majority = report.get("majority_class", {}).get("by_family", {})
    if not families:
        return Markup("")
    return charts.bars(
        {family: {name: estimates.get(family) for name, estimates in by_model.items()} for family in families},
        list(by_model),
        {family: estimate["value"] for family, estimate in majority.items()},
    )


def _attention_charts(models: Mapping[str, Any]) -> list[Markup]:
    curves = {name: model["attention"]["curve"] for name, model in models.items() if "attention" in model}
    colours = {name: index for index, name in enumerate(models)}
    drawn = [
        charts.lines(
            title,
            {name: (curve["position"], curve[key]) for name, curve in curves.items()},
            "response token",
            colours=colours,
        )
        for title, key in (("Image mass of each token", "mass"), ("Lift over uniform attention", "lift"))
    ]
    return [chart for chart in drawn if chart]


def _learning_charts(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Markup]:
    drawn = []
    # A stage's curves have the colour that the model of this stage has in the other charts.
    for first_colour, (stage, curves) in enumerate(LEARNING_CURVES.items(), start=1):
        for title, keys in curves.items():
            series = {name: _series(logs.get(stage, []), key) for name, key in keys.items()}
            colours = {name: first_colour + index for index, name in enumerate(series)}
            drawn.append(charts.lines(title, series, "step", colours=colours))
    return [chart for chart in drawn if chart]


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> charts.Line:
    points = [
        (float(row["step"]), float(value))
        for row in rows
        if isinstance(value := row.get(key), int | float) and math.isfinite(value) and "step" in row
    ]
    return [x for x, _ in points], [y for _, y in points]


def _show(sample: Mapping[str, Any]) -> dict[str, Any]:
    responses = {}
    for name, response in sample["responses"].items():
        text = response["text"]
        cut = max(0, len(text) - LONGEST_SHOWN)
        responses[name] = {**response, "pieces": highlight(text[:LONGEST_SHOWN]), "cut": cut}
    return {**sample, "responses": responses, "thumbnails": [thumbnail(image) for image in sample["images"]]}


def thumbnail(path: str, attention: list[list[float]] | None = None) -> str | None:
    """The image as a data URI, with its attention map over it if one is given; None if the file can no longer be read."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if attention is not None:
        import torch  # slow to import, and only audits of a local model have maps

        from vlm.heatmap import overlay

        image = overlay(image, torch.tensor(attention))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
