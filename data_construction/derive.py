"""All that is derived from the traces of a build: filters, the cold-start set, counts and the export.

It is made again by each call, without a model, so that filters and mix may change between runs.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.jsonl import iter_log, write_text_atomic
from configs.run_dir import RunDir
from data_construction.build_config import BuildConfig, build_dir
from data_construction.check import check_traces
from data_construction.dataset import cold_start_rows
from data_construction.difficulty import is_in_ranges, read_difficulty
from data_construction.export import export_hf
from data_construction.quality import filtered
from data_construction.records import Trace
from reward.judge import judging
from reward.usable import DroppedProblems, usable_problems
from vlm.problem import Problem, read_problems


def usable_by_id(
    every: list[Problem], done: set[str], config: BuildConfig
) -> tuple[dict[str, Problem], DroppedProblems]:
    """By id, the problems that can be asked and graded. Prints what is dropped; raises if nothing is left."""
    kept, dropped = usable_problems(every, images_read=done)
    for sentence in dropped.sentences():
        print(sentence, flush=True)
    if every and not kept:  # a shard may be empty
        reasons = "; ".join(f"{reason} {n} ({dropped.examples[reason][0]})" for reason, n in dropped.counts.items())
        raise UserError(f"No problem of {config.problems} can be used: {reasons}. Fix these rows, then build again.")
    return {problem.id: problem for problem in kept}, dropped


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a log, ordered by problem id; if a problem was tried again, its last trace."""
    latest = {row["problem_id"]: row for row in iter_log(path)}
    return [Trace.model_validate(latest[key]) for key in sorted(latest)]


def played_traces(problems: dict[str, Problem], config: BuildConfig) -> list[Trace]:
    """The traces of these problems."""
    log = Path(config.out) / "traces.jsonl"
    return [trace for trace in read_traces(log) if trace.problem_id in problems] if log.exists() else []


def judged_traces(problems: dict[str, Problem], config: BuildConfig) -> list[Trace]:
    """The traces of these problems; dropped ones have the status ``filtered``."""
    return filtered(played_traces(problems, config), problems, config.quality, config.seed)


def export(config: BuildConfig) -> Path:
    """Write the kept traces as a Hugging Face data set; returns its folder. Raises as ``export_hf`` does."""
    with build_dir(config.out).held(), judging(config.judge):
        problems = problems_for_rows(config.problems)
        return export_hf(judged_traces(problems, config), problems, Path(config.out))


def problems_for_rows(path: str | Path) -> dict[str, Problem]:
    """By id, the problems that rows can be made of. Their images are not read again: playing the episodes did that."""
    every = read_problems(path)
    kept, _ = usable_problems(every, images_read={problem.id for problem in every})
    return {problem.id: problem for problem in kept}


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
    problems: dict[str, Problem], dropped: DroppedProblems, config: BuildConfig, run: RunDir, runs: int
) -> dict[str, Any]:
    """Write all that is derived from the traces, so that filters and mix may change between runs.

    Args:
        runs: how many complete builds the folder has seen, this one included.
    """
    traces = judged_traces(problems, config)
    rows, mix = cold_start_rows(traces, problems, config.mix, config.seed)
    write_text_atomic(run.path / "sft.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    counts = _counted(traces, problems, dropped, config, run.path)
    derived = {"cold_start": mix, "facts": check_traces(traces, problems)}
    return run.finish({"runs": runs, **counts, **derived})


def finish_shard(
    problems: dict[str, Problem], dropped: DroppedProblems, config: BuildConfig, run: RunDir, runs: int, shard: str
) -> dict[str, Any]:
    """Write the counts of a shard. Filters see the whole set, so that ``kept`` counts what they may still drop."""
    traces = played_traces(problems, config)
    return run.finish({"runs": runs, "shard": shard, **_counted(traces, problems, dropped, config, run.path)})


def _counted(
    traces: list[Trace], problems: dict[str, Problem], dropped: DroppedProblems, config: BuildConfig, out: Path
) -> dict[str, Any]:
    status = Counter(trace.status for trace in traces)
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
        "cohesion_by_model": sum(trace.cohesion == "model" for trace in traces if trace.status == "kept"),
        "tokens": sum(trace.usage.get("tokens", 0) for trace in traces),
        "filters": reasons(traces, "filtered", lambda trace: trace.why),
        "error_names": reasons(traces, "error", lambda trace: trace.error),
        "tokens_by_role": by_role,
        "tokens_per_kept_trace": per_kept(by_role, status["kept"]),
    }
    if config.difficulty is not None:
        rates = read_difficulty(out / "difficulty.jsonl")
        played = sum(is_in_ranges(rates.get(problem), config.difficulty) for problem in problems)
        counts["difficulty"] = {"measured": len(rates), "in_range": played}
    return counts


def reasons(traces: list[Trace], status: str, name: Callable[[Trace], str]) -> dict[str, int]:
    """The traces of a status counted by name, the most frequent first."""
    return dict(Counter(name(trace) for trace in traces if trace.status == status).most_common())


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
