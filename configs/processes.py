"""The number of processes that train together, and this one's rank. Only this module reads a launcher's variables.

torchrun, accelerate and DeepSpeed's launcher set ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``
for every process. The libraries also take some of them, or a set left over from another shell or job, for a launch: a run then
trains as rank 1 of one process and writes nothing, or waits for processes that nobody starts. srun sets only variables of its
own, which no library reads: they are translated here (``configs.slurm``). No heavy imports here.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError, UserError
from configs.slurm import NODES, REMEDY, step_tasks, translated

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LEAST = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
# Variables with rank and size of a task that a scheduler or MPI started. accelerate reads MPI's on CPUs and DeepSpeed on GPUs;
# the other libraries read none.
TASKS = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE"),
    "mpirun_rsh": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
}
# Variables that accelerate and torch would take for a launch of a process that trains alone.
TASK_NAMES = tuple(name for names in TASKS.values() for name in names)
LEFTOVERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", *TASK_NAMES[2:])

FIRST_LINE = 10.0  # seconds; processes need some of them to import their libraries
FURTHER_LINES = 60.0
JOINED_WITHIN = 1800.0
LOST = ("closed by peer", "reset by peer", "timed out", "broken pipe", "no route to host", "remote process exited")
"""What gloo, NCCL and the store say where a connection to another process has gone, in lower case."""

_PLACE = re.compile(r"^\[[^\]]*\]\s*")  # the line of gloo's source that raised it


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        count: their number.
        rank: this one's rank.
        launched: whether a launcher, or srun, set all of its variables; it may have started only one process.
        address: ``HOST:PORT`` where they meet; empty without a launcher.
    """

    count: int = 1
    rank: int = 0
    launched: bool = False
    address: str = ""


def read_processes(environment: Mapping[str, str] | None = None) -> Processes:
    """The processes that the environment describes.

    Raises:
        ConfigError: a launcher's variables are incomplete or contradict each other, MPI started several tasks without them, or
            each task of srun has started a launcher of its own.
    """
    variables = _nonempty(os.environ if environment is None else environment)
    variables |= translated(variables)
    if variables.get("LOCAL_RANK", "").strip() == "-1":  # what PyTorch's first launchers meant by no launcher
        del variables["LOCAL_RANK"]
    rank, local, world, _ = (_number_of(variables, name) for name in LEAST)
    if rank is None:
        _refuse_tasks(variables)
    if world is None:
        alone = "RANK" if rank is not None else "LOCAL_RANK" if local else None
        if alone is not None:
            raise _refusal(variables, f"{alone}={variables[alone]} is set without WORLD_SIZE, the number of processes")
        return Processes()
    if rank is None:
        if world > 1:
            raise _refusal(variables, f"WORLD_SIZE={world} is set without RANK, the number of this process")
        rank = 0
    for name, value in (("RANK", rank), ("LOCAL_RANK", local or 0)):
        if value >= world:
            raise _refusal(variables, f"{name}={value} is none of the WORLD_SIZE={world} processes, which count from 0")
    missing = [name for name in LAUNCHER if name not in variables]
    if world > 1 and missing:
        raise _refusal(variables, f"RANK={rank} and WORLD_SIZE={world} are set without {' and '.join(missing)}")
    if missing:
        return Processes()
    if not variables["MASTER_PORT"].isdecimal() or not 0 < int(variables["MASTER_PORT"]) < 65536:
        raise _refusal(variables, f"MASTER_PORT={variables['MASTER_PORT']} is no port (1 to 65535)")
    _refuse_separate_launches(variables, world)
    return Processes(world, rank, True, f"{variables['MASTER_ADDR']}:{variables['MASTER_PORT']}")


def is_main_process() -> bool:
    """Whether this process writes files and prints (rank 0); errors as in ``read_processes``."""
    return read_processes().rank == 0


def world_size() -> int:
    """The number of processes that train together; errors as in ``read_processes``."""
    return read_processes().count


def settle_processes() -> Processes:
    """``read_processes``, and set the variables that the libraries read: srun's are translated, and variables that only look like
    a launch are removed."""
    found = read_processes()
    if found.launched:
        os.environ.update(translated(_nonempty(os.environ)))
    for name in LEFTOVERS:
        if not found.launched or not os.environ.get(name, "").strip():
            os.environ.pop(name, None)
    return found


def _is_of_a_launcher(name: str) -> bool:
    return name in (*LAUNCHER, *LEFTOVERS, *TASK_NAMES) or name.startswith(
        ("TORCHELASTIC_", "GROUP_", "ROLE_", "CROSS_")
    )


def environment_of_one() -> dict[str, str]:
    """The environment without the variables of launchers and of srun's tasks: in it, another launcher can be started."""
    return {name: value for name, value in os.environ.items() if not _is_of_a_launcher(name)}


