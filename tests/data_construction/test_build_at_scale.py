"""Whole builds: faults on the wire, kills, Ctrl-C, a full disk, two processes, and what they leave behind."""

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import LOOP, says, scripted_roles, settings, text_of, write_set

from benchmarks.loopback_server import FAULTS, Loopback, spoken
from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl
from data_construction.agent import LoopConfig
from data_construction.build import run_build
from data_construction.derive import read_traces
from data_construction.prompts import load_prompts
from data_construction.reply_log import DurableLog
from data_construction.roles import Roles, RolesConfig, open_roles
from vlm import openai_backend
from vlm.backends import BackendError, OpenAIBackend, Request, ScriptedBackend, make_backend
from vlm.images import SharedImages, open_image


class Server:
    """A ``Loopback`` in a thread."""

    def __init__(self, **settings: object) -> None:
        self.loopback = Loopback(**settings)  # type: ignore[arg-type]
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(self.loopback.start())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def serve() -> Iterator:
    servers: list[Server] = []

    def start(**settings: object) -> Loopback:
        servers.append(Server(**settings))
        return servers[-1].loopback

    yield start
    for server in servers:
        server.close()


def on(loopback: Loopback, **connection: object) -> Roles:
    backend = OpenAIBackend("m", loopback.url, **{"timeout": 5.0, "max_retries": 2, **connection})  # type: ignore[arg-type]
    return Roles(backend, backend, load_prompts("short"))


@pytest.mark.parametrize("kind", FAULTS)
def test_one_request_in_five_fails_and_every_episode_has_an_end(kind: str, tmp_path: Path, serve) -> None:
    write_set(tmp_path / "set", 12)
    loopback = serve(faults=0.2, kinds=(kind,), seed=3)
    counts = run_build(settings(tmp_path, loop=LoopConfig(rounds=1, confirm_share=0.0)), roles=on(loopback))
    traces = read_traces(tmp_path / "out/traces.jsonl")
    assert len(traces) == 12 and counts["no_reflection"] + counts["wrong"] + counts["errors"] == 12
    assert all(bool(trace.error) == (trace.status == "error") for trace in traces)
    assert loopback.counts[kind] > 0
    # At most 4 calls an episode, 2 attempts for a bad reply (8 for those of the rewriter and conclusions), 3 on the wire.
    assert loopback.counts.total() <= 12 * 4 * 2 * 3


def test_faults_of_every_kind_and_a_second_run_that_mends_them(tmp_path: Path, serve) -> None:
    write_set(tmp_path / "set", 30)
    loopback = serve(faults=0.2, seed=1)
    config = settings(tmp_path)
    counts = run_build(config, roles=on(loopback, max_retries=1))
    ends = ("kept", "wrong", "no_reflection", "filtered", "errors")
    assert sum(counts[end] for end in ends) == 30 and counts["errors"] == sum(counts["error_names"].values())
    assert counts["errors"] and not {"", "unnamed"} & set(counts["error_names"])
    loopback.faults = 0.0
    mended = run_build(config, roles=on(loopback))
    # Right at once (1), never right (2 and 9): this server says 1 whatever it is asked.
    assert (mended["errors"], mended["no_reflection"], mended["wrong"]) == (0, 10, 20)


@pytest.mark.parametrize(
    ("kind", "name"), [("huge", "too_long"), ("braces", "repeating"), ("bad_utf8", "unreadable"), ("empty", "empty")]
)
def test_a_monstrous_reply_is_a_named_error(kind: str, name: str, tmp_path: Path, serve) -> None:
    write_set(tmp_path / "set", 2)
    counts = run_build(settings(tmp_path), roles=on(serve(faults=1.0, kinds=(kind,)), max_retries=0))
    assert counts["error_names"] == {name: 2} and counts["wrong"] == 0
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 2_000_000


def test_a_server_that_is_down_stops_the_build_with_a_sentence(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 40)
    backend = OpenAIBackend("m", "http://127.0.0.1:9/v1", max_retries=0)
    roles = Roles(backend, backend, load_prompts("short"))
    with pytest.raises(UserError, match=r"requester gave no reply 5 times in a row.*is the server running"):
        run_build(settings(tmp_path, stop_after=5, concurrency=2), roles=roles)
    assert len(read_traces(tmp_path / "out/traces.jsonl")) < 10


