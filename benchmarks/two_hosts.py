"""Train on two hosts and compare with one: ``python benchmarks/two_hosts.py [--quick] [--json]`` (Linux, as root).

    apt-get install -y openssh-server pdsh iproute2
    python benchmarks/two_hosts.py --out runs/two-hosts

The hosts are network namespaces of this machine (``benchmarks/network_hosts.py``) with one process each. DeepSpeed's launcher
starts both by pdsh and ssh from a hostfile, ZeRO-2 exchanges gradients by gloo over the cable between them, and the output folder
is on the disk that they share. For ``train/sft.py`` and then ``train/grpo.py`` on the bundled tiny model:

1. two processes on one host, without namespaces: the reference;
2. the same on two hosts: losses and weights must be the reference's;
3. all processes of one host are killed in mid-training (SFT: the second host; GRPO: the first, which has the launcher). The
   other one must end by itself with one sentence. The same command then resumes, and must end with the reference's weights;
4. the cable is pulled out in mid-training (SFT): both hosts must end by themselves;
5. the second host has an output folder of its own (SFT): one sentence, before anything is trained.

``--quick`` leaves out GRPO and the cable. Nothing of the hosts is left behind, also after Ctrl-C. The last line is one JSON
object; the exit code is 1 if a figure misses its limit.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from benchmarks.host_launches import FIXED, HANGS_AFTER, Launch, command, free_port, on_another, wait_for  # noqa: E402
from benchmarks.host_log import log_table, missed, processor, write_log  # noqa: E402
from benchmarks.kill_stages import write_inputs  # noqa: E402
from benchmarks.kills import code_sha256  # noqa: E402
from benchmarks.network_hosts import INTERFACE, Host, Hosts, require_hosts, two_hosts  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.errors import UserError  # noqa: E402
from configs.jsonl import read_log, write_json_atomic, write_text_atomic  # noqa: E402
from configs.run_dir import read_record  # noqa: E402
from configs.stopping import INTERRUPTED, TERMINATED  # noqa: E402

ENDS_WITHIN = 400.0  # seconds that the other host may take to end; on busy cores, Python alone takes one or two minutes
CABLE_WITHIN = 600.0  # seconds that both may take where no packet tells that the other one is gone


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write_configs(folder: Path, quick: bool) -> dict[str, Path]:
    """Write problems, rows and the config of each stage; returns the configs by stage."""
    inputs = write_inputs(folder / "inputs")
    same = {"gradient_checkpointing": False, "precision": "float32", "freeze_vision": True, "save_steps": 1}
    same |= {"save_total_limit": 2, "deepspeed": "configs/deepspeed/zero2.json"}
    sft = {
        "model": "tiny",
        "dataset": str(inputs.rows),
        "per_device_train_batch_size": 3,
        "max_steps": 6 if quick else 12,
    }
    sft |= {"learning_rate": 3e-3, "lr_scheduler_type": "constant"}
    selection = {"samples": 4, "min_right": 1, "max_right": 3, "candidates": 12, "at_least": 4, "batch_size": 8}
    grpo = {
        "base": str(ROOT / "configs/tiny/grpo.yaml"),
        "model": str(folder / "sft" / "one-host"),
        "problems": str(inputs.problems),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 64,
        "max_steps": 3,
        "prompt_selection": selection,
    }
    files = {}
    for stage, keys in (("sft", {**same, **sft}), ("grpo", {**grpo, **same})):
        files[stage] = folder / f"{stage}.yaml"
        write_text_atomic(files[stage], json.dumps(keys, indent=1) + "\n")  # JSON is YAML
    return files


class Bench:
    """The runs in ``out``. ``hosts`` is set within the block of ``two_hosts``."""

    def __init__(self, out: Path, quick: bool) -> None:
        self.out = out.resolve()
        settings = {"quick": quick, "code": code_sha256()}
        if read_record(self.out / "rows.json").get("settings") != settings:
            for name in ("sft", "grpo", "logs", "inputs"):
                shutil.rmtree(self.out / name, ignore_errors=True)
            write_json_atomic(self.out / "rows.json", {"settings": settings, "rows": {}})
        self.configs = write_configs(self.out, quick)
        self.hosts: Hosts | None = None
        self.launches = 0

    @contextlib.contextmanager
    def launched(self, stage: str, out: Path, on_hosts: bool) -> Iterator["Launch"]:
        self.launches += 1
        logs = self.out / "logs" / f"{self.launches:02}-{stage}-{out.name}"
        logs.mkdir(parents=True, exist_ok=True)
        words = ["--hostfile", os.devnull, "--num_gpus", "2", "--master_port", str(free_port())]
        variables = {**os.environ, **FIXED, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
        if not on_hosts:
            line = command(stage, self.configs[stage], out, logs, words)
        else:
            assert self.hosts is not None
            folder, first = self.hosts.folder, self.hosts.hosts[0]
            # What the processes get is what a user writes into .deepspeed_env: ssh hands nothing on.
            exports = {**FIXED, "GLOO_SOCKET_IFNAME": INTERFACE}
            write_text_atomic(folder / "deepspeed_env", "".join(f"{key}={value}\n" for key, value in exports.items()))
            given = {"PDSH_SSH_ARGS_APPEND": f"-F {folder / 'ssh_config'}", "DS_ENV_FILE": folder / "deepspeed_env"}
            given |= {**FIXED, "PYTHONPATH": ROOT, "PATH": os.environ["PATH"]}
            # The check would call ssh without that config.
            words = ["--hostfile", str(folder / "hostfile"), "--no_ssh_check", "--master_addr", first.address]
            line = command(stage, self.configs[stage], out, logs, words)
            line = self.hosts.inside(first, on_another(line, given))
        launch = Launch(line, variables, logs)
        try:
            yield launch
        finally:
            launch.end()

    def train(self, stage: str, name: str, on_hosts: bool) -> Path:
        """Train a stage to its end in the folder ``name``, unless it has ended there."""
        folder = self.out / stage / name
        if finished(folder):
            return folder
        with self.launched(stage, folder, on_hosts) as launch:
            outcome = launch.wait()
        if outcome.code or not (folder / "summary.json").exists():
            sentences = "; ".join(outcome.sentences().values()) or "no sentence"
            raise UserError(
                f"{stage} in {folder} ended with exit code {outcome.code} ({sentences}): read {launch.logs}."
            )
        say(f"{stage} {name}: {outcome.seconds:.0f} s, losses {' '.join(f'{loss:.6f}' for loss in losses(folder))}")
        return folder

    def once(self, run: Callable[..., dict[str, Any]], name: str, *words: Any) -> dict[str, Any]:
        """What ``run`` returns, from ``rows.json`` if an earlier call came so far; its folder ``name`` is new otherwise."""
        known, key = read_record(self.out / "rows.json"), f"{words[0]}/{name}"
        if key not in known["rows"]:
            shutil.rmtree(self.out / words[0] / name, ignore_errors=True)
            known["rows"][key] = run(*words)
            write_json_atomic(self.out / "rows.json", known)
        return dict(known["rows"][key])

    def kill_host(self, stage: str, victim: Host, after: int) -> dict[str, Any]:
        """Kill a host in mid-training, wait for the other, boot it again and resume; returns the log of it."""
        assert self.hosts is not None
        folder = self.out / stage / "killed"
        (survivor,) = (host for host in self.hosts.hosts if host is not victim)
        rank = self.hosts.hosts.index(survivor)
        with self.launched(stage, folder, True) as launch:
            launch.wait_for(folder / f"checkpoint-{after}" / "complete")
            began = time.monotonic()
            self.hosts.kill(victim)
            told = wait_for(lambda: rank in launch.outcome().sentences(), ENDS_WITHIN)
            told_after = time.monotonic() - began
            ended = wait_for(lambda: not self.running(survivor, stage), ENDS_WITHIN)
            seconds = time.monotonic() - began
            if not ended:
                self.end(survivor, stage)
            outcome = launch.wait(ENDS_WITHIN)
        kept = last_complete(folder)
        for host in self.hosts.hosts:
            if host is victim or not ended:
                self.hosts.boot(host)
        row = {
            "killed": victim.name,
            "last_checkpoint": kept,
            "other_ended": ended and told,
            "seconds": round(seconds, 1),
        }
        row |= {
            "told_after": round(told_after, 1),
            "sentence": outcome.sentences().get(rank),
            "launcher": outcome.code,
            "finished": finished(folder),
        }
        say(
            f"{stage}: host {victim.name} killed, last checkpoint {kept}; from the other one after {told_after:.1f} s: {row['sentence']}"
        )
        return row

    def pull_cable(self, stage: str, after: int) -> dict[str, Any]:
        """Pull the cable out in mid-training; returns how the hosts ended."""
        assert self.hosts is not None
        folder, hosts = self.out / stage / "cable", self.hosts.hosts
        with self.launched(stage, folder, True) as launch:
            launch.wait_for(folder / f"checkpoint-{after}" / "complete")
            self.hosts.cable(hosts[1], "down")
            began = time.monotonic()
            ended = wait_for(lambda: not any(self.running(host, stage) for host in hosts), CABLE_WITHIN)
            seconds = time.monotonic() - began
            if not ended:
                for host in hosts:
                    self.end(host, stage)
            outcome = launch.wait(ENDS_WITHIN)
        self.hosts.cable(hosts[1], "up")
        for host in hosts:
            if not ended:
                self.hosts.boot(host)
        row = {"ended": ended, "seconds": round(seconds, 1), "launcher": outcome.code}
        row |= {"sentences": [outcome.sentences().get(rank) for rank in (0, 1)]}
        say(f"{stage}: cable pulled out; both ended after {seconds:.1f} s: {row['sentences']}")
        return row

    def keep_apart(self, stage: str) -> dict[str, Any]:
        """Train where the second host's output folder is its own; returns how that ends."""
        assert self.hosts is not None
        second, folder = self.hosts.hosts[1], self.out / stage / "apart"
        folder.mkdir(parents=True, exist_ok=True)
        self.hosts.kill(second)
        self.hosts.boot(second, private=folder)
        try:
            with self.launched(stage, folder, True) as launch:
                outcome = launch.wait(HANGS_AFTER)
        finally:
            self.hosts.kill(second)
            self.hosts.boot(second)
        row = {"launcher": outcome.code, "seconds": round(outcome.seconds, 1), "steps": len(losses(folder))}
        row |= {"sentences": [self._placeless(outcome.sentences().get(rank)) for rank in (0, 1)]}
        say(f"{stage}: folders of their own; {outcome.seconds:.0f} s, {row['steps']} steps: {row['sentences']}")
        return row

    def _placeless(self, sentence: str | None) -> str | None:
        return sentence and sentence.replace(str(self.out), "OUT")

    def running(self, host: Host, stage: str) -> list[int]:
        """The processes that train a stage on a host, as this machine numbers them."""
        assert self.hosts is not None
        found = []
        with contextlib.suppress(psutil.Error, UserError):
            for process in psutil.Process(self.hosts.pid(host)).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    words = process.cmdline()
                    if f"train/{stage}.py" in words[:3] and process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process.pid)
        return found

    def end(self, host: Host, stage: str) -> None:
        """Kill a host whose processes hang, after each has written into its output where it does."""
        assert self.hosts is not None
        for pid in self.running(host, stage):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)  # PYTHONFAULTHANDLER
        time.sleep(2)
        self.hosts.kill(host)


