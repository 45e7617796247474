"""Open every video once, in several threads, to learn its length; or look at a folder's images.

At the size of Kinetics this takes hours, so what was learnt is kept in a journal: an import that
was stopped goes on. Videos that could not be read are not kept there: they are tried again.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from reskd.common.console import Advance
from reskd.common.dataset.content import ContentFacts, content_facts
from reskd.common.dataset.frames.folders import checked_folder, numbered_images
from reskd.common.storage.journal import Journal, state_of
from reskd.common.video.attempts import settled
from reskd.common.video.reader import Decoder, UnreadableVideoError, VideoReader
from reskd.common.video.video_file import open_video


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoProbe:
    """What was learnt by opening a video."""

    num_frames: int = 0
    fps: float = 0.0
    content: ContentFacts | None = None
    problem: str | None = None


def probe_all(
    paths: Mapping[str, Path],
    *,
    root: Path,
    decoder: Decoder,
    jobs: int | None,
    journal: Journal[VideoProbe],
    advance: Advance,
) -> dict[str, VideoProbe]:
    """Open every video and try it out.

    Args:
        paths: Files, or folders of numbered images, by any key; absolute.
        root: Where all videos are.
        decoder: Who decodes.
        jobs: Threads; as many as processors when None.
        journal: Where lengths learnt before are found, and those learnt now are kept.
        advance: Called after each video, in this thread.

    Returns:
        By the keys of `paths`, in their order.

    Raises:
        StoppedShortError: If the system cannot read one; what was learnt of others is kept.
    """
    probes: dict[str, VideoProbe] = {}
    pool = ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="probe")
    try:
        waiting = {
            pool.submit(_probe, path, decoder, journal, root): key for key, path in paths.items()
        }
        for job in as_completed(waiting):
            probes[waiting[job]] = job.result()
            advance()
    finally:
        # Interrupted, the videos not yet begun are not opened any more.
        pool.shutdown(cancel_futures=True)
    return {key: probes[key] for key in paths}


def _probe(path: Path, decoder: Decoder, journal: Journal[VideoProbe], root: Path) -> VideoProbe:
    # Before opening: a file that changes meanwhile is not known by what it was.
    name, state = os.fspath(path), state_of(path)
    probe = journal.known(name, state)
    if probe is None:
        try:
            probe = _opened(path, decoder, root)
        except UnreadableVideoError as error:
            return VideoProbe(problem=error.reason)
        journal.add(name, state, probe)
    return probe


def _opened(path: Path, decoder: Decoder, root: Path) -> VideoProbe:
    video: VideoReader
    if path.is_dir():
        video = checked_folder(path, root)
        files = [path / name for name in numbered_images(path)]
    else:
        with open_video(path, decoder, root=root) as video:
            video.try_out()
        files = [path]

    def facts() -> ContentFacts:
        return content_facts(files, width=video.width, height=video.height)

    content = settled(facts, path, "import", root)
    return VideoProbe(num_frames=video.num_frames, fps=video.fps, content=content)
