"""A served model beside its weights: a server that works is called equal, and one that is broken on purpose gets its fault named."""

import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from breakable_server import BreakableServer
from typer.testing import CliRunner

from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl
from data_construction.sources import write_set
from eval.audit import AuditConfig, run_audit
from eval.served import ServedConfig, compare_served
from eval.served_probes import image_probes, text_probes
from eval.served_report import served_rows, served_summary
from reflection_v.cli import app
from vlm.images import fitted_size
from vlm.load import VLM, bundled_model, load_vlm
from vlm.problem import Problem, read_problems

CONFIG = ServedConfig(max_new_tokens=8)


@pytest.fixture(scope="module")
def tiny() -> VLM:
    return load_vlm("tiny")


@pytest.fixture(scope="module")
def server() -> Iterator[BreakableServer]:
    server = BreakableServer(bundled_model("tiny"))
    yield server
    server.close()


def compare(server: BreakableServer, tiny: VLM, out: Path, fault: str = "", **settings: Any) -> dict[str, Any]:
    with server.broken(fault):
        return compare_served(server.name, "tiny", out, vlm=tiny, config=CONFIG, **settings)


def causes(report: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(cause["name"], cause["recomputed"]) for cause in report["causes"]]


def test_the_probes_leave_out_one_thing_at_a_time(tiny: VLM) -> None:
    probes = [*text_probes("think"), *image_probes(tiny.processor, "think")]
    assert {probe.kind for probe in probes} == {"text", "fitted", "resized", "several"}
    for probe in probes:
        sizes = [image.size for image in probe.images]
        kept = [fitted_size(size, tiny.processor) == size for size in sizes]
        assert (len(sizes) > 1) == (probe.kind == "several") and bool(sizes) == (probe.kind != "text")
        assert all(kept) if probe.kind == "fitted" else not kept or not all(kept)
        assert probe.kind != "several" or len(set(sizes)) == len(sizes)
    again = [*text_probes("think"), *image_probes(tiny.processor, "think")]
    assert [list(map(bytes_of, a.images)) for a in probes] == [list(map(bytes_of, b.images)) for b in again]


def bytes_of(image: Any) -> bytes:
    return bytes(image.tobytes())


def test_a_server_that_works_is_equal_and_is_asked_again_after_a_finished_comparison(
    server: BreakableServer, tiny: VLM, tmp_path: Path
) -> None:
    problem = Problem(id="[bold]mine", source="s", domain="text", question="Say no.", answer="no")
    report = compare(server, tiny, tmp_path, problems=[problem])
    assert report["verdict"] == "equal" and not report["causes"] and report["first_difference"] is None
    assert report["given"] == {"prompt_tokens": True, "log_probabilities": True}
    assert len(server.bodies) == len(report["probes"]) == 12
    for one in report["probes"]:
        assert one["served_prompt"] == one["own_prompt"] and one["common"] == one["own_tokens"] == one["compared"]
        assert one["log_p_gap"] < (1e-5 if one["kind"] in ("text", "fitted") else 1e-3)
    assert json.loads((tmp_path / "served.json").read_text()) == report
    assert served_summary(report)[0].startswith("equal: ") and served_rows(report)[-1][0] == "problem [bold]mine"
    # The same command after a change of the server must not repeat what the old one said.
    second = compare(server, tiny, tmp_path, "dropped", problems=[problem])
    assert len(server.bodies) == 12 and second["verdict"] == "differs" and second["round"] == 2
    assert len(read_jsonl(tmp_path / "answers/served.jsonl")) == 24


