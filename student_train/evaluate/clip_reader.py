"""How a network reads a video outside training: the clips of its test views."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.experiment import ClipSpec, EvaluationSpec, Experiment, ModelSpec, ViewSpec
from reskd.common.models.checkpoint import CheckpointInfo
from reskd.common.models.registry import Complexity, complexity
from reskd.common.video.clips import cut_clips
from reskd.common.video.eval_views import evaluation_views, one_view, teacher_size
from reskd.common.video.preprocess import shrink
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.views import ViewParams
from reskd.student_train.distributed import own_cores

MOST_THREADS: Final = 16
"""Each holds the frames of one video at its full size."""

USUAL_CLIPS: Final = {
    "tsn": ClipSpec(num_clips=8),
    "tsm": ClipSpec(num_clips=8),
    "slowonly": ClipSpec(num_clips=1, clip_len=8, frame_interval=8),
    "swin3d": ClipSpec(num_clips=1, clip_len=32, frame_interval=2),
    "torchvision": ClipSpec(num_clips=1, clip_len=16, frame_interval=2),
    "transformers": ClipSpec(num_clips=1, clip_len=16, frame_interval=4),
    "python": ClipSpec(num_clips=8),
}
"""Frames of a clip where no experiment says: those of the reference's recipes."""
_USUAL_VIEWS = ViewSpec(count=1, short_side=256, size=224)


def decode_threads() -> int:
    """Videos to decode at a time: one per core of this process."""
    return min(own_cores(), MOST_THREADS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Which test views a video has, and how they become clips."""

    clip: ClipSpec
    views: ViewSpec
    evaluation: EvaluationSpec
    size: int
    """Side of the network's frames in pixels, made from the larger ones that views are cut at."""

    @classmethod
    def of_experiment(cls, experiment: Experiment, *, size: int) -> Self:
        """As the experiment tests a network that was trained on frames of `size` pixels.

        Where it tests on larger frames than it trains on (evaluation.size), the network's own grow
        in the same proportion.
        """
        views, evaluation = experiment.views, experiment.evaluation
        grown = round(size * teacher_size(views, evaluation) / views.size)
        return cls(clip=experiment.clip, views=views, evaluation=evaluation, size=max(1, grown))

    @property
    def cut_size(self) -> int:
        """Side of the frames that views are cut at, in pixels."""
        return teacher_size(self.views, self.evaluation)

    def cost(self, model: ModelSpec, *, num_classes: int) -> Complexity:
        """What one view costs a network.

        Raises:
            ExperimentError: If the network takes no such clips; it says what to do.
        """
        return complexity(
            model, num_classes=num_classes, num_frames=self.clip.num_frames, size=self.size
        )

    def test_views(self, *, num_frames: int, height: int, width: int) -> tuple[ViewParams, ...]:
        """The test views of a video of this length and size."""
        return evaluation_views(
            clip=self.clip,
            views=self.views,
            evaluation=self.evaluation,
            num_frames=num_frames,
            height=height,
            width=width,
        )

    def clips(self, video: VideoReader) -> Tensor:
        """All test views of an open video: (V, T, 3, size, size) uint8; it is decoded once.

        Meanwhile the frames of all views are in memory at the size of the source.

        Raises:
            UnreadableVideoError: If a frame cannot be decoded.
        """
        views = self.test_views(num_frames=video.num_frames, height=video.height, width=video.width)
        return shrink(cut_clips(video, views, size=self.cut_size), self.size)

    def clips_or_reason(self, open_video: Callable[[], VideoReader]) -> Tensor | str:
        """The clips of a video that is opened for it, or the reason why it cannot be read."""
        try:
            with open_video() as video:
                return self.clips(video)
        except UnreadableVideoError as error:
            return error.reason


def reading_of(
    info: CheckpointInfo,
    experiment: Experiment | None,
    *,
    size: int | None = None,
    num_frames: int | None = None,
) -> Reading:
    """How a checkpoint's videos are read: as in evaluation, where its experiment says how.

    One view of each whatever the protocol: middles of the segments, centre crop. Without an
    experiment a student's frames are made from the 224 px crop, as the recipes do, and a teacher's
    are cut at its own size; the crop is 224/256 of the short side either way.

    Args:
        info: The checkpoint.
        experiment: The one it came from; None where it names none.
        size: Side of its frames in pixels; None: its own.
        num_frames: T; None: the experiment's or the usual number. It replaces the number of pieces,
            or the length of the one piece.

    Raises:
        DataError: If a clip of several pieces cannot have `num_frames` frames.
    """
    if experiment is not None:
        reading = Reading.of_experiment(experiment, size=info.size)
    else:
        reading = Reading(
            clip=USUAL_CLIPS[info.model.recognizer],
            views=_USUAL_VIEWS,
            evaluation=EvaluationSpec(),
            size=info.size,
        )
    reading = replace(reading, evaluation=one_view(reading.evaluation), size=size or reading.size)
    if num_frames is not None:
        reading = replace(reading, clip=_clip_of_length(reading.clip, num_frames))
    if (experiment is None and info.role == "teacher") or reading.size > reading.cut_size:
        return _cut_at_own_size(reading)
    return reading


def _cut_at_own_size(reading: Reading) -> Reading:
    """The same field of view at the network's own size, with nothing left to shrink."""
    short_side = reading.evaluation.short_side or reading.views.short_side
    grown = round(short_side * (reading.size / reading.cut_size))
    evaluation = replace(reading.evaluation, short_side=grown, size=reading.size)
    return replace(reading, evaluation=evaluation)


def _clip_of_length(clip: ClipSpec, num_frames: int) -> ClipSpec:
    if clip.clip_len == 1:
        return replace(clip, num_clips=num_frames)
    if num_frames % clip.num_clips:
        raise DataError(
            f"--frames {num_frames} cannot be dealt out to the {clip.num_clips} pieces of a clip; "
            f"give a multiple of {clip.num_clips}."
        )
    return replace(clip, clip_len=num_frames // clip.num_clips)
