"""A few frames of a video as teacher and student see them, through the code that trains them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import ClipSpec, DataSpec, EvaluationSpec, Experiment, ViewSpec
from reskd.common.video.clips import cut_clips
from reskd.common.video.eval_views import evaluation_views, one_view
from reskd.common.video.preprocess import shrink
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.views import ViewParams, draw_view

Picture = NDArray[np.uint8]

SHOWN_FRAMES: Final = 4
USUAL_TEACHER: Final = 224
USUAL_STUDENT: Final = 112


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSpec:
    """How videos are shown."""

    data: DataSpec
    clip: ClipSpec
    views: ViewSpec
    evaluation: EvaluationSpec
    student_size: int | None
    """Side of the student's frames in pixels; None where there is no student."""

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Self:
        """As teacher and student of an experiment see videos."""
        return cls(
            data=experiment.data,
            clip=experiment.clip,
            views=experiment.views,
            evaluation=experiment.evaluation,
            student_size=experiment.student.size if experiment.student else None,
        )

    @classmethod
    def usual(cls, index_file: Path) -> Self:
        """224 px of a short side of 256, and 112 px."""
        return cls(
            data=DataSpec(index=index_file),
            clip=ClipSpec(num_clips=SHOWN_FRAMES),
            views=ViewSpec(count=1, size=USUAL_TEACHER),
            evaluation=EvaluationSpec(),
            student_size=USUAL_STUDENT,
        )

    @property
    def num_shown(self) -> int:
        """Frames shown of a video."""
        return min(SHOWN_FRAMES, self.clip.num_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Some frames of one video, as they are seen."""

    teacher: tuple[Picture, ...] = ()
    """(S, S, 3) each; empty where the video could not be read."""
    student: tuple[Picture, ...] = ()
    """(s, s, 3) each; empty where there is no student."""
    facts: str = ""
    """Where these frames come from, for a person."""
    problem: str = ""
    """Why the video could not be read."""


def preview(index: VideoIndex, entry: VideoEntry, spec: PreviewSpec) -> Preview:
    """Decode a few frames of a view of a video.

    The view is the first one that is drawn for training where the video is in the experiment's
    training split, the very one that a cache stores as its view 0; elsewhere it is the test's, in
    the middle of the segments and the frame. Either way it is brought to `views.size`.

    Raises:
        DataError: If the decoder or the frame store that the experiment names is not there.
    """
    try:
        with open_entry(index, entry, spec.data) as video:
            view, kind = _view(video, entry, spec)
            kept = replace(view, frame_indices=_spread(view.frame_indices, spec.num_shown))
            clip_TCHW = cut_clips(video, [kept], size=spec.views.size)[0]
            facts = f"{_facts(video, entry)}  |  {kind}: {_view_facts(kept)}"
    except UnreadableVideoError as error:
        return Preview(
            facts=entry.split, problem=f"cannot be read by {error.decoder}: {error.reason}"
        )
    student = () if spec.student_size is None else shrink(clip_TCHW, spec.student_size)
    return Preview(
        teacher=tuple(frame.permute(1, 2, 0).numpy() for frame in clip_TCHW),
        student=tuple(frame.permute(1, 2, 0).numpy() for frame in student),
        facts=facts,
    )


def _view(video: VideoReader, entry: VideoEntry, spec: PreviewSpec) -> tuple[ViewParams, str]:
    if entry.split == spec.data.train_split:
        view = draw_view(
            clip=spec.clip,
            views=spec.views,
            video_id=entry.id,
            view=0,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )
        return view, "training view 0"
    views = evaluation_views(
        clip=spec.clip,
        views=spec.views,
        evaluation=one_view(spec.evaluation),
        num_frames=video.num_frames,
        height=video.height,
        width=video.width,
    )
    return views[0], "test view"


def _spread(indices: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The middles of `count` equal parts."""
    return tuple(indices[(2 * part + 1) * len(indices) // (2 * count)] for part in range(count))


def _facts(video: VideoReader, entry: VideoEntry) -> str:
    rate = f", {video.fps:.4g} per second" if video.fps else ""
    return f"{entry.split}  |  {video.width}x{video.height}, {video.num_frames} frames{rate}"


def _view_facts(view: ViewParams) -> str:
    frames = ", ".join(map(str, view.frame_indices))
    return (
        f"frames {frames}; {view.width}x{view.height} of {view.frame_width}x{view.frame_height}"
        f"{', mirrored' if view.flip else ''}"
    )
