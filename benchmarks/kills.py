"""Kill every stage at random moments and compare what comes out in the end: ``python benchmarks/kills.py [--json]``.

    python benchmarks/kills.py --kills 20 --jobs 2
    python benchmarks/kills.py --stage sft --stage eval --kills 4 --seed 1

Each stage runs once uninterrupted. Then the same command is given again and again in another folder and killed each time;
when an attempt ends before its kill, the result is compared and the next course begins in a fresh folder, until ``--kills``
kills have met a living process. ``benchmarks/kill_stages.py`` says what is compared: equal but for times, nothing twice, no
file more or less. ``differences`` and ``orphans`` (child processes that outlive a kill) must be 0.

A kill comes before the first row of work (imports, loading), during the work, or after its last row; SIGKILL and SIGTERM take
turns, and so do the main process alone and its whole process group. SIGTERM must give exit code 75, or 0 once all is done.
Finished stages stay in --out and are not run again while the code is the same. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kill_attempts import Attempt, Kill, Life, live, strike, wait_for_moment  # noqa: E402
from benchmarks.kill_stages import KilledStage, make_stages, write_inputs  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.jsonl import write_json_atomic  # noqa: E402
from configs.run_dir import changes  # noqa: E402
from configs.stopping import INTERRUPTED, TERMINATED  # noqa: E402

NAMES = ("build", "sft", "grpo", "improve", "eval", "audit", "ask")
MUST_HOLD = {"differences": lambda found: not found, "orphans": lambda found: not found}
PHASES = ("work", "start", "end", "work", "work")  # an odd number: either signal comes in every phase
NUMBER = re.compile(r"\d+")


def plan(kills: int, seed: int, name: str) -> list[Kill]:
    """Signals in turn, targets in turn of two, phases as in ``PHASES``, moments at random; 20 kills have every combination."""
    draw = random.Random(f"kills/{seed}/{name}")
    first = draw.randrange(4)
    ways = [("SIGKILL", False), ("SIGTERM", False), ("SIGKILL", True), ("SIGTERM", True)]
    return [Kill(*ways[(first + n) % 4], PHASES[n % len(PHASES)], round(draw.random(), 3)) for n in range(kills)]


def compare(stage: KilledStage, reference: Mapping[str, Any], folder: Path) -> list[str]:
    """What a finished folder has otherwise than the uninterrupted run, and its faults."""
    try:
        changed = changes(reference, stage.result(folder))
        found = [f"{place}: {how}" for place, how in changed.items()] + stage.faults(folder)
    except Exception as error:  # whatever a kill has left unreadable is a difference
        found = [f"the result cannot be read: {type(error).__name__}: {error}"]
    kinds: dict[str, list[str]] = {}
    for one in found:  # places that differ only in their numbers are of one kind, and the first one stands for all
        kinds.setdefault(NUMBER.sub("N", one.split(":")[0]), []).append(one)
    return [one[0] + (f" (and {len(one) - 1} like it)" if len(one) > 1 else "") for one in kinds.values()]


class Benchmark:
    """The stages and their uninterrupted runs in one folder.

    Args:
        stages: in place of those of ``kill_stages``, which are made where none are given.
    """

    def __init__(self, out: Path, kills: int, seed: int, stages: Mapping[str, KilledStage] | None = None) -> None:
        self.out, self.kills, self.seed = out.resolve(), kills, seed
        self.settings = {"kills": kills, "seed": seed, "code": code_sha256()}
        self._locks = {name: threading.Lock() for name in stages or NAMES}
        if stages is None:
            self._clear_other_code()
            stages = make_stages(write_inputs(self.out / "inputs"), self.out / "sft" / "reference")
        self.stages = stages

    def _clear_other_code(self) -> None:
        """Uninterrupted runs of other code are no reference."""
        file = self.out / "code.json"
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != self.settings["code"]:
            for name in (*NAMES, "inputs"):
                shutil.rmtree(self.out / name, ignore_errors=True)
        write_json_atomic(file, self.settings["code"])

    def reference(self, name: str) -> Life:
        """The uninterrupted run, made where it is not there."""
        stage, file = self.stages[name], self.out / name / "reference.json"
        if stage.needs:
            self.reference(stage.needs)
        with self._locks[name]:
            if not file.exists():
                shutil.rmtree(self.out / name / "reference", ignore_errors=True)
                life = live(stage, self.out / name / "reference", self.out / name / "logs" / "reference.log")
                if faults := stage.faults(self.out / name / "reference"):
                    raise SystemExit(f"{name} is at fault without any kill: {'; '.join(faults)}")
                write_json_atomic(file, asdict(life))
            return Life(**json.loads(file.read_text(encoding="utf-8")))

    def run(self, name: str) -> dict[str, Any]:
        """Kill one stage; its row of the report. What a finished one found is kept beside it."""
        file = self.out / name / "result.json"
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept.pop("settings") == self.settings:
                return kept
        began = time.monotonic()
        life, stage = self.reference(name), self.stages[name]
        reference = json.loads(json.dumps(stage.result(self.out / name / "reference")))
        for old in (self.out / name).glob("course-*"):
            shutil.rmtree(old)
        wrong: list[str] = []
        orphans: list[str] = []
        landed: list[Kill] = []
        waiting = plan(self.kills, self.seed, name)
        course, attempts, finished = 1, 0, False
        while waiting or not finished:
            folder, after = self.out / name / f"course-{course}", "its own end"
            attempts += 1
            with Attempt(stage, folder, self.out / name / "logs" / f"attempt-{attempts}.log") as attempt:
                if waiting:
                    wait_for_moment(attempt, waiting[0], life)
                else:
                    attempt.process.wait()
                finished = attempt.ended()
                if not finished:
                    kill = waiting.pop(0)
                    kill.course = course
                    faults, after = strike(attempt, kill, stage, folder), kill.words()
                    landed.append(kill)
                    say(f"{name} {len(landed)}/{self.kills}: {after}")
                elif attempt.process.returncode:
                    faults = [f"exit {attempt.process.returncode} without a kill: {attempt.last_words()}"]
                else:
                    faults = compare(stage, reference, folder)
                orphans += [f"{name}, course {course}, after {after}: {one}" for one in attempt.left_behind()]
            wrong += [f"{name}, course {course}: {fault}" for fault in faults]
            if finished:
                say(f"{name}: course {course} ended after {attempts} attempts, {len(faults)} differences")
                if not faults:
                    shutil.rmtree(folder)
                course += 1
                if waiting and attempt.before < life.rows:  # it ended before its kill: the next one comes earlier
                    waiting[0].share /= 2
            if attempts > 4 * self.kills + 10:
                wrong.append(f"{name}: given up after {attempts} attempts, {len(waiting)} kills had not met a process")
                break
        row = {
            "stage": name,
            "sigkill": sum(kill.signal == "SIGKILL" for kill in landed),
            "sigterm": sum(kill.signal == "SIGTERM" for kill in landed),
            "attempts": attempts,
            "seconds": round(time.monotonic() - began, 1),
            "uninterrupted_seconds": round(life.end, 1),
            "differences": wrong,
            "orphans": orphans,
            "kills": [asdict(kill) for kill in landed],
        }
        write_json_atomic(file, {**row, "settings": self.settings})
        return row


def code_sha256() -> str:
    """Of all source files and configs."""
    files = sorted(file for ending in ("*.py", "*.yaml") for file in ROOT.glob(f"[a-z]*/**/{ending}"))
    files = [file for file in files if file.relative_to(ROOT).parts[0] not in ("runs", "tests", "build")]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def stop(number: int, frame: object) -> None:
    """End what runs, and this process; the stage under way is done again from its beginning."""
    say(f"Stopped by {signal.Signals(number).name}; the same command goes on with the stages that are left.")
    for attempt in list(Attempt.running):
        if not attempt.ended():
            attempt.send(signal.SIGKILL, True)
    os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: a row a stage."""
    lines = ["| stage | SIGKILL | SIGTERM | attempts | seconds | differences | orphans |", "|---" * 7 + "|"]
    for row in rows:
        counts = [len(row[key]) for key in ("differences", "orphans")]
        cells = [row[key] for key in ("stage", "sigkill", "sigterm", "attempts", "seconds")] + counts
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=NAMES, help="may be repeated; all where none is given")
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--jobs", type=int, default=1, help="stages at once, each on one core")
    parser.add_argument("--quick", action="store_true", help="three kills a stage")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    benchmark = Benchmark(options.out, 3 if options.quick else options.kills, options.seed)
    with ThreadPoolExecutor(options.jobs) as threads:
        rows = list(threads.map(benchmark.run, options.stage or NAMES))
    found = {key: [one for row in rows for one in row[key]] for key in ("differences", "orphans")}
    if not options.json:
        print(table(rows))
        print("\n".join(one for kind in found.values() for one in kind))
    figures = {
        "rows": [{key: row[key] for key in row if key not in (*found, "kills")} for row in rows],
        **found,
        "kills": sum(row["sigkill"] + row["sigterm"] for row in rows),
        **surroundings(1, "torch", "transformers", "trl"),
    }
    return report(figures, MUST_HOLD, json_only=True)


if __name__ == "__main__":
    sys.exit(main())
