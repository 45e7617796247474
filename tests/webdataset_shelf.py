"""Videos in WebDataset tars, read where they lie: an example of `data.reader`.

train-000000.tar        run_0001.mp4  run_0001.cls  run_0002.mp4  run_0002.cls ...
val-000000.tar          the split is what stands before the dash

reskd dataset import reader tests.webdataset_shelf:WebDataset TARS --out index.jsonl
data: {index: index.jsonl, reader: "tests.webdataset_shelf:WebDataset"}
"""

import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


class TarVideo:
    """An encoded video in memory."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        with av.open(BytesIO(encoded), "r") as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate or 0)
            self.height, self.width = stream.height, stream.width
            self.num_frames = len(list(container.decode(stream)))

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        wanted = set(indices)
        with av.open(BytesIO(self._encoded), "r") as container:
            shown = enumerate(container.decode(video=0))
            found = [frame.to_ndarray(format="rgb24") for i, frame in shown if i in wanted]
        return np.stack(found)


class WebDataset:
    """All tars of a folder; where each video lies is looked up once."""

    def __init__(self, root: Path) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._classes: dict[str, str] = {}
        for path in sorted(root.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, kind = f"{path.name}/{member.name}".rpartition(".")
                    if kind == "mp4":
                        self._places[key] = path, member.offset_data, member.size
                    elif kind == "cls" and (text := tar.extractfile(member)):
                        self._classes[key] = text.read().decode().strip()

    def videos(self) -> Iterator[tuple[str, str, str]]:
        for key in self._places:
            yield key, self._classes[key], key.partition("-")[0]

    def open(self, key: str) -> TarVideo:
        path, offset, size = self._places[key]
        with path.open("rb") as tar:  # a file of its own for every thread
            tar.seek(offset)
            return TarVideo(tar.read(size))
