"""What the label of a clip is: known for a video with one, drawn anew in every epoch for others."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from reskd.common.dataset.index import VideoEntry
from reskd.common.rng import keyed_generator


class Labels:
    """Labels of the videos of a split, as the loss wants them.

    Args:
        entries: Videos by their numbers.
        num_classes: K.
        kind: `one_of` draws one of a video's labels, each alike, from (seed, video, epoch);
            `any_of` gives all of them.
        seed: Key of the draws.

    Source: ResKD reference, datasets of several labels: one of the distinct labels per fetch in
    training.
    """

    def __init__(
        self,
        entries: Mapping[int, VideoEntry],
        *,
        num_classes: int,
        kind: Literal["one_of", "any_of"],
        seed: int,
    ) -> None:
        self._videos = {
            number: (entry.id, tuple(dict.fromkeys(entry.labels)))
            for number, entry in entries.items()
        }
        self._num_classes, self._kind, self._seed = num_classes, kind, seed

    def of(self, videos: Sequence[int], *, epoch: int) -> Tensor:
        """Labels of some videos in an epoch: int64 (B,), or for `any_of` float32 (B, K)."""
        if self._kind == "one_of":
            return torch.tensor([self._drawn(video, epoch) for video in videos], dtype=torch.int64)
        asked = torch.zeros(len(videos), self._num_classes)
        for row, video in enumerate(videos):
            asked[row, list(self._videos[video][1])] = 1.0
        return asked

    def _drawn(self, video: int, epoch: int) -> int:
        id_, labels = self._videos[video]
        if len(labels) == 1:
            return labels[0]
        generator = keyed_generator(self._seed, "label", id_, epoch)
        return labels[int(generator.integers(len(labels)))]
