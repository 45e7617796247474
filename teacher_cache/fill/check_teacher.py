"""Before a month of GPU time: is this the teacher the experiment speaks of?"""

from pathlib import Path

from reskd.common.console import say
from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import RUN_LOCK
from reskd.common.rng import keyed_generator
from reskd.common.storage.folder_lock import holder_of
from reskd.teacher_cache.fill.batches import across_videos, in_groups
from reskd.teacher_cache.fill.compute import outputs_of
from reskd.teacher_cache.fill.computed import default_batch
from reskd.teacher_cache.fill.cut import ClipSource, CutTask, cut_videos


def check_trained(checkpoint: Path) -> None:
    """Refuse a teacher that is being trained: what lies there now is not what it will be.

    Raises:
        StoppedShortError: If a process trains in its folder.
    """
    if holder := holder_of(checkpoint / RUN_LOCK):
        raise StoppedShortError(
            f"{holder} is training in {checkpoint}, so the teacher there is not the one it will be "
            "at the end. Wait for it and run the same command again; nothing was cached."
        )


def check_accuracy(
    experiment: Experiment, index: VideoIndex, teacher: Teacher, *, split: str, threads: int
) -> float | None:
    """Measure the teacher on labelled videos, through the very path that fills the cache.

    View 0 of `teacher.gate_videos` videos is drawn, decoded, cut and classified; a wrong class
    order, wrong normalisation or wrong weights show here. The videos are of data.val_split where
    the index has it, else of the split to be cached.

    Returns:
        Top-1 accuracy; None if the experiment states none. Unreadable videos are left out: they
        are no fault of the teacher's.

    Raises:
        DataError: If the accuracy is below `teacher.least_top1`, or the index lacks the split that
            data.val_split names.
    """
    least = experiment.teacher.least_top1
    if least is None:
        return None
    if experiment.data.val_split or experiment.data.measured_split in index.split_names():
        split = experiment.data.measured_split
    videos = index.split(split)
    order = keyed_generator(experiment.views.seed, "gate").permutation(len(videos))
    entries = [videos[number] for number in order[: experiment.teacher.gate_videos]]
    source = ClipSource(experiment=experiment, index=index, threads=threads)
    tasks = [CutTask(place, entry, range(1)) for place, entry in enumerate(entries)]
    videos_cut = (video for video in cut_videos(source, tasks, views=1) if video.problem is None)
    if experiment.teacher.mode == "batch":
        batches = in_groups(videos_cut)
    else:
        batches = across_videos(videos_cut, default_batch(teacher.device))
    hits = [
        int(output.logits_BK.argmax()) in entries[clip.place].labels
        for clip, output in outputs_of(teacher, batches)
    ]
    top1 = sum(hits) / max(1, len(hits))
    say(f"teacher: top-1 {top1:.3f} on {len(hits)} videos of split {split}, stated: {least:.3f}")
    if top1 < least:
        raise DataError(
            f"The teacher in {experiment.teacher.checkpoint} classifies {top1:.3f} of {len(hits)} "
            f"videos of split {split!r} correctly; the experiment states at least {least:.3f} "
            "(teacher.least_top1). Check its weights, the order of its classes and the frames it "
            "was trained on, or lower the stated accuracy. Nothing was cached."
        )
    return top1
