"""BatchNorm by groups is what computing every group by itself comes to, in one forward pass."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partialmethod
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.errors import ExperimentError
from reskd.common.experiment import LabelSpec, LossSpec, OptimizerSpec, TrainingSpec
from reskd.student_train.data.batches import Batches
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.ghost_batchnorm import (
    ClipGroups,
    GhostBatchNorm,
    convert_ghost_batchnorm,
)
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task
from tests.student_train.tiny_steps import drawn_batch, tiny_task
from tests.student_train.two_processes import in_one_group
from tests.tiny_experiment import ALONE

VIDEOS: Final = 26
"""Steps of 12, 12 and 2, or of 20 and 6."""
TARGETS_ONLY: Final = LossSpec(cross_entropy=0.0, feature_mse=2.0, logit_kd=3.0)
"""Cross entropy is taken in float32, which would hide small differences."""


class DrawnFrames:
    """Two frames of every video, some of which cannot be read."""

    stored: Sequence[str] = ()
    how_to_speed_up = "nothing"
    videos = range(VIDEOS)
    unreadable = Unreadable({}, max_bad=0.0)

    def __init__(self, bad: Sequence[int]) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (VIDEOS, 2, 3, 32, 32)
        self._frames = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        self._bad = bad

    def read(self, batches: list[list[int]], epoch: int) -> Iterable[LoadedBatch]:
        """Every batch without the bad ones."""
        for planned in batches:
            videos = [video for video in planned if video not in self._bad]
            yield LoadedBatch(videos, self._frames[videos], self._frames[videos])


class DrawnLabels:
    """One of three classes for every video."""

    def of(self, videos: list[int], *, epoch: int) -> Tensor:
        """Classes in turns."""
        return torch.tensor(videos, dtype=torch.int64) % 3


class TeacherOfMeans:
    """Targets that follow from a clip alone, in the type of the network."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        self._patterns = [torch.randn(n, generator=generator).to(dtype) for n in (channels, 3)]

    def targets(self, clips_BT3HW: Tensor) -> dict[str, Tensor]:
        """Patterns times the mean of each frame."""
        pattern_C, pattern_K = self._patterns
        mean_BT = clips_BT3HW.to(pattern_C.dtype).mean(dim=(2, 3, 4)) / 128 - 1
        features_BTC = mean_BT[..., None] * pattern_C
        logits_BK = mean_BT.mean(dim=1, keepdim=True) * pattern_K
        return {"features": features_BTC[..., None, None], "logits": logits_BK}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained how."""

    id: str
    batch_size: int = 12
    group: int = 4
    accumulation: int = 1
    bad: tuple[int, ...] = ()
    recognizer: str = "tsn"
    backbone: str = "test_resnet"
    dtype: torch.dtype = torch.float64
    losses: LossSpec = TARGETS_ONLY
    lr: float = 0.05


def _run(case: Case, spec: TrainingSpec, processes: ProcessGroup, *, epochs: int) -> list[Any]:
    """After every step: class scores, gradients, running statistics, weights."""
    model = tiny_task(case.backbone, case.recognizer).model
    grid = model(torch.zeros(2, 2, 3, 32, 32)).features_BTChw.shape[-2:]
    assert grid == (1, 1)
    task = Task(model, case.losses, labels=LabelSpec(), teacher_grid=(1, 1)).to(case.dtype)
    normalize = model.normalize
    model.normalize = lambda frames: normalize(frames).to(case.dtype)  # type: ignore[assignment,method-assign]
    teacher: Any = TeacherOfMeans(model.num_features, case.dtype)
    stepper = Stepper(task, spec, processes, teacher)
    labels: Any = DrawnLabels()
    batches = Batches(
        DrawnFrames(case.bad),
        labels,
        targets=(),
        cache=None,
        num_views=None,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        batchnorm_group=spec.batchnorm_group,
        seed=0,
        processes=processes,
    )
    steps: list[Any] = []
    logits: list[Tensor] = []
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            result = stepper.forward_backward(batch)
            logits += [] if result is None else [result.output.logits_BK.detach()]
            if batch.ends_step:
                named = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
                state = {name: value.clone() for name, value in task.state_dict().items()}
                gradients = {name: gradient.clone() for name, gradient in named.items()}
                steps.append((torch.cat(logits) if logits else None, gradients, state))
                stepper.step(case.lr)
                logits = []
    return steps


def _groups_and_parts(
    case: Case, processes: ProcessGroup, *, epochs: int = 1, compiled: bool = False
) -> tuple[list[Any], list[Any]]:
    """One forward pass over groups, and as the reference each group computed by itself."""
    parts = -(-case.batch_size // (processes.world * case.group))
    spec = TrainingSpec(
        epochs=1,
        batch_size=case.batch_size,
        accumulation=parts,
        optimizer=OptimizerSpec(clip_norm=None),
    )
    ghost = replace(
        spec, accumulation=case.accumulation, batchnorm_group=case.group, compile=compiled
    )
    one, other = (_run(case, each, processes, epochs=epochs) for each in (ghost, spec))
    return one, other


ONE_PROCESS = [
    Case(id="equal"),
    Case(id="unequal", batch_size=20, group=6),
    Case(id="lone", batch_size=25, group=8),
    Case(id="accumulated", accumulation=2),
    Case(id="accumulated-unequal", batch_size=20, group=3, accumulation=3),
    Case(id="unread", bad=(1, 2, 7, 20)),
    Case(id="unread-accumulated", bad=(1, 2, 7, 20), accumulation=2),
    Case(id="group-unread", batch_size=6, group=2, bad=tuple(range(0, VIDEOS, 2))),
    Case(id="none-read", batch_size=6, group=2, bad=tuple(range(VIDEOS))),
    Case(id="tsm", recognizer="tsm"),
    Case(id="slowonly", recognizer="slowonly", bad=(3, 4)),
    Case(id="activations", backbone="test_efficientnet", bad=(3, 4)),
]


@pytest.mark.parametrize("case", ONE_PROCESS, ids=lambda case: case.id)
def test_groups_are_what_parts_were(case: Case) -> None:
    groups, parts = _groups_and_parts(case, ALONE)
    torch.testing.assert_close(groups, parts, rtol=1e-7, atol=1e-10)


COMPILED = [
    Case(id="equal"),
    Case(id="unequal", batch_size=20, group=6),
    Case(id="unread", bad=(1, 2, 7, 20)),
    Case(id="slowonly", recognizer="slowonly"),
    Case(id="activations", backbone="test_efficientnet"),
]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.id)
def test_compiled_groups_are_what_parts_were(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the graphs computed as they are; making code of them would take minutes."""
    torch._dynamo.reset()
    options = {"backend": "eager", "fullgraph": True}
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, **options))
    groups, parts = _groups_and_parts(case, ALONE, compiled=True)
    torch.testing.assert_close(groups, parts, rtol=1e-7, atol=1e-10)


