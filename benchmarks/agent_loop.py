"""The agent loop against servers on loopback, and with scripted models: time over the ideal, share of a server, CPU time, memory, resume.

    python benchmarks/agent_loop.py --quick
    python benchmarks/agent_loop.py --part scripted                      # 100,000 episodes, of which 6,000 are played
    python benchmarks/agent_loop.py --part scripted --played 100000      # all of them are played

1. ``time_over_ideal``: a server with a fixed 400 ms reply, 500 episodes of 3 calls, 64 requests at once. The ideal is
   500 x 3 x 0.4 s / 64 = 9.4 s. Nothing is faked on our side: the official client, images in base64, every reply
   fsynced before it is used. The server is a second process on the same machine. ``cpu_ms_per_served_episode`` is the CPU
   time of the build's process, of which the official client takes most. The episodes share 16 images, which are encoded
   once while they are in use; ``own_images`` holds the same two figures for a build in which every episode has an image of its own.
2. ``memory_growth``: resident memory of one build at its last episode (3,000; 10,000 in the full run) over that at
   episode 500, minus 1.
3. ``server_share``: ``transformers serve`` with the tiny VLM. Requests/s of the agent loop over those of a bare load
   generator that sends the very same request bodies over plain HTTP, both 8 at a time. Runs alternate; medians.
4. ``cpu_ms_per_episode``: CPU time of a whole build with scripted models, which reply with texts as long as those of large models,
   the verifiers' processes included. ``peak_memory_mb`` of a build with 10,000 and with 100,000 finished episodes that plays 500
   more and derives everything; ``peak_memory_growth`` between the two; ``resume_seconds`` from the start of the process with
   100,000 finished episodes until its first request (``agent_scale.py``). With ``--quick`` 300 and 3,000 in place of these.
"""

import argparse
import asyncio
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.agent_scale import MUST_HOLD as SCALE_MUST_HOLD  # noqa: E402
from benchmarks.agent_scale import PLAYED, SIZES, measure_scale  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.jsonl import iter_log  # noqa: E402
from data_construction.agent import LoopConfig, Tokens  # noqa: E402
from data_construction.build import BuildConfig, run_build  # noqa: E402
from data_construction.roles import RoleConfig, RolesConfig  # noqa: E402
from vlm.problem import Problem, write_problems  # noqa: E402

MUST_HOLD = {
    "time_over_ideal": lambda value: value <= 1.25,
    "memory_growth": lambda value: value <= 0.10,
    "server_share": lambda value: value >= 0.90,
}
DELAY, AT_ONCE, CALLS = 0.4, 64, 3
ONE_ROUND = LoopConfig(rounds=1, confirm_share=0.0, tokens=Tokens(request=8, reply=8, conclusion=8, rewrite=8))


def start(*command: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; returns its process and the first line that it prints."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def write_set(folder: Path, n: int, images: int = 16) -> None:
    """``n`` problems over so many images of 192 x 192 noise, which no answer of the servers solves: 3 calls an episode."""
    from PIL import Image

    rng = random.Random(0)
    folder.mkdir()
    for number in range(images):
        Image.frombytes("RGB", (192, 192), rng.randbytes(192 * 192 * 3)).save(folder / f"{number}.png")
    rows = [
        Problem(
            id=f"p{i:05d}",
            source="bench",
            domain="count",
            images=[f"{i % images}.png"],
            question=f"How many of kind {i}?",
            answer="7",
        )
        for i in range(n)
    ]
    write_problems(rows, folder)


def config(folder: Path, url: str, name: str, concurrency: int) -> BuildConfig:
    served, limits = f"openai:m@{url}", RoleConfig(concurrency=concurrency)
    return BuildConfig(
        problems=str(folder / "set"),
        out=str(folder / name),
        model=served,
        reasoner=served,
        prompts="short",
        roles=RolesConfig(reasoner=limits, responder=limits),
        concurrency=2 * concurrency,  # while some episodes wait for the disk, others fill the server
        loop=ONE_ROUND,
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rows_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def watch(path: Path, over: threading.Event, memory: dict[int, int]) -> None:
    """Note the resident memory beside the number of finished episodes, every half second."""
    while not over.wait(0.5):
        memory[rows_of(path)] = resident_bytes()


def build(settings: BuildConfig, expected: int) -> tuple[float, dict[int, int]]:
    """(seconds from the first request to the last trace, finished episodes -> resident bytes)."""
    out, over, memory = Path(settings.out), threading.Event(), {}
    thread = threading.Thread(target=watch, args=(out / "traces.jsonl", over, memory))
    thread.start()
    began = time.perf_counter()
    counts = run_build(settings)
    seconds = time.perf_counter() - began
    over.set()
    thread.join()
    assert counts["wrong"] == expected, counts
    return seconds, memory


def measure_delay(folder: Path, runs: int, episodes: int) -> dict[str, Any]:
    server, url = start("-m", "benchmarks.loopback_server", "--delay", str(DELAY))
    try:
        write_set(folder / "set", 500)
        ideal = 500 * CALLS * DELAY / AT_ONCE
        used = time.process_time()
        seconds = [build(config(folder, url, f"time{run}", AT_ONCE), 500)[0] for run in range(runs)]
        used = time.process_time() - used
        (folder / "set").rename(folder / "small")
        write_set(folder / "set", 500, images=500)
        used_own = time.process_time()
        seconds_own, _ = build(config(folder, url, "own", AT_ONCE), 500)
        used_own = time.process_time() - used_own
        (folder / "set").rename(folder / "own_set")
        write_set(folder / "set", episodes)
        _, memory = build(config(folder, url, "memory", AT_ONCE), episodes)
    finally:
        server.kill()
        server.wait()
    # The last sample before the last episode: later ones include the memory of all traces, not of the loop.
    last = max(count for count in memory if count < episodes)
    first = memory[min(count for count in memory if count >= 500)]
    return {
        "time_over_ideal": round(statistics.median(seconds) / ideal, 3),
        "seconds": [round(one, 2) for one in seconds],
        "ideal_seconds": round(ideal, 2),
        "cpu_seconds": round(used / runs, 2),  # of our process, for one build: what the machine must have to spare
        "cpu_ms_per_served_episode": round(1000 * used / runs / 500, 2),
        "own_images": {
            "time_over_ideal": round(seconds_own / ideal, 3),
            "cpu_ms_per_served_episode": round(1000 * used_own / 500, 2),
        },
        "memory_growth": round(memory[last] / first - 1, 4),
        "memory_mb": {"at_500": round(first / 2**20, 1), f"at_{last}": round(memory[last] / 2**20, 1)},
        "memory_episodes": episodes,
        "memory_mb_with_all_traces": round(memory[max(memory)] / 2**20, 1),
    }


async def bare(bodies: list[bytes], url: str, at_once: int) -> float:
    """Requests per second of a load generator that does nothing else."""
    import httpx

    queue = iter(bodies)
    limits, headers = httpx.Limits(max_connections=at_once), {"Content-Type": "application/json"}
    async with httpx.AsyncClient(timeout=300, limits=limits, headers=headers) as client:

        async def work() -> None:
            for body in queue:
                reply = await client.post(f"{url}/chat/completions", content=body)
                reply.raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return len(bodies) / (time.perf_counter() - began)


def start_served_model() -> tuple[subprocess.Popen[str], str, str]:
    """``transformers serve`` on the tiny VLM: process, URL, model name."""
    import socket

    model = ROOT / "vlm" / "models" / "tiny-vlm"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--host", "127.0.0.1"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"], env=environment, text=True, stdout=subprocess.DEVNULL
    )
    return process, f"http://127.0.0.1:{port}/v1", str(model)


