"""Which problems GRPO sees how often (weights by domain) and in which order (easy ones first)."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError, UserError
from vlm.problem import DOMAINS, Problem


def check_domain_weights(weights: Mapping[str, float] | None) -> None:
    """Names and ranges of ``domain_weights``; ConfigError otherwise."""
    for name, weight in (weights or {}).items():
        if name not in DOMAINS:
            raise ConfigError(f"'domain_weights': there is no domain '{name}'; known are {', '.join(DOMAINS)}.")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"'domain_weights': the weight of '{name}' must be 0 or more, found {weight}.")
    if weights is not None and not any(weights.values()):
        raise ConfigError("'domain_weights' are all 0, so there is nothing to train on.")


def mix_domains(problems: Sequence[Problem], weights: Mapping[str, float], seed: int) -> list[Problem]:
    """As many problems as there are of the named domains, in the shares of ``weights`` (to a problem), in a seeded order.

    Within a domain every problem comes equally often, up to one.

    Raises:
        UserError: a domain with a weight has no problem.
    """
    named = {name: weight for name, weight in weights.items() if weight > 0}
    members = {name: [problem for problem in problems if problem.domain == name] for name in named}
    for name, own in members.items():
        if not own:
            raise UserError(f"'domain_weights' names '{name}', but no usable problem is of that domain: leave it out.")
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
    """The share of correct answers of each problem: as the prompt selection sampled it, else ``meta["pass_rate"]``.

    Args:
        rows: of the selection, those of the run's own settings (``train.selection.read_pass_rates``).

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
                f"curriculum: easy_first needs a pass rate of every problem, and {problem.id} has none: set prompt_selection, or "
                "give meta.pass_rate in problems.jsonl."
            )
    return rates


def easy_first(problems: Sequence[Problem], rates: Mapping[str, float]) -> list[Problem]:
    """The problems by falling pass rate; equal ones keep their order."""
    return sorted(problems, key=lambda problem: -rates[problem.id])
