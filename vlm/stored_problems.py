"""A problem set of any size, of which only the ids and the places in the file are in memory."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from configs.errors import UserError
from configs.jsonl import row_at
from vlm.problem import Problem, iter_valid, problem_file, with_paths


class StoredProblems(Mapping[str, Problem]):
    """The problems of a set by id, in the order of the file. Each is read anew whenever it is asked for.

    The ids are interned, so that other indexes over the same problems share their memory (``sys.intern``).

    Raises:
        UserError: as ``read_problems``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = problem_file(path)
        self._places = {sys.intern(problem.id): offset for offset, problem in iter_valid(self.path)}
        # Kept open: a set that is written again meanwhile is another file under the same name.
        self._file = open(self.path, "rb")  # noqa: SIM115  # for as long as this object lives
        self._last: Problem | None = None

    def __getitem__(self, problem_id: str) -> Problem:
        if self._last is None or self._last.id != problem_id:
            offset = self._places[problem_id]
            try:
                problem = Problem.model_validate(row_at(self._file, offset))
            except (ValueError, RecursionError, ValidationError):
                raise self._changed() from None
            if problem.id != problem_id:
                raise self._changed()
            self._last = with_paths(problem, self.path.parent)
        return self._last

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, problem_id: object) -> bool:
        return problem_id in self._places

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Leave out the problems whose id is not wanted."""
        self.leave_out([problem_id for problem_id in self._places if not wanted(problem_id)])

    def leave_out(self, problem_ids: Iterable[str]) -> None:
        """Leave out these problems."""
        for problem_id in problem_ids:
            del self._places[problem_id]

    def _changed(self) -> UserError:
        return UserError(f"{self.path} was changed while it was in use: give the same command again.")
