"""Whole videos are predicted as in evaluation, and long ones window by window."""

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reskd.common.cli.main import main
from reskd.common.dataset.frames.image_io import encode_images
from reskd.common.dataset.frames.plan import FrameOptions
from reskd.common.errors import DataError
from reskd.common.models.checkpoint import load_checkpoint, save_checkpoint
from reskd.common.models.registry import build_model
from reskd.common.video.frames_in_memory import FramesInMemory
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.video_file import open_video
from reskd.student_train.deploy import windows
from reskd.student_train.deploy.extract_features import extract_features
from reskd.student_train.deploy.predictor import Predictor, load_predictor
from reskd.student_train.deploy.windows import plan_windows, read_windows
from tests.student_train.random_checkpoint import random_checkpoint
from tests.tiny_experiment import CPU
from tests.video_files import write_video

FPS = 10


@pytest.fixture
def run(tiny_experiment: Path) -> Path:
    """A student of random weights with a classifier that prefers some classes to others."""
    return save_student(tiny_experiment)


def save_student(experiment_file: Path) -> Path:
    return random_checkpoint(experiment_file.parent / "student", experiment_file, decided=True)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds of noise, every frame another."""
    frames = np.random.default_rng(0).integers(0, 255, (41, 48, 64, 3), dtype=np.uint8)
    return write_video(tmp_path / "long.mp4", frames, fps=FPS)


def a_video(run: Path, number: int = 0) -> Path:
    return sorted((run.parent / "videos").rglob("*.mp4"))[number]


@pytest.mark.parametrize(
    ("num_frames", "length", "step", "expected"),
    [
        (10, 5, 5, [(0, 5), (5, 10)]),
        (12, 5, 5, [(0, 5), (5, 10), (7, 12)]),
        (12, 5, 3, [(0, 5), (3, 8), (6, 11), (7, 12)]),
        (10, 2, 4, [(0, 2), (4, 6), (8, 10)]),
        (3, 5, 2, [(0, 3)]),
        (5, 5, 1, [(0, 5)]),
        (1, 1, 1, [(0, 1)]),
    ],
)
def test_windows_are_of_one_length_and_reach_the_end(
    num_frames: int, length: int, step: int, expected: list[tuple[int, int]]
) -> None:
    planned = plan_windows(num_frames, length=length, step=step)
    assert [(window.start, window.stop) for window in planned] == expected


@pytest.mark.parametrize("step", [0.4, 1.0, 1.5])
@pytest.mark.parametrize("clips", [1, 2])
def test_clips_of_a_window_are_those_of_a_video_that_is_no_longer(
    step: float, clips: int, run: Path, video: Path
) -> None:
    reading = load_predictor(run, clips=clips).reading
    with open_video(video, "pyav") as whole:
        frames = whole.frames(range(whole.num_frames))
    found = list(read_windows(video, reading, seconds=1.0, step_seconds=step))
    planned = plan_windows(len(frames), length=FPS, step=round(step * FPS))
    assert len(found) == len(planned)
    for window, stretch in zip(found, planned, strict=True):
        expected = reading.clips(FramesInMemory(frames[stretch.start : stretch.stop], FPS))
        assert torch.equal(window.clips, expected)
        assert window.start_seconds == pytest.approx(stretch.start / FPS)
        assert window.end_seconds == pytest.approx(stretch.stop / FPS)


def test_windows_decode_each_frame_once_in_its_turn_and_forget_it(
    run: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    pictures = windows._pictures

    def noting(
        opened: VideoReader, positions: Sequence[int]
    ) -> Generator[tuple[int, NDArray[np.uint8]]]:
        for index, pixels in pictures(opened, positions):
            drawn.append(index)
            yield index, pixels

    kept_frames: list[int] = []
    cut = windows._cut

    def counting(kept: dict[int, torch.Tensor], *arguments: Any) -> torch.Tensor:
        kept_frames.append(len(kept))
        return cut(kept, *arguments)

    monkeypatch.setattr(windows, "_cut", counting)
    monkeypatch.setattr(windows, "_pictures", noting)
    found = read_windows(video, load_predictor(run).reading, seconds=1.0, step_seconds=0.4)
    for number in range(4):
        next(found)
        assert max(drawn) < 4 * number + FPS
    list(found)
    assert drawn == sorted(set(drawn))
    # 3 frames of this window, and at most what it shares with the one before.
    assert max(kept_frames) <= 6


def test_predictions_are_those_of_extract_features(run: Path, tmp_path: Path) -> None:
    predictor = load_predictor(run)
    for number in (0, 5):
        extract_features(
            run,
            a_video(run, number),
            tmp_path / "out.npz",
            size=None,
            num_frames=None,
            batch_size=1,
            device=CPU,
        )
        (logits_K,) = torch.from_numpy(np.load(tmp_path / "out.npz")["logits"])
        expected = logits_K.softmax(0).numpy()
        np.testing.assert_allclose(predictor.probabilities(a_video(run, number)), expected, 1e-4)
        best = int(expected.argmax())
        ranked = predictor.top(a_video(run, number), k=2)
        assert ranked[0].name == ("climb", "dive", "jump")[best]
        assert [row.probability for row in ranked] == sorted(expected, reverse=True)[:2]


def test_classes_that_go_together_are_predicted_with_a_sigmoid(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text()
    tiny_experiment.write_text(text.replace("epochs: 3,", "epochs: 3, labels: {kind: any_of},"))
    run = save_student(tiny_experiment)
    predictor = load_predictor(run)
    assert predictor.score_activation == "sigmoid"
    model, _ = load_checkpoint(run)
    with torch.inference_mode():
        logits = model(model.normalize(predictor.clips(a_video(run)))).logits_BK[0]
    np.testing.assert_allclose(
        predictor.probabilities(a_video(run)), logits.sigmoid().numpy(), rtol=1e-4
    )


def test_checkpoint_without_experiment_predicts_too(run: Path, tmp_path: Path) -> None:
    model, info = load_checkpoint(run)
    save_checkpoint(
        tmp_path / "imported",
        model,
        role="teacher",
        spec=info.model,
        size=32,
        classes=info.classes,
        experiment={},
    )
    predictor = load_predictor(tmp_path / "imported")
    assert predictor.clips(a_video(run)).shape == (1, 8, 3, 32, 32)
    assert predictor.probabilities(a_video(run)).sum() == pytest.approx(1)


def test_videos_that_cannot_be_read_are_told_after_the_others_are_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    names = [a_video(run), broken, tmp_path / "gone.mp4", a_video(run, 7)]
    assert main(["predict", str(run), *map(str, names), "--top", "2", "--json"]) == 5
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert [one["video"] for one in result["videos"]] == [
        str(names[0]),
        str(names[3]),
    ]
    assert [len(one["top"]) for one in result["videos"]] == [2, 2]
    assert list(result["failures"]) == [str(broken), str(names[2])]
    assert result["failed"] == 2
    assert f"unreadable: {broken}" in captured.err
    assert "2 of 4 videos could not be read" in captured.err


def test_a_folder_and_a_list_are_their_videos(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_video(run).parent
    files = sorted(folder.glob("*.mp4"))
    (folder / "notes.md").write_text("no video")
    listed = tmp_path / "videos.txt"
    listed.write_text(f"{files[1]}\n\n{files[0]}\r\n")
    told = []
    for named in ([folder], [listed], files):
        assert main(["predict", str(run), *map(str, named), "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["videos"])
    assert [one["video"] for one in told[0]] == [str(file) for file in files]
    assert told[1] == [told[0][1], told[0][0]]
    assert told[2] == told[0]
    assert main(["predict", str(run), str(tmp_path / "no.txt")]) == 3
    assert "no.txt cannot be read" in capsys.readouterr().err


def test_frames_in_memory_are_predicted_as_their_file(run: Path) -> None:
    predictor = load_predictor(run, clips=2)
    with open_video(a_video(run), "auto") as opened:
        frames = opened.frames(range(opened.num_frames))
    assert predictor.top(frames) == predictor.top(a_video(run))
    with pytest.raises(DataError, match=r"uint8 of shape \(N, H, W, 3\), got float32"):
        predictor.top(frames.astype(np.float32))
    with pytest.raises(DataError, match=r"got uint8 of shape \(3, 48, 64\)"):
        predictor.top(frames[:3, ..., 0])


def test_command_prints_windows_with_their_times(
    run: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(video), "--window", "2", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(video)
    assert [line.split()[:4] for line in lines[2:]] == [
        ["0.0", "to", "2.0", "s"],
        ["2.0", "to", "4.0", "s"],
        ["2.1", "to", "4.1", "s"],
    ]


def test_prediction_of_a_video_in_windows_is_the_mean_over_them(
    run: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(video), "--window", "1.5", "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["videos"]
    for row in prediction["top"]:
        parts = [
            part["probability"]
            for window in prediction["windows"]
            for part in window["top"]
            if part["class"] == row["class"]
        ]
        assert len(parts) == 3
        assert row["probability"] == pytest.approx(np.mean(parts), rel=1e-5)


def test_video_that_breaks_off_keeps_the_windows_before(
    run: Path, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = windows._pictures

    def breaking(opened: VideoReader, positions: Sequence[int]) -> Generator[Any]:
        for index, pixels in pictures(opened, positions):
            if index > 25:
                raise UnreadableVideoError(video, "pyav", f"frame {index} is damaged")
            yield index, pixels

    monkeypatch.setattr(windows, "_pictures", breaking)
    assert main(["predict", str(run), str(video), "--window", "1", "--json"]) == 5
    result = json.loads(capsys.readouterr().out)
    assert [window["end_seconds"] for window in result["videos"][0]["windows"]] == [1.0, 2.0]
    assert len(result["videos"][0]["top"]) == 3
    assert "is damaged" in result["failures"][str(video)]


def test_folder_of_images_is_a_video_without_times_and_so_without_windows(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = FrameOptions(fps=None, image_format="png", quality=None, short_side=None)
    with open_video(a_video(run), "pyav") as video:
        images = encode_images(video.frames(range(video.num_frames)), options)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images, start=1):
        (folder / f"img_{number:05d}.png").write_bytes(image)
    predictor = load_predictor(run)
    assert predictor.top(folder) == predictor.top(a_video(run))
    assert main(["predict", str(run), str(folder), "--window", "1"]) == 5
    assert "how many frames a second" in capsys.readouterr().err


def test_network_that_predicts_no_numbers_is_refused(run: Path) -> None:
    predictor = load_predictor(run)
    model = build_model(predictor.info.model, num_classes=3).eval()
    torch.nn.init.constant_(model.get_parameter("classifier.bias"), float("nan"))
    broken = replace(predictor, model=model)
    with pytest.raises(DataError, match="not numbers"):
        broken.probabilities(a_video(run))


def test_ranks_equal_classes_by_their_number(run: Path) -> None:
    predictor: Predictor = load_predictor(run)
    ranked = predictor.rank(np.array([0.2, 0.4, 0.4], np.float32), k=9)
    assert [row.name for row in ranked] == ["dive", "jump", "climb"]


@pytest.mark.parametrize(
    "options", [[], ["v.mp4", "--step", "1"], ["v.mp4", "--window", "0"], ["v.mp4", "--top", "0"]]
)
def test_usage_mistakes_end_with_2(options: list[str], tmp_path: Path) -> None:
    assert main(["predict", str(tmp_path), *options]) == 2


def test_folder_without_checkpoint_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path), "video.mp4"]) == 3
    assert "is not a checkpoint directory" in capsys.readouterr().err
