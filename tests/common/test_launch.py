"""Who a process is, told by its environment: as torchrun, Slurm, Kubernetes and people set it."""

from dataclasses import dataclass, replace

import pytest

from reskd.common.errors import LaunchError
from reskd.common.launch import LOWEST_PORT, NUM_PORTS, Launch, first_host, read_launch

# What Slurm 22.05 sets: in tasks of srun, in batch scripts and in shells of salloc.
STEP = {
    "SLURM_JOB_ID": "40",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NODELIST": "gpu[01-04]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
BATCH = {
    "SLURM_JOB_ID": "40",
    "SLURM_NODELIST": "gpu[03-04]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SHELL_ON_A_NODE = {
    **BATCH,
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
}
SHELL = {"SLURM_JOB_ID": "40", "SLURM_NTASKS": "4", "SLURM_NODELIST": "gpu[03-04]"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu03",
    "MASTER_PORT": "29400",
}
KUBERNETES = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "train-master-0",
    "MASTER_PORT": "23456",
}
STEP_PORT = LOWEST_PORT + 31 * 40 + 2
OF_STEP = Launch(rank=3, world=4, local_rank=1, address="gpu03", port=STEP_PORT, by="srun")
OF_TORCHRUN = Launch(rank=5, world=8, local_rank=1, address="gpu03", port=29400, by="torchrun")
OF_KUBERNETES = Launch(
    rank=1, world=2, local_rank=0, address="train-master-0", port=23456, by="variables"
)


@dataclass(frozen=True)
class Case:
    """An environment and who it makes a process."""

    id: str
    environment: dict[str, str]
    expected: Launch


def _without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


