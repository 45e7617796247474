"""Make a frame store: find the videos it lacks, decode and encode each, close what is whole."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch

from reskd.common.console import Advance, in_lines, progress, say
from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.image_io import codec_identity
from reskd.common.dataset.frames.plan import (
    SHARD_FRAMES,
    FrameOptions,
    StoreLayout,
    plan_record,
    shards_of,
)
from reskd.common.dataset.frames.store import open_store
from reskd.common.dataset.frames.write import FolderSink, NewStore, PackedSink, Sink, begin
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment import DataSpec
from reskd.common.signals import preemptible
from reskd.common.storage.folder_lock import locked
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.video_file import decoder_identity

LISTED = 10
"""Longest list of videos in a message."""
STORE_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """What is to be made, and how."""

    index: VideoIndex
    data: DataSpec
    """Says who decodes."""
    split: str | None
    """Split to extract; None takes all of them."""
    options: FrameOptions
    layout: StoreLayout
    out: Path
    jobs: int
    """Videos decoded at a time."""
    allow_unreadable: bool
    """Note unreadable videos as such in the store, instead of leaving it unfinished."""
    shard_frames: int | None = None
    """Frames that a file should not exceed; None takes SHARD_FRAMES."""

    @property
    def entries(self) -> Sequence[VideoEntry]:
        """The videos, in the order of the index."""
        return self.index.videos if self.split is None else self.index.split(self.split)

    @property
    def shards(self) -> list[int]:
        """Videos of each file; folders are one group."""
        if self.layout == "folders":
            return [len(self.entries)]
        limit = self.shard_frames or SHARD_FRAMES[self.options.image_format]
        return shards_of(self.entries, self.options, limit)

    def plan(self) -> dict[str, Any]:
        """What decides the content of the store."""
        return plan_record(
            self.entries,
            self.options,
            split=self.split,
            decoder=self.data.decoder,
            shards=self.shards,
        )


def check_out(extraction: Extraction) -> None:
    """Refuse a name that cannot be a store's, and an index without videos.

    Raises:
        DataError: If so.
    """
    if not extraction.entries:
        raise DataError("the index lists no videos; import some")
    out = extraction.out
    if extraction.layout == "packed" and out.suffix not in STORE_SUFFIXES:
        raise DataError(
            f"--out {out} must end in .h5 for the packed layout; `--layout folders` makes a folder"
        )
    if (extraction.layout == "packed") == out.is_dir() and out.exists():
        kind = "a folder" if out.is_dir() else "a file"
        raise DataError(
            f"--out {out} is {kind} already, which layout {extraction.layout!r} is not; "
            "name another"
        )


def extract_frames(extraction: Extraction) -> dict[str, Any]:
    """Make a store, or what it lacks; what earlier runs finished is kept.

    Returns:
        Facts about the finished store, for JSON.

    Raises:
        DataError: If something else is in its place, or was begun there.
        StoppedShortError: If videos are unreadable and that is not allowed, or another process
            makes this store.
        PreemptedError: If a signal asked to stop.
    """
    check_out(extraction)
    torch.set_num_threads(1)  # each job is a thread already
    store = NewStore(
        path=extraction.out,
        plan=extraction.plan(),
        software={
            **decoder_identity(extraction.data.decoder),
            "images": codec_identity(extraction.options.image_format),
        },
        ids=[entry.id for entry in extraction.entries],
    )
    advice = "Wait for it, or stop it and run the same command again; finished videos are kept."
    while True:
        work = _sink_of(extraction, store).work  # refuses what is in its place
        work.mkdir(parents=True, exist_ok=True)
        with preemptible(), ExitStack() as holding:
            try:
                holding.enter_context(locked(work, task=f"making {work}", advice=advice))
            except FileNotFoundError:  # another process has just finished the store
                continue
            written = _make(extraction, store)
            shutil.rmtree(work)
        return summary(extraction, written=written)


def _sink_of(extraction: Extraction, store: NewStore) -> Sink:
    return FolderSink(store) if extraction.layout == "folders" else PackedSink(store)


def _make(extraction: Extraction, store: NewStore) -> int:
    """Make what a store lacks, as its only process; returns how many videos that were."""
    sink = _sink_of(extraction, store)
    begin(sink, store.plan)
    groups = store.groups
    done = sum(len(group) for number, group in enumerate(groups) if sink.is_closed(number))
    failures: dict[int, str] = {}
    with progress("extracting", len(store.ids), unit="videos", done=done) as advance:
        for number, group in enumerate(groups):
            if sink.is_closed(number):
                continue
            bad = _fill(extraction, sink, group, advance)
            failures |= bad
            if not bad or extraction.allow_unreadable:
                sink.close_group(number, bad)
    if failures and not extraction.allow_unreadable:
        raise StoppedShortError(_unreadable(store.ids, failures))
    return len(store.ids) - done


def _fill(extraction: Extraction, sink: Sink, group: range, advance: Advance) -> dict[int, str]:
    """Make the missing videos of a group; returns those that cannot be read, with reasons."""
    entries, bad, stop = extraction.entries, dict[int, str](), Event()
    missing = [place for place in group if not sink.holds(place)]
    advance(len(group) - len(missing))
    pool = ThreadPoolExecutor(extraction.jobs, thread_name_prefix="frames")
    try:
        jobs = {
            pool.submit(
                sink.put,
                place,
                KeptVideo(
                    extraction.index, entries[place], extraction.data, extraction.options, stop
                ),
            ): place
            for place in missing
        }
        for job in as_completed(jobs):
            place = jobs[job]
            try:
                job.result()
            except UnreadableVideoError as error:
                bad[place] = error.reason
                say(f"unreadable: {entries[place].id}: {error.reason}")
            advance()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return bad


def _unreadable(ids: Sequence[str], failures: Mapping[int, str]) -> str:
    listed = sorted(failures.items())[:LISTED]
    more = [f"  and {len(failures) - LISTED} more"] if len(failures) > LISTED else []
    return in_lines(
        f"{len(failures)} of {len(ids)} videos cannot be read:",
        *(f"  {ids[place]}: {reason}" for place, reason in listed),
        *more,
        "All others are finished and kept. Fix these and run the same command again; or give "
        "--allow-unreadable, which notes them in the store as failed, with these reasons",
    )


def summary(extraction: Extraction, *, written: int) -> dict[str, Any]:
    """Facts about a finished store, for JSON; reads its tables.

    Raises:
        DataError: If it does not hold what was asked for.
    """
    store = open_store(extraction.out)
    facts = list(store.all_facts())
    if [one.id for one in facts] != [entry.id for entry in extraction.entries]:
        raise DataError(f"{extraction.out} does not hold the videos of the index, in its order")
    options = extraction.options
    files = list(store.files)
    if extraction.layout == "folders":
        found = ((extraction.out / one.id).iterdir() for one in facts if not one.failure)
        files += [image for folder in found for image in folder]
    return {
        "frames": str(extraction.out.absolute()),
        "layout": extraction.layout,
        "files": len(files),
        "videos": len(facts),
        "videos_written": written,
        "kept_frames": sum(one.num_frames for one in facts),
        "bytes": sum(file.stat().st_size for file in files),
        "fps": options.fps,
        "format": options.image_format,
        "quality": options.quality,
        "short_side": options.short_side,
        "failures": {one.id: one.failure for one in facts if one.failure},
    }
