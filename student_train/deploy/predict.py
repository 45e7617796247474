"""`reskd predict`: the most probable classes of some videos, whole or window by window."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reskd.common.console import in_lines, say
from reskd.common.video.reader import UnreadableVideoError
from reskd.student_train.deploy.named_videos import named_videos
from reskd.student_train.deploy.predictor import Predictor, Ranked, WindowPrediction, load_predictor


def predict(
    folder: Path,
    videos: Sequence[Path],
    *,
    k: int,
    clips: int = 1,
    window_seconds: float | None = None,
    step_seconds: float | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Predict videos one after the other.

    Args:
        folder: Checkpoint directory.
        videos: Files, folders of them, lists (.txt, one per line), or folders of numbered images,
            which are one video each.
        k: Classes per prediction; all of them where there are fewer.
        clips: Clips per video, spread over it; of windows: per window.
        window_seconds: Predict every window of this length, and take their mean for the video.
            None: the video as a whole.
        step_seconds: From the beginning of one window to the next; None: they touch.
        device: Where to run, see `load_predictor`.

    Returns:
        For JSON: how many videos were `named`; `videos` with `video`, `top` and, with windows,
        `windows`; `failures` by video. A video that breaks off is in both, with the windows before.

    Raises:
        DataError, ExperimentError: As `load_predictor`, or if a list cannot be read, or a
            probability is not a number.
    """
    videos = named_videos(videos)
    predictor = load_predictor(folder, device=device, clips=clips)
    predictions: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for video in videos:
        name = str(video.absolute())
        prediction: dict[str, Any] = {"video": name}
        try:
            if window_seconds is None:
                prediction["top"] = _rows(predictor.top(video, k=k))
            else:
                windows = predictor.windows(
                    video, seconds=window_seconds, step_seconds=step_seconds
                )
                _add_windows(prediction, predictor, windows, k)
        except UnreadableVideoError as error:
            failures[name] = error.reason
            say(f"unreadable: {video}: {error.reason}")
        if "top" in prediction:
            predictions.append(prediction)
    return {
        "run": str(folder.absolute()),
        "classes": len(predictor.info.classes),
        "probabilities": predictor.score_activation,
        "named": len(videos),
        "videos": predictions,
        "failed": len(failures),
        "failures": failures,
    }


def _add_windows(
    prediction: dict[str, Any], predictor: Predictor, windows: Iterator[WindowPrediction], k: int
) -> None:
    """Note every window as it comes, and the mean so far: the video may break off."""
    prediction["windows"] = []
    total_K = np.zeros(len(predictor.info.classes))
    for window in windows:
        prediction["windows"].append(
            {
                "start_seconds": round(window.start_seconds, 3),
                "end_seconds": round(window.end_seconds, 3),
                "top": _rows(predictor.rank(window.probabilities_K, k=k)),
            }
        )
        total_K += window.probabilities_K
        mean_K = (total_K / len(prediction["windows"])).astype(np.float32)
        prediction["top"] = _rows(predictor.rank(mean_K, k=k))


def _rows(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    return [{"class": name, "probability": probability} for name, probability in ranked]


def prediction_text(result: dict[str, Any]) -> str:
    """The result for a person."""
    lines = []
    for prediction in result["videos"]:
        lines.append(prediction["video"])
        lines += [f"  {row['probability']:.3f}  {row['class']}" for row in prediction["top"]]
        for window in prediction.get("windows", ()):
            times = f"{window['start_seconds']:.1f} to {window['end_seconds']:.1f} s"
            best = ", ".join(f"{row['class']} {row['probability']:.3f}" for row in window["top"])
            lines.append(f"  {times:<20}{best}")
    return in_lines(*lines)
