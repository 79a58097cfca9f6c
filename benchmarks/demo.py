"""The demo in a real browser: ``python benchmarks/demo.py [--model tiny | --run FOLDER] [--quick] [--json] [--write DIR]``.

``first_token_seconds``: from the click on an example to the first text on the page, effort medium, median and worst of 20. Then 5
visitors ask at once, 10 rounds: how many of their answers failed, how long the slowest took, and the memory of the server
(resident, at the start and at its highest). ``--write`` leaves screenshots: the first screen and an answer with a test, both
wide, narrow and dark; with ``--run``, base and trained model side by side. Chromium comes from the
system; CHROMIUM names another. The last line is one JSON object.
"""

import argparse
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import report, surroundings  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
USERS = 5
PAIR_EXAMPLE = 2
SHOTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "wide": ({"viewport": {"width": 1280, "height": 900}}, 0, "swap"),
    "narrow": ({"viewport": {"width": 390, "height": 844}}, 1, "again"),
    "dark": ({"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}, 3, "blank"),
}


def start(models: list[str]) -> tuple[subprocess.Popen[str], str]:
    """Start the demo; returns its process and its address."""
    command = [sys.executable, "-m", "reflection_v.cli", "demo", "--port", "0", *models]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    if found is None:
        raise SystemExit("The demo did not start: see above.")
    return server, found[0]


def resident_mb(process: int, key: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def arrive(browser: Any, address: str, **options: Any) -> Any:
    """Open the demo in a new browser context."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("button.example")
    page.wait_for_timeout(1000)  # the page may have its parts before it listens to them
    return page


# In the page, where no question over the wire becomes part of the figure: seconds from the click to the first text, and to
# the coloured sentences. What stands there from before is marked; a quick answer may be done before it was seen in the making.
ASK = """(example) => { window.asked = new Promise((done) => {
  document.querySelectorAll("#before section").forEach((one) => one.setAttribute("data-old", ""));
  const fresh = "#before section:not([data-old])";
  const begun = performance.now(), seen = {};
  new MutationObserver((_, watcher) => {
    const now = (performance.now() - begun) / 1000;
    if (document.querySelector(`${fresh} .trace`)) seen.first ??= now;
    if (seen.first && document.querySelector(`${fresh}[data-state='done'] button.sentence`)) {
      watcher.disconnect(); done([seen.first, now]);
    }
    if (document.querySelector("#status .error")) { watcher.disconnect(); done(null); }
  }).observe(document.body, { childList: true, subtree: true });
  document.querySelectorAll("button.example")[example].click();
}); }"""


def ask_pages(pages: list[Any], examples: list[int]) -> list[list[float] | None]:
    """Choose an example on each page at once. For each the seconds until the first text and until done; None if it failed."""
    for page, example in zip(pages, examples, strict=True):
        page.evaluate(ASK, example)
    return [
        page.evaluate("Promise.race([window.asked, new Promise((done) => setTimeout(done, 120000, null))])")
        for page in pages
    ]


def shoot(browser: Any, address: str, folder: Path, pair: bool) -> None:
    """Screenshots: the first screen, then a response with a chosen sentence beside one of the tests, or two models."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (options, example, kind) in SHOTS.items():
        page = arrive(browser, address, **options)
        write(page, folder / f"demo-first-{name}.png", full_page=False)
        page.click(f"button.example >> nth={PAIR_EXAMPLE if pair else example}")
        page.wait_for_selector("#before section[data-state='done'] button.sentence")
        if pair:
            page.wait_for_selector("#verdict .verdict")
        else:
            page.click("#before button.sentence >> nth=0")
            page.wait_for_selector("#before button.sentence[aria-pressed='true']")
            page.click(f"#test-{kind}")
            page.wait_for_selector("#after section[data-state='done'] button.sentence")
        page.mouse.move(0, 0)
        write(page, folder / f"demo-{'pair-' if pair else ''}{name}.png", full_page=True)
        page.context.close()


def write(page: Any, file: Path, full_page: bool) -> None:
    page.wait_for_timeout(800)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    shot.quantize(256).save(file, optimize=True)  # a third of the bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--run", metavar="FOLDER", help="a run folder: its base and trained model, only for --write")
    parser.add_argument("--quick", action="store_true", help="5 first tokens, 2 rounds")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write screenshots into this folder")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    runs, rounds = (5, 2) if args.quick else (20, 10)
    server, address = start(["--run", args.run] if args.run else ["--model", args.model])
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            if args.run:
                if args.write:
                    shoot(browser, address, args.write, pair=True)
                return 0
            page = arrive(browser, address)
            firsts = []
            for number in range(runs + 1):  # another question each time: the same answer twice would change nothing
                firsts += [times[0] for times in ask_pages([page], [(number + 1) % 4]) if times is not None]
            at_start = resident_mb(server.pid, "VmRSS")
            pages = [arrive(browser, address) for _ in range(USERS)]
            all_times = []
            for number_of_round in range(rounds):
                all_times += ask_pages(pages, [(number + number_of_round) % 4 for number in range(USERS)])
            answered = [times for times in all_times if times is not None]
            figures = {
                "first_token_seconds": statistics.median(firsts[1:]),
                "first_token_worst": max(firsts),
                "users": USERS,
                "answers": len(all_times),
                "failed": len(all_times) - len(answered) + runs + 1 - len(firsts),
                "first_of_five_worst": max(times[0] for times in answered),
                "slowest_of_five_seconds": max(times[1] for times in answered),
                "server_mb": at_start,
                "server_mb_highest": resident_mb(server.pid, "VmHWM"),
                "n": runs,
                **surroundings(os.environ.get("OMP_NUM_THREADS", "default"), "gradio", "playwright"),
                "chromium": browser.version,
            }
            if args.write:
                shoot(browser, address, args.write, pair=False)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    return report(figures, {"failed": lambda failed: failed == 0}, args.json)


if __name__ == "__main__":
    sys.exit(main())
