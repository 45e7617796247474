"""`reskd dataset check`: a verdict on every video, whatever decoding it does."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.check.checking import CheckPlan, CheckReport, check_index
from reskd.common.dataset.check.pool import try_all
from reskd.common.dataset.check.trial import Trial, sampled
from reskd.common.dataset.check.verdicts import (
    VideoCheck,
    decoded,
    frames_needed,
    hint_of,
    promise_broken,
    size_complaint,
)
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.dataset.open import open_entry
from reskd.common.dataset.quarantine import (
    BadVideo,
    quarantine_file,
    read_quarantine,
    write_quarantine,
)
from reskd.common.errors import DataError
from reskd.common.experiment import ClipSpec, DataSpec
from reskd.common.storage.journal import journal_file
from reskd.common.video.reader import UnreadableVideoError
from tests import REPOSITORY
from tests.common.dataset.check.fake_decoders import ACTIONS, misbehave, tries_of
from tests.processes import started
from tests.video_files import numbered_frames, shared_data, write_sound, write_video

CLIP = ClipSpec(num_clips=4)


def make_index(
    folder: Path, ids: Sequence[str], *, num_frames: int | Mapping[str, int] = 7, val: str = ""
) -> Path:
    """An index of files in `folder`, which are not looked at; `val` is in split val."""
    frames = dict.fromkeys(ids, num_frames) if isinstance(num_frames, int) else num_frames
    videos = tuple(
        VideoEntry(
            id=id_,
            path=id_,
            labels=(0,),
            split="val" if id_ == val else "train",
            num_frames=frames[id_],
            fps=12.0,
        )
        for id_ in ids
    )
    path = folder / "index.jsonl"
    write_index(path, VideoIndex(classes=("a",), root=folder, videos=videos))
    return path


def plan(index: Path, **changes: Any) -> CheckPlan:
    usual = CheckPlan(
        index=index,
        split=None,
        clip=CLIP,
        decoder="auto",
        every_frame=False,
        jobs=2,
        seconds=60.0,
    )
    return replace(usual, **changes)


def by_name(report: CheckReport) -> dict[str, VideoCheck]:
    return {path.name: finding for path, finding in report.findings.items()}


def test_try_all_of_decoders_that_misbehave_gives_every_video_its_verdict(tmp_path: Path) -> None:
    ids = [f"{name}.mp4" for name in ("fine", *ACTIONS)]
    entries = read_index(make_index(tmp_path, ids)).videos
    trials = [
        Trial(
            entry=entry,
            root=tmp_path,
            data=DataSpec(index=tmp_path),
            clip=CLIP,
            every_frame=False,
        )
        for entry in entries
    ]
    outcomes = list(try_all(trials, try_one=misbehave, jobs=2, seconds=3.0))
    found = {trial.entry.id: finding for trial, finding in outcomes}
    assert len(outcomes) == len(ids)
    assert set(found) == set(ids)
    for id_, finding in found.items():
        expected = id_.partition("_")[0].removesuffix(".mp4").replace("fine", "ok")
        assert finding.verdict == expected, (id_, finding)
    said = {id_.removesuffix(".mp4"): finding.message for id_, finding in found.items()}
    assert said["hang"].startswith("no sign of life within 3 s")
    assert "SIGSEGV" in said["crash_segfault"]
    assert "SIGABRT; it said: terminate called" in said["crash_abort"]
    assert "exit code 3" in said["crash_exit"]
    assert "memory" in said["crash_memory"]
    assert "SIGKILL, as the system does when memory runs out" in said["crash_killed"]
    assert "KeyError: 'no such stream'" in said["crash_error"]
    assert "SystemExit" in said["crash_system_exit"]
    assert {said["fine"], said["ok_babble"], said["ok_thread"], said["ok_poison"]} == {""}
    # A process that ended, or must end, tries no other video; the pid tells.
    pids = [tries_of(tmp_path, f"{name}.mp4")[-1] for name in ("hang", "crash_abort", "crash_exit")]
    assert len(set(pids)) == len(pids)


def test_try_all_after_a_video_that_breaks_its_process_tries_the_next_one_afresh(
    tmp_path: Path,
) -> None:
    index = make_index(tmp_path, ["ok_poison.mp4", "z_innocent.mp4"])
    report = check_index(plan(index, jobs=1), try_one=misbehave)
    assert report.counts == {"ok": 2}
    first, second = tries_of(tmp_path, "z_innocent.mp4")
    assert first == tries_of(tmp_path, "ok_poison.mp4")[0] != second


def test_check_index_quarantines_what_cannot_be_used_and_keeps_other_splits(
    tmp_path: Path,
) -> None:
    ids = ["fine.mp4", "crash_error.mp4", "other.mp4", "fixed.mp4"]
    index = make_index(tmp_path, ids, val="other.mp4")
    earlier = [
        BadVideo(id=id_, path="", verdict="corrupt", message="once")
        for id_ in ("other.mp4", "fixed.mp4", "removed.mp4")
    ]
    write_quarantine(quarantine_file(index), earlier)
    report = check_index(plan(index, split="train", jobs=1), try_one=misbehave)
    assert report.counts == {"ok": 2, "crash": 1}
    assert not report.is_sound
    listed = read_quarantine(quarantine_file(index))
    assert [(video.id, video.verdict) for video in listed] == [
        ("crash_error.mp4", "crash"),
        ("other.mp4", "corrupt"),
    ]
    assert report.num_quarantined == 2
    assert not journal_file(index, "check").exists()
    assert tries_of(tmp_path, "other.mp4") == []


def test_check_index_of_unknown_split_says_which_there_are(tmp_path: Path) -> None:
    index = make_index(tmp_path, ["fine.mp4"])
    with pytest.raises(DataError, match="no split 'test'; it has: train"):
        check_index(plan(index, split="test"), try_one=misbehave)


INTERRUPTED = """
import sys
from reskd.common.cli.main import main
from reskd.common.dataset.check.checking import check_index
from tests.common.dataset.check.fake_decoders import misbehave
check_index.__kwdefaults__["try_one"] = misbehave
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("ctrl_c_arrives")
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_check_that_is_stopped_leaves_no_process_and_goes_on(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    index = make_index(tmp_path, ["a.mp4", "b.mp4", "hang.mp4", "z.mp4"])
    command = [sys.executable, "-c", INTERRUPTED, "dataset", "check", os.fspath(index)]
    command += ["--jobs", "1", "--frames", "4"]
    with started(command, stderr=subprocess.PIPE, cwd=REPOSITORY) as running:
        wait_for(lambda: bool(tries_of(tmp_path, "hang.mp4")))
        if number == signal.SIGKILL:
            running.kill()
        else:  # to the whole group, as a terminal and some schedulers do
            os.killpg(running.pid, number)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == exit_code, errors
        assert "Traceback" not in errors
        (child,) = tries_of(tmp_path, "hang.mp4")
        wait_for(lambda: not is_alive(child))
    journal = journal_file(index, "check")
    assert len(journal.read_text().splitlines()) == 3  # the header, a and b
    with journal.open("a") as file:
        file.write('{"frames": 7, "id": "hang.mp4", "mess')
    report = check_index(plan(index, seconds=60.0), try_one=tell_name)
    assert [finding.message for finding in report.findings.values()] == [
        "",
        "",
        "hang.mp4",
        "z.mp4",
    ]
    assert not journal.exists()


def tell_name(trial: Trial, alive: Callable[[], None]) -> VideoCheck:
    return VideoCheck(verdict="ok", frames=7, message=trial.entry.id)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("did not come about within a minute")


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        # What has ended and was not waited for counts as ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video for each verdict that needs no misbehaving decoder."""
    folder = tmp_path_factory.mktemp("videos")
    whole = write_video(folder / "whole.mp4", numbered_frames(36), g="9", bf="2").read_bytes()
    write_video(folder / "stub.mp4", numbered_frames(3))
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (folder / "empty.mp4").touch()
    write_sound(folder / "sound.mp4")
    (folder / "replaced.mp4").write_bytes(whole)
    (folder / "revived.mp4").write_bytes(whole)
    return folder


def test_check_names_each_file_and_its_fault(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [*sorted(path.name for path in videos.glob("*.mp4")), "gone.mp4"]
    lengths = dict.fromkeys(ids, 36) | {"stub.mp4": 3, "replaced.mp4": 50, "revived.mp4": 0}
    index = make_index(videos, ids, num_frames=lengths)
    assert main(["dataset", "check", os.fspath(index), "--jobs", "2", "--json"]) == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "checking: 9/9 videos" in captured.err
    told = {Path(video["path"]): video for video in result["videos"]}
    assert list(told) == [videos / id_ for id_ in sorted(ids)]
    assert {path.stem: (video["verdict"], video["frames"]) for path, video in told.items()} == {
        "cut": ("truncated", 0),
        "empty": ("corrupt", 0),
        "gone": ("missing", 0),
        "pointer": ("corrupt", 0),
        "replaced": ("truncated", 36),
        "revived": ("ok", 36),
        "sound": ("no_video", 0),
        "stub": ("short", 3),
        "whole": ("ok", 36),
    }
    said = {path.stem: video["message"] for path, video in told.items()}
    assert "its header promises 36" in said["cut"]
    assert said["empty"].startswith("the file is empty; ")
    assert said["gone"] == "No such file or directory"
    assert "Git LFS pointer" in said["pointer"]
    assert "the index says 50 frames and the file has 36" in said["replaced"]
    assert "import it again to use it" in said["revived"]
    assert said["stub"] == "3 of the 16 frames that a clip needs"
    assert said["whole"] == ""
    assert result["counts"] == {
        "ok": 2,
        "short": 1,
        "missing": 1,
        "no_video": 1,
        "truncated": 2,
        "corrupt": 2,
    }
    assert (result["quarantine"], result["quarantined"]) == (f"{index}.quarantine.json", 6)
    checked = read_index(index)
    entries = {entry.id: entry for entry in checked.videos}
    data = DataSpec(index=index)
    with pytest.raises(UnreadableVideoError, match=r"by quarantine: truncated: .*promises 36"):
        open_entry(checked, entries["cut.mp4"], data)
    assert open_entry(checked, entries["stub.mp4"], data).num_frames == 3


def test_check_of_sound_videos_ends_with_0_and_an_empty_list(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes((videos / "whole.mp4").read_bytes())
    index = make_index(tmp_path, ["a.mp4"], num_frames=36)
    assert main(["dataset", "check", os.fspath(index), "--all", "--decoder", "pyav"]) == 0
    assert capsys.readouterr().out == "1 videos: 1 ok\n"
    assert read_quarantine(quarantine_file(index)) == ()


def test_check_with_all_finds_damage_between_the_sampled_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (36, 80, 96, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", noise, g="1")
    with av.open(os.fspath(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0)]
    start, size = packets[20]
    content = bytearray(path.read_bytes())
    # Inside the slices, which nothing looks at before they are decoded.
    content[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(content)
    assert 20 not in sampled(36, CLIP)
    index = make_index(tmp_path, ["a.mp4"], num_frames=36)
    command = ["dataset", "check", os.fspath(index), "--frames", "4", "--decoder", "pyav"]
    assert main(command) == 0
    assert main([*command, "--all"]) == 3
    assert "corrupt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--frames", "4", "--experiment", "demo"], "give one of them"),
        (["-o", "clip.num_clips=3"], "name one with --experiment"),
        (["--timeout", "0"], "--timeout"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_check_with_options_that_contradict_ends_with_2(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset", "check", "index.jsonl", *options]) == 2
    assert expected in capsys.readouterr().err


def test_check_takes_the_clip_of_an_experiment(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes((videos / "stub.mp4").read_bytes())
    index = os.fspath(make_index(tmp_path, ["a.mp4"], num_frames=3))
    command = ["dataset", "check", index, "--experiment", "demo", "-o"]
    assert main([*command, "clip.num_clips=3"]) == 0
    assert main([*command, "clip.num_clips=5"]) == 3
    assert "3 of the 5 frames" in capsys.readouterr().out


def test_check_of_no_index_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "check", os.fspath(tmp_path / "gone.jsonl")]) == 3
    assert "there is no video index" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_frames", [1, 2, 7, 16, 17, 300])
def test_sampled_frames_exist_and_end_with_the_last(num_frames: int) -> None:
    chosen = sampled(num_frames, ClipSpec(num_clips=16))
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == num_frames - 1
    assert chosen[0] >= 0
    assert len(chosen) >= min(num_frames, 16)


@pytest.mark.parametrize(
    ("clip", "needed"),
    [
        (ClipSpec(num_clips=16), 16),
        (ClipSpec(num_clips=1, clip_len=32, frame_interval=2), 64),
        (ClipSpec(num_clips=4, clip_len=2, frame_interval=3), 9),
    ],
)
def test_frames_needed_is_where_no_frame_is_taken_twice(clip: ClipSpec, needed: int) -> None:
    assert frames_needed(clip) == needed


COMPLAINT = "matroska: File ended prematurely"


@pytest.mark.parametrize(
    ("frames", "indexed", "shortfall", "complaint", "expected"),
    [
        (20, 20, None, "", None),
        (20, 20, None, COMPLAINT, None),
        (20, 20, "promises 36", "", None),
        (20, 20, "promises 36", COMPLAINT, f"promises 36; {COMPLAINT}"),
        (20, 21, None, "", "the index says 21 frames and the file has 20"),
        (20, 0, None, "", None),
    ],
)
def test_promise_broken_needs_two_witnesses_or_the_index(
    frames: int, indexed: int, shortfall: str | None, complaint: str, expected: str | None
) -> None:
    finding = promise_broken(
        frames=frames, indexed=indexed, shortfall=shortfall, complaint=complaint
    )
    if expected is None:
        assert finding is None
    else:
        assert finding is not None
        assert finding.verdict == "truncated"
        assert finding.message.startswith(expected)


def test_decoded_video_keeps_the_decoders_complaint() -> None:
    found = decoded(frames=3, needed=16, indexed=2, complaint=COMPLAINT)
    assert found.verdict == "short"
    assert found.message.startswith(f"3 of the 16 frames that a clip needs; {COMPLAINT}; the index")
    assert decoded(frames=16, needed=16, indexed=16, complaint="") == VideoCheck(
        verdict="ok", frames=16
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><p>404", "web page"),
        (bytes(512), "zeros"),
        (b"\x00\x00\x00\x18ftypmp42", ""),
    ],
)
def test_hint_of_first_bytes(head: bytes, expected: str) -> None:
    hint = hint_of(head)
    assert expected in hint
    assert bool(hint) == bool(expected)


@pytest.mark.parametrize(
    ("head", "num_bytes", "complains"),
    [
        (b"RIFF\x64\x00\x00\x00AVI LIST", 108, False),
        (b"RIFF\x64\x00\x00\x00AVI LIST", 107, True),
        (b"RIFF\x64\x00\x00\x00WAVEfmt ", 50, False),
        (b"", 0, False),
    ],
)
def test_size_complaint_of_short_avi(head: bytes, num_bytes: int, complains: bool) -> None:
    assert bool(size_complaint(head, num_bytes)) == complains


NOT_WHOLE = {"corrupt/mp4_bitnoise.mp4"}
"""Damaged here and there; decord conceals it in the sampled frames, `--all` tells."""


def test_check_of_every_odd_file_agrees_with_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data() / "odd"
    with (folder / "manifest.tsv").open(newline="", encoding="utf-8") as table:
        rows = {row["file"]: row for row in csv.DictReader(table, delimiter="\t")}
    index = make_index(tmp_path, list(rows), num_frames=0)
    write_index(index, replace(read_index(index), root=folder))
    assert main(["dataset", "check", os.fspath(index), "--frames", "1", "--json"]) == 3
    videos = json.loads(capsys.readouterr().out)["videos"]
    assert len(videos) == len(rows)
    for video in videos:
        name = Path(video["path"]).relative_to(folder).as_posix()
        row = rows[name]
        if row["decoded_frames"] == "0":
            assert video["verdict"] in {"corrupt", "no_video", "truncated"}, video
            assert video["message"], video
        elif "ffmpeg warns/errors" in row["note"]:
            assert name in NOT_WHOLE or video["verdict"] in {"corrupt", "truncated"}, video
        else:
            assert video["verdict"] == "ok", video
        if "no video stream" in row["note"]:
            assert video["verdict"] == "no_video"
        if row["note"] == "ok":
            assert video["frames"] == int(row["decoded_frames"]), video
