"""Recorded steps are those that are not recorded."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from reskd.common.errors import ExperimentError
from reskd.common.experiment import TrainingSpec
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.stepper import Stepper
from tests.student_train.tiny_steps import drawn_batch, tiny_task
from tests.tiny_experiment import ALONE

SPEC = TrainingSpec(epochs=1)


def weights_after_steps(spec: TrainingSpec, processes: ProcessGroup) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    stepper = Stepper(tiny_task(), spec, processes, None)
    for seed in range(4):
        assert stepper.forward_backward(drawn_batch(seed)) is not None
        stepper.step(0.1)
    return {name: value.cpu() for name, value in stepper.task.state_dict().items()}


def test_cpu_does_without_graphs() -> None:
    expected = weights_after_steps(SPEC, ALONE)
    found = weights_after_steps(replace(SPEC, cuda_graphs=True), ALONE)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_network_is_recorded_once() -> None:
    with pytest.raises(ValueError, match="cuda_graphs and compile both record the network"):
        replace(SPEC, cuda_graphs=True, compile=True)


@pytest.mark.gpu
def test_several_processes_are_refused() -> None:
    processes = ProcessGroup(torch.device("cuda"), rank=0, world=2)
    with pytest.raises(ExperimentError, match=r"training\.cuda_graphs is for one process"):
        Stepper(tiny_task(), replace(SPEC, cuda_graphs=True), processes, None)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_recorded_steps_on_a_gpu_end_with_equal_weights(
    precision: Literal["float32", "bfloat16", "float16"],
) -> None:
    processes = ProcessGroup(torch.device("cuda"))
    spec = replace(SPEC, precision=precision)
    expected = weights_after_steps(spec, processes)
    found = weights_after_steps(replace(spec, cuda_graphs=True), processes)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
