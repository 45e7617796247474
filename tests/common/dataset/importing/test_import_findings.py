"""What stops an import, what may be allowed, and how one that was stopped goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.importing import probing
from reskd.common.dataset.index import VideoIndex
from reskd.common.dataset.quarantine import BadVideo, write_quarantine
from reskd.common.video.reader import Decoder, VideoReader
from reskd.common.video.video_file import open_video
from tests.common.dataset.importing.conftest import Import, Videos

Write = Callable[[str, str], Path]
ReadIndex = Callable[[], VideoIndex]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are opened."""
    names: list[str] = []

    def noting(path: Path, decoder: Decoder, *, root: Path | None = None) -> VideoReader:
        names.append(path.name)
        return open_video(path, decoder, root=root)

    monkeypatch.setattr(probing, "open_video", noting)
    return names


def frames_by_id(index: VideoIndex) -> dict[str, int]:
    return {video.id: video.num_frames for video in index.videos}


def test_missing_videos_are_listed_before_any_is_opened(
    videos: Videos,
    write: Write,
    import_: Import,
    tmp_path: Path,
    opened: list[str],
    capsys: Captured,
) -> None:
    videos("0.mp4")
    train = write("train.txt", "".join(f"{number}.mp4 0\n" for number in range(13)))
    assert import_("mmaction", train) == 3
    captured = capsys.readouterr()
    assert "12 videos are missing and 0 unreadable, 0 allowed" in captured.err
    assert captured.err.count("no such file") == 10
    assert "and 2 more" in captured.err
    assert "--allow-missing 12" in captured.err
    assert f"1.mp4 (line 2 of {train})" in captured.err
    assert (captured.out, opened) == ("", [])
    assert not (tmp_path / "index.jsonl").exists()


