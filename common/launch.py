"""Which process of a run this one is, told by the environment it was started in. Without torch.

torchrun, operators of Kubernetes and scripts set RANK and WORLD_SIZE; tasks of an srun step have
Slurm's variables. A batch script and the shell of salloc have most of those too, but nobody beside
them to wait for: they are alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from reskd.common.errors import LaunchError

LOWEST_PORT: Final = 15000
NUM_PORTS: Final = 16381
"""A prime, so that jobs of near numbers share no port. All lie below 32768, where Linux begins to
give ports to outgoing connections."""
_PORTS_PER_JOB: Final = 31
_FIRST_SPECIAL_STEP: Final = 0xFFFFFFF0
"""From here on Slurm numbers what is no srun step: batch scripts, shells of salloc and so on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """This process among those that were started together."""

    rank: int = 0
    """Its number."""
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number among those of its machine."""
    address: str | None = None
    """Host of the first process, where all meet; None where it is alone."""
    port: int | None = None
    """On that host."""
    by: Literal["nobody", "torchrun", "srun", "variables"] = "nobody"
    """Who started it with others: `variables` is whoever else set RANK and WORLD_SIZE."""
    idle_tasks: int = 0
    """Tasks that Slurm has room for beside this process, which nobody started."""

    def gpu(self, seen: int) -> int:
        """The CUDA device of this process.

        Args:
            seen: How many torch sees in this process.

        Raises:
            LaunchError: If there are more processes than devices.
        """
        if self.local_rank < seen:
            return self.local_rank
        if seen == 1 and self.by != "torchrun":
            return 0  # Slurm and containers may show each process no device but its own
        raise LaunchError(
            f"Process {self.rank} of {self.world} is number {self.local_rank} on its machine (the "
            f"first is 0) and sees {seen} CUDA devices. Start as many processes on a machine as it "
            "has devices (torchrun --nproc-per-node; srun --ntasks-per-node and --gpus-per-node), "
            "or add --device cpu."
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """The numbers of one task of an srun step."""

    rank: int
    tasks: int
    tasks_name: str
    """The variable that says how many."""


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Which process this is; alone where nothing says otherwise.

    RANK and WORLD_SIZE win over Slurm's numbers, MASTER_ADDR and MASTER_PORT over the place that is
    derived from them.

    Args:
        environment: Variables of the process; empty ones count as not set.

    Raises:
        LaunchError: If variables are missing, are no numbers or contradict each other.
    """
    known = {name: value.strip() for name, value in environment.items() if value.strip()}
    torchrun = "TORCHELASTIC_RUN_ID" in known
    step = None if torchrun else _step(known)  # srun may have started torchrun, once per machine
    given = _given(known, step)
    if given is not None:
        rank, world = given
    elif step is not None:
        rank, world = step.rank, step.tasks
    else:
        return Launch(idle_tasks=_idle_tasks(known))
    if world == 1:
        return Launch()
    return Launch(
        rank=rank,
        world=world,
        local_rank=_local_rank(known, step),
        address=_address(known, step),
        port=_port(known, step),
        by="torchrun" if torchrun else "variables" if given else "srun",
    )


