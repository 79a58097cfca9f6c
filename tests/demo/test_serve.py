"""The gate: what it lets through, and what stays closed."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient
from viewed_rows import write_run

from configs.errors import ConfigError, UserError
from demo.access import Access
from demo.engine import Engine
from demo.image_store import MAX_UPLOAD
from demo.serve import HEADERS, MAX_BODY, make_server, serve
from demo.viewer.pages import PAGE_HEADERS
from demo.viewer.sources import Folder

pytestmark = pytest.mark.seam

HOME = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def client(tiny_vlm_dir: Path) -> Iterator[TestClient]:
    with TestClient(make_server(Engine([str(tiny_vlm_dir)])), base_url=HOME) as client:
        yield client


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    return data.getvalue()


def test_the_page_names_no_other_host_and_no_path_of_this_one(client: TestClient, tiny_vlm_dir: Path) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "googleapis" not in answer.text and str(tiny_vlm_dir) not in answer.text
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False and not config.get("run_history", False)
    assert str(tiny_vlm_dir.parent) not in json.dumps(config)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/x",
        "/gradio_api/upload_progress?upload_id=x",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/gradio_api/runs",
        "/gradio_api/run-history/records",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/queue/status",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/monitoring/summary",
        "/assets/../../../etc/passwd",
        "/assets/..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/custom_component/x/client/component/..%2f..%2fetc%2fpasswd",
        "/assets/" + "%C3%A9" * 150,
        "/static/" + "a/" * 3000,
        "/svelte/x.js",
        "/docs",
        "/openapi.json",
        "/?deep_link=x",
    ],
)
def test_no_way_to_a_file_or_another_host(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert "root:" not in answer.text
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/api/ask", "/gradio_api/call/ask", "/login"]
)
def test_no_other_post(client: TestClient, path: str) -> None:
    assert client.post(path, json={"data": []}).status_code == 404
    assert client.put("/image").status_code == client.delete("/").status_code == 404


def join(client: TestClient, data: Any, **more: Any) -> int:
    body = {"data": data, "fn_index": 0, "session_hash": "abc", **more}
    return client.post("/gradio_api/queue/join", json=body).status_code


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"url": "http://127.0.0.1:1/x"},
        [{"a": [{"path": "x"}]}],
    ],
)
def test_no_file_in_a_request(client: TestClient, file: Any) -> None:
    assert join(client, [file]) == 400
    assert join(client, [], event_data=file) == 400


def test_bodies_are_bounded_and_json(client: TestClient) -> None:
    assert join(client, ["x" * MAX_BODY]) == 413
    for body in (b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000):
        assert client.post("/gradio_api/queue/join", content=body).status_code == 400


def test_an_event_of_an_empty_session_is_refused(client: TestClient) -> None:
    """Gradio would keep its messages under another name, and every later event would fail with it."""
    assert join(client, [], session_hash="") == 400


def test_an_image_goes_in_and_comes_back(client: TestClient) -> None:
    token = client.post("/image", content=png()).json()["token"]
    assert client.get(f"/image/{token}").content.startswith(b"\x89PNG")
    assert client.get("/image/example-count").status_code == 200
    assert client.get("/image/unknown").status_code == 404
    answer = client.post("/image", content=b"<svg onload=alert(1)>")
    assert "token" not in answer.json() and "is an SVG drawing" in answer.json()["error"]
    answer = client.post("/image", content=b"x" * (MAX_UPLOAD + 1))
    assert answer.status_code == 413 and "larger than 20 MB" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
    ],
)
def test_other_sites_are_kept_out(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/", headers=headers).status_code == 403
    assert client.post("/image", content=png(), headers=headers).status_code == 403


def test_its_own_page_and_a_public_host_are_let_in(client: TestClient, tiny_vlm_dir: Path) -> None:
    assert client.get("/config", headers={"origin": HOME}).status_code == 200
    assert client.get("/config", headers={"host": "localhost:7860"}).status_code == 200
    with TestClient(
        make_server(Engine([str(tiny_vlm_dir)]), Access(every_name=True)), base_url="http://lab.example"
    ) as public:
        assert public.get("/config").status_code == 200


def test_a_proxy_serves_the_page_below_a_path(client: TestClient, tiny_vlm_dir: Path) -> None:
    """With its own Host, and with the path kept or removed."""
    access = Access.parse("127.0.0.1", ["lab.example"], "/look/")
    own = {"origin": "https://lab.example", "host": "127.0.0.1:7860"}
    with TestClient(make_server(Engine([str(tiny_vlm_dir)]), access), base_url="http://lab.example") as proxied:
        for path in ("/look", ""):
            answer = proxied.get(path + "/", headers={"host": "127.0.0.1:7860"})
            assert answer.status_code == 200 and {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert proxied.get(path + "/config?__theme=dark").json()["root"] == "."
            token = proxied.post(path + "/image", content=png(), headers=own).json()["token"]
            assert proxied.get(f"{path}/image/{token}").status_code == 200
        sent = proxied.get("/look?__theme=dark", follow_redirects=False)
        assert sent.status_code == 307 and sent.headers["location"] == "/look/?__theme=dark"
        for path in (
            "/look/look/",
            "/look//",
            "/look/%2e%2e/config",
            "/look/assets/%2e%2e/%2e%2e/etc/passwd",
            "/looks",
            "/look/docs",
        ):
            assert proxied.get(path).status_code == 404
        assert proxied.get("/look", headers={"host": "evil.example"}, follow_redirects=False).status_code == 403
    assert client.get("/look/").status_code == client.get("/look").status_code == 404


def test_a_refusal_names_the_remedy(client: TestClient) -> None:
    answer = client.get("/", headers={"host": "lab.example"})
    assert "answer to lab.example" in answer.json()["error"] and "--allowed_host" in answer.json()["error"]
    answer = client.get("/", headers={"host": "<b>x</b>"})
    assert "answer to this name" in answer.json()["error"]
    answer = client.post("/image", content=png(), headers={"origin": "https://lab.example"})
    assert answer.status_code == 403 and "--allowed_host" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers", [[("host", "127.0.0.1:7860"), ("host", "evil.example")], [("host", "127.0.0.1:7860")] * 2]
)
def test_a_request_has_one_host(client: TestClient, headers: list[tuple[str, str]]) -> None:
    request = client.build_request("GET", "/")
    request.headers = httpx.Headers(headers)
    assert client.send(request).status_code == 403


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Forwarded-Proto", "X-Gradio-Server"])
def test_a_visitor_cannot_choose_the_address_of_the_page(client: TestClient, name: str) -> None:
    for path in ("/", "/config"):
        answer = client.get(path, headers={name: "https://evil.example"})
        assert answer.status_code == 200 and "evil.example" not in answer.text
    assert client.get("/", headers={"host": "evil.example", name: "127.0.0.1:7860"}).status_code == 403


def test_mistakes_on_the_command_line(tiny_vlm_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            serve([str(tiny_vlm_dir)], port=taken.getsockname()[1])
    with pytest.raises(UserError, match="does not exist"):
        serve(["./no-such-model"])


def test_the_rows_of_a_run_are_a_second_tab_under_their_own_policy(
    client: TestClient, tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    engine, folder = Engine([str(tiny_vlm_dir)]), Folder(write_run(tmp_path / "run"))
    with TestClient(make_server(engine, Access(root_path="/look"), rows=folder), base_url=HOME) as both:
        assert "rows/" in json.dumps(both.get("/config").json())
        page = both.get("/look/rows/")
        assert page.status_code == 200 and "view.js" in page.text
        assert {name: page.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
        assert both.get("/rows/api/state").json()["home"] == "../"
        assert both.get("/rows/api/rows", params={"source": "build/traces.jsonl"}).json()["total"] == 6
        image = both.get("/rows/image", params={"source": "build/traces.jsonl", "n": 0, "i": 0})
        assert image.headers["content-type"] == "image/png"
        assert both.get("/rows/view.py").status_code == both.post("/rows/api/state").status_code == 404
        assert both.get("/rows/..%2f..%2fetc/passwd").status_code == 404
        assert both.get("/rows/", headers={"Host": "evil.example"}).status_code == 403
        assert both.get("/").headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    assert client.get("/rows/").status_code == 404 and "rows/" not in json.dumps(client.get("/config").json())
