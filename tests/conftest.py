"""What every test may rely on: global generators as they were, and few threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest_plugins = ["tests.fixtures"]

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