def test_missing_and_unreadable_videos_up_to_a_number_stay_as_failed(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    (videos("a.mp4") / "b.mp4").write_text("no video")
    train = write("train.txt", "a.mp4 0\nb.mp4 0\nc.mp4 0\n")
    assert import_("mmaction", train, "--allow-missing", 1) == 3
    assert "1 videos are missing and 1 unreadable, 1 allowed" in capsys.readouterr().err
    assert import_("mmaction", train, "--allow-missing", 2) == 0
    assert frames_by_id(index()) == {"a.mp4": 8, "b.mp4": 0, "c.mp4": 0}
    assert "2 of them could not be read and will count as failed" in capsys.readouterr().out


def test_folder_of_images_with_a_gap_is_unreadable(
    frames: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    (frames("a", "b") / "b" / "img_00002.png").unlink()
    train = write("train.txt", "a 4 0\nb 4 0\n")
    assert import_("mmaction", train) == 3
    assert "b (line 2 of" in (error := capsys.readouterr().err)
    assert "image number 2 is missing" in error
    assert import_("mmaction", train, "--allow-missing", 1) == 0
    assert frames_by_id(index()) == {"a": 4, "b": 0}


def test_nothing_found_points_at_the_folder(
    videos: Videos, write: Write, import_: Import, capsys: Captured
) -> None:
    videos("a.mp4")
    assert import_("mmaction", write("train.txt", "videos/a.mp4 0\n")) == 3
    assert "is --videos the folder that the paths start from?" in capsys.readouterr().err


def test_video_named_twice_is_refused_or_merged(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("a.mp4", "b.mp4")
    train = write("train.txt", "a.mp4 0\nb.mp4 1\n./a.mp4 0\n")
    assert import_("mmaction", train) == 3
    assert f"a.mp4: line 3 of {train} and line 1 of {train}" in capsys.readouterr().err
    assert import_("mmaction", train, "--merge-duplicates") == 0
    assert list(frames_by_id(index())) == ["a.mp4", "b.mp4"]
    assert "1 named twice, counted once" in capsys.readouterr().out


def test_two_names_of_one_file_are_the_same_video(
    videos: Videos, write: Write, import_: Import, capsys: Captured
) -> None:
    videos("x.mp4")
    table = write(
        "train.csv",
        "label,youtube_id,time_start,time_end,split\nrun,x,0,10,train\nrun,x,20,30,train\n",
    )
    assert import_("kinetics", table) == 3
    assert "x_000020_000030: line 3 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "val", "problem"),
    [
        ("a.mp4 0\na.mp4 1\n", "b.mp4 0\n", "named twice with different labels"),
        ("a.mp4 0\n", "a.mp4 0\n", "1 videos are in two splits"),
        ("a.mp4 0\n", "a.webm 0\n", "1 videos are in two splits"),
    ],
)
def test_contradictions_and_overlaps_cannot_be_merged(
    videos: Videos,
    write: Write,
    import_: Import,
    capsys: Captured,
    train: str,
    val: str,
    problem: str,
) -> None:
    videos("a.mp4", "b.mp4")
    sources = write("train.txt", train), write("val.txt", val)
    assert import_("mmaction", *sources, "--merge-duplicates") == 3
    assert problem in capsys.readouterr().err


def test_copy_in_another_split_is_refused_or_allowed(
    videos: Videos, write: Write, import_: Import, capsys: Captured
) -> None:
    folder = videos("a.mp4")
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
    sources = write("train.txt", "a.mp4 0\n"), write("val.txt", "b.mp4 0\n")
    assert import_("mmaction", *sources) == 3
    assert "a.mp4 (`train`) and b.mp4 (`val`)" in capsys.readouterr().err
    assert import_("mmaction", *sources, "--allow-copies") == 0


def test_labels_from_one_are_refused_until_said(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("a.mp4", "b.mp4")
    train = write("train.txt", "a.mp4 1\nb.mp4 2\n")
    assert import_("mmaction", train) == 3
    assert "say --labels-from 1" in capsys.readouterr().err
    assert import_("mmaction", train, "--labels-from", 1) == 0
    assert [video.labels for video in index().videos] == [(0,), (1,)]


def test_refusal_with_json_prints_the_whole_report(
    videos: Videos, write: Write, import_: Import, capsys: Captured
) -> None:
    videos("a.mp4")
    train = write("train.txt", "# mine\na.mp4 0\nb.mp4 2\n")
    assert import_("mmaction", train, "--json") == 3
    printed = json.loads(capsys.readouterr().out)
    assert printed["index"] is None
    report = printed["report"]
    assert (report["expected"], report["found"]) == ({"train": 2}, {"train": 1})
    assert (report["label_range"], report["num_classes"]) == ([0, 2], 3)
    assert report["empty_classes"] == {"train": ["1"]}
    assert report["ignored"] == {"a comment": 1}
    assert [text.split(" ")[0] for text in report["missing"]] == ["b.mp4"]


def test_import_that_failed_goes_on_without_opening_videos_again(
    videos: Videos,
    write: Write,
    import_: Import,
    index: ReadIndex,
    tmp_path: Path,
    opened: list[str],
) -> None:
    folder = videos("a.mp4", "b.mp4")
    sound = (folder / "b.mp4").read_bytes()
    (folder / "b.mp4").write_text("no video")
    train = write("train.txt", "a.mp4 0\nb.mp4 0\n")
    assert import_("mmaction", train) == 3
    assert sorted(opened) == ["a.mp4", "b.mp4"]
    opened.clear()
    (folder / "b.mp4").write_bytes(sound)
    assert import_("mmaction", train) == 0
    assert opened == ["b.mp4"]
    assert frames_by_id(index()) == {"a.mp4": 8, "b.mp4": 8}
    assert sorted(path.name for path in tmp_path.glob("index*")) == ["index.jsonl"]


def test_folder_import_goes_on_too(
    videos: Videos,
    import_: Import,
    tmp_path: Path,
    opened: list[str],
) -> None:
    folder = videos("run/1.mp4", "run/2.mp4")
    (folder / "run" / "bad.mp4").write_text("no video")
    arguments = ("dataset", "import", "folder", str(folder), "--out", str(tmp_path / "x.jsonl"))
    assert main(list(arguments)) == 3
    (folder / "run" / "bad.mp4").unlink()
    opened.clear()
    assert main(list(arguments)) == 0
    assert opened == []
    assert not (tmp_path / "x.jsonl.probes.jsonl").exists()


@pytest.mark.parametrize("beside", [True, False])
def test_quarantined_video_is_kept_as_failed_and_never_opened(
    videos: Videos,
    write: Write,
    import_: Import,
    index: ReadIndex,
    tmp_path: Path,
    opened: list[str],
    capsys: Captured,
    beside: bool,
) -> None:
    videos("a.mp4", "b.mp4")
    path = tmp_path / ("index.jsonl.quarantine.json" if beside else "bad.json")
    write_quarantine(path, [BadVideo(id="b.mp4", path="", verdict="hang", message="20 s")])
    option = () if beside else ("--quarantine", path)
    assert import_("mmaction", write("train.txt", "a.mp4 0\nb.mp4 0\n"), *option) == 0
    assert opened == ["a.mp4"]
    assert frames_by_id(index()) == {"a.mp4": 8, "b.mp4": 0}
    assert "b.mp4: in quarantine: hang: 20 s" in capsys.readouterr().out


def test_absent_quarantine_file_is_refused(
    videos: Videos, write: Write, import_: Import, tmp_path: Path
) -> None:
    videos("a.mp4")
    train = write("train.txt", "a.mp4 0\n")
    assert import_("mmaction", train, "--quarantine", tmp_path / "absent.json") == 3


def test_order_of_lines_and_files_does_not_change_the_index(
    videos: Videos, write: Write, import_: Import, index: ReadIndex
) -> None:
    videos("a.mp4", "b.mp4", "c.mp4")
    train, val = write("train.txt", "a.mp4 0\nb.mp4 1\n"), write("val.txt", "c.mp4 1\n")
    assert import_("mmaction", train, val) == 0
    before = index()
    write("train.txt", "b.mp4 1\na.mp4 0\n")
    assert import_("mmaction", val, train) == 0
    assert index() == before


def test_video_with_another_number_of_frames_than_listed_is_named(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("a.mp4", "b.mp4")
    train = write("train.txt", "a.mp4 8 0\nb.mp4 20 1\n")
    assert import_("mmaction", train) == 3
    assert "--layout videos-frames" in capsys.readouterr().err
    assert import_("mmaction", train, "--layout", "videos-frames") == 0
    assert "1 videos with another number of frames than listed" in (out := capsys.readouterr().out)
    assert "b.mp4: 8 instead of 20" in out
    assert [video.labels for video in index().videos] == [(0,), (1,)]


def test_segments_of_one_video_are_refused_with_the_remedy(
    videos: Videos, write: Write, import_: Import, capsys: Captured
) -> None:
    videos("a.mp4")
    train = write("train.txt", "a.mp4 1 0\na.mp4 17 1\n")
    assert import_("mmaction", train, "--layout", "videos-start") == 3
    error = capsys.readouterr().err
    assert "2 rows are a part of a video" in error
    assert "ffmpeg -i VIDEO -ss START" in error
    assert "One of the two lines is wrong" not in error
    assert import_("mmaction", train, "--layout", "videos-start", "--ignore-columns", "start") == 3
    assert "named twice with different labels" in capsys.readouterr().err
