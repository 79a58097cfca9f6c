"""Replies of a build as small rows that a test can replay: what was asked of nobody again, and what became of it."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from data_construction.agent import Episode, LoopConfig
from data_construction.cohesion import first_person, rewrite_fault
from data_construction.prompts import load_prompts
from data_construction.reading import read_conclusion, read_look, read_request
from data_construction.records import Round, Trace
from data_construction.roles import Roles
from vlm.backends import Backend, BackendError, Reply, Request, ScriptedBackend
from vlm.problem import Problem
from vlm.protocol import is_whole

READERS = {"requester": read_request, "responder": read_look, "summarizer": read_conclusion}


class Recorded:
    """The replies of one episode by role, round and attempt; stands in for a ``ReplyLog`` that has them all.

    Attributes:
        left: the places whose reply was not asked for.
    """

    def __init__(self, replies: Iterable[Iterable[Any]]) -> None:
        self._replies = {(role, number, attempt): (text, end) for role, number, attempt, end, text in replies}
        self.left = set(self._replies)

    async def get(
        self, backend: Backend, request: Request, problem_id: str, role: str, place: tuple[int, int]
    ) -> Reply:
        """The recorded reply. Raises BackendError if the episode asks for one that was never given."""
        if (role, *place) not in self._replies:
            raise BackendError(f"no reply of the {role} is recorded for round {place[0]}, attempt {place[1]}.")
        self.left.discard((role, *place))
        return Reply(*self._replies[role, *place])


def as_rows(replies: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Rows of ``replies.jsonl`` as a recorded episode holds them: role, round, attempt, end, text."""
    return [
        [row["role"], row["round"], row["attempt"], row["reply"]["finish_reason"], row["reply"]["text"]]
        for row in replies
    ]


def without_images(problem: Problem) -> dict[str, Any]:
    """What of a problem decides how an episode ends."""
    keys = ("id", "source", "domain", "question", "choices", "answer", "decimal")
    return {key: getattr(problem, key) for key in keys} | {"images": []}


def replay(row: dict[str, Any], config: LoopConfig, prompts: str, seed: int = 0) -> tuple[Trace, set[Any]]:
    """The trace of a recorded episode, played anew, and the places of its replies that were not asked for."""
    recorded = Recorded(row["replies"])
    trace = asyncio.run(_episode(row["problem"], config, prompts, seed, recorded).run())
    return trace, recorded.left


def replay_rewrite(row: dict[str, Any], config: LoopConfig, prompts: str) -> tuple[str, list[str]]:
    """Of a recorded rewrite: who wrote the trace in the end, ``model`` or ``template``, and the fault of each attempt."""
    rounds = [Round.model_validate(one) for one in row["rounds"]]
    episode = _episode(row["problem"], config, prompts, 0, Recorded(row["replies"]))
    _, how = asyncio.run(first_person(episode.ask_rewriter, episode.problem, rounds, config.repairs))
    return how, [fault_of_rewrite(text, end, episode.problem, rounds) for *_, end, text in row["replies"]]


def fault_of_rewrite(text: str, end: str, problem: Problem, rounds: list[Round]) -> str:
    """Why a rewrite was not taken; "" if it was."""
    return (
        rewrite_fault(" ".join(text.split()), problem, rounds)
        if is_whole(end)
        else "was cut off at its limit of tokens"
    )


def fault_of(role: str, end: str, text: str) -> str:
    """Why a reply could not be used; "" if it could, and for a rewrite, which its transcript has to judge."""
    return str(READERS[role](text, end)[-1]) if role in READERS else ""


def unusable(rows: Iterable[Iterable[Any]]) -> dict[str, Counter[str]]:
    """Role -> the faults of its replies, counted; "" counts the usable ones."""
    counts: dict[str, Counter[str]] = {role: Counter() for role in READERS}
    for role, _, _, end, text in rows:
        if role in READERS:
            counts[role][fault_of(role, end, text)] += 1
    return counts


def _episode(problem: dict[str, Any], config: LoopConfig, prompts: str, seed: int, recorded: Recorded) -> Episode:
    nobody = ScriptedBackend([])
    roles = Roles(nobody, nobody, load_prompts(prompts))
    return Episode(Problem.model_validate(problem), roles, config, seed, recorded)  # type: ignore[arg-type]
