"""The viewer's own server: whom it answers, what it refuses, and how the command ends where there is nothing to show."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from viewed_rows import write_run

from configs.errors import ConfigError
from demo.access import Access, listen
from demo.viewer.pages import PAGE_HEADERS, Viewer
from demo.viewer.serve import PageServer, serve_folder
from demo.viewer.sources import Folder


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    viewer = Viewer(Folder(write_run(tmp_path_factory.mktemp("run"))))
    listening = listen("127.0.0.1", 0)
    with PageServer(viewer, Access.parse("127.0.0.1", ["lab.example"], "/look"), listening) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_and_its_files_come_with_a_strict_policy(port: int) -> None:
    for path, kind in (("/", "text/html"), ("/view.js", "text/javascript"), ("/api/state", "application/json")):
        status, headers, body = ask(port, path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and body
        assert {name: headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in body
    assert "unsafe" not in PAGE_HEADERS["Content-Security-Policy"]
    status, headers, body = ask(port, "/", "HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0


def test_other_names_and_other_pages_are_refused(port: int) -> None:
    assert ask(port, "/api/state", Host="evil.example")[0] == 403
    assert ask(port, "/api/state", Host="lab.example")[0] == 200
    assert ask(port, "/api/state", Origin="http://evil.example")[0] == 403
    assert ask(port, "/api/state", Origin=f"http://127.0.0.1:{port}")[0] == 200


def test_a_proxy_may_serve_it_below_a_path(port: int) -> None:
    assert ask(port, "/look/api/state")[0] == 200
    status, headers, _ = ask(port, "/look")
    assert status == 308 and headers["Location"] == "/look/"


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/view.css%00", "//evil.example/", "/[", "/nothing"]
)
def test_nothing_else_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0] in (400, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(port: int, method: str) -> None:
    assert ask(port, "/api/state", method)[0] == 501


def test_a_request_that_is_none_ends_that_connection_alone(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in connection.recv(1000)
    assert ask(port, "/api/state")[0] == 200


def test_a_taken_port_and_an_empty_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to show"):
        serve_folder(tmp_path)
    run = write_run(tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            serve_folder(run, port=taken.getsockname()[1])
