"""The log of the traces: which problems have an episode already, and the traces themselves, read when they are asked for.

A log of 100,000 episodes is half a gigabyte. Of most rows only the first few values are read, and no more than one trace is in
memory at a time.
"""

import re
import sys
from array import array
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from configs.jsonl import iter_log_lines, parse_log_line, text_of_json
from data_construction.reading import FAULTS
from data_construction.records import Trace

_TEXT = rb'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rb'\{"schema_version": \d+, "id": %b, "problem_id": (%b), "status": "(\w+)", "error": "(\w*)", ' % (_TEXT, _TEXT)
)
"""The beginning of a row as ``Trace`` is written. A row of an earlier version begins in another way and is read whole."""


class Place(NamedTuple):
    """Where a row stands, and how its episode ended."""

    offset: int
    problem_id: str
    status: str
    error: str


def iter_places(log: Path) -> Iterator[Place]:
    """The place of each row of a log of traces; none if there is no log."""
    for offset, line in iter_log_lines(log) if log.exists() else ():
        if head := _HEAD.match(line):
            yield Place(offset, sys.intern(text_of_json(head[1])), head[2].decode(), head[3].decode())
        else:
            row = parse_log_line(log, offset, line)
            yield Place(offset, sys.intern(row["problem_id"]), row["status"], row.get("error", ""))


@dataclass
class Progress:
    """What a log of traces tells about each problem.

    Attributes:
        done: the problems with a finished episode.
        failed: those with an error, whether or not there is a finished episode as well.
        tries: problem -> how often its episode ended with unusable replies.
    """

    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def read_progress(log: Path) -> Progress:
    """The progress in a log; that of a missing log is empty."""
    progress = Progress()
    for place in iter_places(log):
        (progress.failed if place.status == "error" else progress.done).add(place.problem_id)
        if place.error in FAULTS:
            progress.tries[place.problem_id] += 1
    return progress


class StoredTraces(Sequence[Trace]):
    """The traces of a log, ordered by problem id; if a problem was tried again, its last trace.

    Args:
        problems: only the traces of these problems; None for all.

    Attributes:
        filters: id of a trace -> the filter that drops it. Its status is then ``filtered``.
    """

    def __init__(self, log: Path, problems: Container[str] | None = None) -> None:
        latest = {
            place.problem_id: place.offset
            for place in iter_places(log)
            if problems is None or place.problem_id in problems
        }
        self._places = array("q", (latest[problem_id] for problem_id in sorted(latest)))
        self._log, self._file = log, open(log, "rb") if latest else None  # noqa: SIM115  # open while this object lives
        self.filters: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        trace = Trace.model_validate(self.row(number))
        if name := self.filters.get(trace.id):
            trace = trace.model_copy(update={"status": "filtered", "why": name})
        return trace

    def __iter__(self) -> Iterator[Trace]:
        return (self[number] for number in range(len(self)))

    def row(self, number: int) -> dict[str, Any]:
        """The row of a trace as it stands in the log."""
        assert self._file is not None
        self._file.seek(self._places[number])
        return parse_log_line(self._log, self._places[number], self._file.readline())
