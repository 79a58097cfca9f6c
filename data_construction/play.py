"""Run many episodes concurrently: a fixed number of workers, and their progress."""

import asyncio
import contextlib
import ctypes
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_construction.agent import Episode, LoopConfig
from data_construction.failures import FailureWatch
from data_construction.records import Trace
from data_construction.reply_log import DurableLog, ReplyLog
from data_construction.roles import Roles
from vlm.images import SharedImages
from vlm.problem import Problem

M_ARENA_MAX = -8
"""The constant in glibc's malloc.h."""
LINE_SECONDS = 10.0
"""How often a line is printed if there is no terminal for the progress bar."""


@dataclass
class Tally:
    """The episodes since the start of this process."""

    total: int
    status: Counter[str] = field(default_factory=Counter)
    seconds_of_calls: float = 0.0
    began: float = field(default_factory=time.monotonic)
    replies: ReplyLog | None = None

    @property
    def done(self) -> int:
        return self.status.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def words(self) -> str:
        """``kept 3 direct 1 wrong 2 dropped 0 errors 0, 12,345 tokens, 210 tokens/s, 34 episodes/min``."""
        counts = " ".join(f"{word} {self.status[key]}" for word, key in SHOWN)
        tokens = sum(map(sum, self.replies.tokens.values())) if self.replies else 0
        rates = f"{tokens / self.seconds:,.0f} tokens/s, {60 * self.done / self.seconds:,.0f} episodes/min"
        return f"{counts}, {tokens:,} tokens, {rates}"

    def left(self) -> str:
        """The estimated time left, at the mean rate so far."""
        if not self.done:
            return "time left unknown"
        minutes = (self.total - self.done) * self.seconds / self.done / 60
        return f"{minutes:.0f} min left" if minutes < 120 else f"{minutes / 60:.1f} h left"


SHOWN = (
    ("kept", "kept"),
    ("direct", "no_reflection"),
    ("wrong", "wrong"),
    ("dropped", "filtered"),
    ("errors", "error"),
)


async def play(
    todo: Sequence[str],
    problems: Mapping[str, Problem],
    roles: Roles,
    loop: LoopConfig,
    out: Path,
    *,
    seed: int,
    concurrency: int,
    stop_after: int,
    tries: dict[str, int],
    judge: Callable[[Trace, Problem], str],
) -> Tally:
    """Play an episode for every problem; each leaves one row in ``out/traces.jsonl``.

    Args:
        todo: ids of the problems.
        concurrency: episodes at the same time.
        stop_after: see ``FailureWatch``.
        tries: problem id -> how often it ended with unusable replies before.
        judge: the name of the filter that would drop a trace, for the display; "" for none.

    Raises:
        RoleDown: the model of a role gives no replies; every further episode would end as an error.
        OSError: the disk is full.
    """
    _limit_arenas()
    replies = ReplyLog(out / "replies.jsonl", set(todo))
    traces = DurableLog(out / "traces.jsonl")
    for log, name in ((replies.log, "replies.jsonl"), (traces, "traces.jsonl")):
        if log.repaired:
            print(f"{out / name}: removed an incomplete last row ({log.repaired} bytes); its work is done again.")
    tally, queue = Tally(len(todo), replies=replies), map(problems.__getitem__, todo)
    images, watch = SharedImages(), FailureWatch(stop_after)

    async def work() -> None:
        for problem in queue:  # of the problems, too, only those of the episodes in progress are in memory
            trace = await Episode(
                problem, roles, loop, seed, replies, tries.get(problem.id, 0), images, watch, out
            ).run()
            await traces.append(trace.model_dump())
            replies.forget(problem.id)
            tally.status["filtered" if judge(trace, problem) else trace.status] += 1
            tally.seconds_of_calls += trace.usage["seconds"]

    try:
        async with _display(tally), asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(work())
    finally:
        with contextlib.suppress(OSError):  # a full disk: the first error is already being raised
            await replies.aclose()
            await traces.aclose()
        await roles.aclose()
    return tally


def _limit_arenas() -> None:
    """Make glibc share one malloc arena among the threads that start from now on.

    Otherwise each thread that encodes images has its own arena, whose fragmentation grows by about 3 KB per episode.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


@contextlib.asynccontextmanager
async def _display(tally: Tally) -> AsyncIterator[None]:
    """A progress bar on a terminal, else a line every few seconds."""
    console = Console()
    columns = (TextColumn("build"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, TextColumn("{task.fields[words]}"), console=console, transient=True)
    task = bar.add_task("build", total=tally.total, words="")

    async def show() -> None:
        while True:
            await asyncio.sleep(0.5 if console.is_terminal else LINE_SECONDS)
            if console.is_terminal:
                bar.update(task, completed=tally.done, words=tally.words())
            else:
                print(f"build {tally.done}/{tally.total} {tally.words()}, {tally.left()}", flush=True)

    showing = asyncio.create_task(show())
    with bar if console.is_terminal else contextlib.nullcontext():
        try:
            yield
        finally:
            showing.cancel()
