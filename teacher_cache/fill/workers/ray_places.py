"""Which nodes of a Ray cluster have room for how many workers: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from reskd.common.errors import DataError
from reskd.teacher_cache.fill.cluster import RayOptions
from reskd.teacher_cache.fill.workers.site import Place

Node = Mapping[str, Any]
"""As `ray.nodes()` describes one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayPlace(Place):
    """A GPU with its share of the node's CPUs, or CPUs alone."""

    node: str
    """What Ray calls it."""
    cpus: int
    """Of the worker; as many threads decode."""
    count: int
    """Places of that node."""


def device_kind(nodes: Iterable[Node], options: RayOptions) -> str:
    """Where teachers run in a cluster: `cuda` or `cpu`.

    Raises:
        DataError: If no node has the GPU that was asked for.
    """
    alive = [node for node in nodes if node["Alive"]]
    gpus = sum(int(node["Resources"].get("GPU", 0)) for node in alive)
    if options.device == "cuda" and not gpus:
        raise DataError(
            f"--device cuda: the {len(alive)} nodes of the Ray cluster have no GPU. Start a node "
            "with one (`ray start --num-gpus 1`), or run on CPUs with --device cpu."
        )
    return "cuda" if gpus and options.device != "cpu" else "cpu"


def places_of(nodes: Iterable[Node], kind: str, threads: int | None) -> list[RayPlace]:
    """The places of the nodes that are alive.

    Args:
        nodes: Of the cluster.
        kind: `cuda` or `cpu`.
        threads: CPUs of a worker, fewer where a node has not as many; None shares all out.
    """
    return [place for node in nodes if node["Alive"] for place in _on(node, kind, threads)]


def _on(node: Node, kind: str, threads: int | None) -> list[RayPlace]:
    cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
    if kind == "cuda":
        count, share = gpus, cpus // max(1, gpus)
    else:
        count, share = cpus // max(1, min(threads or cpus, cpus)), cpus
    return [
        RayPlace(
            device=torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu"),
            number=number,
            machine=node["NodeManagerAddress"],
            node=node["NodeID"],
            cpus=min(threads or share, share),
            count=count,
        )
        for number in range(count)
    ]
