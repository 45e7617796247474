"""Mutants of video files through every reader: frames or UnreadableVideoError, nothing else.

    python -m tests.campaigns.video_fuzz --mutants 1000 --minutes 10 --json

Each mutant is read in a process of its own, by PyAV, decord and both together, forwards and by
number; of folders of images and packed frame stores one image, or the file, is a mutant. `escaped`
lists other exceptions, `died` the decoders that took their process with them and `stuck` those that
never came back: `reskd dataset check` is there for these two.
"""

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from reskd.common.cli.main import main as reskd
from reskd.common.console import emit
from reskd.common.dataset.frames.folders import checked_folder
from reskd.common.dataset.frames.store import open_kept
from reskd.common.errors import DataError
from reskd.common.video import attempts, decord_library
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.video_file import PyAVReader, open_video
from tests import REPOSITORY
from tests.video_files import numbered_frames, write_video

Change = Callable[[bytearray, np.random.Generator], None]

VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".flv", ".gif"})
MOST_BYTES: Final = 4 << 30
"""Of address space that a reader may take beyond what the campaign has."""
SECONDS: Final = 60
TAGS: Final = (b"avc1", b"moov", b"mdat", b"stsd", b"stts", b"stco", b"trak", b"hdlr", b"avcC")


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), int(rng.integers(1, 65))):
        data[place] ^= 1 << int(rng.integers(8))


def zero_a_stretch(data: bytearray, rng: np.random.Generator) -> None:
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    data[start:stop] = bytes(stop - start)


def cut_short(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(0, len(data))) :]


