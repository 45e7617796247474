"""The arithmetic of outputs that are to be reproduced, wherever a network runs."""

import pytest
import torch
from torch.backends import cudnn

from reskd.common.devices import (
    choose_device,
    choose_devices,
    failures_told,
    repeatable_arithmetic,
)
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment import ModelSpec
from reskd.common.models.registry import build_model
from tests import REPOSITORY


def flags() -> tuple[bool, bool, bool, bool]:
    return cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32


@pytest.mark.parametrize("enabled", [True, False])
def test_arithmetic_is_repeatable_and_leaves_cudnn_on_where_it_was(
    enabled: bool,
) -> None:
    with cudnn.flags(enabled=enabled, benchmark=True, deterministic=False, allow_tf32=True):
        with repeatable_arithmetic():
            assert flags() == (enabled, True, False, False)
        assert flags() == (enabled, False, True, True)


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [True, False])
def test_arithmetic_sets_tf32_and_sums_inside_only(before: str, tf32: bool) -> None:
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision(before)
    try:
        sums = matmul.allow_fp16_reduced_precision_reduction
        with repeatable_arithmetic(tf32=tf32):
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
            assert not matmul.allow_fp16_reduced_precision_reduction
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == before
        assert matmul.allow_fp16_reduced_precision_reduction == sums
    finally:
        torch.set_float32_matmul_precision("highest")


def test_teacher_runs_with_cudnn_on() -> None:
    seen = []
    model = build_model(ModelSpec(backbone="test_resnet"), num_classes=2)
    model.register_forward_hook(lambda *_: seen.append(flags()))
    Teacher(model, torch.device("cpu")).predict(torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8))
    assert seen == [(True, True, False, False)]


def test_no_other_place_sets_the_flags_of_cudnn() -> None:
    rooms = ("common", "teacher_cache", "student_train")
    setting = [
        path.relative_to(REPOSITORY).as_posix()
        for room in rooms
        for path in (REPOSITORY / room).rglob("*.py")
        if "cudnn.flags(" in path.read_text(encoding="utf-8")
    ]
    assert setting == ["common/devices.py"]


@pytest.mark.parametrize(
    ("name", "current", "expected"),
    [
        ("auto", None, "cuda:0"),
        ("cuda", None, "cuda:0"),
        ("cuda", 1, "cuda:1"),
        ("cuda:1", None, "cuda:1"),
        ("cpu", 1, "cpu"),
    ],
)
def test_device_of_cuda_has_its_number(
    name: str, current: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: current is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    assert str(choose_device(name)) == expected


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DataError, match="--device cuda:2: torch sees 2 CUDA devices here"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "memory of cpu has ended: .* Less"),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory of cpu has ended: .* Less"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "memory of cpu has ended"),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nand advice"),
            "cpu failed",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "cpu failed: cuDNN error"),
    ],
    ids=["memory", "memory of the driver", "memory of a library", "device", "device in a library"],
)
def test_failure_of_a_device_ends_the_command_and_says_what_to_do(
    error: RuntimeError, message: str
) -> None:
    with (
        pytest.raises(StoppedShortError, match=message),
        failures_told(torch.device("cpu"), memory="Less."),
    ):
        raise error


def test_failure_of_the_program_is_none_of_a_device() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        failures_told(torch.device("cpu"), memory=""),
    ):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        ("cpu", 0, ["cpu"]),
        ("cpu:3", 0, ["cpu", "cpu", "cpu"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("cuda:1, cuda:0", 2, ["cuda:1", "cuda:0"]),
        ("cuda:1,cpu", 2, ["cuda:1", "cpu"]),
    ],
)
def test_devices_of_workers(
    monkeypatch: pytest.MonkeyPatch, names: str, count: int, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [str(device) for device in choose_devices(names)] == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cuda", "torch sees 2 CUDA devices|torch sees 0"),
        ("cuda:0,cuda:5", "--device cuda:5: torch sees 2"),
        ("cuda:1,cuda:1", "names a device twice"),
        ("cpu:0", "cpu:2 is two workers"),
        ("cpu:two", "cpu:2 is two workers"),
        ("", "is no device of torch"),
        ("gpu", "is no device of torch"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, names: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if names == "cuda" else 2)
    with pytest.raises(DataError, match=message):
        choose_devices(names)
