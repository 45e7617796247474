"""The training loop: one for teachers and students, with or without stored targets."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
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
from student_train.run_folder import RunFolder, Stateful
from student_train.schedule import learning_rate
from student_train.task import Task, TaskOutput

_LOW_PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}

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
    stepper = _Stepper(task.to(device), spec, device, live)
    first = run.load_state(stepper.state)
    if first:
        say(f"{run.path}: going on after {first} finished epochs of {spec.epochs}")
    total = batches.clips_per_epoch * spec.epochs
    done = batches.clips_per_epoch * first
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
                figures = _train_epoch(stepper, in_order, epoch, advance, partial(rate, epoch))
            if figures["data_wait_share"] > MUCH_WAITING and not told:
                told = True
                say(
                    f"{figures['data_wait_share']:.0%} of epoch {epoch} went into waiting for "
                    f"data. To speed it up, {batches.how_to_speed_up}."
                )
            run.append_event({"phase": "train", "epoch": epoch, **figures})
            run.save_state(stepper.state, epoch + 1)


class _Stepper:
    """Optimiser steps, each from one batch or from several whose gradients are summed up."""

    def __init__(
        self, task: Task, spec: TrainingSpec, device: torch.device, live: LiveTeacher | None
    ) -> None:
        self.task, self.optimizer = task, build_optimizer(task, spec.optimizer)
        # Small gradients vanish in float16; the scaler makes them large and undoes it.
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "float16")
        self._autocast = _LOW_PRECISION.get(spec.precision)
        self._clip_norm = spec.optimizer.clip_norm or inf
        self._device, self._live = device, live

    def forward_backward(self, batch: Batch) -> tuple[TaskOutput, Tensor]:
        """Add the gradient of one batch, by its share of the step."""
        clips = normalize(self._moved(batch.frames_BT3HW))
        labels = self._moved(batch.labels)
        targets = {name: self._moved(target) for name, target in self._targets(batch).items()}
        low = self._autocast is not None
        with torch.autocast(self._device.type, self._autocast, enabled=low):
            output: TaskOutput = self.task(clips, labels, targets)
        if not isfinite(output.loss.item()):
            raise StoppedShortError(f"The loss is {_described(output)}")
        self.scaler.scale(output.loss * batch.share).backward()
        return output, labels

    def step(self, lr: float) -> None:
        """Update the weights and forget the gradients."""
        set_learning_rate(self.optimizer, lr)
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.task.parameters(), self._clip_norm).item()
        # Too large for float16 is no harm: the scaler leaves the step out and scales less.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not isfinite(norm) and not overflow:  # before the step: the weights stay what they were
            raise StoppedShortError(f"The gradient has norm {norm:.4g}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def state(self) -> dict[str, Stateful]:
        """What has to be kept for a run that is to go on."""
        return {"task": self.task, "optimizer": self.optimizer, "scaler": self.scaler}

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        if self._live is None:
            return batch.targets
        assert batch.clips_BT3HW is not None, "a live teacher needs clips of its size"
        return self._live.targets(batch.clips_BT3HW)

    def _moved(self, tensor: Tensor) -> Tensor:
        # Only CUDA copies in order with what the batch's memory is used for next (slots.py).
        return tensor.to(self._device, non_blocking=self._device.type == "cuda")


def _described(output: TaskOutput) -> str:
    parts = ", ".join(f"{name} {part.item():.4g}" for name, part in output.parts.items())
    return f"{output.loss.item():.4g} ({parts})"


def _train_epoch(
    stepper: _Stepper,
    batches: Iterator[Batch],
    epoch: int,
    advance: Advance,
    rate: Callable[[int], float],
) -> dict[str, Any]:
    """One pass; returns the last learning rate, and the epoch's figures as means over clips."""
    stepper.task.train()
    sums: dict[str, float] = defaultdict(float)
    step, lr, started = 0, rate(0), False
    clips, waited, start = 0, 0.0, time.perf_counter()
    for batch, wait in _timed(batches):
        count = len(batch)
        try:
            if count:
                output, labels = stepper.forward_backward(batch)
                started, clips = True, clips + count
                sums["loss"] += count * output.loss.item()
                sums["train_top1"] += _hits(output.logits_BK, labels)
                for name, part in output.parts.items():
                    sums[name] += count * part.item()
            if batch.ends_step:
                lr = rate(step)
                if started:
                    stepper.step(lr)
                step, started = step + 1, False
        except StoppedShortError as error:
            raise StoppedShortError(
                f"{error} at epoch {epoch}, step {step}. The last finished epoch is on disk. "
                "Lower the learning rate or a loss weight."
            ) from error
        waited += wait
        if count:
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


def _hits(logits_BK: Tensor, labels: Tensor) -> float:
    """Clips whose best class is the label, or one of them where there are several."""
    best_B = logits_BK.argmax(1)
    if labels.ndim == 1:
        return (best_B == labels).sum().item()
    return labels.gather(1, best_B[:, None]).sum().item()


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds spent waiting for it."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start
