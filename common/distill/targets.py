"""What the store keeps of a view: which arrays, of which shape and type.

| array | row shape | type | what |
|---|---|---|---|
| logits | (K,) | float16 | class scores |
| features | (T, C, h, w) | float16 or int8 | map on the student's or the teacher's grid |
| feature_scale | (C,) | float16 | int8 only: step of each channel over the clip |
| feature_residual | () | float32 | constant that restores the loss; student's grid only |
| logit_map | (T, h, w, K) | float16 | class scores of every location, teacher's grid |
| logit_map_ids | (T, h, w, k) | uint16 | top k instead: their classes, best first |
| logit_map_values | (T, h, w, k) | float16 | top k: the class scores themselves |
| logit_map_rest | (T, h, w) | float16 | top k: log sum exp(z / temperature) of the others |
| frames | (T, 3, s, s) | uint8 | the student's input, exact |
| views | (T + 8,) | int32 | how the view was cut, exact (views.py) |

encoding.py fills them and says how far each may be from what the teacher computed.
"""

from typing import Any, Final

from reskd.common.distill.arrays import AVERAGED_STEPS, ArraySpec, Grid, TargetPlan
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment, FeaturesTarget, LogitMapTarget, LossSpec
from reskd.common.experiment.training import ON_FEATURES, ON_LOGITS
from reskd.common.models.registry import Complexity, complexity
from reskd.common.video.views import columns

ARRAYS_OF_LOSS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(ON_FEATURES, ("features", "feature_scale", "feature_residual")),
    **dict.fromkeys(ON_LOGITS, ("logits",)),
    "logit_map_kl": ("logit_map", "logit_map_ids", "logit_map_values", "logit_map_rest"),
}
"""Weight of a loss in the experiment to the arrays it may need; a store has some of them."""

MAP_LOSSES: Final = (*ON_FEATURES, "logit_map_kl")
"""Losses that compare maps, so teacher and student must have equally many time steps."""

ARRAYS_OF_TARGET: Final[dict[str, tuple[str, ...]]] = {
    "logits": ARRAYS_OF_LOSS["logit_kd"],
    "features": ARRAYS_OF_LOSS["feature_mse"],
    "logit_map": ARRAYS_OF_LOSS["logit_map_kl"],
    "frames": ("frames",),
    "views": ("views",),
}
"""Target to the arrays it may consist of; `views` come with every store."""

FROM_VIDEO_ALONE: Final = frozenset({"frames", "views"})
"""Arrays that need no teacher."""

_MOST_CLASSES: Final = 65535  # class numbers of a top-k map are uint16


def arrays_needed(losses: LossSpec) -> list[str]:
    """Names of all arrays that the losses with a weight may need."""
    several = [ARRAYS_OF_LOSS[loss] for loss in losses.with_weight(ARRAYS_OF_LOSS)]
    several += [ARRAYS_OF_TARGET[name] for own in losses.own.values() for name in own.targets]
    return list(dict.fromkeys(name for names in several for name in names))


def plan_targets(experiment: Experiment, *, num_classes: int) -> TargetPlan:
    """Work out every array from shapes alone; runs no network and reads no weights.

    Raises:
        ExperimentError: If a backbone is unknown, if a network does not make the maps that targets
            or losses ask it for, if features are to be stored on the student's
            grid and that is larger than the teacher's, if the student's losses compare maps that
            have other time steps than the teacher's, or if a logit map is to keep as many classes
            as there are, or more classes than uint16 can name.
    """
    num_frames, small = experiment.clip.num_frames, experiment.required_student()
    costs = [
        complexity(model, num_classes=num_classes, num_frames=num_frames, size=size)
        for model, size in (
            (experiment.teacher.model, experiment.views.size),
            (small.model, small.size),
        )
    ]
    _check_maps(experiment, *costs)
    teacher, student = (cost.feature_shape for cost in costs)
    steps, channels, *_ = teacher
    stored_steps = _stored_steps(experiment, steps)
    _check_time_steps(experiment, steps, stored_steps, student[0])
    teacher_grid = (teacher[2], teacher[3])
    targets, student_size = experiment.targets, small.size
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
        arrays.append(_array("logits", (num_classes,), targets.logits.dtype))
    if targets.features:
        shape_TChw = (stored_steps, channels, *grid)
        arrays += _feature_arrays(targets.features, shape_TChw, teacher_grid)
    if targets.logit_map:
        arrays += _logit_map_arrays(targets.logit_map, (steps, *teacher_grid), num_classes)
    if targets.frames:
        shape = (num_frames, 3, student_size, student_size)
        arrays.append(_array("frames", shape, targets.frames.dtype))
    arrays.append(_array("views", (num_frames + 8,), "int32", columns=columns(num_frames)))
    return TargetPlan(
        arrays=tuple(arrays),
        teacher_grid=teacher_grid,
        feature_grid=grid,
        student_size=student_size,
    )