def leave_out(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    del data[start : start + int(rng.integers(1, 4096))]


def put_in_noise(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    data[start:start] = rng.bytes(int(rng.integers(1, 4096)))


def extreme_number(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    number = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    data[start : start + 4] = int(number).to_bytes(4, "big")


def other_tag(data: bytearray, rng: np.random.Generator) -> None:
    tag = TAGS[int(rng.integers(len(TAGS)))]
    data[:] = data.replace(tag, bytes(rng.choice(list(b"azAZ09 \xa9"), 4).tolist()))


def noise_in_the_head(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, min(len(data), 1024), int(rng.integers(1, 9))):
        data[place] = int(rng.integers(256))


CHANGES: Final[Sequence[Change]] = (
    flip_bits,
    zero_a_stretch,
    cut_short,
    leave_out,
    put_in_noise,
    extreme_number,
    other_tag,
    noise_in_the_head,
)


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """A file changed in one to three ways."""
    data = bytearray(content or b"\0")
    for _ in range(int(rng.integers(1, 4))):
        if data:
            CHANGES[int(rng.integers(len(CHANGES)))](data, rng)
    return bytes(data)


def use(video: VideoReader) -> None:
    """Ask a reader for some frames."""
    last = video.num_frames - 1
    with suppress(MemoryError):
        video.frames(sorted({0, last // 2, last}))


def use_all(path: Path) -> None:
    video = open_video(path, "pyav")
    assert isinstance(video, PyAVReader)
    for _ in video.in_order([0, video.num_frames - 1]):
        pass
    video.try_out()


def use_images(path: Path) -> None:
    use(checked_folder(path.with_name("images")))


def use_store(path: Path) -> None:
    try:
        use(open_kept(path.with_name("frames.h5"), "some/a.mp4"))
    except UnreadableVideoError:
        raise
    except DataError as error:  # the store itself is refused
        raise UnreadableVideoError(path, "frame store", str(error)) from error


READERS: Final[Mapping[str, Callable[[Path], None]]] = {
    "pyav": lambda path: use(open_video(path, "pyav")),
    "decord": lambda path: use(open_video(path, "decord")),
    "auto": lambda path: use(open_video(path, "auto", num_wanted=10**6)),
    "in order": use_all,
    "images": use_images,
    "frame store": use_store,
}


def outcome(reader: str, path: Path) -> str:
    """What came of a mutant: `frames`, `unreadable`, or what escaped."""
    try:
        READERS[reader](path)
    except UnreadableVideoError:
        return "unreadable"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"[:300]
    return "frames"


def apart(reader: str, path: Path) -> str:
    """The same in a process of its own, whose end is an outcome too."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.write(theirs, outcome(reader, path).encode("utf-8", "replace"))
        os._exit(0)
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], SECONDS)
    said = os.read(ours, 4096).decode() if ready else "stuck"
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return said or f"died: {os.waitstatus_to_exitcode(status)}"


def small_videos(folder: Path) -> list[Path]:
    """Some videos of our own, where there are no others."""
    frames = numbered_frames(24)
    return [
        write_video(folder / "a.mp4", frames),
        write_video(folder / "b.mkv", frames, bf="2"),
        write_video(folder / "c.avi", frames, codec="mpeg4"),
        write_video(folder / "d.webm", frames, codec="libvpx"),
    ]


def image_sources(folder: Path) -> tuple[list[Path], Path]:
    """Images of a folder and a packed store, made once."""
    write_video(folder / "videos" / "some" / "a.mp4", numbered_frames(12))
    index, made, kept = folder / "index.jsonl", folder / "frames.h5", folder / "kept"
    extract = f"dataset extract-frames {index} --fps native --out"
    for command in (
        f"dataset import folder {folder / 'videos'} --val 0 --out {index}",
        f"{extract} {made}",
        f"{extract} {kept} --layout folders",
    ):
        with redirect_stdout(sys.stderr):
            code = reskd(command.split())
        assert code == 0, f"{command} ended with {code}"
    return sorted((folder / "kept").rglob("*.jpg")), made


def run_campaign(
    sources: Sequence[Path],
    folder: Path,
    *,
    mutants: int,
    seed: int,
    seconds: float = float("inf"),
    read: Callable[[str, Path], str] = apart,
    readers: Sequence[str] = tuple(READERS),
) -> dict[str, Any]:
    """See the top of the file.

    Args:
        sources: Sound and odd videos to change.
        folder: To work in.
        mutants: How many.
        seed: Of all of them; each has its own generator.
        seconds: After which no more are begun.
        read: How one is read.
        readers: Who read.
    """
    begin, counts = time.perf_counter(), {reader: Counter[str]() for reader in readers}
    bad: dict[str, list[dict[str, Any]]] = {"escaped": [], "died": [], "stuck": []}
    wants_images = {"images", "frame store"}.intersection(readers)
    images, store = image_sources(folder / "made") if wants_images else ([], Path())
    done = 0
    for number in range(mutants):
        if time.perf_counter() - begin > seconds:
            break
        rng = np.random.default_rng([seed, number])
        source = sources[int(rng.integers(len(sources)))]
        path = folder / f"mutant{source.suffix}"
        path.write_bytes(mutant(source.read_bytes(), rng))
        if images:
            _mutate_images(folder, images, store, rng)
        for reader in readers:
            said = read(reader, path)
            kind = said if said in ("frames", "unreadable") else said.partition(":")[0]
            counts[reader][kind] += 1
            if kind not in ("frames", "unreadable"):
                where = kind if kind in bad else "escaped"
                bad[where].append(
                    {"number": number, "file": source.name, "reader": reader, "said": said}
                )
        path.unlink()
        done += 1
    return {
        "mutants": done,
        "seed": seed,
        "readings": sum(count.total() for count in counts.values()),
        "outcomes": {reader: dict(count) for reader, count in counts.items()},
        **bad,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _mutate_images(
    folder: Path, images: Sequence[Path], store: Path, rng: np.random.Generator
) -> None:
    """A folder of images of which one is a mutant, and a store that is one."""
    target = folder / "images"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for image in images:
        shutil.copy(image, target / image.name)
    one = target / images[int(rng.integers(len(images)))].name
    one.write_bytes(mutant(one.read_bytes(), rng))
    (folder / "frames.h5").write_bytes(mutant(store.read_bytes(), rng))


@click.command()
@click.option("--mutants", default=1000, show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="After which no more are begun.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--videos",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of videos to change.  [default: shared/data/odd beside the project, or our own]",
)
@click.option("--json", "as_json", is_flag=True)
def main(mutants: int, minutes: float, seed: int, videos: Path | None, as_json: bool) -> None:
    """Read mutants of videos by every reader."""
    attempts.WAITS_SECONDS[:] = [0.0] * len(attempts.WAITS_SECONDS)
    decord_library.DECODE_LIMIT_SECONDS = 10.0
    odd = videos or REPOSITORY.parent / "shared" / "data" / "odd"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = sorted(path for path in odd.rglob("*") if path.suffix in VIDEO_SUFFIXES)
        result = run_campaign(
            sources or small_videos(folder / "own"),
            folder,
            mutants=mutants,
            seed=seed,
            seconds=60 * minutes,
        )
    emit(result, as_json=as_json, text=json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
