"""Build traces: the agent loop over a problem set, resumable, and the cold-start set made from the traces."""

import functools
import random
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data_construction.build_config import BuildConfig, build_dir, finished_runs, same_build
from data_construction.derive import check_any_usable, finish_build, finish_shard, leave_out_unusable
from data_construction.difficulty import is_in_ranges, measure
from data_construction.failures import run_to_first_failure
from data_construction.play import Tally, play
from data_construction.prompts import load_prompts
from data_construction.quality import trace_fault
from data_construction.replay import ROWS, gather
from data_construction.roles import Roles, open_roles
from data_construction.shards import Shard, refuse_other_use
from data_construction.trace_log import read_progress
from reward.judge import judging
from reward.usable import DroppedProblems
from vlm.backends import make_backend
from vlm.stored_problems import StoredProblems


def run_build(
    config: BuildConfig, dry_run: int | None = None, roles: Roles | None = None, shard: Shard | None = None
) -> dict[str, Any]:
    """Play an episode for every problem without a finished one in ``out/traces.jsonl``, then write ``out/sft.jsonl``.

    Problems that cannot be asked or graded are dropped and counted by reason before the first request, since requests may
    cost money. Episodes that ended in an error are tried again, and an interrupted one resumes from its saved replies.

    Args:
        dry_run: play this many randomly chosen episodes and estimate the rest. They are kept like all others.
        roles: replace those that the config names, e.g. by scripted ones.
        shard: play only the problems of this shard, in its folder below ``out``, and derive nothing from the traces
            (``data_construction.shards``).

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
    problems = StoredProblems(config.problems)
    refuse_other_use(Path(config.out), shard)
    if shard is not None:
        problems.keep(shard.holds)
        config = config.model_copy(update={"out": str(shard.folder(config.out))})
    run = build_dir(config.out)
    out = run.path
    with run.held(), judging(config.judge, config.model, config.reasoner):
        same_build(config, run, {} if shard is None else {"shard": str(shard)})
        progress = read_progress(out / "traces.jsonl")
        done, tries = progress.done, progress.tries
        dropped = DroppedProblems()
        leave_out_unusable(problems, dropped, lambda problem_id: problem_id not in done)
        check_any_usable(problems, dropped)
        # Problems with unusable replies are tried again by the first run after a complete one, not by a resumed run, so
        # that an interrupted and resumed build ends in the same state as an uninterrupted one.
        runs = finished_runs(run)
        given_up = {problem for problem, times in tries.items() if times > runs}
        todo = [problem for problem in problems if problem not in done and problem not in given_up]
        chosen = todo
        if dry_run is not None and dry_run < len(todo):
            chosen = random.Random(f"dry/{config.seed}").sample(todo, dry_run)
        left = len(todo) - len(chosen)
        if config.difficulty is not None:
            limits = config.model_dump(include={"seed", "concurrency", "batch_size", "stop_after"})
            rates = measure(chosen, problems, config.difficulty, out, make_backend, **limits)
            fitting = [problem for problem in chosen if is_in_ranges(rates.get(problem), config.difficulty)]
            left = round(left * len(fitting) / max(1, len(chosen)))
            chosen = fitting
        replay = None
        if config.replay_problems and dry_run is None and not (out / ROWS).exists():
            replay = StoredProblems(config.replay_problems)
            replay.keep(lambda problem_id: shard is None or shard.holds(problem_id))
        tally = _played(chosen, problems, config, out, tries, roles, replay) if chosen or replay else None
        if dry_run is not None:
            return projection(tally, config, left) | {"dropped": dropped.counts}
        # Not before the first request: a resumed build of many episodes would wait for it.
        leave_out_unusable(problems, dropped, done.__contains__, images_read=True)
        check_any_usable(problems, dropped)
        # A build that was interrupted after its last episode, or whose set is all finished, is complete for the first time now.
        runs = max(1, runs + bool(chosen))
        if shard is not None:
            return finish_shard(problems, dropped, config, run, runs, str(shard))
        return finish_build(problems, dropped, config, run, runs)


def _played(
    todo: list[str],
    problems: StoredProblems,
    config: BuildConfig,
    out: Path,
    tries: dict[str, int],
    roles: Roles | None,
    replay: StoredProblems | None,
) -> Tally:
    if roles is None:
        prompts = load_prompts(config.prompts)
        roles = open_roles(
            make_backend, config.model, config.reasoner, config.roles, prompts, config.batch_size, config.dtype
        )
    limits = config.model_dump(include={"seed", "concurrency", "stop_after"})
    judge = functools.partial(trace_fault, config=config.quality)

    async def ask() -> Tally:
        if replay is not None:  # before the episodes, whose end closes the roles
            await gather(replay, config.replay, roles, out, **limits)
        return await play(todo, problems, roles, config.loop, out, tries=tries, judge=judge, **limits)

    try:
        return run_to_first_failure(ask())
    except KeyboardInterrupt:
        done = len(read_progress(out / "traces.jsonl").done)
        raise KeyboardInterrupt(
            f"Stopped; {done} episodes are finished, and every reply of the others is kept in {out}. "
            "Give the same command again to resume."
        ) from None


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
