"""A whole experiment of a few small videos, made on the spot: data, index, YAML and teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.dataset.index import read_index
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.registry import build_model
from reskd.student_train.distributed import ProcessGroup
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.plan import plan_cache
from tests.video_files import write_video

CLASS_NAMES = ("climb", "dive", "jump", "run", "throw")
COLOURS = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
MODEL = f"{{backbone: test_resnet, backbone_args: {{output_stride: 16}}, dropout: 0.2, {COLOURS}}}"
OPTIMIZER = "{name: adamw, lr: 0.003, weight_decay: 0.01}"
CPU = torch.device("cpu")
ALONE = ProcessGroup(CPU)


class TinyCache(NamedTuple):
    """An experiment and the finished cache of its teacher."""

    experiment: Path
    cache: Path


def make_tiny_videos(
    folder: Path,
    *,
    videos_per_class: int = 4,
    classes: int = 3,
    num_frames: int = 16,
    encoder: Mapping[str, str] | None = None,
) -> Path:
    """Write one folder per class with videos of 64x48 pixels.

    A class is a colour and a direction in which a bright bar moves; videos of a class differ in
    noise and in where the bar starts. `encoder` holds further arguments of `write_video`.
    """
    for label, name in enumerate(CLASS_NAMES[:classes]):
        for number in range(videos_per_class):
            frames = _moving_bar(label, seed=100 * label + number, num_frames=num_frames)
            write_video(folder / name / f"{number}.mp4", frames, 12, **(encoder or {}))
    return folder


def make_tiny_experiment(
    folder: Path,
    *,
    videos_per_class: int = 4,
    classes: int = 3,
    teacher_size: int = 48,
    student_size: int = 24,
    num_frames: int = 3,
    views: int = 3,
    epochs: int = 3,
    batch_size: int = 4,
) -> Path:
    """Write videos, index, experiment and a teacher of random but fixed weights.

    One video of each class is in split `val`, the others are in `train`.

    Args:
        folder: Where to put all of it; made if absent.
        videos_per_class: At least two.
        classes: At most five.
        teacher_size: Side of the teacher's frames in pixels, at most 48.
        student_size: Side of the student's frames in pixels.
        num_frames: T.
        views: V.
        epochs: Of the student; the teacher trains for two.
        batch_size: Of both.

    Returns:
        The experiment's YAML file.
    """
    videos = make_tiny_videos(folder / "videos", videos_per_class=videos_per_class, classes=classes)
    # The fraction that rounds to one video whatever their number.
    import_folder(videos, folder / "index.jsonl", val_fraction=1 / videos_per_class, decoder="pyav")
    path = folder / "experiment.yaml"
    path.write_text(
        f"""name: tiny
data: {{index: index.jsonl, decoder: pyav}}
clip: {{num_clips: {num_frames}}}
views: {{count: {views}, short_side: 48, scales: [1.0, 0.75], size: {teacher_size}}}
teacher:
  model: {MODEL}
  checkpoint: teacher
  training: {{epochs: 2, batch_size: {batch_size}, optimizer: {OPTIMIZER}}}
student:
  model: {MODEL}
  size: {student_size}
  training: {{epochs: {epochs}, batch_size: {batch_size}, optimizer: {OPTIMIZER}}}
  losses: {{feature_mse: 10.0}}
""",
        encoding="utf-8",
    )
    save_random_teacher(load_experiment(str(path)), seed=1)
    return path


def save_random_teacher(experiment: Experiment, *, seed: int) -> None:
    """Write a teacher checkpoint that was never trained; the seed decides its weights."""
    classes = read_index(experiment.data.index).classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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


def make_tiny_cache(experiment_file: Path, cache: Path, *, max_bad: float = 0.0) -> TinyCache:
    """Run the experiment's teacher over all views of its training videos."""
    experiment = load_experiment(str(experiment_file))
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    options = RunOptions(max_bad=max_bad, threads=1, device=CPU, force=False)
    run_cache_teacher(experiment, plan, cache, options)
    return TinyCache(experiment_file, cache)


def training_videos(experiment_file: Path) -> list[Path]:
    """Files of the experiment's training split, in order."""
    index = read_index(load_experiment(str(experiment_file)).data.index)
    return [index.path_of(entry) for entry in index.split("train")]


def cut_off(video: Path) -> None:
    """Keep the front of a file: its table still promises all frames, the last ones are gone."""
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 3 // 5])


def _moving_bar(label: int, *, seed: int, num_frames: int) -> NDArray[np.uint8]:
    """(num_frames, 48, 64, 3)."""
    rng = np.random.default_rng(seed)
    height, width = 48, 64
    colour = np.array([40, 40, 40])
    colour[label % 3] = 200 - 60 * (label // 3)
    frames = rng.integers(0, 40, (num_frames, height, width, 3)) + colour
    start, horizontal = int(rng.integers(width)), label % 2 == 0
    for t in range(num_frames):
        place = (start + 3 * t) % ((width if horizontal else height) - 8)
        if horizontal:
            frames[t, :, place : place + 8] = 250
        else:
            frames[t, place : place + 8] = 250
    shown: NDArray[np.uint8] = frames.clip(0, 255).astype(np.uint8)
    return shown
