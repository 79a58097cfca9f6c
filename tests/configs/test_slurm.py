"""srun's variables become a launcher's, for tasks of a step only."""

from typing import Any

import pytest

from configs.errors import ConfigError
from configs.processes import Processes, read_processes
from configs.slurm import first_host, step_tasks, translated

TASK = {
    **{"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "12", "SLURM_NTASKS": "12"},
    **{"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "8,4"},
    **{"SLURM_STEP_NODELIST": "gpu[07,11]", "SLURM_NODELIST": "gpu[01-11]"},
}
BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "12", "SLURM_NODELIST": "gpu[07,11]"}
SALLOC = {"SLURM_NTASKS": "12", "SLURM_NODELIST": "gpu[07,11]", "SLURM_JOB_ID": "4711"}
INTERACTIVE_STEP = 4294967290


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in TASK.items() if name not in names}


def test_a_task_becomes_a_rank_of_the_step() -> None:
    found = translated(TASK)
    port = int(found.pop("MASTER_PORT"))
    assert found == {
        **{"RANK": "9", "WORLD_SIZE": "12", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
        "MASTER_ADDR": "gpu07",  # of the step, not of the job
    }
    assert 20000 <= port < 30000
    assert read_processes(TASK) == Processes(12, 9, True, f"gpu07:{port}")
    others = [
        translated({**TASK, **change})["MASTER_PORT"] for change in ({"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "4712"})
    ]
    assert len({str(port), *others}) == 3
    assert translated({**TASK, "SLURM_PROCID": "0"})["MASTER_PORT"] == str(port)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}),
        ({"CUDA_VISIBLE_DEVICES": "0"}, {"LOCAL_RANK": "0"}),  # --gpus-per-task=1
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, {"LOCAL_RANK": "1"}),
        ({"SLURM_NODEID": "0"}, {"LOCAL_WORLD_SIZE": "8"}),
        ({"SLURM_STEP_TASKS_PER_NODE": "3(x4)"}, {"LOCAL_WORLD_SIZE": "3"}),
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:"}, {"LOCAL_WORLD_SIZE": None}),  # has cores of its own: nothing to divide
        ({"SLURM_CPU_BIND_TYPE": "none"}, {"LOCAL_WORLD_SIZE": "4"}),
        ({"SLURM_STEP_NUM_TASKS": ""}, {"WORLD_SIZE": "12"}),
    ],
)
def test_what_the_step_and_the_user_decide(change: dict[str, str], expected: dict[str, Any]) -> None:
    found = translated({**TASK, **change})
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "variables",
    [
        {},
        BATCH,
        SALLOC,
        {**BATCH, "SLURM_STEP_ID": str(INTERACTIVE_STEP)},  # salloc's shell as a step of its own
        {**BATCH, "SLURM_STEP_ID": str(INTERACTIVE_STEP), "SLURM_STEP_NUM_TASKS": "1"},
        {**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --ntasks=1 in a larger job
    ],
)
def test_one_process_in_a_job_waits_for_nobody(variables: dict[str, str]) -> None:
    assert step_tasks(variables) == 1
    assert translated(variables) == {}
    assert read_processes(variables) == Processes()


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"])
def test_a_step_without_a_variable_is_not_translated(name: str) -> None:
    variables = {key: value for key, value in without(name).items() if key != "SLURM_NODELIST"}
    assert translated(variables) == {}
    if name != "SLURM_PROCID":
        with pytest.raises(ConfigError, match="srun seems to have started several of this command"):
            read_processes(variables)


def test_a_launcher_and_the_user_win() -> None:
    whole = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "24", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    per_machine = {**TASK, "SLURM_STEP_NUM_TASKS": "2", **whole, "GROUP_WORLD_SIZE": "2"}
    assert translated(per_machine) == {} and read_processes(per_machine) == Processes(24, 1, True, "h:1")
    assert read_processes({**TASK, "RANK": "0", "WORLD_SIZE": "1"}) == Processes()


@pytest.mark.parametrize("launcher", ["GROUP_WORLD_SIZE", "CROSS_SIZE"])
def test_a_launcher_in_each_task_that_knows_no_other_is_refused(launcher: str) -> None:
    whole = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    nested = {**TASK, "SLURM_STEP_NUM_TASKS": "2", **whole, launcher: "1"}
    with pytest.raises(
        ConfigError, match="srun started 2 tasks, and each has started a launcher of its own, of 8 processes"
    ):
        read_processes(nested)
    alone = {name: value for name, value in nested.items() if name not in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID")}
    assert read_processes(alone).count == 8  # the way that the sentence names


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("gpu[07]", "gpu07"),
        ("a-[3,5-9]-ib", "a-3-ib"),
        ("rack[2-3]node[04-07]", "rack2node04"),
    ],
)
def test_the_first_machine_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
