"""What an evaluation and an audit do alike with one model: ask under a condition, swap, sample, and sum up the main answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from eval.conditions import sample_answers, sampled_scores
from eval.figures import accuracy_by, estimate_accuracy, file_name
from eval.grounding import swap_by_turn, swap_test
from eval.runner import Answer, answer_problems
from eval.stats import Estimate
from eval.subjects import Subject
from vlm.problem import Problem


@dataclass(frozen=True)
class ModelSession:
    """One model under one prompt style, and the folder that keeps its answers.

    Attributes:
        clusters: problem id -> image; problems about one image are one observation.
        prefix: start of the names of its logs, where several models share the folder.
    """

    subject: Subject
    folder: Path
    style: str
    clusters: Mapping[str, str]
    max_new_tokens: int
    batch_size: int
    seed: int
    prefix: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``answer_problems`` that every measure shares."""
        return {"style": self.style, "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}

    def log(self, tag: str) -> Path:
        return self.folder / f"{self.prefix}{file_name(tag)}.jsonl"

    def ask(self, problems: Sequence[Problem], tag: str, **options: Any) -> list[Answer]:
        """Answer the problems under the condition ``tag``; ``options`` are of ``answer_problems``."""
        return answer_problems(self.subject, problems, log_path=self.log(tag), tag=tag, **{**self.settings, **options})

    def swap(self, problems: Sequence[Problem], scratch: Mapping[str, Answer]) -> tuple[str, dict[str, Any]]:
        """(name, result) of the swap test that the subject allows: a served model cannot continue from a prefix."""
        name, test = ("swap", swap_test) if self.subject.continues else ("swap_by_turn", swap_by_turn)
        return name, test(self.subject, problems, scratch, self.log(name), **self.settings)

    def sample(
        self, problems: Sequence[Problem], k: int, temperature: float
    ) -> tuple[list[list[Answer]], dict[str, Any]]:
        """``k`` sampled answers per problem, and their scores."""
        samples = sample_answers(self.subject, problems, self.log("samples"), k, temperature, **self.settings)
        return samples, {"temperature": temperature, **sampled_scores(problems, samples)}

    def accuracy(self, answers: Sequence[Answer]) -> Estimate:
        return estimate_accuracy(answers, self.clusters)

    def accuracies(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Accuracy of the main answers: of all, by domain and by family."""
        return {
            "accuracy": self.accuracy(answers),
            "accuracy_by_domain": accuracy_by(answers, lambda row: row.domain, self.clusters),
            "accuracy_by_family": accuracy_by(answers, lambda row: row.family, self.clusters),
        }


def count_errors(answers: Sequence[Answer], model: str) -> dict[str, Any]:
    """How many answers failed, with the most frequent reasons.

    Raises:
        UserError: all of them failed, so that there is nothing to measure.
    """
    errors = Counter(answer.why for answer in answers if answer.status == "error")
    if errors.total() == len(answers):
        raise UserError(f"{model}: none of the {len(answers)} problems could be answered: {answers[0].why}")
    return {"n": errors.total(), "why": dict(errors.most_common(20))}
