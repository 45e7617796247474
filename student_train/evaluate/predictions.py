"""Predictions for the videos of a split: probabilities, shared out over processes.

The unit that is shared out is a batch, not a video. Which clips stand beside each other in a
forward pass, and so every rounding in it, is the same however many processes there are: scores of
several processes are those of one, bit for bit. No video is predicted twice to fill a share up.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.console import progress, say
from reskd.common.dataset.index import VideoEntry
from reskd.common.models.recognizer import Recognizer
from reskd.common.prefetch import ordered_map
from reskd.common.signals import StopRequest
from reskd.common.video.eval_views import num_views
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.clip_reader import decode_threads
from reskd.student_train.evaluate.inference import not_finite, probabilities
from reskd.student_train.evaluate.kept_clips import ClipsOf, clip_source
from reskd.student_train.evaluate.videos import Videos


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Of all videos, in every process."""

    scores_NK: NDArray[np.float32]
    """Mean probabilities; zeros for a video that could not be read."""
    predicted_N: NDArray[np.bool_]
    """False where it could not."""
    failures: dict[str, str]
    """Why, by id, in the order of the videos."""
    clips_per_second: float
    """Of the networks of all processes together, decoding left out."""


def predict_videos(
    model: Recognizer,
    videos: Videos,
    *,
    processes: ProcessGroup,
    keeping: ClipKeeping | None = None,
    stop: StopRequest | None = None,
) -> Predictions:
    """Predict every test view of every video and average the probabilities of a video's views.

    The model is in eval mode meanwhile and left in the mode it was in; torch's generators are not
    drawn from. Memory holds one score per video and class, besides the clips of a few videos.

    Where clips are kept, those that are missing are cut and kept first.

    A process that is asked to stop does so before the next video. All stop then; those that were
    not asked hear of it at the end of their share.

    Raises:
        DataError: If a prediction is not a number.
        PreemptedError, KeyboardInterrupt: In all processes, if one was asked to stop.
    """
    stop = stop or StopRequest()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with clip_source(videos, keeping, processes, stop) as clips_of:
            own = _own_predictions(model, videos, clips_of, processes, stop)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if processes.any(stop.made)[0]:
        raise stop.error()
    return _gathered(processes.all_of(own), videos)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """What one process has predicted."""

    positions: NDArray[np.int64]
    scores_NK: NDArray[np.float32]
    failures: dict[int, str]
    clips: int
    seconds: float


def _gathered(shares: Sequence[_Share], videos: Videos) -> Predictions:
    scores_NK = np.zeros((len(videos.entries), len(videos.index.classes)), np.float32)
    predicted_N = np.ones(len(videos.entries), np.bool_)
    failures: dict[int, str] = {}
    for share in shares:
        scores_NK[share.positions] = share.scores_NK
        failures.update(share.failures)
    predicted_N[list(failures)] = False
    _require_numbers(scores_NK, videos.entries)
    return Predictions(
        scores_NK=scores_NK,
        predicted_N=predicted_N,
        failures={videos.entries[number].id: failures[number] for number in sorted(failures)},
        clips_per_second=sum(share.clips / share.seconds for share in shares if share.clips),
    )


def _own_predictions(
    model: Recognizer,
    videos: Videos,
    clips_of: ClipsOf,
    processes: ProcessGroup,
    stop: StopRequest,
) -> _Share:
    """Of all videos of this process; of some, where it is asked to stop."""
    shares = videos.shares(processes)
    positions = np.array([number for share in shares for number in share], np.int64)
    row_of = {number: row for row, number in enumerate(positions.tolist())}
    sums_NK = np.zeros((len(positions), len(videos.index.classes)))
    failures: dict[int, str] = {}
    seconds, clips = 0.0, 0
    shown = processes.is_first
    for frames, owners in _batches(videos, clips_of, shares, failures, stop, shown=shown):
        start = time.perf_counter()
        scores_BK = probabilities(model, frames, videos.score_activation)
        seconds += time.perf_counter() - start
        clips += len(owners)
        # In the order of the views, whatever the batches are.
        np.add.at(sums_NK, [row_of[number] for number in owners], scores_BK.numpy())
    return _Share(
        positions=positions,
        scores_NK=(sums_NK / num_views(videos.reading.evaluation)).astype(np.float32),
        failures=failures,
        clips=clips,
        seconds=seconds,
    )


def _batches(
    videos: Videos,
    clips_of: ClipsOf,
    shares: Sequence[range],
    failures: dict[int, str],
    stop: StopRequest,
    *,
    shown: bool,
) -> Iterator[tuple[Tensor, list[int]]]:
    """All views of the readable videos of some shares, and which video each belongs to.

    A video of more views than a batch has clips comes in several batches, so that memory is
    bounded however many views it has.
    """
    size = videos.reading.evaluation.batch_size
    numbers = [number for share in shares for number in share]
    every = ordered_map(clips_of, numbers, threads=decode_threads())
    with progress("evaluating", len(numbers), unit="videos", shown=shown) as advance:
        for share in shares:
            clips: list[Tensor] = []
            owners: list[int] = []
            for number in share:
                if stop.made:
                    return
                views = next(every)
                if isinstance(views, str):
                    failures[number] = views
                    say(f"unreadable, counted as wrong: {videos.entries[number].id}: {views}")
                else:
                    clips.extend(views)
                    owners.extend([number] * len(views))
                advance()
            for start in range(0, len(clips), size):
                yield torch.stack(clips[start : start + size]), owners[start : start + size]


def _require_numbers(scores_NK: NDArray[np.float32], entries: Sequence[VideoEntry]) -> None:
    strange = np.flatnonzero(~np.isfinite(scores_NK).all(axis=1))
    if len(strange):
        raise not_finite(
            f" for {len(strange)} of {len(entries)} videos",
            f", first of all for {entries[strange[0]].id}",
        )
