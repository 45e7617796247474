"""Runs of a tiny student on a tiny cache, with events in the middle of them."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import torch

from reskd.common.dataset.index import read_index
from reskd.common.experiment import TrainingSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.registry import build_model
from reskd.common.signals import stop_request
from reskd.student_train.data.batches import Batch, Batches, StoredFrames
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.labels import Labels
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.train.loop import OnFailure, Training, train
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import ALONE, TinyCache


class InterruptedBatches(Batches):
    """Batches that do something in the middle of one epoch, once, with its second batch."""

    epoch_of_event: int | None = None
    event: Callable[[Batch], None]

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Batch, None, None]:
        with closing(super().epoch(epoch, first_step=first_step)) as batches:
            for number, batch in enumerate(batches):
                if number == 1 and epoch == self.epoch_of_event:
                    self.epoch_of_event = None
                    self.event(batch)
                yield batch


class Trainer:
    """The parts of a training run, made anew for every start as a command would."""

    def __init__(self, cache: TinyCache) -> None:
        self.experiment = load_experiment(str(cache.experiment))
        self.index = read_index(self.experiment.data.index)
        self.reader = CacheReader(cache.cache)
        self.cache = TrainingCache(self.reader, self.index.numbered("train"))
        self.spec: TrainingSpec = self.experiment.required_student().training

    def batches(self, targets: tuple[str, ...] = ("features", "feature_residual")) -> Batches:
        return InterruptedBatches(
            StoredFrames(self.cache),
            Labels(self.index.numbered("train"), num_classes=3, kind="one_of", seed=0),
            targets=targets,
            cache=self.cache,
            num_views=self.experiment.views.count,
            batch_size=self.spec.batch_size,
            accumulation=self.spec.accumulation,
            seed=self.spec.seed,
            processes=ALONE,
        )

    def start(
        self,
        run: Path,
        batches: Batches | None = None,
        *,
        recipe: str = "this",
        on_failure: OnFailure | None = None,
        task: Task | None = None,
    ) -> Task:
        task = task or self.task()
        with stop_request() as stop:
            training = Training(
                batches=batches or self.batches(),
                spec=self.spec,
                run=RunFolder(run, {"role": "student", "name": recipe}, keep=self.spec.keep),
                processes=ALONE,
                on_failure=on_failure,
                stop=stop,
            )
            train(Stepper(task, self.spec, ALONE, None), training)
        return task

    def task(self) -> Task:
        """Always of the same weights."""
        torch.manual_seed(0)
        model = build_model(self.experiment.required_student().model, num_classes=3)
        return Task(
            model,
            self.experiment.required_student().losses,
            labels=self.spec.labels,
            teacher_channels=96,
            teacher_grid=(3, 3),
        )

    def interrupted(self, epoch: int, event: Callable[[Batch], None]) -> Batches:
        batches = self.batches()
        assert isinstance(batches, InterruptedBatches)
        batches.epoch_of_event, batches.event = epoch, event
        return batches
