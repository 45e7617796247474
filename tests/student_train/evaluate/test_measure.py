"""Accuracies against a computation written out here."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.dataset.quarantine import BadVideo, quarantine_file, write_quarantine
from reskd.common.errors import DataError
from reskd.common.experiment import EvaluationSpec
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.metrics import mean_average_precision, mean_class_accuracy
from reskd.common.models.checkpoint import load_checkpoint, save_checkpoint
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.models.registry import build_model
from reskd.common.video.eval_views import evaluation_views
from reskd.common.video.preprocess import IMAGENET, apply, normalize, shrink
from reskd.common.video.reader import Decoder, VideoReader
from reskd.common.video.video_file import PyAVReader, open_video
from reskd.student_train.evaluate import predictions
from reskd.student_train.evaluate.inference import forward
from reskd.student_train.evaluate.measure import evaluate_runs, write_scores
from tests.tiny_experiment import ALONE, cut_off

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
    """A random network whose predictions differ from video to video."""
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


def _evaluate(
    run: Path,
    split: str | None = None,
    index: Path | None = None,
    *,
    scores: Path | None = None,
    **protocol: Any,
) -> dict[str, Any]:
    [measured] = evaluate_runs(
        [run], index_path=index, split=split, processes=ALONE, protocol=protocol
    )
    if scores is not None:
        write_scores(scores, measured)
    return measured.figures


def _scores(run: Path, out: Path, **protocol: Any) -> dict[str, Any]:
    """Arrays of the file of scores of the training split."""
    _evaluate(run, "train", scores=out, **protocol)
    with np.load(out, allow_pickle=False) as written:
        return dict(written)


def _test_clip(experiment_file: Path, index: VideoIndex, entry: VideoEntry, size: int) -> Tensor:
    return _test_clips(experiment_file, index, entry, size, EvaluationSpec())[0]


def _test_clips(
    experiment_file: Path,
    index: VideoIndex,
    entry: VideoEntry,
    size: int,
    evaluation: EvaluationSpec,
) -> Tensor:
    """Every test view decoded and cut by itself."""
    experiment = load_experiment(str(experiment_file))
    with open_video(index.path_of(entry), "pyav") as video:
        views = evaluation_views(
            clip=experiment.clip,
            views=experiment.views,
            evaluation=evaluation,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )
        cut_size = evaluation.size or 48
        clips = [
            shrink(apply(torch.from_numpy(video.frames(view.frame_indices)), view, cut_size), size)
            for view in views
        ]
    return normalize(torch.stack(clips), IMAGENET)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_evaluate_equals_accuracy_counted_video_by_video(
    seven_classes: Path, tmp_path: Path, role: Literal["teacher", "student"]
) -> None:
    run = _checkpoint(seven_classes, tmp_path / "run", role=role)
    model, _ = load_checkpoint(run)
    index = read_index(seven_classes.parent / "index.jsonl")
    entries, ranks, predictions = index.split("train"), [], set()
    for entry in entries:
        clip = _test_clip(seven_classes, index, entry, SIZES[role])
        with torch.inference_mode():
            order = model(clip[None]).logits_BK[0].argsort(descending=True).tolist()
        ranks.append(order.index(entry.labels[0]))
        predictions.add(order[0])
    assert len(predictions) > 1  # else a network that ignores its input would pass
    result = _evaluate(run, "train")
    assert result["videos"] == 9
    assert result["top1"] == pytest.approx(sum(rank < 1 for rank in ranks) / 9)
    assert result["top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / 9)
    assert 0 < result["top5"] < 1
    assert (result["role"], result["size"], result["failed"]) == (role, SIZES[role], 0)


def test_evaluate_gives_each_video_its_own_label_whatever_the_batch(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    # Nine videos in batches of 4: the ninth is alone in the third batch.
    results = []
    for size in (4, 16):
        path = tiny_experiment.with_name(f"batch{size}.yaml")
        path.write_text(tiny_experiment.read_text() + f"evaluation: {{batch_size: {size}}}\n")
        results.append(_evaluate(_checkpoint(path, tmp_path / f"run{size}"), "train")["top1"])
    assert results == [results[0]] * 2


@pytest.mark.parametrize(("role", "size"), SIZES.items())
def test_evaluate_shows_each_network_frames_of_its_own_size(
    tiny_experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: Literal["teacher", "student"],
    size: int,
) -> None:
    shapes = []

    def noting(model: Recognizer, clips: Tensor) -> ClipOutput:
        shapes.append(tuple(clips.shape))
        return forward(model, clips)

    monkeypatch.setattr("reskd.student_train.evaluate.inference.forward", noting)
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


def test_evaluate_where_no_video_is_readable_is_zero(tiny_experiment: Path, tmp_path: Path) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    index = read_index(tiny_experiment.parent / "index.jsonl")
    for entry in index.split("val"):
        index.path_of(entry).write_bytes(b"no video")
    result = _evaluate(run)
    assert (result["videos"], result["failed"], result["top1"], result["top5"]) == (3, 3, 0, 0)
    assert np.isnan(result["mean_average_precision"])


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


MANY: dict[str, Any] = {"clips": 2, "twice": True, "crops": 3, "crop_fraction": 1.0}


@pytest.mark.parametrize("kind", ["one_of", "any_of"])
def test_scores_are_probabilities_averaged_over_all_views(
    seven_classes: Path, tmp_path: Path, kind: str
) -> None:
    text = seven_classes.read_text().replace("epochs: 3,", f"epochs: 3, labels: {{kind: {kind}}},")
    assert kind in text
    seven_classes.write_text(text)
    run = _checkpoint(seven_classes, tmp_path / "run")
    written = _scores(run, tmp_path / "deep" / "scores.npz", **MANY)
    model, _ = load_checkpoint(run)
    index = read_index(seven_classes.parent / "index.jsonl")
    entries = index.split("train")
    assert written["id"].tolist() == [entry.id for entry in entries]
    assert written["classes"].tolist() == list("abcdefg")
    assert written["scores"].dtype == np.float32
    spread = 0.0
    for entry, scores in zip(entries, written["scores"], strict=True):
        clips = _test_clips(seven_classes, index, entry, 24, EvaluationSpec(**MANY))
        assert len(clips) == 12
        with torch.inference_mode():
            logits = model(clips).logits_BK
        views = logits.softmax(1) if kind == "one_of" else logits.sigmoid()
        spread = max(spread, float(views.std(dim=0).max()))
        np.testing.assert_allclose(scores, views.mean(dim=0), atol=1e-5)
    assert spread > 0.01  # else one view would do


def test_result_agrees_with_the_scores_it_writes(seven_classes: Path, tmp_path: Path) -> None:
    index_path = seven_classes.parent / "index.jsonl"
    index = read_index(index_path)
    videos = [
        replace(video, labels=(*video.labels, (video.labels[0] + 3) % 7)) for video in index.videos
    ]
    write_index(index_path, replace(index, videos=tuple(videos)))
    run = _checkpoint(seven_classes, tmp_path / "run")
    result = _evaluate(run, "train", scores=tmp_path / "scores.npz", **MANY)
    written = np.load(tmp_path / "scores.npz", allow_pickle=False)
    scores, labels = written["scores"], written["labels"]
    assert labels.sum(axis=1).tolist() == [2] * 9
    assert [np.flatnonzero(row).tolist() for row in labels] == [
        sorted(entry.labels) for entry in read_index(index_path).split("train")
    ]
    hits = [bool(own[row.argmax()]) for row, own in zip(scores, labels, strict=True)]
    assert result["top1"] == pytest.approx(sum(hits) / 9)
    assert result["mean_average_precision"] == mean_average_precision(
        scores, labels, predicted_N=written["predicted"]
    )
    assert result["mean_class_accuracy"] == mean_class_accuracy(
        scores, labels, predicted_N=written["predicted"]
    )
    assert (result["views"], result["metric"]) == (12, "top1")
    assert result["gmacs_per_video"] == pytest.approx(12 * result["gmacs"])
    assert result["protocol"] == (
        "3 frames, 4 clips x 3 crops, 48 of short side 48, 24 px, probabilities (softmax) averaged"
    )


def test_scores_do_not_depend_on_the_batch_nor_on_decoding_ahead(
    seven_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _checkpoint(seven_classes, tmp_path / "run")
    expected = _scores(run, tmp_path / "1.npz", **MANY, batch_size=1)["scores"]
    # 12 clips a video: batches hold a part of one, one, and several.
    for threads, batch_size in ((1, 5), (4, 12), (2, 200)):
        monkeypatch.setattr(predictions, "decode_threads", lambda number=threads: number)
        found = _scores(run, tmp_path / "n.npz", **MANY, batch_size=batch_size)["scores"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_no_forward_pass_has_more_clips_than_a_batch_and_no_video_is_decoded_twice(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, calls = [], []

    def noting(model: Recognizer, clips: Tensor) -> ClipOutput:
        shapes.append(tuple(clips.shape))
        return forward(model, clips)

    def counting(reader: PyAVReader, indices: Sequence[int]) -> NDArray[np.uint8]:
        calls.append(reader.path)
        return frames(reader, indices)

    frames = PyAVReader.frames
    monkeypatch.setattr("reskd.student_train.evaluate.inference.forward", noting)
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    monkeypatch.setattr(PyAVReader, "frames", counting)
    _evaluate(run, clips=3, crops=3, batch_size=5)  # three videos of nine views
    assert shapes == [(5, 3, 3, 24, 24), (4, 3, 3, 24, 24)] * 3
    assert len(calls) == len(set(calls)) == 3


@pytest.mark.parametrize(("role", "size"), [("teacher", 64), ("student", 32)])
def test_frames_of_both_networks_grow_with_the_size_of_the_protocol(
    tiny_experiment: Path, tmp_path: Path, role: Literal["teacher", "student"], size: int
) -> None:
    # 64 px crops of short side 64: the teacher's frames at 48 -> 64, the student's at 24 -> 32.
    protocol: dict[str, Any] = {"short_side": 64, "crop_fraction": 1.0, "size": 64}
    index = read_index(tiny_experiment.parent / "index.jsonl")
    run = _checkpoint(tiny_experiment, tmp_path / "run", role=role)
    result = _evaluate(run, "train", scores=tmp_path / "scores.npz", **protocol)
    assert result["size"] == size
    assert result["gmacs"] > _evaluate(run, "train")["gmacs"]
    model, _ = load_checkpoint(run)
    scores = np.load(tmp_path / "scores.npz", allow_pickle=False)["scores"]
    for entry, row in zip(index.split("train"), scores, strict=True):
        clips = _test_clips(tiny_experiment, index, entry, size, EvaluationSpec(**protocol))
        with torch.inference_mode():
            expected = model(clips).logits_BK[0].softmax(0)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_unreadable_and_quarantined_videos_have_score_0_and_count_as_wrong(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    index_path = tiny_experiment.parent / "index.jsonl"
    entries = read_index(index_path).split("train")
    cut_off(read_index(index_path).path_of(entries[2]))
    bad = BadVideo(id=entries[5].id, path="x", verdict="hang", message="no end")
    write_quarantine(quarantine_file(index_path), [bad])
    opened = []

    def noting(path: Path, decoder: Decoder, **options: Any) -> VideoReader:
        opened.append(path)
        return open_video(path, decoder, **options)

    monkeypatch.setattr("reskd.common.video.video_file.open_video", noting)
    result = _evaluate(run, "train", scores=tmp_path / "scores.npz", clips=2)
    written = np.load(tmp_path / "scores.npz", allow_pickle=False)
    assert list(result["failures"]) == [entries[2].id, entries[5].id]
    assert "hang: no end" in result["failures"][entries[5].id]
    assert len(opened) == 8
    assert np.flatnonzero(~written["predicted"]).tolist() == [2, 5]
    assert not written["scores"][[2, 5]].any()
    np.testing.assert_allclose(written["scores"].sum(axis=1)[written["predicted"]], 1, rtol=1e-5)
    assert result["top5"] == pytest.approx(7 / 9)  # of three classes, all are among the first 5
    assert result["mean_average_precision"] == mean_average_precision(
        written["scores"], written["labels"], predicted_N=written["predicted"]
    )


def test_network_that_predicts_no_numbers_is_refused(tiny_experiment: Path, tmp_path: Path) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    model, info = load_checkpoint(run)
    torch.nn.init.constant_(model.get_parameter("classifier.bias"), float("nan"))
    save_checkpoint(
        run,
        model,
        role=info.role,
        spec=info.model,
        size=info.size,
        classes=info.classes,
        experiment=info.experiment,
    )
    with pytest.raises(DataError, match="predictions for 3 of 3 videos are not numbers"):
        _evaluate(run)


def test_command_measures_the_protocol_it_is_given(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_experiment.write_text(
        tiny_experiment.read_text() + "evaluation: {metric: mean_average_precision, twice: true}\n"
    )
    run = str(_checkpoint(tiny_experiment, tmp_path / "run"))
    options = ["--clips", "2", "--once", "--crops", "3", "--batch", "4", "--short-side", "40"]
    scores = tmp_path / "scores.npz"
    assert main(["evaluate", run, "--json", *options, "--scores", str(scores)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"].startswith("3 frames, 2 clips x 3 crops, 35 of short side 40, 24 px")
    assert (result["views"], result["metric"]) == (6, "mean_average_precision")
    assert result["scores"] == str(scores)
    assert scores.is_file()
    assert main(["evaluate", run]) == 0
    text = capsys.readouterr().out
    assert "split val: mAP " in text
    assert "GMACs a view" in text
    assert "of 2 views" in text


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--crops", "2"], 2, "'2' is not one of"),
        (["--clips", "0"], 2, "0 is not in the range"),
        (["--crop-fraction", "1.5"], 2, "1.5 is not in the range"),
        (["--scores", "scores.npy"], 3, r"must end in .npz"),
    ],
)
def test_command_refuses_a_protocol_that_is_none(
    options: list[str],
    code: int,
    told: str,
    tiny_experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = _checkpoint(tiny_experiment, tmp_path / "run")
    assert main(["evaluate", str(run), *options]) == code
    assert told in capsys.readouterr().err
