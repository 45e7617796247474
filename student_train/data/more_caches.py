"""Further teachers' caches of one training: of the very views of the first one's, or refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.class_order import CLASS_NUMBERS, CLASS_SCORES
from reskd.common.distill.targets import ARRAYS_OF_LOSS, arrays_needed
from reskd.common.errors import CacheError, ExperimentError
from reskd.common.experiment import Experiment, LossSpec
from reskd.common.experiment.training import ON_FEATURES
from reskd.common.models.registry import complexity
from reskd.student_train.data.cache import TrainingCache, class_columns_of
from reskd.student_train.data.joined_readers import MoreCache, views_differ
from reskd.teacher_cache.format.identity import first_difference
from reskd.teacher_cache.read.contents import matched_videos
from reskd.teacher_cache.read.reader import CacheReader

COMPARED: Final = 64
"""Videos whose stored views are compared number by number."""


def open_more(
    experiment: Experiment,
    index: VideoIndex,
    first: TrainingCache,
    folders: Sequence[Path],
    losses: Sequence[LossSpec],
    *,
    allow_incomplete: bool,
) -> tuple[MoreCache, ...]:
    """Open the caches of further teachers of the same views.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        first: The first teacher's cache.
        folders: Of the others.
        losses: What is learned from each of them.
        allow_incomplete: Accept that units or videos are missing.

    Raises:
        ExperimentError: If there are not as many losses as caches.
        CacheError: If a cache is damaged, holds other views or videos than the first, naming the
            field, or not what its losses need.
        StoppedShortError: If units are missing and that is not allowed.
    """
    if len(folders) != len(losses):
        raise ExperimentError(
            f"There are {len(folders) + 1} caches and losses for {len(losses) + 1} teachers: "
            "student.losses is of the first --cache, and each further one needs its own in "
            "student.more_losses, such as [{cross_entropy: 0, feature_mse: 0, logit_kd: 1}]."
        )
    return tuple(
        _opened(experiment, index, first, folder, spec, number, allow_incomplete=allow_incomplete)
        for number, (folder, spec) in enumerate(zip(folders, losses, strict=True), 2)
    )


def _opened(
    experiment: Experiment,
    index: VideoIndex,
    first: TrainingCache,
    folder: Path,
    losses: LossSpec,
    number: int,
    *,
    allow_incomplete: bool,
) -> MoreCache:
    reader, beside = CacheReader(folder), first.reader.folder
    manifest = reader.manifest
    known = first.reader.manifest.identity
    difference = first_difference(manifest.identity, known, ignore=("teacher",))
    if difference is not None:
        raise _other_views(folder, beside, difference)
    held = manifest.layout.num_views
    if held < experiment.views.count:
        raise CacheError(
            f"{folder} has {held} views of every video, the experiment asks for "
            f"{experiment.views.count} (views.count)."
        )
    if not allow_incomplete:
        reader.require_complete()
    matched = matched_videos(folder, manifest, index)
    row_of = {entry.id: row for row, entry in matched.entries.items()}
    usable = set(reader.usable_videos)
    rows = {
        row: row_of[first.entries[row].id]
        for row in first.videos
        if row_of.get(first.entries[row].id) in usable
    }
    lacking = [first.entries[row].id for row in first.videos if row not in rows]
    if lacking and not allow_incomplete:
        difference = f"videos: it has no rows of {len(lacking)} of them, such as {lacking[0]}"
        raise _other_views(folder, beside, difference)
    arrays = {array.name: array for array in manifest.arrays}
    _check_targets(experiment, folder, reader, losses, number)
    needed = tuple(arrays[name] for name in arrays_needed(losses) if name in arrays)
    columns = None
    if {array.name for array in needed} & (CLASS_SCORES | CLASS_NUMBERS):
        columns = class_columns_of(reader, index, matched)
    cache = MoreCache(number=number, reader=reader, arrays=needed, rows=rows, columns=columns)
    unequal = views_differ(first.reader, cache, [*rows][:COMPARED])
    if unequal is not None:
        raise _other_views(folder, beside, unequal)
    return cache


def _other_views(folder: Path, beside: Path, difference: str) -> CacheError:
    said = difference.replace("the experiment asks for", f"{beside} has")
    return CacheError(
        f"{folder} does not hold the same views of the same videos as {beside}. First difference: "
        f"{said}. Write it with an experiment that differs in the teacher alone."
    )


def _check_targets(
    experiment: Experiment, folder: Path, reader: CacheReader, losses: LossSpec, number: int
) -> None:
    """Whether a cache holds what is learned from it, in the shape of the student's."""
    arrays = {array.name: array for array in reader.manifest.arrays}
    field = f"student.more_losses[{number - 2}]"
    for loss in losses.with_weight(ARRAYS_OF_LOSS):
        if not arrays.keys() & set(ARRAYS_OF_LOSS[loss]):
            raise CacheError(
                f"{folder} holds nothing that {field}.{loss} could compare with; it has "
                f"{', '.join(arrays)}. Set the weight to 0, or add it with `reskd cache extend`."
            )
    student = experiment.required_student()
    steps, _, *grid = complexity(
        student.model,
        num_classes=len(reader.manifest.class_names),
        num_frames=experiment.clip.num_frames,
        size=student.size,
    ).feature_shape
    grids = {"features": [tuple(grid), reader.manifest.teacher_grid]}
    for name, asked in (
        ("features", losses.with_weight(ON_FEATURES)),
        ("logit_map", losses.logit_map_kl),
        ("logit_map_values", losses.logit_map_kl),
    ):
        if asked and name in arrays:
            _check_map(folder, arrays[name], steps, grids.get(name))
    _check_temperature(folder, arrays, losses, field)


def _check_map(
    folder: Path, array: ArraySpec, steps: int, grids: list[tuple[int, ...]] | None
) -> None:
    found, grid = array.row_shape[0], array.row_shape[-2:]
    if found != steps or (grids is not None and grid not in grids):
        places = f" and places {grids[0]} or {grids[1]}" if grids else ""
        raise CacheError(
            f"{folder} has {array.name} of {found} time steps and shape "
            f"{' x '.join(map(str, array.row_shape))}; the student's maps have {steps} steps"
            f"{places}. Take a teacher with as many, or set the weight to 0 and learn from logits."
        )


def _check_temperature(
    folder: Path, arrays: Mapping[str, ArraySpec], losses: LossSpec, field: str
) -> None:
    if not losses.logit_map_kl or "logit_map_rest" not in arrays:
        return
    stored = arrays["logit_map_rest"].attributes["temperature"]
    if stored != losses.logit_map_temperature:
        raise CacheError(
            f"{folder} keeps the mass of its other classes at temperature {stored}, "
            f"{field}.logit_map_temperature is {losses.logit_map_temperature}; make them equal."
        )