@contextlib.contextmanager
def as_one_process() -> Iterator[None]:
    """Within this context the environment names no other processes, so nothing waits for them."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_of_a_launcher(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def refuse_several(command: str) -> None:
    """Refuse to run ``command`` as one of several processes.

    Raises:
        ConfigError: there are several, or see ``read_processes``.
    """
    found = read_processes()
    if found.count > 1:
        by = "srun" if translated(_nonempty(os.environ)) else "RANK, WORLD_SIZE"
        how = "as one task (srun --ntasks=1)" if by == "srun" else "without a launcher"
        unset = "" if by == "srun" else f" If no launcher was used, {_unset(os.environ)}."
        raise ConfigError(
            f"{command} is one process, and this is process {found.rank} of {found.count} ({by}): start it {how}; run and improve "
            f"start their training on all GPUs themselves.{unset}"
        )
    settle_processes()


@contextlib.contextmanager
def joining(
    processes: Processes,
    first: float = FIRST_LINE,
    every: float = FURTHER_LINES,
    limit: float = JOINED_WITHIN,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
    end: Callable[[str], None] = lambda sentence: _end(sentence),
) -> Iterator[None]:
    """Print a line while the processes wait for each other: after ``first`` seconds, then after each ``every`` seconds.

    Args:
        limit: seconds after which another thread calls ``end``, which ends the process with a sentence and exit code 1. The
            libraries would wait as long as for an exchange of gradients, which is a day for GRPO.

    Raises:
        UserError: the others cannot be reached.
    """
    if processes.count == 1:
        yield
        return
    met = threading.Event()
    who = f"process {processes.rank} of {processes.count}"
    where = f"for the others at {processes.address}"
    remedy = f"if no others were started, {_unset(os.environ)}"

    def watch() -> None:
        began, wait = time.monotonic(), first
        while not met.wait(min(wait, max(0.0, limit - (time.monotonic() - began)))):
            waited = time.monotonic() - began
            if waited >= limit:
                end(f"{who} has waited {waited / 60:.0f} minutes {where}: check why they have not started; {remedy}.")
                return
            say(f"{who} has waited {waited:.0f} s {where}; {remedy}")
            wait = every

    threading.Thread(target=watch, daemon=True).start()
    try:
        with _stoppable():
            yield
    except RuntimeError as error:
        if not type(error).__name__.startswith("Dist"):  # torch.distributed.DistError and its kinds
            raise
        reason = next(iter(str(error).splitlines()), "no reason given").rstrip(".")
        taken = "EADDRINUSE" in str(error)
        cause = "another run uses the port, so choose another MASTER_PORT" if taken else "check that they have started"
        raise UserError(
            f"{who[0].upper()}{who[1:]} could not join the others at {processes.address} ({reason}): {cause}; {remedy}."
        ) from None
    finally:
        met.set()


def lost_connection(error: BaseException) -> UserError | None:
    """The error to raise if another process cannot be reached any more; None for every other error.

    The libraries raise it in whatever exchange comes next. What ended the other process is in that one's output only.
    """
    if not isinstance(error, RuntimeError) or world_size() == 1:
        return None
    reason = next((line for line in str(error).splitlines() if any(words in line.lower() for words in LOST)), None)
    if reason is None or not ("gloo" in reason or type(error).__name__.startswith("Dist")):
        return None
    reason = _PLACE.sub("", reason).partition(". This is typically")[0].rstrip(". ")
    return UserError(
        f"Process {read_processes().rank} of {world_size()} has lost the connection to another one ({reason}): that process has "
        "ended, or its machine cannot be reached. Its own output says why; the same command resumes from the last complete "
        "checkpoint."
    )


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Within this context Ctrl-C ends the process at once, since torch does not run Python's handlers while it waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Only handlers that are functions: an ignored signal stays ignored.
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(UserError.exit_code)  # no exception reaches the main thread while it waits inside torch


def _number_of(variables: Mapping[str, str], name: str) -> int | None:
    if name not in variables:
        return None
    try:
        value = int(variables[name])
    except ValueError:
        value = LEAST[name] - 1
    if value < LEAST[name]:
        raise _refusal(variables, f"{name}={variables[name]} is not a whole number of at least {LEAST[name]}")
    return value


def _nonempty(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value.strip()}


def _refuse_separate_launches(variables: Mapping[str, str], world: int) -> None:
    """Refuse several tasks of srun of which each has started a launcher of its own: they would train into one folder."""
    tasks, nodes = step_tasks(variables), [variables[name] for name in NODES if variables.get(name, "").isdecimal()]
    if tasks > 1 and nodes and int(nodes[0]) < tasks:
        raise ConfigError(
            f"srun started {tasks} tasks, and each has started a launcher of its own, of {world} processes that do not know the "
            f"others: {REMEDY}."
        )


def _refuse_tasks(variables: Mapping[str, str]) -> None:
    for launcher, names in TASKS.items():
        rank, size = (int(variables[name]) if variables.get(name, "").isdecimal() else 0 for name in names)
        size = step_tasks(variables) if launcher == "srun" else size
        if names[0] in variables and (rank > 0 or size > 1):
            shown = ", ".join(f"{name}={variables[name]}" for name in names if name in variables)
            raise ConfigError(
                f"{launcher} seems to have started several of this command ({shown}), and without RANK and WORLD_SIZE each would "
                f"train by itself: start torchrun or deepspeed once on each machine instead, or give each process {_and(LAUNCHER)}. "
                f"If they are left over from another job, unset {' '.join(name for name in names if name in variables)}. "
                "If each is meant to be a run of its own, set RANK=0 WORLD_SIZE=1."
            )


def _refusal(variables: Mapping[str, str], what: str) -> ConfigError:
    return ConfigError(
        f"{what}: if that is left over from another shell or job, {_unset(variables)}; for several processes start it with torchrun or "
        f"deepspeed, which set {_and(LAUNCHER)}."
    )


def _unset(variables: Mapping[str, Any]) -> str:
    return "unset " + " ".join(name for name in (*LAUNCHER, "LOCAL_WORLD_SIZE") if name in variables)


def _and(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
