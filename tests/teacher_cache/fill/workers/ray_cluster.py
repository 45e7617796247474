"""A Ray cluster of several small nodes on this machine, all of whose files go with it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import pytest


class SmallCluster:
    """A head without CPUs, and nodes of a few."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self.head = self._add(0)
        self.address: str = self._cluster.address

    def add_node(self, cpus: int = 1) -> Any:
        """Start a node, whatever the machine has; returns it."""
        return self._add(cpus)

    def kill_node(self, node_id: str) -> None:
        """SIGKILL a node with everything on it."""
        (node,) = (one for one in self._cluster.worker_nodes if one.node_id == node_id)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_nodes(self) -> None:
        """All but the head."""
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """SIGKILL what every node asks for the others."""
        os.kill(self.head.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Stop all of it."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]

    def _add(self, cpus: int) -> Any:
        return self._cluster.add_node(
            num_cpus=cpus, object_store_memory=80 * 2**20, include_dashboard=False
        )


@contextmanager
def small_cluster() -> Iterator[SmallCluster]:
    """A cluster without nodes yet."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="r") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        cluster = SmallCluster()
        try:
            yield cluster
        finally:
            cluster.end()
            os.environ.pop("RAY_ADDRESS", None)
