"""Frame stores: the frames that were put in come out, and what is damaged or missing is said."""

import errno
import os
import pickle
import re
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from reskd.common.dataset.frames import encode, write, write_shard
from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.estimate import forecast_frames
from reskd.common.dataset.frames.extract import Extraction, extract_frames
from reskd.common.dataset.frames.folders import open_image_folder
from reskd.common.dataset.frames.image_io import decode_one, encode_images
from reskd.common.dataset.frames.packed import PackedStore
from reskd.common.dataset.frames.plan import FrameOptions, ImageFormat, StoreLayout
from reskd.common.dataset.frames.store import open_kept, open_store, store_identity
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.dataset.open import open_entry
from reskd.common.dataset.quarantine import BadVideo, quarantine_file, write_quarantine
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment import DataSpec
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.video_file import open_video
from tests.tiny_experiment import cut_off
from tests.video_files import frame_numbers, numbered_frames, write_video

LENGTHS = {"b/a é.mp4": 30, "b/c.mp4": 17, "a.mp4": 24, "\udce4.mp4": 9}
PNG = FrameOptions(fps=None, image_format="png", quality=None, short_side=None)
JPG_4 = FrameOptions(fps=4.0, image_format="jpg", quality=90, short_side=None)
LAYOUTS: list[StoreLayout] = ["packed", "folders"]
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
"""Python 3.12 warns of forks beside threads; idle ones of a library, here."""


