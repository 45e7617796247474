"""An import does not destroy the index that caches and runs were made from."""

from dataclasses import replace
from pathlib import Path

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index
from reskd.common.errors import DataError


def check_replaces_none(out: Path, index: VideoIndex) -> None:
    """Refuse to write an index in the place of one that says something else.

    Raises:
        DataError: If it would; the message says in what they differ.
    """
    if not out.exists():
        return
    try:
        difference = _difference(read_index(out), index)
    except DataError as error:
        difference = f"it is no index that can be read ({error})"
    if difference:
        raise DataError(
            f"{out} is there already, and this import would change it: {difference}. Caches and "
            "runs were perhaps made from it. Write another file with --out, or replace it with "
            "--overwrite; nothing was written, and the videos need not be opened again."
        )


def former_index(out: Path) -> VideoIndex | None:
    """The index that is replaced; None if there is none that can be read."""
    try:
        return read_index(out)
    except DataError:
        return None


def _difference(old: VideoIndex, new: VideoIndex) -> str:
    """In what two indexes differ, counted; empty if in nothing."""
    if old.classes != new.classes:
        return f"its {len(old.classes)} classes would become {len(new.classes)} other ones"
    before = {video.id: video for video in old.videos}
    after = {video.id: video for video in new.videos}
    common = before.keys() & after.keys()
    counts = {
        "videos more": len(after.keys() - common),
        "fewer": len(before.keys() - common),
        "with another label": sum(before[id].labels != after[id].labels for id in common),
        "in another split": sum(before[id].split != after[id].split for id in common),
    }
    found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if found:
        return found
    others = [id for id in common if not _equal(before[id], after[id])]
    if others:
        return f"{len(others)} videos with another path, length or content, such as {min(others)!r}"
    if old.root.resolve() != new.root.resolve():
        return f"its folder {old.root} would become {new.root}"
    return ""


def _equal(before: VideoEntry, after: VideoEntry) -> bool:
    """Facts of content are news and no change where an older index had none."""
    return before == (replace(after, content=None) if before.content is None else after)
