"""A teacher's cache as a Dataset of torch, for training loops that are not ours.

    clips = reskd.CachedClips("cache", "index.jsonl", targets=["logits"])
    loader = DataLoader(clips, batch_size=64, shuffle=True, collate_fn=clips.collate)
    for epoch in range(50):
        clips.set_epoch(epoch)  # another view of every video
        for frames, labels, targets, videos in loader:
            ...

Rows are found by the content of their videos and checked as they are read, as in `train-student`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.distill.class_order import CLASS_NUMBERS, CLASS_SCORES, in_class_order
from reskd.common.distill.encoding import decode_features
from reskd.common.distill.targets import ARRAYS_OF_TARGET
from reskd.common.errors import CacheError
from reskd.common.video.preprocess import IMAGENET, Three, colours_of, normalize
from reskd.student_train.data.labels import Labels
from reskd.student_train.data.order import stored_view
from reskd.teacher_cache.read.contents import matched_videos
from reskd.teacher_cache.read.reader import CacheReader


class CachedClip(NamedTuple):
    """One view of one video; of a batch the same with B in front of every shape."""

    frames: Tensor
    """(T, 3, H, W): uint8, or float32 where they are normalised."""
    labels: Tensor
    """int64 class number, or float32 (K,) with 1 for every class that applies."""
    targets: dict[str, Tensor]
    """What the teacher said, by the name of the target."""
    videos: Tensor
    """int64 number of the video's row in the cache; `CachedClips.entries` says which it is."""


