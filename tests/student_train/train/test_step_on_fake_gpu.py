"""A student's step on a GPU: nothing waits, nothing lies on the wrong device."""

from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from reskd.common.experiment import LossSpec, OptimizerSpec, TrainingSpec
from reskd.student_train.data.batches import Batch
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train import average
from reskd.student_train.train.meters import Figures, counts_of
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task
from tests.fake_gpu import GPU, fake_gpu, moved
from tests.student_train.tiny_steps import tiny_task

LOSSES: Final = LossSpec(
    feature_mse=1.0,
    feature_mse_normalised=1.0,
    logit_kd=1.0,
    dkd_target=1.0,
    dkd_others=1.0,
    dist_inter=1.0,
    dist_intra=1.0,
    standardise_logits=True,
)
SGD: Final = TrainingSpec(epochs=1, ema_decay=0.5)
SPECS: Final = {
    "sgd": SGD,
    "adamw, ghost BatchNorm": replace(
        SGD, optimizer=OptimizerSpec(name="adamw", lr=0.1), batchnorm_group=2
    ),
}


def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=GPU)


def batch_of(task: Task, groups: tuple[int, ...]) -> Batch:
    channels = task.model.num_features
    targets = {
        "features": made(4, 2, channels, 1, 1, dtype=torch.int8),
        "feature_scale": made(4, channels, dtype=torch.float16),
        "feature_residual": made(4),
        "logits": made(4, 3, dtype=torch.float16),
    }
    frames = made(4, 2, 3, 32, 32, dtype=torch.uint8)
    return Batch(frames, made(4, dtype=torch.int64), [0, 1, 2, 3], targets, groups=groups)


def fused_sgd(params: list[Tensor], grads: list[Tensor], *_: object, **settings: Any) -> None:
    """Torch's own knows no fake tensors; it takes those of one device and order in memory."""
    assert settings["found_inf"].device == GPU
    for weight, gradient in zip(params, grads, strict=True):
        assert (weight.device, gradient.device) == (GPU, GPU)
        assert weight.stride() == gradient.stride()


@pytest.mark.parametrize("name", SPECS)
def test_step_stays_on_the_device_and_never_waits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, spec = tiny_task(losses=LOSSES, teacher_grid=(2, 2)), SPECS[name]
    twin = tiny_task().model
    monkeypatch.setattr(task, "to", lambda _: task)
    monkeypatch.setattr(average, "deepcopy", lambda _: moved(twin))  # of a fake one copies its GPU
    monkeypatch.setattr(torch, "_fused_sgd_", fused_sgd)
    with fake_gpu() as copies:
        stepper, figures = Stepper(moved(task), spec, ProcessGroup(GPU), None), Figures({})

        def backward(_: Tensor) -> None:  # torch's own needs a real GPU
            for weight in task.parameters():
                weight.grad = torch.empty_like(weight)
            stepper._has_gradient = True

        monkeypatch.setattr(stepper, "_backward", backward)
        for _ in range(2):
            copies.found.clear()
            batch = batch_of(task, (2, 2) if spec.batchnorm_group else ())
            result = stepper.forward_backward(batch, figures.ceiling())
            assert stepper.step(0.1).device == GPU
            assert result is not None
            figures.add(counts_of(result))
        mean = figures.mean_loss()
        assert mean is not None
        assert {mean.device, stepper.guard.well.device} == {GPU}
    assert copies.found == []
