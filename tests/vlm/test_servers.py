"""Servers as they are in the field: they ask for patience, answer by a proxy's page, drip, or have a certificate of their own."""

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_openai_backend import Server, ask, complete, fails, says

from vlm.backends import BackendError
from vlm.openai_backend import OpenAIBackend


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize("header", ["0", "0.01", "-3", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_patience_is_asked_again(server: Server, status: int, header: str) -> None:
    server.answers = [fails(status, "slow down", **{"Retry-After": header}), says("at last")]
    assert complete(server).text == "at last" and len(server.bodies) == 2


PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"


@pytest.mark.parametrize("status", [502, 504, 500])
def test_a_page_of_a_proxy_is_asked_past_and_then_named(server: Server, status: int) -> None:
    page = lambda request: (status, {"Content-Type": "text/html"}, PAGE)  # noqa: E731
    server.answers = [page, says("at last")]
    assert complete(server).text == "at last"
    server.answers = [page]
    with pytest.raises(BackendError, match=rf"answered {status}: 502 Bad Gateway"):
        complete(server, max_retries=1)
    assert len(server.bodies) == 4


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_is_reset_is_made_again(server: Server, times: int) -> None:
    server.answers = [*[lambda request: (0, {}, b"")] * times, says("again")]
    assert complete(server).text == "again" and len(server.bodies) == times + 1


def test_a_server_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the answer never ends."""
    monkeypatch.setattr("vlm.openai_backend.MAX_RETRY_AFTER", 0.5)
    stop = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")

    monkeypatch.setattr(server.http.RequestHandlerClass, "do_POST", drip)
    with pytest.raises(BackendError, match="no whole reply within 2 s"):
        complete(server, timeout=1.5, max_retries=0)
    stop.set()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_knows_is_named_and_taken_where_it_is_trusted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command = ["openssl", "req", "-x509", *options, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True, do_handshake_on_connect=False)
    server.url = server.url.replace("http:", "https:")
    server.answers = [says("hi")]
    with pytest.raises(BackendError, match=r"no connection \(.*(?i:self.signed certificate)"):
        complete(server, max_retries=0)
    plain = OpenAIBackend(
        "m", server.url.replace("https:", "http:"), timeout=2, max_retries=0
    )  # http where TLS is spoken
    with pytest.raises(BackendError, match="is the server running at this URL"):
        asyncio.run(plain.complete(ask()))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert complete(server).text == "hi"
