"""Does an answer depend on the image, and does a re-look read it? Measures of one subject, each with n and interval.

Each measure has a part that asks the subject and a part that only counts (``swap_rates``, ``attention_profile``), so
that the counting can be checked by hand and repeated from the logs.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.figures import image_clusters
from eval.runner import Answer, answer_problems, open_images
from eval.stats import Estimate, estimate_difference, estimate_mean, estimate_share
from eval.subjects import Subject
from reward.grade import grade_answer, share_of_facts_missed
from reward.rewards import MIN_MASS
from vlm.images import blank
from vlm.problem import Problem
from vlm.response import LOOK_CUES, RELOOK_CUES, find_reasoning, first_relook, split_sentences

FAINT = 4
"""Largest change of a pixel by faint noise, in levels of 255."""
CURVE_POINTS = 60
# Re-look cues first: "let me look again" also matches a pattern of a plain look, which would cut earlier.
_CUES = [re.compile("|".join(patterns), re.IGNORECASE) for patterns in (RELOOK_CUES, LOOK_CUES)]


def noise_images(problem: Problem) -> list[Image.Image]:
    """Uniform noise of the images' sizes, seeded by the problem: no content, but unlike a blank not uniform."""
    generator = np.random.default_rng(list(problem.id.encode()))
    sizes = [image.size for image in open_images(problem)]
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def faintly_noisy_images(problem: Problem) -> list[Image.Image]:
    """The problem's images, each pixel changed by at most ``FAINT`` levels, seeded by the problem: other pixels, same content."""
    generator = np.random.default_rng(list(problem.id.encode()))
    return [add_faint_noise(image, generator) for image in open_images(problem)]


