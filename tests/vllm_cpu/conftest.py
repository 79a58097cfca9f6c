"""Fixtures of the tests that run vLLM's CPU build (``make test-vllm``).

The folder is not named ``vllm``: pytest puts ``tests/`` on the import path, where TRL and transformers would take a folder of
that name for the library.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.versions import is_installed

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # a machine without NUMA information has nothing to bind to
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the colocated engine runs in the process of the test, where it can be looked into
}
TINY = Path(__file__).parents[2] / "vlm" / "models" / "tiny-vlm"
FLAGS = ("--enforce-eager", "--max-model-len", "1024", "--dtype", "float32")
LIMIT = ("--limit-mm-per-prompt", json.dumps({"image": 4, "video": 0}))
STARTING = 1800
"""Seconds: how long a busy machine may take to start a server."""

if is_installed("vllm"):
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session", autouse=True)
def needs_vllm() -> None:
    """Without vLLM every test of this folder fails, and says which command runs it."""
    if not is_installed("vllm"):
        pytest.fail("vLLM is not installed here: 'make test-vllm' builds an environment with it and runs these tests.")


@dataclass
class VllmServer:
    """A running ``vllm serve``."""

    port: int
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def model(self) -> str:
        """The server as the command line names it."""
        return f"openai:{self.name}@{self.address}/v1"

    def wait(self) -> None:
        """Wait until it answers; fail with the end of its log if it ended."""
        began = time.monotonic()
        while time.monotonic() - began < STARTING:
            if self.process.poll() is not None:
                break
            with suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5)
                return
            time.sleep(0.5)
        raise RuntimeError(f"vllm serve does not answer:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server and the processes that it started."""
        import psutil

        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for process in [*family, self.process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VllmServer]]:
    """A function that starts ``vllm serve`` for a model, with further flags. Calls with the same arguments share one server."""
    running: dict[tuple[object, ...], VllmServer] = {}

    def start(model: Path = TINY, *flags: str, name: str = "tiny", env: tuple[tuple[str, str], ...] = ()) -> VllmServer:
        key = (model, flags, name, env)
        if key not in running or running[key].process.poll() is not None:
            port = free_port()
            log = tmp_path_factory.mktemp("vllm") / "serve.log"
            command = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--served-model-name", name]
            command += ["--host", "127.0.0.1", "--port", str(port), *FLAGS, *LIMIT, *flags]
            # In the process group of pytest: what ends the tests from outside ends the server too.
            with open(log, "wb") as file:
                process = subprocess.Popen(
                    command, env={**os.environ, **dict(env)}, stdout=file, stderr=subprocess.STDOUT
                )
            running[key] = VllmServer(port, name, process, log)
        running[key].wait()
        return running[key]

    yield start
    for server in running.values():
        server.stop()


@pytest.fixture(scope="session")
def vllm_server(serve: Callable[..., VllmServer]) -> VllmServer:
    """The bundled tiny VLM behind ``vllm serve`` on a free port, one for all tests. ``vllm_server.model`` is its MODEL."""
    return serve()


@pytest.fixture(scope="session")
def mixed_problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six bundled problems. Every three of them, which make one step, have 0, 1 and 3 images, those of unequal size."""
    from PIL import Image

    from data_construction.sources import write_set

    file = write_set("scenes", 6, 0, "train", tmp_path_factory.mktemp("data"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        if number % 3 == 0:
            row["images"] = []
        if number % 3 == 2:
            for width, height in ((128, 96), (96, 160)):
                name = f"images/{number}-{width}.png"
                Image.open(file.parent / rows[number - 1]["images"][0]).resize((width, height)).save(file.parent / name)
                row["images"].append(name)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