def test_groups_are_not_one_batch() -> None:
    """Else the comparison with parts could not fail."""
    case = Case(id="", batch_size=12, group=4)
    groups, _ = _groups_and_parts(case, ALONE)
    whole, _ = _groups_and_parts(replace(case, group=12), ALONE)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(groups[0], whole[0], rtol=0.01, atol=0.01)


def test_groups_in_float32_stay_with_the_parts_for_20_steps() -> None:
    """At a rate that does not amplify roundings: at 0.01 they grow tenfold in two steps here."""
    losses = LossSpec(cross_entropy=1.0, feature_mse=0.0)
    case = Case(id="", bad=(5,), dtype=torch.float32, losses=losses, lr=0.003)
    groups, parts = _groups_and_parts(case, ALONE, epochs=7)
    assert len(groups) == 21
    for (logits, _, state), (expected_logits, _, expected) in zip(groups, parts, strict=True):
        torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)


def _in_two(processes: ProcessGroup) -> tuple[list[Any], list[Any]]:
    case = Case(id="", batch_size=20, group=3, accumulation=2, bad=(3, 7, 20))
    return _groups_and_parts(case, processes)


def test_groups_of_two_processes_are_what_parts_were() -> None:
    """Of 4 groups of 2 and 3 clips in each, some of which are not read, and of a short step."""
    found = in_one_group(_in_two)
    for groups, parts in found:
        torch.testing.assert_close(groups, parts, rtol=1e-7, atol=1e-10)
    for (_, one, _), (_, other, _) in zip(*(groups for groups, _ in found), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_ghost_layers_are_the_same_ones_outside_of_training(backbone: str) -> None:
    task = tiny_task(backbone).eval()
    clips = torch.randn(4, 2, 3, 32, 32)
    layers = [layer for layer in task.modules() if isinstance(layer, _BatchNorm)]
    kinds, state = [type(layer) for layer in layers], list(task.state_dict())
    with torch.no_grad():
        expected = task.model(clips).logits_BK
        convert_ghost_batchnorm(task, task.groups)
        task.groups.sizes = (2, 2)
        assert torch.equal(task.model(clips).logits_BK, expected)
    assert [layer for layer in task.modules() if isinstance(layer, _BatchNorm)] == layers
    assert all(isinstance(layer, kind) for layer, kind in zip(layers, kinds, strict=True))
    assert all(isinstance(layer, GhostBatchNorm) for layer in layers)
    assert list(task.state_dict()) == state


def test_average_of_a_network_with_ghost_layers_has_plain_ones() -> None:
    spec = TrainingSpec(epochs=1, batchnorm_group=2, ema_decay=0.5)
    stepper = Stepper(tiny_task(), spec, ALONE, None)
    for seed in range(2):
        stepper.forward_backward(replace(drawn_batch(seed), groups=(2, 2)))
        stepper.step(0.1)
    trained, averaged = (
        [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        for model in (stepper.task.model, stepper.model)
    )
    assert all(isinstance(layer, GhostBatchNorm) for layer in trained)
    assert not any(isinstance(layer, GhostBatchNorm) for layer in averaged)
    counts = [layer.state_dict()["num_batches_tracked"].item() for layer in trained]
    assert set(counts) == {4}


def test_rows_that_are_not_those_of_clips_are_refused() -> None:
    layer = nn.BatchNorm2d(3)
    convert_ghost_batchnorm(layer, ClipGroups(sizes=(2, 2)))
    with pytest.raises(ExperimentError, match=r"10 rows for 4 clips.*batchnorm_group to null"):
        layer(torch.randn(10, 3, 2, 2))


def test_groups_of_few_clips_and_of_all_processes_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        TrainingSpec(epochs=1, batchnorm_group=8, sync_batchnorm=True)
