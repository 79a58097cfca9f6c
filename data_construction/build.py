"""Problems to traces: the agent loop over a problem set, resumable, and the cold-start set made of its traces."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from data_construction.agent import Episode, LoopConfig, Roles
from data_construction.check import check_traces
from data_construction.dataset import MixConfig, cold_start_rows
from data_construction.prompts import load_prompts
from data_construction.records import Trace
from vlm.backends import make_backend
from vlm.errors import UserError
from vlm.jsonl import append_jsonl, read_jsonl, repair_jsonl, write_json_atomic, write_text_atomic
from vlm.problem import Problem, read_problems


class BuildConfig(BaseModel):
    """The keys of ``build.yaml``.

    Attributes:
        problems: the problem set (folder or JSON Lines file).
        out: where ``traces.jsonl``, ``sft.jsonl`` and ``build.json`` are written.
        model: the visual responder: ``tiny``, a model folder or hub name, or ``openai:NAME@URL``.
        reasoner: the text reasoner that requests, concludes and rewrites; named in the same ways.
        prompts: ``short``, ``full`` or a folder of templates.
        concurrency: how many episodes are under way at once.
        batch_size: how many requests an in-process model answers at once.
        loop: see ``LoopConfig``; mix: see ``MixConfig``.
        seed: of all sampling.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    problems: str = ""
    out: str = ""
    model: str = "tiny"
    reasoner: str = "tiny-reasoner"
    prompts: str = "full"
    concurrency: int = Field(default=256, ge=1)
    batch_size: int = Field(default=64, ge=1)
    loop: LoopConfig = LoopConfig()
    mix: MixConfig = MixConfig()
    seed: int = 0


def run_build(config: BuildConfig) -> dict[str, Any]:
    """Play an episode for every problem that has no finished one in ``out/traces.jsonl``, then write ``out/sft.jsonl``.

    Episodes that ended in an error are tried again. Returns the counts that stand in ``out/build.json``.

    Raises:
        UserError: no such problem set or model, or a setting that cannot be used.
    """
    if not config.problems or not config.out:
        raise UserError("build needs a problem set and an output folder: set 'problems' and 'out' in its config.")
    problems = {problem.id: problem for problem in read_problems(config.problems)}
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "traces.jsonl"
    repair_jsonl(log)
    done = {trace.problem_id for trace in read_traces(log) if trace.status != "error"} if log.exists() else set()
    todo = [problem for problem in problems.values() if problem.id not in done]
    if todo:
        try:
            asyncio.run(_play(todo, config, log))
        except ExceptionGroup as group:  # of the task group; the first failure is the one to tell
            raise group.exceptions[0] from None
    traces = [trace for trace in read_traces(log) if trace.problem_id in problems]
    rows, mix = cold_start_rows(traces, problems, config.mix, config.seed)
    write_text_atomic(out / "sft.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    status = Counter(trace.status for trace in traces)
    counts = {
        "problems": len(problems),
        "kept": status["kept"],
        "wrong": status["wrong"],
        "no_reflection": status["no_reflection"],
        "errors": status["error"],
        "cohesion_by_model": sum(trace.cohesion == "model" for trace in traces if trace.status == "kept"),
        "tokens": sum(trace.usage.get("tokens", 0) for trace in traces),
        "cold_start": mix,
        "facts": check_traces(traces, problems),
    }
    write_json_atomic(out / "build.json", counts)
    return counts


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a log in the order of their problems' first rows; of a problem tried again, the last trace."""
    latest = {row["problem_id"]: row for row in read_jsonl(path)}
    return [Trace.model_validate(latest[key]) for key in sorted(latest)]


async def _play(todo: list[Problem], config: BuildConfig, log: Path) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    responder = make_backend(config.model, batch_size=config.batch_size)
    reasoner = make_backend(config.reasoner, batch_size=config.batch_size, text_only=True)
    roles = Roles(reasoner, responder, load_prompts(config.prompts))
    gate, status = asyncio.Semaphore(config.concurrency), Counter[str]()
    columns = (TextColumn("build"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), transient=True) as progress:
        bar = progress.add_task("build", total=len(todo), status="")

        async def play(problem: Problem) -> None:
            async with gate:
                trace = await Episode(problem, roles, config.loop, config.seed).run()
            append_jsonl(log, [trace.model_dump()])
            status[trace.status] += 1
            words = f"kept {status['kept']} wrong {status['wrong']} direct {status['no_reflection']} errors {status['error']}"
            progress.update(bar, advance=1, status=words)

        try:
            async with asyncio.TaskGroup() as group:
                for problem in todo:
                    group.create_task(play(problem))
        finally:
            await responder.aclose()
            await reasoner.aclose()
