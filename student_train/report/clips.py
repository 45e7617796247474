"""Clips that a student predicts wrongly, as they are cut for its teacher and as it sees them."""

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reskd.common.video.eval_views import one_view, teacher_size
from reskd.common.video.preprocess import shrink
from reskd.student_train.evaluate.measure import Measured
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.report.page import render

CLIPS_PER_RUN: Final = 12
IMAGE_BYTES: Final = 6_000_000
"""Of all images of a page, as base64."""
_FRAMES: Final = 4
_QUALITY: Final = 82


def clips_section(results: Sequence[RunResult]) -> Markup:
    """Clips of the students beside what a teacher says of them; of all runs without a student."""
    students = [result for result in results if result.json["role"] == "student"]
    teachers = [result for result in results if result.json["role"] == "teacher"][:1]
    wanted = students or results
    room = IMAGE_BYTES // len(wanted)
    runs = [_run(result, teachers if students else [], room=room) for result in wanted]
    return render("clips.html", runs=runs, most=CLIPS_PER_RUN)


def _run(result: RunResult, teachers: Sequence[RunResult], *, room: int) -> dict[str, Any]:
    """The wrong predictions that a network was surest of, the surest first.

    Args:
        result: The network.
        teachers: Those whose predictions are shown beside.
        room: Bytes that images may take; no further clip is shown beyond.
    """
    measured = result.measured
    reading, classes = measured.videos.reading, measured.index.classes
    scores_NK = measured.predictions.scores_NK
    wrong = np.flatnonzero(~result.hits_N & measured.predictions.predicted_N)
    surest = wrong[np.argsort(-scores_NK[wrong].max(axis=1), kind="stable")]
    clips: list[dict[str, Any]] = []
    used = 0
    for number, large, small in _strips(measured, surest.tolist()):
        used += len(large) + len(small)
        if used > room or len(clips) == CLIPS_PER_RUN:
            break
        entry = measured.videos.entries[number]
        clips.append(
            {
                "id": entry.id,
                "labels": ", ".join(classes[label] for label in entry.labels),
                "prediction": classes[int(scores_NK[number].argmax())],
                "large": large,
                "small": small,
                "tops": [_top5(one, number) for one in (*teachers, result)],
            }
        )
    return {
        "name": result.name,
        "cut": teacher_size(reading.views, reading.evaluation),
        "size": reading.size,
        "wrong": len(wrong),
        "clips": clips,
    }


def _strips(measured: Measured, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Data URIs of some frames at the size they are cut at and at the network's own."""
    videos = measured.videos
    reading = videos.reading
    cut = teacher_size(reading.views, reading.evaluation)
    # One clip of the centre, as large as a teacher sees it.
    large = replace(
        videos, reading=replace(reading, evaluation=one_view(reading.evaluation), size=cut)
    )
    for number in numbers:
        clips = large.cut(number)
        if isinstance(clips, str):  # it could be read a moment ago
            continue
        frames = clips[0]
        frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().tolist()]
        yield number, _strip(frames), _strip(shrink(frames, reading.size))


def _strip(frames_T3HW: Tensor) -> str:
    """Frames side by side with grey between them, one JPEG."""
    side = frames_T3HW.shape[-1]
    between = np.full((side, max(1, side // 24), 3), 128, np.uint8)
    frames = frames_T3HW.permute(0, 2, 3, 1).numpy()
    parts = [part for frame in frames for part in (between, frame)][1:]
    pixels: NDArray[np.uint8] = np.concatenate(parts, axis=1)
    coded = io.BytesIO()
    # Small pictures are looked at pixel by pixel.
    quality = 95 if pixels.shape[0] <= 64 else _QUALITY
    Image.fromarray(pixels).save(coded, "JPEG", quality=quality, optimize=True, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(coded.getvalue()).decode()}"


def _top5(result: RunResult, number: int) -> dict[str, Any]:
    """The five likeliest classes of a video, and which of them are its labels."""
    measured = result.measured
    scores_K = measured.predictions.scores_NK[number]
    labels = measured.videos.entries[number].labels
    return {
        "name": result.name,
        "size": result.json["size"],
        "readable": bool(measured.predictions.predicted_N[number]),
        "classes": [
            (measured.index.classes[label], float(scores_K[label]), label in labels)
            for label in np.argsort(-scores_K, kind="stable")[:5].tolist()
        ],
    }
