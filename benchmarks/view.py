"""The viewer in a real browser: ``python benchmarks/view.py [--rows 50000] [--quick] [--json] [--write DIR]``.

Writes traces, SFT rows and completions (100 steps), each of ``--rows`` rows of the length that a 7B model writes, then measures in
Chromium: from the command to the first rows on the page and until all rows are read, and from a change of a filter to the
filtered list (median and worst of the filters, texts included; a text waits 0.15 s for the next key). ``--write`` leaves screenshots
of the folder given by ``--folder`` (wide, narrow, dark). Chromium comes from the system; CHROMIUM names another. The last
line is one JSON object.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.demo import CHROMIUM, FLAGS, resident_mb  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402

WORDS = (
    "chart",
    "shows",
    "red",
    "blue",
    "green",
    "bars",
    "above",
    "axis",
    "value",
    "left",
    "third",
    "row",
    "seven",
    "look",
    "again",
)
FAMILIES = ("count", "compare", "place", "claims", "chart", "geometry", "table", "science")
STEPS = 100
PATIENCE = 120_000
"""Milliseconds that a step may take on a busy machine."""
FILTERS: dict[str, str] = {  # kind of rows and filter -> what a person does
    "traces status": "chip:kept",
    "traces family": "chip:chart",
    "traces text": "text:look again",
    "traces rare text": "text:needle 4711",
    "traces text that is a key": "text:trace",
    "traces text not ascii": "text:größe",
    "traces number": "number:tokens:1000",
    "sft text": "text:above axis",
    "completions text": "text:look again",
    "completions reward": "number:reward:1",
}
SOURCES = {"traces": "build/traces.jsonl", "sft": "build/sft.jsonl", "completions": "grpo/completions"}
# In the page, where no question over the wire becomes part of the figure: seconds until the list is whole, whatever changes it.
WHOLE = """(act) => new Promise((done) => {
  const list = document.querySelector("#list"), before = list.dataset.ready, begun = performance.now();
  const watch = new MutationObserver(() => {
    if (list.dataset.ready === before) return;
    watch.disconnect();
    requestAnimationFrame(() => done((performance.now() - begun) / 1000));
  });
  watch.observe(list, { attributes: true });
  const [kind, ...rest] = act.split(":"), at = (id) => document.getElementById(id);
  const set = (one, value, event) => { one.value = value; one.dispatchEvent(new Event(event)); };
  if (kind === "clear") at("clear").click();
  if (kind === "chip") {
    const chip = [...document.querySelectorAll(".chip")].find((one) => one.innerText.startsWith(rest[0]));
    const select = [...document.querySelectorAll("#facets select")].find((one) => [...one.options].some((o) => o.value === rest[0]));
    if (chip) chip.click(); else set(select, rest[0], "change");
  }
  if (kind === "text") set(at("text"), rest.join(":"), "input");
  if (kind === "number") { set(at("range-name"), rest[0], "change"); set(at("range-min"), rest[1], "input"); }
  if (kind === "source") [...document.querySelectorAll("#sources button")].find((one) => one.dataset.name === rest[0]).click();
})"""
SHOTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "traces-wide": ({}, "source=build/traces.jsonl&is.status=kept&min.rounds=2", ("j", "j", "j")),
    "completions-dark": ({"color_scheme": "dark"}, "source=grpo/completions&order=-advantage", ("j", "j")),
    "sft-narrow": (
        {"viewport": {"width": 390, "height": 844}},
        "source=build/sft.jsonl&is.mask=some masked",
        ("j", "Enter"),
    ),
    "curves-wide": ({}, "source=grpo/log.jsonl", ()),
}


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def write_rows(folder: Path, rows: int) -> None:
    """A run of ``rows`` traces, SFT rows and completions."""
    import pandas as pd

    rng = random.Random(0)
    texts = [" ".join(sentence(rng, 12) for _ in range(12)) for _ in range(500)]
    for name in ("build", "grpo/completions", "problems/train", "stages"):
        (folder / name).mkdir(parents=True)
    with open(folder / "problems/train/problems.jsonl", "w") as file:
        for n in range(rows):
            meta = {"family": FAMILIES[n % len(FAMILIES)]}
            one = {
                "id": f"p{n}",
                "source": "made",
                "domain": "number",
                "images": [f"images/{n}.png"],
                "answer": "7",
                "meta": meta,
            }
            file.write(json.dumps({**one, "question": sentence(rng, 12)}) + "\n")
    with open(folder / "build/traces.jsonl", "w") as file:
        for n in range(rows):
            status = rng.choices(("kept", "wrong", "no_reflection", "error"), (6, 2, 3, 1))[0]
            said = [
                {
                    "request": sentence(rng, 9),
                    "reply": texts[rng.randrange(500)][:300],
                    "conclusion": texts[rng.randrange(500)][:300],
                    "answer": "7",
                    "verdict": k == 1,
                }
                for k in range(2)
            ]
            text = f"{texts[n % 500]} Wait, let me look again. {'Größe 7. ' if n % 9 == 0 else ''}Needle {n}."
            head = {
                "schema_version": 1,
                "id": f"p{n}#0",
                "problem_id": f"p{n}",
                "status": status,
                "error": "",
                "why": "",
            }
            file.write(
                json.dumps(
                    {
                        **head,
                        "rounds": said,
                        "trace": text,
                        "answer": "7",
                        "looks": 1,
                        "corrected": [],
                        "usage": {"tokens": 300 + n % 2000, "repairs": 0},
                    },
                    ensure_ascii=False,
                )
                + "\n"
            )
    with open(folder / "build/sft.jsonl", "w") as file:
        for n in range(rows):
            prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sentence(rng, 12)}]}]
            row = {
                "prompt": prompt,
                "completion": f"<think> {texts[n % 500]} </think> \\boxed{{7}}",
                "images": [f"{n}.png"],
                "masked": [[8, 20]],
                "mode": "think",
                "problem_id": f"p{n}",
                "relooks": 1,
            }
            file.write(json.dumps(row) + "\n")
    for step in range(STEPS):
        n = rows // STEPS
        correct = [float(rng.random() < 0.5) for _ in range(n)]
        table = {
            "step": [step + 1] * n,
            "prompt": [f"<image>{texts[i // 8 % 500][:80]}" for i in range(n)],
            "completion": [
                f"{texts[rng.randrange(500)]} Let me look again. {texts[rng.randrange(500)]}" for _ in range(n)
            ],
            "accuracy": correct,
            **{
                name: [rng.random() for _ in range(n)] for name in ("format", "attention_ratio", "repetition", "length")
            },
            "problem": [f"p{rng.randrange(rows)}" for _ in range(n)],
            "reward": correct,
            "sentences": [json.dumps([[i * 40, i * 40 + 38, 0.3, 1.1] for i in range(20)])] * n,
            "advantage": [rng.gauss(0, 1) for _ in range(n)],
        }
        pd.DataFrame(table).to_parquet(folder / f"grpo/completions/completions_{step + 1:05d}.parquet")


def start_viewer(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command; returns its process and the address of the page."""
    command = [sys.executable, "-m", "reflection_v.cli", "view", str(folder), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    if found is None:
        raise SystemExit("The viewer did not start: see above.")
    return server, found[0]


def processor_seconds(process: int) -> float:
    """Seconds that a process has used of the processor, whatever else runs on the machine."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(browser: Any, folder: Path, rows: int, runs: int) -> dict[str, Any]:
    """Open each kind of rows ``runs`` times with a new server, then change the filters."""
    first, opened, filtered = [], {name: [] for name in SOURCES}, {name: [] for name in FILTERS}  # type: ignore[var-annotated]
    busy: dict[str, list[float]] = {name: [] for name in SOURCES}
    most = 0.0
    for _ in range(runs):
        for name, source in SOURCES.items():
            begun = time.perf_counter()
            server, address = start_viewer(folder)
            try:
                page = browser.new_page()
                page.set_default_timeout(PATIENCE)
                page.goto(f"{address}#source={source}")
                page.wait_for_selector(".item")
                if name == "traces":
                    first.append(time.perf_counter() - begun)
                page.wait_for_selector("#list[data-ready]", state="attached")
                opened[name].append(time.perf_counter() - begun)
                busy[name].append(processor_seconds(server.pid))
                total = page.inner_text("#count")
                if total != f"{rows:,} of {rows:,} rows":
                    raise SystemExit(f"{name}: {total}")
                for title, act in FILTERS.items():
                    if title.split()[0] == name:
                        filtered[title].append(page.evaluate(WHOLE, act))
                        page.evaluate(WHOLE, "clear")
                most = max(most, resident_mb(server.pid, "VmHWM"))
                page.close()
            finally:
                server.terminate()
                server.wait(30)
    return {
        "first_rows_seconds": round(statistics.median(first), 2),
        "open_seconds": {name: round(statistics.median(times), 2) for name, times in opened.items()},
        "open_processor_seconds": {name: round(statistics.median(times), 2) for name, times in busy.items()},
        "open_worst": round(max(max(times) for times in opened.values()), 2),
        "filter_seconds": {name: round(statistics.median(times), 2) for name, times in filtered.items()},
        "filter_worst": round(max(max(times) for times in filtered.values()), 2),
        "server_mb_highest": round(most),
    }


def shoot(browser: Any, folder: Path, into: Path) -> None:
    """Screenshots of a folder's rows."""
    into.mkdir(parents=True, exist_ok=True)
    server, address = start_viewer(folder)
    try:
        for name, (options, where, keys) in SHOTS.items():
            page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"{address}#{where}")
            page.wait_for_selector("#list[data-ready]", state="attached")
            for key in keys:
                page.keyboard.press(key)
                page.wait_for_timeout(400)
            page.wait_for_timeout(600)
            page.screenshot(path=into / f"viewer-{name}.png")
    finally:
        server.terminate()
        server.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="once instead of three times")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--write", type=Path, metavar="DIR", help="leave screenshots there; measures nothing")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "tiny", help="what the screenshots show")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        if args.write:
            shoot(browser, args.folder, args.write)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), args.rows)
            sizes = {
                name: sum(
                    one.stat().st_size
                    for one in [Path(folder, source), *Path(folder, source).glob("*")]
                    if one.is_file()
                )
                for name, source in SOURCES.items()
            }
            figures = measure(browser, Path(folder), args.rows, 1 if args.quick else 3)
        figures |= {"rows": args.rows, "megabytes": {name: round(size / 2**20) for name, size in sizes.items()}}
        figures |= {**surroundings("default", "pyarrow", "playwright"), "chromium": browser.version}
        browser.close()
    limits = {"open_worst": lambda seconds: seconds <= 3, "filter_worst": lambda seconds: seconds <= 1}
    return report(figures, limits if args.rows <= 50_000 else {}, args.json)


if __name__ == "__main__":
    sys.exit(main())
