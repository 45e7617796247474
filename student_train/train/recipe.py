"""What decides the outcome of a training run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.distill.arrays import ArraySpec, Grid
from reskd.common.distill.targets import arrays_needed
from reskd.common.experiment import (
    Experiment,
    LossSpec,
    ModelSpec,
    OptimizerSpec,
    Role,
    TrainingSpec,
)
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.common.storage.records import digest
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.joined_readers import MoreCache
from reskd.student_train.train.live_teacher import LiveTeacher
from reskd.teacher_cache.format.identity import cache_identity, videos_to_cache
from reskd.teacher_cache.read.reader import CacheReader

MAY_CHANGE: Final = ("workers", "memory_gb", "keep", "compile", "cuda_graphs", "channels_last")
"""Fields of a training that may change while a run is stopped: they decide at most roundings."""
_YOUNGER_LOSSES: Final = frozenset(
    {
        *("feature_mse_normalised", "standardise_logits", "own"),
        *("dkd_target", "dkd_others", "dist_inter", "dist_intra"),
    }
)
"""Fields that runs from before them did not know; they mean nothing where they are 0 or false."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Which network of the experiment is trained, on which frames, by which losses."""

    role: Role
    """Its part in the experiment."""
    experiment: Experiment
    """Resolved."""
    model: ModelSpec
    """The network."""
    size: int
    """Side of its frames in pixels."""
    training: TrainingSpec
    """How it is trained."""
    losses: LossSpec
    """What it learns from; not the experiment's where options say otherwise."""
    more_losses: tuple[LossSpec, ...] = ()
    """What it learns from further teachers."""


@dataclass(frozen=True, slots=True)
class TargetSource:
    """Where the teacher's targets come from: a cache, the teacher itself, or nowhere."""

    cache: TrainingCache | None = None
    """Beside a live teacher only its views are used."""
    live: LiveTeacher | None = None
    """Teacher that runs in the step."""

    @property
    def reader(self) -> CacheReader | None:
        """Of the cache."""
        return None if self.cache is None else self.cache.reader

    def entries(self, recipe: Recipe, index: VideoIndex) -> Mapping[int, VideoEntry]:
        """The videos of the training split by number: their row in the cache, else their place."""
        if self.cache is not None:
            return self.cache.entries
        return index.numbered(recipe.experiment.data.train_split)

    def arrays(self, losses: LossSpec) -> tuple[ArraySpec, ...]:
        """What the losses need of the teacher."""
        if self.live is not None:
            return self.live.plan.arrays
        return self.stored_arrays(losses)

    def stored_arrays(self, losses: LossSpec) -> tuple[ArraySpec, ...]:
        """What the losses need and the cache provides."""
        if self.live is not None or self.reader is None:
            return ()
        names = arrays_needed(losses)
        return tuple(array for array in self.reader.manifest.arrays if array.name in names)

    @property
    def more(self) -> tuple[MoreCache, ...]:
        """Caches of further teachers."""
        return () if self.cache is None else self.cache.more

    def target_names(self, losses: LossSpec) -> list[str]:
        """Arrays of all caches that the losses need."""
        names = [array.name for array in self.stored_arrays(losses)]
        return names + [name for cache in self.more for name in cache.names]

    @property
    def teacher_grid(self) -> Grid | None:
        """Grid of the teacher's own feature map."""
        if self.live is not None:
            return self.live.plan.teacher_grid
        return None if self.reader is None else self.reader.manifest.teacher_grid

    def num_views(self, recipe: Recipe) -> int | None:
        """V of the views trained on; None where every epoch draws fresh ones.

        The experiment says it. A cache may hold more: one that has grown since changes no run.
        """
        stored = self.reader is not None or self.live is not None
        return recipe.experiment.views.count if stored else None


def recipe_facts(
    recipe: Recipe, index: VideoIndex, videos: Sequence[int], targets: TargetSource
) -> dict[str, Any]:
    """Everything that decides the trained weights, paths apart; its digest names the run.

    A live teacher's run and a cached one differ by roundings, so neither goes on with the other.
    """
    tree = experiment_tree(recipe.experiment)
    kept = {key: tree[key] for key in ("clip", "views", recipe.role)}
    kept[recipe.role].pop("checkpoint", None)
    kept[recipe.role].pop("precision", None)  # the cached teacher's, not that of its training
    training = kept[recipe.role]["training"]
    for name in MAY_CHANGE:
        training.pop(name)
    _leave_out_unused(training)
    if recipe.model.start is not None:  # what it holds counts, not where it lies
        start = read_checkpoint_info(recipe.model.start)
        kept[recipe.role]["model"]["start"] = start.weights_sha256
    kept[recipe.role].pop("more_losses", None)
    if "losses" in kept[recipe.role]:
        kept[recipe.role]["losses"] = _used_losses(kept[recipe.role]["losses"])
    kept["views"].pop("count")  # what counts is the number of views that are trained on
    return {
        **kept,
        "role": recipe.role,
        "losses": _used_losses(asdict(recipe.losses)),
        "index": index.digest(recipe.experiment.data.train_split),
        "videos": list(videos),
        "num_views": targets.num_views(recipe),
        "arrays": [asdict(array) for array in targets.arrays(recipe.losses)],
        "answers": _teacher_identity(recipe, index, targets),
        **_more_teachers(recipe, targets),
    }


def _leave_out_unused(training: dict[str, Any]) -> None:
    """Options younger than runs that were stopped before count only where they are used."""
    if training["order"] == "shuffled":
        training.pop("order")
    if not training["freeze"]:
        training.pop("freeze")
    if training["optimizer"]["head_lr_factor"] == OptimizerSpec().head_lr_factor:
        training["optimizer"].pop("head_lr_factor")


def _more_teachers(recipe: Recipe, targets: TargetSource) -> dict[str, Any]:
    """Nothing where there are none, as in recipes from before there could be."""
    if not targets.more:
        return {}
    return {
        "more_teachers": [
            {
                "losses": asdict(losses),
                "arrays": [asdict(array) for array in cache.arrays],
                "fingerprint": cache.reader.manifest.fingerprint,
            }
            for losses, cache in zip(recipe.more_losses, targets.more, strict=True)
        ]
    }


def _used_losses(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Without younger losses that have no weight, for the same reason."""
    return {name: value for name, value in losses.items() if value or name not in _YOUNGER_LOSSES}


def _teacher_identity(
    recipe: Recipe, index: VideoIndex, targets: TargetSource
) -> dict[str, str | None]:
    fingerprint, split = None, recipe.experiment.data.train_split
    if targets.live is not None:
        identity = cache_identity(
            recipe.experiment,
            split=split,
            teacher=targets.live.checkpoint,
            videos=videos_to_cache(recipe.experiment, index.split(split)),
        )
        fingerprint = digest(identity)
    elif targets.reader is not None:
        fingerprint = targets.reader.manifest.fingerprint
    return {"teacher": "live" if targets.live else "cached", "fingerprint": fingerprint}
