"""Before a cache is filled: how far is the teacher, in its precision, from itself in float32?

The measure is that of common/distill/differences.py: for every array that is the teacher's own
numbers (features on their grid, class scores, their maps) the relative L2 difference of a clip,
||narrow - float32|| / ||float32||, before any encoding; of some clips the largest counts.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from reskd.common.console import say
from reskd.common.distill.arrays import TargetPlan
from reskd.common.distill.differences import (
    JUDGED,
    LARGEST_DIFFERENCE,
    live_differences,
    output_pairs,
)
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment, Precision
from reskd.common.models.recognizer import Recognizer
from reskd.common.rng import keyed_generator
from reskd.teacher_cache.fill.cut import ClipSource, CutTask, cut_videos

CLIPS: Final = 64
"""How many clips are compared: all, if there are fewer; a few more where videos are so few that
several views of each are taken."""
_FINER: Final[dict[Precision, str]] = {
    "bfloat16": "float16, tf32 or float32",
    "float16": "tf32 or float32",
    "tf32": "float32",
}
"""What to set instead where the teacher is too far from float32."""
_WIDER: Final = {**_FINER, "bfloat16": "tf32 or float32"}
"""What to set instead where it overflows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionCheck:
    """What was measured; the log beside the cache keeps it."""

    precision: Precision
    device: str
    clips: int
    differences: dict[str, float]
    """Largest of a clip, by array."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check_precision(
    source: ClipSource, split: str, plan: TargetPlan, model: Recognizer, device: torch.device
) -> PrecisionCheck | None:
    """Compare the teacher in its precision with float32 on some clips of the split to be cached.

    Returns:
        What was found; None where there is nothing to compare: the teacher computes in float32 (as
        tf32 does on a CPU), no array needs it, or no video can be read.

    Raises:
        DataError: If the outputs are not finite, or further from float32 than storing them as int8
            would take them: then int8 and float32 would be the better cache.
        ExperimentError: If a layer of the teacher does not work in its precision.
    """
    precision = source.experiment.teacher.precision
    if not num_clips(source.experiment, len(source.index.split(split)), plan, device):
        return None
    found = _measured(source, split, plan, model, device)
    if not found.clips:
        return None
    name, largest = max(found.differences.items(), key=lambda item: item[1])
    each = ", ".join(f"{array} {value:.1e}" for array, value in found.differences.items())
    say(
        f"teacher: {precision} differs from float32 by up to {largest:.1e} on {found.clips} clips "
        f"({each}); {LARGEST_DIFFERENCE:.0e}, as much as int8 storage adds, is allowed"
    )
    if largest > LARGEST_DIFFERENCE:
        raise DataError(
            f"In teacher.precision {precision} the teacher's {name} differ from those in float32 "
            f"by {largest:.1e} on one of {found.clips} clips, more than {LARGEST_DIFFERENCE:.0e}, "
            f"what storing as int8 adds. Set teacher.precision: {_FINER[precision]}. Nothing was "
            "cached."
        )
    return found


def num_clips(
    experiment: Experiment, num_videos: int, plan: TargetPlan, device: torch.device
) -> int:
    """How many clips `check_precision` compares, if all videos can be read; 0 if it has no need."""
    precision = experiment.teacher.precision
    exact = precision == "float32" or (precision == "tf32" and device.type != "cuda")
    if exact or {array.name for array in plan.arrays} <= FROM_VIDEO_ALONE:
        return 0
    return min(num_videos, CLIPS) * len(_views(experiment, num_videos))


def _views(experiment: Experiment, num_videos: int) -> range:
    """Views of each video that is looked at."""
    return range(min(experiment.views.count, -(-CLIPS // max(1, num_videos))))


def _measured(
    source: ClipSource, split: str, plan: TargetPlan, model: Recognizer, device: torch.device
) -> PrecisionCheck:
    spec = source.experiment.teacher
    logit_map = any(array.name.startswith("logit_map") for array in plan.arrays)
    exact = Teacher(model, device, mode=spec.mode, logit_map=logit_map)
    narrow = Teacher(model, device, mode=spec.mode, precision=spec.precision, logit_map=logit_map)
    clips, differences = 0, dict[str, float]()
    for batch in _batches(source, split):
        pairs = output_pairs(exact, narrow, batch)
        for one, other in pairs:
            _require_finite(one, exact.precision)
            _require_finite(other, narrow.precision)
        for name, difference in live_differences(plan, pairs).items():
            if name in JUDGED:
                differences[name] = max(difference, differences.get(name, 0.0))
        clips += len(batch)
    return PrecisionCheck(
        precision=spec.precision, device=str(device), clips=clips, differences=differences
    )


def _batches(source: ClipSource, split: str) -> Iterator[Tensor]:
    """Clips (B, T, 3, H, W) of videos all over a split; in full groups where they are groups."""
    videos = source.index.split(split)
    views = _views(source.experiment, len(videos))
    order = keyed_generator(source.experiment.views.seed, "precision").permutation(len(videos))
    tasks = (CutTask(int(place), videos[place], views) for place in order[:CLIPS])
    clips = (clip for cut in cut_videos(source, tasks) for clip in cut.clips_VT3HW)
    first = True
    while batch := list(islice(clips, BATCH_GROUP)):
        # In mode batch a few clips left over would have statistics as no group of the cache has.
        if first or len(batch) == BATCH_GROUP or source.experiment.teacher.mode == "eval":
            yield torch.stack(batch)
        first = False


def _require_finite(output: TeacherOutput, precision: Precision) -> None:
    if all(bool(torch.isfinite(values).all()) for values in output if values is not None):
        return
    if precision == "float32":
        raise DataError(
            "The teacher's outputs are not finite numbers, not even in float32. Is the checkpoint "
            "a trained one, and are its inputs normalised as it expects? Nothing was cached."
        )
    raise DataError(
        f"In teacher.precision {precision} the teacher's outputs are not finite numbers; in "
        f"float32 they are. Inside it some leave what {precision} holds (float16 ends at 65504). "
        f"Set teacher.precision: {_WIDER[precision]}. Nothing was cached."
    )
