"""Whose outputs a cache holds: everything that decides what the teacher made of a view.

The identity of a cache never changes. Two caches of equal identity hold the same outputs; a student
may only learn from a cache whose identity is its experiment's. What videos are called, what they
are labelled with and in which order they are listed is no part of it (match.py).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.experiment import DataSpec, Experiment
from reskd.teacher_cache.format.videos import CachedVideo, cached_video, videos_digest

if TYPE_CHECKING:
    from reskd.common.models.checkpoint import CheckpointInfo

Identity = dict[str, Any]
_FORMER_COLOURS: Final = {
    "teacher.model.mean": [0.485, 0.456, 0.406],
    "teacher.model.std": [0.229, 0.224, 0.225],
}
"""Of caches that do not state them: the same for all networks but torchvision's."""
_MATCHED: Final = ("videos", "index.videos", "index.classes", "index.digest")
"""The first format named the whole index."""


def cache_identity(
    experiment: Experiment,
    *,
    split: str,
    teacher: "CheckpointInfo | None",
    videos: Sequence[CachedVideo] | None = None,
    with_pixels: bool = True,
) -> Identity:
    """Everything that decides the teacher's outputs.

    Targets, the number of views and the student are not part of it: the cache must hold at least
    what an experiment uses.

    Args:
        experiment: Resolved experiment.
        split: The cached split. Outputs for any other than data.train_split are marked as for
            agreement metrics only: no student may learn from them.
        teacher: What the teacher's checkpoint says of itself; None where only a comparison with a
            cache is wanted and the checkpoint is not at hand.
        videos: Those a new cache is made of, in the order of its rows; None where a cache is
            compared, whose videos are matched one by one.
        with_pixels: Tell who makes the pixels; without it field `decoder` is empty, for a
            comparison that leaves it out.

    Raises:
        DataError: If data.frames is no frame store.
    """
    # Imported here: reading and checking a cache needs neither decoders nor torch.
    from reskd.common.distill.teacher import BATCH_GROUP
    from reskd.common.video.preprocess import PREPROCESSING_VERSION

    model = experiment.teacher.model
    if teacher is not None:  # it says in numbers what an experiment may leave open
        model = replace(model, mean=teacher.model.mean, std=teacher.model.std)
    views = asdict(experiment.views)
    del views["count"]
    return {
        "teacher": {
            "weights_sha256": None if teacher is None else teacher.weights_sha256,
            "mode": experiment.teacher.mode,
            "group_clips": BATCH_GROUP if experiment.teacher.mode == "batch" else 1,
            "precision": experiment.teacher.precision,
            "model": {
                key: value
                for key, value in asdict(model).items()
                if key not in ("pretrained", "start", "dropout", "drop_path")  # shape training
            },
        },
        "clip": asdict(experiment.clip),
        "views": {**views, "scales": list(views["scales"])},
        "index": {
            "use": "training" if split == experiment.data.train_split else "agreement",
            "split": split,
        },
        "videos": None if videos is None else videos_digest(videos),
        "decoder": _pixels_identity(experiment.data) if with_pixels else {},
        "preprocessing": PREPROCESSING_VERSION,
    }


def identity_like(
    recorded: Mapping[str, Any],
    experiment: Experiment,
    index: VideoIndex,
    *,
    split: str,
    teacher: "CheckpointInfo | None",
    with_pixels: bool = True,
) -> Identity:
    """What a cache's identity would be for an experiment, to compare the two; see `cache_identity`.

    Args:
        recorded: The cache's; of the first format it names a frame store as a whole.
        experiment: Resolved experiment.
        index: Its video index.
        split: The cached split.
        teacher: See `cache_identity`.
        with_pixels: See `cache_identity`.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    wanted = cache_identity(experiment, split=split, teacher=teacher, with_pixels=with_pixels)
    if with_pixels and "frame_store" in recorded.get("decoder", {}):
        wanted["decoder"] = pixels_identity(experiment.data, index, split)
    return wanted


def videos_to_cache(experiment: Experiment, entries: Iterable[VideoEntry]) -> list[CachedVideo]:
    """Videos as a cache will keep them, in order.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    entries = list(entries)
    frames = frame_digests(experiment, entries) or {}
    return [cached_video(entry, frames.get(entry.id)) for entry in entries]


def frame_digests(experiment: Experiment, entries: Iterable[VideoEntry]) -> dict[str, str] | None:
    """Digest of the frames of some videos by id; None where the experiment has no frame store.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    if experiment.data.frames is None:
        return None
    from reskd.common.dataset.frames.store import stored_digests

    return stored_digests(experiment.data.frames, [entry.id for entry in entries])


def pixels_identity(data: DataSpec, index: VideoIndex, split: str) -> dict[str, str]:
    """Who makes the pixels of a whole split: decoders by version, or the frames a store keeps.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    if data.frames is None:
        return _pixels_identity(data)
    from reskd.common.dataset.frames.store import store_identity

    return store_identity(data.frames, [video.id for video in index.split(split)])


def _pixels_identity(data: DataSpec) -> dict[str, str]:
    """The same without the frames themselves, which are known video by video."""
    if data.reader is not None:
        return {"reader": data.reader}
    if data.frames is not None:
        from reskd.common.dataset.frames.store import images_identity

        return {"images": images_identity(data.frames)}
    from reskd.common.video.video_file import decoder_identity

    return decoder_identity(data.decoder)


def first_difference(
    recorded: Mapping[str, Any], wanted: Mapping[str, Any], *, ignore: tuple[str, ...] = ()
) -> str | None:
    """Name the first field of two identities that differs, with both values, for a person.

    Which videos and classes a cache has is compared one by one (match.py), not here.

    Args:
        recorded: The cache's identity.
        wanted: The experiment's identity; a None in it stands for "not known here" and fits all.
        ignore: Dotted paths not to compare.
    """
    left, right = dict(_leaves(recorded)), dict(_leaves(wanted))
    if "teacher.precision" in right:  # the first caches do not state it
        left.setdefault("teacher.precision", "float32")
    for path, former in _FORMER_COLOURS.items():
        if path in right and path not in left:
            own = left.get("teacher.model.recognizer") == "torchvision"
            left[path] = right[path] if own else former
    for path in [*right, *(path for path in left if path not in right)]:
        if any(path == skip or path.startswith(f"{skip}.") for skip in (*ignore, *_MATCHED)):
            continue
        if path in right and right[path] is None:
            continue
        if path not in left or path not in right or left[path] != right[path]:
            return (
                f"{path}: the cache has {in_words(left.get(path))}, "
                f"the experiment asks for {in_words(right.get(path))}"
            )
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, list(value) if isinstance(value, tuple) else value


def in_words(value: Any) -> str:
    """A value of a record for a person: no quotes, no brackets."""
    match value:
        case None:
            text = "nothing"
        case str():
            text = value
        case list() | tuple():
            text = ", ".join(map(in_words, value))
        case _:
            text = json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}…"
