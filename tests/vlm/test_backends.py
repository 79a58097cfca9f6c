"""Three backends behind one protocol: scripted, in process, and an OpenAI-compatible server (see test_openai_backend)."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.errors import ConfigError, UserError
from vlm.backends import BackendError, HFBackend, OpenAIBackend, Reply, Request, ScriptedBackend, make_backend
from vlm.chat import question_messages


def ask(text: str = "What?", images: list[Image.Image] | None = None, **settings: Any) -> Request:
    return Request(question_messages(text, len(images or []), "none"), images or [], **settings)


def an_image(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (64, 48), colour)


def test_nothing_but_the_hf_backend_needs_torch() -> None:
    code = (
        "import asyncio, sys\n"
        "import vlm.backends as b, vlm.images, configs.errors, vlm.chat, vlm.response, vlm.infer, vlm.load\n"
        "asyncio.run(b.ScriptedBackend(['x']).complete(b.Request([])))\n"
        "try: asyncio.run(b.make_backend('openai:m@http://127.0.0.1:9/v1', max_retries=0).complete(b.Request([])))\n"
        "except b.BackendError: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=120)


# Scripted


def test_scripts_from_functions_and_lists() -> None:
    async def play() -> None:
        echo = ScriptedBackend(lambda request: request.messages[0]["content"][-1]["text"].upper())
        assert (await echo.complete(ask("hello"))).text == "HELLO"

        async def slow(request: Request) -> Reply:
            await asyncio.sleep(0)
            return Reply("later", "length", 1, 2)

        assert await ScriptedBackend(slow).complete(ask()) == Reply("later", "length", 1, 2)
        listed = ScriptedBackend(["one", Reply("two"), ValueError("three"), BackendError("four")], name="list")
        assert [(await listed.complete(ask(str(n)))).text for n in range(2)] == ["one", "two"]
        for reason in ("list: three", "four", "list: the script has no reply 5"):
            with pytest.raises(BackendError, match=reason):
                await listed.complete(ask())
        assert len(listed.requests) == 5
        await listed.aclose()

    asyncio.run(play())


# In process


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> Any:
    from vlm.load import load_vlm

    return load_vlm(tiny_vlm_dir)


def requests() -> list[Request]:
    return [
        ask("What is at A1?", [an_image()], max_tokens=6, temperature=1.0, seed=1),
        ask("Hi", max_tokens=3),
        ask("How many red stars?", [an_image("blue"), an_image()], max_tokens=8, temperature=0.7, top_p=0.9, seed=2),
        ask("What is at A1?", [an_image()], max_tokens=6, temperature=1.0, seed=9),
    ]


def test_replies_do_not_depend_on_who_waits_beside_them(vlm: Any) -> None:
    async def play(together: bool, batch_size: int) -> list[Reply]:
        backend = HFBackend(vlm, batch_size)
        if together:
            replies = await asyncio.gather(*map(backend.complete, requests()))
        else:
            replies = [await backend.complete(request) for request in requests()]
        await backend.aclose()
        await backend.aclose()
        return list(replies)

    alone = asyncio.run(play(False, 1))
    for batch_size in (1, 2, 64):
        beside = asyncio.run(play(True, batch_size))
        assert [(r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in beside] == [
            (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in alone
        ]
    assert [reply.completion_tokens for reply in alone] == [6, 3, 8, 6] and alone[0].text != alone[3].text
    assert all(reply.seconds > 0 and reply.finish_reason == "length" for reply in alone)


def test_waiting_requests_share_a_batch(vlm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = HFBackend._generate
    monkeypatch.setattr(HFBackend, "_generate", lambda self, batch: (sizes.append(len(batch)), plain(self, batch))[1])

    async def play() -> None:
        backend = HFBackend(vlm, batch_size=4, linger=0.5)
        await asyncio.gather(*(backend.complete(ask(f"{n}?", max_tokens=2)) for n in range(8)))
        await backend.aclose()

    asyncio.run(play())
    assert sizes == [4, 4]


def test_a_bad_request_fails_alone(vlm: Any) -> None:
    async def play() -> list[Any]:
        backend = HFBackend(vlm, linger=0.2)
        bad = Request(question_messages("What?", 2), [an_image()])
        outcome = await asyncio.gather(
            backend.complete(ask(max_tokens=2)),
            backend.complete(bad),
            backend.complete(ask("Hi", max_tokens=2)),
            backend.complete(ask(max_tokens=0)),
            return_exceptions=True,
        )
        await backend.aclose()
        return outcome

    good, bad, also_good, no_budget = asyncio.run(play())
    assert isinstance(good, Reply) and isinstance(also_good, Reply)
    assert isinstance(bad, BackendError) and "2 image parts but 1 images" in str(bad)
    assert isinstance(no_budget, BackendError) and "max_new_tokens" in str(no_budget)


def test_a_cancelled_request_is_dropped_and_a_closed_backend_refuses(vlm: Any) -> None:
    async def play() -> None:
        backend = HFBackend(vlm, linger=0.2)
        waiting = asyncio.ensure_future(backend.complete(ask(max_tokens=2)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert (await backend.complete(ask(max_tokens=2))).completion_tokens == 2
        await backend.aclose()
        with pytest.raises(BackendError, match="closed"):
            await backend.complete(ask())

    asyncio.run(play())


def test_closing_gives_up_what_is_under_way(vlm: Any) -> None:
    async def play() -> list[Any]:
        backend = HFBackend(vlm, batch_size=1)
        tasks = [asyncio.ensure_future(backend.complete(ask(max_tokens=1500))) for _ in range(3)]
        await asyncio.sleep(0.3)
        await backend.aclose()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)

    started = time.perf_counter()
    outcome = asyncio.run(play())
    assert all(isinstance(one, BackendError) and "closed" in str(one) for one in outcome)
    assert time.perf_counter() - started < 5


def test_one_backend_serves_one_event_loop_after_another(vlm: Any) -> None:
    backend = HFBackend(vlm)
    assert asyncio.run(backend.complete(ask(max_tokens=2))) and asyncio.run(backend.complete(ask(max_tokens=2)))
    asyncio.run(backend.aclose())


# Names


def test_names_of_backends(tiny_vlm_dir: Path, tiny_reasoner_dir: Path) -> None:
    served = make_backend("openai:org/my-model@https://host:8000/v1", timeout=5)
    assert isinstance(served, OpenAIBackend)
    assert (served.model, served.base_url, served.timeout) == ("org/my-model", "https://host:8000/v1", 5)
    local = make_backend(tiny_vlm_dir, batch_size=3)
    assert isinstance(local, HFBackend) and local.batch_size == 3 and local.vlm.reads_images
    text = make_backend(str(tiny_reasoner_dir), text_only=True)
    assert isinstance(text, HFBackend) and not text.vlm.reads_images
    assert asyncio.run(text.complete(ask(max_tokens=2))).completion_tokens == 2
    with pytest.raises(UserError, match="text-only model"):
        make_backend(tiny_reasoner_dir)
    with pytest.raises(UserError, match="does not exist"):
        make_backend("./nowhere")


@pytest.mark.parametrize(
    "spec", ["openai:", "openai:name", "openai:@http://x/v1", "openai:name@", "openai:name@host/v1"]
)
def test_served_names_need_name_and_url(spec: str) -> None:
    with pytest.raises(ConfigError, match="openai:NAME@"):
        make_backend(spec)
