"""Replies are on disk before they are used; what is there is not asked for again; a full disk stops everything."""

import asyncio
import errno
import json
import os
from pathlib import Path

from configs.jsonl import read_log, repair_jsonl
from data_construction import reply_log
from data_construction.reply_log import DurableLog, ReplyLog, request_key
from vlm.protocol import Reply, Request

from vlm.backends import ScriptedBackend  # isort: skip


def ask(text: str = "What?", **settings: object) -> Request:
    return Request([{"role": "user", "content": [{"type": "text", "text": text}]}], **settings)  # type: ignore[arg-type]


def test_a_row_is_on_disk_when_append_returns_and_many_share_an_fsync(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    path, plain = tmp_path / "log.jsonl", os.fsync

    def fsync(number: int) -> None:
        plain(number)
        synced.append(path.read_bytes().count(b"\n") if path.exists() else 0)

    monkeypatch.setattr(os, "fsync", fsync)

    async def write() -> None:
        log = DurableLog(path)

        async def one(number: int) -> None:
            await log.append({"n": number})
            assert synced[-1] >= 1 and {"n": number} in read_log(path)

        await asyncio.gather(*map(one, range(200)))
        await log.aclose()

    asyncio.run(write())
    assert sorted(row["n"] for row in read_log(path)) == list(range(200))
    assert len(synced) < 20 and reply_log.GROUP_SECONDS <= 0.02


def test_what_waits_is_written_when_the_log_closes(tmp_path: Path) -> None:
    async def write() -> None:
        log = DurableLog(tmp_path / "log.jsonl")
        task = asyncio.create_task(log.append({"n": 1}))
        await asyncio.sleep(0)
        task.cancel()
        await log.aclose()

    asyncio.run(write())
    assert read_log(tmp_path / "log.jsonl") == [{"n": 1}]


def test_a_torn_last_row_is_cut_however_large_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [json.dumps({"n": n, "text": "x" * 50_000}) for n in range(5)]
    path.write_text("\n".join(rows) + "\n" + rows[0][:-3])
    assert repair_jsonl(path) == len(rows[0]) - 3
    assert [row["n"] for row in read_log(path)] == list(range(5))
    path.write_text("\n".join(rows))  # whole, but for its newline
    assert repair_jsonl(path) == 0 and len(read_log(path)) == 5
    path.write_text("torn")
    assert repair_jsonl(path) == 4 and path.read_bytes() == b""


def test_a_full_disk_reaches_every_writer_and_nothing_follows(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")

    async def write() -> list[BaseException | None]:
        log = DurableLog(tmp_path / "log.jsonl")
        first = await asyncio.gather(*(log.append({"n": n}) for n in range(3)), return_exceptions=True)
        later = await asyncio.gather(log.append({"n": 9}), return_exceptions=True)
        await log.aclose()
        return first + later

    outcome = asyncio.run(write())
    assert [error.errno for error in outcome] == [errno.ENOSPC] * 4  # type: ignore[union-attr]


def test_a_saved_reply_is_not_asked_for_again(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: f"reply {len(backend.requests)}")

    async def play(requests: list[Request]) -> tuple[list[str], ReplyLog]:
        log = ReplyLog(tmp_path / "replies.jsonl", {"p"})
        texts = [(await log.get(backend, request, "p", "requester", (0, 0))).text for request in requests]
        await log.aclose()
        return texts, log

    assert asyncio.run(play([ask(seed=1), ask(seed=2)]))[0] == ["reply 1", "reply 2"]
    texts, log = asyncio.run(play([ask(seed=2), ask(seed=1), ask(seed=3)]))
    assert texts == ["reply 2", "reply 1", "reply 3"]
    assert (log.asked, log.replayed, len(backend.requests)) == (1, 2, 3)


def test_a_key_changes_with_all_that_decides_a_reply_but_a_servers_address() -> None:
    here, there = (ScriptedBackend([], name=f"openai:m@http://{host}/v1") for host in ("a", "b"))
    key = request_key(here, ask(), "requester", (0, 0))
    assert key == request_key(there, ask(), "requester", (0, 0))
    others = [
        ask("Who?"),
        ask(seed=1),
        ask(temperature=0.1),
        ask(top_p=0.5),
        ask(max_tokens=9),
        ask(extra={"top_k": 1}),
    ]
    keys = {request_key(here, other, "requester", (0, 0)) for other in others}
    keys |= {
        request_key(here, ask(), *place)
        for place in (("rewriter", (0, 0)), ("requester", (1, 0)), ("requester", (0, 1)))
    }
    assert len(keys) == 9 and key not in keys


def test_half_a_surrogate_pair_and_a_huge_reply_can_be_kept(tmp_path: Path) -> None:
    backend = ScriptedBackend(["red \ud800 star", "x" * (10 * 2**20), Reply("fine", "length", 3, 4)])

    async def play() -> list[Reply]:
        log = ReplyLog(tmp_path / "replies.jsonl", {"p"})
        replies = [await log.get(backend, ask(seed=n), "p", "responder", (0, n)) for n in range(3)]
        await log.aclose()
        return replies

    broken, huge, fine = asyncio.run(play())
    assert broken.text == "red ? star" and (len(huge.text), huge.finish_reason) == (1000, "too_long")
    assert (fine.finish_reason, fine.prompt_tokens, fine.completion_tokens) == ("length", 3, 4)
    assert (tmp_path / "replies.jsonl").stat().st_size < 10_000
