"""DIST's intra term is of a device's clips of a step, in however many parts they are computed."""

from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.distill.logit_losses import dist_intra
from reskd.common.experiment import LabelSpec, LossSpec, OptimizerSpec, TrainingSpec
from reskd.student_train.data.batches import Batch
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.pieces import joined
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task
from tests.student_train.tiny_steps import tiny_task, unread_batch
from tests.student_train.two_processes import in_one_group
from tests.tiny_experiment import ALONE

CLIPS: Final = 8
INTRA: Final = LossSpec(cross_entropy=0.0, feature_mse=0.0, dist_intra=2.0, temperature=1.0)
MIXED: Final = replace(INTRA, logit_kd=1.0, dist_inter=1.0)
SPEC: Final = TrainingSpec(
    epochs=1, batch_size=CLIPS, accumulation=4, optimizer=OptimizerSpec(clip_norm=None)
)
TEACHER: Final = torch.randn(
    CLIPS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)


def _whole() -> Batch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (CLIPS, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (CLIPS,), generator=generator)
    return Batch(frames, labels, [*range(CLIPS)], {"logits": TEACHER.clone()})


def _cut(batch: Batch, sizes: tuple[int, ...], *, of: int = CLIPS) -> list[Batch]:
    """Parts of these sizes, in the same memory one after the other as a ring's slots are."""
    parts, first = [], 0
    for size in sizes:
        own = slice(first, first := first + size)
        parts.append(
            Batch(
                batch.frames_BT3HW[own],
                batch.labels[own],
                batch.videos[own],
                {"logits": batch.targets["logits"][own]},
                share=size / of,
                ends_step=first == sum(sizes),
            )
        )
    return parts


def _task(losses: LossSpec, *, backbone: str = "test_convnext", dropout: float = 0.0) -> Task:
    """Of layers that know no batch, but for tests that ask for BatchNorm."""
    plain = tiny_task(backbone)
    for layer in plain.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    # In float64 roundings do not hide a difference.
    model = plain.model.double()
    normalize = model.normalize
    model.normalize = lambda frames: normalize(frames).double()  # type: ignore[assignment,method-assign]
    return Task(model, losses, labels=LabelSpec()).train()


def _gradients(task: Task) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def _step(task: Task, parts: list[Batch], processes: ProcessGroup = ALONE) -> Any:
    stepper = Stepper(task, SPEC, processes, None)
    results = [stepper.forward_backward(part) for part in parts]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert results[-1] is not None
    return results[-1]


def _differentiated(task: Task, loss: Tensor) -> dict[str, Tensor]:
    task.zero_grad()
    loss.backward()
    return _gradients(task)


@pytest.mark.parametrize("losses", [INTRA, MIXED], ids=["alone", "beside others"])
@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (3, 3, 2)], ids=str)
def test_parts_of_a_step_give_the_gradient_of_the_whole(
    sizes: tuple[int, ...], losses: LossSpec
) -> None:
    whole, task = _whole(), _task(losses)
    result = _step(task, _cut(whole, sizes))
    found = _gradients(task)
    clips = task.model.normalize(whole.frames_BT3HW)
    assert len(task.groups.pieces) == len(sizes)
    task.groups.pieces = task.groups.sizes = ()
    expected = task(clips, whole.labels, whole.targets)
    torch.testing.assert_close(result.output.loss, expected.loss.detach(), rtol=1e-7, atol=1e-10)
    assert torch.equal(result.labels, whole.labels)
    gradients = _differentiated(task, expected.loss)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-10)


def test_parts_by_themselves_would_be_another_loss() -> None:
    """Else the test above could not fail."""
    whole, task = _whole(), _task(INTRA)
    scores = task.model(task.model.normalize(whole.frames_BT3HW)).logits_BK
    together = dist_intra(scores, TEACHER, temperature=1.0)
    apart = [
        dist_intra(own, stored, temperature=1.0)
        for own, stored in zip(scores.split(2), TEACHER.split(2), strict=True)
    ]
    assert abs(torch.stack(apart).mean() - together) > 0.1


def test_frames_of_a_part_may_be_overwritten_before_the_step_is_complete() -> None:
    expected_task, task = _task(INTRA), _task(INTRA)
    expected = _step(expected_task, _cut(_whole(), (4, 4)))
    stepper, parts = Stepper(task, SPEC, ALONE, None), _cut(_whole(), (4, 4))
    assert stepper.forward_backward(parts[0]) is None
    for tensor in (parts[0].frames_BT3HW, parts[0].labels, parts[0].targets["logits"]):
        tensor.zero_()
    result = stepper.forward_backward(parts[1])
    assert result is not None
    assert torch.equal(result.output.loss, expected.output.loss)


