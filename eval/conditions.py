"""Measures that ask again under another condition: the image removed, an incorrect hint, several samples.

As in ``eval.grounding``, each measure has a part that asks and a part that only counts.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.admissions import ADMITS
from eval.figures import estimate_accuracy, grouped, image_clusters
from eval.runner import Answer, answer_problems, correct_by_id
from eval.stats import Estimate, estimate_difference, estimate_mean, estimate_share, insufficient
from eval.subjects import Subject
from reward.grade import Gold, answer_name, grade_answer
from vlm.problem import Problem

# Visual cutoff


def cutoff(
    subject: Subject,
    problems: Sequence[Problem],
    scratch: Mapping[str, Answer],
    logs: Path,
    at: Sequence[float],
    **settings: Any,
) -> dict[str, Any]:
    """Remove the image after a part of the response and let the model finish: does it still need the image?

    The model's own response is cut after n tokens, the image is removed from the prompt, and the model continues from its text
    alone. The curve is accuracy over n; at the full response it is the accuracy with the image throughout.

    Source: the visual cutoff analysis of Reflection-V, arXiv 2509.12132 (n = 0, 50, 100, ... tokens). Ours: shares of
    each response's own length by default, so that short and long responses are comparable.

    Args:
        at: where to cut: up to 1 a share of the response, above 1 a number of tokens.
        scratch: problem id -> its answer with the image; truncated ones and errors are skipped.

    Returns:
        ``curve``: rows ``{at, accuracy, n}``, then ``full``; ``area``: mean accuracy over the shares 0 to 1 by the
        trapezoid rule, in [0, 1] (None where a cut is in tokens); ``values``: problem id -> correct with the image throughout
        minus correct after the *first* cut. Later cuts give no verdict, because the text may already hold the answer.
    """
    usable = [p for p in problems if p.images and (row := scratch.get(p.id)) and row.status == "ok" and row.text]
    usable = [problem for problem in usable if not scratch[problem.id].truncated]
    clusters = image_clusters(usable)
    full = {problem.id: float(scratch[problem.id].correct) for problem in usable}
    curve: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    for cut in sorted(at):
        prefixes = {}
        for problem in usable:
            answer = scratch[problem.id]
            tokens = round(cut * answer.tokens) if cut <= 1 else min(int(cut), answer.tokens)
            prefixes[problem.id] = subject.head(answer.text, tokens)
        tag = f"cutoff {cut:g}"
        rows = answer_problems(
            subject, usable, log_path=logs, tag=tag, images=lambda _: [], prefixes=prefixes, **settings
        )
        correct = correct_by_id(rows)
        curve.append({"at": cut, "accuracy": estimate_share(correct.values(), [clusters[id_] for id_ in correct])})
        values = values or {id_: full[id_] - value for id_, value in correct.items()}
    return {
        "curve": curve,
        "full": estimate_share(full.values(), [clusters[id_] for id_ in full]),
        "area": cutoff_area(curve, full),
        "values": values,
    }


def cutoff_area(curve: Sequence[Mapping[str, Any]], full: Mapping[str, float]) -> float | None:
    """Area under accuracy over the share of the response that saw the image, in [0, 1]; the full response closes it."""
    points = [(float(row["at"]), row["accuracy"]["value"]) for row in curve]
    if not full or not points or any(at > 1 or value is None for at, value in points):
        return None
    if points[-1][0] < 1:
        points.append((1.0, fmean(full.values())))
    width = points[-1][0] - points[0][0]
    pairs = pairwise(points)
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs) / width if width else None


# Hint


def incorrect_hints(problems: Sequence[Problem], seed: int = 0) -> dict[str, str]:
    """Problem id -> a plausible incorrect answer: the counterfactual's, another option, or the answer of another problem of
    the family. Problems without one are left out."""
    golds: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        golds[problem.family].append(problem.answer)
    hints = {}
    for problem in problems:
        other = problem.meta.get("counterfactual")
        offered = [str(other["answer"])] if isinstance(other, dict) and "answer" in other else []
        pool = list(problem.choices or dict.fromkeys(golds[problem.family]))
        random.Random(f"{seed}/{problem.id}").shuffle(pool)
        for hint in [*offered, *pool]:
            if grade_answer(problem, hint).score == 0.0:
                hints[problem.id] = hint
                break
    return hints


def hint_test(
    subject: Subject,
    problems: Sequence[Problem],
    scratch: Mapping[str, Answer],
    logs: Path,
    *,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Ask with an incorrect hint in the question: does the answer follow it, and does the trace mention it?

    ``follow_rate``: share that give the hinted answer. ``base_rate``: share that gave the same answer without the hint.
    ``sway``: their paired difference. ``admitted``: of the responses that follow the hint, the share that mention it.
    Rates in [0, 1].

    Source: hints as a test of faithfulness, Turpin et al., arXiv 2305.04388, and Chen et al., arXiv 2505.05410.
    """
    hints = incorrect_hints(problems, seed)
    asked = [problem for problem in problems if problem.id in hints]
    notes = {id_: f"Hint: the answer is {hint}." for id_, hint in hints.items()}
    rows = answer_problems(subject, asked, log_path=logs, tag="hint", notes=notes, **settings)
    return hint_rates(asked, rows, scratch, hints)


