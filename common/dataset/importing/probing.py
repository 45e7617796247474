"""Open every video once, in several threads, to learn its length; or count a folder's images.

At the size of Kinetics this takes hours, so what was learnt may be kept in a journal: an import
that was stopped goes on (see probe_journal.py).
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from reskd.common.dataset.frames.folders import numbered_images
from reskd.common.dataset.importing.probe_journal import FileState, ProbeJournal, state_of
from reskd.common.video.reader import Decoder, UnreadableVideoError, open_video

Progress = Callable[[int, int], None]
"""Called with the videos done and the videos in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What opening a video told."""

    num_frames: int = 0
    fps: float = 0.0
    problem: str | None = None


def probe_all(
    paths: Mapping[str, Path],
    *,
    decoder: Decoder,
    jobs: int | None,
    progress: Progress | None,
    journal: ProbeJournal | None = None,
) -> dict[str, Probe]:
    """Open every video and decode its last frame.

    Args:
        paths: Files, or folders of numbered images, by any key.
        decoder: Who decodes.
        jobs: Threads; as many as processors when None.
        progress: Told after each video, in this thread.
        journal: Where lengths learnt before are found, and those learnt now are kept.

    Returns:
        By the keys of `paths`, in their order.
    """
    probes: dict[str, Probe] = {}

    def done(key: str, probe: Probe) -> None:
        probes[key] = probe
        if progress is not None:
            progress(len(probes), len(paths))

    for key, path in paths.items():
        known = journal.known(path) if journal is not None else None
        if known is not None:
            done(key, Probe(num_frames=known.num_frames, fps=known.fps))
    pool = ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="probe")
    try:
        waiting = {
            pool.submit(_probe, path, decoder): key
            for key, path in paths.items()
            if key not in probes
        }
        for job in as_completed(waiting):
            key, (probe, state) = waiting[job], job.result()
            if journal is not None and probe.problem is None and state is not None:
                journal.add(paths[key], state, num_frames=probe.num_frames, fps=probe.fps)
            done(key, probe)
    finally:
        # Interrupted, the videos not yet begun are not opened any more.
        pool.shutdown(cancel_futures=True)
    return {key: probes[key] for key in paths}


def _probe(path: Path, decoder: Decoder) -> tuple[Probe, FileState | None]:
    # Before opening: a file that changes meanwhile is not known by what it was.
    state = state_of(path)
    try:
        if path.is_dir():
            return Probe(num_frames=len(numbered_images(path))), state
        with open_video(path, decoder) as video:
            # Opening decodes the first frame; a file that ends early fails at the last.
            video.frames([video.num_frames - 1])
            return Probe(num_frames=video.num_frames, fps=video.fps), state
    except UnreadableVideoError as error:
        return Probe(problem=error.reason), state
