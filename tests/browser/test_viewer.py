"""The viewer as a person meets it, in real headless Chromium (``make test-browser``)."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from viewed_rows import EVIL, trace, write_lines, write_run, write_step

from demo.access import Access, listen
from demo.viewer.pages import Viewer
from demo.viewer.serve import PageServer
from demo.viewer.sources import Folder

pytestmark = pytest.mark.browser
PATIENCE = 120_000
"""Milliseconds: how long a busy machine may take for one step."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run")
    write_lines(folder / "build" / "traces.jsonl", [trace(n, ["kept", "wrong"][n % 2]) for n in range(600)])
    return folder


@pytest.fixture
def view(browser: Any, run: Path) -> Iterator[Callable[..., Any]]:
    """A function that opens the viewer of the run at an address behind ``#``; at the end, no page may have had trouble."""
    listening = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    trouble: list[str] = []
    pages: list[Any] = []

    def open_page(where: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda said: trouble.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(f"page: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith(address) else trouble.append(request.url))
        page.goto(f"{address}/#{where}")
        page.wait_for_selector("#list[data-ready]", state="attached")
        pages.append(page)
        return page

    with PageServer(Viewer(Folder(run)), Access(), listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield open_page
        for page in pages:
            page.context.close()
        server.shutdown()
    assert trouble == []


def counted(page: Any, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_have_text(text, timeout=PATIENCE)


def read(page: Any, name: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#detail h2")).to_have_text(name, timeout=PATIENCE)


def test_a_list_of_many_rows_is_read_by_keyboard(view: Any) -> None:
    page = view()
    counted(page, "600 of 600 rows")
    assert page.locator(".item").count() < 60  # only those in sight
    page.keyboard.press("j")
    read(page, "p0#0")
    page.keyboard.press("ArrowDown")
    read(page, "p1#0")
    page.keyboard.press("k")
    read(page, "p0#0")
    page.keyboard.press("G")
    read(page, "p599#0")
    assert page.locator(".item[aria-selected='true']").is_visible()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("]")
    page.wait_for_selector("#sources [data-name='build/sft.jsonl'][aria-current='true']")


def test_filters_narrow_the_list_and_a_link_keeps_them(view: Any) -> None:
    page = view()
    page.click(".chip:has-text('wrong')")
    counted(page, "299 of 600 rows")  # p1 was dropped by a filter
    page.keyboard.press("/")
    page.keyboard.type("p11#0")
    counted(page, "1 of 600 rows")
    page.keyboard.press("Enter")
    read(page, "p11#0")
    other = view(page.url.partition("#")[2])
    counted(other, "1 of 600 rows")
    read(other, "p11#0")
    page.click("#clear")
    counted(page, "600 of 600 rows")
    page.select_option("#range-name", "tokens")
    page.fill("#range-min", "600")
    counted(page, "40 of 600 rows")
    page.select_option("#order", "-tokens")
    page.wait_for_selector(".item[data-n='599']")
    page.select_option("#facets select >> nth=0", index=1)
    page.wait_for_selector("#clear")  # the filters are drawn again although a list of words has just been used
    page.wait_for_selector(".item[data-n='599']")


def test_a_trace_shows_rounds_marks_and_its_image(view: Any) -> None:
    page = view("source=build/traces.jsonl&n=0")
    read(page, "p0#0")
    assert page.locator(".round").count() == 2 and page.inner_text("mark.corrected") == "1"
    assert page.inner_text("mark.relook >> nth=0") == "Wait, let me look again."
    page.wait_for_function("() => document.querySelector('.images img').naturalWidth === 40")


def test_what_models_write_is_shown_and_never_run(view: Any, run: Path) -> None:
    evil = trace(0) | {"id": EVIL, "problem_id": EVIL, "trace": EVIL, "status": EVIL}
    evil["rounds"] = [{"request": EVIL, "reply": EVIL, "conclusion": EVIL, "answer": EVIL, "verdict": True}]
    write_lines(run / "build" / "traces.jsonl", [evil, EVIL])
    write_step(run / "grpo" / "completions", 1, [EVIL, EVIL], problem=[EVIL, EVIL], **{EVIL: [1.0, 2.0]})
    page = view("source=build/traces.jsonl&n=0")
    read(page, EVIL)
    assert EVIL in page.inner_text(".round") and EVIL in page.inner_text(".item >> nth=0")
    page.click("#detail summary:has-text('As in the file')")
    page.wait_for_selector("#detail pre")
    page.keyboard.press("j")
    page.goto(page.url.partition("#")[0] + "#source=grpo/completions&n=0")
    page.wait_for_selector("#detail table")
    assert EVIL in page.inner_text("#detail table")
    assert page.locator("main script, main img[src='x']").count() == 0


def test_completions_show_group_and_mass(view: Any) -> None:
    page = view("source=grpo/completions&n=0")
    page.wait_for_selector("mark.heat")
    assert page.inner_text("mark.heat small") == "0.40"
    page.click("tr.link:not(.current)")
    page.wait_for_selector("#detail[data-n='1']")


def test_a_run_that_goes_on_is_drawn_again(view: Any, run: Path) -> None:
    page = view("source=grpo/log.jsonl")
    page.wait_for_selector(".chart[data-name='loss']")
    with open(run / "grpo" / "log.jsonl", "a") as file:
        file.write(json.dumps({"step": 4, "seconds": 4, "loss": 0.25, "entropy": 1.5}) + "\n")
    page.wait_for_selector(".chart[data-name='entropy']")
    page.fill("#text", "entr")
    page.wait_for_selector(".chart[data-name='loss']", state="detached")
    assert page.locator(".chart").count() == 1
    page.click("#sources [data-name='grpo/completions']")
    counted(page, "4 of 4 rows")
    write_step(run / "grpo" / "completions", 3, ["a", "b", "c"])
    counted(page, "7 of 7 rows")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_narrow_screen(view: Any, scheme: str) -> None:
    page = view(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    page.click("#more-open")
    page.click(".chip:has-text('kept')")
    counted(page, "300 of 600 rows")
    page.click(".item >> nth=1")
    page.wait_for_selector("body.reading #detail h2")
    assert not page.evaluate(wide) and not page.locator("#list").is_visible()
    page.click("#back")
    assert page.locator("#list").is_visible()