def add_faint_noise(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The image with each pixel changed by at most ``FAINT`` levels."""
    pixels = np.asarray(image.convert("RGB"), np.int16)
    noise = generator.integers(-FAINT, FAINT + 1, pixels.shape, np.int16)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def mismatched_images(problems: Sequence[Problem], seed: int = 0) -> list[Problem]:
    """The problems with the images of another problem of their family: plausible images, but not their own.

    Each problem takes the images of the next one in a seeded circle. A problem is left out if it is alone in its family (with
    its number of images), or if the next one has the same images.
    """
    circles: dict[tuple[str, int], list[Problem]] = {}
    for problem in problems:
        if problem.images:
            circles.setdefault((problem.family, len(problem.images)), []).append(problem)
    sources: dict[str, Problem] = {}
    for (family, _), members in circles.items():
        order = sorted(members, key=lambda problem: problem.id)
        random.Random(f"{seed}/{family}").shuffle(order)
        sources |= {problem.id: source for problem, source in zip(order, [*order[1:], order[0]], strict=True)}
    return [
        problem.model_copy(update={"images": sources[problem.id].images})
        for problem in problems
        if problem.id in sources and sources[problem.id].images != problem.images
    ]


def blank_images(problem: Problem) -> list[Image.Image]:
    """The problem's images in mid-grey, of the same size: the answer can then come from the question alone.

    Source: the blank-image control of Hallucination-as-Cue, arXiv 2604.03179.
    """
    return [blank(image) for image in open_images(problem)]


def reasoning_span(text: str) -> tuple[int, int]:
    """Character span of a response's reasoning: inside ``<think>`` if it is closed, else everything before the last ``\\boxed``.

    Empty if there is neither, since reasoning and answer then cannot be separated.
    """
    reasoning = find_reasoning(text)
    return (reasoning.start, reasoning.end) if reasoning.closed else (0, max(0, text.rfind("\\boxed")))


def cut_reasoning(text: str) -> tuple[str, str] | None:
    """(the response up to the cut, ``cue`` or ``half``), or None without reasoning to cut.

    The cut is directly after the words of the first re-look ("let me look again"): the model has announced the look, but not
    yet written what it sees. Without a re-look, the cut is at half of the reasoning's characters, moved back to the end of a
    sentence or else of a word.
    """
    start, end = reasoning_span(text)
    relook = first_relook(text[:end])
    if relook is not None and relook >= start:
        sentence_end = next(stop for begin, stop in split_sentences(text[:end]) if stop > relook)
        for pattern in _CUES:
            if match := pattern.search(text, relook, sentence_end):
                return text[: match.end()], "cue"
    half = start + (end - start) // 2
    stops = [start + stop for _, stop in split_sentences(text[start:end]) if start + stop <= half]
    words = [match.start() for match in re.finditer(r"\s+", text[start:half])]
    cut = stops[-1] if stops else start + words[-1] if words else start
    return (text[:cut], "half") if text[start:cut].strip() else None


def has_counterfactual(problem: Problem) -> bool:
    """Whether the problem has another image for which its question has another answer."""
    other = problem.meta.get("counterfactual")
    if not isinstance(other, dict) or not {"image", "answer"} <= other.keys() or len(problem.images) != 1:
        return False
    return not grade_answer(problem, str(other["answer"])).correct


def counterfactual(problem: Problem) -> Problem:
    """The same question, with the same id, about the other image."""
    other = problem.meta["counterfactual"]
    return problem.model_copy(update={"images": [other["image"]], "answer": str(other["answer"])})


def swap_test(
    subject: Subject, problems: Sequence[Problem], scratch: Mapping[str, Answer], logs: Path, **settings: Any
) -> dict[str, Any]:
    """Swap the image in the middle of a correct response and see whether the answer follows it.

    Only pairs count whose two images were both answered correctly from scratch: otherwise an unchanged answer may only show
    that the model cannot read the other image. The response is cut (``cut_reasoning``), the image is replaced by its
    counterfactual, and the subject finishes. The first control shows the same image again. With the same text and image a
    greedy model always continues as before, so a second control shows the image with faint noise.

    Source: VisualSwap, arXiv 2605.15864; the control and the prior-answer rate answer "Recompute or Reuse", 2608.01930.

    Args:
        problems: those without a counterfactual are skipped.
        scratch: problem id -> its answer from scratch, under the same style.
        settings: of ``answer_problems`` (style, max_new_tokens, batch_size).

    Returns:
        ``swap_rates`` of the pairs, ``change_rate_noise`` (no longer correct with faint noise; not part of the difference),
        and the numbers of problems ``offered`` and left after each step.
    """
    both, counts = _correct_on_both(subject, problems, scratch, logs, settings)
    cuts = {problem.id: cut for problem in both if (cut := cut_reasoning(scratch[problem.id].text))}
    pairs = [problem for problem in both if problem.id in cuts]
    prefixes = {id_: prefix for id_, (prefix, _) in cuts.items()}

    def finish(shown: list[Problem], tag: str, **more: Any) -> list[Answer]:
        return answer_problems(subject, shown, log_path=logs, tag=tag, prefixes=prefixes, **settings, **more)

    # The tags are part of the keys of saved answers, so they keep their words.
    swapped = finish([counterfactual(problem) for problem in pairs], "swap: other picture")
    same = finish(pairs, "swap: same picture")
    noisy = finish(pairs, "swap: faint noise", images=faintly_noisy_images)
    changed = {answer.problem_id: float(not answer.correct) for answer in noisy if answer.status == "ok"}
    clusters = image_clusters(pairs)
    return {
        **swap_rates(pairs, swapped, same),
        "change_rate_noise": estimate_share(changed.values(), [clusters[id_] for id_ in changed]),
        **counts,
        "cut_at_cue": sum(kind == "cue" for _, kind in cuts.values()),
    }


def swap_by_turn(
    subject: Subject, problems: Sequence[Problem], scratch: Mapping[str, Answer], logs: Path, **settings: Any
) -> dict[str, Any]:
    """The swap test for a model that cannot continue from a prefix: the other image comes in a further user turn.

    The subject has answered; a second turn shows an image "once more" and asks again, the counterfactual one or, for
    the control, the same. A weaker test than ``swap_test``, and a measure of its own: a new turn invites a new answer,
    while the swap in mid-response has to win over the model's own reasoning.

    Args and Returns: as ``swap_test``, without the cuts.
    """
    pairs, counts = _correct_on_both(subject, problems, scratch, logs, settings)

    def ask(golds: list[Problem], shown: list[str], tag: str) -> list[Answer]:
        replies = {problem.id: (scratch[problem.id].text, file) for problem, file in zip(pairs, shown, strict=True)}
        return answer_problems(subject, golds, log_path=logs, tag=tag, replies=replies, **settings)

    # The first turn keeps the image of the problem; only the grade is of the counterfactual.
    golds = [problem.model_copy(update={"answer": counterfactual(problem).answer}) for problem in pairs]
    swapped = ask(golds, [problem.meta["counterfactual"]["image"] for problem in pairs], "turn: other picture")
    same = ask(pairs, [problem.images[0] for problem in pairs], "turn: same picture")
    return {**swap_rates(pairs, swapped, same), **counts}


def _correct_on_both(
    subject: Subject, problems: Sequence[Problem], scratch: Mapping[str, Answer], logs: Path, settings: dict[str, Any]
) -> tuple[list[Problem], dict[str, int]]:
    """The problems whose own and whose counterfactual image are answered correctly from scratch; and the number left after each step."""
    offered = [problem for problem in problems if has_counterfactual(problem) and problem.id in scratch]
    usable = {id_ for id_, answer in scratch.items() if answer.correct and not answer.truncated}
    solved = [problem for problem in offered if problem.id in usable]
    tag = "swap: other from scratch"
    others = answer_problems(subject, [counterfactual(p) for p in solved], log_path=logs, tag=tag, **settings)
    both = [problem for problem, other in zip(solved, others, strict=True) if other.correct and not other.truncated]
    return both, {"offered": len(offered), "right_from_scratch": len(solved), "both_right": len(both)}


def swap_rates(pairs: Sequence[Problem], swapped: Sequence[Answer], same: Sequence[Answer]) -> dict[str, Any]:
    """Count a finished swap test; rates in [0, 1], the difference in [-1, 1].

    ``update_rate``: answers correct for the new image. ``change_rate_same``: answers no longer correct although the same
    image was shown again. ``difference``: update minus change, paired; 0 for a model that always flips and for one that
    never looks. ``prior_answer_rate``: answers still correct for the old image after the swap. Errors are left out.
    ``values``: problem id -> its own update minus change.
    """
    rows = [
        (problem, new, old)
        for problem, new, old in zip(pairs, swapped, same, strict=True)
        if new.status == old.status == "ok"
    ]
    update = [float(new.correct) for _, new, _ in rows]
    change = [float(not old.correct) for _, _, old in rows]
    prior = [float(grade_answer(p, new.answer).correct) for p, new, _ in rows]
    clusters = image_clusters(pairs)
    labels = [clusters[problem.id] for problem, _, _ in rows]
    return {
        "update_rate": estimate_share(update, labels),
        "change_rate_same": estimate_share(change, labels),
        "difference": estimate_difference([u - c for u, c in zip(update, change, strict=True)], labels),
        "prior_answer_rate": estimate_share(prior, labels),
        "n": len(rows),
        "values": {problem.id: u - c for (problem, _, _), u, c in zip(rows, update, change, strict=True)},
    }


def attention_profile(
    answers: Sequence[Answer],
    clusters: Mapping[str, Any],
    layers: Any = "last",
    coverage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Attention to the image tokens over the response: halves, ratio and curve, of mass and of lift.

    Mass (published form): the softmax mass of each response token's own row on the image tokens, mean over heads, in
    [0, 1]; all tokens of the response without its end token. Lift: mass over the share that image tokens have of all
    visible tokens; 1 is uniform attention. The ratio is second half over first, per response, then averaged. Under
    uniform attention the mass falls anyway, since later tokens see more text; the lift does not.

    ``clusters``: problem id -> image. ``coverage``: which of the model's layers ``layers`` means
    (``vlm.attention_traits.AttentionTraits.coverage``); None for a subject without layers. Source: Reflection-V, arXiv
    2509.12132 (mass over the response); the lift is ours.

    Returns:
        ``first_half``, ``second_half``, ``ratio`` of the mass, the same three under ``lift``, ``layers``, ``coverage``, and
        ``curve``: lists ``position`` (tokens from the start), ``mass``, ``lift``, ``n`` (responses that long).
    """
    profile: dict[str, Any] = {"layers": layers, "coverage": dict(coverage) if coverage else None}
    for name, target in (("mass", profile), ("lift", profile.setdefault("lift", {}))):
        halves = [(pair, a.problem_id) for a in answers if (pair := getattr(a, f"{name}_halves")) is not None]
        labels = [clusters[id_] for _, id_ in halves]
        ratios = [(last / first, clusters[id_]) for (first, last), id_ in halves if first >= MIN_MASS]
        target["first_half"] = estimate_mean([first for (first, _), _ in halves], labels)
        target["second_half"] = estimate_mean([last for (_, last), _ in halves], labels)
        target["ratio"] = estimate_mean([ratio for ratio, _ in ratios], [label for _, label in ratios])
    recorded = [answer for answer in answers if answer.mass and answer.lift]
    profile["curve"] = attention_curve([a.mass or [] for a in recorded], [a.lift or [] for a in recorded])
    return profile


def attention_curve(masses: Sequence[Sequence[float]], lifts: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Means by position in at most ``CURVE_POINTS`` bins, up to the length that a tenth of the responses (at least five) reach."""
    curve: dict[str, list[float]] = {"position": [], "mass": [], "lift": [], "n": []}
    lengths = sorted((len(mass) for mass in masses), reverse=True)
    enough = max(5, -(-len(lengths) // 10))
    if len(lengths) < enough:
        return curve
    longest = lengths[enough - 1]
    width = -(-longest // CURVE_POINTS)
    for start in range(0, longest, width):
        stop = min(start + width, longest)
        there = [index for index, mass in enumerate(masses) if len(mass) > start]
        curve["position"].append((start + stop + 1) / 2)
        curve["mass"].append(float(np.mean([np.mean(masses[index][start:stop]) for index in there])))
        curve["lift"].append(float(np.mean([np.mean(lifts[index][start:stop]) for index in there])))
        curve["n"].append(len(there))
    return curve


def behaviour(answers: Sequence[Answer], clusters: Mapping[str, Any]) -> dict[str, Estimate]:
    """How the subject writes: re-looks per response, tokens per response, share truncated at the limit."""
    written = [answer for answer in answers if answer.status == "ok"]
    labels = [clusters[answer.problem_id] for answer in written]
    return {
        "looks_mean": estimate_mean([answer.looks for answer in written], labels),
        "looking_share": estimate_share([float(answer.looks > 0) for answer in written], labels),
        "length_mean": estimate_mean([answer.tokens for answer in written], labels),
        "truncated_share": estimate_share([float(answer.truncated) for answer in written], labels),
    }


def first_look_error(answers: Iterable[Answer], golds: Mapping[str, str], clusters: Mapping[str, Any]) -> Estimate:
    """Share of incorrect single facts, in [0, 1], a mean over the answers; errors are left out.

    ``row 1: red none blue`` states three facts of row 1; an answer without such statements is one fact.
    """
    incorrect = {
        answer.problem_id: share_of_facts_missed(answer.answer, golds[answer.problem_id], answer.correct)
        for answer in answers
        if answer.status == "ok"
    }
    return estimate_share(incorrect.values(), [clusters[id_] for id_ in incorrect])
