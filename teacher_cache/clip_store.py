"""Ready clips in a cache's own format: one of every video of a split, cut once and read ever after.

No teacher has seen them: test clips are the same every time they are cut, so whoever measures a
network keeps them. The arrays are `frames`, uint8, and `source`, the size and the time of the file
that a clip was cut from, so that a video that was replaced is noticed.

A store is a convenience and never the truth: what is damaged, out of date or missing in it is cut
from the video. Therefore, and unlike in a teacher's cache, a unit may be given up and written anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from reskd.common.console import say
from reskd.common.distill.arrays import ArraySpec, Row, TargetPlan
from reskd.common.errors import CacheError
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers, create_cache
from reskd.teacher_cache.format.commits import check_commits, read_commit
from reskd.teacher_cache.format.identity import Identity, first_difference
from reskd.teacher_cache.format.layout import Layout, choose_unit_videos, commit_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, read_manifest

MEMORY_BYTES: Final = 128 * 1024**2
"""For the unit that is filled and the one that is written meanwhile; small units, for all of one is
cut again where one row is damaged."""
_GENERATION: Final = 1
"""There is one run, which goes on until every unit is there."""


class ClipStore:
    """A store that may not be there yet.

    Args:
        folder: Where it is or will be.
        identity: Everything that decides its clips.
        clip_shape: (T, 3, size, size).
        num_videos: N.
    """

    def __init__(
        self, folder: Path, identity: Identity, *, clip_shape: tuple[int, ...], num_videos: int
    ) -> None:
        self.folder, self.identity = folder, identity
        self._arrays = (
            ArraySpec(name="frames", row_shape=clip_shape, dtype="uint8"),
            ArraySpec(name="source", row_shape=(2,), dtype="int64"),
        )
        unit_videos = choose_unit_videos(
            self._arrays, num_views=1, num_videos=num_videos, memory_bytes=MEMORY_BYTES
        )
        self._layout = Layout(
            num_views=1, block_views=1, num_videos=num_videos, unit_videos=unit_videos
        )

    @property
    def exists(self) -> bool:
        """Whether it, or something that calls itself a cache, is in its place."""
        return (self.folder / MANIFEST_FILE).exists()

    def num_bytes(self, units: Sequence[int] | None = None) -> int:
        """Size of the objects of some units; None: of all."""
        layout, views = self._layout, range(1)
        chosen = range(layout.num_units) if units is None else units
        return sum(
            layout.unit_bytes(array, unit, views) for array in self._arrays for unit in chosen
        )

    def neighbours(self) -> list[Path]:
        """Other stores in the same folder."""
        found = (path.parent for path in self.folder.parent.glob(f"*/{MANIFEST_FILE}"))
        return [folder for folder in found if folder != self.folder]

    def problem(self) -> str | None:
        """Why what lies in the folder is not this store; None if it is, or if nothing is there."""
        if not self.exists:
            if self.folder.exists() and any(self.folder.iterdir()):
                return f"{self.folder} is not empty and holds no {MANIFEST_FILE}"
            return None
        try:
            manifest = read_manifest(self.folder)
        except CacheError as error:
            return str(error)
        difference = first_difference(manifest.identity, self.identity)
        if difference is None and manifest.arrays != self._arrays:
            difference = f"arrays: {manifest.arrays}"
        if difference is None:
            return None
        return f"{self.folder} holds other clips. First difference: {difference}"

    def create(self) -> None:
        """Make it, empty.

        Raises:
            OSError: If that is not possible, for one because it is there.
        """
        shape = self._arrays[0].row_shape
        plan = TargetPlan(
            arrays=self._arrays, teacher_grid=(0, 0), feature_grid=(0, 0), student_size=shape[-1]
        )
        create_cache(self.folder, identity=self.identity, plan=plan, layout=self._layout)

    def held(self) -> AbstractContextManager[None]:
        """For the only process that fills it.

        Raises:
            StoppedShortError: If that is another one.
        """
        return sole_writer(self.folder)

    def missing_units(self) -> list[int]:
        """Units to be filled; a record that is damaged or of another store is removed."""
        if not self.exists:
            return list(range(self._layout.num_units))
        manifest = read_manifest(self.folder)
        missing = []
        for unit in range(manifest.layout.num_units):
            try:
                commit = read_commit(self.folder, _GENERATION, unit)
                if commit is not None:
                    check_commits(self.folder, manifest, [commit])
                    continue
            except CacheError:
                say(f"{self.folder}: the record of unit {unit} is damaged; the unit is kept anew.")
                self.give_up(unit)
            missing.append(unit)
        return missing

    def videos_of(self, units: Sequence[int]) -> list[int]:
        """Numbers of the videos of some units, in order."""
        layout = read_manifest(self.folder).layout
        return [video for unit in units for video in layout.videos_of(unit)]

    def fill(self, units: Sequence[int], clips: Iterator[Mapping[str, Row] | str]) -> None:
        """Write some units.

        Args:
            units: Numbers of units.
            clips: For each of `videos_of(units)` a row (1, ...) of each array, or the reason why
                there is none. Where they end early, the unit they end in is not written.

        Raises:
            OSError: If the disk is full; the unit then does not exist, all others are untouched.
        """
        manifest = read_manifest(self.folder)
        nothing = {a.name: np.zeros((1, *a.row_shape), a.dtype) for a in manifest.arrays}
        with BackgroundWriter(self.folder, manifest, FillMeters()) as writer:
            for unit in units:
                videos = manifest.layout.videos_of(unit)
                buffers = UnitBuffers(manifest, manifest.generations[0], unit)
                failed, taken = {}, 0
                for place, clip in enumerate(islice(clips, len(videos))):
                    if isinstance(clip, str):
                        failed[videos[place]] = clip
                    buffers.put(place, nothing if isinstance(clip, str) else clip)
                    taken += 1
                if taken < len(videos):
                    return
                writer.submit(buffers, failed)

    def give_up(self, unit: int) -> None:
        """Forget a unit, to be written anew by whoever fills the store next."""
        try:
            (self.folder / commit_key(_GENERATION, unit)).unlink(missing_ok=True)
        except OSError:  # a store that may only be read
            return
