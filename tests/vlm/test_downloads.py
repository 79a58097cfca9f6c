"""Images over http(s) end in bounded time, and base64 text is read in the spellings of servers and data sets."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from configs.errors import ImageError
from vlm.downloads import decode_base64, download_image
from vlm.images import MAX_BYTES
from vlm.questions import read_image

DATA = io.BytesIO()
Image.new("RGB", (9, 7), "red").save(DATA, "PNG")
TEXT = base64.b64encode(DATA.getvalue()).decode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path == "/drip":
                for _ in range(40):
                    time.sleep(0.05)
                    self.wfile.write(b"x")
                    self.wfile.flush()
            else:
                self.wfile.write(DATA.getvalue() if self.path == "/image" else bytes(MAX_BYTES + 2**20))

        def log_message(self, *_: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # the client has gone
                self.close_connection = True

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_an_image_comes_whole_and_no_more_than_the_limit(server: str) -> None:
    assert download_image(f"{server}/image") == DATA.getvalue()
    assert len(download_image(f"{server}/large")) == MAX_BYTES + 1


def test_a_server_that_drips_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.downloads.FETCH_SECONDS", 0.3)
    with pytest.raises(ImageError, match=r"takes longer than 0.3 s"):
        download_image(f"{server}/drip")


@pytest.mark.parametrize(
    "kind",
    ["image/png", "image", "image/svg+xml", "IMAGE/PNG", "image/png;charset=utf-8", "application/octet-stream", ""],
)
def test_data_uris(kind: str) -> None:
    assert decode_base64(f"data:{kind};base64,{TEXT}") == DATA.getvalue()
    assert read_image(f"data:{kind};base64,{TEXT}").size == (9, 7)


@pytest.mark.parametrize(
    "text, data",
    [
        (TEXT, DATA.getvalue()),
        (TEXT[:60] + "\n" + TEXT[60:], DATA.getvalue()),
        (TEXT.replace("+", "-").replace("/", "_").rstrip("="), DATA.getvalue()),
        ("data:image/png," + TEXT, None),  # no base64
        ("data:image/png;base64,", None),
        ("img/a.png", None),
        ("data:image/png;base64," + "é" * 60, None),
    ],
)
def test_base64_text(text: str, data: bytes | None) -> None:
    assert decode_base64(text) == data


@pytest.mark.parametrize("name", ["data:image/png,abc", "data:image/png;base64,AAAA", "data:"])
def test_other_data_uris_are_a_sentence(name: str) -> None:
    with pytest.raises(ImageError, match="is a URL"):
        read_image(name)
