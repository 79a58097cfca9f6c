"""How often GRPO sees a problem (weights by domain), and in which order (easy ones first)."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError, UserError
from vlm.problem import DOMAINS, Problem


def check_domain_weights(weights: Mapping[str, float] | None) -> None:
    """Check names and ranges of ``domain_weights``; ConfigError otherwise."""
    for name, weight in (weights or {}).items():
        if name not in DOMAINS:
            raise ConfigError(f"'domain_weights': there is no domain '{name}'; known are {', '.join(DOMAINS)}.")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"'domain_weights': the weight of '{name}' must be a number of at least 0, found {weight}: set its share of the "
                "prompts, or remove the domain."
            )
    if weights is not None and not any(weights.values()):
        raise ConfigError(
            "'domain_weights' are all 0, so there is nothing to train on: set one above 0, or remove 'domain_weights'."
        )


def mix_domains(problems: Sequence[Problem], weights: Mapping[str, float], seed: int) -> list[Problem]:
    """Resample the problems of the named domains to the shares of ``weights``, in a seeded order; their number stays.

    Within a domain the numbers of repetitions of two problems differ by at most one.

    Raises:
        UserError: a domain with a weight has no problem.
    """
    named = {name: weight for name, weight in weights.items() if weight > 0}
    members = {name: [problem for problem in problems if problem.domain == name] for name in named}
    for name, own in members.items():
        if not own:
            raise UserError(f"'domain_weights' names '{name}', but no usable problem has that domain: remove it.")
    size, total, rng = sum(map(len, members.values())), sum(named.values()), random.Random(seed)
    wanted = {name: max(1, round(size * weight / total)) for name, weight in named.items()}
    mixed = []
    for name, own in members.items():
        order: list[Problem] = []
        while len(order) < wanted[name]:
            order += rng.sample(own, len(own))
        mixed += order[: wanted[name]]
    rng.shuffle(mixed)
    return mixed


def pass_rates(problems: Sequence[Problem], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of correct answers of each problem, from the prompt selection, else from ``meta["pass_rate"]``.

    Args:
        rows: the selection's rows for the run's settings (``train.selection.read_pass_rates``).

    Raises:
        UserError: a problem has neither.
    """
    rates = {row["id"]: row["right"] / max(1, len(row["samples"])) for row in rows}
    for problem in problems:
        given = problem.meta.get("pass_rate")
        if problem.id not in rates and isinstance(given, int | float):
            rates[problem.id] = float(given)
        if problem.id not in rates:
            raise UserError(
                f"'curriculum: easy_first' needs a pass rate of every problem, but {problem.id} has none: set prompt_selection, "
                "which measures it, or give meta.pass_rate in problems.jsonl."
            )
    return rates


def easy_first(problems: Sequence[Problem], rates: Mapping[str, float]) -> list[Problem]:
    """The problems in order of decreasing pass rate; equal ones keep their order."""
    return sorted(problems, key=lambda problem: -rates[problem.id])