def first_host(hosts: str) -> str | None:
    """The first of a list as Slurm writes it: node03 of `node[03-05,7],gpu1`.

    Returns:
        None if it is no such list.
    """
    item = re.match(r"(?:[\w.-]|\[\w+(?:[-,]\w+)*\])+(?=,|$)", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", item[0]) if item else None


def _step(known: Mapping[str, str]) -> _Step | None:
    """None outside of srun steps: a batch script has a SLURM_PROCID too, but no step."""
    number = known.get("SLURM_STEP_ID", "")
    if not number.isdecimal() or int(number) >= _FIRST_SPECIAL_STEP:
        return None
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    tasks_name = next((name for name in names if name in known), names[0])
    rank, tasks = _number(known, "SLURM_PROCID"), _number(known, tasks_name)
    _check_rank("SLURM_PROCID", rank, tasks_name, tasks)
    return _Step(rank, tasks, tasks_name)


def _given(known: Mapping[str, str], step: _Step | None) -> tuple[int, int] | None:
    """RANK and WORLD_SIZE; None where they are not set or say no more than Slurm does."""
    numbers = {name: _number(known, name) for name in ("RANK", "WORLD_SIZE") if name in known}
    rank, world = numbers.get("RANK"), numbers.get("WORLD_SIZE")
    if rank is not None and world is not None:
        _check_rank("RANK", rank, "WORLD_SIZE", world)
        if step is not None and world == step.tasks and rank != step.rank:
            raise _contradiction("RANK", rank, "SLURM_PROCID", step.rank)
        return rank, world
    if step is not None:
        if rank not in (None, step.rank):
            raise _contradiction("RANK", rank, "SLURM_PROCID", step.rank)
        if world not in (None, step.tasks):
            raise _contradiction("WORLD_SIZE", world, step.tasks_name, step.tasks)
    elif numbers and world != 1:
        name, other = ("WORLD_SIZE", "RANK") if rank is None else ("RANK", "WORLD_SIZE")
        raise LaunchError(
            f"{name} is {numbers[name]}, but {other} is not set. Let torchrun or srun start the "
            f"processes, set both, or unset {name} to run one process."
        )
    return None


def _idle_tasks(known: Mapping[str, str]) -> int:
    tasks = known.get("SLURM_NTASKS", "")
    return int(tasks) - 1 if "SLURM_JOB_ID" in known and tasks.isdecimal() else 0


def _local_rank(known: Mapping[str, str], step: _Step | None) -> int:
    """Operators of Kubernetes set none: there each process has a machine, its pod, to itself."""
    if "LOCAL_RANK" in known:
        return _number(known, "LOCAL_RANK")
    return 0 if step is None else _number(known, "SLURM_LOCALID")


def _address(known: Mapping[str, str], step: _Step | None) -> str:
    if "MASTER_ADDR" in known:
        return known["MASTER_ADDR"]
    if step is None:
        raise LaunchError(
            "MASTER_ADDR is not set: with RANK and WORLD_SIZE it must name the host of the process "
            "whose RANK is 0, where all of them meet."
        )
    if known.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"  # whether or not a container knows the machine's name
    names = ("SLURM_STEP_NODELIST", "SLURM_NODELIST")
    name = next((name for name in names if name in known), names[0])
    host = first_host(known.get(name, ""))
    if host is None:
        found = f"is {known[name]!r}" if name in known else "is not set"
        raise LaunchError(
            f"{name} {found}; a list of hosts was expected, whose first one all processes meet on. "
            "Set MASTER_ADDR to the host of the first process."
        )
    return host


def _port(known: Mapping[str, str], step: _Step | None) -> int:
    """Of the step, where it is not given: two jobs on one machine must not meet."""
    if step is not None and "MASTER_PORT" not in known:
        job, number = _number(known, "SLURM_JOB_ID"), _number(known, "SLURM_STEP_ID")
        return LOWEST_PORT + (_PORTS_PER_JOB * job + number) % NUM_PORTS
    port = _number(known, "MASTER_PORT")
    if not 0 < port < 65536:
        raise LaunchError(f"MASTER_PORT is {port}; ports are numbers from 1 to 65535.")
    return port


def _number(known: Mapping[str, str], name: str) -> int:
    text = known.get(name)
    if text is None or not text.isdecimal():
        found = "is not set" if text is None else f"is {text!r}"
        raise LaunchError(
            f"{name} {found}; with several processes it must be a whole number. Who starts them "
            "sets it (torchrun, srun, a job of Kubernetes): hand it on into containers."
        )
    return int(text)


def _check_rank(rank_name: str, rank: int, world_name: str, world: int) -> None:
    if rank >= world:
        raise LaunchError(
            f"{rank_name} is {rank}, but {world_name} is {world}: processes are counted from 0, so "
            "it must be less. Unset what is left of an earlier start."
        )


def _contradiction(
    name: str, number: int | None, slurm_name: str, slurm_number: int
) -> LaunchError:
    return LaunchError(
        f"{name} is {number}, but {slurm_name}, which Slurm has set, is {slurm_number}. Unset RANK "
        "and WORLD_SIZE to take Slurm's numbers, or set both for each task by itself."
    )
