"""Feature maps and scores of videos as evaluation reads them, and of clips as they are given."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.dataset.quarantine import BadVideo, quarantine_file, write_quarantine
from reskd.common.errors import DataError
from reskd.common.experiment import ClipSpec, EvaluationSpec, ModelSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint, read_checkpoint_info
from reskd.common.models.importing.convert import import_checkpoint
from reskd.common.models.importing.options import ImportOptions
from reskd.common.video.eval_views import evaluation_views, num_views, teacher_size
from reskd.common.video.preprocess import apply, shrink
from reskd.common.video.video_file import open_video
from reskd.student_train.deploy.extract_features import extract_features
from reskd.student_train.evaluate.clip_reader import USUAL_CLIPS, Reading, reading_of
from tests.common.models.test_tsn import REFERENCE, largest_error, reference_weights
from tests.student_train.random_checkpoint import random_checkpoint
from tests.tiny_experiment import CPU, cut_off


def extract(folder: Path, source: Path, out: Path, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"size": None, "num_frames": None, "batch_size": 2, "device": CPU}
    return extract_features(folder, source, out, **defaults | options)


def save_clips(path: Path, *shape: int) -> torch.Tensor:
    clips = torch.randn(shape)
    np.save(path, clips.numpy())
    return clips


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_stored_clips_are_taken_as_they_are(batch_size: int, tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "run")
    clips = save_clips(tmp_path / "clips.npy", 3, 2, 3, 32, 48)
    out = tmp_path / "deep" / "out.npz"
    result = extract(folder, tmp_path / "clips.npy", out, batch_size=batch_size)
    model, _ = load_checkpoint(folder)
    with torch.inference_mode():
        features, logits = model(clips)
    with np.load(out, allow_pickle=False) as written:
        assert set(written) == {"features", "logits"}
        assert written["features"].dtype == written["logits"].dtype == np.float32
        np.testing.assert_allclose(written["features"], features.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(written["logits"], logits.numpy(), rtol=1e-5, atol=1e-6)
    assert result["features"] == list(features.shape)
    assert (result["clips"], result["logits"], result["failed"]) == (3, [3, 3], 0)


def test_videos_of_an_index_are_read_as_in_evaluation(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    folder = random_checkpoint(tmp_path / "run", tiny_experiment)
    index = read_index(tiny_experiment.parent / "index.jsonl")
    extract(folder, tiny_experiment.parent / "index.jsonl", tmp_path / "out.npz", batch_size=5)
    written = np.load(tmp_path / "out.npz", allow_pickle=False)
    assert written["paths"].tolist() == [str(index.path_of(entry)) for entry in index.videos]
    experiment = load_experiment(str(tiny_experiment))
    model, _ = load_checkpoint(folder)
    for path, features, logits in zip(
        written["paths"], written["features"], written["logits"], strict=True
    ):
        with open_video(Path(path), "pyav") as video:
            (params,) = evaluation_views(
                clip=experiment.clip,
                views=experiment.views,
                evaluation=EvaluationSpec(),
                num_frames=video.num_frames,
                height=video.height,
                width=video.width,
            )
            frames = torch.from_numpy(video.frames(params.frame_indices))
        clip = model.normalize(shrink(apply(frames, params, 48), 24))
        with torch.inference_mode():
            expected = model(clip[None])
        np.testing.assert_allclose(features, expected.features_BTChw[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, expected.logits_BK[0], rtol=1e-4, atol=1e-5)


def test_unreadable_videos_are_left_out_and_the_command_ends_with_5(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = random_checkpoint(tmp_path / "run", tiny_experiment)
    videos = sorted((tiny_experiment.parent / "videos").rglob("*.mp4"))[:4]
    cut_off(videos[1])
    listing = tiny_experiment.parent / "some.txt"
    names = [str(video.relative_to(listing.parent)) for video in videos]
    listing.write_text("\n".join([*names, "", "videos/gone.mp4"]) + "\r\n")
    out = tmp_path / "out.npz"
    code = main(["extract-features", str(folder), str(listing), str(out), "--json", "--batch", "2"])
    assert code == 5
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    gone = str(listing.parent / "videos" / "gone.mp4")
    assert list(result["failures"]) == [str(videos[1]), gone]
    assert (result["clips"], result["failed"]) == (3, 2)
    assert f"unreadable, left out: {gone}" in captured.err
    assert "2 videos could not be read and are not in" in captured.err
    written = np.load(out, allow_pickle=False)
    assert written["paths"].tolist() == [str(videos[number]) for number in (0, 2, 3)]
    whole = tmp_path / "whole.npz"
    extract(folder, videos[2], whole)
    np.testing.assert_allclose(
        written["features"][1:2], np.load(whole)["features"], rtol=1e-4, atol=1e-5
    )


def test_no_readable_video_writes_nothing(tiny_experiment: Path, tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "run", tiny_experiment)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"none of the 1 videos.*broken\.mp4"):
        extract(folder, tmp_path / "broken.mp4", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_reading_without_experiment_shrinks_a_student_s_frames_from_the_teacher_s(
    tmp_path: Path,
) -> None:
    info = read_checkpoint_info(random_checkpoint(tmp_path, size=112))
    student = reading_of(info, None, size=None, num_frames=None)
    assert sides(student) == (256, 224, 224, 112)
    assert student.clip == ClipSpec(num_clips=8)
    teacher = reading_of(replace(info, role="teacher"), None, size=None, num_frames=16)
    assert sides(teacher) == (128, 112, 112, 112)
    assert teacher.clip == ClipSpec(num_clips=16)
    large = reading_of(info, None, size=448, num_frames=None)
    assert sides(large) == (512, 448, 448, 448)


def sides(reading: Reading) -> tuple[int, int, int, int]:
    """Short side, crop, frames that the crop becomes, frames of the network; of a square video."""
    (view,) = evaluation_views(
        clip=reading.clip,
        views=reading.views,
        evaluation=reading.evaluation,
        num_frames=9,
        height=60,
        width=60,
    )
    cut = teacher_size(reading.views, reading.evaluation)
    return view.frame_height, view.height, cut, reading.size


def test_reading_with_experiment_is_one_view_of_its_protocol(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    info = read_checkpoint_info(random_checkpoint(tmp_path, tiny_experiment))
    protocol = "{clips: 2, twice: true, crops: 3, crop_fraction: 1.0, short_side: 64, size: 56}"
    tiny_experiment.write_text(tiny_experiment.read_text() + f"evaluation: {protocol}\n")
    reading = reading_of(info, load_experiment(str(tiny_experiment)), size=None, num_frames=None)
    assert num_views(reading.evaluation) == 1
    assert sides(reading) == (64, 64, 56, 28)  # 24 px of 48 px frames grow to 28 of 56


@pytest.mark.parametrize(
    ("recognizer", "frames", "clip"),
    [
        ("tsm", None, ClipSpec(num_clips=8)),
        ("slowonly", None, ClipSpec(num_clips=1, clip_len=8, frame_interval=8)),
        ("slowonly", 4, ClipSpec(num_clips=1, clip_len=4, frame_interval=8)),
        ("swin3d", 16, ClipSpec(num_clips=1, clip_len=16, frame_interval=2)),
        ("torchvision", None, ClipSpec(num_clips=1, clip_len=16, frame_interval=2)),
    ],
)
def test_clips_without_experiment_are_those_of_the_recipes(
    recognizer: Any, frames: int | None, clip: ClipSpec, tmp_path: Path
) -> None:
    info = read_checkpoint_info(random_checkpoint(tmp_path))
    info = replace(info, model=replace(info.model, recognizer=recognizer))
    assert reading_of(info, None, size=None, num_frames=frames).clip == clip


def test_every_recognizer_has_usual_clips() -> None:
    assert set(USUAL_CLIPS) == set(get_args(get_type_hints(ModelSpec)["recognizer"]))


def test_options_win_over_the_experiment(tiny_experiment: Path, tmp_path: Path) -> None:
    info = read_checkpoint_info(random_checkpoint(tmp_path, tiny_experiment))
    experiment = load_experiment(str(tiny_experiment))
    reading = reading_of(info, experiment, size=48, num_frames=5)
    assert sides(reading) == (48, 42, 48, 48)
    assert reading.clip.num_frames == 5


def test_videos_of_an_index_in_quarantine_are_not_touched(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    index_path = tiny_experiment.parent / "index.jsonl"
    index = read_index(index_path)
    bad = BadVideo(id=index.videos[1].id, path="x", verdict="hang", message="no end")
    write_quarantine(quarantine_file(index_path), [bad])
    result = extract(
        random_checkpoint(tmp_path / "run", tiny_experiment), index_path, tmp_path / "o.npz"
    )
    assert (result["clips"], result["failed"]) == (len(index.videos) - 1, 1)
    (path,) = result["failures"]
    assert path == str(index.path_of(index.videos[1]))
    assert "hang: no end" in result["failures"][path]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((1, 2, 3, 32, 32)), r"holds float64 \(1, 2, 3, 32, 32\); wanted"),
        (np.zeros((1, 3, 2, 32, 32), np.float32), r"wanted are clips"),
        (np.zeros((2, 3, 32, 32), np.float32), r"wanted are clips"),
        (np.zeros((0, 2, 3, 32, 32), np.float32), r"wanted are clips"),
    ],
)
def test_clips_of_another_kind_are_refused(array: Any, told: str, tmp_path: Path) -> None:
    np.save(tmp_path / "clips.npy", array)
    with pytest.raises(DataError, match=told):
        extract(random_checkpoint(tmp_path / "run"), tmp_path / "clips.npy", tmp_path / "out.npz")


@pytest.mark.parametrize("options", [{"size": 24}, {"num_frames": 3}])
def test_options_that_would_change_given_clips_are_refused(
    options: dict[str, int], tmp_path: Path
) -> None:
    save_clips(tmp_path / "clips.npy", 1, 2, 3, 32, 32)
    with pytest.raises(DataError, match="2 frames of 32x32 px; leave --size and --frames out"):
        extract(
            random_checkpoint(tmp_path / "run"),
            tmp_path / "clips.npy",
            tmp_path / "out.npz",
            **options,
        )


def test_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "clips.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as a numpy array"):
        extract(random_checkpoint(tmp_path / "run"), tmp_path / "clips.npy", tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.mp4", None, "there is no file"),
        ("gone.txt", None, "the list .* cannot be read"),
        ("gone.npy", None, "cannot be read as a numpy array"),
        ("gone.jsonl", None, "no video index"),
        ("empty.txt", "\n", "lists no video"),
    ],
)
def test_missing_or_empty_input_is_refused(
    name: str, content: str | None, told: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told):
        extract(random_checkpoint(tmp_path / "run"), tmp_path / name, tmp_path / "out.npz")


def test_output_of_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.npz"):
        extract(tmp_path, tmp_path / "clips.npy", tmp_path / "out.npy")


@pytest.fixture(scope="module")
def imported_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's TSN ResNet-50, written as it was published and imported."""
    weights, folder = reference_weights(), tmp_path_factory.mktemp("reference")
    weights.save_checkpoint(str(REFERENCE / "specs" / "tsn_r50.json"), folder / "tsn_r50.pth")
    result = import_checkpoint(folder / "tsn_r50.pth", folder / "run", ImportOptions())
    assert (result["model"], result["classes"], result["tensors"]) == ("tsn_r50", 200, 320)
    return folder / "run"


