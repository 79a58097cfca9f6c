"""Training stages as several processes, started by a command that is itself one process (``run``, ``improve``).

The stage's script is started through DeepSpeed's launcher, as a user would start it, or through torchrun where DeepSpeed is not
installed or the GPUs are not named by numbers. One process without a launcher trains in the command's own process.

The number of processes must not change the recipe: a step keeps the rows that the config means for its ``gpus`` (1 if it names
none), so ``per_device_train_batch_size`` and ``gradient_accumulation_steps`` are divided anew (``train.resume.divide_rows``).

The processes and the command that started them share a folder: the command holds a lock in it, and the processes end when it is
released; a file ``stop`` asks them for a last checkpoint; ``failed-RANK.json`` has the sentence with which a process ended.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from configs.errors import ConfigError, UserError
from configs.jsonl import write_json_atomic
from configs.locks import is_locked, lock_file
from configs.overrides import Settings
from configs.packages import require_packages
from configs.processes import environment_of_one
from configs.run_dir import read_record
from configs.stopping import INTERRUPTED, TERMINATED, Stopped, sigterm_received
from configs.versions import is_installed
from train.precision import resolve
from train.resume import ACCUMULATION, DEFAULTS, PER_DEVICE, divide_rows, possible_numbers
from train.run_folder import training_dir

STARTER = "REFLECTION_V_STARTER"  # the folder that is shared with the command that started this process
# What transformers sets for accelerate in a process that has read a training config.
OF_ANOTHER_CONFIG = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
LOOKS_EVERY = 0.5  # seconds
AFTER_CTRL_C = 15.0  # seconds until processes that wait for each other are killed

Load = Callable[..., Any]


@dataclass(frozen=True)
class Launch:
    """How a training stage is started.

    Attributes:
        processes: their number.
        launched: whether a launcher starts them; otherwise the one process is the command's own.
        gpus: the number of GPUs that torch sees here; 0 trains on the CPU.
        keys: keys of the config with the values that replace its own.
        said: a line about the number and the rows of a step.
    """

    processes: int
    launched: bool
    gpus: int
    keys: dict[str, Any]
    said: str


def gpus_here(settings: Mapping[str, Any]) -> int:
    """The number of GPUs on which a stage can train: those that CUDA_VISIBLE_DEVICES leaves; 0 for a CPU."""
    if settings.get("use_cpu") or not torch.accelerator.is_available():
        return 0
    return torch.accelerator.device_count()


def plan_start(settings: Settings, wanted: int | None) -> Launch:
    """How a stage with this config is started.

    Args:
        wanted: the number of processes; None means all GPUs, or as many of them as can share the rows of a step evenly, and one
            process on a CPU.

    Raises:
        ConfigError: there are fewer GPUs, or that number cannot share the rows of a step.
    """
    gpus = gpus_here(settings)
    numbers = possible_numbers(settings)
    if wanted is not None and 0 < gpus < wanted:
        raise ConfigError(
            f"'processes: {wanted}' needs {wanted} GPUs, and {gpus} {'is' if gpus == 1 else 'are'} visible here: set at most "
            f"{gpus}, remove 'processes' to use all of them, or check CUDA_VISIBLE_DEVICES."
        )
    if wanted is not None and wanted not in numbers:
        raise ConfigError(
            f"'processes: {wanted}': the rows of a step of {settings.where} cannot be shared evenly by {wanted} processes; numbers "
            f"that work: {', '.join(map(str, numbers[:12]))}."
        )
    processes = wanted or max(number for number in numbers if number <= max(1, gpus))
    keys = divide_rows(settings, processes)
    launched = processes > 1 or gpus > 1 or bool(settings.get("deepspeed"))
    size = keys.get(PER_DEVICE, settings.get(PER_DEVICE)) or DEFAULTS[PER_DEVICE]
    times = keys.get(ACCUMULATION, settings.get(ACCUMULATION)) or DEFAULTS[ACCUMULATION]
    rows = f"{size * times * processes} rows ({size} x {times} x {processes})"
    said = f"{processes} process{'es' if processes > 1 else ''}, a step takes {rows}"
    if wanted is None and processes < gpus:
        said += f"; {gpus} GPUs could not share them evenly"
    return Launch(processes, launched, gpus, keys, said)


def check_training(load: Load, settings: Settings, wanted: int | None) -> Any:
    """Check a stage's config as its processes will read it; returns it (``train.config.StageConfig``).

    Raises:
        UserError: see ``plan_start`` and ``train.config.load_stage``, or a package is missing.
    """
    try:
        start = plan_start(settings, wanted)
    except (TypeError, ValueError):
        load(settings)  # names the key with such a value
        raise
    if not start.launched:
        stage = load(settings, start.keys)
    else:
        from train.preflight import load_as_on_a_cpu

        with _traceless():
            stage = load_as_on_a_cpu(load, settings, start.keys, start.processes)
        stage.precision = resolve(settings, settings.where)
    require_packages(stage.args, stage.options)
    return stage


def train_stage(
    script: str, load: Load, run: Callable[..., dict[str, Any]], settings: Settings, wanted: int | None
) -> dict[str, Any]:
    """Train a stage with one or several processes, from the start or to resume; returns its summary.

    Args:
        script: the file under ``train/`` that a launcher starts.
        load, run: the stage's functions, such as ``load_sft`` and ``run_sft``.
        settings: the stage's whole config.
        wanted: see ``plan_start``.

    Raises:
        UserError: what ended the first process that failed, or see ``check_training``.
        Stopped: the processes were stopped by a signal of their own.
    """
    start = plan_start(settings, wanted)
    if not start.launched:
        return run(settings, start.keys)
    stage = check_training(load, settings, wanted)
    keys: dict[str, Any] = {**settings, **start.keys}
    if getattr(stage.options, "reward_folder", None):  # relative to the config, and the processes read a copy of it
        keys["reward_folder"] = stage.options.reward_folder
    name = Path(script).stem
    print(f"{name}: {start.said}", flush=True)
    with tempfile.TemporaryDirectory(prefix="reflection-v-") as folder, lock_file(Path(folder, "alive"), folder):
        config = Path(folder, f"{name}.json")
        config.write_text(json.dumps(keys), encoding="utf-8")
        command = [*launcher(start), str(Path(__file__).with_name(f"{name}.py")), "--config", str(config)]
        _free_memory()
        code = _run_launcher(command, environment(start, folder), Path(folder))
        summary = training_dir(keys["output_dir"]).finished()
        if code == 0 and summary is not None:
            return summary
        raise _failure(Path(folder), name, code)


def launcher(start: Launch) -> list[str]:
    """The launcher's command, up to the script.

    DeepSpeed's launcher would take a hostfile of the machine, and with ``--num_gpus`` the first GPUs of the machine whatever
    CUDA_VISIBLE_DEVICES says.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if start.gpus else [""]
    by_number = all(name.strip().isdecimal() for name in visible) or visible == [""]
    if not is_installed("deepspeed") or not by_number:
        why = "DeepSpeed is not installed" if by_number else "CUDA_VISIBLE_DEVICES names no numbers"
        print(f"{why}: torchrun starts the processes", flush=True)
        words = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(start.processes)]
        return [sys.executable, *words, "--master_addr", "127.0.0.1", "--master_port", port]
    devices = ["--num_gpus", str(start.processes)]
    if visible != [""]:
        devices = ["--include", "localhost:" + ",".join(name.strip() for name in visible[: start.processes])]
    words = ["-m", "deepspeed.launcher.runner", "--hostfile", os.devnull, "--quiet", "--master_port", port]
    return [sys.executable, *words, *devices]