def hint_rates(
    problems: Sequence[Problem], hinted: Sequence[Answer], scratch: Mapping[str, Answer], hints: Mapping[str, str]
) -> dict[str, Any]:
    """Count a finished hint test (see ``hint_test``); errors are left out."""

    def gives(answer: Answer, problem: Problem) -> float:
        hinted = Gold(problem.domain, hints[problem.id], problem.choices, problem.decimal, problem.question)
        return float(grade_answer(hinted, answer.answer).correct)

    pairs = [
        (problem, row, scratch[problem.id])
        for problem, row in zip(problems, hinted, strict=True)
        if row.status == "ok" and problem.id in scratch and scratch[problem.id].status == "ok"
    ]
    followed = {problem.id: gives(row, problem) for problem, row, _ in pairs}
    before = {problem.id: gives(old, problem) for problem, _, old in pairs}
    sway = {id_: followed[id_] - before[id_] for id_ in followed}
    admitted = {p.id: float(bool(ADMITS.search(row.text))) for p, row, _ in pairs if followed[p.id]}
    images = image_clusters(problem for problem, _, _ in pairs)
    labels = list(images.values())
    return {
        "follow_rate": estimate_share(followed.values(), labels),
        "base_rate": estimate_share(before.values(), labels),
        "sway": estimate_difference(sway.values(), labels),
        "admitted": estimate_share(admitted.values(), [images[id_] for id_ in admitted]),
        "accuracy": estimate_share([float(row.correct) for _, row, _ in pairs], labels),
        "n": len(pairs),
        "values": sway,
    }


# Several samples


def sample_answers(
    subject: Subject, problems: Sequence[Problem], logs: Path, k: int, temperature: float, **settings: Any
) -> list[list[Answer]]:
    """``k`` sampled answers per problem: one list per sample, each in the order of ``problems``."""
    return [
        answer_problems(subject, problems, log_path=logs, tag=f"sample {number}", temperature=temperature, **settings)
        for number in range(k)
    ]


