"""Tests marked `gpu`: skipped where there is none, failed where there has to be one."""

import os

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A machine that is there to test on a GPU must not pass by skipping."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("RESKD_REQUIRE_GPU") == "1":
        pytest.fail("RESKD_REQUIRE_GPU=1, but torch finds no CUDA device", pytrace=False)
    pytest.skip("needs a GPU")
