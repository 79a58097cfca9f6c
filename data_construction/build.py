"""Build traces: the agent loop over a problem set, resumable, and the cold-start set made from the traces."""

import functools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.jsonl import iter_log, write_text_atomic
from configs.run_dir import RunDir, changes, read_record
from configs.schema import ModelName, StrictModel
from data_construction.agent import LoopConfig
from data_construction.check import check_traces
from data_construction.dataset import MixConfig, cold_start_rows
from data_construction.difficulty import DifficultyConfig, is_in_ranges, measure, read_difficulty
from data_construction.export import export_hf
from data_construction.failures import run_to_first_failure
from data_construction.play import Tally, play
from data_construction.prompts import load_prompts
from data_construction.quality import QualityConfig, filtered, trace_fault
from data_construction.reading import FAULTS
from data_construction.records import ROLES, Trace
from data_construction.roles import Roles, RolesConfig, open_roles
from reward.judge import JudgeKey, judging, prompt_sha256, read_judge
from reward.usable import DroppedProblems, usable_problems
from vlm.backends import make_backend
from vlm.identity import model_identity
from vlm.problem import Problem, read_problems

BUILD_WRITES = (
    *("replies.jsonl", "traces.jsonl", "difficulty.jsonl", "difficulty_replies.jsonl", "sft.jsonl"),
    *("config.json", "build.json", "stats.json", "stats.png", "hf"),
)


class BuildConfig(StrictModel):
    """The keys of ``build.yaml``.

    Attributes:
        problems: the problem set (folder or JSON Lines file).
        out: the folder of ``replies.jsonl``, ``traces.jsonl``, ``sft.jsonl`` and ``build.json``.
        model: the visual responder: ``tiny``, a model folder or hub name, or ``openai:NAME@URL``.
        reasoner: the text reasoner that requests, concludes and rewrites; named in the same ways.
        roles: see ``RolesConfig``.
        prompts: ``short``, ``full`` or a folder of templates.
        concurrency: episodes at the same time.
        batch_size: requests per batch of an in-process model; dtype: of its weights.
        stop_after: the build ends if the model of a role gives no reply this many times in a row; after five where the server says
            that no later request will succeed (the key, the model's name, the account's quota, no vision).
        difficulty: see ``DifficultyConfig``; None skips the measurement.
        loop: see ``LoopConfig``; quality: see ``QualityConfig``; mix: see ``MixConfig``.
        judge: the model that grades answers of domain ``open``: ``openai:NAME@URL``, or keys of ``reward.judge.JudgeConfig``. By
            default such problems are dropped.
        seed: of all sampling.
    """

    problems: str = ""
    out: str = ""
    model: ModelName = "tiny"
    reasoner: ModelName = "tiny-reasoner"
    roles: RolesConfig = RolesConfig()
    prompts: str = "full"
    concurrency: int = Field(default=256, ge=1)
    batch_size: int = Field(default=64, ge=1)
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    stop_after: int = Field(default=50, ge=1)
    loop: LoopConfig = LoopConfig()
    difficulty: DifficultyConfig | None = None
    quality: QualityConfig = QualityConfig()
    mix: MixConfig = MixConfig()
    judge: JudgeKey = None
    seed: int = 0


