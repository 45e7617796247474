"""The training loop: one for teachers and students, with or without stored targets."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from common.console import Advance, progress, say
from common.errors import StoppedShortError
from common.rng import derived_seed
from common.signals import preemptible
from common.specs import TrainingSpec
from common.video.view_ops import normalize
from student_train.batches import Batch, Batches
from student_train.live import LiveTeacher
from student_train.optim import build_optimizer, set_learning_rate
from student_train.run_folder import RunFolder
from student_train.schedule import learning_rate
from student_train.task import Task, TaskOutput

MUCH_WAITING = 0.2
"""Share of an epoch spent waiting for data above which it is worth a word."""


def train(
    task: Task,
    batches: Batches,
    spec: TrainingSpec,
    run: RunFolder,
    *,
    device: torch.device,
    live: LiveTeacher | None,
) -> None:
    """Train to the last epoch; a run that was stopped goes on after its last finished epoch.

    On one machine the resumed run ends with the same weights as one that was never stopped: order
    and dropout come from (seed, epoch).

    Args:
        task: What is trained.
        batches: All epochs.
        spec: How long and how.
        run: Where state and log go.
        device: Where to train.
        live: Teacher that answers in the step; None takes the targets of the batches.

    Raises:
        StoppedShortError: If the loss or its gradient is not finite.
        PreemptedError: If a signal asked to stop; the last finished epoch is on disk.
    """
    task.to(device)
    optimizer = build_optimizer(task, spec.optimizer)
    first = run.load_state(task, optimizer)
    if first:
        say(f"{run.path}: going on after {first} finished epochs of {spec.epochs}")
    total = batches.clips_per_epoch * spec.epochs
    done = batches.clips_per_epoch * first
    step = _Step(task, optimizer, spec, device, live)
    told = False

    def rate(epoch: int, number: int) -> float:
        return learning_rate(
            spec.optimizer.lr,
            spec.schedule,
            epoch=epoch,
            epochs=spec.epochs,
            step=number,
            steps_per_epoch=batches.steps_per_epoch,
        )

    with preemptible(), progress("training", total, unit="clips", done=done) as advance:
        for epoch in range(first, spec.epochs):
            torch.manual_seed(derived_seed(spec.seed, "epoch", epoch))
            with closing(batches.epoch(epoch)) as in_order:
                figures = _train_epoch(step, in_order, epoch, advance, partial(rate, epoch))
            if figures["data_wait_share"] > MUCH_WAITING and not told:
                told = True
                say(
                    f"{figures['data_wait_share']:.0%} of epoch {epoch} went into waiting for "
                    f"data. To speed it up, {batches.how_to_speed_up}."
                )
            run.append_event({"phase": "train", "epoch": epoch, **figures})
            run.save_state(task, optimizer, epoch + 1)


@dataclass(frozen=True, slots=True)
class _Step:
    task: Task
    optimizer: torch.optim.Optimizer
    spec: TrainingSpec
    device: torch.device
    live: LiveTeacher | None

    def __call__(self, batch: Batch) -> tuple[TaskOutput, Tensor]:
        clips = normalize(self._moved(batch.frames_BT3HW))
        labels = self._moved(batch.labels_B)
        targets = {name: self._moved(target) for name, target in self._targets(batch).items()}
        low = self.spec.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            output: TaskOutput = self.task(clips, labels, targets)
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        norm = clip_grad_norm_(self.task.parameters(), self.spec.optimizer.clip_norm or inf)
        if not isfinite(norm.item()):  # before the step: the weights stay what they were
            parts = ", ".join(f"{name} {part.item():.4g}" for name, part in output.parts.items())
            raise StoppedShortError(
                f"The loss is {output.loss.item():.4g} ({parts}) and its gradient has norm "
                f"{norm.item():.4g}"
            )
        self.optimizer.step()
        return output, labels

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        if self.live is None:
            return batch.targets
        assert batch.clips_BT3HW is not None, "a live teacher needs clips of its size"
        return self.live.targets(batch.clips_BT3HW)

    def _moved(self, tensor: Tensor) -> Tensor:
        # Only CUDA copies in order with what the batch's memory is used for next (slots.py).
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")


def _train_epoch(
    step: _Step,
    batches: Iterator[Batch],
    epoch: int,
    advance: Advance,
    rate: Callable[[int], float],
) -> dict[str, Any]:
    """One pass; returns the last learning rate, and the epoch's figures as means over clips."""
    step.task.train()
    sums: dict[str, float] = defaultdict(float)
    lr = rate(0)
    clips, waited, start = 0, 0.0, time.perf_counter()
    for number, (batch, wait) in enumerate(_timed(batches)):
        lr = rate(number)
        set_learning_rate(step.optimizer, lr)
        try:
            output, labels = step(batch)
        except StoppedShortError as error:
            raise StoppedShortError(
                f"{error} at epoch {epoch}, step {number}. The last finished epoch is on disk. "
                "Lower the learning rate or a loss weight."
            ) from error
        count = len(labels)
        clips, waited = clips + count, waited + wait
        sums["loss"] += count * output.loss.item()
        sums["train_top1"] += (output.logits_BK.argmax(1) == labels).sum().item()
        for name, part in output.parts.items():
            sums[name] += count * part.item()
        advance(count, note=f"epoch {epoch}  loss {sums['loss'] / clips:.3f}")
    if not clips:
        raise StoppedShortError(
            f"There was not a single clip to train on in epoch {epoch}: no video could be read, or "
            "no unit of the cache is finished. Run `reskd cache-teacher` again, or mend the videos."
        )
    seconds = time.perf_counter() - start
    return {
        "lr": lr,
        **{name: value / clips for name, value in sums.items()},
        "clips": clips,
        "seconds": seconds,
        "clips_per_second": clips / seconds,
        "data_wait_share": waited / seconds,
    }


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds spent waiting for it."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start
