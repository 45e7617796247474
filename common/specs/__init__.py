"""What an experiment file may say: frozen dataclasses, checked by pydantic.

One experiment is one distillation. Each field carries its meaning and unit below it. The cache's
identity is made of some of these fields (teacher_cache/identity.py names them).
"""

from common.specs.data import ClipSpec, DataSpec, ViewSpec
from common.specs.evaluation import EvaluationSpec
from common.specs.experiment import Experiment, StudentSpec, TeacherSpec
from common.specs.model import ModelSpec
from common.specs.targets import (
    FeaturesTarget,
    FramesTarget,
    LogitMapTarget,
    LogitsTarget,
    TargetsSpec,
)
from common.specs.training import LabelSpec, LossSpec, OptimizerSpec, ScheduleSpec, TrainingSpec

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
    "ScheduleSpec",
    "StudentSpec",
    "TargetsSpec",
    "TeacherSpec",
    "TrainingSpec",
    "ViewSpec",
]
