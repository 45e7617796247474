"""Optimiser steps: precision, gradients of several parts and processes, clipping, averaging."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import inf
from typing import Any, Final, NamedTuple

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from reskd.common.errors import ExperimentError
from reskd.common.experiment import TrainingSpec
from reskd.common.models.recognizer import Recognizer
from reskd.student_train.data.batches import Batch
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.state import Stateful
from reskd.student_train.train.average import WeightAverage
from reskd.student_train.train.cuda_graphs import GraphedNetwork
from reskd.student_train.train.ghost_batchnorm import convert_ghost_batchnorm
from reskd.student_train.train.guard import Guard
from reskd.student_train.train.live_teacher import LiveTeacher
from reskd.student_train.train.optim import build_optimizer, set_learning_rate
from reskd.student_train.train.pieces import KeptParts
from reskd.student_train.train.task import Task, TaskOutput

_LOW_PRECISION: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class PartResult(NamedTuple):
    """What computing one part of a step gave."""

    output: TaskOutput
    """Without what leads backward from it."""
    labels: Tensor
    """On the device."""


class Stepper:
    """A task that takes optimiser steps, each from one or several parts and processes.

    The loss of a part counts by its share of the clips of the whole step, so a step comes to the
    same however it is cut, BatchNorm apart. Processes exchange gradients once per step. Nothing
    here waits for the device: a step that goes wrong leaves weights, average and scaler what they
    were, and so do all after it, until somebody looks at `guard`.

    Args:
        task: What is trained; moved to the device.
        spec: How.
        processes: This process and the others.
        live: Teacher that runs in the step; None takes the targets of the batches.

    Raises:
        ExperimentError: If BatchNorm over all processes is asked for on CPUs.
    """

    def __init__(
        self, task: Task, spec: TrainingSpec, processes: ProcessGroup, live: LiveTeacher | None
    ) -> None:
        task = task.to(processes.device)
        if spec.channels_last:
            _use_channels_last(task)
        # A copy of the network as it is, before its BatchNorm becomes one for training only.
        self.average = (
            None if spec.ema_decay is None else WeightAverage(task.model, decay=spec.ema_decay)
        )
        if spec.sync_batchnorm and processes.world > 1:
            if processes.device.type != "cuda":
                raise ExperimentError(
                    "training.sync_batchnorm needs GPUs: torch's layer for it has no CPU version. "
                    "Set it to false, or raise the clips per process."
                )
            task = with_batchnorm_of_all(task)
        if spec.batchnorm_group is not None:
            convert_ghost_batchnorm(task, task.groups)
        if spec.cuda_graphs and processes.device.type == "cuda":
            if processes.world > 1:
                raise ExperimentError(
                    "training.cuda_graphs is for one process: set it to false for several."
                )
            task.graphed = GraphedNetwork(task.model, task.groups)
        if spec.compile:
            task.compile(dynamic=False)  # one graph for each of the common sizes of batches
        self.task, self.optimizer = task, build_optimizer(task, spec.optimizer)
        # Small gradients vanish in float16; the scaler makes them large and undoes it.
        self.scaler = torch.amp.GradScaler(
            processes.device.type, enabled=spec.precision == "float16"
        )
        self.guard = Guard(processes.device)
        self._weights = [weight for weight in task.parameters() if weight.requires_grad]
        self._nothing = torch.zeros((), device=processes.device)
        self._has_gradient = False
        # A loss of all clips of a step together.
        self._kept = KeptParts() if task.of_whole_step and spec.accumulation > 1 else None
        self._spec, self._processes, self._live = spec, processes, live
        self._shared: DistributedDataParallel | None = None
        if processes.world > 1:
            with warnings.catch_warnings():
                # The name that torch has used since 2.13 is unknown to those before.
                warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
                # Each process keeps the statistics of its own BatchNorm; the first one's are saved.
                self._shared = DistributedDataParallel(
                    _TaskOrNothing(task),
                    device_ids=[processes.device] if processes.device.type == "cuda" else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )

    @property
    def model(self) -> Recognizer:
        """The network to measure and to save: the average of the weights where one is kept."""
        averaged: Recognizer = self.task.model if self.average is None else self.average.module
        return averaged

    @property
    def state(self) -> dict[str, Stateful]:
        """What has to be kept beside the task's weights for a run that is to go on."""
        parts: dict[str, Stateful] = {"optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def forward_backward(self, batch: Batch, ceiling: Tensor | float = inf) -> PartResult | None:
        """Add the gradient of one part of a step; None for one without clips.

        Where a loss is of all parts together (pieces.py), also for all but the last one.

        Args:
            batch: The part.
            ceiling: A loss that is not below has exploded, as the guard will say.

        Raises:
            ExperimentError: If the loss depends on nothing that is trained.
        """
        if self._kept is not None:
            whole = self._kept.add(self._in_own_memory(batch))
            if whole is None:
                return None
            batch = whole
        if self._nothing_to_do(batch):
            if self._shared is not None and batch.ends_step:
                self._backward(self._shared(None))
            return None
        groups = self.task.groups
        groups.sizes, groups.weights, groups.pieces = batch.groups, batch.weights, batch.pieces
        clips = self.task.model.normalize(self._moved(batch.frames_BT3HW))
        labels = self._moved(batch.labels)
        targets = {name: self._moved(target) for name, target in self.targets(batch).items()}
        with self._exchange(batch.ends_step):
            with self._precision(), self._compiled_for(batch):
                output: TaskOutput = (self._shared or self.task)(clips, labels, targets)
            if not output.loss.requires_grad:
                raise ExperimentError(
                    "training.freeze leaves nothing to train that the losses depend on "
                    f"({', '.join(output.parts)}). Freeze less, or give another loss a weight."
                )
            # Gradients are averaged over processes; shares add up to 1 over all of them.
            share = batch.share * self._processes.world
            self._backward(self.guard.checked(output.loss, ceiling) * share)
        return PartResult(_detached(output), labels)

    def step(self, lr: float) -> Tensor:
        """Update the weights, unless something is wrong, and forget the gradients.

        A step for which no process could read a clip changes nothing: without this rule momentum
        and decay would move the weights.

        Returns:
            L2 norm of the whole gradient before clipping, 0-d on the device; 0 without clips.
        """
        if not self._has_gradient:
            return self._nothing  # a process alone; several have exchanged zeros
        self._has_gradient = False
        scale = None
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
            scale = self._scale()
        norm = clip_grad_norm_(self._weights, self._spec.optimizer.clip_norm or inf)
        self._update(lr, self.guard.leaves_out(norm, scale))
        if scale is not None:
            self.scaler.update()
            # Too large for float16 is no harm, it asks for a smaller scale; but not of a run that
            # has gone wrong.
            self.scaler.update(torch.where(self.guard.well, self._scale(), scale))
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()
        self._has_gradient = True

    def _update(self, lr: float, skip: Tensor) -> None:
        set_learning_rate(self.optimizer, lr)
        if skip.device.type == "mps" and skip.item():
            return  # Apple's version of the fused steps does not look at the flag
        self.optimizer.found_inf = skip  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.average is not None:
            self.average.update(skip)

    def _scale(self) -> Tensor:
        """Of the loss, as the device knows it."""
        scale: Tensor = self.scaler.scale(torch.ones_like(self._nothing))
        return scale

    def _exchange(self, ends_step: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients with the last part of a step, not with those before it."""
        return nullcontext() if self._shared is None or ends_step else self._shared.no_sync()

    def _nothing_to_do(self, batch: Batch) -> bool:
        """Without clips; with BatchNorm over all processes also if another one has none."""
        empty = not len(batch)
        together = self._spec.sync_batchnorm and self._processes.world > 1
        return self._processes.any(empty)[0] if together else empty

    def _compiled_for(self, batch: Batch) -> AbstractContextManager[None]:
        """Where one is asked for: graphs are made for common batches only, others do without."""
        if batch.common or not self._spec.compile:
            return nullcontext()
        as_it_is: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return as_it_is

    def _precision(self) -> AbstractContextManager[None]:
        dtype = _LOW_PRECISION.get(self._spec.precision)
        if dtype is None:
            return nullcontext()
        return torch.autocast(self._processes.device.type, dtype)

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the teacher says about a batch, stored or asked now."""
        if self._live is None or batch.targets:
            return batch.targets
        assert batch.clips_BT3HW is not None, "a live teacher needs clips of its size"
        return self._live.targets(batch.clips_BT3HW)

    def _in_own_memory(self, batch: Batch) -> Batch:
        """A batch on the device, with its targets, that outlives what it was read into."""

        def copied(tensor: Tensor) -> Tensor:
            moved = self._moved(tensor)
            return moved.clone() if moved is tensor else moved

        targets = self.targets(batch) if len(batch) else {}
        return replace(
            batch,
            frames_BT3HW=copied(batch.frames_BT3HW),
            labels=copied(batch.labels),
            targets={name: copied(target) for name, target in targets.items()},
            clips_BT3HW=None,
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        # Only CUDA copies in order with what the batch's memory is used for next (read_ahead.py).
        cuda = self._processes.device.type == "cuda"
        return tensor.to(self._processes.device, non_blocking=cuda)


class _TaskOrNothing(nn.Module):
    """A task for several processes: each has to hand in a gradient of every weight, or others wait.

    One that has no clips for a step hands in zeros. So do weights that no loss depends on: a
    classifier, or layers of a backbone that come after its feature map.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, clips: Tensor | None, *batch: Any) -> Any:
        """What the task returns, or without clips a zero; every weight has a part in either."""
        trained = [weight for weight in self.task.parameters() if weight.requires_grad]
        if clips is None:
            return _NoGradient.apply(*trained)
        output: TaskOutput = self.task(clips, *batch)
        return output._replace(loss=output.loss + _NoGradient.apply(*trained))


class _NoGradient(Function):
    """A zero that depends on weights, but adds nothing to their gradients.

    Zeros as large as the weights would have to be made and added in every step.
    """

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Tensor:
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)


def with_batchnorm_of_all(task: Task) -> Task:
    """The same with BatchNorm over the clips of all processes.

    torch's own conversion would lose the activations that timm puts into its BatchNorm.
    """
    converted: Task = convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
    return converted


def described(output: TaskOutput) -> str:
    """Value and unweighted parts of a loss, for a person."""
    parts = ", ".join(f"{name} {part.item():.4g}" for name, part in output.parts.items())
    return f"{output.loss.item():.4g} ({parts})"


def _detached(output: TaskOutput) -> TaskOutput:
    parts = {name: part.detach() for name, part in output.parts.items()}
    return TaskOutput(output.loss.detach(), parts, output.logits_BK.detach())


def _use_channels_last(module: nn.Module) -> None:
    """Only weights of 3D layers; 2D networks are in that order from the start."""
    for parameter in module.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