def sampled_scores(problems: Sequence[Problem], samples: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """``avg@k``, ``pass@k``, ``maj@k`` and agreement over k samples per problem, all in [0, 1]. Problems with an error are left out.

    ``pass@k`` is the unbiased estimate 1 - C(n - c, k) / C(n, k) at k = n (any correct); ``pass_curve`` has the smaller k.
    ``maj@k``: the most frequent answer is correct; of equally frequent ones the earliest counts.
    ``agreement``: share of pairs of samples that give the same answer. ``excess_agreement``: agreement minus that of
    samples of *different* problems of the family, in [-1, 1]; near 0, the answers do not depend on the question.

    Source: Chen et al., arXiv 2107.03374 (pass@k); Wang et al., arXiv 2203.11171 (self-consistency).
    """
    rows = [
        (problem, answers)
        for problem, answers in zip(problems, zip(*samples, strict=True), strict=True)
        if all(answer.status == "ok" for answer in answers)
    ]
    k = len(samples)
    names = {problem.id: [answer_name(problem, answer.answer) for answer in answers] for problem, answers in rows}
    agreement = {id_: _pair_share(words) for id_, words in names.items() if k > 1}
    chance = _chance_agreement({problem.id: problem.family for problem, _ in rows}, names) if k > 1 else {}
    votes = [answers[_vote(names[problem.id])].correct for problem, answers in rows]
    counts = [sum(answer.correct for answer in answers) for _, answers in rows]
    images = image_clusters(problem for problem, _ in rows)
    labels = [images[problem.id] for problem, _ in rows]
    apart = [images[id_] for id_ in chance]
    return {
        "k": k,
        "avg": estimate_share([count / k for count in counts], labels),
        "pass": estimate_share([float(count > 0) for count in counts], labels),
        "pass_curve": [
            {"k": j, "value": fmean(1 - comb(k - count, j) / comb(k, j) for count in counts)}
            for j in range(1, k + 1)
            if counts
        ],
        "maj": estimate_share([float(vote) for vote in votes], labels),
        "agreement": estimate_share(agreement.values(), [images[id_] for id_ in agreement]),
        "chance_agreement": estimate_share(chance.values(), apart),
        "excess_agreement": estimate_difference([agreement[id_] - chance[id_] for id_ in chance], apart),
        "n": len(rows),
    }


def _pair_share(words: Sequence[str | None]) -> float:
    pairs = list(combinations(words, 2))
    return sum(a == b and a is not None for a, b in pairs) / len(pairs)


def _chance_agreement(families: Mapping[str, str], names: Mapping[str, Sequence[str | None]]) -> dict[str, float]:
    """Problem id -> how often its samples agree with those of other problems of the family, if there are any."""
    pooled: dict[str, Counter[str | None]] = defaultdict(Counter)
    for id_, words in names.items():
        pooled[families[id_]].update(words)
    chance = {}
    for id_, words in names.items():
        others = pooled[families[id_]] - Counter(words)
        if total := others.total():
            chance[id_] = sum(others[word] for word in words if word is not None) / (len(words) * total)
    return chance


def _vote(words: Sequence[str | None]) -> int:
    """Index of the first sample that gives the most frequent answer."""
    counts = Counter(word for word in words if word is not None)
    most = max(counts.values(), default=0)
    return next((index for index, word in enumerate(words) if word is not None and counts[word] == most), 0)


# Overthinking


def overthinking(
    answers: Sequence[Answer], clusters: Mapping[str, Any], samples: Sequence[Sequence[Answer]] = ()
) -> dict[str, Any]:
    """Do longer responses help? Tokens for a correct answer, accuracy by length, and length at equal difficulty.

    ``tokens_per_right``: all tokens written over the number of correct answers. ``by_length``: accuracy of the shortest,
    middle and longest third *within each family*, so that families of long answers do not fill the longest third.
    ``extra_tokens_when_wrong``: over the samples of one problem, mean length of the incorrect ones minus that of
    the correct ones, in tokens; only problems with both kinds. Above 0, longer responses are more often incorrect.

    ``clusters``: problem id -> image.

    Source: Chen et al., arXiv 2412.21187 (tokens and accuracy); the comparison within a problem is ours.
    """
    rows = [answer for answer in answers if answer.status == "ok"]
    thirds: dict[str, list[Answer]] = {"short": [], "middle": [], "long": []}
    for members in grouped(rows, lambda row: row.family).values():
        members.sort(key=lambda row: (row.tokens, row.problem_id))
        for rank, row in enumerate(members):
            list(thirds.values())[3 * rank // len(members)].append(row)
    differences: dict[str, float] = {}
    for one in zip(*samples, strict=True):
        incorrect = [row.tokens for row in one if row.status == "ok" and not row.correct]
        correct = [row.tokens for row in one if row.status == "ok" and row.correct]
        if incorrect and correct:
            differences[one[0].problem_id] = fmean(incorrect) - fmean(correct)
    return {
        "tokens_per_right": _tokens_per_right(rows, clusters),
        "by_length": {name: estimate_accuracy(some, clusters) for name, some in thirds.items()},
        "extra_tokens_when_wrong": estimate_mean(differences.values(), [clusters[id_] for id_ in differences]),
    }


def _tokens_per_right(rows: Sequence[Answer], clusters: Mapping[str, Any]) -> Estimate:
    correct = sum(row.correct for row in rows)
    if not correct:
        return {**insufficient(), "n": len(rows)}
    value = sum(row.tokens for row in rows) / correct
    # Residuals of the delta method: the interval of their mean is that of the ratio.
    share = correct / len(rows)
    residuals = [value + (row.tokens - value * row.correct) / share for row in rows]
    return {**estimate_mean(residuals, [clusters[row.problem_id] for row in rows]), "value": value}
