"""The scores of HallusionBench, whose questions are asked about several figures each."""

from collections.abc import Callable, Iterable, Sequence

from eval.figures import grouped, image_clusters
from eval.runner import Answer
from eval.stats import Estimate, estimate_share
from vlm.problem import Problem


def hallusion_scores(problems: Sequence[Problem], answers: Sequence[Answer]) -> dict[str, Estimate]:
    """HallusionBench's three accuracies, in [0, 1]: of all questions (``aAcc``), of figures whose questions are all
    answered correctly (``fAcc``; not category VS with figure 0, which has no image), and of questions that are answered correctly
    for all of their figures (``qAcc``). A group with an error in it is left out. Source: arXiv 2310.14566, section 3.
    """
    images = image_clusters(problems)
    rows = [(p, a.correct if a.status == "ok" else None) for p, a in zip(problems, answers, strict=True)]
    seen = [(p, correct) for p, correct in rows if (p.meta["category"], p.meta["figure_id"]) != ("VS", "0")]

    def share(rows: Iterable[tuple[Problem, bool | None]], part: str, cluster: Callable[[Problem], str]) -> Estimate:
        """The share of groups (questions of a set that agree in ``part``) whose answers are all correct."""
        groups = grouped(rows, lambda row: f"{hallusion_set(row[0])}/{row[0].meta[part] if part else row[0].id}")
        whole = [group for group in groups.values() if all(correct is not None for _, correct in group)]
        scores = [float(all(correct for _, correct in group)) for group in whole]
        return estimate_share(scores, [cluster(group[0][0]) for group in whole])

    return {
        "aAcc": share(rows, "", lambda problem: images[problem.id]),
        "fAcc": share(seen, "figure_id", lambda problem: images[problem.id]),
        # A question is asked about several figures of its set, and so are the other questions of the set.
        "qAcc": share(rows, "question_id", hallusion_set),
    }


def hallusion_set(problem: Problem) -> str:
    """The set of figures and questions that a problem of HallusionBench is from."""
    return "/".join(problem.meta[key] for key in ("category", "subcategory", "set_id"))
