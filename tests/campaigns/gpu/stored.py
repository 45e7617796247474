"""Made-up frames as a store of JPEG images, written by the very code that extracts frames."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.image_io import codec_identity
from reskd.common.dataset.frames.plan import FrameOptions, plan_record
from reskd.common.dataset.frames.write import NewStore, PackedSink, begin
from reskd.common.dataset.index import VideoIndex, read_index, write_index
from reskd.common.experiment import Experiment

MOST_VIDEOS = 128
OPTIONS = FrameOptions(fps=2.0, image_format="jpg", quality=90, short_side=None)


def stored_frames(experiment: Experiment, *, threads: int) -> Experiment:
    """The same experiment on images of its first videos, two a second."""
    made_up = read_index(experiment.data.index)
    entries = made_up.videos[:MOST_VIDEOS]
    folder = experiment.data.index.parent
    file, path = folder / "stored.jsonl", folder / "frames.h5"
    if not path.exists():
        index = VideoIndex(classes=made_up.classes, root=made_up.root, videos=entries)
        write_index(file, index)
        _write(path, index, experiment, threads)
    return replace(experiment, data=replace(experiment.data, index=file, frames=path))


def _write(path: Path, index: VideoIndex, experiment: Experiment, threads: int) -> None:
    entries = index.videos
    store = NewStore(
        path=path,
        plan=plan_record(entries, OPTIONS, split=None, decoder="synthetic", shards=[len(entries)]),
        software={"images": codec_identity(OPTIONS.image_format)},
        ids=[entry.id for entry in entries],
    )
    sink = PackedSink(store)
    sink.work.mkdir(parents=True)
    begin(sink, store.plan)
    with ThreadPoolExecutor(threads) as pool:
        videos = (KeptVideo(index, entry, experiment.data, OPTIONS) for entry in entries)
        list(pool.map(sink.put, range(len(entries)), videos))
    sink.close_group(0, {})