@pytest.fixture(scope="module")
def index_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four numbered videos at 12 frames per second and their index; copy before changing."""
    folder = tmp_path_factory.mktemp("frames")
    entries = []
    for name, length in LENGTHS.items():
        write_video(folder / "videos" / name, numbered_frames(length), bf="2", g="9")
        entries.append(
            VideoEntry(id=name, path=name, labels=(0,), split="train", num_frames=length, fps=12.0)
        )
    index = VideoIndex(classes=("x",), root=folder / "videos", videos=tuple(entries))
    write_index(folder / "index.jsonl", index)
    return folder / "index.jsonl"


@pytest.fixture
def index_file(index_template: Path, tmp_path: Path) -> Path:
    """An index of this test alone; the videos are links."""
    for name in LENGTHS:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(index_template.parent / "videos" / name)
    index = read_index(index_template)
    write_index(tmp_path / "index.jsonl", replace(index, root=tmp_path / "videos"))
    return tmp_path / "index.jsonl"


def extraction(
    index_file: Path,
    out: str,
    options: FrameOptions = PNG,
    *,
    layout: StoreLayout = "packed",
    shard_frames: int | None = None,
    jobs: int = 2,
    allow_unreadable: bool = False,
) -> Extraction:
    return Extraction(
        index=read_index(index_file),
        data=DataSpec(index=index_file, decoder="pyav"),
        split=None,
        options=options,
        layout=layout,
        out=index_file.parent / out,
        jobs=jobs,
        allow_unreadable=allow_unreadable,
        shard_frames=shard_frames,
    )


def made(*arguments: Any, **options: Any) -> Extraction:
    """The same, made."""
    wanted = extraction(*arguments, **options)
    extract_frames(wanted)
    return wanted


def from_video(index_file: Path, video_id: str) -> NDArray[np.uint8]:
    with open_video(read_index(index_file).root / video_id, "pyav") as video:
        return video.frames(range(video.num_frames))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_png_store_at_native_size_gives_the_exact_frames_of_the_videos(
    index_file: Path, layout: StoreLayout
) -> None:
    wanted = extraction(index_file, "frames.h5" if layout == "packed" else "f", layout=layout)
    result = extract_frames(wanted)
    assert (result["videos"], result["kept_frames"]) == (4, sum(LENGTHS.values()))
    assert result["files"] == (1 if layout == "packed" else 81)
    data = replace(wanted.data, frames=wanted.out)
    for entry in wanted.entries:
        with open_entry(wanted.index, entry, data) as video:
            facts = video.num_frames, video.height, video.width, video.fps
            frames = video.frames(range(video.num_frames))
        assert facts == (entry.num_frames, 80, 96, 12.0)
        np.testing.assert_array_equal(frames, from_video(index_file, entry.id))


def test_folders_are_named_as_the_reference_names_them(index_file: Path) -> None:
    options = replace(PNG, fps=1.0)
    made(index_file, "f", options, layout="folders")
    folder = index_file.parent / "f"
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.mp4",
        "b",
        "frames.json",
        "\udce4.mp4",
    ]
    assert names(folder / "a.mp4") == ["img_00001.png", "img_00002.png"]
    # Anybody's folders are videos too, of unknown rate; 12 frames lie between these.
    with open_image_folder(folder / "a.mp4") as video:
        assert (video.num_frames, video.height, video.width, video.fps) == (2, 80, 96, 0.0)
        assert frame_numbers(video.frames([1, 0])) == [12, 0]


def test_jpg_store_at_four_per_second_keeps_near_pictures_of_the_right_frames(
    index_file: Path,
) -> None:
    wanted = made(index_file, "frames.h5", JPG_4)
    with open_kept(wanted.out, "b/a é.mp4") as video:
        assert (video.num_frames, video.fps) == (10, 4.0)
        frames = video.frames(range(10))
    assert frame_numbers(frames) == list(range(0, 30, 3))
    original = from_video(index_file, "b/a é.mp4")[::3]
    assert np.abs(frames.astype(int) - original).mean() < 1.0


def test_short_side_makes_pictures_smaller_and_never_larger(index_file: Path) -> None:
    small = made(index_file, "small.h5", replace(JPG_4, short_side=40))
    large = made(index_file, "large.h5", replace(JPG_4, short_side=200))
    with open_kept(small.out, "a.mp4") as video:
        assert video.frames([0, 5]).shape == (2, 40, 48, 3)
        assert frame_numbers(video.frames([5])) == [15]
    with open_kept(large.out, "a.mp4") as video:
        assert (video.height, video.width) == (80, 96)


@pytest.fixture(scope="module")
def store(index_template: Path) -> Path:
    """A packed png store of all frames in several files; never change it."""
    made(index_template, "shared.h5", shard_frames=50)
    return index_template.parent / "shared.h5"


@pytest.mark.parametrize(
    "indices", [[0], [29], [20, 3, 3, 29, 0, 20], list(range(30)), [17, 18, 19]]
)
def test_frames_in_any_order_come_as_asked(store: Path, indices: list[int]) -> None:
    with open_kept(store, "b/a é.mp4") as video:
        frames = video.frames(indices)
    assert frames.shape == (len(indices), 80, 96, 3)
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == indices


def test_frames_of_no_or_impossible_indices(store: Path) -> None:
    with open_kept(store, "a.mp4") as video:
        assert video.frames([]).shape == (0, 80, 96, 3)
        with pytest.raises(ValueError, match="start at 0, got -1"):
            video.frames([3, -1])
        with pytest.raises(UnreadableVideoError, match="frame 24 was asked for and 24 frames"):
            video.frames([24])


def test_store_of_several_files_takes_videos_while_they_fit(store: Path) -> None:
    # In the order of the index: 24, then 30 and 17, then 9 of 50 at most.
    shards = PackedStore(store).shards
    assert [shard.ids for shard in shards] == [
        ("a.mp4",),
        ("b/a é.mp4", "b/c.mp4"),
        ("\udce4.mp4",),
    ]
    assert [shard.path.name for shard in shards] == [
        f"shared-0000{n}-of-00003.h5" for n in range(3)
    ]


def numbers_read(store: Path, video_id: str, indices: Sequence[int]) -> list[int]:
    with open_kept(store, video_id) as video:
        return frame_numbers(video.frames(indices))


@FORKS
def test_frames_are_read_in_threads_and_in_forked_processes(store: Path) -> None:
    wanted = [[n, 23 - n] for n in range(24)]
    with open_kept(store, "a.mp4") as video, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda indices: frame_numbers(video.frames(indices)), wanted))
    assert read == wanted
    with get_context("fork").Pool(2) as processes:  # they inherit the open store
        tasks = [(store, "a.mp4", indices) for indices in wanted]
        assert processes.starmap(numbers_read, tasks) == wanted


def test_anybody_reads_the_images_with_h5py_alone(store: Path) -> None:
    shard = PackedStore(store).shards[1]
    with h5py.File(shard.path) as file:
        (place,) = np.flatnonzero(np.char.equal(file["ids"].asstr()[:].astype(str), "b/c.mp4"))
        row = file["frames"][file["videos"][place]["first_frame"] + 7]
        image = file["images"][row["offset"] : row["offset"] + row["size"]]
        # Times of creation would make equal stores differ.
        plists = [dataset.id.get_create_plist() for dataset in file.values()]
        assert not any(plist.get_obj_track_times() for plist in plists)
    assert row["source"] == 7
    assert frame_numbers(decode_one(image.tobytes())[None]) == [7]


def copy_of(store: Path, folder: Path) -> Path:
    for path in PackedStore(store).files:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / store.name


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def test_one_damaged_byte_of_an_image_or_table_is_found(store: Path, tmp_path: Path) -> None:
    copy = copy_of(store, tmp_path)
    shard = PackedStore(copy).shards[1]
    rows = shard.rows(1)
    flip(shard.path, shard.images_start + int(rows["offset"][3]) + 40)
    with open_kept(copy, "b/c.mp4") as video:
        assert frame_numbers(video.frames([2, 4])) == [2, 4]
        with pytest.raises(UnreadableVideoError, match=r"frame 3: its image in .* is damaged"):
            video.frames([3])
    flip(shard.path, shard.frames_start + 2)
    with pytest.raises(UnreadableVideoError, match=r"b/a é\.mp4: its table of frames .* damaged"):
        open_kept(copy, "b/a é.mp4")
    place = shard.path.read_bytes().index(shard.videos.tobytes())
    flip(shard.path, place)
    with pytest.raises(DataError, match=r"00001-of-00003\.h5 is no whole file of a frame store"):
        PackedStore(copy)


@pytest.mark.parametrize("what", ["cut", "empty", "text", "gone"])
def test_store_with_a_bad_file_says_which(store: Path, tmp_path: Path, what: str) -> None:
    copy = copy_of(store, tmp_path)
    last = PackedStore(copy).files[2]
    if what == "gone":
        last.unlink()
    else:
        content = last.read_bytes()
        last.write_bytes({"cut": content[:-50], "empty": b"", "text": b"hello"}[what])
    with pytest.raises(DataError, match=r"lacks 1 .*number 2|00002-of-00003\.h5 is no whole file"):
        open_store(copy)


def test_video_that_the_store_lacks_names_the_command(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"made without video 'z\.mp4'.*extract-frames") as caught:
        open_kept(store, "z.mp4")
    assert not isinstance(caught.value, UnreadableVideoError)
    with pytest.raises(DataError, match=r"'y\.mp4' and 1 more"):
        store_identity(store, ["a.mp4", "y.mp4", "z.mp4"])
    with pytest.raises(DataError, match=r"no frame store .*none\.h5; make it with"):
        open_store(tmp_path / "none.h5")
    with pytest.raises(DataError, match=r"holds no frames\.json"):
        open_store(tmp_path)


def test_store_that_was_replaced_is_read_anew(index_file: Path) -> None:
    wanted = made(index_file, "frames.h5")
    before = store_identity(wanted.out, LENGTHS)
    wanted.out.unlink()
    extract_frames(replace(wanted, options=JPG_4))
    after = store_identity(wanted.out, LENGTHS)
    assert before["images"] == "png"
    assert after["frame_store"] != before["frame_store"]


def test_identity_is_that_of_the_frames_not_of_the_files(store: Path, index_file: Path) -> None:
    one = made(index_file, "one.h5")
    folders = made(index_file, "f", layout="folders")
    some = ["a.mp4", "b/c.mp4"]
    identity = store_identity(store, some)
    assert identity == store_identity(one.out, some) == store_identity(folders.out, some)
    assert identity != store_identity(store, some[::-1])


def test_unreadable_videos_stop_short_and_go_on_when_fixed(index_file: Path) -> None:
    broken = index_file.parent / "videos" / "b" / "c.mp4"
    sound = broken.resolve()
    broken.unlink()
    broken.write_bytes(sound.read_bytes())
    cut_off(broken)
    wanted = extraction(index_file, "frames.h5")
    with pytest.raises(
        StoppedShortError, match=r"1 of 4 videos cannot be read:\n  b/c\.mp4: .*cut"
    ):
        extract_frames(wanted)
    assert not wanted.out.exists()
    finished = sorted((index_file.parent / "frames.h5.partial").glob("*.video"))
    assert len(finished) == 3

    allowed = replace(wanted, out=index_file.parent / "allowed.h5", allow_unreadable=True)
    result = extract_frames(allowed)
    assert list(result["failures"]) == ["b/c.mp4"]
    with pytest.raises(UnreadableVideoError, match="cut off or damaged"):
        open_kept(allowed.out, "b/c.mp4")

    broken.write_bytes(sound.read_bytes())
    assert extract_frames(wanted)["failures"] == {}
    undisturbed = made(index_file, "other.h5")
    assert wanted.out.read_bytes() == undisturbed.out.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_store_of_nothing_but_failures_is_a_store(index_file: Path, layout: StoreLayout) -> None:
    bad = [BadVideo(id=name, path=name, verdict="hang", message="") for name in LENGTHS]
    write_quarantine(quarantine_file(index_file), bad)
    out = "frames.h5" if layout == "packed" else "f"
    wanted = extraction(index_file, out, layout=layout, allow_unreadable=True)
    assert len(extract_frames(wanted)["failures"]) == 4
    with pytest.raises(UnreadableVideoError, match="hang"):
        open_kept(wanted.out, "a.mp4")


def test_video_without_a_rate_needs_all_its_frames(index_file: Path) -> None:
    folders = made(index_file, "f", layout="folders")
    index = read_index(index_file)
    entries = tuple(replace(entry, fps=0.0) for entry in index.videos)
    write_index(index_file.parent / "g.jsonl", replace(index, root=folders.out, videos=entries))
    again = extraction(index_file.parent / "g.jsonl", "again.h5", JPG_4)
    with pytest.raises(StoppedShortError, match=r"how many frames a second.*--fps native"):
        extract_frames(again)
    whole = replace(again, options=PNG, out=index_file.parent / "whole.h5")
    extract_frames(whole)
    with open_kept(whole.out, "a.mp4") as video:
        np.testing.assert_array_equal(video.frames(range(24)), from_video(index_file, "a.mp4"))


def test_forecast_of_videos_without_frames_in_the_index_says_so(index_file: Path) -> None:
    wanted = extraction(index_file, "frames.h5")
    videos = tuple(replace(entry, num_frames=0) for entry in wanted.entries)
    with pytest.raises(DataError, match="none of the 4 videos probed has frames as the index says"):
        forecast_frames(replace(wanted, index=replace(wanted.index, videos=videos)))
    for path in (wanted.index.path_of(entry) for entry in videos):
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 4 .* can be read, a\.mp4 is the first"):
        forecast_frames(wanted)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([1, 2, 4, 5], "image number 3 is missing"),
        ([1, 3], "image number 2 is missing"),
        ([0, 5, 10, 20], "image number 15 is missing"),
        ([], "holds no images"),
    ],
)
def test_folder_with_a_gap_names_the_first_missing_image(
    tmp_path: Path, files: list[int], message: str
) -> None:
    (image,) = encode_images(numbered_frames(1), PNG)
    for number in files:
        (tmp_path / f"frame-{number}.png").write_bytes(image)
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(UnreadableVideoError, match=message):
        open_image_folder(tmp_path)


def test_folder_from_elsewhere_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number, image in enumerate(encode_images(numbered_frames(12), replace(JPG_4, fps=None))):
        (tmp_path / f"x2_{number}.JPG").write_bytes(image)
    with open_image_folder(tmp_path) as video:
        assert frame_numbers(video.frames(range(12))) == list(range(12))
    (tmp_path / "x2_3.JPG").write_bytes((tmp_path / "x2_3.JPG").read_bytes()[:-60])
    (tmp_path / "x2_4.JPG").write_bytes(b"")
    (small,) = encode_images(numbered_frames(1, height=40), replace(JPG_4, fps=None))
    (tmp_path / "x2_5.JPG").write_bytes(small)
    with open_image_folder(tmp_path) as video:
        for number, message in ((3, "no whole image"), (4, "is empty"), (5, "40x96 pixels")):
            with pytest.raises(UnreadableVideoError, match=rf"frame {number}: .*{message}"):
                video.frames([number])
    (tmp_path / "other_1.png").write_bytes(small)
    with pytest.raises(UnreadableVideoError, match="several kinds"):
        open_image_folder(tmp_path)


def test_store_begun_or_made_in_another_way_is_not_touched(index_file: Path) -> None:
    wanted = made(index_file, "frames.h5", JPG_4)
    before = wanted.out.read_bytes()
    assert extract_frames(wanted)["videos_written"] == 0
    with pytest.raises(DataError, match=r"belongs to other frames: fps was 4\.0, now it is 2\.0"):
        extract_frames(replace(wanted, options=replace(JPG_4, fps=2.0)))
    with pytest.raises(DataError, match="shards was"):
        extract_frames(replace(wanted, shard_frames=5))
    assert wanted.out.read_bytes() == before
    with pytest.raises(DataError, match=r"must end in \.h5"):
        extract_frames(replace(wanted, out=wanted.out.with_suffix("")))
    with pytest.raises(DataError, match="is not empty and no frame store"):
        extract_frames(replace(wanted, layout="folders", out=index_file.parent))


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_frames_decoded_in_parts_are_the_same_images(
    index_file: Path, monkeypatch: pytest.MonkeyPatch, image_format: ImageFormat
) -> None:
    quality = 90 if image_format == "jpg" else None
    options = FrameOptions(fps=None, image_format=image_format, quality=quality, short_side=50)
    index = read_index(index_file)

    def images() -> list[bytes]:
        data = DataSpec(index=index_file, decoder="pyav")
        kept = KeptVideo(index, index.videos[0], data, options, Event())
        return list(kept.images())

    whole = images()
    monkeypatch.setattr(encode, "DECODE_BYTES", 7 * 80 * 96 * 3)
    assert images() == whole
    assert len(whole) == 24


def test_full_disk_keeps_what_is_finished(
    index_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = extraction(index_file, "frames.h5", jobs=1)
    write_piece, written = write_shard.write_piece, list[Path]()

    def fails_at_the_third(path: Path, video: KeptVideo) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "no space", str(path))
        write_piece(path, video)
        written.append(path)

    monkeypatch.setattr(write, "write_piece", fails_at_the_third)
    with pytest.raises(OSError, match="no space"):
        extract_frames(wanted)
    monkeypatch.undo()
    assert not wanted.out.exists()
    stamps = [path.stat().st_mtime_ns for path in written]
    assert len(stamps) == 2
    extract_frames(wanted)
    assert sorted(path.name for path in index_file.parent.iterdir()) == [
        *("frames.h5", "index.jsonl", "videos")
    ]


def run_until_killed(wanted: Extraction, module: ModuleType, name: str, call: int) -> int:
    """Make a store in a child that is killed when it calls a function for the n-th time."""
    original, calls = getattr(module, name), []
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(module, name, counted)
    try:
        extract_frames(wanted)
    finally:
        os._exit(0)


@FORKS
@pytest.mark.parametrize(
    ("layout", "module", "name", "call", "left"),
    [
        # In the middle of the third video: two are finished.
        ("packed", encode, "crc32c", 60, ["0000000.video", "0000001.video"]),
        # In the middle of the file, with all videos finished.
        ("packed", write_shard, "_append_images", 2, [f"000000{n}.video" for n in range(4)]),
        ("folders", encode, "crc32c", 60, ["0000000.json", "0000001.json"]),
        # With all images of the second video and no record of them; the plan's is the first.
        ("folders", write, "write_record", 3, ["0000000.json"]),
    ],
)
def test_killed_run_goes_on_and_ends_with_the_same_bytes(
    index_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: StoreLayout,
    module: ModuleType,
    name: str,
    call: int,
    left: list[str],
) -> None:
    home = index_file.parent
    out = "frames.h5" if layout == "packed" else "f"
    wanted = extraction(index_file, out, layout=layout, jobs=1)
    assert run_until_killed(wanted, module, name, call) == -signal.SIGKILL
    work = home / "frames.h5.partial" if layout == "packed" else wanted.out / ".partial"
    assert [name for name in names(work) if re.fullmatch(r"\d+\.(video|json)", name)] == left
    assert not (home / "frames.h5").exists()
    with pytest.raises(DataError, match="extract-frames"):
        open_store(wanted.out)
    opened = list[str]()

    def noting(index: VideoIndex, entry: VideoEntry, data: DataSpec) -> VideoReader:
        opened.append(entry.id)
        return open_entry(index, entry, data)

    monkeypatch.setattr(encode, "open_entry", noting)
    extract_frames(wanted)
    assert not work.exists()
    assert opened == [entry.id for entry in wanted.entries][len(left) :]

    undisturbed = replace(wanted, out=home / f"other{wanted.out.suffix}")
    extract_frames(undisturbed)
    if layout == "packed":
        assert wanted.out.read_bytes() == undisturbed.out.read_bytes()
        return
    assert names(wanted.out) == names(undisturbed.out)
    for path in filter(Path.is_file, undisturbed.out.rglob("*")):
        assert (wanted.out / path.relative_to(undisturbed.out)).read_bytes() == path.read_bytes()


def test_images_lost_after_a_kill_are_noticed_and_made_again(index_file: Path) -> None:
    wanted = extraction(index_file, "f", layout="folders", jobs=1)
    assert run_until_killed(wanted, encode, "crc32c", 60) == -signal.SIGKILL
    lost = wanted.out / "a.mp4" / "img_00003.png"
    content = lost.read_bytes()
    lost.write_bytes(b"")
    extract_frames(wanted)
    assert lost.read_bytes() == content


def test_reader_that_fails_keeps_its_reason_through_pickling(store: Path) -> None:
    with open_kept(store, "a.mp4") as video, pytest.raises(UnreadableVideoError) as caught:
        video.frames([99])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
