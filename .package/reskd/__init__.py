"""Cross-resolution distillation for video, offline: cache the teacher once, train many students.

    import reskd

    experiment = reskd.load_experiment("my.yaml")
    reskd.cache_teacher(experiment, "cache")
    reskd.train_student(experiment, "student", cache="cache")
    reskd.evaluate(["student"])

What is listed in `__all__` is the public face; each name is loaded when it is first used, so that
`import reskd` costs nothing. Mistakes of the caller raise a subclass of
`reskd.common.errors.ReskdError`, whose message says what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reskd.common.dataset.index import read_index
    from reskd.common.experiment.load import load_experiment
    from reskd.common.models.checkpoint import load_checkpoint
    from reskd.common.models.own_teacher import save_teacher
    from reskd.common.own_code import trust_code
    from reskd.student_train.api import evaluate, train_student
    from reskd.student_train.data.cached_clips import CachedClips
    from reskd.student_train.deploy.predictor import load_predictor
    from reskd.teacher_cache.api import cache_teacher
    from reskd.teacher_cache.read.reader import CacheReader

__all__ = [
    "CacheReader",
    "CachedClips",
    "cache_teacher",
    "evaluate",
    "load_checkpoint",
    "load_experiment",
    "load_predictor",
    "read_index",
    "save_teacher",
    "train_student",
    "trust_code",
]

_HOMES = {
    "CacheReader": "reskd.teacher_cache.read.reader",
    "CachedClips": "reskd.student_train.data.cached_clips",
    "cache_teacher": "reskd.teacher_cache.api",
    "evaluate": "reskd.student_train.api",
    "load_checkpoint": "reskd.common.models.checkpoint",
    "load_experiment": "reskd.common.experiment.load",
    "load_predictor": "reskd.student_train.deploy.predictor",
    "read_index": "reskd.common.dataset.index",
    "save_teacher": "reskd.common.models.own_teacher",
    "train_student": "reskd.student_train.api",
    "trust_code": "reskd.common.own_code",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'reskd' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
