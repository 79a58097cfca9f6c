"""Measures that need no new text: the model reads its own response again, with the picture, without it, and with parts
of it painted over. Four forwards a response at most, and none of them generates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.errors import UserError
from configs.jsonl import append_jsonl, read_log, repair_jsonl
from eval.runner import Answer, open_pictures
from eval.stats import estimate_mean
from reward.rewards import MIN_THOUGHT, halves
from vlm.attention import AttentionMass
from vlm.chat import encode, prefix_ids, question_messages
from vlm.heatmap import Grid, image_maps, token_grids
from vlm.images import fit_image
from vlm.problem import Problem

if TYPE_CHECKING:
    from vlm.load import VLM

GREY = (127, 127, 127)
KEPT_POSITIONS = 500  # tokens of a response whose distances are logged; the published range


@dataclass
class Reading:
    """One forward over prompt and response of a batch. ``T`` are the lengths of the responses.

    Attributes:
        log_p: per sequence (T,): log probability of each response token.
        root: per sequence (T, vocabulary): square roots of the next-token probabilities at every response token.
        mass, lift: per sequence (T,): attention to the image of the rows that *predict* the tokens, mean over heads and
            layers; None without image.
        token_mass: per sequence (T, image tokens): the same by image token.
    """

    log_p: list[Tensor]
    root: list[Tensor]
    mass: list[Tensor] | None = None
    lift: list[Tensor] | None = None
    token_mass: list[Tensor] | None = None


def read(
    model: Any, batch: Mapping[str, Any], lengths: Sequence[int], *, attention: Any = None, keep_roots: bool = True
) -> Reading:
    """Teacher-force a left-padded batch whose sequences end in responses of ``lengths`` tokens.

    Args:
        attention: layers of ``vlm.attention.AttentionMass`` to record (``"last"``, ``"all"``, a list); None for none.
        keep_roots: also keep the distributions.
    """
    longest = max(lengths)
    with torch.no_grad():
        if attention is None:
            logits, probe = model(**batch, logits_to_keep=longest + 1).logits, None
        else:
            with AttentionMass(model, attention, rows=longest + 1, per_token=True) as probe:
                logits = model(**batch, logits_to_keep=longest + 1).logits
    log_p, root = [], []
    for row, length in enumerate(lengths):
        shares = logits[row, longest - length : longest].float().log_softmax(-1)  # row t predicts token t + 1
        ids = batch["input_ids"][row, -length:]
        log_p.append(shares.gather(-1, ids[:, None])[:, 0].cpu())
        if keep_roots:
            root.append((shares / 2).exp())
    if probe is None:
        return Reading(log_p, root)

    def cut(values: Tensor) -> list[Tensor]:
        return [values[:, row, longest - length : longest].mean(0).cpu() for row, length in enumerate(lengths)]

    assert probe.token_mass is not None
    return Reading(log_p, root, cut(probe.mass), cut(probe.lift), cut(probe.token_mass))


def hellinger(p_root: Tensor, q_root: Tensor) -> Tensor:
    """Hellinger distance of distributions given as square roots: ||sqrt p - sqrt q||_2 / sqrt 2 over the last axis, in
    [0, 1]; 0 for equal ones, 1 for ones that share nothing.

    With P from a forward with the picture and Q without, on one and the same text, it is the visual dependency measure (VDM)
    of Reflection-V, arXiv 2509.12132 (there at every 5th of the first 500 tokens; here at every token).
    """
    return ((p_root - q_root).square().sum(-1) / 2).sqrt().clamp(0, 1)


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
    """VDM and patch masking over finished responses; rows already in the log are read from it.

    Args:
        answers: problem id -> its answer under ``style``; errors, truncated ones and those under ``MIN_THOUGHT`` tokens
            cannot be judged and are passed over.
        share: part of the picture's patches that is painted grey, in (0, 1].

    Returns:
        ``rows`` (one a response: ``vdm``, ``vdm_halves``, ``most_drop``, ``least_drop``, ``maps`` of attention on the
        pictures, or ``why`` it failed) and the figures of ``forward_figures``.
    """
    usable = []
    for problem in problems:
        row = answers.get(problem.id)
        if problem.images and row and row.status == "ok" and not row.truncated and row.tokens >= MIN_THOUGHT:
            usable.append((problem, row))
    repair_jsonl(log_path)
    settings = [style, layers, share]
    saved = {row["key"]: row for row in read_log(log_path)} if log_path.exists() else {}
    keys = {problem.id: f"{row.key}/{settings}" for problem, row in usable}
    usable.sort(key=lambda pair: (pair[1].tokens, pair[0].id))
    for start in range(0, len(usable), batch_size):
        part = usable[start : start + batch_size]
        if all(keys[problem.id] in saved for problem, _ in part):
            continue
        read_now = [{"key": keys[row["problem_id"]], **row} for row in _read_all(vlm, part, style, layers, share)]
        new = [row for row in read_now if row["key"] not in saved]  # a kill may have cut the batch in the middle
        append_jsonl(log_path, new)
        saved |= {row["key"]: row for row in new}
    rows = [saved[keys[problem.id]] for problem, _ in usable]
    return {"rows": rows, **forward_figures(rows)}


def forward_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the rows of ``forward_measures``.

    ``vdm``: ``first_half``, ``second_half`` (means over the response's halves, in [0, 1]), ``ratio``, ``curve`` and
    ``values`` (problem id -> second half). ``patch_masking``: mean loss of log probability (nats a token) with the most and
    the least attended patches painted over, and ``values``: their difference; above 0, attention lies where it matters.
    """
    halved = [row for row in rows if row.get("vdm_halves")]
    masked = [row for row in rows if row.get("most_drop") is not None]
    curve: dict[str, list[float]] = {"position": [], "vdm": [], "n": []}
    lengths = sorted((len(row["vdm"]) for row in halved), reverse=True)
    enough = max(5, -(-len(lengths) // 10))
    for position in range(lengths[enough - 1] if len(lengths) >= enough else 0):
        there = [row["vdm"][position] for row in halved if len(row["vdm"]) > position]
        curve["position"].append(position + 1)
        curve["vdm"].append(fmean(there))
        curve["n"].append(len(there))
    ratios = [row["vdm_halves"][1] / row["vdm_halves"][0] for row in halved if row["vdm_halves"][0] > 1e-6]
    return {
        "vdm": {
            "first_half": estimate_mean([row["vdm_halves"][0] for row in halved]),
            "second_half": estimate_mean([row["vdm_halves"][1] for row in halved]),
            "ratio": estimate_mean(ratios),
            "curve": curve,
            "values": {row["problem_id"]: row["vdm_halves"][1] for row in halved},
        },
        "patch_masking": {
            "most_attended": estimate_mean([row["most_drop"] for row in masked]),
            "least_attended": estimate_mean([row["least_drop"] for row in masked]),
            "values": {row["problem_id"]: row["most_drop"] - row["least_drop"] for row in masked},
        },
        "not_measured": sorted({row["why"] for row in rows if row.get("why")}),
    }


def _read_all(
    vlm: "VLM", part: Sequence[tuple[Problem, Answer]], style: str, layers: Any, share: float
) -> list[dict[str, Any]]:
    """The rows of one batch; a response that cannot be read (its picture is gone) costs one row."""
    try:
        return _read_batch(vlm, part, style, layers, share)
    except UserError as error:
        if len(part) == 1:
            return [{"problem_id": part[0][0].id, "why": str(error)}]
        return [row for one in part for row in _read_all(vlm, [one], style, layers, share)]


def _read_batch(
    vlm: "VLM", part: Sequence[tuple[Problem, Answer]], style: str, layers: Any, share: float
) -> list[dict[str, Any]]:
    pictures = [[fit_image(image, vlm.processor) for image in open_pictures(problem)] for problem, _ in part]
    responses = [prefix_ids(vlm.tokenizer, answer.text) for _, answer in part]
    lengths = [len(ids) for ids in responses]

    def batch_of(images: Sequence[Sequence[Image.Image]]) -> Any:
        messages = [
            question_messages(problem.question, len(shown), style, problem.choices)
            for (problem, _), shown in zip(part, images, strict=True)
        ]
        return encode(vlm, messages, images, responses)

    with vlm.lock:
        batch = batch_of(pictures)
        seen = read(vlm.model, batch, lengths, attention=layers)
        blind = read(vlm.model, batch_of([[] for _ in part]), lengths)
        distances = [hellinger(p, q).cpu() for p, q in zip(seen.root, blind.root, strict=True)]
        del seen.root, blind.root
        drops: dict[str, list[float | None]] = {"most": [None] * len(part), "least": [None] * len(part)}
        why, maps = "", []
        try:
            grids = token_grids(vlm.model, batch, [len(images) for images in pictures])
        except UserError as error:  # tiles have no single grid: no patch masking for this family
            why = str(error)
        else:
            assert seen.token_mass is not None
            maps = [image_maps(mass, own) for mass, own in zip(seen.token_mass, grids, strict=True)]
            for name in drops:
                painted = [
                    paint_over(images, heat, share, most=name == "most")
                    for images, heat in zip(pictures, maps, strict=True)
                ]
                masked = read(vlm.model, batch_of(painted), lengths, keep_roots=False)
                drops[name] = [float((full - less).mean()) for full, less in zip(seen.log_p, masked.log_p, strict=True)]
    rows = []
    for index, (problem, _) in enumerate(part):
        row: dict[str, Any] = {"problem_id": problem.id}
        if maps:
            row["maps"] = [[[round(cell, 6) for cell in line] for line in one.tolist()] for one in maps[index]]
        row["vdm"] = [round(value, 5) for value in distances[index][:KEPT_POSITIONS].tolist()]
        row["vdm_halves"] = [float(value) for value in halves(distances[index])]
        row |= {f"{name}_drop": values[index] for name, values in drops.items()}
        rows.append(row | ({"why": why} if why else {}))
    return rows


def paint_over(images: Sequence[Image.Image], maps: Sequence[Tensor], share: float, *, most: bool) -> list[Image.Image]:
    """The pictures with the ``share`` of their patches that has the most (or least) attention painted mid-grey.

    Args:
        maps: attention of each picture's image tokens, (rows, columns); the cells divide the picture evenly. Patches are
            ranked over all pictures together, ties in reading order.
    """
    heat = torch.cat([one.flatten() for one in maps])
    count = max(1, round(share * len(heat)))
    chosen = torch.zeros(len(heat), dtype=torch.bool)
    chosen[heat.argsort(descending=most, stable=True)[:count]] = True
    painted: list[Image.Image] = []
    for image, part in zip(images, chosen.split([one.numel() for one in maps]), strict=True):
        pixels = np.array(image)
        grid: Grid = tuple(maps[len(painted)].shape)  # type: ignore[assignment]
        for row, column in part.view(grid).nonzero().tolist():
            rows = slice(row * image.height // grid[0], (row + 1) * image.height // grid[0])
            columns = slice(column * image.width // grid[1], (column + 1) * image.width // grid[1])
            pixels[rows, columns] = GREY
        painted.append(Image.fromarray(pixels))
    return painted
