"""CPU time, memory and resume of the agent loop with 100,000 scripted episodes; a part of ``agent_loop.py``.

    python -m benchmarks.agent_scale SET OUT      # one build, in a process of its own; prints a JSON object

``scripted_roles`` says what an episode costs. All else is real: prompts, image files, seeds, checks of each reply, verifiers in their
child process, every reply fsynced before it is used, filters and the cold-start set.

Some thousand episodes are played. A folder with 10,000 or 100,000 finished ones is then made of their rows: other ids, and other
colours, things and places in each copy, so that the copies are no near duplicates. The build is given 500 more problems, resumes
there, plays them and derives everything from all. With ``--played 100000`` nothing is copied.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = (10_000, 100_000)
PLAYED = 6000
FRESH = 500
"""Problems that are played on top of the finished ones."""
MUST_HOLD = {
    "cpu_ms_per_episode": lambda value: value <= 10,
    "peak_memory_growth": lambda value: value <= 0.25,
    "resume_seconds": lambda value: value <= 10,
}


def measure_scale(folder: Path, played: int = PLAYED, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Play some episodes, then resume folders with so many finished ones as ``sizes`` says."""
    from benchmarks.scripted_roles import write_scripted_set

    write_scripted_set(folder / "set", played)
    first = _build(folder / "set", folder / "out")
    resumed = {}
    for n in sizes:
        write_scripted_set(folder / f"set{n}", n + FRESH)
        grow(folder / "out", folder / f"out{n}", played, n)
        resumed[n] = _build(folder / f"set{n}", folder / f"out{n}")
    least, most = resumed[min(sizes)], resumed[max(sizes)]
    return {
        "cpu_ms_per_episode": first["cpu_ms_per_episode"],
        "calls_per_episode": first["calls_per_episode"],
        "peak_memory_mb": {f"at_{n}": one["peak_memory_mb"] for n, one in resumed.items()},
        "peak_memory_growth": round(most["peak_memory_mb"] / least["peak_memory_mb"] - 1, 3),
        "resume_seconds": most["resume_seconds"],
        "resume_cpu_seconds": most["resume_cpu_seconds"],
        "scripted_episodes": max(sizes),
        "played_episodes": played,
        "scripted_builds": {"played": first, **{f"at_{n}": one for n, one in resumed.items()}},
    }


def grow(source: Path, target: Path, played: int, n: int) -> None:
    """Make a build's folder with ``n`` finished episodes of the rows of one with ``played``."""
    target.mkdir()
    for name in ("replies.jsonl", "traces.jsonl"):
        lines = (source / name).read_bytes().splitlines(keepends=True)
        with open(target / name, "wb") as file:
            for copy in range(-(-n // played)):
                file.writelines(filter(None, map(_copier(copy, played, n), lines)))
    (target / "config.json").write_bytes((source / "config.json").read_bytes())


def _copier(copy: int, played: int, n: int) -> Callable[[bytes], bytes | None]:
    """What makes a row's copy of that number; None if there are ``n`` episodes already."""
    from benchmarks.scripted_roles import COLOURS, PLACES, THINGS

    other: dict[bytes, bytes] = {}
    for kind, by in ((COLOURS, copy), (THINGS, copy), (PLACES, copy // 24)):  # 192 copies differ
        other |= {one.encode(): kind[(at + by) % len(kind)].encode() for at, one in enumerate(kind)}
    pattern = re.compile(rb"\b(?:" + b"|".join(other) + rb")\b")
    given = re.compile(rb"scripted-(\d{6})")

    def made(line: bytes) -> bytes | None:
        found = given.search(line)
        assert found is not None
        number = int(found[1]) + copy * played
        if number >= n:
            return None
        line = given.sub(b"scripted-%06d" % number, line)
        return pattern.sub(lambda one: other[one[0]], line) if copy else line

    return made


def _build(problems: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.agent_scale", str(problems), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures = dict(json.loads(done.stdout.splitlines()[-1]))
    figures["resume_seconds"] = round(figures.pop("first_request") - began, 2)  # from the start of the process
    print(json.dumps({out.name: figures}), file=sys.stderr, flush=True)
    return figures


def cpu_seconds() -> float:
    """CPU seconds of this process and its children, the verifiers' workers."""
    import psutil

    times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(sum(one[:4]) for one in times)  # user, system, and those of children that ended


def peak_memory_mb() -> float:
    """The most resident memory so far. Not ``ru_maxrss``, which begins with that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def main(problems: str, out: str) -> None:
    """One build; the last line is a JSON object."""
    from benchmarks.scripted_roles import LOOP, ScriptedRole, scripted_roles
    from data_construction.build import run_build
    from data_construction.build_config import BuildConfig

    load, first, plain = os.getloadavg()[0], dict[str, float](), ScriptedRole.complete

    async def noted(self: ScriptedRole, request: Any) -> Any:
        if not first:
            first.update(first_request=time.monotonic(), resume_cpu_seconds=round(cpu_seconds(), 2))
            first["resume_peak_memory_mb"] = peak_memory_mb()
        return await plain(self, request)

    ScriptedRole.complete = noted  # type: ignore[method-assign]
    began = time.perf_counter()
    counts = run_build(BuildConfig(problems=problems, out=out, prompts="full", loop=LOOP), roles=scripted_roles())
    episodes = sum(counts[name] for name in ("kept", "wrong", "no_reflection", "filtered", "errors"))
    figures = {
        "episodes": episodes,
        "cpu_ms_per_episode": round(1000 * cpu_seconds() / episodes, 2),
        "calls_per_episode": round(sum(role["calls"] for role in counts["tokens_by_role"].values()) / episodes, 2),
        "peak_memory_mb": peak_memory_mb(),
        "seconds": round(time.perf_counter() - began, 1),
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        **first,
        **{name: counts[name] for name in ("kept", "wrong", "no_reflection", "errors", "filters")},
        "rows": counts["cold_start"]["rows"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
