"""From batches of clips to rows: run the teacher and encode what it says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.device_encoding import Check, encode_on_device
from reskd.common.distill.encoding import to_rows
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.video.preprocess import shrink
from reskd.common.video.views import failed_row
from reskd.teacher_cache.fill.batches import Clip, ClipBatch
from reskd.teacher_cache.fill.pipeline.lanes import Arrival, Lanes, Slot, Timer

_REACH = "reach"  # crosses among the arrays, of which none has this name


@dataclass(frozen=True, slots=True)
class BatchOnItsWay:
    """What was asked of the device for one batch; perhaps not even begun."""

    arrival: Arrival
    checks: tuple[Check, ...]
    timer: Timer
    """Of the teacher alone."""

    def rows(self) -> dict[str, Row]:
        """Wait for the rows (B, *row_shape), by array. They lie in the batch's slot.

        Raises:
            DataError: If the teacher said something that the number type on disk cannot hold.
        """
        arrays = dict(self.arrival.wait())
        return to_rows(arrays, arrays.pop(_REACH), self.checks)


@torch.inference_mode()
def begin_batch(
    teacher: Teacher,
    plan: TargetPlan,
    batch: ClipBatch,
    lanes: Lanes,
    slot: Slot,
    *,
    student_size: int = 0,
) -> BatchOnItsWay:
    """Ask the device for the planned arrays of a batch; on CUDA this returns before it has begun.

    Args:
        teacher: Its mode has decided which clips are together.
        plan: Arrays to make.
        batch: The clips, on that device.
        lanes: To the teacher's device.
        slot: Of which nothing is on its way any more.
        student_size: Side of the student's frames, to be made of the clips there; 0 makes none.
    """
    clips_BT3HW = lanes.batch(slot, batch.pixels)
    with lanes.timer() as timer:
        output = teacher.predict(clips_BT3HW)
    encoded = encode_on_device(plan, output)
    arrays = {**encoded.arrays, _REACH: encoded.reach}
    if student_size:
        arrays["frames"] = shrink(clips_BT3HW, student_size)
    arrival = lanes.download(slot, arrays)
    return BatchOnItsWay(arrival, encoded.checks, timer)


def outputs_of(
    teacher: Teacher, batches: Iterable[ClipBatch]
) -> Iterator[tuple[Clip, TeacherOutput]]:
    """Every clip that is kept, with the teacher's output for it, B = 1; nothing is encoded."""
    for batch in batches:
        output = teacher.predict(torch.stack(batch.pixels))
        for number, clip in enumerate(batch.clips):
            yield clip, output.single(number)


def failed_rows(plan: TargetPlan, *, num_views: int, num_frames: int) -> dict[str, Row]:
    """Rows of a video that are never read: zeros, and the mark in `views` that says so."""
    rows: dict[str, Row] = {
        array.name: np.zeros((num_views, *array.row_shape), array.dtype) for array in plan.arrays
    }
    rows["views"] = np.repeat(failed_row(num_frames)[np.newaxis], num_views, axis=0)
    return rows