BROKEN = {
    "dropped": [("dropped image", True)],
    "double resize": [("resized twice", True)],
    "system prompt": [("template", False)],
    "quantized": [("quantized", False)],
    "rope": [("dropped mRoPE", True)],
    "penalty": [("sampling", False)],
    "one image": [("refused", False)],
}
MORE_BROKEN = {
    "dropped, no logprobs": [("dropped image", True)],
    "rope, no logprobs": [("dropped mRoPE", True)],
    "first image": [("first image only", True)],
    "reversed": [("order of images", True)],
    "half size": [("image size", False)],
    "mirrored": [("image content or positions", False)],
    "no generation prompt": [("template", False)],
    "other weights": [("weights", False)],
    "quantized and rope": [("quantized", False), ("dropped mRoPE", True)],
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_server_has_its_fault_named(server: BreakableServer, tiny: VLM, tmp_path: Path, fault: str) -> None:
    named(server, tiny, tmp_path, fault, BROKEN[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", MORE_BROKEN)
def test_further_faults_are_named(server: BreakableServer, tiny: VLM, tmp_path: Path, fault: str) -> None:
    named(server, tiny, tmp_path, fault, MORE_BROKEN[fault])


def named(server: BreakableServer, tiny: VLM, out: Path, fault: str, expected: list[tuple[str, bool]]) -> None:
    report = compare(server, tiny, out, fault)
    assert report["verdict"] == "differs" and causes(report) == expected
    first = next(one for one in report["probes"] if one["differs"])
    assert (
        report["first_difference"]["probe"] == first["name"] and report["first_difference"]["what"] == first["differs"]
    )
    lines = served_summary(report)
    assert lines[0].startswith("differs: ") and first["name"] in lines[1] and lines[2].startswith(expected[0][0])
    touched = {one["kind"] for one in report["probes"] if one["differs"]}
    text_too = expected[0][0] in ("template", "quantized", "weights", "sampling")
    assert ("text" in touched) == text_too


@pytest.mark.parametrize(
    "fault",
    [
        "refuses logprobs",
        "no usage",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("no logprobs", "counts otherwise")),
    ],
)
def test_what_a_server_does_not_give_is_said_and_is_no_difference(
    server: BreakableServer, tiny: VLM, tmp_path: Path, fault: str
) -> None:
    report = compare(server, tiny, tmp_path, fault)
    assert report["verdict"] == "equal" and not report["causes"]
    given = report["given"]
    assert given["log_probabilities"] == ("logprobs" not in fault) and given["prompt_tokens"] == (fault != "no usage")
    said = "\n".join(served_summary(report))
    assert ("no log-probabilities" in said) == ("logprobs" in fault) and ("no usage" in said) == (fault == "no usage")
    assert ("counts the tokens" in said) == (fault == "counts otherwise")


@pytest.mark.parametrize(("fault", "said"), [("ends early", "then the reply ends"), ("babbles", "nats less likely")])
def test_a_reply_that_ends_early_or_never_is_a_difference(
    server: BreakableServer, tiny: VLM, tmp_path: Path, fault: str, said: str
) -> None:
    report = compare(server, tiny, tmp_path, fault)
    assert report["verdict"] == "differs" and said in report["first_difference"]["sentence"]
    assert causes(report)[0][0] == ("sampling" if fault == "ends early" else "weights")
    assert max(len(one["served_text"]) for one in report["probes"]) <= 100 * CONFIG.max_new_tokens


@pytest.mark.parametrize("fault", ["", "refuses logprobs"])
def test_an_interrupted_comparison_resumes(server: BreakableServer, tiny: VLM, tmp_path: Path, fault: str) -> None:
    with server.broken(fault, stop_after=5), pytest.raises(UserError, match="503: overloaded"):
        compare_served(server.name, "tiny", tmp_path, vlm=tiny, config=CONFIG)
    kept = read_jsonl(tmp_path / "answers/served.jsonl")
    assert 1 <= len(kept) <= 5 and not (tmp_path / "served.json").exists()
    report = compare(server, tiny, tmp_path, fault)
    assert report["verdict"] == "equal" and len(server.bodies) == len(report["probes"]) - len(kept)


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", *arguments])
    return result.exit_code, result.stderr.strip().split("\n")[-1]


def test_the_command_and_its_exit_codes(server: BreakableServer, tmp_path: Path) -> None:
    options = ["--reference", "tiny", "--out", str(tmp_path), "--max_new_tokens", "4", "--json"]
    with server.broken(""):
        result = CliRunner().invoke(app, ["audit", server.name, *options])
    assert result.exit_code == 0 and json.loads(result.stdout)["verdict"] == "equal"
    with server.broken("first image"):
        result = CliRunner().invoke(app, ["audit", server.name, *options[:-1]])
    assert result.exit_code == 1 and "first image only (recomputed)" in result.stdout
    assert str(tmp_path / "served.json") in result.stdout


def test_mistakes_are_sentences(server: BreakableServer, tiny: VLM, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    code, said = command("tiny", "--reference", "tiny", *out)
    assert code == 2 and "'tiny' is not served" in said
    code, said = command(server.name, "--reference", server.name, *out)
    assert code == 2 and "give the folder of the weights" in said
    code, said = command(server.name, "--reference", "tiny", "--quick", *out)
    assert code == 2 and "leave out --quick" in said
    code, said = command(server.name, "--reference", "tiny", "--logprob_tolerance", "0", *out)
    assert code == 2 and "must be above 0" in said
    code, said = command(server.name, "--reference", "tiny", "--swap", "3", *out)
    assert code == 2 and "swap" in said
    code, said = command("openai:tiny@nowhere", "--reference", "tiny", *out)
    assert code == 2 and "write openai:NAME@" in said
    code, said = command(server.name, "--reference", str(tmp_path / "none"), *out)
    assert code == 1 and "does not exist" in said
    code, said = command(server.name.replace("tiny", "large"), "--reference", "tiny", *out)
    assert code == 1 and "answered 404: The model large does not exist." in said
    code, said = command("openai:tiny@http://127.0.0.1:9/v1", "--reference", "tiny", *out)
    assert code == 1 and "is the server running at this URL" in said
    with pytest.raises(ConfigError, match="Unknown prompt style"):
        compare(server, tiny, tmp_path / "out", style="poem")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/served.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds served\.json, which no audit wrote"):
        compare(server, tiny, tmp_path / "foreign")
    log = tmp_path / "damaged/answers/served.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"key": "a", "reply": {"text": "b"}}\n')
    with pytest.raises(UserError, match="is not a log of replies"):
        compare(server, tiny, tmp_path / "damaged")
    assert not os.path.exists(tmp_path / "out/served.json")


HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    "reply",
    [b"SSH-2.0-OpenSSH_9.2p1\r\n", HTTP % (15, b"<html>hi</html>"), HTTP % (2, b"[]"), b""],
    ids=["ssh", "html", "other json", "closes"],
)
def test_a_port_of_another_service_is_a_sentence(tmp_path: Path, reply: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        name = f"openai:tiny@http://127.0.0.1:{other.server_address[1]}/v1"
        code, said = command(name, "--reference", "tiny", "--out", str(tmp_path / "out"))
        other.shutdown()
    assert code == 1 and "Traceback" not in said and f"127.0.0.1:{other.server_address[1]}" in said, said


def test_the_page_of_an_audit_shows_the_comparison_whichever_came_first(
    server: BreakableServer, tiny: VLM, tmp_path: Path
) -> None:
    write_set("scenes", 2, 3, "heldout", tmp_path / "set", family_names=["count"])
    few = AuditConfig(controls=0, hint=0, swap=0, samples=0, max_new_tokens=4, shown=1)

    def audit() -> str:
        run_audit(server.name, read_problems(tmp_path / "set"), tmp_path / "out", config=few)
        return page()

    def page() -> str:
        return (tmp_path / "out/audit.html").read_text()

    problem = Problem(id="<b>mine", source="s", domain="text", question="Say no.", answer="no")
    with server.broken(""):
        assert "Served against its weights" not in audit()
        compare_served(server.name, "tiny", tmp_path / "out", vlm=tiny, config=CONFIG, problems=[problem])
        assert "Served against its weights" in page() and "answers as tiny on 12 prompts" in page()
        assert "&lt;b&gt;mine" in page() and "<b>mine" not in page()
        (tmp_path / "out/audit.html").unlink()
        assert "answers as tiny on 12 prompts" in audit()
