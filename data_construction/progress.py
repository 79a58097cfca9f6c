"""Which problems have an episode already, read from the log of the traces."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from configs.jsonl import iter_log
from data_construction.reading import FAULTS


@dataclass
class Progress:
    """What a log of traces tells about each problem.

    Attributes:
        done: the problems with a finished episode.
        played: those with any row, errors included.
        tries: problem -> how often its episode ended with unusable replies.
    """

    done: set[str] = field(default_factory=set)
    played: set[str] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def read_progress(log: Path) -> Progress:
    """The progress in a log; that of a missing log is empty."""
    progress = Progress()
    for row in iter_log(log) if log.exists() else ():
        progress.played.add(row["problem_id"])
        if row["status"] != "error":
            progress.done.add(row["problem_id"])
        elif row.get("error") in FAULTS:
            progress.tries[row["problem_id"]] += 1
    return progress
