"""One server of the demo for all browser tests, and pages that note what must not happen."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000
"""Milliseconds: how long a busy machine may take for one step."""


@dataclass
class Addresses:
    """Of a demo of one model, and of one of a base and a trained model."""

    one: str
    pair: str


@pytest.fixture(scope="session")
def addresses(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """The demo on free ports, with a model of random weights that cannot end by itself: it writes to every budget's end.

    Which of the marks of a response random weights happen to write would decide what can be tested, and so would nothing but
    blanks: those are no reasoning that a test could interrupt.
    """
    import uvicorn

    import demo.engine
    import vlm.generate
    from demo.engine import Engine
    from demo.serve import listen, make_server

    demo.engine.RUN_SECONDS = 3600.0  # a busy machine may take long
    # As base and trained model of a run, the same weights under two names.
    trained = shutil.copytree(tiny_vlm_dir, tmp_path_factory.mktemp("trained") / "grpo")
    (trained / "README.md").write_text("---\nreads: rows of <b>digits</b>\n---\n")
    engine = Engine([str(tiny_vlm_dir)])
    tokenizer = engine.model(next(iter(engine.names))).tokenizer
    marks = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "\\boxed{", tokenizer.eos_token])
    blanks = [
        token for token in range(len(tokenizer)) if not tokenizer.decode([token], skip_special_tokens=True).strip()
    ]
    never = vlm.generate.image_token_ids
    vlm.generate.image_token_ids = lambda config: [*never(config), *marks, *blanks]
    found, running = [], []
    for one in (engine, Engine([], pair=(str(tiny_vlm_dir), str(trained)))):
        listening = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(make_server(one), log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        found.append(f"http://127.0.0.1:{listening.getsockname()[1]}")
        running.append((server, thread))
    yield Addresses(*found)
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
    vlm.generate.image_token_ids = never


@pytest.fixture(scope="session")
def address(addresses: Addresses) -> str:
    """The demo of one model."""
    return addresses.one


@pytest.fixture(scope="session")
def launch() -> Iterator[Any]:
    """A function that starts a Chromium with further flags."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])


@pytest.fixture(scope="session")
def browser(launch: Any) -> Iterator[Any]:
    browser = launch()
    yield browser
    browser.close()


@dataclass
class Visitor:
    """A page in a browser context of its own, with the trouble that it had."""

    page: Any
    trouble: list[str] = field(default_factory=list)

    def ask(self, effort: str = "low") -> None:
        self.choose_effort(effort)
        self.page.click("#ask")

    def choose_effort(self, effort: str) -> None:
        self.page.get_by_label("Effort").click()
        self.page.get_by_role("option", name=effort, exact=True).click()

    def example(self, number: int, effort: str = "low") -> None:
        """Choose an example, which is asked at once."""
        self.choose_effort(effort)
        self.page.click(f"button.example >> nth={number}")
        self.page.wait_for_function("document.querySelector('textarea').value !== ''")
        self.page.wait_for_selector(".slot img[src^='image/example-']")

    def finished(self, panel: str = "#before") -> None:
        self.page.wait_for_selector(f"{panel} section[data-state='done'] button.sentence")


@pytest.fixture
def arrive() -> Iterator[Any]:
    """A function that opens the demo at an address as a new visitor; at the end, no visitor may have had trouble."""
    visitors: list[Visitor] = []

    def open_page(browser: Any, address: str, query: str = "", **options: Any) -> Visitor:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        visitor = Visitor(context.new_page())
        page, trouble = visitor.page, visitor.trouble
        page.on("console", lambda said: trouble.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(f"page: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _note_foreign(request.url, address, trouble))
        page.goto(address + query)
        page.wait_for_selector("button.example")
        visitors.append(visitor)
        return visitor

    yield open_page
    for visitor in visitors:
        visitor.page.context.close()
    assert [trouble for visitor in visitors for trouble in visitor.trouble] == []


@pytest.fixture
def visit(arrive: Any, browser: Any, address: str) -> Any:
    """A function that opens the demo of all tests as a new visitor."""
    return partial(arrive, browser, address)


def _note_foreign(url: str, address: str, trouble: list[str]) -> None:
    if not url.startswith((address, "data:", "blob:")):
        trouble.append(f"request to {url}")
