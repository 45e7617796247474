"""What every test may rely on: few threads, no waiting for disks, generators as they were."""

import os
from collections.abc import Iterator
from multiprocessing import set_forkserver_preload

import numpy as np
import pytest
import torch

pytest_plugins = ["pytester", "tests.fixtures", "tests.gpu_marker"]

# Imports take a new process far longer than a tiny run does: the server that forks processes has
# done them once.
set_forkserver_preload(["reskd.student_train.train.runs", "torch.utils.tensorboard"])
torch.set_num_threads(1)  # tests are small; more threads only get in each other's way


@pytest.fixture(autouse=True)
def _global_generators_restored() -> Iterator[None]:
    """A test that draws from torch's or numpy's global generator leaves no trace for the next."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Only a power cut tells a synced file from another, and a tiny run syncs hundreds of them.

    Tests of what is synced, and when, put a function of their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _stays_in_memory)
        yield


def _stays_in_memory(descriptor: int) -> None:
    os.fstat(descriptor)  # a closed file is refused, as it would be