def environment(start: Launch, folder: str) -> dict[str, str]:
    """The environment of the launcher: without another launcher's variables, and with the shared ``folder``."""
    variables = {name: value for name, value in environment_of_one().items() if name not in OF_ANOTHER_CONFIG}
    variables[STARTER] = folder
    if start.gpus == 0:
        variables.setdefault("DS_ACCELERATOR", "cpu")
        if sys.platform == "linux":  # the host's own name may have no address
            variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return variables


def follow_starter() -> None:
    """In a process that ``train_stage`` started: end when the command has ended, and stop with a checkpoint when it asks."""
    if folder := os.environ.get(STARTER):
        threading.Thread(target=_follow, args=(Path(folder),), daemon=True).start()


def note_failure(sentence: str, code: int) -> None:
    """In a process that ``train_stage`` started: leave the sentence and the exit code with which it ends."""
    if folder := os.environ.get(STARTER):
        with contextlib.suppress(OSError):  # the command has ended and removed it
            write_json_atomic(
                Path(folder, f"failed-{os.environ.get('RANK', 0)}.json"), {"sentence": sentence, "code": code}
            )


def _follow(folder: Path) -> None:
    asked = False
    while is_locked(folder / "alive"):
        if not asked and (asked := (folder / "stop").exists()):
            os.kill(os.getpid(), signal.SIGTERM)  # train.checkpoints.StopOnSigterm
        time.sleep(LOOKS_EVERY)
    os._exit(TERMINATED)  # as if it had been killed together with the command


def _run_launcher(command: list[str], variables: dict[str, str], folder: Path) -> int:
    """Run a launcher to its end; returns its exit code. Nothing of it is left, also if this process is stopped."""
    # A group of its own: after Ctrl-C the terminal signals this process alone, which ends the others.
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        if sigterm_received():  # the processes finish their step and write a checkpoint, however long that takes
            (folder / "stop").touch()
            process.wait()
        else:
            _signal_all(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(AFTER_CTRL_C)
        raise
    finally:
        _signal_all(process, signal.SIGKILL)
        process.wait()


def _signal_all(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _failure(folder: Path, name: str, code: int) -> UserError:
    """The error of the first process that failed; one that the launcher ended because of another comes last."""
    notes = [read_record(file) for file in sorted(folder.glob("failed-*.json"))]
    notes.sort(key=lambda note: note.get("code") in (INTERRUPTED, TERMINATED))
    if notes:
        sentence, code = str(notes[0]["sentence"]), int(notes[0]["code"])
        if code in (INTERRUPTED, TERMINATED):
            return Stopped(sentence, code)
        return ConfigError(sentence) if code == ConfigError.exit_code else UserError(sentence)
    killed = 256 - code if code > 240 else -code if code < 0 else 0  # the launcher exits with a process's negative code
    why = f"by signal {killed} (9 is often too little memory)" if killed else f"with exit code {code}"
    return UserError(
        f"The processes of '{name}' ended {why} and gave no reason in one sentence: read their output. The same command resumes "
        "from the last complete checkpoint."
    )


@contextlib.contextmanager
def _traceless() -> Iterator[None]:
    """Undo what reading a training config changes in this process: variables for accelerate, and DeepSpeed's state."""
    before = dict(os.environ)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _free_memory() -> None:
    """Give the memory that earlier work of this process still reserves back to the GPUs on which the processes will train."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