def wait_for(url: str, process: subprocess.Popen[str], seconds: float = 180) -> None:
    import urllib.error
    import urllib.request

    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url.removesuffix('/v1')}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"The server at {url} did not start.")


def measure_served(folder: Path, pairs: int, episodes: int, at_once: int = 8) -> dict[str, Any]:
    process, url, model = start_served_model()
    try:
        wait_for(url, process)
        write_set(folder / "served", episodes)
        (folder / "set").rename(folder / "large")
        (folder / "served").rename(folder / "set")
        settings = config(folder, url, "record", at_once).model_copy(
            update={"model": f"openai:{model}@{url}", "reasoner": f"openai:{model}@{url}"}
        )
        bodies: list[bytes] = []
        with recording(bodies):
            run_build(settings)  # warms the server up as well
        ours, theirs = [], []
        for pair in range(pairs):
            theirs.append(asyncio.run(bare(bodies, url, at_once)))
            out = folder / f"served{pair}"
            began = time.perf_counter()
            run_build(settings.model_copy(update={"out": str(out)}))
            seconds = time.perf_counter() - began
            ours.append(sum(1 for _ in iter_log(out / "replies.jsonl")) / seconds)
    finally:
        process.kill()
        process.wait()
    shares = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {
        "server_share": round(statistics.median(shares), 3),
        "requests_per_second": {"loop": [round(x, 2) for x in ours], "bare": [round(x, 2) for x in theirs]},
        "server_requests": len(bodies),
        "server_pairs": pairs,
    }


class recording:
    """Keeps the body of every request that the official client sends."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.bodies = bodies

    def __enter__(self) -> None:
        from openai import AsyncOpenAI

        self.plain = AsyncOpenAI.post
        plain, bodies = self.plain, self.bodies

        @functools.wraps(plain)  # the backend looks at its arguments
        async def post(client: Any, path: str, **settings: Any) -> Any:
            bodies.append(next(settings[key] for key in ("content", "body") if settings.get(key) is not None))
            return await plain(client, path, **settings)

        AsyncOpenAI.post = post  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        from openai import AsyncOpenAI

        AsyncOpenAI.post = self.plain  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one timed run, 3,000 episodes, fewer served requests")
    parser.add_argument("--part", choices=("all", "served", "scripted"), default="all")
    parser.add_argument("--played", type=int, default=PLAYED, help="scripted episodes that are played, not copied")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args()
    import openai  # noqa: F401  # a second of import that no build of thousands of episodes notices

    stdout = sys.stdout
    if args.json:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the builds' own lines
    load = os.getloadavg()
    figures: dict[str, Any] = {}
    must_hold: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.part != "scripted":
            runs, episodes = (1, 3000) if args.quick else (3, 10_000)
            figures |= {"n": 500 * runs, **measure_delay(Path(folder), runs, episodes)}
            print(json.dumps(figures), file=sys.stderr)
            figures |= measure_served(Path(folder), *((3, 40) if args.quick else (5, 100)))
            must_hold |= MUST_HOLD
        if args.part != "served":
            played, sizes = (600, (300, 3000)) if args.quick else (args.played, SIZES)
            (Path(folder) / "scripted").mkdir()
            figures |= measure_scale(Path(folder) / "scripted", played, sizes)
            must_hold |= SCALE_MUST_HOLD
    sys.stdout = stdout
    figures |= {**surroundings(1, "openai", "transformers"), "load_average_before": round(load[0], 2)}
    return report(figures, must_hold, args.json)


if __name__ == "__main__":
    sys.exit(main())
