"""Whose outputs a cache holds: everything that decides what the teacher made of a view.

The identity of a cache never changes. Two caches of equal identity hold the same outputs; a student
may only learn from a cache whose identity is its experiment's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from reskd.common.dataset.index import VideoIndex
from reskd.common.experiment import DataSpec, Experiment

if TYPE_CHECKING:
    from reskd.common.models.checkpoint import CheckpointInfo

Identity = dict[str, Any]
_FORMER_COLOURS: Final = {
    "teacher.model.mean": [0.485, 0.456, 0.406],
    "teacher.model.std": [0.229, 0.224, 0.225],
}
"""Of caches that do not state them: the same for all networks but torchvision's."""


def cache_identity(
    experiment: Experiment,
    index: VideoIndex,
    *,
    split: str,
    teacher: "CheckpointInfo | None",
    with_pixels: bool = True,
) -> Identity:
    """Everything that decides the teacher's outputs.

    Targets, the number of views and the student are not part of it: the cache must hold at least
    what an experiment uses.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        split: The cached split. Outputs for any other than data.train_split are marked as for
            agreement metrics only: no student may learn from them.
        teacher: What the teacher's checkpoint says of itself; None where only a comparison with a
            cache is wanted and the checkpoint is not at hand.
        with_pixels: Tell who makes the pixels; without it field `decoder` is empty, for a
            comparison that leaves it out.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
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
            "videos": len(index.split(split)),
            "classes": list(index.classes),  # before the digest, which differs with them
            "digest": index.digest(split),
        },
        "decoder": pixels_identity(experiment.data, index, split) if with_pixels else {},
        "preprocessing": PREPROCESSING_VERSION,
    }


def pixels_identity(data: DataSpec, index: VideoIndex, split: str) -> dict[str, str]:
    """Who makes the pixels: decoders by version, or the very frames that a store keeps.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    if data.frames is not None:
        from reskd.common.dataset.frames.store import store_identity

        return store_identity(data.frames, [video.id for video in index.split(split)])
    from reskd.common.video.video_file import decoder_identity

    return decoder_identity(data.decoder)


def first_difference(
    recorded: Mapping[str, Any], wanted: Mapping[str, Any], *, ignore: tuple[str, ...] = ()
) -> str | None:
    """Name the first field of two identities that differs, with both values.

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
        if any(path == skip or path.startswith(f"{skip}.") for skip in ignore):
            continue
        if path in right and right[path] is None:
            continue
        if path not in left or path not in right or left[path] != right[path]:
            return (
                f"{path}: the cache has {_shown(left.get(path))}, "
                f"the experiment asks for {_shown(right.get(path))}"
            )
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}…"
