"""A build on several machines: each plays one shard of the problems in a folder of its own, and a merge joins these folders.

    reflection-v build CONFIG --out DIR --shard 3/8    # plays into DIR/shard-3-of-8
    reflection-v build CONFIG --out DIR --merge        # joins all eight into DIR

An episode depends on its problem and the seed alone, so that it is the same in any shard. Whatever looks at more than one episode
(near duplicates, balance, the mix) is decided by the merge, which derives it as an unsharded build does. A merge changes no shard:
if it is interrupted, it starts anew.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from configs.errors import ConfigError, UserError
from configs.jsonl import join_logs
from configs.run_dir import RunDir
from data_construction.build_config import BuildConfig, build_dir, changed_keys, finished_runs, record_of, same_build
from data_construction.derive import check_any_usable, finish_build, leave_out_unusable
from data_construction.difficulty import is_in_ranges, read_difficulty
from data_construction.replay import REPLIES, ROWS
from data_construction.reply_log import position_seed
from data_construction.trace_log import read_progress
from data_construction.zooming import join_crops
from reward.judge import judging
from reward.usable import DroppedProblems
from vlm.stored_problems import StoredProblems

LOGS = ("replies.jsonl", "traces.jsonl", "difficulty.jsonl", "difficulty_replies.jsonl", ROWS, REPLIES)
MERGING, MERGED = "merging", "merged"
"""Keys of the record of the folder that shards are joined in: their number, while the merge is under way and once it is complete."""
_NAME = re.compile(r"shard-([1-9]\d*)-of-([1-9]\d*)")
_GIVEN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
SHOWN = 10


@dataclass(frozen=True, order=True)
class Shard:
    """Shard ``number``, from 1, of ``of``."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``3/8``.

        Raises:
            ConfigError: not a number from 1 to the number of shards.
        """
        found = _GIVEN.fullmatch(text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--shard '{text}' is no shard: give its number and how many there are, 1/8 to 8/8 of eight."
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, problem_id: str) -> bool:
        """Whether a problem belongs to this shard. It depends on its id alone, so that a set may grow between two runs."""
        return position_seed("shard", problem_id) % self.of == self.number - 1

    def folder(self, out: str | Path) -> Path:
        """Where this shard of the build in ``out`` is played."""
        return Path(out) / f"shard-{self.number}-of-{self.of}"


def refuse_other_use(out: Path, shard: Shard | None) -> None:
    """Refuse a shard in the folder of a whole build, and a whole build in a folder of shards: episodes would be paid for twice.

    Raises:
        UserError: with what to do instead.
    """
    record, others = build_dir(out).known() or {}, _folders(out)
    if shard is None:
        if MERGING in record or (others and MERGED not in record):
            raise UserError(
                f"{out} holds the shards of a build ({', '.join(path.name for path in list(others.values())[:3])}): join them "
                "with --merge, or choose another --out."
            )
        return
    if MERGING not in record and (record or (out / "replies.jsonl").exists()):
        what = "the merged shards of a build" if MERGED in record else "a build without shards"
        raise UserError(f"{out} holds {what}: go on without --shard, or choose another --out.")
    _refuse_other_numbers(out, {shard, *others})


def _folders(out: Path) -> dict[Shard, Path]:
    """The folders of shards in ``out``, in order."""
    named = ((_NAME.fullmatch(path.name), path) for path in out.glob("shard-*-of-*") if path.is_dir())
    return dict(sorted((Shard(int(name[1]), int(name[2])), path) for name, path in named if name))


def _refuse_other_numbers(out: Path, shards: set[Shard]) -> None:
    numbers = sorted({shard.of for shard in shards})
    if len(numbers) > 1:
        raise UserError(
            f"{out} would hold shards of {' and of '.join(map(str, numbers))}: use one number of shards in a folder, and another "
            "--out for another number."
        )


def run_merge(config: BuildConfig) -> dict[str, Any]:
    """Join the shards in ``config.out`` into the folder that an unsharded build would have left; returns its counts.

    The rows of the logs stand in the order of the shards. The record of the folder names their number (``MERGED``). If they are
    joined already, only what is derived is made again.

    Raises:
        UserError: a shard is missing, not finished, in use or not the one that its folder's name says; or the folder holds a whole
            build already.
        ConfigError: a shard was built by another config.
    """
    if not config.problems or not config.out:
        raise UserError("build needs a problem set and an output folder: set 'problems' and 'out' in its config.")
    run = build_dir(config.out)
    _check_complete(run.path)  # before the folder is created
    problems, dropped = StoredProblems(config.problems), DroppedProblems()
    with run.held(), judging(config.judge, config.model, config.reasoner):
        before = run.known() or {}
        if (
            MERGED in before
        ):  # only what is derived is made again, as by any later call: episodes may have been added since
            same_build(config, run)
            _leave_out(problems, dropped, read_progress(run.path / "traces.jsonl").done)
            return finish_build(problems, dropped, config, run, finished_runs(run))
        if MERGING not in before and (before or (run.path / "replies.jsonl").exists()):
            raise UserError(f"{run.path} holds a build without shards beside the shards: move one of them away first.")
        now = record_of(config)
        with _held(run.path) as shards:
            runs = max(_check_shard(shard, one, now) for shard, one in shards.items())
            run.write(now | {MERGING: len(shards)})
            for name in LOGS:
                if parts := [one.path / name for one in shards.values() if (one.path / name).exists()]:
                    join_logs(parts, run.path / name)
            join_crops((one.path for one in shards.values()), run.path)
            progress = read_progress(run.path / "traces.jsonl")
            _leave_out(problems, dropped, progress.done)
            missing = {one for one in problems if one not in progress.done and one not in progress.failed}
            _refuse_unplayed(missing, config, run.path)
            counts = finish_build(problems, dropped, config, run, runs)
            run.write(now | {MERGED: len(shards)})
    return counts


def _leave_out(problems: StoredProblems, dropped: DroppedProblems, done: set[str]) -> None:
    """Leave out the unusable problems, in the order of a build. Raises UserError: none is left."""
    leave_out_unusable(problems, dropped, lambda problem_id: problem_id not in done)
    leave_out_unusable(problems, dropped, done.__contains__, images_read=True)
    check_any_usable(problems, dropped)


def _check_complete(out: Path) -> None:
    """Raises UserError: there is no shard, one is missing, or they are of different numbers."""
    shards = _folders(out)
    if not shards:
        raise UserError(f"{out} holds no shards: give the --out folder of builds with --shard 1/N, 2/N and so on.")
    _refuse_other_numbers(out, set(shards))
    of = next(iter(shards)).of
    if missing := [str(number) for number in range(1, of + 1) if Shard(number, of) not in shards]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UserError(
            f"{out} lacks shard {', '.join(missing[:SHOWN])}{more} of {of}: build each with --shard NUMBER/{of}, or copy its "
            "folder here, then merge."
        )


@contextlib.contextmanager
def _held(out: Path) -> Iterator[dict[Shard, RunDir]]:
    """The folders of all shards, which no build may use until the block ends."""
    with contextlib.ExitStack() as stack:
        shards = {shard: build_dir(path) for shard, path in _folders(out).items()}
        for run in shards.values():
            stack.enter_context(run.held())
        yield shards


def _check_shard(shard: Shard, run: RunDir, now: dict[str, Any]) -> int:
    """How many complete builds a shard has seen. Raises as ``run_merge``."""
    record = run.known() or {}
    if record and record.get("shard") != str(shard):
        inside = f"shard {record['shard']}" if "shard" in record else "a build without shards"
        raise UserError(f"{run.path} holds {inside}: give each shard once, in the folder with its own name.")
    counts = run.finished()
    if not record or counts is None:
        raise UserError(
            f"Shard {shard} in {run.path} is not finished: give its command again (--shard {shard}), then merge."
        )
    if changed := changed_keys(record, now):
        raise ConfigError(
            f"Shard {shard} in {run.path} was built with other settings ({', '.join(changed)}): give the merge and all shards one "
            "config."
        )
    return int(counts["runs"])


def _refuse_unplayed(missing: set[str], config: BuildConfig, out: Path) -> None:
    """Raises UserError: problems have no episode, e.g. because the set or the ranges of ``difficulty`` have grown since."""
    if config.difficulty is not None:
        rates = read_difficulty(out / "difficulty.jsonl")
        missing = {problem for problem in missing if is_in_ranges(rates.get(problem), config.difficulty)}
    if missing:
        raise UserError(
            f"{len(missing)} of the problems have no episode in any shard (the first is {min(missing)}): give the commands of all "
            "shards again, then merge."
        )
