"""The small networks, each built once for all tests; none may change it."""

import pytest
import torch

from tests.common.models.networks import SMALL_NETWORKS, BuiltNetwork, build


@pytest.fixture(
    params=SMALL_NETWORKS, ids=[network.id for network in SMALL_NETWORKS], scope="session"
)
def small(request: pytest.FixtureRequest) -> BuiltNetwork:
    torch.manual_seed(0)
    return request.param, build(request.param.spec)
