"""All that is derived from the traces of a build: filters, the cold-start set, counts and the export.

It is made again by each call, without a model, so that filters and mix may change between runs.
"""

import itertools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.jsonl import iter_log, write_rows_atomic
from configs.run_dir import RunDir
from data_construction.build_config import BuildConfig, build_dir
from data_construction.check import check_traces
from data_construction.dataset import cold_start_rows
from data_construction.difficulty import is_in_ranges, read_difficulty
from data_construction.export import export_hf
from data_construction.quality import filter_traces
from data_construction.records import Trace
from data_construction.replay import ROWS, replay_rows
from data_construction.trace_log import StoredTraces
from reward.judge import judging
from reward.usable import DroppedProblems, iter_usable
from vlm.problem import Problem
from vlm.stored_problems import StoredProblems


def leave_out_unusable(
    problems: StoredProblems, dropped: DroppedProblems, chosen: Callable[[str], bool], images_read: bool = False
) -> None:
    """Leave out the problems among the ``chosen`` ones that cannot be asked or graded. Prints what is dropped.

    Args:
        dropped: what was dropped is added here.
        images_read: their images need not be read again, since playing the episodes did that.
    """
    found = DroppedProblems()
    ids = [problem_id for problem_id in problems if chosen(problem_id)]
    deque(iter_usable(map(problems.__getitem__, ids), found, problems if images_read else ()), maxlen=0)
    for sentence in found.sentences():
        print(sentence, flush=True)
    problems.leave_out(found.ids)
    dropped.merge(found)


