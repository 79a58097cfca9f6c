"""Measures by teacher-forced forwards: the model scores its own response with the image, without it, and with parts of it
masked. At most four forwards per response; nothing is generated. The forward with the image also gives the image's contribution by
knockout, in models with layers that have no attention map.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from PIL import Image

from configs.errors import UserError
from configs.jsonl import append_jsonl, read_log, repair_jsonl
from eval.figures import image_clusters
from eval.runner import Answer, can_be_scored, open_images
from eval.stats import Estimate, estimate_mean
from reward.rewards import halves
from vlm.chat import prefix_ids, question_messages
from vlm.images import fit_image
from vlm.knockout import knockout_coverage
from vlm.problem import Problem
from vlm.scoring import Scores, hellinger, mask_patches, score_responses

if TYPE_CHECKING:
    from vlm.load import VLM

KEPT_POSITIONS = 500  # tokens of a response whose distances are logged; the published range


def forward_measures(
    vlm: "VLM",
    problems: Sequence[Problem],
    answers: Mapping[str, Answer],
    log_path: Path,
    *,
    style: str,
    layers: Any = "last",
    share: float = 0.25,
    batch_size: int = 16,
) -> dict[str, Any]:
    """VDM, patch masking and the contribution by knockout over finished responses; rows that are already in the log are reused.

    Args:
        answers: problem id -> its answer under ``style``; errors, truncated responses and those below ``MIN_REASONING`` tokens
            cannot be judged and are skipped.
        share: part of the image's patches that is masked in grey, in (0, 1].

    Returns:
        ``rows`` (one per response: ``vdm``, ``vdm_halves``, ``most_drop``, ``least_drop``, ``maps`` of attention on the
        images, ``knockout`` and ``knockout_halves``, or ``why`` it failed) and the figures of ``forward_figures``.
    """
    usable = [(p, answers[p.id]) for p in problems if can_be_scored(p, answers.get(p.id))]
    repair_jsonl(log_path)
    coverage = knockout_coverage(vlm.model)
    # Rows of hybrid models that were logged without the knockout are read again.
    settings = [style, layers, share, *(["knockout"] if coverage else [])]
    saved = {row["key"]: row for row in read_log(log_path)} if log_path.exists() else {}
    keys = {problem.id: f"{row.key}/{settings}" for problem, row in usable}
    usable.sort(key=lambda pair: (pair[1].tokens, pair[0].id))
    for start in range(0, len(usable), batch_size):
        part = usable[start : start + batch_size]
        if all(keys[problem.id] in saved for problem, _ in part):
            continue
        read_now = [{"key": keys[row["problem_id"]], **row} for row in _read_all(vlm, part, style, layers, share)]
        new = [
            row for row in read_now if row["key"] not in saved
        ]  # an interrupted run may have saved a part of the batch
        append_jsonl(log_path, new)
        saved |= {row["key"]: row for row in new}
    rows = [saved[keys[problem.id]] for problem, _ in usable]
    return {"rows": rows, **forward_figures(rows, image_clusters(problems), coverage)}


def forward_figures(
    rows: Sequence[Mapping[str, Any]], clusters: Mapping[str, str], coverage: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Count the rows of ``forward_measures``.

    ``vdm``: ``first_half``, ``second_half`` (means over the response's halves, in [0, 1]), ``ratio``, ``curve`` and
    ``values`` (problem id -> second half). ``patch_masking``: mean loss of log probability (nats per token) with the most and
    the least attended patches masked, and ``values``: their difference; above 0, attention is on patches that matter.
    ``knockout``: halves, ratio and ``curve`` of the image's contribution by knockout, and its ``coverage``
    (``vlm.knockout.knockout_coverage``); None without one.
    """
    halved = [row for row in rows if row.get("vdm_halves")]
    masked = [row for row in rows if row.get("most_drop") is not None]

    def mean(rows: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]) -> Estimate:
        return estimate_mean([value(row) for row in rows], [clusters[row["problem_id"]] for row in rows])

    def over_the_response(name: str) -> dict[str, Any]:
        key = f"{name}_halves"
        halved = [row for row in rows if row.get(key)]
        apart = [row for row in halved if row[key][0] > 1e-6]  # the others have no ratio
        return {
            "first_half": mean(halved, lambda row: row[key][0]),
            "second_half": mean(halved, lambda row: row[key][1]),
            "ratio": mean(apart, lambda row: row[key][1] / row[key][0]),
            "curve": _curve([row[name] for row in halved], name),
        }

    return {
        "vdm": {
            **over_the_response("vdm"),
            "values": {row["problem_id"]: row["vdm_halves"][1] for row in halved},
        },
        "patch_masking": {
            "most_attended": mean(masked, lambda row: row["most_drop"]),
            "least_attended": mean(masked, lambda row: row["least_drop"]),
            "values": {row["problem_id"]: row["most_drop"] - row["least_drop"] for row in masked},
        },
        "knockout": {**over_the_response("knockout"), "coverage": dict(coverage)} if coverage else None,
        "not_measured": sorted({row["why"] for row in rows if row.get("why")}),
    }


