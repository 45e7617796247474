"""Measure a checkpoint on a split: one centred view per video, top-1 and top-5."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from common.checkpoints import CheckpointInfo, load_checkpoint
from common.config import parse_experiment
from common.console import progress, say
from common.errors import DataError
from common.models.recognizer import Recognizer
from common.models.registry import complexity
from common.prefetch import ordered_map
from common.specs import Experiment
from common.video.clips import cut_clips
from common.video.index import VideoEntry, VideoIndex, read_index
from common.video.reader import UnreadableVideoError, open_video
from common.video.view_ops import normalize, shrink
from common.video.view_params import centre_view
from student_train.order import cut_batches

DECODE_THREADS = 2


def evaluate_run(
    run: Path, *, index_path: Path | None, split: str | None, device: torch.device
) -> dict[str, Any]:
    """Measure the network in a run folder.

    A video that cannot be read counts as answered wrongly and is reported; it never shortens the
    list.

    Args:
        run: Checkpoint directory.
        index_path: Video index; None takes the one of the run's experiment.
        split: Split to measure; None takes the experiment's val_split.
        device: Where to run.

    Returns:
        Accuracies as fractions, counts, protocol and cost, for JSON.

    Raises:
        DataError: If the checkpoint or the index is missing, or their classes differ.
    """
    model, info = load_checkpoint(run)
    experiment = parse_experiment(info.experiment, source=str(run))
    index = read_index(index_path or experiment.data.index)
    if index.classes != info.classes:
        raise DataError(
            f"The classes of {run} ({', '.join(info.classes[:4])}, …) are not those of the index "
            f"{index_path or experiment.data.index} ({', '.join(index.classes[:4])}, …)."
        )
    split = split or experiment.data.val_split
    entries = index.split(split)
    tally = _measure(model, _TestClips(experiment, index, info.size), entries, info, device)
    cost = complexity(
        info.model,
        num_classes=len(info.classes),
        num_frames=experiment.clip.num_frames,
        size=info.size,
    )
    answered = len(entries) - len(tally.failures)
    return {
        "run": str(run.absolute()),
        "role": info.role,
        "split": split,
        "videos": len(entries),
        "failed": len(tally.failures),
        "failures": tally.failures,
        "top1": tally.top1 * answered / len(entries),
        "top5": tally.top5 * answered / len(entries),
        "size": info.size,
        "gmacs": cost.gmacs,
        "parameters": cost.parameters,
        "clips_per_second": answered / tally.forward_seconds if answered else 0.0,
        "protocol": f"{experiment.clip.num_frames} frames, 1 clip x centre crop, {info.size} px",
    }


@dataclass(frozen=True, slots=True)
class _TestClips:
    experiment: Experiment
    index: VideoIndex
    size: int

    def __call__(self, entry: VideoEntry) -> Tensor | str:
        """The clip (T, 3, s, s) of a video, or the reason why there is none."""
        experiment = self.experiment
        try:
            with open_video(self.index.path_of(entry), experiment.data.decoder) as video:
                params = centre_view(
                    clip=experiment.clip,
                    views=experiment.views,
                    crop_fraction=experiment.evaluation.crop_fraction,
                    num_frames=video.num_frames,
                    height=video.height,
                    width=video.width,
                )
                clip = cut_clips(video, [params], size=experiment.views.size)[0]
        except UnreadableVideoError as error:
            return error.reason
        return shrink(clip, self.size)


@dataclass(frozen=True, slots=True)
class _Tally:
    top1: float
    top5: float
    failures: dict[str, str]
    forward_seconds: float


@torch.inference_mode()
def _measure(
    model: Recognizer,
    clips: _TestClips,
    entries: tuple[VideoEntry, ...],
    info: CheckpointInfo,
    device: torch.device,
) -> _Tally:
    """Accuracy over the readable videos, and the seconds the network alone took."""
    model.to(device)
    classes = len(info.classes)
    top1, top5 = (
        MulticlassAccuracy(num_classes=classes, top_k=min(k, classes), average="micro").to(device)
        for k in (1, 5)
    )
    failures: dict[str, str] = {}
    forward_seconds = 0.0
    for frames, labels in _batches(clips, entries, failures):
        start = time.perf_counter()
        logits = model(normalize(frames.to(device))).logits_BK.float()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        forward_seconds += time.perf_counter() - start
        top1.update(logits, labels.to(device))
        top5.update(logits, labels.to(device))
    if len(failures) == len(entries):
        return _Tally(0.0, 0.0, failures, 0.0)
    return _Tally(top1.compute().item(), top5.compute().item(), failures, forward_seconds)


def _batches(
    clips: _TestClips, entries: tuple[VideoEntry, ...], failures: dict[str, str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Clips and labels of the readable videos, in the order of the index."""
    decoded = ordered_map(clips, entries, threads=DECODE_THREADS)
    with progress("evaluating", len(entries), unit="videos") as advance:
        for batch in cut_batches(range(len(entries)), clips.experiment.evaluation.batch_size):
            frames, labels = [], []
            for number in batch:
                clip, entry = next(decoded), entries[number]
                if isinstance(clip, str):
                    failures[entry.id] = clip
                    say(f"unreadable, counted as wrong: {entry.id}: {clip}")
                else:
                    frames.append(clip)
                    labels.append(entry.labels[0])
                advance()
            if frames:
                yield torch.stack(frames), torch.tensor(labels)


def evaluation_text(result: dict[str, Any]) -> str:
    """The result for a person."""
    return (
        f"{result['role']} {result['run']}\n"
        f"split {result['split']}: top-1 {result['top1']:.4f}  top-5 {result['top5']:.4f}  "
        f"({result['videos']} videos, {result['failed']} of them unreadable and counted as wrong)\n"
        f"{result['protocol']}: {result['gmacs']:.3f} GMACs, {result['parameters']:,} parameters"
    )
