"""The agent loop against two real ``transformers serve`` processes on loopback; the bundled models, images as base64."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import settings

from configs.jsonl import read_jsonl
from data_construction.agent import LoopConfig
from data_construction.build import run_build
from data_construction.derive import read_traces
from data_construction.sources import write_set as write_scenes
from vlm.load import bundled_model

pytestmark = [pytest.mark.slow, pytest.mark.seam]


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.5)
        yield f"openai:{model}@http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_both_roles_behind_transformers_serve(tmp_path: Path) -> None:
    # Not random weights: these write to their limit, and a request that was cut off asks nobody.
    write_scenes("scenes", 4, 0, "train", tmp_path / "set", family_names=["count"])
    loop = LoopConfig(rounds=2, repairs=0)
    with (
        serving(bundled_model("tiny"), tmp_path / "vlm.log") as vlm,
        serving(bundled_model("tiny-reasoner"), tmp_path / "reasoner.log") as reasoner,
    ):
        counts = run_build(settings(tmp_path, model=vlm, reasoner=reasoner, loop=loop))
    traces = read_traces(tmp_path / "out/traces.jsonl")
    assert (
        len(traces) == 4 and sum(counts[end] for end in ("kept", "wrong", "no_reflection", "filtered", "errors")) == 4
    )
    assert not counts["error_names"]
    replies = read_jsonl(tmp_path / "out/replies.jsonl")
    assert {"requester", "responder"} <= {row["role"] for row in replies}
    assert all(row["reply"]["completion_tokens"] >= 1 for row in replies)
    looks = [row["reply"]["prompt_tokens"] for row in replies if row["role"] == "responder"]
    assert min(looks) > 30  # the image's tokens came through
