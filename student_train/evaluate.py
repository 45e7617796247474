"""Measure a checkpoint on a split: every test view answered, probabilities averaged per video."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.atomic_write import atomic_write
from common.checkpoints import CheckpointInfo, load_checkpoint
from common.config import parse_experiment
from common.console import progress, say
from common.errors import DataError
from common.metrics import mean_average_precision, mean_class_accuracy, top_k
from common.models.recognizer import Recognizer
from common.models.registry import Complexity, complexity
from common.prefetch import ordered_map
from common.specs import DataSpec, Experiment
from common.video.index import VideoEntry, VideoIndex, read_index
from common.video.reader import UnreadableVideoError
from common.video.source import open_entry
from common.video.test_views import num_views, protocol_text
from common.video.view_ops import normalize
from student_train.reading import DECODE_THREADS, Reading, plain_float32

Squash = Literal["softmax", "sigmoid"]


def evaluate_run(
    run: Path,
    *,
    index_path: Path | None,
    split: str | None,
    device: torch.device,
    protocol: Mapping[str, Any] | None = None,
    scores_file: Path | None = None,
) -> dict[str, Any]:
    """Measure the network in a run folder.

    The class probabilities of all test views of a video are averaged (softmax; sigmoid where the
    network was trained with training.labels.kind any_of). A video with several labels is answered
    rightly if any of them is among the k highest; mean average precision asks for all of them.
    A video that cannot be read counts as answered wrongly, with score 0 for every class, and is
    reported; it never shortens the list.

    Memory holds one score per video and class, besides the clips of a few videos.

    Args:
        run: Checkpoint directory.
        index_path: Video index; None takes the one of the run's experiment.
        split: Split to measure; None takes the experiment's val_split.
        device: Where to run.
        protocol: Fields of the experiment's `evaluation` section to replace.
        scores_file: Also write there (.npz) `id` (N,), `labels` (N, K) bool, `scores` (N, K)
            float32, `answered` (N,) bool and `classes` (K,).

    Returns:
        Accuracies as fractions, counts, protocol and cost, for JSON.

    Raises:
        DataError: If the checkpoint or the index is missing, their classes differ, or the network
            answers with something that is no number.
        ExperimentError: If the experiment or the protocol is wrong, or the network takes no such
            clips.
    """
    if scores_file is not None and scores_file.suffix != ".npz":
        raise DataError(f"the file of scores must end in .npz, got {scores_file}")
    model, info = load_checkpoint(run)
    experiment = _experiment(info, protocol or {}, run)
    index_path = index_path or experiment.data.index
    index = read_index(index_path)
    if index.classes != info.classes:
        raise DataError(
            f"The classes of {run} ({', '.join(info.classes[:4])}, …) are not those of the index "
            f"{index_path} ({', '.join(index.classes[:4])}, …)."
        )
    split = split or experiment.data.val_split
    entries = index.split(split)
    reading = Reading.of_experiment(experiment, size=info.size)
    cost = complexity(
        info.model,
        num_classes=len(info.classes),
        num_frames=experiment.clip.num_frames,
        size=reading.size,
    )
    squash = squash_of(experiment, info.role)
    videos = _Videos(index=index, entries=entries, data=experiment.data, reading=reading)
    answers = _answer(model.to(device), videos, squash=squash)
    targets_NK = multi_hot(entries, len(info.classes))
    if scores_file is not None:
        _write_scores(scores_file, index, entries, targets_NK, answers)
    return {
        "run": str(run.absolute()),
        "role": info.role,
        "split": split,
        "videos": len(entries),
        "failed": len(answers.failures),
        "failures": answers.failures,
        "metric": experiment.evaluation.metric,
        **accuracies(answers.scores_NK, targets_NK, answers.answered_N),
        **_cost_and_protocol(reading, cost, squash),
        "clips_per_second": answers.clips_per_second,
        **({"scores": str(scores_file.absolute())} if scores_file is not None else {}),
    }


def squash_of(experiment: Experiment, role: Literal["teacher", "student"]) -> Squash:
    """How class scores become probabilities: as in the loss that the network was trained with.

    A teacher that was not trained here (no teacher.training) is taken for a softmax classifier.
    """
    part = experiment.teacher if role == "teacher" else experiment.required_student()
    any_of = part.training is not None and part.training.labels.kind == "any_of"
    return "sigmoid" if any_of else "softmax"


def multi_hot(entries: Sequence[VideoEntry], num_classes: int) -> NDArray[np.bool_]:
    """Labels as bool (N, K), all of a video's at once."""
    targets_NK = np.zeros((len(entries), num_classes), dtype=np.bool_)
    for number, entry in enumerate(entries):
        targets_NK[number, list(entry.labels)] = True
    return targets_NK


def accuracies(
    scores_NK: NDArray[np.float32],
    targets_NK: NDArray[np.bool_],
    answered_N: NDArray[np.bool_],
) -> dict[str, float]:
    """Every figure of common/metrics.py by its name in the result."""

    def class_accuracy(*, count_predicted: bool) -> float:
        return mean_class_accuracy(
            scores_NK, targets_NK, answered_N=answered_N, count_predicted=count_predicted
        )

    return {
        "top1": top_k(scores_NK, targets_NK, k=1, answered_N=answered_N),
        "top5": top_k(scores_NK, targets_NK, k=5, answered_N=answered_N),
        "mean_class_accuracy": class_accuracy(count_predicted=False),
        "mean_class_accuracy_reference": class_accuracy(count_predicted=True),
        "mean_average_precision": mean_average_precision(scores_NK, targets_NK),
    }


