"""The teacher inside the training step: the control for every claim about stored targets.

It sees the very views a cache would hold and computes in the same precision, its outputs take the
same way (`encode`, roundings included) to the same losses, and the student's frames are the same
bits. What is left is the noise of running a network on other batches.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import TargetPlan
from reskd.common.distill.encoding import encode
from reskd.common.distill.targets import plan_targets
from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput, joined
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint


class LiveTeacher:
    """Gives batches the targets that the store would.

    In mode `batch` the clips of a training batch go through it in groups of BATCH_GROUP as they
    come, the last group may be smaller. That is the published recipe's own way, whose groups differ
    from epoch to epoch; a cache holds the outputs of the groups it has recorded.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        names: Arrays wanted, out of those the experiment's cache would have.
        device: Where the teacher runs.

    Raises:
        DataError: If the checkpoint is missing, damaged, or another network than the experiment's.
        ExperimentError: If the mode does not suit the network.
    """

    def __init__(
        self,
        experiment: Experiment,
        index: VideoIndex,
        *,
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
        check_teacher(experiment, checkpoint, index.classes)
        plan = plan_targets(experiment, num_classes=len(index.classes))
        self.plan: TargetPlan = replace(
            plan, arrays=tuple(array for array in plan.arrays if array.name in names)
        )
        self.checkpoint = checkpoint
        self._mode = experiment.teacher.mode
        self._teacher = Teacher(
            model,
            device,
            mode=self._mode,
            precision=experiment.teacher.precision,
            logit_map=any(array.name.startswith("logit_map") for array in self.plan.arrays),
        )

    def targets(self, clips_BT3HW: Tensor) -> dict[str, Tensor]:
        """What a cache would hold of these views.

        Args:
            clips_BT3HW: uint8 clips at the teacher's size, on the CPU.

        Returns:
            Every planned array, (B, *row_shape), on the CPU.

        Raises:
            DataError: If the teacher said something that the planned types cannot hold.
        """
        rows = encode(self.plan, self._output(clips_BT3HW), clips_BT3HW)
        return {name: torch.from_numpy(row) for name, row in rows.items()}

    def _output(self, clips_BT3HW: Tensor) -> TeacherOutput:
        if self._mode == "eval":
            return self._teacher.predict(clips_BT3HW)
        groups = clips_BT3HW.split(BATCH_GROUP)
        return joined([self._teacher.predict(group) for group in groups])
