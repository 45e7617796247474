"""What the store keeps of a view: which arrays, of which shape, and how they are computed.

| array | row shape | type | what |
|---|---|---|---|
| logits | (K,) | float16 | class scores; relative error 2^-11 |
| features | (T, C, h, w) | float16 | map on the student's or teacher's grid; relative error 2^-11 |
| feature_residual | () | float32 | constant that restores the loss; student's grid only |
| frames | (T, 3, s, s) | uint8 | the student's input, exact |
| views | (T + 8,) | int32 | how the view was cut, exact (view_params.py) |
"""

import torch
from torch import Tensor

from common.distill.arrays import ArraySpec, Row, TargetPlan
from common.distill.grid_projection import project
from common.errors import DataError, ExperimentError
from common.models.recognizer import ClipOutput
from common.models.registry import complexity
from common.specs import Experiment
from common.video.view_ops import shrink


def plan_targets(experiment: Experiment, *, num_classes: int) -> TargetPlan:
    """Work out every array from shapes alone; runs no network and reads no weights.

    Raises:
        ExperimentError: If a backbone is unknown, or if features are to be stored on the student's
            grid and that is larger than the teacher's.
    """
    num_frames = experiment.clip.num_frames
    teacher, student = (
        complexity(model, num_classes=num_classes, num_frames=num_frames, size=size).feature_shape
        for model, size in (
            (experiment.teacher.model, experiment.views.size),
            (experiment.student.model, experiment.student.size),
        )
    )
    teacher_grid = (teacher[2], teacher[3])
    targets, student_size = experiment.targets, experiment.student.size
    on_student_grid = targets.features is not None and targets.features.grid == "student"
    grid = (student[2], student[3]) if on_student_grid else teacher_grid
    if grid[0] > teacher_grid[0] or grid[1] > teacher_grid[1]:
        raise ExperimentError(
            f"The student's feature map is {grid[0]}x{grid[1]} at student.size {student_size}, "
            f"larger than the teacher's {teacher_grid[0]}x{teacher_grid[1]} at views.size "
            f"{experiment.views.size}, so it has no projection on the student's grid. Lower "
            "student.size, or set targets.features.grid: teacher."
        )
    arrays: list[ArraySpec] = []
    if targets.logits:
        arrays.append(
            ArraySpec(name="logits", row_shape=(num_classes,), dtype=targets.logits.dtype)
        )
    if targets.features:
        shape = (teacher[0], teacher[1], *grid)
        arrays.append(ArraySpec(name="features", row_shape=shape, dtype=targets.features.dtype))
    if on_student_grid:
        arrays.append(ArraySpec(name="feature_residual", row_shape=(), dtype="float32"))
    if targets.frames:
        shape = (num_frames, 3, student_size, student_size)
        arrays.append(ArraySpec(name="frames", row_shape=shape, dtype=targets.frames.dtype))
    arrays.append(ArraySpec(name="views", row_shape=(num_frames + 8,), dtype="int32"))
    return TargetPlan(
        arrays=tuple(arrays),
        teacher_grid=teacher_grid,
        feature_grid=grid,
        student_size=student_size,
    )


def encode(plan: TargetPlan, output: ClipOutput, clips_VT3HW: Tensor) -> dict[str, Row]:
    """What the store keeps of the views of one video, apart from their parameters.

    Args:
        plan: Which arrays.
        output: The teacher's answer to these views, float32.
        clips_VT3HW: The views as the teacher saw them, uint8 on the CPU.

    Returns:
        One array (V, *row_shape) per planned name, without `views`.

    Raises:
        DataError: If the teacher said something that float16 cannot hold.
    """
    rows: dict[str, Row] = {}
    names = {array.name for array in plan.arrays}
    if "logits" in names:
        rows["logits"] = _as_float16(output.logits_BK, "logits")
    if "features" in names:
        maps, residual = project(output.features_BTChw, plan.feature_grid)
        rows["features"] = _as_float16(maps, "features")
        if "feature_residual" in names:
            rows["feature_residual"] = residual.cpu().numpy()
    if "frames" in names:
        rows["frames"] = shrink(clips_VT3HW, plan.student_size).numpy()
    return rows


def _as_float16(values: Tensor, name: str) -> Row:
    small = values.to(torch.float16)
    if not torch.isfinite(small).all():
        raise DataError(
            f"The teacher's {name} reach {values.abs().max().item():.3g}; float16 ends at 65504. "
            "Is the checkpoint a trained one, and are its inputs normalised as it expects?"
        )
    array: Row = small.cpu().numpy()
    return array