def test_a_folder_keeps_to_the_models_it_was_begun_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "set", 3)
    served = "openai:m@http://127.0.0.1:1/v1"
    run_build(settings(tmp_path, reasoner=served), roles=scripted_roles())
    run_build(
        settings(tmp_path, reasoner=served.replace(":1/", ":2/"), concurrency=3), roles=scripted_roles()
    )  # it moved
    assert not capsys.readouterr().out.count("begun with another")
    for change in ({"model": "other"}, {"seed": 1}, {"prompts": "full"}, {"roles": {"rewriter": {"model": "other"}}}):
        key = "roles.rewriter.model" if "roles" in change else next(iter(change))
        with pytest.raises(ConfigError, match=rf"other settings \({key}\): choose another output folder"):
            run_build(settings(tmp_path, **{"reasoner": served, **change}), roles=scripted_roles())
    run_build(settings(tmp_path, reasoner=served, loop=LOOP.model_copy(update={"rounds": 3})), roles=scripted_roles())
    assert "'loop' has changed" in capsys.readouterr().out


def test_no_more_requests_at_once_than_the_server_may_get(tmp_path: Path, serve) -> None:
    write_set(tmp_path / "set", 30)
    loopback = serve(delay=0.01)
    run_build(settings(tmp_path, concurrency=30), roles=on(loopback, concurrency=4))
    assert loopback.most == 4


def test_shared_images_change_no_request_and_an_interrupted_build_ends_like_a_whole_one(
    tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, list[bytes]] = {}

    def build(name: str, *parts: int | None) -> list[tuple]:
        write_set(tmp_path / name / "set", 24)  # one image for all
        sent[name] = []
        loopback = serve(say=lambda body: sent[name].append(body) or spoken(body))
        for part in parts:
            run_build(settings(tmp_path / name, concurrency=8), dry_run=part, roles=on(loopback, concurrency=12))
        traces = read_traces(tmp_path / name / "out/traces.jsonl")
        return [(trace.id, trace.status, trace.rounds, trace.trace) for trace in traces]

    whole, resumed = build("whole", None), build("resumed", 7, 5, None)
    monkeypatch.setattr(SharedImages, "open", lambda self, path: open_image(path))
    monkeypatch.setattr(openai_backend, "MAX_ENCODED", 0)  # every look opens and encodes anew
    assert whole == resumed == build("apart", None) and len(whole) == 24
    assert sorted(sent["whole"]) == sorted(sent["resumed"]) == sorted(sent["apart"]) and any(
        b"image_url" in body for body in sent["whole"]
    )


def test_roles_have_their_own_models_sampling_and_limits(tmp_path: Path) -> None:
    config = RolesConfig.model_validate(
        {
            "reasoner": {"temperature": 0.6, "top_p": 0.95, "extra_body": {"top_k": 20}},
            "summarizer": {"max_tokens": 77},
            "rewriter": {"model": "small", "temperature": 0.1},
        }
    )
    made: dict[str, ScriptedBackend] = {}

    def make(name: str, **_: object) -> ScriptedBackend:
        made[name] = ScriptedBackend(says, name)
        return made[name]

    roles = open_roles(make, "eyes", "mind", config, load_prompts("short"), 1)
    assert set(made) == {"eyes", "mind", "small"}
    write_set(tmp_path / "set", 2)
    run_build(settings(tmp_path), roles=roles)
    mind = {text_of(request).split("\n")[0]: request for request in made["mind"].requests}
    assert {request.temperature for request in mind.values()} == {0.6}
    assert mind["Task: conclude"].max_tokens == 77 and mind["Task: request"].extra == {"top_k": 20}
    assert {request.temperature for request in made["small"].requests} == {0.1}
    assert all(request.images and request.top_p == 1.0 for request in made["eyes"].requests)
    served = RolesConfig.model_validate({"reasoner": {"concurrency": 7}, "responder": {"concurrency": 7}})
    both = open_roles(make_backend, "openai:m@http://h/v1", "openai:m@http://h/v1", served, load_prompts("short"), 1)
    assert (
        both.reasoner is both.responder and isinstance(both.reasoner, OpenAIBackend) and both.reasoner.concurrency == 7
    )