def _curve(series: Sequence[Sequence[float]], name: str) -> dict[str, list[float]]:
    """Means by position, up to the length that a tenth of the responses (at least five) reach."""
    curve: dict[str, list[float]] = {"position": [], name: [], "n": []}
    lengths = sorted((len(values) for values in series), reverse=True)
    enough = max(5, -(-len(lengths) // 10))
    for position in range(lengths[enough - 1] if len(lengths) >= enough else 0):
        there = [values[position] for values in series if len(values) > position]
        curve["position"].append(position + 1)
        curve[name].append(fmean(there))
        curve["n"].append(len(there))
    return curve


def _read_all(
    vlm: "VLM", part: Sequence[tuple[Problem, Answer]], style: str, layers: Any, share: float
) -> list[dict[str, Any]]:
    """The rows of one batch; a response that cannot be scored (its image is gone) costs one row."""
    try:
        return _read_batch(vlm, part, style, layers, share)
    except UserError as error:
        if len(part) == 1:
            return [{"problem_id": part[0][0].id, "why": str(error)}]
        return [row for one in part for row in _read_all(vlm, [one], style, layers, share)]


def _read_batch(
    vlm: "VLM", part: Sequence[tuple[Problem, Answer]], style: str, layers: Any, share: float
) -> list[dict[str, Any]]:
    images = [[fit_image(image, vlm.processor) for image in open_images(problem)] for problem, _ in part]
    responses = [prefix_ids(vlm.tokenizer, answer.text) for _, answer in part]

    def read(shown: Sequence[Sequence[Image.Image]], **options: Any) -> Scores:
        conversations = [
            question_messages(problem.question, len(own), style, problem.choices)
            for (problem, _), own in zip(part, shown, strict=True)
        ]
        return score_responses(vlm, conversations, shown, responses, **options)

    with vlm.lock:  # attention is recorded by hooks on the model, which one caller at a time may set
        seen = read(images, attention=layers, maps=True, distributions=True, knockout=True)
        blind = read([[] for _ in part], log_p=False, distributions=True)
        distances = [hellinger(p, q).cpu() for p, q in zip(seen.root, blind.root, strict=True)]
        del seen.root, blind.root  # a distribution per token over the vocabulary: free it before the next forwards
        drops: dict[str, list[float | None]] = {"most": [None] * len(part), "least": [None] * len(part)}
        maps = [seen.maps(row) for row in range(len(part))]
        for name in drops if seen.grids else ():
            masked = read(
                [
                    mask_patches(own, attention, share, most=name == "most")
                    for own, attention in zip(images, maps, strict=True)
                ]
            )
            drops[name] = [float((full - less).mean()) for full, less in zip(seen.log_p, masked.log_p, strict=True)]
    rows = []
    for index, (problem, _) in enumerate(part):
        row: dict[str, Any] = {"problem_id": problem.id}
        if seen.grids:
            row["maps"] = [[[round(cell, 6) for cell in line] for line in one.tolist()] for one in maps[index]]
        row["vdm"] = [round(value, 5) for value in distances[index][:KEPT_POSITIONS].tolist()]
        row["vdm_halves"] = [float(value) for value in halves(distances[index])]
        # Not a number where a layer gave nothing to compare with: such a response has no contribution.
        if seen.knockout and seen.knockout[index].isfinite().all():
            row["knockout"] = [round(value, 5) for value in seen.knockout[index][:KEPT_POSITIONS].tolist()]
            row["knockout_halves"] = [float(value) for value in halves(seen.knockout[index])]
        row |= {f"{name}_drop": values[index] for name, values in drops.items()}
        rows.append(row | ({"why": seen.no_maps} if seen.no_maps else {}))
    return rows
