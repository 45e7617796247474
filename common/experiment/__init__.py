"""What an experiment file may say: frozen dataclasses, checked by pydantic.

One experiment is one distillation. Each field carries its meaning and unit below it. The cache's
identity is made of some of these fields (teacher_cache/format/identity.py names them).
"""

from reskd.common.experiment.data import ClipSpec, DataSpec, ViewSpec
from reskd.common.experiment.evaluation import EvaluationSpec
from reskd.common.experiment.experiment import (
    Experiment,
    Precision,
    Role,
    StudentSpec,
    TeacherSpec,
)
from reskd.common.experiment.model import ModelSpec
from reskd.common.experiment.targets import (
    FeaturesTarget,
    FramesTarget,
    LogitMapTarget,
    LogitsTarget,
    TargetsSpec,
)
from reskd.common.experiment.training import (
    LabelSpec,
    LossSpec,
    OptimizerSpec,
    ScheduleSpec,
    TrainingSpec,
)

__all__ = [
    "ClipSpec",
    "DataSpec",
    "EvaluationSpec",
    "Experiment",
    "FeaturesTarget",
    "FramesTarget",
    "LabelSpec",
    "LogitMapTarget",
    "LogitsTarget",
    "LossSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Precision",
    "Role",
    "ScheduleSpec",
    "StudentSpec",
    "TargetsSpec",
    "TeacherSpec",
    "TrainingSpec",
    "ViewSpec",
]
