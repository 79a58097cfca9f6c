"""``ask`` against ``transformers serve`` with a folder of ours, as docs/serving.md shows it."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vlm.infer import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tiny_vlm_dir: Path) -> Iterator[str]:
    """The model's name while a server serves it."""
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)} (the extra 'serve')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
        str(tiny_vlm_dir),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            assert server.poll() is None, "transformers serve ended by itself"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"openai:{tiny_vlm_dir}@http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def test_ask_a_served_model(served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((96, 96), 90).convert("RGB").save(tmp_path / "p.png")
    arguments = [
        "--image",
        str(tmp_path / "p.png"),
        "--question",
        "What is here?",
        "--model",
        served,
        "--effort",
        "off",
    ]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["text"] and "sentences" not in result
    assert main([*arguments, "--votes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["votes"]["k"] == 2
