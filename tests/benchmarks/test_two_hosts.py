"""The pure parts of the two-host benchmark: files of the hosts, what their logs say, and what its figures must hold."""

import json
import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.host_launches import error_sentence, on_another
from benchmarks.host_log import log_table, missed, write_log
from benchmarks.network_hosts import (
    boot_script,
    hostfile,
    known_hosts,
    missing_programs,
    no_answer,
    require_hosts,
    ssh_config,
    sshd_config,
    stale_namespaces,
    two,
)
from benchmarks.two_hosts import loss_difference, write_configs
from configs.errors import UserError

HOSTS = two(2201)


def test_deepspeed_reads_the_hostfile() -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    assert runner._parse_hostfile(hostfile(HOSTS).splitlines()) == {"one": 1, "two": 1}


def test_the_hosts_differ_and_the_client_finds_both() -> None:
    assert len({(host.name, host.address, host.port, host.namespace) for host in HOSTS}) == 2
    config = ssh_config(HOSTS, Path("/tmp/x"))
    for host in HOSTS:
        assert f"Host {host.name}\n  HostName {host.address}\n  Port {host.port}\n" in config
        assert f"ListenAddress {host.address}\nPort {host.port}\n" in sshd_config(host, Path("/tmp/x"))
    assert "~" not in config and "/etc/ssh" not in config
    assert (
        known_hosts(HOSTS, "ssh-ed25519 AAAA name\n").splitlines()[1] == f"[{HOSTS[1].address}]:2202 ssh-ed25519 AAAA"
    )


def test_a_private_folder_hides_the_shared_one() -> None:
    assert "mount -t tmpfs tmpfs '/out/a b'" in boot_script(HOSTS[0], Path("/tmp/x"), Path("/out/a b"))
    assert "/out" not in boot_script(HOSTS[0], Path("/tmp/x"), None)


def test_a_command_keeps_its_words_on_another_host() -> None:
    line = on_another(["sh", "-c", 'printf "%s|" "$A" "$@"', "name", "two words", "it's"], {"A": "-F x"})
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True).stdout == "-F x|two words|it's|"


def test_only_namespaces_of_dead_processes_are_stale() -> None:
    listed = f"two-hosts-{os.getpid()}-one (id: 0)\ntwo-hosts-999999999-two\nother\ntwo-hosts-x-one\n\n"
    assert stale_namespaces(listed) == ["two-hosts-999999999-two"]


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name in ("sshd", "pdsh") else name)
    assert missing_programs() == ["openssh-server", "pdsh"]
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(UserError, match=r"^openssh-server, pdsh is missing: apt-get install -y openssh-server pdsh$"):
        require_hosts()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UserError, match="need root"):
        require_hosts()


def test_a_host_that_does_not_answer_is_named_with_the_reason() -> None:
    busy = "error: Bind to port 2202 on 198.18.77.2 failed: Address already in use.\nCannot bind any address.\n"
    assert "port 2202 is in use there; choose another one with --port" in no_answer(HOSTS[1], busy)
    assert "The host one (198.18.77.1, port 2201) does not answer: no hostkeys" in no_answer(
        HOSTS[0], "a\nno hostkeys\n"
    )
    assert "said nothing" in no_answer(HOSTS[0], "")


def test_a_sentence_counts_only_without_a_traceback() -> None:
    assert error_sentence("step 1\nerror: first\nerror: the last.\n") == "the last."
    assert error_sentence("Traceback (most recent call last):\nerror: x\n") is None
    assert error_sentence("an error: x\n") is None


def test_losses_of_unequal_length_never_agree() -> None:
    assert loss_difference([1.0, 4.0], [1.0, 4.4]) == pytest.approx(0.1)
    assert loss_difference([0.0], [1e-3]) == 1e-3
    assert loss_difference([1.0], [1.0, 2.0]) is None and loss_difference([], []) is None


STAGE: dict[str, Any] = {
    "losses": {"one-host": [2.0, 1.0], "two-hosts": [2.0, 1.0], "killed": [2.0, 1.0]},
    **dict.fromkeys(
        ("loss_difference", "resumed_loss_difference", "weight_difference", "resumed_weight_difference"), 0.0
    ),
    "kill": {
        "killed": "two",
        "last_checkpoint": 1,
        "other_ended": True,
        "told_after": 0.5,
        "seconds": 1.5,
        "sentence": "gone",
        "finished": False,
    },
}
FIGURES: dict[str, Any] = {
    "stages": {"sft": STAGE},
    "cable": {"ended": True, "seconds": 301.0, "sentences": ["cut", "cut"]},
    "apart": {"launcher": 1, "steps": 0, "sentences": ["apart", "apart"]},
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("stages", "sft", "loss_difference"), 1e-3),
        (("stages", "sft", "resumed_loss_difference"), None),
        (("stages", "sft", "weight_difference"), 1e-3),
        (("stages", "sft", "resumed_weight_difference"), None),
        (("stages", "sft", "kill", "other_ended"), False),
        (("stages", "sft", "kill", "sentence"), None),
        (("stages", "sft", "kill", "finished"), True),
        (("cable", "ended"), False),
        (("cable", "sentences"), ["cut", None]),
        (("apart", "launcher"), 0),
        (("apart", "launcher"), None),
        (("apart", "steps"), 2),
        (("apart", "sentences"), [None, "apart"]),
    ],
)
def test_every_figure_that_does_not_hold_is_named(place: tuple[str, ...], value: Any) -> None:
    assert missed(FIGURES) == []
    figures = deepcopy(FIGURES)
    inner = figures
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (words,) = missed(figures)
    assert words.split(":")[0] in ("sft", "the cable", "folders of their own")


def test_the_log_shows_each_step_and_where_the_run_was_resumed() -> None:
    table = log_table(FIGURES)
    assert "| 1 | 2.000000 | 2.000000 | 2.000000 |" in table
    assert "| 2 | 1.000000 | 1.000000 | 1.000000 (resumed after step 1) |" in table
    assert all(f"error: {word}" in table for word in ("gone", "cut", "apart"))


def test_the_log_goes_between_its_markers(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text("before\n<!-- log: begin -->\nstale\n<!-- log: end -->\nafter\n")
    figures = {**FIGURES, "versions": {"torch": "2"}, "processor": "a processor", "load_average": 3.5}
    write_log(figures, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- log: begin -->\nSFT, ZeRO-2:") and text.endswith("<!-- log: end -->\nafter\n")
    assert "stale" not in text and "cores of a processor, load average 3.5; torch 2." in text


def test_the_configs_are_accepted_by_the_stages(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    files = write_configs(tmp_path, quick=False)
    assert json.loads(files["grpo"].read_text())["problems"] == str(tmp_path / "inputs" / "problems")
    assert json.loads(files["sft"].read_text())["max_steps"] == 12