def losses(folder: Path) -> list[float]:
    """The loss of each logged step."""
    file = folder / "log.jsonl"
    return [row["loss"] for row in read_log(file) if row.get("loss") is not None] if file.exists() else []


def finished(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def last_complete(folder: Path) -> int:
    """The step of the last complete checkpoint; 0 without any."""
    return max((int(mark.parent.name.rpartition("-")[2]) for mark in folder.glob("checkpoint-*/complete")), default=0)


def loss_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The largest difference of the losses of two runs, relative to at least 1; None where their steps differ."""
    if len(one) != len(other) or not one:
        return None
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other, strict=True))


def weight_difference(one: Path, other: Path) -> float | None:
    """The largest difference between the saved weights of two runs; None where their tensors differ."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    if first.keys() != second.keys():
        return None
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def stage_figures(folder: Path, kill: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's figures: losses of the three runs, and how far they and the weights differ."""
    runs = {name: folder / name for name in ("one-host", "two-hosts", "killed")}
    logged = {name: losses(run) for name, run in runs.items()}
    return {
        "losses": logged,
        "loss_difference": loss_difference(logged["one-host"], logged["two-hosts"]),
        "resumed_loss_difference": loss_difference(logged["two-hosts"], logged["killed"]),
        "weight_difference": weight_difference(runs["one-host"], runs["two-hosts"]),
        "resumed_weight_difference": weight_difference(runs["two-hosts"], runs["killed"]),
        "kill": dict(kill),
    }


def measure(out: Path, port: int, quick: bool) -> dict[str, Any]:
    """All runs; see the module's description. Those that have ended in ``out`` are reused while the code is the same."""
    require_hosts()
    bench = Bench(out, quick)
    stages: dict[str, Any] = {}
    figures: dict[str, Any] = {"stages": stages}
    with two_hosts(port) as bench.hosts:
        one, two = bench.hosts.hosts
        for stage, victim, after in (("sft", two, 3), ("grpo", one, 1))[: 1 if quick else 2]:
            bench.train(stage, "one-host", on_hosts=False)
            bench.train(stage, "two-hosts", on_hosts=True)
            kill = bench.once(bench.kill_host, "killed", stage, victim, after)
            bench.train(stage, "killed", on_hosts=True)
            stages[stage] = stage_figures(bench.out / stage, kill)
        figures["apart"] = bench.once(bench.keep_apart, "apart", "sft")
        if not quick:
            figures["cable"] = bench.once(bench.pull_cable, "cable", "sft", 3)
    figures["missed"] = missed(figures)
    return {**figures, "processor": processor(), **surroundings(1, "torch", "transformers", "trl", "deepspeed")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/two-hosts"))
    parser.add_argument("--port", type=int, default=2201, help="of the first host's sshd; the second one has the next")
    parser.add_argument("--quick", action="store_true", help="SFT alone, fewer steps, without the cable")
    parser.add_argument("--write", action="store_true", help="put the log into docs/two-hosts.md")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write needs the whole run: leave out --quick.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that the hosts are shut down
    try:
        figures = measure(options.out, options.port, options.quick)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; the hosts are shut down. The same command reuses the runs that have ended.", file=sys.stderr)
        return INTERRUPTED
    if options.write:
        write_log(figures)
    if not options.json:
        print(log_table(figures))
    return report(figures, {"missed": lambda found: not found}, json_only=True)


if __name__ == "__main__":
    sys.exit(main())
