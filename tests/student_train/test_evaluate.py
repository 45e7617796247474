"""tests/student_train/test_evaluate.py: accuracies against a computation written out here."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from common.checkpoints import load_checkpoint, save_checkpoint
from common.config import experiment_tree, load_experiment
from common.errors import DataError
from common.models.registry import build_model
from common.video.index import VideoEntry, VideoIndex, read_index, write_index
from common.video.reader import open_video
from common.video.view_ops import apply, normalize, shrink
from common.video.view_params import centre_view
from student_train.evaluate import evaluate_run
from tests.tiny_experiment import CPU, cut_off

SIZES = {"teacher": 48, "student": 24}


@pytest.fixture
def seven_classes(tiny_experiment: Path) -> Path:
    """The tiny experiment with seven classes dealt out to its videos, and batches of 4."""
    path = tiny_experiment.parent / "index.jsonl"
    index = read_index(path)
    videos = tuple(
        replace(video, labels=(number % 7,)) for number, video in enumerate(index.videos)
    )
    write_index(path, replace(index, classes=tuple("abcdefg"), videos=videos))
    tiny_experiment.write_text(tiny_experiment.read_text() + "evaluation: {batch_size: 4}\n")
    return tiny_experiment


def _checkpoint(
    experiment_file: Path, run: Path, *, role: Literal["teacher", "student"] = "student"
) -> Path:
    """A random network whose answers differ from video to video."""
    experiment = load_experiment(str(experiment_file))
    index = read_index(experiment.data.index)
    spec = {"teacher": experiment.teacher.model, "student": experiment.required_student().model}[
        role
    ]
    torch.manual_seed(4)
    model = build_model(spec, num_classes=len(index.classes))
    clips = [_test_clip(experiment_file, index, entry, SIZES[role]) for entry in index.videos]
    with torch.inference_mode():
        features_BC = model.eval()(torch.stack(clips)).features_BTChw.mean(dim=(1, 3, 4))
    weight, bias = model.get_parameter("classifier.weight"), model.get_parameter("classifier.bias")
    torch.nn.init.normal_(weight)
    with torch.no_grad():  # what all videos have in common must not decide
        bias.copy_(-weight @ features_BC.mean(dim=0))
    save_checkpoint(
        run,
        model,
        role=role,
        spec=spec,
        size=SIZES[role],
        classes=index.classes,
        experiment=experiment_tree(experiment),
    )
    return run


def _evaluate(run: Path, split: str | None = None, index: Path | None = None) -> dict[str, Any]:
    return evaluate_run(run, index_path=index, split=split, device=CPU)


def _test_clip(experiment_file: Path, index: VideoIndex, entry: VideoEntry, size: int) -> Tensor:
    experiment = load_experiment(str(experiment_file))
    with open_video(index.path_of(entry), "pyav") as video:
        params = centre_view(
            clip=experiment.clip,
            views=experiment.views,
            crop_fraction=0.875,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )
        frames = torch.from_numpy(video.frames(params.frame_indices))
    return normalize(shrink(apply(frames, params, 48), size))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_evaluate_equals_accuracy_counted_video_by_video(
    seven_classes: Path, tmp_path: Path, role: Literal["teacher", "student"]
) -> None:
    run = _checkpoint(seven_classes, tmp_path / "run", role=role)
    model, _ = load_checkpoint(run)
    index = read_index(seven_classes.parent / "index.jsonl")
    entries, ranks, answers = index.split("train"), [], set()
    for entry in entries:
        clip = _test_clip(seven_classes, index, entry, SIZES[role])
        with torch.inference_mode():
            order = model(clip[None]).logits_BK[0].argsort(descending=True).tolist()
        ranks.append(order.index(entry.labels[0]))
        answers.add(order[0])
    assert len(answers) > 1  # else a network that ignores its input would pass
    result = _evaluate(run, "train")
    assert result["videos"] == 9
    assert result["top1"] == pytest.approx(sum(rank < 1 for rank in ranks) / 9)
    assert result["top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / 9)
    assert 0 < result["top5"] < 1
    assert (result["role"], result["size"], result["failed"]) == (role, SIZES[role], 0)


def test_evaluate_gives_each_video_its_own_label_whatever_the_batch(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    # Nine videos in batches of 4: the lone ninth joins the second batch.
    results = []
    for size in (2, 4, 16):
        path = tiny_experiment.with_name(f"batch{size}.yaml")
        path.write_text(tiny_experiment.read_text() + f"evaluation: {{batch_size: {size}}}\n")
        results.append(_evaluate(_checkpoint(path, tmp_path / f"run{size}"), "train")["top1"])
    assert results == [results[0]] * 3


@pytest.mark.parametrize(("role", "size"), SIZES.items())
def test_evaluate_shows_each_network_frames_of_its_own_size(
    tiny_experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: Literal["teacher", "student"],
    size: int,
) -> None:
    shapes = []

    def noting(frames: Tensor) -> Tensor:
        shapes.append(tuple(frames.shape))
        return normalize(frames)

    monkeypatch.setattr("student_train.evaluate.normalize", noting)
    _evaluate(_checkpoint(tiny_experiment, tmp_path / "run", role=role))
    assert shapes == [(3, 3, 3, size, size)]


def test_evaluate_counts_unreadable_video_as_wrong_and_reports_it(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    index = read_index(tiny_experiment.parent / "index.jsonl")
    broken = index.split("train")[4]
    whole = _evaluate(run, "train")
    others = replace(
        index, videos=tuple(video for video in index.split("train") if video != broken)
    )
    write_index(tmp_path / "tiny" / "others.jsonl", others)
    right = round(8 * _evaluate(run, "train", tmp_path / "tiny" / "others.jsonl")["top1"])
    cut_off(index.path_of(broken))
    result = _evaluate(run, "train")
    assert (result["videos"], result["failed"]) == (9, 1)
    assert list(result["failures"]) == [broken.id]
    assert right > 0
    assert result["top1"] == pytest.approx(right / 9)
    assert result["top5"] == pytest.approx(8 / 9)  # of three classes, all are among the first 5
    assert whole["top5"] == 1
    assert f"counted as wrong: {broken.id}" in capsys.readouterr().err


def test_evaluate_where_no_video_is_readable_is_nought(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    index = read_index(tiny_experiment.parent / "index.jsonl")
    for entry in index.split("val"):
        index.path_of(entry).write_bytes(b"no video")
    result = _evaluate(run)
    assert (result["videos"], result["failed"], result["top1"], result["top5"]) == (3, 3, 0, 0)


def test_evaluate_with_index_of_other_classes_is_refused(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    index = read_index(tiny_experiment.parent / "index.jsonl")
    write_index(tmp_path / "other.jsonl", replace(index, classes=index.classes[::-1]))
    with pytest.raises(DataError, match=r"climb, dive, jump.*other\.jsonl.*jump, dive, climb"):
        _evaluate(run, index=tmp_path / "other.jsonl")


def test_evaluate_of_unknown_split_is_refused(tiny_experiment: Path, tmp_path: Path) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    with pytest.raises(DataError, match="no split 'test'; it has: train, val"):
        _evaluate(run, "test")


def test_evaluate_of_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a checkpoint directory"):
        _evaluate(tmp_path)


def test_evaluate_of_relative_run_names_it_absolutely(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    result = _evaluate(Path("run"))
    assert result["run"] == str(run)
    assert result["split"] == "val"
    assert result["parameters"] == sum(
        parameter.numel() for parameter in load_checkpoint(run)[0].parameters()
    )
