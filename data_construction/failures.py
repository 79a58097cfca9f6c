"""Models that give no replies: a build ends when one of them is down, instead of turning every episode into an error."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, TypeVar

from configs.errors import UserError
from vlm.protocol import LASTING, BackendError

T = TypeVar("T")

FEW = 5
"""So many failures of a kind that does not pass by itself end a build."""
OF_A_REQUEST = {"status_400", "status_413", "status_415", "status_422", "status_501"}
"""Kinds that one request may have by itself (too long, an image). A model that never answered refuses all of them (no vision)."""


class RoleDown(UserError):
    """A role's model gives no replies, so that the build cannot go on."""


class FailureWatch:
    """Counts the failures in a row of each role's model.

    Args:
        stop_after: so many failures in a row, of any kind, end the build. Fewer do where no later request can succeed.
    """

    def __init__(self, stop_after: int) -> None:
        self._stop_after = stop_after
        self._failed: dict[str, int] = defaultdict(int)
        self._kinds: dict[str, tuple[str, int]] = {}
        self._answered: set[str] = set()

    def answered(self, role: str) -> None:
        """A reply came."""
        self._answered.add(role)
        self._failed[role] = 0
        self._kinds.pop(role, None)

    def failed(self, role: str, error: BackendError) -> None:
        """No reply came.

        Raises:
            RoleDown: the limit is reached.
        """
        self._failed[role] += 1
        kind, times = self._kinds.get(role, (error.name, 0))
        times = times + 1 if kind == error.name else 1
        self._kinds[role] = (error.name, times)
        lasting = error.name in LASTING or (error.name in OF_A_REQUEST and role not in self._answered)
        if self._failed[role] >= self._stop_after or (lasting and times >= FEW):
            last = str(error).rstrip(".")
            raise RoleDown(
                f"The {role} gave no reply {self._failed[role]} times in a row. The last error: {last}. Finished episodes and "
                "all replies are kept: fix the cause, then give the same command again."
            )


def run_to_first_failure(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``; of a task group's failures the first is raised by itself, since it is the cause."""
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:
        failure: Exception = group
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
    # Not inside the handler: the group would become the context of one of its own members, a cycle.
    raise failure
