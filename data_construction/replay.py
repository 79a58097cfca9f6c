"""Replay: responses of the responder itself that keep a skill from before in the cold-start set.

A model that is only taught to reason about questions answers everything that way, and loses what it could do before (listing what
an image shows, say). So it is asked a second problem set as it is, and its own correct responses join the rows of the traces:
rehearsal with a model's own samples (self-distillation, arXiv 2402.13669, section 3), of which the verifiers take the correct ones.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import ImageError
from configs.jsonl import iter_log, write_rows_atomic
from configs.schema import StrictModel
from data_construction.failures import FailureWatch
from data_construction.reply_log import ReplyLog, position_seed
from data_construction.roles import Roles
from reward.grade import grade
from reward.usable import DroppedProblems, iter_usable
from vlm.chat import question_messages
from vlm.images import open_image
from vlm.problem import Problem
from vlm.protocol import BackendError, Request, is_whole
from vlm.stored_problems import StoredProblems

ROWS, REPLIES = "replay.jsonl", "replay_replies.jsonl"


class ReplayConfig(StrictModel):
    """How the skills of ``BuildConfig.replay_problems`` are kept.

    Attributes:
        share: most rows of replay in the cold-start set, as a share, in [0, 1), of all rows.
        style: the instruction that goes with a question, a key of ``vlm.chat.INSTRUCTIONS``.
        max_tokens: of a response; one that is cut off there is left out.
    """

    share: float = Field(default=0.1, ge=0, lt=1)
    style: Literal["think", "direct", "describe", "none"] = "none"
    max_tokens: int = Field(default=512, ge=1)


async def gather(
    problems: StoredProblems,
    config: ReplayConfig,
    roles: Roles,
    out: Path,
    *,
    seed: int,
    concurrency: int,
    stop_after: int,
) -> None:
    """Ask the responder each problem once, greedily, and write its correct responses to ``out/replay.jsonl``.

    Replies are kept in ``out/replay_replies.jsonl`` and are not requested again. The file of the rows is written at the end; a
    problem without a reply has none.

    Raises:
        RoleDown: the responder gives no replies (``FailureWatch``).
    """
    dropped = DroppedProblems()
    asked = [problem.id for problem in iter_usable(problems.values(), dropped)]
    for sentence in dropped.sentences():
        print(f"replay: {sentence}", flush=True)
    rows = await _correct_responses(asked, problems, config, roles, out / REPLIES, seed, concurrency, stop_after)
    write_rows_atomic(out / ROWS, iter(rows))
    print(f"replay: {len(rows)} of {len(asked)} responses are correct", flush=True)


async def _correct_responses(
    asked: list[str],
    problems: Mapping[str, Problem],
    config: ReplayConfig,
    roles: Roles,
    log: Path,
    seed: int,
    concurrency: int,
    stop_after: int,
) -> list[dict[str, Any]]:
    replies, watch = ReplyLog(log, set(asked)), FailureWatch(stop_after)
    backend, extra = roles.backend("responder"), roles.settings.of("responder").extra_body
    rows: dict[str, dict[str, Any]] = {}
    queue = map(problems.__getitem__, asked)

    async def work() -> None:
        for problem in queue:
            try:
                images = [await asyncio.to_thread(open_image, image) for image in problem.images]
                messages = question_messages(problem.question, len(images), config.style, problem.choices)
                number = position_seed(seed, problem.id, "replay")
                request = Request(messages, images, config.max_tokens, 0.0, seed=number, extra=extra)
                reply = await replies.get(backend, request, problem.id, "responder", (0, 0))
            except ImageError:
                continue
            except BackendError as error:
                watch.failed("responder", error)
                continue
            watch.answered("responder")
            replies.forget(problem.id)
            whole = is_whole(reply.finish_reason)
            # In a thread: comparing expressions may take seconds, and other requests must go on.
            if whole and (await asyncio.to_thread(grade, problem, reply.text, whole)).correct:
                rows[problem.id] = {"problem_id": problem.id, "text": reply.text}

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(asked))):
                group.create_task(work())
    finally:
        await replies.aclose()
    return [rows[problem_id] for problem_id in asked if problem_id in rows]


def replay_rows(
    problems: Mapping[str, Problem], config: ReplayConfig, path: Path, others: int
) -> Iterator[dict[str, Any]]:
    """The rows of replay for the cold-start set, at most ``share`` of all; their keys are those of ``cold_start_rows``.

    Args:
        path: of the correct responses.
        others: how many other rows the set has.
    """
    most = round(others * config.share / (1 - config.share))  # a share s of all rows is s / (1 - s) of the other rows
    texts = {row["problem_id"]: row["text"] for row in iter_log(path)}
    chosen = [problem_id for problem_id in problems if problem_id in texts][:most]  # merged shards have another order
    for problem_id in chosen:
        problem = problems[problem_id]
        yield {
            "prompt": question_messages(problem.question, len(problem.images), config.style, problem.choices),
            "completion": texts[problem_id],
            "images": problem.images,
            "masked": [],
            "mode": "replay",
            "problem_id": problem.id,
            "relooks": 0,
        }
