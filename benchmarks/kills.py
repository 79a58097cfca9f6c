"""Kill every stage at random moments and compare the final results: ``python benchmarks/kills.py [--json]``.

    python benchmarks/kills.py --kills 20 --jobs 2
    python benchmarks/kills.py --stage sft --stage eval --kills 4 --seed 1

Each stage runs once uninterrupted. Then the same command is given repeatedly in another folder and killed each time. If an
attempt ends before its kill, its result is compared and the next course begins in a new folder, until ``--kills`` kills have
hit a running process. ``benchmarks/kill_stages.py`` defines the comparison: results are equal except for times, no row is
there twice, and no file is missing or extra. ``differences`` and ``orphans`` (child processes that outlive a kill) must be 0.

A kill comes before the first row of work (imports, loading), during the work, or after the last row. SIGKILL and SIGTERM
alternate, and so do the main process alone and its whole process group. After SIGTERM the exit code must be 75, or 0 if all is
done. Results of finished stages in --out are reused while the code is the same. The last line is one JSON object.
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

NAMES = ("build", "shard", "sft", "grpo", "improve", "eval", "audit", "ask")
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
    """The differences between a finished folder and the uninterrupted run, and the folder's faults."""
    try:
        changed = changes(reference, stage.result(folder))
        found = [f"{place}: {how}" for place, how in changed.items()] + stage.faults(folder)
    except Exception as error:  # an unreadable result is a difference, too
        found = [f"the result cannot be read: {type(error).__name__}: {error}"]
    kinds: dict[str, list[str]] = {}
    for one in found:  # group places that differ only in numbers; the first one represents its group
        kinds.setdefault(NUMBER.sub("N", one.split(":")[0]), []).append(one)
    return [one[0] + (f" (and {len(one) - 1} like it)" if len(one) > 1 else "") for one in kinds.values()]


class Benchmark:
    """The stages and their uninterrupted runs in one folder.

    Args:
        stages: None means those of ``kill_stages``.
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
        """Delete uninterrupted runs of other code, since results may differ between versions."""
        file = self.out / "code.json"
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != self.settings["code"]:
            for name in (*NAMES, "inputs"):
                shutil.rmtree(self.out / name, ignore_errors=True)
        write_json_atomic(file, self.settings["code"])

    def reference(self, name: str) -> Life:
        """The uninterrupted run of a stage; runs it if it is missing."""
        stage, file = self.stages[name], self.out / name / "reference.json"
        if stage.needs:
            self.reference(stage.needs)
        with self._locks[name]:
            if not file.exists():
                shutil.rmtree(self.out / name / "reference", ignore_errors=True)
                life = live(stage, self.out / name / "reference", self.out / name / "logs" / "reference.log")
                if faults := stage.faults(self.out / name / "reference"):
                    raise SystemExit(f"{name} has faults without any kill: {'; '.join(faults)}")
                write_json_atomic(file, asdict(life))
            return Life(**json.loads(file.read_text(encoding="utf-8")))

    def run(self, name: str) -> dict[str, Any]:
        """Kill one stage; returns its row of the report. The row of a finished stage is read from its folder."""
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
        differences: list[str] = []
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
            differences += [f"{name}, course {course}: {fault}" for fault in faults]
            if finished:
                say(f"{name}: course {course} ended after {attempts} attempts, {len(faults)} differences")
                if not faults:
                    shutil.rmtree(folder)
                course += 1
                if waiting and attempt.before < life.rows:  # it ended before its kill, so the next kill comes earlier
                    waiting[0].share /= 2
            if attempts > 4 * self.kills + 10:
                differences.append(
                    f"{name}: given up after {attempts} attempts, {len(waiting)} kills had not met a process"
                )
                break
        row = {
            "stage": name,
            "sigkill": sum(kill.signal == "SIGKILL" for kill in landed),
            "sigterm": sum(kill.signal == "SIGTERM" for kill in landed),
            "attempts": attempts,
            "seconds": round(time.monotonic() - began, 1),
            "uninterrupted_seconds": round(life.end, 1),
            "differences": differences,
            "orphans": orphans,
            "kills": [asdict(kill) for kill in landed],
        }
        write_json_atomic(file, {**row, "settings": self.settings})
        return row


def code_sha256() -> str:
    """The SHA-256 over all source files and configs."""
    files = sorted(file for ending in ("*.py", "*.yaml") for file in ROOT.glob(f"[a-z]*/**/{ending}"))
    files = [file for file in files if file.relative_to(ROOT).parts[0] not in ("runs", "tests", "build")]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def stop(number: int, frame: object) -> None:
    """End the running attempts and this process. The next call starts an unfinished stage from its beginning."""
    say(f"Stopped by {signal.Signals(number).name}; the same command runs the remaining stages.")
    for attempt in list(Attempt.running):
        if not attempt.ended():
            attempt.send(signal.SIGKILL, True)
    os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| stage | SIGKILL | SIGTERM | attempts | seconds | differences | orphans |", "|---" * 7 + "|"]
    for row in rows:
        counts = [len(row[key]) for key in ("differences", "orphans")]
        cells = [row[key] for key in ("stage", "sigkill", "sigterm", "attempts", "seconds")] + counts
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=NAMES, help="may be repeated; default: all")
    parser.add_argument("--kills", type=int, default=20, help="kills per stage")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--jobs", type=int, default=1, help="stages at once, each on one core")
    parser.add_argument("--quick", action="store_true", help="three kills per stage")
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
