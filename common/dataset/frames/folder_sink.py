"""Making folders of images: each is filled under another name and renamed when it is whole."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from reskd.common.dataset.frames.encode import KeptVideo, VideoFacts
from reskd.common.dataset.frames.folders import RECORD_FILE, image_name
from reskd.common.dataset.frames.write import Target, refuse_other
from reskd.common.errors import CacheError, DataError
from reskd.common.storage.atomic_write import PARTIAL_SUFFIX
from reskd.common.storage.records import read_record, write_record


class FolderSink:
    """Folders of images, one group; each is filled under another name and renamed.

    Raises:
        DataError: If the folder holds something else, or ids cannot be names of folders.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.work = target.path / PARTIAL_SUFFIX
        self._record = target.path / RECORD_FILE
        _refuse_ids(target.ids)
        if self._record.exists():
            try:
                refuse_other(self._record, read_record(self._record)["plan"], target.plan)
            except CacheError as error:
                raise DataError(str(error)) from error
        elif target.path.exists() and not self.work.exists() and any(target.path.iterdir()):
            raise DataError(
                f"{target.path} is not empty and no frame store; name a new folder with --out"
            )

    def is_closed(self, group: int) -> bool:
        return self._record.exists()

    def holds(self, place: int) -> bool:
        """Whether record and folder are there, and every image is as long as it was written."""
        if not self._note(place).exists():
            return False
        folder, suffix = self._folder(place), self._target.plan["image_format"]
        if not folder.is_dir():
            return False
        sizes = read_record(self._note(place))["sizes"]
        wanted = {image_name(number, suffix): size for number, size in enumerate(sizes)}
        whole = {file.name: file.stat().st_size for file in folder.iterdir()} == wanted
        if not whole:  # after a power cut; the folder is ours, the record says so
            shutil.rmtree(folder)
        return whole

    def put(self, place: int, video: KeptVideo) -> None:
        folder, filled = self._folder(place), self.work / f"{place:07d}"
        if folder.exists() and not self._note(place).exists():
            raise DataError(f"{folder} is there already and not from this run; name a new --out")
        filled.mkdir()
        suffix, sizes = self._target.plan["image_format"], []
        try:
            for number, image in enumerate(video.images()):
                (filled / image_name(number, suffix)).write_bytes(image)
                sizes.append(len(image))
        except BaseException:
            shutil.rmtree(filled, ignore_errors=True)
            raise
        write_record(self._note(place), {"facts": video.facts.as_dict(), "sizes": sizes})
        folder.parent.mkdir(parents=True, exist_ok=True)
        filled.replace(folder)

    def close_group(self, group: int, failures: Mapping[int, str]) -> None:
        facts = []
        for place, video_id in enumerate(self._target.ids):
            if place in failures:
                facts.append(VideoFacts(id=video_id, failure=failures[place]).as_dict())
            else:
                facts.append(read_record(self._note(place))["facts"])
        os.sync()  # millions of images at once, instead of each by itself
        write_record(
            self._record,
            {
                "plan": dict(self._target.plan),
                "software": dict(self._target.software),
                "videos": facts,
            },
        )
        for place in range(len(self._target.ids)):
            self._note(place).unlink(missing_ok=True)

    def _folder(self, place: int) -> Path:
        return self._target.path / self._target.ids[place]

    def _note(self, place: int) -> Path:
        return self.work / f"{place:07d}.json"


def _refuse_ids(ids: Sequence[str]) -> None:
    """Folders must lie below the root, and no video's inside another's."""
    taken = {RECORD_FILE, PARTIAL_SUFFIX, *ids}
    for video_id in ids:
        parts = Path(video_id).parts
        if not parts or ".." in parts or Path(video_id).is_absolute():
            raise DataError(f"video id {video_id!r} cannot be the name of a folder of images")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if above & taken or video_id in (RECORD_FILE, PARTIAL_SUFFIX):
            raise DataError(
                f"the folder of video {video_id!r} would lie inside that of another video, or in "
                "the place of our own files; use --layout packed"
            )
