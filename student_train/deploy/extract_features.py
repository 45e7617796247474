"""Feature maps and class scores of a checkpoint for videos, or for clips made elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.console import progress, say
from reskd.common.dataset.index import read_index
from reskd.common.dataset.open import open_entry
from reskd.common.errors import DataError
from reskd.common.experiment import DataSpec
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.common.prefetch import ordered_map
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.kinds import require_file
from reskd.common.storage.system_errors import is_wrong_input
from reskd.common.video.attempts import read_whole
from reskd.common.video.preprocess import Colours, renormalize
from reskd.common.video.reader import VideoReader
from reskd.common.video.video_file import open_video
from reskd.student_train.deploy.named_videos import LIST_SUFFIXES, read_list
from reskd.student_train.evaluate.clip_reader import Reading, decode_threads, reading_of
from reskd.student_train.evaluate.inference import forward

_INDEX_SUFFIXES = (".jsonl", ".json")

_ListedVideo = tuple[Path, Callable[[], VideoReader]]
"""Its path, and what opens it or raises UnreadableVideoError."""


def extract_features(
    folder: Path,
    source: Path,
    out: Path,
    *,
    size: int | None,
    num_frames: int | None,
    batch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """Write what a network says about every clip, as `features`, `logits` and, of videos, `paths`.

    All of it is held in memory until the last clip is done, twice while it is written: 6.4 MB per
    clip of 16 frames for a ResNet-50 at 224 px. A video that cannot be read is left out and
    reported.

    Args:
        folder: Checkpoint directory.
        source: A video; a text list of them, one per line, relative to the list (.txt, .list,
            .lst); a video index (.jsonl), of which all splits are taken; or a .npy file of
            clips (B, T, 3, H, W): uint8 RGB, or float32 normalised with ImageNet's mean and std,
            which become the network's own.
        out: .npz file to write; numpy opens it with allow_pickle=False.
        size: Side of the network's frames in pixels; None: the checkpoint's.
        num_frames: T; None: the experiment's, else the recognizer's (evaluate/clip_reader.py).
        batch_size: Clips per forward pass.
        device: Where to run.

    Returns:
        Counts, shapes and unreadable videos, for JSON.

    Raises:
        DataError: If a file is missing or wrong, or no video can be read; nothing is written then.
        ExperimentError: If the network takes no such clips.
    """
    if out.suffix != ".npz":  # numpy would add it by itself when asked to open the file
        raise DataError(f"the file to write must end in .npz, got {out}")
    model, info = load_checkpoint(folder)
    paths: list[str] = []
    failures: dict[str, str] = {}
    if source.suffix == ".npy":
        clips = _read_clips(source, size=size, num_frames=num_frames)
        batches = _stored_batches(clips, batch_size, model.colours)
    else:
        experiment = info.parsed_experiment(source=str(folder))
        reading = reading_of(info, experiment, size=size, num_frames=num_frames)
        videos = _list_videos(source, experiment.data if experiment else DataSpec(index=source))
        reading.cost(info.model, num_classes=len(info.classes))  # refuses clips it cannot take
        batches = _video_batches(reading, videos, batch_size, paths, failures)
    arrays = _outputs(model.to(device), batches)
    if not arrays:
        raise DataError(
            f"none of the {len(failures)} videos of {source} can be read; the first: "
            + "; ".join(f"{path}: {why}" for path, why in list(failures.items())[:3])
        )
    if paths:
        arrays["paths"] = np.array(paths)
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    atomic_write(out, buffer.getbuffer())
    return {
        "run": str(folder.absolute()),
        "input": str(source.absolute()),
        "out": str(out.absolute()),
        "clips": len(arrays["features"]),
        "features": list(arrays["features"].shape),
        "logits": list(arrays["logits"].shape),
        "failed": len(failures),
        "failures": failures,
    }


def _list_videos(source: Path, data: DataSpec) -> list[_ListedVideo]:
    """The videos of an index, of a text list, or the one video itself.

    Those of an index are opened as everywhere else: none that is in quarantine is touched.

    Raises:
        DataError: If the file is missing, or lists no video.
    """
    if source.suffix in _INDEX_SUFFIXES:
        index = read_index(source)
        videos: list[_ListedVideo] = [
            (index.path_of(entry).absolute(), partial(open_entry, index, entry, data))
            for entry in index.videos
        ]
    else:
        paths = [path.absolute() for path in _list_files(source)]
        videos = [(path, partial(open_video, path, data.decoder)) for path in paths]
    if not videos:
        raise DataError(f"{source} lists no video")
    return videos


def _list_files(source: Path) -> list[Path]:
    if source.suffix in LIST_SUFFIXES:
        return read_list(source)
    if not source.is_file():
        raise DataError(
            f"there is no file {source}. Give a video, a list of videos (.txt), a video index "
            "(.jsonl) or clips (.npy)."
        )
    return [source]


def _read_clips(source: Path, *, size: int | None, num_frames: int | None) -> NDArray[Any]:
    """Clips (B, T, 3, H, W) float32 or uint8, read from the file as they are needed."""
    try:
        require_file(source)
        clips = np.load(source, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if not (isinstance(error, OSError) and is_wrong_input(error)):
            read_whole(source)  # else the system has failed
        raise DataError(f"{source} cannot be read as a numpy array: {error}") from error
    if (
        clips.dtype not in (np.float32, np.uint8)
        or clips.ndim != 5
        or clips.shape[2] != 3
        or not clips.size
    ):
        raise DataError(
            f"{source} holds {clips.dtype} {clips.shape}; wanted are clips (B, T, 3, H, W), uint8 "
            "RGB or float32 normalised with ImageNet's mean and std."
        )
    wanted = (num_frames or clips.shape[1], size or clips.shape[3], size or clips.shape[4])
    if (clips.shape[1], *clips.shape[3:]) != wanted:
        raise DataError(
            f"clips of {source} are taken as they are, with {clips.shape[1]} frames of "
            f"{clips.shape[3]}x{clips.shape[4]} px; leave --size and --frames out."
        )
    stored: NDArray[Any] = clips
    return stored


def _stored_batches(clips: NDArray[Any], batch_size: int, colours: Colours) -> Iterator[Tensor]:
    with progress("extracting", len(clips), unit="clips") as advance:
        for first in range(0, len(clips), batch_size):
            batch = torch.from_numpy(np.array(clips[first : first + batch_size]))
            yield batch if batch.dtype == torch.uint8 else renormalize(batch, colours)
            advance(len(batch))


def _video_batches(
    reading: Reading,
    videos: Sequence[_ListedVideo],
    batch_size: int,
    paths: list[str],
    failures: dict[str, str],
) -> Iterator[Tensor]:
    """The view of every readable video, uint8, in the order of the list; notes which they are."""
    waiting: list[Tensor] = []
    decoded = ordered_map(
        lambda video: reading.clips_or_reason(video[1]), videos, threads=decode_threads()
    )
    with progress("extracting", len(videos), unit="videos") as advance:
        for (path, _), clips in zip(videos, decoded, strict=True):
            if isinstance(clips, str):
                failures[str(path)] = clips
                say(f"unreadable, left out: {path}: {clips}")
            else:
                paths.append(str(path))
                waiting.append(clips[0])
            if len(waiting) == batch_size:
                yield torch.stack(waiting)
                waiting.clear()
            advance()
        if waiting:
            yield torch.stack(waiting)


def _outputs(model: Recognizer, batches: Iterator[Tensor]) -> dict[str, Any]:
    """`features` and `logits` of all clips, float32; nothing where there is no clip."""
    features, logits = [], []
    for clips in batches:
        output = forward(model, clips)
        features.append(output.features_BTChw.float().cpu().numpy())
        logits.append(output.logits_BK.float().cpu().numpy())
    if not features:
        return {}
    return {"features": np.concatenate(features), "logits": np.concatenate(logits)}


def extraction_text(result: dict[str, Any]) -> str:
    """The result for a person."""
    return (
        f"{result['out']}: features {tuple(result['features'])}, logits {tuple(result['logits'])}, "
        f"{result['clips']} clips, {result['failed']} videos unreadable"
    )
