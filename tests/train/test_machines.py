"""Processes on several machines: folders that are not shared, a process that is gone, and a machine that falls silent."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.command_line import explain
from configs.processes import lost_connection
from train.distributed import SHARED, bound_silence, check_shared

ROOT = Path(__file__).parents[2]
HANGS_AFTER = 500  # seconds, of which it takes a twentieth
TWO = """
import json, os, sys
from pathlib import Path

sys.path.insert(0, os.environ["ROOT"])
import torch
import torch.distributed as dist

from configs.command_line import explain
from train.distributed import bound_silence, check_shared

rank, folder = int(os.environ["RANK"]), Path(os.environ["FOLDER"])
dist.init_process_group("gloo", store=dist.FileStore(os.environ["STORE"], 2), rank=rank, world_size=2)
check_shared(folder / "shared")
print(json.dumps(["connections", bound_silence()]), flush=True)
try:
    check_shared(folder / str(rank), within=0.5)
except Exception as error:
    print(json.dumps(["apart", *explain(error)]), flush=True)
dist.barrier()
if rank == 0:
    os._exit(9)
try:
    dist.all_reduce(torch.ones(1))
except Exception as error:
    print(json.dumps(["lost", *explain(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    """What each of two processes prints: about a folder that both see, about folders of their own, and when the first is gone."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("shared", "0", "1"):
        (folder / name).mkdir()
        (folder / name / f"{SHARED}of-a-killed-run").touch()
    variables = {**os.environ, "ROOT": str(ROOT), "FOLDER": str(folder), "STORE": str(folder / "store")}
    variables |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO],
            env={**variables, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        printed = [process.communicate(timeout=HANGS_AFTER)[0].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
    assert not list(folder.glob(f"[0s]*/{SHARED}*"))  # the marks of the first process, and one that a kill had left
    return [{row[0]: row[1:] for row in map(json.loads, lines)} for lines in printed]


def test_folders_of_their_own_are_refused_by_all(said: list[dict[str, list[Any]]]) -> None:
    for one in said:
        sentence, code = one["apart"]
        assert f"Process 1 on {socket.gethostname()} does not see the output folder " in sentence and code == 1
        assert "give an output_dir on a file system that all machines share" in sentence


def test_the_loss_of_a_process_is_one_sentence(said: list[dict[str, list[Any]]]) -> None:
    sentence, code = said[1]["lost"]
    assert sentence.startswith("Process 1 of 2 has lost the connection to another one (") and code == 1
    assert "/gloo/" not in sentence and "typically" not in sentence and sentence.endswith("last complete checkpoint.")


def test_after_a_shared_folder_the_connections_of_gloo_are_bounded(said: list[dict[str, list[Any]]]) -> None:
    assert all(one["connections"][0] > 0 for one in said)


def test_one_process_asks_nobody_about_its_folder(tmp_path: Path) -> None:
    check_shared(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list a process's connections")
def test_a_silent_machine_is_given_up_after_the_time_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        with here, server.accept()[0] as there:
            assert bound_silence(100) >= 2
            for end in (here, there):
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                first, between, times = (
                    end.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                )
                assert first + between * times == 100
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 100_000
            here.sendall(b"still open")
            assert there.recv(10) == b"still open"


def test_errors_of_other_kinds_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError(
        "[/x/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:4264."
    )
    assert lost_connection(closed) is None  # of one process: there is nothing to be lost
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert "(Connection closed by peer [10.0.0.2]:4264)" in str(lost_connection(closed))
    for other in (
        RuntimeError("the request timed out"),
        RuntimeError("gloo: shapes differ"),
        ValueError("gloo timed out"),
    ):
        assert lost_connection(other) is None and explain(other) is None
