"""Replies of models, written to disk before they are used, and never requested twice.

``replies.jsonl`` is the only state of an unfinished episode: a resumed run replays it and continues from there. An
interruption therefore costs only the replies that were in flight.
"""

import asyncio
import hashlib
import json
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.jsonl import iter_log_lines, parse_log_line, repair_jsonl, text_of_json
from vlm.protocol import Backend, Reply, Request

GROUP_SECONDS = 0.005
"""How long a row waits for others, so that they share one fsync. While an fsync runs, the next group collects."""
_HEAD = re.compile(rb'\{"problem_id": ("(?:[^"\\]|\\.)*"), "role": ')
"""The beginning of a row as it is written below."""
MAX_TEXT = 200_000
"""Characters. A longer reply is unusable; only its beginning is kept, for debugging."""


class DurableLog:
    """A JSON Lines file that many coroutines append to; ``append`` returns when the row is on disk.

    Args:
        path: the file, created if missing. An incomplete last line is removed first.

    Attributes:
        repaired: how many bytes of an incomplete line were removed.
    """

    def __init__(self, path: Path) -> None:
        self.repaired = repair_jsonl(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by aclose
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # a new file's name must survive a power cut as well
        os.close(folder)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._error: OSError | None = None

    async def append(self, row: dict[str, Any]) -> None:
        """Write a row.

        Raises:
            OSError: the disk is full or missing. Then no later row is written, so that none follows an incomplete line.
        """
        if self._error is not None:
            raise self._error
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        on_disk = asyncio.get_running_loop().create_future()
        self._waiting.append((line, on_disk))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_groups())
        await on_disk

    async def aclose(self) -> None:
        """Write the rows that still wait, and close the file."""
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()
        self._file.close()

    async def _write_groups(self) -> None:
        while self._waiting:
            await asyncio.sleep(GROUP_SECONDS)
            group, self._waiting = self._waiting, []
            try:
                if self._error is not None:
                    raise self._error
                data = b"".join(line for line, _ in group)
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, data)
            except OSError as error:
                self._error = error
                for _, on_disk in group:
                    if not on_disk.done():
                        on_disk.set_exception(error)
            else:
                for _, on_disk in group:
                    if not on_disk.done():
                        on_disk.set_result(None)
        self._writer = None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # an unbuffered file may write less than it was given
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())


class ReplyLog:
    """Sends requests to backends and keeps every reply in a log; a reply that is there is not requested again.

    Args:
        path: the file of the log.
        wanted: ids of the problems that are still to be played. Of their saved replies only the places in the file are held in
            memory; a reply is read when its episode begins.

    Attributes:
        asked, replayed: how many replies were requested, and how many came from the log.
        tokens: role -> [prompt tokens, completion tokens] of the requested replies.
    """

    def __init__(self, path: Path, wanted: Container[str]) -> None:
        self.log = DurableLog(path)
        self.asked = self.replayed = 0
        self.tokens: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._path = path
        self._places: dict[str, array[int]] = {}
        self._saved: dict[str, dict[str, Reply]] = {}  # of the episodes in progress
        for offset, line in iter_log_lines(path):
            head = _HEAD.match(line)
            problem_id = text_of_json(head[1]) if head else parse_log_line(path, offset, line).get("problem_id")
            if isinstance(problem_id, str) and problem_id in wanted:
                self._places.setdefault(problem_id, array("q")).append(offset)

    async def get(
        self, backend: Backend, request: Request, problem_id: str, role: str, place: tuple[int, int]
    ) -> Reply:
        """The saved reply to a request, else a new one from the backend.

        Args:
            place: the round and the attempt in the episode.

        Raises:
            BackendError: the backend gave no reply.
            OSError: the reply could not be written.
        """
        key = request_key(backend, request, role, place)
        if problem_id in self._places:
            self._saved[problem_id] = self._read(self._places.pop(problem_id))
        if (saved := self._saved.get(problem_id, {}).get(key)) is not None:
            self.replayed += 1
            return saved
        self.asked += 1
        reply = await backend.complete(request)
        text = reply.text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
        if len(text) > MAX_TEXT:
            reply = replace(reply, finish_reason="too_long")
            text = text[:1000]
        reply = replace(reply, text=text, seconds=round(reply.seconds, 4))
        row = {"problem_id": problem_id, "role": role, "round": place[0], "attempt": place[1], "key": key}
        await self.log.append(row | {"reply": vars(reply)})  # in the order of ``Reply``, without the copies of asdict
        counts = self.tokens[role]
        counts[0] += reply.prompt_tokens
        counts[1] += reply.completion_tokens
        return reply

    def _read(self, places: Iterable[int]) -> dict[str, Reply]:
        """Key -> reply of the rows at these offsets. Raises UserError as ``iter_log``."""
        found = {}
        with open(self._path, "rb") as file:
            for offset in places:
                file.seek(offset)
                row = parse_log_line(self._path, offset, file.readline())
                found[row["key"]] = Reply(**row["reply"])
        return found

    def forget(self, problem_id: str) -> None:
        """Free the memory of a finished episode's saved replies."""
        self._saved.pop(problem_id, None)

    async def aclose(self) -> None:
        await self.log.aclose()


def position_seed(*position: object) -> int:
    """The sampling seed of a reply, of 48 bits, from its position (seed, problem, role, ...) alone.

    It does not depend on the order in which replies come, so a resumed run samples what an uninterrupted one samples.
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, position)).encode()).digest()[:6], "big")


def request_key(backend: Backend, request: Request, role: str, place: tuple[int, int]) -> str:
    """A hash over everything that decides a reply, except the images, which belong to the problem.

    Only the model's name of a server counts, so that its saved replies stay valid at another address.
    """
    model = backend.name.split("@http", 1)[0]
    settings = [request.max_tokens, request.temperature, request.top_p, request.seed, request.extra]
    whole = json.dumps([model, role, place, settings, request.messages], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:24]
