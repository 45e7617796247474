"""The GPU that has no numbers finds what it is for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.fake_gpu import GPU, fake_gpu


@pytest.mark.parametrize(
    "asks",
    [lambda x: x.item(), lambda x: x.nonzero(), lambda x: bool(x > 0), lambda x: x + torch.ones(2)],
    ids=["item", "nonzero", "bool", "other device"],
)
def test_what_looks_at_numbers_or_mixes_devices_raises(asks: Callable[[Tensor], object]) -> None:
    with fake_gpu(), pytest.raises(Exception, match=r"aten|dynamic|device"):
        asks(torch.ones(1, device=GPU))


@pytest.mark.parametrize("way", ["cpu to cuda", "cuda to cpu"])
def test_copy_to_another_device_is_noted(way: str) -> None:
    source, _, target = way.split()
    with fake_gpu() as copies:
        torch.ones(3, device=source).to(target)
    assert copies.found == [f"(3,) {way}"]
