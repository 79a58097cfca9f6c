"""A launcher's variables for the tasks that ``srun`` starts, from srun's own; neither torch, accelerate nor DeepSpeed reads those.

Only a step of several tasks is translated. SLURM_NTASKS alone is no sign of one: it is also set in a batch script and in the
shell that ``salloc`` opens, where a command is a single process, and it would wait for others that nobody starts.
"""

import re
import zlib
from collections.abc import Mapping

TASK = ("SLURM_PROCID", "SLURM_LOCALID")
SPECIAL_STEPS = 0xFFFFFFF0  # batch scripts, interactive shells and the like have step ids from here on
NODES = ("GROUP_WORLD_SIZE", "CROSS_SIZE")
"""The number of machines of a launch, as torchrun (and accelerate) and DeepSpeed's launcher tell it to their processes."""
REMEDY = (
    "start one task per process and no launcher (srun python train/sft.py ...), or one launcher per machine that knows the others "
    "(srun --ntasks-per-node=1 torchrun --nnodes ..., docs/training.md). If each task is meant to be a run of its own, unset "
    "SLURM_STEP_NUM_TASKS and SLURM_STEP_ID"
)


def step_tasks(variables: Mapping[str, str]) -> int:
    """The number of tasks of the srun that started this process; 1 if none did."""
    tasks, step = variables.get("SLURM_STEP_NUM_TASKS", ""), variables.get("SLURM_STEP_ID", "")
    if not tasks and step.isdecimal() and int(step) < SPECIAL_STEPS:
        tasks = variables.get("SLURM_NTASKS", "")
    return int(tasks) if tasks.isdecimal() else 1


def translated(variables: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and the like for one of several tasks of srun; empty for every other process.

    Empty also if RANK or WORLD_SIZE is set, since a launcher or the user then decides, or if a variable of srun is missing, which
    ``configs.processes`` refuses. MASTER_ADDR and MASTER_PORT win over the values found here.
    """
    tasks = step_tasks(variables)
    hosts = (
        variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST") or variables.get("SLURM_JOB_NODELIST")
    )
    whole = hosts and all(variables.get(name, "").isdecimal() for name in TASK)
    if tasks < 2 or not hosts or not whole or variables.get("RANK") or variables.get("WORLD_SIZE"):
        return {}
    local = variables["SLURM_LOCALID"]
    # With --gpus-per-task each task sees its own GPU only, as number 0.
    sees_one = len(variables.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and "CUDA_VISIBLE_DEVICES" in variables
    found = {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": "0" if sees_one else local,
        "MASTER_ADDR": variables.get("MASTER_ADDR") or first_host(hosts),
        "MASTER_PORT": variables.get("MASTER_PORT") or str(_port(variables)),
    }
    # The cores are divided by this number, unless srun has bound each task to cores of its own.
    here = None if variables.get("SLURM_CPU_BIND_TYPE", "none") != "none" else _tasks_here(variables)
    return {**found, "LOCAL_WORLD_SIZE": str(here)} if here else found


def first_host(hosts: str) -> str:
    """The first machine of Slurm's list: ``gpu[07-09,12],login1`` gives ``gpu07``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts.strip())
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else hosts)


def _port(variables: Mapping[str, str]) -> int:
    """A port that all tasks of a step agree on, and that two steps on one machine hardly share."""
    step = f"{variables.get('SLURM_JOB_ID', '')}.{variables.get('SLURM_STEP_ID', '')}"
    return 20000 + zlib.crc32(step.encode()) % 10000


def _tasks_here(variables: Mapping[str, str]) -> int | None:
    """The number of the step's tasks on this machine, from ``8(x3),4`` (by machine); None if srun does not say."""
    counts = variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE") or ""
    by_node = [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts) for _ in range(int(times or 1))]
    node = variables.get("SLURM_NODEID", "0")
    return by_node[int(node)] if node.isdecimal() and int(node) < len(by_node) else None
