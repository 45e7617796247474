"""A trained network ready for videos: the one thing to import when it is deployed.

import reskd

predictor = reskd.load_predictor("student")
for name, probability in predictor.top("video.mp4", k=5):
    print(f"{probability:.3f} {name}")
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.open import open_path
from reskd.common.devices import choose_device
from reskd.common.models.checkpoint import CheckpointInfo, load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.common.video.frames_in_memory import FramesInMemory
from reskd.common.video.reader import Decoder, VideoReader
from reskd.student_train.deploy.windows import read_windows
from reskd.student_train.evaluate.clip_reader import Reading, reading_of
from reskd.student_train.evaluate.inference import (
    ScoreActivation,
    not_finite,
    probabilities,
    score_activation_of,
)

Watchable = str | os.PathLike[str] | NDArray[np.uint8]
"""A video file, a folder of numbered images, or frames (N, H, W, 3)."""


class Ranked(NamedTuple):
    """A class and how probable it is."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPrediction:
    """What a network predicts for a stretch of a video."""

    start_seconds: float
    """From the beginning of the video."""
    end_seconds: float
    probabilities_K: NDArray[np.float32]
    """(K,), averaged over the clips of the window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """A network and how it reads a video; `load_predictor` makes one.

    Shape letters: V clips, T frames, H and W frame size, K classes.
    """

    model: Recognizer
    """In eval mode; normalised float32 clips (B, T, 3, H, W) to feature maps and class scores."""
    info: CheckpointInfo
    """What the checkpoint says about itself; `info.classes` names the class scores."""
    reading: Reading
    """Which frames are taken, and how they are resized and cropped."""
    score_activation: ScoreActivation
    """How class scores become probabilities: softmax, or sigmoid where classes go together."""
    decoder: Decoder
    """What decodes video files."""

    def probabilities(self, video: Watchable) -> NDArray[np.float32]:
        """Class probabilities of a whole video, float32 (K,), averaged over its clips.

        Args:
            video: A file, a folder of numbered images, or all its frames: RGB, uint8 of shape
                (N, H, W, 3).

        Raises:
            UnreadableVideoError: If it cannot be decoded.
            DataError: If a probability is not a number, or an array has another shape or type.
        """
        return self.predict(self.clips(video))

    def top(self, video: Watchable, *, k: int = 5) -> list[Ranked]:
        """The k most probable classes of a whole video, best first; raises as `probabilities`."""
        return self.rank(self.probabilities(video), k=k)

    def windows(
        self, video: str | os.PathLike[str], *, seconds: float, step_seconds: float | None = None
    ) -> Iterator[WindowPrediction]:
        """Class probabilities of every window of a video, one window in memory at a time.

        A file is decoded once, by PyAV.

        Args:
            video: A file, or a folder of numbered images.
            seconds: Length of a window, > 0; the last one is moved back to end with the video.
            step_seconds: From the beginning of one to the next, > 0; None: they touch.

        Raises:
            UnreadableVideoError: If it does not say how many frames a second has, or a frame cannot
                be decoded; the windows before it have come out by then.
            DataError: If a probability is not a number.
        """
        step = seconds if step_seconds is None else step_seconds
        for window in read_windows(Path(video), self.reading, seconds=seconds, step_seconds=step):
            yield WindowPrediction(
                start_seconds=window.start_seconds,
                end_seconds=window.end_seconds,
                probabilities_K=self.predict(window.clips),
            )

    def clips(self, video: Watchable) -> Tensor:
        """The clips of a video as evaluation cuts them, (V, T, 3, size, size) uint8.

        `model.normalize` makes of them what the model takes.

        Raises:
            UnreadableVideoError: If the video cannot be decoded.
        """
        with self.open(video) as reader:
            return self.reading.clips(reader)

    def open(self, video: Watchable) -> VideoReader:
        """Open a file, a folder of numbered images or an array; usable in a `with` statement."""
        if isinstance(video, np.ndarray):
            return FramesInMemory(video, fps=0.0)
        return open_path(Path(video), self.decoder)

    def predict(self, clips_VT3HW: Tensor) -> NDArray[np.float32]:
        """Mean class probabilities of some clips, float32 (K,).

        Args:
            clips_VT3HW: uint8 RGB as `clips` gives them, or normalised float32; on any device.

        Raises:
            DataError: If a probability is not a number.
        """
        batches = clips_VT3HW.split(self.reading.evaluation.batch_size)
        scores_VK = torch.cat(
            [probabilities(self.model, batch, self.score_activation) for batch in batches]
        )
        mean_K: NDArray[np.float32] = scores_VK.mean(0).numpy()
        if not np.isfinite(mean_K).all():
            raise not_finite()
        return mean_K

    def rank(self, probabilities_K: NDArray[np.float32], *, k: int) -> list[Ranked]:
        """The k most probable classes, best first; those of equal probability in class order."""
        best = np.argsort(-probabilities_K, kind="stable")[:k]
        return [Ranked(self.info.classes[i], float(probabilities_K[i])) for i in best]


def load_predictor(
    folder: str | os.PathLike[str], *, device: str = "auto", clips: int = 1
) -> Predictor:
    """Load a checkpoint directory and make it ready for videos.

    It reads a video as `reskd predict` does, and as `reskd evaluate` does with one view: frames at
    the middles of equal segments, resized to the experiment's short side, centre crop.

    Args:
        folder: Checkpoint directory: a run's folder or its `best`, or what
            `reskd import-checkpoint` wrote.
        device: auto (CUDA where there is one), cpu, cuda or cuda:N.
        clips: Clips per video, at least 1, spread over it; their probabilities are averaged.

    Returns:
        The network in eval mode on that device: `top` names the most probable classes of a video,
        `probabilities` gives all of them, `windows` those of a long video with times in seconds,
        `predict` those of uint8 clips (V, T, 3, H, W). Probabilities are float32 (K,) in the order
        of `info.classes`: they add up to 1, or, of a network that was trained with
        training.labels.kind any_of, each lies in [0, 1].

    Raises:
        DataError: If there is no checkpoint, it is damaged, or there is no such device.
        ExperimentError: If the experiment in it is wrong, or its network takes no such clips.
    """
    model, info = load_checkpoint(Path(folder))
    experiment = info.parsed_experiment(source=str(folder))
    reading = reading_of(info, experiment)
    reading.cost(info.model, num_classes=len(info.classes))  # refuses what the network cannot take
    return Predictor(
        model=model.to(choose_device(device)),
        info=info,
        reading=replace(reading, evaluation=replace(reading.evaluation, clips=clips)),
        score_activation="softmax"
        if experiment is None
        else score_activation_of(experiment, info.role),
        decoder="auto" if experiment is None else experiment.data.decoder,
    )
