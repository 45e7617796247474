"""Which batches torch.compile makes graphs for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reskd.common.experiment import TrainingSpec
from reskd.student_train.data.batches import Batches
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.train.stepper import Stepper
from tests.student_train.tiny_steps import tiny_task
from tests.tiny_experiment import ALONE


class BlankFrames:
    """Two frames of every video; from the second epoch on some videos cannot be read."""

    stored: Sequence[str] = ()
    how_to_speed_up = "nothing"
    unreadable = Unreadable({}, max_bad=0.0)

    def __init__(self, videos: int) -> None:
        self.videos = range(videos)

    def read(self, batches: list[list[int]], epoch: int) -> Iterator[LoadedBatch]:
        """Every batch without those."""
        for planned in batches:
            videos = [video for video in planned if epoch == 0 or video % 3]
            yield LoadedBatch(videos, torch.zeros(len(videos), 2, 3, 32, 32, dtype=torch.uint8))


class SameLabel:
    """The first class, for all."""

    def of(self, videos: list[int], *, epoch: int) -> Tensor:
        """As many as there are videos."""
        return torch.zeros(len(videos), dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Case:
    """How steps are cut; the last one of an epoch is a short one."""

    id: str
    graphs: int = 2
    videos: int = 10
    batch_size: int = 4
    accumulation: int = 1
    group: int | None = None


CASES = [
    Case(id="full-and-last"),
    Case(id="groups", group=2),
    Case(id="parts-alike", accumulation=2, graphs=1),
    Case(id="groups-in-parts", accumulation=2, group=1),
    # Groups of (2, 2) and (2, 2, 2) clips in a full step, of (1,) and (2,) in the last one.
    Case(id="four-sizes", videos=13, batch_size=10, accumulation=2, group=2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_compiled_are_two_graphs_at_most_and_none_after_the_first_epoch(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    options = {"backend": "eager", "fullgraph": True}  # code of a graph would take minutes
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, **options))
    spec = TrainingSpec(
        epochs=3,
        batch_size=case.batch_size,
        accumulation=case.accumulation,
        batchnorm_group=case.group,
        compile=True,
    )
    labels: Any = SameLabel()
    batches = Batches(
        BlankFrames(case.videos),
        labels,
        targets=(),
        cache=None,
        num_views=None,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        batchnorm_group=spec.batchnorm_group,
        seed=0,
        processes=ALONE,
    )
    stepper = Stepper(tiny_task(), spec, ALONE, None)
    stepper.task.train()
    stats = torch._dynamo.utils.counters["stats"]
    before, graphs, sizes = stats["unique_graphs"], [], set()
    for epoch in range(spec.epochs):
        for batch in batches.epoch(epoch):
            sizes.add(batch.groups)
            stepper.forward_backward(batch)
            if batch.ends_step:
                stepper.step(0.001)
        graphs.append(stats["unique_graphs"] - before)
    assert graphs == [case.graphs] * spec.epochs
    assert len(sizes) > case.graphs
