"""What a clip's label is: of a video with several, one is drawn per epoch, from its name alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from reskd.common.dataset.index import VideoEntry, read_index, write_index
from reskd.common.experiment.load import load_experiment
from reskd.student_train.data.labels import Labels
from reskd.student_train.run.log import read_events
from reskd.student_train.train.runs import train_teacher
from tests.tiny_experiment import ALONE

ENTRIES = [
    VideoEntry(id=name, path=name, labels=labels, split="train", num_frames=9, fps=25.0)
    for name, labels in [("a", (2,)), ("b", (0, 3, 3)), ("c\udce4", (1, 2, 3))]
]


def _labels(kind: Literal["one_of", "any_of"] = "one_of", *, seed: int = 0) -> Labels:
    return Labels(dict(enumerate(ENTRIES)), num_classes=4, kind=kind, seed=seed)


def test_video_with_one_label_always_has_it() -> None:
    labels = _labels().of([0, 0], epoch=3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 2]


def test_one_of_several_labels_is_drawn_per_epoch_each_alike() -> None:
    labels = _labels()
    drawn = [labels.of([1, 2], epoch=epoch).tolist() for epoch in range(600)]
    first, second = (Counter(column) for column in zip(*drawn, strict=True))
    assert first.keys() == {0, 3}  # a label that is named twice counts once
    assert second.keys() == {1, 2, 3}
    assert all(240 < count < 360 for count in first.values())
    assert all(140 < count < 260 for count in second.values())


def test_draw_depends_on_seed_video_and_epoch_alone() -> None:
    several = _labels().of([2, 1, 2], epoch=5).tolist()
    assert several == [*_labels().of([2, 1], epoch=5).tolist(), several[0]]
    epochs = range(40)
    one, other = (
        [_labels(seed=seed).of([2], epoch=epoch).item() for epoch in epochs] for seed in (0, 1)
    )
    assert one != other


def test_any_of_asks_for_all_labels_at_once() -> None:
    labels = _labels("any_of").of([1, 0], epoch=0)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("kind", ["one_of", "any_of"])
def test_teacher_learns_from_videos_of_several_labels(
    tiny_experiment: Path, tmp_path: Path, kind: str
) -> None:
    file = load_experiment(str(tiny_experiment)).data.index
    index = read_index(file)
    videos = [replace(video, labels=(*video.labels, 2)) for video in index.videos]
    write_index(file, replace(index, videos=tuple(videos)))
    options = f"teacher.training.labels={{kind: {kind}, smoothing: 0.1, class_weights: balanced}}"
    experiment = load_experiment(str(tiny_experiment), [options, "teacher.training.epochs=8"])
    train_teacher(
        experiment, tmp_path / "run", processes=ALONE, validate=False, max_bad=0.0, fresh=False
    )
    events = read_events(tmp_path / "run")
    assert len(events) == 8
    assert events[-1]["loss"] < events[0]["loss"]
    assert 0 <= events[-1]["train_top1"] <= 1
