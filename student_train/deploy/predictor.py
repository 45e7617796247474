"""A trained network ready for videos: the one thing to import for whoever deploys it.

predictor = load_predictor("student")
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
from reskd.common.devices import choose_device, plain_float32
from reskd.common.errors import DataError
from reskd.common.experiment.load import parse_experiment
from reskd.common.models.checkpoint import CheckpointInfo, load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import complexity
from reskd.common.video.preprocess import normalize
from reskd.common.video.reader import Decoder, VideoReader
from reskd.student_train.deploy.windows import read_windows
from reskd.student_train.evaluate.clip_reader import Reading, reading_of
from reskd.student_train.evaluate.measure import score_activation_of
from reskd.student_train.evaluate.predictions import ScoreActivation


class Ranked(NamedTuple):
    """A class and how probable it is."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPrediction:
    """What a network says about a stretch of a video."""

    start_seconds: float
    end_seconds: float
    probabilities_K: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """A network and how it reads a video; see `load_predictor`."""

    model: Recognizer
    """In eval mode; normalised float32 clips (B, T, 3, H, W) to feature maps and class scores."""
    info: CheckpointInfo
    """What the checkpoint says about itself; `info.classes` names the class scores."""
    reading: Reading
    """Which frames are taken, and how they are resized and cropped."""
    score_activation: ScoreActivation
    """How class scores become probabilities: softmax, or sigmoid where classes go together."""
    decoder: Decoder
    """Who decodes videos."""

    def probabilities(self, video: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Class probabilities of a whole video, (K,), averaged over its clips.

        Raises:
            UnreadableVideoError: If it cannot be decoded.
            DataError: If the network answers with something that is no number.
        """
        return self.predict(self.clips(video))

    def top(self, video: str | os.PathLike[str], *, k: int = 5) -> list[Ranked]:
        """The k most probable classes of a whole video, best first; raises as `probabilities`."""
        return self.rank(self.probabilities(video), k=k)

    def windows(
        self, video: str | os.PathLike[str], *, seconds: float, step_seconds: float | None = None
    ) -> Iterator[WindowPrediction]:
        """Class probabilities of every window of a video, one window in memory at a time.

        Args:
            video: A file, or a folder of numbered images.
            seconds: Length of a window; the last one is moved back to end with the video.
            step_seconds: From the beginning of one to the next; None: they touch.

        Raises:
            UnreadableVideoError: If a frame cannot be decoded; the windows before have come out.
            DataError: If the network answers with something that is no number.
        """
        step = seconds if step_seconds is None else step_seconds
        for window in read_windows(Path(video), self.reading, seconds=seconds, step_seconds=step):
            yield WindowPrediction(
                start_seconds=window.start_seconds,
                end_seconds=window.end_seconds,
                probabilities_K=self.predict(window.clips),
            )

    def clips(self, video: str | os.PathLike[str]) -> Tensor:
        """The clips of a video as evaluation cuts them, (V, T, 3, size, size) uint8.

        `reskd.common.video.preprocess.normalize` makes of them what the model takes.
        """
        with self.open(video) as reader:
            return self.reading.clips(reader)

    def open(self, video: str | os.PathLike[str]) -> VideoReader:
        """Open a file, or a folder of numbered images; usable in a `with` statement."""
        return open_path(Path(video), self.decoder)

    @torch.inference_mode()
    def predict(self, clips_VT3HW: Tensor) -> NDArray[np.float32]:
        """Mean class probabilities of some uint8 clips, (K,)."""
        device = next(self.model.parameters()).device
        parts = []
        for batch in clips_VT3HW.split(self.reading.evaluation.batch_size):
            with plain_float32():
                logits_BK = self.model(normalize(batch.to(device))).logits_BK.float()
            parts.append(
                logits_BK.softmax(1) if self.score_activation == "softmax" else logits_BK.sigmoid()
            )
        mean_K = torch.cat(parts).mean(0).cpu()
        if not bool(mean_K.isfinite().all()):
            raise DataError(
                "the network's answers are not numbers (nan). Its training has diverged; take "
                "another checkpoint, or train again with a lower learning rate"
            )
        probabilities_K: NDArray[np.float32] = mean_K.numpy()
        return probabilities_K

    def rank(self, probabilities_K: NDArray[np.float32], *, k: int) -> list[Ranked]:
        """The k most probable classes, best first, those of equal probability by number."""
        best = np.argsort(-probabilities_K, kind="stable")[:k]
        return [Ranked(self.info.classes[i], float(probabilities_K[i])) for i in best]


def load_predictor(
    folder: str | os.PathLike[str], *, device: str = "auto", clips: int = 1
) -> Predictor:
    """Make a checkpoint directory ready for videos.

    Args:
        folder: Checkpoint directory, as training or `reskd import-checkpoint` wrote it.
        device: auto, cpu, cuda or cuda:N.
        clips: Clips per video, spread over it; their probabilities are averaged.

    Returns:
        A predictor: `top` names the most probable classes of a video, `probabilities` gives all
        (K,), `windows` those of a long video with times in seconds.

    Raises:
        DataError: If there is no checkpoint, it is damaged, or there is no such device.
        ExperimentError: If the experiment in it is wrong or its network takes no such clips.
    """
    model, info = load_checkpoint(Path(folder))
    experiment = parse_experiment(info.experiment, source=str(folder)) if info.experiment else None
    reading = reading_of(info, experiment, size=None, num_frames=None)
    complexity(  # says what to do if the network takes no such clips
        info.model,
        num_classes=len(info.classes),
        num_frames=reading.clip.num_frames,
        size=reading.size,
    )
    return Predictor(
        model=model.to(choose_device(device)),
        info=info,
        reading=replace(reading, evaluation=replace(reading.evaluation, clips=clips)),
        score_activation="softmax"
        if experiment is None
        else score_activation_of(experiment, info.role),
        decoder="auto" if experiment is None else experiment.data.decoder,
    )