class CachedClips(Dataset[CachedClip]):
    """The clips of a cache, one per video: frames, labels and what the teacher said.

    Videos that could not be read when the cache was made are left out, and so are those that the
    index does not list. Works in any number of DataLoader workers, however they are started.

    Args:
        folder: The cache; it must hold the student's frames (targets.frames).
        index: Video index with the labels, or its file. The one the cache was made from, or a later
            one: labels, names and the order of classes are taken from it.
        targets: Which of `logits`, `features` and `logit_map` to read.
        view: `epoch` gives view e mod V in epoch e, as `train-student` does; a number always gives
            that view.
        decode: Give targets as the float32 numbers they stand for, `features` with its scale
            applied. False gives every stored array under its own name, in its own type.
        normalized: Give frames as float32, less `mean` and divided by `std`. False gives uint8,
            a quarter of the bytes: normalise on the GPU.
        mean: Of red, green and blue, of values from 0 to 1; that of ImageNet.
        std: Likewise.
        labels: `one_of` gives a class number, drawn anew in every epoch where a video has several
            labels; `any_of` gives all of them.
        seed: Key of these draws.
        allow_incomplete: Use the finished units of a cache, and of an index the videos that it has.

    Raises:
        CacheError: If it is no cache, holds no frames or not a target, was made from other videos,
            or its class scores are of other classes than those of the index. Reading an item raises
            it where a row is damaged.
        DataError: If there is no such index.
        StoppedShortError: If units of the cache are missing, and that is not allowed.
        ValueError: If there is no such target or view.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        index: VideoIndex | str | os.PathLike[str],
        *,
        targets: Sequence[str] = (),
        view: int | Literal["epoch"] = "epoch",
        decode: bool = True,
        normalized: bool = False,
        mean: Three = IMAGENET.mean,
        std: Three = IMAGENET.std,
        labels: Literal["one_of", "any_of"] = "one_of",
        seed: int = 0,
        allow_incomplete: bool = False,
    ) -> None:
        self.reader = CacheReader(folder)
        if not allow_incomplete:
            self.reader.require_complete()
        listed = index if isinstance(index, VideoIndex) else read_index(Path(index))
        matched = matched_videos(self.reader.folder, self.reader.manifest, listed)
        if matched.new and not allow_incomplete:
            raise CacheError(f"{matched.lack(self.reader.folder)} Or pass allow_incomplete=True.")
        self.entries = matched.entries
        """What the index says of every video, by the number of its row."""
        self.videos = [row for row in self.reader.usable_videos if row in self.entries]
        """Rows of the items, in order."""
        self.classes = listed.classes
        """Names of the classes, in the order of labels and class scores."""
        self.num_views = self.reader.manifest.layout.num_views
        """V, stored views of every video."""
        self.teacher_grid = self.reader.manifest.teacher_grid
        """Height and width of the teacher's own feature map."""
        if view != "epoch" and not 0 <= view < self.num_views:
            raise ValueError(f"view is {view}, and the cache has views 0 to {self.num_views - 1}")
        self._view, self._decode = view, decode
        self._colours = colours_of(mean, std) if normalized else None
        self._labels = Labels(self.entries, num_classes=len(listed.classes), kind=labels, seed=seed)
        self._names = self._arrays_of(targets)
        self._columns = matched.columns
        if self._columns is None and {*self._names} & (CLASS_SCORES | CLASS_NUMBERS):
            raise CacheError(
                f"{folder} holds scores of {len(self.reader.manifest.class_names)} classes which "
                f"are not the {len(listed.classes)} of the index one to one: leave out logits and "
                "logit_map, or name the index it was made from."
            )
        # In shared memory: workers that live on through the epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _arrays_of(self, targets: Sequence[str]) -> list[str]:
        """Arrays that hold the frames and these targets."""
        held = [array.name for array in self.reader.manifest.arrays]
        if "frames" not in held:
            raise CacheError(
                f"{self.reader.folder} holds no frames, only {', '.join(held)}: add them with "
                f"`reskd cache extend {self.reader.folder} --targets frames`."
            )
        names = ["frames"]
        for target in targets:
            if target not in ("logits", "features", "logit_map"):
                raise ValueError(
                    f"there is no target {target!r}; targets are logits, features and logit_map"
                )
            own = [name for name in ARRAYS_OF_TARGET[target] if name in held]
            if not own:
                self.reader.manifest.array(target)  # says what there is, and what to do
            names += own
        return names

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, before its DataLoader is asked for a batch; workers hear it."""
        if epoch < 0:
            raise ValueError(f"epochs begin at 0, got {epoch}")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int) -> CachedClip:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[CachedClip]:
        """Several at once, which is how a DataLoader asks; rows are then read together."""
        videos, epoch = [self.videos[item] for item in items], int(self._epoch)
        view = stored_view(epoch, self.num_views) if self._view == "epoch" else self._view
        rows = {name: self._rows(name, view, videos) for name in self._names}
        frames = rows.pop("frames")
        if self._colours is not None:
            frames = normalize(frames, self._colours)
        targets = _decoded(rows) if self._decode else rows
        labels, numbers = self._labels.of(videos, epoch=epoch), torch.tensor(videos)
        return [
            CachedClip(
                frames[place],
                labels[place],
                {name: values[place] for name, values in targets.items()},
                numbers[place],
            )
            for place in range(len(videos))
        ]

    def _rows(self, name: str, view: int, videos: list[int]) -> Tensor:
        buffer = self.reader.empty(name, len(videos))
        rows = torch.from_numpy(self.reader.gather(name, [view] * len(videos), videos, buffer))
        return rows if self._columns is None else in_class_order(name, rows, self._columns)

    @staticmethod
    def collate(clips: Sequence[CachedClip]) -> CachedClip:
        """A batch of some clips: what `collate_fn` of a DataLoader takes."""
        names = clips[0].targets
        return CachedClip(
            torch.stack([clip.frames for clip in clips]),
            torch.stack([clip.labels for clip in clips]),
            {name: torch.stack([clip.targets[name] for clip in clips]) for name in names},
            torch.stack([clip.videos for clip in clips]),
        )


def _decoded(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floats in float32, feature maps with their scale applied; the rest as it is."""
    decoded = {
        name: values.float() if values.is_floating_point() else values
        for name, values in rows.items()
        if name != "feature_scale"
    }
    if "features" in rows:
        decoded["features"] = decode_features(rows)
    return decoded