def run_build(config: BuildConfig, dry_run: int | None = None, roles: Roles | None = None) -> dict[str, Any]:
    """Play an episode for every problem without a finished one in ``out/traces.jsonl``, then write ``out/sft.jsonl``.

    Problems that cannot be asked or graded are dropped and counted by reason before the first request, since requests may
    cost money. Episodes that ended in an error are tried again, and an interrupted one resumes from its saved replies.

    Args:
        dry_run: play this many randomly chosen episodes and estimate the rest. They are kept like all others.
        roles: replace those that the config names, e.g. by scripted ones.

    Returns:
        The counts in ``out/build.json``, or the projection of a dry run.

    Raises:
        UserError: no such problem set or model, no usable problem, an unusable setting, the folder is in use, or the
            server is down.
        ConfigError: the folder's traces come from other models, prompts or another seed.
        KeyboardInterrupt: with a sentence about the progress.
    """
    if not config.problems or not config.out:
        raise UserError("build needs a problem set and an output folder: set 'problems' and 'out' in its config.")
    every = read_problems(config.problems)
    run = build_dir(config.out)
    out = run.path
    with run.held(), judging(config.judge, config.model, config.reasoner):
        _same_build(config, run)
        done, tries = progress(out / "traces.jsonl")
        problems, dropped = _usable(every, done, config)
        # Problems with unusable replies are tried again by the first run after a complete one, not by a resumed run, so
        # that an interrupted and resumed build ends in the same state as an uninterrupted one.
        runs = finished_runs(run)
        done |= {problem for problem, times in tries.items() if times > runs}
        todo = [problem for problem in problems.values() if problem.id not in done]
        chosen = todo
        if dry_run is not None and dry_run < len(todo):
            chosen = random.Random(f"dry/{config.seed}").sample(todo, dry_run)
        left = len(todo) - len(chosen)
        if config.difficulty is not None:
            limits = config.model_dump(include={"seed", "concurrency", "batch_size", "stop_after"})
            rates = measure(chosen, config.difficulty, out, make_backend, **limits)
            fitting = [problem for problem in chosen if is_in_ranges(rates.get(problem.id), config.difficulty)]
            left = round(left * len(fitting) / max(1, len(chosen)))
            chosen = fitting
        tally = _played(chosen, config, out, tries, roles) if chosen else None
        if dry_run is not None:
            return projection(tally, config, left) | {"dropped": dropped.counts}
        return _finish(problems, dropped, config, run, runs + (tally is not None))


def _usable(every: list[Problem], done: set[str], config: BuildConfig) -> tuple[dict[str, Problem], DroppedProblems]:
    """By id, the problems that can be asked and graded. Prints what is dropped; raises if nothing is left."""
    kept, dropped = usable_problems(every, images_read=done)
    for sentence in dropped.sentences():
        print(sentence, flush=True)
    if not kept:
        reasons = "; ".join(f"{reason} {n} ({dropped.examples[reason][0]})" for reason, n in dropped.counts.items())
        raise UserError(f"No problem of {config.problems} can be used: {reasons}. Fix these rows, then build again.")
    return {problem.id: problem for problem in kept}, dropped


def build_dir(out: str | Path) -> RunDir:
    """The folder of a build."""
    return RunDir(Path(out), "build", BUILD_WRITES, _is_build, result="build.json")


def _is_build(folder: Path) -> bool:
    config = folder / "config.json"
    if config.exists():  # a model's folder has a config.json, too
        return {"reasoner", "prompts"} <= read_record(config).keys()
    return (folder / "replies.jsonl").exists()  # a build of an earlier version


def _same_build(config: BuildConfig, run: RunDir) -> None:
    """Refuse a folder with traces of other models, prompts or seeds, since a finished episode is found by its problem alone.

    Of a server only the model's name counts, since its address may change; of a local model, the content of its files.
    Filters, mix and limits may change, because all that depends on them is made again.
    """
    now = {key: getattr(config, key).split("@http")[0] for key in ("model", "reasoner", "prompts")}
    models = {role: config.roles.of(role).model for role in ROLES}
    now |= {f"roles.{role}.model": model and model.split("@http")[0] for role, model in models.items()}
    now |= {"seed": config.seed, "loop": config.loop.model_dump()}
    if config.difficulty is not None:
        measured = config.difficulty.model_dump(include={"weak", "strong", "samples", "temperature", "max_tokens"})
        measured |= {key: measured[key].split("@http")[0] for key in ("weak", "strong")}
        now |= {f"difficulty.{key}": value for key, value in measured.items()}
        now |= {
            f"difficulty.{key}_sha256": model_identity(getattr(config.difficulty, key)) for key in ("weak", "strong")
        }
    named = {"model": config.model, "reasoner": config.reasoner} | {f"roles.{r}.model": m for r, m in models.items()}
    now |= {f"{key}_sha256": model_identity(model) for key, model in named.items() if model}
    if (asked := read_judge(config.judge)) is not None:
        now |= {"judge": asked.model.split("@http")[0], "judge_prompt": prompt_sha256()}
    # No episode depends on a key that only one of them has (recorded by an earlier version, or difficulty added later).
    before = run.known() or {}
    shared = before.keys() & now.keys()
    changed = changes({key: before[key] for key in shared}, {key: now[key] for key in shared})
    loop = [key for key in changed if key.startswith("loop.")]
    if loop:
        print(
            f"'loop' has changed since the first episodes in {run.path}; finished episodes stay as they are.",
            flush=True,
        )
    run.refuse(sorted(changed.keys() - loop))
    run.write(before | now)


