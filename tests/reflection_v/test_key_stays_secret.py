"""Nothing that a command prints or writes holds the key of a served model, whatever the server does with it.

The server on loopback repeats the key in its answers, its errors, its headers and a stream, as it came and encoded.
"""

import base64
import html
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from configs.errors import ConfigError, UserError
from demo.engine import Engine
from reflection_v.cli import app
from vlm.problem import Problem, write_problems

pytestmark = pytest.mark.seam

KEY = "sk-Pr0j/very+secret=0123456789_ab"
AS_SET = f" {KEY}\t\r\n"
FAULTS = {"400": 400, "401": 401, "404": 404, "429": 429, "500": 500}


def written(key: str) -> list[str]:
    """The key as it might be found; of base64 what is the same whatever stands before and after."""
    quoted = urllib.parse.quote(key, safe="")
    inside = [base64.b64encode(f"{user}{key}".encode()).decode()[4:-4] for user in ("", "u", "us", "user:")]
    return [
        key,
        key[:22],
        quoted,
        quoted.lower(),
        json.dumps(key)[1:-1].replace("/", "\\/"),
        *inside,
        key.encode().hex(),
    ]


class Parrot:
    """A chat server that repeats the key. ``fault`` is how it answers: a status, ``stream``, ``cut``, or "" for a reply."""

    def __init__(self) -> None:
        self.fault, self.asked = "", 0
        self.authorization: set[str] = set()
        parrot = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                parrot.asked += 1
                parrot.authorization.add(self.headers["Authorization"])
                status, kind, data = parrot.answer(self.headers["Authorization"], body)
                self.send_response(status)
                headers = {"Content-Type": kind, "Content-Length": str(len(data)), "retry-after-ms": "1"}
                for name, value in {**headers, "X-Echo": self.headers["Authorization"]}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that gives up prints nothing
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.model = f"openai:m@http://127.0.0.1:{self.http.server_address[1]}/v1"

    def answer(self, authorization: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
        """(status, content type, body)."""
        key = authorization.removeprefix("Bearer ")
        forms = [
            key,
            urllib.parse.quote(key, safe=""),
            html.escape(key),
            base64.b64encode(f"u:{key}".encode()).decode(),
        ]
        echo = " ".join(forms)
        if self.fault in FAULTS:
            # The key stands where a message is cut after 500 characters, too.
            error = {
                "message": f"{authorization} {echo} " + "x" * 150 + key * 20,
                "headers": {"Authorization": authorization},
            }
            return (
                FAULTS[self.fault],
                "application/json",
                json.dumps({"error": error, "again": json.dumps(error)}).encode(),
            )
        spoken = f"row 1: red none, said {echo}. \\boxed{{1}}"
        if any("Task: request" in json.dumps(m) for m in body["messages"]):
            spoken = f"Which colours are in row 1 of {echo}?"
        if self.fault == "cut":
            spoken = f"\\boxed{{1}} and {key[:-6]}"
        message = {"role": "assistant", "content": spoken, "reasoning_content": f"I am shown {echo}; red 1."}
        if self.fault == "stream":
            chunk = {"choices": [{"delta": message, "finish_reason": None}]}
            return 200, "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        if self.fault == "page":
            return 200, "text/html", f"<html>{echo}</html>".encode()
        choice = {"index": 0, "finish_reason": f"stop {key}", "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        whole = {"id": key, "object": "chat.completion", "model": key, "choices": [choice], "usage": usage}
        return 200, "application/json", json.dumps(whole).encode()


ANSWERS = ["", "cut", "stream", "page", *FAULTS]


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    parrot = Parrot()
    yield parrot
    parrot.http.shutdown()
    parrot.http.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test runs: a problem set, an image, a build config and a file of questions, with the key in the environment."""
    monkeypatch.setenv("MY_KEY", AS_SET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "set/p.png")
    problems = [
        Problem(id=f"p{n}", source="t", domain="count", images=["p.png"], question=f"How many of {n}?", answer=str(n))
        for n in range(3)
    ]
    write_problems(problems, tmp_path / "set")
    rows = [{"image": "set/p.png", "question": f"How many of {n}?"} for n in range(2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    role = {"api_key_env": "MY_KEY", "max_retries": 0}
    config = {
        "prompts": "short",
        "loop": {"rounds": 2},
        "roles": {"reasoner": role, "responder": role},
        "stop_after": 9,
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def found(folder: Path, said: str) -> list[str]:
    """Where the key is: file names, or what was printed."""
    texts = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    texts["printed"] = said.encode()
    return [name for name, text in texts.items() if any(form.encode() in text for form in written(KEY))]


COMMANDS = {
    "build": ["build", "build.yaml", "--problems", "set", "--out", "out", "--model", "MODEL", "--reasoner", "MODEL"],
    "difficulty": [
        *("build", "build.yaml", "--problems", "set", "--out", "out", "--model", "MODEL", "--reasoner", "MODEL"),
        *("--difficulty", "{weak: 'MODEL', strong: 'MODEL', samples: 1, api_key_env: MY_KEY}"),
    ],
    "eval": ["eval", "MODEL", "--problems", "set", "--out", "out", "--api_key_env", "MY_KEY", "--max_new_tokens", "8"],
    "eval_json": [
        "eval",
        "MODEL",
        "--problems",
        "set",
        "--out",
        "out",
        "--api_key_env",
        "MY_KEY",
        "--k",
        "2",
        "--json",
    ],
    "audit": ["audit", "MODEL", "--problems", "set", "--out", "out", "--api_key_env", "MY_KEY", "--quick"],
    "ask": ["ask", "set/p.png", "How many?", "--model", "MODEL", "--api_key_env", "MY_KEY"],
    "ask_json": [
        "ask",
        "set/p.png",
        "How many?",
        "--model",
        "MODEL",
        "--api_key_env",
        "MY_KEY",
        "--json",
        "--votes",
        "2",
    ],
    "ask_batch": ["ask", "--batch", "q.jsonl", "--out", "answers.jsonl", "--model", "MODEL", "--api_key_env", "MY_KEY"],
}


@pytest.mark.parametrize("fault", ANSWERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_and_no_line_holds_the_key(
    parrot: Parrot, folder: Path, command: str, fault: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level("INFO")
    parrot.fault = fault
    result = call(*(word.replace("MODEL", parrot.model) for word in COMMANDS[command]))
    outside = capfd.readouterr()
    said = result.output + (result.stderr or "") + outside.out + outside.err + caplog.text
    assert parrot.authorization == {f"Bearer {KEY}"}  # it was sent, without the blanks around it
    assert found(folder, said) == []
    if fault == "" and command != "difficulty":
        assert result.exit_code == 0
    if fault in FAULTS and command in ("ask", "eval", "audit"):
        assert result.exit_code == 1 and f"answered {fault}" in said and "***" in said
    assert "Traceback" not in said


def test_the_page_shows_neither_the_key_nor_the_address(parrot: Parrot) -> None:
    engine = Engine([parrot.model], "MY_KEY")
    image, stop = Image.new("RGB", (32, 32)), threading.Event()
    for parrot.fault in ANSWERS:
        shown = ""
        try:
            for run in engine.ask("m", image, "How many?", "low", 2, stop):
                shown += f"{run} {run.text}"
        except UserError as error:
            shown = str(error)
            assert "127.0.0.1" not in shown and shown.startswith("m: ")
        assert found(Path("set"), shown) == [] and shown


def test_the_page_does_not_start_without_its_key(parrot: Parrot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        Engine([parrot.model], "MY_KEY")


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"{KEY}\n{KEY}", f"{KEY}\x00", f"{KEY}é", "\n"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_that_is_no_key_is_not_sent_or_shown(
    parrot: Parrot, folder: Path, command: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\x00" in value:  # which no environment can hold
        value = value.replace("\x00", "\x01")
    monkeypatch.setenv("MY_KEY", value)
    result = call(*(word.replace("MODEL", parrot.model) for word in COMMANDS[command]))
    assert (result.exit_code, parrot.asked, found(folder, result.output)) == (2, 0, [])
    assert "MY_KEY does not hold a key" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("name", [KEY, "hf_Pr0jVerySecret0123456789ab", "01234567890123456789"])
@pytest.mark.parametrize(
    ("command", "model"),
    # An answer of a model in this process holds no settings, and asks for no key.
    [
        (name, model)
        for name in COMMANDS
        for model in ("MODEL", "tiny")
        if model != "tiny" or not name.startswith("ask")
    ],
)
def test_a_key_given_as_the_name_is_not_repeated(
    parrot: Parrot, folder: Path, command: str, name: str, model: str
) -> None:
    config = (folder / "build.yaml").read_text()
    (folder / "build.yaml").write_text(config.replace("MY_KEY", f"'{name}'"))
    words = [word.replace("MY_KEY", name).replace("MODEL", model) for word in COMMANDS[command]]
    result = call(*(word.replace("MODEL", parrot.model) for word in words))
    (folder / "build.yaml").unlink()
    assert result.exit_code == 2 and parrot.asked == 0
    assert name not in result.output and "never the key itself" in result.output
    assert not any(name in file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "url", ["http://me:{key}@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?api_key={key}", "me:{key}@host"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_in_a_url_is_refused_and_not_repeated(folder: Path, command: str, url: str) -> None:
    model = "openai:m@" + url.format(key=urllib.parse.quote(KEY, safe=""))
    result = call(*(word.replace("MODEL", model) for word in COMMANDS[command]))
    assert (result.exit_code, found(folder, result.output)) == (2, [])
    assert "Traceback" not in result.output