CASES = [
    Case("nothing", {"PATH": "/bin"}, Launch()),
    Case("empty", {"RANK": "", "WORLD_SIZE": " ", "SLURM_STEP_ID": ""}, Launch()),
    Case("one-of-torchrun", {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, Launch()),
    Case("world-of-one-by-hand", {"WORLD_SIZE": "1"}, Launch()),
    Case("torchrun", TORCHRUN, OF_TORCHRUN),
    Case("torchrun-once-per-node-by-srun", {**STEP, **TORCHRUN}, OF_TORCHRUN),
    Case("torchrun-in-a-batch-script", {**BATCH, **TORCHRUN}, OF_TORCHRUN),
    Case(
        "torchrun-as-large-as-the-step",
        {**STEP, **TORCHRUN, "WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "8"},
        OF_TORCHRUN,
    ),
    Case("kubernetes", KUBERNETES, OF_KUBERNETES),
    Case(
        "kubernetes-with-local-rank",
        {**KUBERNETES, "LOCAL_RANK": "1"},
        replace(OF_KUBERNETES, local_rank=1),
    ),
    Case("srun", STEP, OF_STEP),
    Case("srun-of-fewer-than-the-job", {**STEP, "SLURM_NTASKS": "16"}, OF_STEP),
    Case("srun-of-an-older-slurm", _without(STEP, "SLURM_STEP_NUM_TASKS"), OF_STEP),
    Case(
        "srun-without-list-of-the-step",
        _without(STEP, "SLURM_STEP_NODELIST"),
        replace(OF_STEP, address="gpu01"),
    ),
    Case(
        "srun-on-one-node",
        {**STEP, "SLURM_STEP_NUM_NODES": "1"},
        replace(OF_STEP, address="127.0.0.1"),
    ),
    Case("srun-of-one-task", {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Launch()),
    Case(
        "srun-and-address-given",
        {**STEP, "MASTER_ADDR": "10.0.0.1"},
        replace(OF_STEP, address="10.0.0.1"),
    ),
    Case("srun-and-port-given", {**STEP, "MASTER_PORT": "29500"}, replace(OF_STEP, port=29500)),
    Case(
        "srun-and-both-given-without-lists",
        {
            **_without(STEP, "SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_ID"),
            "MASTER_ADDR": "a",
            "MASTER_PORT": "1",
        },
        replace(OF_STEP, address="a", port=1),
    ),
    Case("srun-and-world-size-given", {**STEP, "WORLD_SIZE": "4"}, OF_STEP),
    Case("srun-and-rank-given", {**STEP, "RANK": "3"}, OF_STEP),
    Case(
        "srun-and-both-set-by-a-script",
        {**STEP, "RANK": "3", "WORLD_SIZE": "4"},
        replace(OF_STEP, by="variables"),
    ),
    Case("srun-of-tasks-each-by-itself", {**STEP, "RANK": "0", "WORLD_SIZE": "1"}, Launch()),
    Case(
        "srun-of-starters-of-two-each",
        {**STEP, "RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3"},
        replace(OF_STEP, rank=7, world=8, local_rank=3, by="variables"),
    ),
    Case("sbatch", BATCH, Launch(idle_tasks=3)),
    Case("sbatch-of-one-task", {**BATCH, "SLURM_NTASKS": "1"}, Launch()),
    Case("sbatch-that-says-so", {**BATCH, "SLURM_STEP_ID": "batch"}, Launch(idle_tasks=3)),
    Case("sbatch-with-its-number", {**BATCH, "SLURM_STEP_ID": "4294967291"}, Launch(idle_tasks=3)),
    Case("salloc", SHELL, Launch(idle_tasks=3)),
    Case("salloc-with-a-shell-on-the-node", SHELL_ON_A_NODE, Launch(idle_tasks=3)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_environment_tells_who_a_process_is(case: Case) -> None:
    assert read_launch(case.environment) == case.expected


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "8"}, ["WORLD_SIZE is 8", "RANK is not set"]),
        ({**BATCH, "WORLD_SIZE": "8"}, ["WORLD_SIZE is 8", "RANK is not set"]),
        ({"RANK": "1"}, ["RANK is 1", "WORLD_SIZE is not set"]),
        ({"RANK": "2", "WORLD_SIZE": "2"}, ["RANK is 2", "WORLD_SIZE is 2"]),
        ({"RANK": "x", "WORLD_SIZE": "2"}, ["RANK is 'x'", "whole number"]),
        ({"RANK": "0", "WORLD_SIZE": "-2"}, ["WORLD_SIZE is '-2'"]),
        (_without(KUBERNETES, "MASTER_ADDR"), ["MASTER_ADDR is not set", "RANK is 0"]),
        (_without(KUBERNETES, "MASTER_PORT"), ["MASTER_PORT is not set"]),
        ({**KUBERNETES, "MASTER_PORT": "70000"}, ["MASTER_PORT is 70000", "65535"]),
        ({**STEP, "WORLD_SIZE": "8"}, ["WORLD_SIZE is 8", "SLURM_STEP_NUM_TASKS", "is 4"]),
        ({**STEP, "RANK": "0"}, ["RANK is 0", "SLURM_PROCID", "is 3"]),
        ({**STEP, "RANK": "0", "WORLD_SIZE": "4"}, ["RANK is 0", "SLURM_PROCID", "is 3"]),
        ({**STEP, "SLURM_PROCID": "4"}, ["SLURM_PROCID is 4", "SLURM_STEP_NUM_TASKS is 4"]),
        (_without(STEP, "SLURM_PROCID"), ["SLURM_PROCID is not set", "containers"]),
        (_without(STEP, "SLURM_LOCALID"), ["SLURM_LOCALID is not set"]),
        (_without(STEP, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), ["SLURM_STEP_NUM_TASKS is not"]),
        (_without(STEP, "SLURM_JOB_ID"), ["SLURM_JOB_ID is not set"]),
        ({**STEP, "SLURM_STEP_NODELIST": "gpu[03"}, ["SLURM_STEP_NODELIST is 'gpu[03'"]),
        (
            _without(STEP, "SLURM_STEP_NODELIST", "SLURM_NODELIST"),
            ["SLURM_STEP_NODELIST is not set", "MASTER_ADDR"],
        ),
    ],
)
def test_environment_that_contradicts_itself_is_refused_by_its_names(
    environment: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(LaunchError) as refused:
        read_launch(environment)
    assert [part for part in named if part not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("node[03-05,7],gpu1", "node03"),
        ("node[7,03-05]", "node7"),
        ("node[007]", "node007"),
        ("gpu1,node[03-05]", "gpu1"),
        ("rack[2-3]node[01-04]", "rack2node01"),
        ("node[1-2]-ib.site.org,x", "node1-ib.site.org"),
        ("a.b-c.d", "a.b-c.d"),
        ("", None),
        (",gpu1", None),
        ("node[03-05", None),
        ("node[]", None),
        ("node]3[", None),
        ("two hosts", None),
    ],
)
def test_first_host_of_a_list_of_slurm(hosts: str, first: str | None) -> None:
    assert first_host(hosts) == first


def _port(job: int, step: int) -> int | None:
    return read_launch({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port


def test_steps_that_may_run_at_once_have_ports_of_their_own() -> None:
    for first in (1, 987_654, 67_000_000):
        ports = [_port(job, step) for job in range(first, first + 500) for step in range(8)]
        assert len(set(ports)) == 4000
        assert all(LOWEST_PORT <= port < LOWEST_PORT + NUM_PORTS < 32768 for port in ports if port)
    assert _port(7, 0) == _port(7, 0)


@pytest.mark.parametrize(
    ("launch", "seen", "expected"),
    [
        (OF_TORCHRUN, 4, 1),
        (OF_STEP, 2, 1),
        (OF_STEP, 1, 0),
        (OF_KUBERNETES, 1, 0),
        (replace(OF_KUBERNETES, local_rank=3), 1, 0),
    ],
    ids=["torchrun", "srun", "srun-that-shows-each-its-own", "pod", "script-that-does"],
)
def test_each_process_takes_its_own_device(launch: Launch, seen: int, expected: int) -> None:
    assert launch.gpu(seen) == expected


@pytest.mark.parametrize(
    ("launch", "seen"),
    [(OF_TORCHRUN, 1), (replace(OF_STEP, local_rank=2), 2)],
    ids=["torchrun", "srun"],
)
def test_more_processes_than_devices_are_refused(launch: Launch, seen: int) -> None:
    text = rf"number {launch.local_rank} on its machine.* sees {seen} CUDA devices"
    with pytest.raises(LaunchError, match=text):
        launch.gpu(seen)
