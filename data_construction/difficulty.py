"""Difficulty of problems: the pass rates of a weak and a strong model over k samples, by which problems are filtered."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import ImageError
from configs.jsonl import iter_log
from configs.schema import KeyVariable, ModelName, StrictModel
from data_construction.failures import FailureWatch, run_to_first_failure
from data_construction.reply_log import DurableLog, ReplyLog, position_seed
from reward.grade import grade
from vlm.backends import check_key, check_key_has_one_server
from vlm.chat import question_messages
from vlm.images import open_image
from vlm.problem import Problem
from vlm.protocol import Backend, BackendError, Request, is_whole


class DifficultyConfig(StrictModel):
    """Two models that answer each problem alone, before the agent loop begins.

    Attributes:
        weak, strong: the models' names, as in ``BuildConfig.model``.
        samples: answers per model and problem.
        temperature, max_tokens: of the sampling.
        weak_range, strong_range: lowest and highest pass rate, in [0, 1], of a problem that is played.
        api_key_env: the environment variable that holds the servers' key.
    """

    weak: ModelName
    strong: ModelName
    samples: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    weak_range: list[float] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    strong_range: list[float] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    api_key_env: KeyVariable = None


def check_servers(config: DifficultyConfig) -> None:
    """Raises ConfigError: the key would go to two hosts, or its variable holds none."""
    check_key_has_one_server((config.weak, config.strong), config.api_key_env)
    for model in (config.weak, config.strong):
        check_key(model, config.api_key_env)


def read_difficulty(path: Path) -> dict[str, dict[str, Any]]:
    """Problem id -> its row: ``weak``, ``strong`` (pass rates), ``samples``."""
    return {row["problem_id"]: row for row in iter_log(path)} if path.exists() else {}


def is_in_ranges(row: dict[str, Any] | None, config: DifficultyConfig) -> bool:
    """Whether a problem is played now."""
    if row is None:  # not measured, for lack of a reply: a later run measures it again
        return False
    ranges = {"weak": config.weak_range, "strong": config.strong_range}
    return all(low <= row[model] <= high for model, (low, high) in ranges.items())


def measure(
    chosen: Sequence[str],
    problems: Mapping[str, Problem],
    config: DifficultyConfig,
    out: Path,
    make: Callable[..., Backend],
    *,
    seed: int,
    concurrency: int,
    batch_size: int,
    stop_after: int,
) -> dict[str, dict[str, Any]]:
    """Measure the chosen problems that are not in ``out/difficulty.jsonl`` yet; replies are kept in ``difficulty_replies.jsonl``.

    If a model gives no reply to a problem, the problem gets no row and the next run tries it again.

    Raises:
        RoleDown: a model gives no replies (``FailureWatch``; all problems, if they are fewer than ``stop_after``).
    """
    known = read_difficulty(out / "difficulty.jsonl")
    todo = [problem for problem in chosen if problem not in known]
    if todo:
        check_servers(config)
        common = {"batch_size": batch_size, "api_key_env": config.api_key_env}
        models = {"weak": make(config.weak, **common), "strong": make(config.strong, **common)}
        most = stop_after if known else min(stop_after, len(todo))
        run_to_first_failure(_measure(todo, problems, config, out, models, seed, concurrency, most))
    return read_difficulty(out / "difficulty.jsonl")


async def _measure(
    todo: list[str],
    problems: Mapping[str, Problem],
    config: DifficultyConfig,
    out: Path,
    models: dict[str, Backend],
    seed: int,
    concurrency: int,
    stop_after: int,
) -> None:
    replies = ReplyLog(out / "difficulty_replies.jsonl", set(todo))
    rows = DurableLog(out / "difficulty.jsonl")
    queue, watch = map(problems.__getitem__, todo), FailureWatch(stop_after)

    async def rate(problem: Problem, model: str) -> float:
        images = [await asyncio.to_thread(open_image, image) for image in problem.images]
        messages = question_messages(problem.question, len(images), style="think", choices=problem.choices)

        async def is_correct(sample: int) -> bool:
            number = position_seed(seed, problem.id, model, sample)
            request = Request(messages, images, config.max_tokens, config.temperature, seed=number)
            try:
                reply = await replies.get(models[model], request, problem.id, model, (sample, 0))
            except BackendError as error:
                watch.failed(f"{model} model", error)
                raise
            watch.answered(f"{model} model")
            # In a thread: comparing expressions may take seconds, and other requests must go on.
            return (await asyncio.to_thread(grade, problem, reply.text, is_whole(reply.finish_reason))).correct

        return sum(await asyncio.gather(*map(is_correct, range(config.samples)))) / config.samples

    async def work() -> None:
        for problem in queue:
            try:
                rates = {model: await rate(problem, model) for model in models}
            except (ImageError, BackendError):
                continue
            await rows.append({"problem_id": problem.id, **rates, "samples": config.samples})
            replies.forget(problem.id)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(work())
    finally:
        await replies.aclose()
        await rows.aclose()
        for model in models.values():
            await model.aclose()