def check_any_usable(problems: StoredProblems, dropped: DroppedProblems) -> None:
    """Raises UserError: no problem is left, with the reasons."""
    if dropped.counts and not problems:
        reasons = "; ".join(f"{reason} {n} ({dropped.examples[reason][0]})" for reason, n in dropped.counts.items())
        raise UserError(f"No problem of {problems.path} can be used: {reasons}. Fix these rows, then build again.")


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a log, ordered by problem id; if a problem was tried again, its last trace."""
    return list(StoredTraces(Path(path)))


def judged_traces(problems: Mapping[str, Problem], config: BuildConfig) -> StoredTraces:
    """The traces of these problems; dropped ones have the status ``filtered``."""
    traces = StoredTraces(Path(config.out) / "traces.jsonl", problems)
    traces.filters = filter_traces(traces, problems, config.quality, config.seed)
    return traces


def export(config: BuildConfig) -> Path:
    """Write the kept traces as a Hugging Face data set; returns its folder. Raises as ``export_hf`` does."""
    with build_dir(config.out).held(), judging(config.judge):
        problems = problems_for_rows(config.problems)
        return export_hf(judged_traces(problems, config), problems, Path(config.out))


def problems_for_rows(path: str | Path) -> StoredProblems:
    """The problems that rows can be made of. Their images are not read again: playing the episodes did that."""
    problems, found = StoredProblems(path), DroppedProblems()
    deque(iter_usable(problems.values(), found, images_read=problems), maxlen=0)
    problems.leave_out(found.ids)
    return problems


def check_kept(counts: dict[str, Any]) -> None:
    """Raises UserError: a build whose episodes were played kept none of them, so that nothing can be trained on it."""
    if counts["kept"]:
        return
    why = counts["error_names"] or counts["filters"]
    most = f"; most often: {next(iter(why))}" if why else ""
    shown = ", ".join(
        f"{name} {counts[name]}" for name in ("wrong", "no_reflection", "filtered", "errors") if counts[name]
    )
    raise UserError(
        f"No episode was kept ({shown or 'no episode was played'}{most}). docs/build.md says what each status means."
    )


def finish_build(
    problems: StoredProblems, dropped: DroppedProblems, config: BuildConfig, run: RunDir, runs: int
) -> dict[str, Any]:
    """Write all that is derived from the traces, so that filters and mix may change between runs.

    Args:
        runs: how many complete builds the folder has seen, this one included.
    """
    traces = judged_traces(problems, config)
    rows, mix = cold_start_rows(traces, problems, config.mix, config.seed, run.path.resolve())
    if config.replay_problems and (run.path / ROWS).exists():
        rows, mix["replay_rows"] = with_replay(rows, mix["rows"], config, run.path / ROWS)
        mix["rows"] += mix["replay_rows"]
    write_rows_atomic(run.path / "sft.jsonl", rows)
    dropped_by = ({"id": trace_id, "filter": name} for trace_id, name in traces.filters.items())
    write_rows_atomic(run.path / "filtered.jsonl", dropped_by)
    counts = _counted(traces, problems, dropped, config, run.path)
    derived = {"cold_start": mix, "facts": check_traces(traces, problems)}
    return run.finish({"runs": runs, **counts, **derived})


def with_replay(
    rows: Iterator[dict[str, Any]], n: int, config: BuildConfig, path: Path
) -> tuple[Iterator[dict[str, Any]], int]:
    """The ``n`` rows of the traces with those of replay spread evenly among them, and how many were added."""
    added = list(replay_rows(StoredProblems(config.replay_problems), config.replay, path, n))
    after = Counter(random.Random(f"replay/{config.seed}").choices(range(n + 1), k=len(added)))
    rest = iter(added)

    def mixed() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(rest, after[0])
        for number, row in enumerate(rows, 1):
            yield row
            yield from itertools.islice(rest, after[number])

    return mixed(), len(added)


def finish_shard(
    problems: StoredProblems, dropped: DroppedProblems, config: BuildConfig, run: RunDir, runs: int, shard: str
) -> dict[str, Any]:
    """Write the counts of a shard. Filters see the whole set, so that ``kept`` counts what they may still drop."""
    traces = StoredTraces(run.path / "traces.jsonl", problems)
    return run.finish({"runs": runs, "shard": shard, **_counted(traces, problems, dropped, config, run.path)})


def _counted(
    traces: StoredTraces, problems: StoredProblems, dropped: DroppedProblems, config: BuildConfig, out: Path
) -> dict[str, Any]:
    status, filters, errors = Counter[str](), Counter[str](), Counter[str]()
    by_model = tokens = 0
    for trace in traces:
        status[trace.status] += 1
        tokens += trace.usage.get("tokens", 0)
        by_model += trace.status == "kept" and trace.cohesion == "model"
        if trace.status == "filtered":
            filters[trace.why] += 1
        elif trace.status == "error":
            errors[trace.error] += 1
    by_role = tokens_by_role(out / "replies.jsonl")
    counts = {
        "problems": len(problems),
        "dropped": dropped.counts,
        "dropped_examples": dropped.examples,
        "kept": status["kept"],
        "wrong": status["wrong"],
        "no_reflection": status["no_reflection"],
        "filtered": status["filtered"],
        "errors": status["error"],
        "cohesion_by_model": by_model,
        "tokens": tokens,
        "filters": dict(filters.most_common()),
        "error_names": dict(errors.most_common()),
        "tokens_by_role": by_role,
        "tokens_per_kept_trace": per_kept(by_role, status["kept"]),
    }
    if config.difficulty is not None:
        rates = read_difficulty(out / "difficulty.jsonl")
        played = sum(is_in_ranges(rates.get(problem), config.difficulty) for problem in problems)
        counts["difficulty"] = {"measured": len(rates), "in_range": played}
    return counts


def tokens_by_role(log: Path) -> dict[str, dict[str, int]]:
    """Role -> ``calls``, ``prompt`` and ``completion`` tokens of all replies, used or not."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: {"calls": 0, "prompt": 0, "completion": 0})
    for row in iter_log(log) if log.exists() else ():
        total = totals[row["role"]]
        total["calls"] += 1
        total["prompt"] += row["reply"]["prompt_tokens"]
        total["completion"] += row["reply"]["completion_tokens"]
    return dict(totals)


def per_kept(by_role: dict[str, dict[str, int]], kept: int) -> dict[str, int] | None:
    """Prompt and completion tokens of all episodes per kept trace, or None if no trace was kept."""
    kinds = ("prompt", "completion")
    return {kind: round(sum(role[kind] for role in by_role.values()) / kept) for kind in kinds} if kept else None