@pytest.mark.parametrize(
    ("case", "shape"),
    [("64", (2, 4, 3, 64, 64)), ("112", (1, 16, 3, 112, 112)), ("224", (1, 4, 3, 224, 224))],
)
def test_imported_reference_predicts_as_the_reference(
    case: str, shape: tuple[int, ...], imported_reference: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "clips.npy", reference_weights().make_input(f"tsn_r50/{case}", shape))
    extract(imported_reference, tmp_path / "clips.npy", tmp_path / "out.npz")
    written = np.load(tmp_path / "out.npz", allow_pickle=False)
    expected = np.load(REFERENCE / "data" / "model_tsn_r50.npz")
    features = written["features"].reshape(-1, *written["features"].shape[2:])
    assert tuple(expected[f"{case}/feat/shape"]) == features.shape
    stride = int(expected[f"{case}/feat/stride"])
    assert largest_error(features.reshape(-1)[::stride], expected[f"{case}/feat/flat"]) <= 1e-5
    assert largest_error(features.mean(axis=(0, 2, 3)), expected[f"{case}/feat/mean_c"]) <= 1e-5
    assert largest_error(written["logits"], expected[f"{case}/logits"]) <= 1e-5


def test_imported_reference_holds_every_tensor_exactly(imported_reference: Path) -> None:
    weights, (model, _) = reference_weights(), load_checkpoint(imported_reference)
    spec = json.loads((REFERENCE / "specs" / "tsn_r50.json").read_text())
    theirs = [weights.make_tensor(*param).tobytes() for param in spec["params"]]
    ours = [tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values()]
    assert len(ours) == len(theirs) == 320
    assert sorted(ours) == sorted(theirs)
