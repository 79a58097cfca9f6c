"""The check of a vLLM server before a run, against servers that answer as vLLM does. tests/vllm_cpu asks a real one."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import UserError
from train import vllm_server
from train.vllm_server import check_vllm_server

SAME = {"version": "0.30.0"}
GOOD = {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": "processed_logprobs"}}


class Server(ThreadingHTTPServer):
    """Answers like a vLLM server whose settings a test may change."""

    release: Any = SAME
    config: Any = GOOD
    scale_out = True


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = {
            "/version": self.server.release,
            "/server_info": self.server.config and {"vllm_config": self.server.config},
        }
        if path == "/v1/chat/completions/render":
            self.send_error(405 if self.server.scale_out else 404)
        elif body.get(path) is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body[path]).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state = SimpleNamespace(device=SimpleNamespace(type="cuda"), is_main_process=True)
    monkeypatch.setattr(vllm_server, "PartialState", lambda: state)
    monkeypatch.setattr(vllm_server, "version", lambda name: "0.30.0+cu129")
    yield server
    server.shutdown()
    server.server_close()


def arguments(server: Server, **changed: Any) -> Any:
    with socket.socket() as one:
        one.bind(("", 0))
        free = one.getsockname()[1]
    keys = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": None, "vllm_server_host": "127.0.0.1"}
    keys |= {"vllm_server_port": server.server_port, "vllm_server_timeout": 0.0, "vllm_group_port": free}
    return SimpleNamespace(**{**keys, **changed})


def test_a_server_that_fits_is_taken(server: Server) -> None:
    check_vllm_server(arguments(server))
    check_vllm_server(arguments(server, vllm_server_base_url=f"http://127.0.0.1:{server.server_port}/"))


def test_runs_without_a_server_ask_none(server: Server) -> None:
    server.release = {"version": "0.1"}
    check_vllm_server(arguments(server, use_vllm=False))
    check_vllm_server(arguments(server, vllm_mode="colocate"))


CASES: list[tuple[dict[str, Any], str]] = [
    (
        {"release": {"version": "0.29.1"}},
        "is of release 0.29.1, and this environment has 0.30.0: .* start the server from this",
    ),
    ({"release": None}, "is no vLLM server, because it states no release: name the server's address"),
    ({"release": ["0.30.0"]}, "is no vLLM server"),
    ({"config": None}, "without VLLM_SERVER_DEV_MODE=1, which GRPO needs"),
    ({"config": {**GOOD, "weight_transfer_config": None}}, "without --weight-transfer-config"),
    (
        {"config": {**GOOD, "model_config": {"logprobs_mode": "raw_logprobs"}}},
        "without --logprobs-mode processed_logprobs,",
    ),
    ({"scale_out": False}, "without --enable-scale-out, which"),
    ({"config": None, "scale_out": False}, "without VLLM_SERVER_DEV_MODE=1 and --enable-scale-out"),
]


@pytest.mark.parametrize(("changed", "sentence"), CASES)
def test_a_server_that_does_not_fit_is_refused(server: Server, changed: dict[str, Any], sentence: str) -> None:
    for name, value in changed.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=sentence):
        check_vllm_server(arguments(server))


def test_nothing_there(server: Server) -> None:
    with pytest.raises(
        UserError, match=r"No vLLM server answers at http://127.0.0.1:1 .*vllm_server_timeout.* start it with"
    ):
        check_vllm_server(arguments(server, vllm_server_port=1))


def test_a_server_that_is_still_starting_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = vllm_server._ask

    def late(url: str) -> tuple[int, bytes]:
        asked.append(url)
        if len(asked) < 3:
            raise ConnectionRefusedError
        return ask(url)

    monkeypatch.setattr(vllm_server, "_ask", late)
    monkeypatch.setattr(vllm_server, "RETRY", 0.0)
    check_vllm_server(arguments(server, vllm_server_timeout=600.0))
    assert len(asked) > 3


def test_the_port_of_the_weights_must_be_free(server: Server) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {taken}, .* is not free .* another vllm_group_port"):
            check_vllm_server(arguments(server, vllm_group_port=taken))


def test_a_process_without_a_gpu_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(device=SimpleNamespace(type="cpu"), is_main_process=True)
    monkeypatch.setattr(vllm_server, "PartialState", lambda: state)
    with pytest.raises(UserError, match=r"by NCCL .* needs a GPU .* set vllm_mode: colocate"):
        check_vllm_server(arguments(server))
