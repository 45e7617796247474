"""The marker `gpu`, on a machine that has a GPU or has none."""

import pytest
import torch

MARKED = """
import pytest

@pytest.mark.gpu
def test_marked():
    pass

def test_unmarked():
    pass
"""


@pytest.mark.parametrize(
    ("present", "required", "outcomes"),
    [
        (False, None, {"skipped": 1, "passed": 1}),
        (False, "0", {"skipped": 1, "passed": 1}),
        (False, "1", {"errors": 1, "passed": 1}),
        (True, None, {"passed": 2}),
        (True, "1", {"passed": 2}),
    ],
)
def test_marked_test_without_a_gpu_is_skipped_or_fails_where_one_is_required(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    present: bool,
    required: str | None,
    outcomes: dict[str, int],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    monkeypatch.delenv("RESKD_REQUIRE_GPU", raising=False)
    if required is not None:
        monkeypatch.setenv("RESKD_REQUIRE_GPU", required)
    pytester.makeini("[pytest]\nmarkers = gpu: needs CUDA\n")
    pytester.makepyfile(MARKED)
    result = pytester.runpytest_inprocess("-p", "tests.gpu_marker", "-p", "no:xdist")
    result.assert_outcomes(**outcomes)
    assert (result.ret == 0) == ("errors" not in outcomes)
