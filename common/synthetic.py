"""An experiment without its data: made-up videos and a teacher of random weights, for measuring."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from reskd.common.dataset.frames.synthetic import synthetic_index, write_synthetic
from reskd.common.dataset.index import read_index, write_index
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.registry import build_model
from reskd.common.rng import derived_seed

FRAME_SIZE: Final = (256, 340)
"""Height and width of made-up frames, in pixels: those of Kinetics as it is usually kept."""
NUM_FRAMES: Final = 300
"""Of a made-up video: ten seconds."""
NUM_VIDEOS: Final = 1024
NUM_CLASSES: Final = 400
"""Where the experiment's index does not say."""


def synthetic_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    videos: int = NUM_VIDEOS,
    frame_size: tuple[int, int] = FRAME_SIZE,
    num_frames: int = NUM_FRAMES,
    num_classes: int | None = None,
    views: int | None = None,
) -> Experiment:
    """The same experiment on made-up videos, with networks of random weights.

    Args:
        experiment: Says everything but the data and the weights.
        folder: Existing folder that index, frames and teacher go to.
        videos: In the training split; there is no other.
        frame_size: Height and width of the videos, in pixels.
        num_frames: Of every video.
        num_classes: K; None takes that of the experiment's index where it is there.
        views: V; None takes the experiment's.
    """
    data = experiment.data
    if num_classes is None:
        there = data.index.is_file()
        num_classes = len(read_index(data.index).classes) if there else NUM_CLASSES
    classes = tuple(f"class {number}" for number in range(num_classes))
    height, width = frame_size
    frames, index_file = folder / "frames.synthetic", folder / "index.jsonl"
    write_synthetic(frames, num_frames=num_frames, height=height, width=width)
    index = synthetic_index(
        folder / "videos",
        classes=classes,
        videos={data.train_split: videos},
        num_frames=num_frames,
    )
    write_index(index_file, index)
    made_up = replace(
        experiment,
        data=replace(data, index=index_file, frames=frames, val_split=None),
        views=replace(experiment.views, count=views or experiment.views.count),
        teacher=replace(
            experiment.teacher,
            model=replace(experiment.teacher.model, pretrained=False, start=None),
            checkpoint=folder / "teacher",
            least_top1=None,
        ),
    )
    if (student := experiment.student) is not None:
        model = replace(student.model, pretrained=False, start=None)
        made_up = replace(made_up, student=replace(student, model=model))
    _save_teacher(made_up, classes)
    return made_up


def _save_teacher(experiment: Experiment, classes: tuple[str, ...]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(0, "synthetic teacher"))
        model = build_model(experiment.teacher.model, num_classes=len(classes))
    save_checkpoint(
        experiment.teacher.checkpoint,
        model,
        role="teacher",
        spec=experiment.teacher.model,
        size=experiment.views.size,
        classes=classes,
        experiment=experiment_tree(experiment),
    )