def _played(todo: list[Problem], config: BuildConfig, out: Path, tries: dict[str, int], roles: Roles | None) -> Tally:
    if roles is None:
        prompts = load_prompts(config.prompts)
        roles = open_roles(
            make_backend, config.model, config.reasoner, config.roles, prompts, config.batch_size, config.dtype
        )
    limits = config.model_dump(include={"seed", "concurrency", "stop_after"})
    judge = functools.partial(trace_fault, config=config.quality)
    loop = play(todo, roles, config.loop, out, tries=tries, judge=judge, **limits)
    try:
        return run_to_first_failure(loop)
    except KeyboardInterrupt:
        done, _ = progress(out / "traces.jsonl")
        raise KeyboardInterrupt(
            f"Stopped; {len(done)} episodes are finished, and every reply of the others is kept in {out}. "
            "Give the same command again to resume."
        ) from None


def progress(log: Path) -> tuple[set[str], dict[str, int]]:
    """(ids of the problems with a finished episode, id -> how often it ended with unusable replies)."""
    done: set[str] = set()
    tries: dict[str, int] = defaultdict(int)
    for row in iter_log(log) if log.exists() else ():
        if row["status"] != "error":
            done.add(row["problem_id"])
        elif row.get("error") in FAULTS:
            tries[row["problem_id"]] += 1
    return done, tries


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a log, ordered by problem id; if a problem was tried again, its last trace."""
    latest = {row["problem_id"]: row for row in iter_log(path)}
    return [Trace.model_validate(latest[key]) for key in sorted(latest)]


def judged_traces(problems: dict[str, Problem], config: BuildConfig) -> list[Trace]:
    """The traces of these problems; dropped ones have the status ``filtered``."""
    log = Path(config.out) / "traces.jsonl"
    traces = [trace for trace in read_traces(log) if trace.problem_id in problems] if log.exists() else []
    return filtered(traces, problems, config.quality, config.seed)


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


def finished_runs(run: RunDir) -> int:
    """How many complete builds this folder has seen."""
    counts = run.finished()
    return 0 if counts is None else int(counts.get("runs", 1))


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


def _finish(
    problems: dict[str, Problem], dropped: DroppedProblems, config: BuildConfig, run: RunDir, runs: int
) -> dict[str, Any]:
    """Write all that is derived from the traces, so that filters and mix may change between runs."""
    out = run.path
    traces = judged_traces(problems, config)
    rows, mix = cold_start_rows(traces, problems, config.mix, config.seed)
    write_text_atomic(out / "sft.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    status = Counter(trace.status for trace in traces)
    by_role = tokens_by_role(out / "replies.jsonl")
    counts = {
        "runs": runs,
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
        "cold_start": mix,
        "facts": check_traces(traces, problems),
    }
    if config.difficulty is not None:
        rates = read_difficulty(out / "difficulty.jsonl")
        played = sum(is_in_ranges(rates.get(problem), config.difficulty) for problem in problems)
        counts["difficulty"] = {"measured": len(rates), "in_range": played}
    return run.finish(counts)


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


def projection(tally: Tally | None, config: BuildConfig, left: int) -> dict[str, Any]:
    """Estimate the tokens per role and the seconds of the remaining episodes from those that were played.

    Seconds: an episode's seconds of waiting for replies x episodes left / episodes at once. With fewer episodes than
    ``concurrency`` the dry run loads the server less than the rest will, which may then take longer than projected.
    """
    if tally is None or not tally.done or tally.replies is None:
        return {"episodes": 0, "left": left}
    share = left / tally.done
    at_once = max(1, min(config.concurrency, left))
    return {
        "episodes": tally.done,
        "kept": tally.status["kept"],
        "errors": tally.status["error"],
        "seconds": round(tally.seconds, 1),
        "left": left,
        "projected_tokens": {
            role: {"prompt": round(prompt * share), "completion": round(completion * share)}
            for role, (prompt, completion) in tally.replies.tokens.items()
        },
        "projected_seconds": round(tally.seconds_of_calls / tally.done * left / at_once, 1),
        "projected_kept": round(tally.status["kept"] * share),
        "measured_at": f"{min(config.concurrency, tally.done)} episodes at once, of {config.concurrency} in the config",
    }
