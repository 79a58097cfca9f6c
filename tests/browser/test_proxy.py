"""The demo behind a real nginx, with the two examples of docs/demo.md as they stand there (``make test-browser``)."""

import io
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from reflection_v.cli import app

ROOT = Path(__file__).parents[2]
FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(ROOT / "build/nginx/usr/sbin")])
NGINX = os.environ.get("NGINX") or shutil.which("nginx", path=FOLDERS)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(NGINX is None, reason="THERE IS NO NGINX: tests/browser/unpack_nginx fetches one"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="THERE IS NO OPENSSL to make a certificate with"),
]

EXAMPLES = re.findall(
    r"^```bash\n(reflection-v demo [^\n]*--allowed_host [^\n]*)\n```\n\n```nginx\n(.*?)^```",
    (ROOT / "docs/demo.md").read_text(),
    flags=re.MULTILINE | re.DOTALL,
)
NAME = "lab.example"
ORIGIN = {"Origin": f"https://{NAME}"}
USER = ("visitor", "the password")
HOST = "proxy_set_header Host $http_host;"
VARIANTS: dict[str, tuple[int, str, str]] = {
    "root": (0, "", ""),
    "root, default Host": (0, HOST, ""),
    "root, $host": (0, "$http_host", "$host"),
    "root, HTTP/1.1": (0, HOST, f'{HOST} proxy_http_version 1.1; proxy_set_header Connection "";'),
    "root, forwarded": (
        0,
        HOST,
        f"{HOST} proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme; "
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    ),
    "root, 1 MB": (0, "client_max_body_size 20m;", ""),
    "path": (1, "", ""),
    "path, default Host": (1, HOST, ""),
    "path, $host": (1, "$http_host", "$host"),
    "path, removed": (1, "127.0.0.1:7860;", "127.0.0.1:7860/;"),
}
"""(example, its words, those that replace them)."""
WHOLE = [name for name in VARIANTS if name != "root, 1 MB"]


@dataclass
class Site:
    """One demo behind one server block. ``port`` stands for 443: visitors say the name alone."""

    port: int
    path: str
    demo: int

    def client(self, host: str = NAME, user: tuple[str, str] | None = USER, **headers: str) -> httpx.Client:
        """A visitor of this host, who gives the password."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}{self.path}",
            headers={"Host": host, **headers},
            auth=user,
            verify=False,
            trust_env=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Every variant in one nginx, and the demo of each example, started with its command."""
    from demo.engine import Engine

    folder, engine = tmp_path_factory.mktemp("nginx"), Engine(["tiny"])
    with ExitStack() as stack:
        started = [stack.enter_context(_demo(command, engine)) for command, _ in EXAMPLES]
        held = [stack.enter_context(socket.socket()) for _ in VARIANTS]
        for one in held:
            one.bind(("127.0.0.1", 0))
        found, blocks = {}, []
        for one, (name, (example, words, instead)) in zip(held, VARIANTS.items(), strict=True):
            command, block = EXAMPLES[example]
            path = re.search(r"--root_path (\S+)", command)
            site = Site(one.getsockname()[1], (path[1] if path else "") + "/", started[example])
            assert words in block
            block = block.replace(words, instead) if words else block
            blocks.append(_at_home(block, site, folder))
            found[name] = site
        for one in held:
            one.close()
        stack.enter_context(_serve(blocks, folder))
        yield found


