"""The agent loop against two real ``transformers serve`` processes on loopback; random tiny models, images as base64."""

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
from building import settings, write_set

from configs.jsonl import read_jsonl
from data_construction.agent import LoopConfig, Tokens
from data_construction.build import read_traces, run_build

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


def test_both_roles_behind_transformers_serve(tiny_vlm_dir: Path, tiny_reasoner_dir: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 4)
    loop = LoopConfig(rounds=2, repairs=0, tokens=Tokens(request=8, reply=8, conclusion=8, rewrite=8))
    with (
        serving(tiny_vlm_dir, tmp_path / "vlm.log") as vlm,
        serving(tiny_reasoner_dir, tmp_path / "reasoner.log") as reasoner,
    ):
        counts = run_build(settings(tmp_path, model=vlm, reasoner=reasoner, loop=loop))
    traces = read_traces(tmp_path / "out/traces.jsonl")
    assert len(traces) == 4 and sum(counts[end] for end in ("kept", "wrong", "no_reflection", "errors")) == 4
    # Random weights write noise, so how an episode ends is open; that both servers answered is not.
    assert not [name for name in counts["error_names"] if name in ("no_connection", "timeout") or "status" in name]
    replies = read_jsonl(tmp_path / "out/replies.jsonl")
    assert {"requester", "responder"} <= {row["role"] for row in replies}
    assert all(1 <= row["reply"]["completion_tokens"] <= 8 for row in replies)
    looks = [row["reply"]["prompt_tokens"] for row in replies if row["role"] == "responder"]
    assert min(looks) > 30  # the image's tokens came through
