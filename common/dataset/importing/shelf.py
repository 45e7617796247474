"""From a shelf of the user's videos to an index: it lists them, and each is opened."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from reskd.common.console import in_lines, progress
from reskd.common.dataset.importing.replacing import check_replaces_none
from reskd.common.dataset.index import VideoEntry, VideoIndex, write_index
from reskd.common.dataset.own_reader import open_shelved, shelf_of, shelved_content
from reskd.common.errors import DataError
from reskd.common.prefetch import num_cores
from reskd.common.video.reader import UnreadableVideoError

Listed = tuple[str, tuple[str, ...], str]
"""Key, classes, split."""


def import_shelf(
    reader: str,
    root: Path,
    out: Path,
    *,
    allow_unreadable: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
) -> tuple[VideoIndex, dict[str, str]]:
    """Make an index of all videos that the user's code lists.

    Args:
        reader: Its name, see common/dataset/own_reader.py.
        root: Folder that it is given.
        out: The index to write.
        allow_unreadable: Keep a video that cannot be read, with 0 frames, so that it counts as
            failed later.
        overwrite: Replace another index in the same place.
        jobs: Threads; as many as processors when None.

    Returns:
        What was written, and the reasons of unreadable videos by key.

    Raises:
        ExperimentError: If there is no such code, or it is not trusted.
        DataError: If it lists no videos, or something that is none, or one twice; if a video cannot
            be read and may not be kept, or another index would be replaced.
    """
    root = root.absolute()
    listed = _listed(reader, shelf_of(reader, root).videos())
    classes = tuple(sorted({name for _, names, _ in listed for name in names}))
    numbers = {name: number for number, name in enumerate(classes)}
    problems: dict[str, str] = {}

    def entry(one: Listed) -> VideoEntry:
        key, names, split = one
        named = VideoEntry(
            id=key,
            path=key,
            labels=tuple(numbers[name] for name in names),
            split=split,
            num_frames=0,
            fps=0.0,
        )
        try:
            video = open_shelved(reader, root, key)
            content = shelved_content(video)
        except UnreadableVideoError as error:
            problems[key] = error.reason
            return named
        return replace(named, num_frames=video.num_frames, fps=video.fps, content=content)

    with (
        ThreadPoolExecutor(jobs or num_cores()) as pool,
        progress("opening", len(listed), unit="videos") as advance,
    ):
        entries = []
        for made in pool.map(entry, listed):
            entries.append(made)
            advance()
    if problems and not allow_unreadable:
        raise DataError(
            in_lines(
                f"no index was written: {len(problems)} of {len(listed)} videos cannot be read:",
                *(f"  {key}: {why}" for key, why in sorted(problems.items())[:10]),
                "Repair them, or keep them as failed with --allow-unreadable.",
            )
        )
    ordered = tuple(sorted(entries, key=lambda one: (one.split, one.id)))
    index = VideoIndex(classes=classes, root=root, videos=ordered, reader=reader)
    if not overwrite:
        check_replaces_none(out, index)
    write_index(out, index)
    return index, problems


def _listed(reader: str, videos: Iterable[Any]) -> list[Listed]:
    found: dict[str, Listed] = {}
    for number, one in enumerate(videos):
        match one:
            case (str(key), str(name), str(split)):
                listed: Listed = key, (name,), split
            case (str(key), [*names], str(split)) if all(isinstance(one, str) for one in names):
                listed = key, tuple(names), split
            case _:
                listed = "", (), ""
        if not all((*listed, *listed[1])):
            raise DataError(
                f"{reader} lists {one!r} as video {number}; (key, class or classes, split) is "
                "wanted, all of them texts."
            )
        if listed[0] in found:
            raise DataError(f"{reader} lists {listed[0]!r} twice.")
        found[listed[0]] = listed
    if not found:
        raise DataError(f"{reader} lists no videos.")
    return list(found.values())