@contextmanager
def _demo(command: str, engine: Any) -> Iterator[int]:
    """The demo that this command line starts, on a free port: all in one process, with one model."""
    import demo.serve

    program, *arguments = shlex.split(command)
    assert program == "reflection-v"
    with pytest.MonkeyPatch.context() as patched:
        asked: list[Any] = []
        patched.setattr(demo.serve, "serve", lambda *values: asked.append(values))
        assert CliRunner().invoke(app, arguments).exit_code == 0
    ((models, host, port, _, access, *_),) = asked
    assert (models, host, port) == (["tiny"], "127.0.0.1", 7860)
    listening = demo.serve.listen(host, 0)
    config = uvicorn.Config(demo.serve.make_server(engine, access), log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


def _at_home(block: str, site: Site, folder: Path) -> str:
    """An example with the ports and files of this test."""
    for words, instead in {
        "listen 443 ssl;": f"listen 127.0.0.1:{site.port} ssl;",
        "/etc/ssl/certs/lab.example.pem": str(folder / "cert.pem"),
        "/etc/ssl/private/lab.example.key": str(folder / "key.pem"),
        "/etc/nginx/reflection-v.htpasswd": str(folder / "htpasswd"),
        "127.0.0.1:7860": f"127.0.0.1:{site.demo}",
    }.items():
        assert words in block
        block = block.replace(words, instead)
    return block.replace("/var/www/html", str(folder))


@contextmanager
def _serve(blocks: list[str], folder: Path) -> Iterator[None]:
    """An nginx in the foreground that writes into ``folder`` alone."""
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*certificate, *files], check=True, capture_output=True)
    (folder / "htpasswd").write_text(f"{USER[0]}:{{PLAIN}}{USER[1]}\n")
    (folder / "index.html").write_text("another page")
    (folder / "favicon.ico").write_bytes(b"")  # browsers ask a host for it whatever the page
    temporary = "".join(
        f"{kind}_temp_path {folder / kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Workers of a superuser would become another user, who cannot read a temporary folder.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder / 'pid'}; error_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off; {temporary}\n{''.join(blocks)}}}\n"
    )
    assert NGINX is not None
    nginx = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"])
    try:
        while not (folder / "pid").exists():  # written when it listens
            assert nginx.poll() is None
            time.sleep(0.05)
        yield
    finally:
        nginx.terminate()
        nginx.wait(60)


def large_png() -> bytes:
    """An image of some 1.4 MB: more than nginx takes by default."""
    data = io.BytesIO()
    Image.effect_noise((1200, 1200), 90).save(data, "PNG")
    assert 1.1 * 2**20 < len(data.getvalue()) < 20 * 2**20
    return data.getvalue()


def ask(client: httpx.Client, token: str) -> str:
    """What the page is sent when a question is asked and answered."""
    config = client.get("config").json()
    function = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 5)
    (model,) = [one["props"]["value"] for one in config["components"] if one["props"].get("label") == "Model"]
    body = {"data": [token, "How many shapes are there?", model, "off", 1], "fn_index": function, "session_hash": "one"}
    assert client.post("gradio_api/queue/join", json=body, headers=ORIGIN).status_code == 200
    said = []
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": "one"}) as events:
        for line in events.iter_lines():
            said.append(line)
            if line.startswith("data:") and json.loads(line[5:])["msg"] == "process_completed":
                break
    return "\n".join(said)