def test_dropout_is_the_same_when_a_part_is_computed_again() -> None:
    """The forward pass whose loss is told is the one that the gradient belongs to."""
    whole, task = _whole(), _task(INTRA, dropout=0.5)
    torch.manual_seed(5)
    result = _step(task, _cut(whole, (4, 4)))
    found = _gradients(task)
    task.groups.pieces = task.groups.sizes = ()
    torch.manual_seed(5)
    scores = [
        task.model(task.model.normalize(clips)).logits_BK for clips in whole.frames_BT3HW.split(4)
    ]
    expected = 2 * dist_intra(torch.cat(scores), TEACHER, temperature=1.0)
    assert result.output.loss.item() == pytest.approx(expected.item(), rel=1e-7)
    torch.testing.assert_close(found, _differentiated(task, expected), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("group", [None, 2])
def test_running_statistics_take_in_every_clip_once(group: int | None) -> None:
    def states(losses: LossSpec) -> dict[str, Tensor]:
        task = _task(losses, backbone="test_resnet")
        spec = replace(SPEC, accumulation=2, batchnorm_group=group)
        stepper = Stepper(task, spec, ALONE, None)
        for part in _cut(_whole(), (4, 4)):
            groups = () if group is None else (2, 2)
            stepper.forward_backward(replace(part, groups=groups))
        layers = [layer for layer in task.modules() if isinstance(layer, _BatchNorm)]
        assert layers
        assert all(layer.track_running_stats for layer in layers)
        return {name: value.clone() for name, value in task.named_buffers()}

    labels_alone = LossSpec(feature_mse=0.0)
    torch.testing.assert_close(states(INTRA), states(labels_alone), rtol=0, atol=0)


def test_part_that_lacks_clips_counts_as_it_was_planned() -> None:
    """The other terms; the clips of dist_intra count alike."""
    whole = _whole()
    first, second = _cut(whole, (4, 4))
    lacking = _cut(whole, (6, 2))[1]  # two of the second part's four clips could be read
    parts = [first, replace(lacking, share=second.share)]
    task = _task(replace(MIXED, dist_intra=1e-14))
    _step(task, parts)
    plain = _task(replace(MIXED, dist_intra=0.0))
    stepper = Stepper(plain, SPEC, ALONE, None)
    for part in parts:
        stepper.forward_backward(part)
    torch.testing.assert_close(_gradients(task), _gradients(plain), rtol=1e-7, atol=1e-10)


def test_parts_without_clips_leave_the_others() -> None:
    whole = _whole()
    parts = _cut(whole, (4, 4))
    empty = replace(unread_batch(), share=0.5, ends_step=True)
    assert torch.equal(joined([parts[0], empty]).frames_BT3HW, parts[0].frames_BT3HW)
    stepper = Stepper(_task(INTRA), SPEC, ALONE, None)
    assert stepper.forward_backward(replace(empty, ends_step=False)) is None
    assert stepper.forward_backward(empty) is None
    assert stepper.step(0.1) == 0


def _in_two(sizes: tuple[int, ...], processes: ProcessGroup) -> tuple[float, dict[str, Tensor]]:
    whole, half, task = _whole(), CLIPS // 2, _task(INTRA)
    first = processes.rank * half
    own = Batch(
        whole.frames_BT3HW[first : first + half],
        whole.labels[first : first + half],
        targets={"logits": TEACHER[first : first + half]},
    )
    result = _step(task, _cut(own, sizes), processes)
    return result.output.loss.item(), _gradients(task)


@pytest.mark.parametrize("sizes", [(4,), (2, 2)], ids=["one part", "two parts"])
def test_each_of_two_processes_has_a_batch_of_its_own(sizes: tuple[int, ...]) -> None:
    found = in_one_group(partial(_in_two, sizes))
    whole, task = _whole(), _task(INTRA)
    scores = task.model(task.model.normalize(whole.frames_BT3HW)).logits_BK
    own = [
        2 * dist_intra(one, other, temperature=1.0)
        for one, other in zip(scores.split(4), TEACHER.split(4), strict=True)
    ]
    assert [loss for loss, _ in found] == pytest.approx([loss.item() for loss in own], rel=1e-7)
    expected = _differentiated(task, (own[0] + own[1]) / 2)
    for _, gradients in found:
        torch.testing.assert_close(gradients, expected, rtol=1e-7, atol=1e-10)
