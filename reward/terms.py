"""How rewards are put together: each term's weight, what it is paid for, and how large it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from reward.rewards import GATED

SMALLEST, LARGEST = 1e-12, 1e6
"""Of a weight that is not 0 and of a std, in absolute value: times scores of ``reward.user.MAX_SCORE`` they stay within float32,
whose squares must not overflow in the standard deviation of a group, nor vanish."""

Gate = Literal["right", "format", "none"]
GATES: tuple[str, ...] = get_args(Gate)


@dataclass(frozen=True)
class Term:
    """One line under ``rewards`` in the YAML.

    Attributes:
        weight: the factor in the sum.
        gate: rows that are paid: those with a ``right`` answer, those whose ``format`` is whole, or all (``none``). Its own
            where not given: ``right`` for the terms that measure looking and for ``length``, else none.
        std: the standard deviation among right rows (within groups) that the term is scaled to, before its weight; as it is
            where not given.
    """

    weight: float = 0.0
    gate: Gate | None = None
    std: float | None = None


def terms_of(rewards: Mapping[str, "float | Term | Mapping[str, object]"]) -> dict[str, Term]:
    """The terms of a mapping in which a bare number is a weight."""
    terms = {}
    for name, said in rewards.items():
        if isinstance(said, Mapping):
            terms[name] = Term(**said)  # type: ignore[arg-type]
        else:
            terms[name] = said if isinstance(said, Term) else Term(float(said))
    return terms


def in_range(value: float) -> bool:
    """Whether a weight or a std can be computed with."""
    return SMALLEST <= abs(value) <= LARGEST


def source_of(name: str) -> str:
    """The reward behind a name: X of ``shuffled(X)``."""
    return name.removeprefix("shuffled(").removesuffix(")") if name.startswith("shuffled(") else name


def gate_of(name: str, term: Term) -> str | None:
    """The gate that holds for a term; None for a reward that is taken as it is."""
    own = "right" if source_of(name) in (*GATED, "length") else None
    return term.gate or own