def _check_maps(experiment: Experiment, teacher: Complexity, student: Complexity) -> None:
    """Whether both networks make the maps that targets and losses name; scores all make."""
    losses, targets = experiment.required_student().losses, experiment.targets
    asked = (
        ("targets.features", targets.features, "teacher", bool(teacher.feature_shape[1])),
        ("targets.logit_map", targets.logit_map, "teacher", teacher.gives_logit_map),
        *(
            (f"student.losses.{loss}", getattr(losses, loss), "student", given)
            for loss, given in (
                *((loss, bool(student.feature_shape[1])) for loss in ON_FEATURES),
                ("logit_map_kl", student.gives_logit_map),
            )
        ),
    )
    for name, wanted, role, given in asked:
        if wanted and not given:
            model = getattr(experiment, role).model
            kind = "feature map" if "feature" in name else "logit map"
            clear = f"{name}: {'null' if role == 'teacher' else 0}"
            if role == "teacher":
                comparing = ON_FEATURES if kind == "feature map" else ("logit_map_kl",)
                named = losses.with_weight(comparing) or comparing[:1]
                clear = ", ".join([clear, *(f"student.losses.{loss}: 0" for loss in named)])
            raise ExperimentError(
                f"{name} needs a {kind}, which the {role} ({model.recognizer}, {model.backbone}) "
                f"does not make: it classifies by a head of its own. Set {clear} and distil with "
                "student.losses.logit_kd, or take another network (`reskd models show` tells)."
            )


def _stored_steps(experiment: Experiment, teacher_steps: int) -> int:
    """Time steps of the feature map that is stored."""
    features = experiment.targets.features
    average = 1 if features is None else features.average_steps
    if teacher_steps % average:
        raise ExperimentError(
            f"targets.features.average_steps is {average}, which does not divide the "
            f"{teacher_steps} time steps of the teacher's feature map. Take a divisor of "
            f"{teacher_steps}."
        )
    return teacher_steps // average


def _check_time_steps(
    experiment: Experiment, teacher_steps: int, stored_steps: int, student_steps: int
) -> None:
    """Maps are compared time step by time step; nothing interpolates between frames."""
    student = experiment.required_student()
    comparing = [
        loss
        for loss in student.losses.with_weight(MAP_LOSSES)
        if student_steps != (stored_steps if loss in ON_FEATURES else teacher_steps)
    ]
    if not comparing:
        return
    factor, rest = divmod(teacher_steps, student_steps)
    averaged = (
        f", store the mean of every {factor} of them (targets.features.average_steps: {factor})"
        if not rest and factor > 1 and set(comparing) <= set(ON_FEATURES)
        else ""
    )
    teacher_model, student_model = experiment.teacher.model, student.model
    raise ExperimentError(
        f"Of a clip of {experiment.clip.num_frames} frames the teacher "
        f"({teacher_model.recognizer}, {teacher_model.backbone}) makes a feature map with "
        f"{teacher_steps} time steps and the student ({student_model.recognizer}, "
        f"{student_model.backbone}) one with {student_steps}, so student.losses."
        f"{' and '.join(comparing)} cannot compare them. Take networks with equally many "
        f"(`reskd models show` tells){averaged}, or set the weight to 0 and distil with "
        "student.losses.logit_kd."
    )


def _feature_arrays(
    target: FeaturesTarget, shape_TChw: tuple[int, int, int, int], teacher_grid: Grid
) -> list[ArraySpec]:
    grids = {"grid": list(shape_TChw[2:]), "teacher_grid": list(teacher_grid)}
    # Said of each, for a plan may be cut down to any of them; not said by caches from before.
    mean = {} if target.average_steps == 1 else {AVERAGED_STEPS: target.average_steps}
    arrays = [_array("features", shape_TChw, target.dtype, **grids, align_corners=False, **mean)]
    if target.dtype == "int8":
        arrays.append(_array("feature_scale", (shape_TChw[1],), "float16", **mean))
    if target.grid == "student":
        arrays.append(_array("feature_residual", (), "float32", **mean))
    return arrays


def _logit_map_arrays(
    target: LogitMapTarget, shape_Thw: tuple[int, int, int], num_classes: int
) -> list[ArraySpec]:
    if target.top_k is None:
        return [_array("logit_map", (*shape_Thw, num_classes), target.dtype)]
    if target.top_k >= num_classes or num_classes > _MOST_CLASSES:
        raise ExperimentError(
            f"targets.logit_map.top_k is {target.top_k} of {num_classes} classes; it must be "
            f"smaller than their number, and that at most {_MOST_CLASSES}. Lower it, or set it to "
            "null to keep all classes."
        )
    shape_Thwk = (*shape_Thw, target.top_k)
    return [
        _array("logit_map_ids", shape_Thwk, "uint16"),
        _array("logit_map_values", shape_Thwk, target.dtype),
        _array("logit_map_rest", shape_Thw, target.dtype, temperature=target.temperature),
    ]


def _array(name: str, row_shape: tuple[int, ...], dtype: str, **attributes: Any) -> ArraySpec:
    return ArraySpec(name=name, row_shape=row_shape, dtype=dtype, attributes=attributes)