def test_the_page_shows_two_examples() -> None:
    assert [re.findall(r"--root_path|location \S+", " ".join(example)) for example in EXAMPLES] == [
        ["location /"],
        ["--root_path", "location /look/"],
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_page_upload_and_question(sites: dict[str, Site], name: str) -> None:
    with sites[name].client() as client:
        page = client.get("")
        assert page.status_code == 200
        parts = re.findall(r'(?:src|href)="\./([^"]+)"', page.text)
        assert len(parts) > 1
        assert {client.get(part).status_code for part in [*parts, "theme.css", "image/example-count"]} == {200}
        token = client.post("image", content=large_png(), headers=ORIGIN).json()["token"]
        assert client.get(f"image/{token}").content.startswith(b"\x89PNG")
        assert "Answer: <strong>" in ask(client, token).replace('\\"', '"')


@pytest.mark.parametrize("name", ["root", "root, HTTP/1.1", "path, default Host"])
def test_events_are_not_held_back(sites: dict[str, Site], name: str) -> None:
    """Gradio writes 13 bytes at once and again every 15 seconds: what nginx collects would come after many minutes."""
    with sites[name].client() as client, client.stream("GET", "gradio_api/heartbeat/two") as events:
        assert next(events.iter_lines()) == "data: ALIVE"


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_without_the_password(sites: dict[str, Site], name: str) -> None:
    for user in (None, ("visitor", "guess")):
        with sites[name].client(user=user) as client:
            answers = [client.get(part) for part in ("", "config", "image/example-count", "theme.css")]
            answers.append(client.post("image", content=b"x", headers=ORIGIN))
            assert {answer.status_code for answer in answers} == {401}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_names_and_pages_are_refused(sites: dict[str, Site], name: str) -> None:
    site = sites[name]
    for origin in ("https://evil.example", f"https://{NAME}:8443", f"https://{NAME}.evil.example", "null"):
        with site.client() as client:
            answer = client.post("image", content=b"x", headers={"Origin": origin})
            assert answer.status_code == 403 and "comes from another page" in answer.json()["error"]
    # Where nginx says its own address instead, the name is nginx's to check.
    with site.client("evil.example", **{"X-Forwarded-Host": NAME}) as client:
        assert client.get("").status_code == (200 if "default Host" in name else 403)


@pytest.mark.parametrize("name", WHOLE)
def test_a_visitor_cannot_choose_the_address_of_the_page(sites: dict[str, Site], name: str) -> None:
    spoofed = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    with sites[name].client(**spoofed) as client:
        for part in ("", "config"):
            answer = client.get(part)
            assert answer.status_code == 200 and "evil.example" not in answer.text


def test_past_the_proxy(sites: dict[str, Site]) -> None:
    for demo in {site.demo for site in sites.values()}:
        with httpx.Client(base_url=f"http://127.0.0.1:{demo}", trust_env=False) as direct:
            assert direct.get("/").status_code == 200
            assert direct.get("/", headers={"Host": "evil.example"}).status_code == 403
        with pytest.raises(ConnectionRefusedError):  # it listens on one address of this machine, not on all
            socket.create_connection(("127.0.0.2", demo), 20)


def test_the_path_without_its_slash(sites: dict[str, Site]) -> None:
    site = sites["path"]
    with site.client() as client:
        assert client.get(f"https://127.0.0.1:{site.port}/").text == "another page"
        answer = client.get(f"https://127.0.0.1:{site.port}/look")
        assert answer.status_code == 301 and httpx.URL(answer.headers["location"]).path == "/look/"


@pytest.mark.parametrize("name", ["root, default Host", "path"])
def test_in_chromium(sites: dict[str, Site], name: str, launch: Any, arrive: Any, tmp_path: Path) -> None:
    site = sites[name]
    browser = launch(f"--host-resolver-rules=MAP {NAME}:443 127.0.0.1:{site.port}")
    password = {"username": USER[0], "password": USER[1]}
    visitor = arrive(browser, f"https://{NAME}{site.path}", ignore_https_errors=True, http_credentials=password)
    page = visitor.page
    (tmp_path / "own.png").write_bytes(large_png())
    page.set_input_files("input[type=file] >> nth=0", tmp_path / "own.png")
    page.wait_for_selector(".slot img[src^='image/']")
    page.fill("textarea", "How many shapes are there?")
    visitor.ask("off")
    page.wait_for_selector("#before section[data-state='done'] .answer")
    # Styles of the page's own and of Gradio.
    assert page.evaluate("getComputedStyle(document.querySelector('.slot label')).borderTopStyle") == "dashed"
    assert page.evaluate("getComputedStyle(document.querySelector('#ask')).backgroundColor") != "rgba(0, 0, 0, 0)"
    browser.close()


def test_an_image_that_nginx_refuses(sites: dict[str, Site], launch: Any, tmp_path: Path) -> None:
    site = sites["root, 1 MB"]
    browser = launch(f"--host-resolver-rules=MAP {NAME}:443 127.0.0.1:{site.port}")
    password = {"username": USER[0], "password": USER[1]}
    page = browser.new_context(ignore_https_errors=True, http_credentials=password).new_page()
    page.goto(f"https://{NAME}/")
    (tmp_path / "large.png").write_bytes(large_png())
    page.set_input_files("input[type=file] >> nth=0", tmp_path / "large.png")
    page.wait_for_function("document.querySelector('.wrong').textContent !== ''")
    assert page.inner_text(".wrong >> nth=0") == "A proxy in front of the demo refused the image (status 413)."
    browser.close()