def test_an_unusable_reply_is_told_why_and_asked_for_again() -> None:
    from building import Problem

    from data_construction.agent import Episode

    seen: list[Request] = []

    def stubborn(request: Request) -> str:
        seen.append(request)
        return "The answer is 3." if len(request.messages) == 1 else "Which colours are there?"

    roles = Roles(ScriptedBackend(stubborn), ScriptedBackend(lambda request: ""), load_prompts("full"))
    problem = Problem(id="p", source="t", domain="count", question="How many?", answer="3")
    trace = asyncio.run(Episode(problem, roles, LOOP, 0).run())
    assert (trace.error, trace.usage["repairs"], trace.usage["calls"]) == ("empty", 3, 4)
    told = seen[1].messages
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert "it gives an answer, where a question" in told[2]["content"][0]["text"]


def test_an_unusable_reply_gets_new_attempts_in_the_next_run_and_no_call_twice(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 1)
    roles = scripted_roles(lambda request: "" if not request.images else "row 1: red")
    for run in range(3):
        counts = run_build(settings(tmp_path), roles=roles)
        assert counts["error_names"] == {"empty": 1}
        assert len(roles.reasoner.requests) == 2 * (run + 1)  # type: ignore[attr-defined]
    seeds = [request.seed for request in roles.reasoner.requests]  # type: ignore[attr-defined]
    assert len(set(seeds)) == 6
    assert run_build(settings(tmp_path), roles=scripted_roles())["errors"] == 0


def test_an_interrupted_build_leaves_errors_alone_until_it_is_complete(tmp_path: Path) -> None:
    """So that killed and resumed is the same as uninterrupted, errors included."""
    write_set(tmp_path / "set", 4)
    roles = scripted_roles(lambda request: "" if not request.images else "row 1: red")
    run_build(settings(tmp_path), dry_run=2, roles=roles)  # two rows, and no finish, as a kill leaves it
    counts = run_build(settings(tmp_path), roles=roles)
    assert (counts["runs"], counts["error_names"]) == (1, {"empty": 4})
    assert len(roles.reasoner.requests) == 4 * 2  # type: ignore[attr-defined]
    assert len(read_jsonl(tmp_path / "out/traces.jsonl")) == 4
    assert run_build(settings(tmp_path), roles=scripted_roles())["errors"] == 0


def test_a_failed_call_costs_only_itself(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3)

    def fails_late(request: Request) -> str:
        if text_of(request).startswith("Task: conclude"):
            raise BackendError("busy", "status_503")
        return says(request)

    assert run_build(settings(tmp_path), roles=scripted_roles(fails_late))["error_names"] == {"status_503": 3}
    roles = scripted_roles()
    run_build(settings(tmp_path), roles=roles)
    first_looks = [r for r in roles.responder.requests if "Look again" not in text_of(r)]  # type: ignore[attr-defined]
    assert first_looks == []  # their replies were there already
    fresh = settings(tmp_path, out=str(tmp_path / "fresh"))
    run_build(fresh, roles=scripted_roles())
    rows = [{t.problem_id: t.trace for t in read_traces(tmp_path / name / "traces.jsonl")} for name in ("out", "fresh")]
    assert rows[0] == rows[1]


def test_a_torn_row_is_reported(tmp_path: Path, capsys) -> None:
    write_set(tmp_path / "set", 3)
    run_build(settings(tmp_path), roles=scripted_roles())
    before = read_traces(tmp_path / "out/traces.jsonl")
    for name in ("replies", "traces"):
        file = tmp_path / "out" / f"{name}.jsonl"
        file.write_bytes(file.read_bytes()[:-5])
    run_build(settings(tmp_path), roles=scripted_roles())
    printed = capsys.readouterr().out
    assert all(f"{log}.jsonl: removed an incomplete last row" in printed for log in ("replies", "traces"))
    assert [t.trace for t in read_traces(tmp_path / "out/traces.jsonl")] == [t.trace for t in before]


def test_a_full_disk_stops_with_a_sentence_and_the_same_command_goes_on(tmp_path: Path, monkeypatch) -> None:
    write_set(tmp_path / "set", 6)
    left, plain = [3000], DurableLog._write

    def write(log: DurableLog, data: bytes) -> None:  # a disk with 3000 bytes left
        plain(log, data[: left[0]])
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DurableLog, "_write", write)
    with pytest.raises(UserError, match="The disk is full"):
        run_build(settings(tmp_path), roles=scripted_roles())
    left[0] = 10**9
    assert run_build(settings(tmp_path), roles=scripted_roles())["errors"] == 0


