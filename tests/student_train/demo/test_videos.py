"""The demo data set: seeded, free of easy leaks, and written whole as equal-length H.264."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from reskd.student_train.demo.videos import (
    DEMO_CLASSES,
    FRAME_COUNT,
    FRAME_RATE,
    FRAME_SIDE,
    draw_clip,
    write_demo_videos,
)

CHANCE = 1.0 / len(DEMO_CLASSES)
ONE_CLIP = {"train": 1, "test": 0}


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def mean_colours(split: str, clips: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Mean colour (M, 3) of the middle frame of `clips` clips a class, and the labels (M,)."""
    labels = np.repeat(np.arange(len(DEMO_CLASSES)), clips)
    numbers = np.tile(np.arange(clips), len(DEMO_CLASSES))
    frames = [
        draw_clip(seed=7, split=split, label=int(label), number=int(number))[FRAME_COUNT // 2]
        for label, number in zip(labels, numbers, strict=True)
    ]
    return np.stack([frame.mean(axis=(0, 1)) for frame in frames]), labels


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_videos(folder, seed=3, clips_per_class=ONE_CLIP)
    return folder


def test_draw_clip_same_arguments_same_pixels() -> None:
    first = draw_clip(seed=3, split="train", label=5, number=2)
    again = draw_clip(seed=3, split="train", label=5, number=2)
    assert first.shape == (FRAME_COUNT, FRAME_SIDE, FRAME_SIDE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("seed", "split", "number"), [(4, "train", 2), (3, "test", 2), (3, "train", 1)]
)
def test_draw_clip_other_seed_split_or_number_other_pixels(
    seed: int, split: str, number: int
) -> None:
    first = draw_clip(seed=3, split="train", label=5, number=2)
    other = draw_clip(seed=seed, split=split, label=5, number=number)
    assert np.mean(first != other) > 0.5


@pytest.mark.parametrize("label", [-1, len(DEMO_CLASSES)])
def test_draw_clip_unknown_label_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="label must be from 0"):
        draw_clip(seed=3, split="train", label=label, number=0)


def test_mean_colour_of_one_frame_tells_no_class() -> None:
    train, train_labels = mean_colours("train", 12)
    test, test_labels = mean_colours("test", 12)
    classes = np.arange(len(DEMO_CLASSES))

    centres = np.stack([train[train_labels == c].mean(axis=0) for c in classes])
    nearest = np.square(test[:, None] - centres).sum(axis=2).argmin(axis=1)

    def terms(colours: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (colours - train.mean(axis=0)) / train.std(axis=0)
        return np.column_stack([np.ones(len(scaled)), scaled, np.square(scaled)])

    one_hot = (train_labels[:, None] == classes).astype(np.float64)
    weights = np.linalg.lstsq(terms(train), one_hot, rcond=None)[0]
    squares = (terms(test) @ weights).argmax(axis=1)

    # Four standard deviations above what a guesser gets right of so many clips.
    bound = CHANCE + 4.0 * np.sqrt(CHANCE * (1.0 - CHANCE) / len(test))
    assert np.mean(nearest == test_labels) < bound
    assert np.mean(squares == test_labels) < bound


def test_written_file_decodes_close_to_the_drawing(written: Path) -> None:
    for label in (0, len(DEMO_CLASSES) - 1):
        name = DEMO_CLASSES[label]
        decoded = decode(written / "train" / name / f"{name}_000.mp4")
        drawn = draw_clip(seed=3, split="train", label=label, number=0)
        assert decoded.shape == drawn.shape
        assert np.abs(decoded.astype(float) - drawn).mean() < 6.0


def test_written_files_have_equal_length_and_constant_rate_in_every_class(written: Path) -> None:
    paths = sorted(written.rglob("*.mp4"))
    assert [path.stem for path in paths] == sorted(f"{name}_000" for name in DEMO_CLASSES)
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = [frame.time for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert (stream.height, stream.width) == (FRAME_SIDE, FRAME_SIDE)
        np.testing.assert_allclose(times, np.arange(FRAME_COUNT) / FRAME_RATE, atol=1e-4)


def test_write_demo_videos_same_seed_same_bytes(written: Path, tmp_path: Path) -> None:
    write_demo_videos(tmp_path, seed=3, clips_per_class=ONE_CLIP)
    for path in written.rglob("*.mp4"):
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes()


def test_write_demo_videos_called_again_makes_only_what_is_missing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_demo_videos(tmp_path, seed=3, clips_per_class={"test": 1})
    name = DEMO_CLASSES[0]
    kept = tmp_path / "test" / DEMO_CLASSES[1] / f"{DEMO_CLASSES[1]}_000.mp4"
    kept.write_bytes(b"kept")
    missing = tmp_path / "test" / name / f"{name}_000.mp4"
    missing.unlink()

    write_demo_videos(
        tmp_path,
        seed=3,
        clips_per_class={"test": 1},
        progress=lambda done, total: calls.append((done, total)),
    )

    assert kept.read_bytes() == b"kept"
    assert missing.stat().st_size > 1000
    assert calls[-1] == (len(DEMO_CLASSES), len(DEMO_CLASSES))
    assert len(list(tmp_path.rglob("*"))) == 1 + 2 * len(DEMO_CLASSES)  # no partial file is left


def test_write_demo_videos_interrupted_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo_videos(tmp_path, seed=3, clips_per_class=ONE_CLIP)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
