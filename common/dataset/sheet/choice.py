"""Which videos of an index a contact sheet shows: a few of each class, of so many classes."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TypeVar

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.rng import keyed_generator

Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenClass:
    """A class and those of its videos that are shown."""

    label: int
    name: str
    num_videos: int
    """All of its videos that might have been shown."""
    videos: tuple[VideoEntry, ...]
    """In the order of their ids; a video of several classes may be shown in each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is shown, and how much is not."""

    classes: tuple[ChosenClass, ...]
    """In the order of their labels."""
    num_left_out: int
    """Classes that have videos and are not shown."""
    num_empty: int
    """Classes without a video."""

    @property
    def num_videos(self) -> int:
        """Videos shown, those of several classes counted in each."""
        return sum(len(chosen.videos) for chosen in self.classes)


def choose(
    index: VideoIndex, *, split: str | None, num_classes: int, per_class: int, seed: int
) -> Choice:
    """Draw classes, and videos of each.

    The videos drawn of a class depend on the seed and that class alone: more classes or fewer do
    not change them.

    Args:
        index: The videos.
        split: Take them from this split; None: from all.
        num_classes: Most classes shown.
        per_class: Most videos shown of a class.
        seed: Another one draws others.

    Raises:
        DataError: If the index has no such split.
    """
    videos_of: dict[int, list[VideoEntry]] = defaultdict(list)
    for video in index.videos if split is None else index.split(split):
        for label in video.labels:
            videos_of[label].append(video)
    labels = sorted(videos_of)
    shown = _draw(labels, num_classes, seed, "classes of a sheet")
    return Choice(
        classes=tuple(
            ChosenClass(
                label=label,
                name=index.classes[label],
                num_videos=len(videos_of[label]),
                videos=tuple(_draw(videos_of[label], per_class, seed, index.classes[label])),
            )
            for label in shown
        ),
        num_left_out=len(labels) - len(shown),
        num_empty=len(index.classes) - len(labels),
    )


def _draw(things: list[Thing], count: int, seed: int, key: str) -> list[Thing]:
    """At most `count` of some things, in their order."""
    order = keyed_generator(seed, "sheet", key).permutation(len(things))
    return [things[place] for place in sorted(order[:count].tolist())]