def start(folder: Path, delay: float, concurrency: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, str(Path(__file__).with_name("building.py")), str(folder), str(delay), str(concurrency)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(file: Path, n: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.01)
    pytest.fail(f"{file} never had {n} rows: {process.communicate()}")


def test_a_second_process_is_refused_and_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3000)  # minutes of work: a busy machine does not finish it before the signal
    process = start(tmp_path, 0.05, 4)
    wait_for_rows(tmp_path / "out/traces.jsonl", 2, process)
    with pytest.raises(UserError, match=rf"is in use by another run \(process {process.pid}\)"):
        run_build(settings(tmp_path), roles=scripted_roles())
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert "KeyboardInterrupt: Stopped; " in printed and "Give the same command again to resume." in printed
    for name in ("replies", "traces"):
        assert (tmp_path / f"out/{name}.jsonl").read_bytes().endswith(b"\n")
    done = len(read_traces(tmp_path / "out/traces.jsonl"))
    assert 2 <= done < 3000 and f"Stopped; {done} episodes" in printed


@pytest.mark.slow
def test_twenty_kills_leave_the_traces_of_an_uninterrupted_build(tmp_path: Path) -> None:
    in_flight, rng = 16, random.Random(5)
    for name in ("whole", "killed"):
        write_set(tmp_path / name / "set", 400)
    run_build(settings(tmp_path / "whole"), roles=scripted_roles())
    folder, kills = tmp_path / "killed", 0
    for _ in range(20):
        process = start(folder, 0.02, in_flight)
        rows = (folder / "calls.log").read_bytes().count(b"\n") if (folder / "calls.log").exists() else 0
        wait_for_rows(folder / "calls.log", rows + 1, process)
        time.sleep(rng.uniform(0.0, 0.25))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert start(folder, 0.0, in_flight).wait(timeout=300) == 0
    traces = {name: read_traces(tmp_path / name / "out/traces.jsonl") for name in ("whole", "killed")}
    told = {name: {t.problem_id: (t.status, t.trace, t.rounds) for t in rows} for name, rows in traces.items()}
    assert told["killed"] == told["whole"] and len(told["whole"]) == 400
    ids = [row["problem_id"] for row in read_jsonl(folder / "out/traces.jsonl")]
    assert len(ids) == len(set(ids)) == 400  # no duplicate, and read_jsonl would refuse a torn row
    keys = Counter((row["problem_id"], row["key"]) for row in read_jsonl(folder / "out/replies.jsonl"))
    assert max(keys.values()) == 1
    calls = Counter((folder / "calls.log").read_text().split())
    repeated = sum(calls.values()) - len(calls)
    print(f"{kills} kills, {sum(calls.values())} calls, {repeated} repeated ({in_flight} in flight at each kill)")
    assert kills == 20 and len(calls) == len(keys) and repeated <= kills * in_flight


def test_a_dry_run_projects_the_rest_and_its_episodes_are_kept(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 30)
    plan = run_build(settings(tmp_path), dry_run=10, roles=scripted_roles())
    assert (plan["episodes"], plan["left"]) == (10, 20)
    tokens = Counter[str]()
    for row in read_jsonl(tmp_path / "out/replies.jsonl"):
        tokens[row["role"]] += row["reply"]["completion_tokens"]
    assert plan["projected_tokens"]["responder"]["completion"] == 2 * tokens["responder"]
    roles = scripted_roles()
    counts = run_build(settings(tmp_path), roles=roles)
    assert counts["problems"] == 30
    prompts = {text_of(request) for request in roles.reasoner.requests}  # type: ignore[attr-defined]
    first = {prompt for prompt in prompts if prompt.startswith("Task: request") and "Seen:" not in prompt}
    assert len(first) == 20  # the ten of the dry run were not played again


def test_costs_are_counted_by_role_and_by_kept_trace(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 6)
    counts = run_build(settings(tmp_path), roles=scripted_roles())
    by_role = counts["tokens_by_role"]
    assert set(by_role) == {"requester", "responder", "summarizer", "rewriter"}
    assert by_role["responder"]["calls"] == 2 + 4 + 4  # right at once; twice after a second look; never
    total = sum(role["completion"] for role in by_role.values())
    assert counts["kept"] == 2 and counts["tokens_per_kept_trace"]["completion"] == round(total / 2)
    assert json.loads((tmp_path / "out/build.json").read_text()) == counts