def _experiment(info: CheckpointInfo, protocol: Mapping[str, Any], run: Path) -> Experiment:
    evaluation = {**info.experiment.get("evaluation", {}), **protocol}
    return parse_experiment({**info.experiment, "evaluation": evaluation}, source=str(run))


def _cost_and_protocol(reading: Reading, cost: Complexity, squash: Squash) -> dict[str, Any]:
    views = num_views(reading.evaluation)
    how = protocol_text(reading.clip, reading.views, reading.evaluation)
    return {
        "size": reading.size,
        "views": views,
        "gmacs": cost.gmacs,
        "gmacs_per_video": views * cost.gmacs,
        "parameters": cost.parameters,
        "protocol": f"{how}, {reading.size} px, probabilities ({squash}) averaged",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Videos:
    """The videos to measure; called with one of them, it cuts its views."""

    index: VideoIndex
    entries: tuple[VideoEntry, ...]
    data: DataSpec
    reading: Reading

    def __call__(self, entry: VideoEntry) -> Tensor | str:
        """(V, T, 3, s, s) uint8, or the reason why there is no clip."""
        try:
            with open_entry(self.index, entry, self.data) as video:
                return self.reading.clips(video)
        except UnreadableVideoError as error:
            return error.reason


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answers:
    scores_NK: NDArray[np.float32]
    """Mean probabilities; zeros for a video that could not be read."""
    answered_N: NDArray[np.bool_]
    failures: dict[str, str]
    clips_per_second: float
    """Of the network alone."""


@torch.inference_mode()
def _answer(model: Recognizer, videos: _Videos, *, squash: Squash) -> _Answers:
    device = next(model.parameters()).device
    sums_NK = np.zeros((len(videos.entries), len(videos.index.classes)))
    failures: dict[str, str] = {}
    seconds, clips = 0.0, 0
    for frames, owners in _batches(videos, failures):
        start = time.perf_counter()
        with plain_float32():
            logits = model(normalize(frames.to(device))).logits_BK.float()
        probabilities = (logits.softmax(1) if squash == "softmax" else logits.sigmoid()).cpu()
        seconds += time.perf_counter() - start
        clips += len(owners)
        # In the order of the views, whatever the batches are.
        np.add.at(sums_NK, owners, probabilities.numpy())
    answered_N = np.array([entry.id not in failures for entry in videos.entries])
    _require_numbers(sums_NK, videos.entries)
    return _Answers(
        scores_NK=(sums_NK / num_views(videos.reading.evaluation)).astype(np.float32),
        answered_N=answered_N,
        failures=failures,
        clips_per_second=clips / seconds if clips else 0.0,
    )


def _batches(videos: _Videos, failures: dict[str, str]) -> Iterator[tuple[Tensor, list[int]]]:
    """All views of the readable videos, batch by batch, and which video each belongs to.

    A batch may end within a video, so that memory is bounded however many views one has.
    """
    batch_size = videos.reading.evaluation.batch_size
    clips: list[Tensor] = []
    owners: list[int] = []
    decoded = ordered_map(videos, videos.entries, threads=DECODE_THREADS)
    with progress("evaluating", len(videos.entries), unit="videos") as advance:
        for number, (entry, views) in enumerate(zip(videos.entries, decoded, strict=True)):
            if isinstance(views, str):
                failures[entry.id] = views
                say(f"unreadable, counted as wrong: {entry.id}: {views}")
            else:
                clips.extend(views)
                owners.extend([number] * len(views))
            while len(clips) >= batch_size:
                yield torch.stack(clips[:batch_size]), owners[:batch_size]
                del clips[:batch_size], owners[:batch_size]
            advance()
        if clips:
            yield torch.stack(clips), owners


def _require_numbers(scores_NK: NDArray[np.float64], entries: Sequence[VideoEntry]) -> None:
    strange = np.flatnonzero(~np.isfinite(scores_NK).all(axis=1))
    if len(strange):
        raise DataError(
            f"the network's answers to {len(strange)} of {len(entries)} videos are not numbers "
            f"(nan), first of all to {entries[strange[0]].id}. Its training has diverged; take "
            "another checkpoint, or train again with a lower learning rate"
        )


def _write_scores(
    out: Path,
    index: VideoIndex,
    entries: Sequence[VideoEntry],
    targets_NK: NDArray[np.bool_],
    answers: _Answers,
) -> None:
    buffer = BytesIO()
    np.savez(
        buffer,
        id=np.array([entry.id for entry in entries]),
        labels=targets_NK,
        scores=answers.scores_NK,
        answered=answers.answered_N,
        classes=np.array(index.classes),
    )
    atomic_write(out, buffer.getbuffer())


def evaluation_text(result: dict[str, Any]) -> str:
    """The result for a person, its headline first."""
    names = {
        "top1": "top-1",
        "top5": "top-5",
        "mean_average_precision": "mAP",
        "mean_class_accuracy": "mean class accuracy",
    }
    first = result["metric"]
    ordered = [first, *(key for key in names if key != first)]
    figures = "  ".join(f"{names[key]} {result[key]:.4f}" for key in ordered)
    cost = f"{result['gmacs']:.3f} GMACs"
    if result["views"] > 1:
        cost += f" a view, {result['gmacs_per_video']:.3f} a video of {result['views']} views"
    return (
        f"{result['role']} {result['run']}\n"
        f"split {result['split']}: {figures}  "
        f"({result['videos']} videos, {result['failed']} of them unreadable and counted as wrong)\n"
        f"{result['protocol']}: {cost}, {result['parameters']:,} parameters"
    )
