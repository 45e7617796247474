"""The whole way through the commands, and bad input to it."""

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.experiment.load import load_experiment
from reskd.student_train.run.log import read_events
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import CLASS_NAMES, TinyCache, cut_off
from tests.video_files import numbered_frames, write_video

Capture = pytest.CaptureFixture[str]


def _run(capsys: Capture, *arguments: object) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result: dict[str, Any] = json.loads(captured.out)
    return result


def _fail(capsys: Capture, exit_code: int, *arguments: object) -> str:
    """The message of a command that must fail: one paragraph for a person, nothing on stdout."""
    capsys.readouterr()
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert code == exit_code, captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    _, *message = captured.err.split("Error: ")
    assert len(message) == 1
    assert "\n\n" not in message[0]
    return message[0]


def test_every_command_from_videos_to_accuracy_succeeds_with_its_json(
    tiny_experiment: Path, capsys: Capture
) -> None:
    home = tiny_experiment.parent
    index, cache = home / "index.jsonl", home / "cache"
    index.unlink()
    rmtree(home / "teacher")

    imported = _run(
        capsys, "dataset", "import", "folder", home / "videos", "--out", index, "--val", 0.25
    )
    assert imported["index"] == str(index)
    assert imported["classes"] == list(CLASS_NAMES[:3])
    assert {name: split["videos"] for name, split in imported["splits"].items()} == {
        "train": 9,
        "val": 3,
    }

    teacher = _run(capsys, "train-teacher", tiny_experiment)
    assert teacher["run"] == str(home / "teacher")
    assert (teacher["role"], teacher["epochs"]) == ("teacher", 2)

    plan = _run(capsys, "cache-teacher", tiny_experiment, "--plan")
    assert not cache.exists()
    cached = _run(capsys, "cache-teacher", tiny_experiment, "--cache", cache)
    assert cached["cache"] == str(cache)
    assert (cached["videos"], cached["views"], cached["failed_videos"]) == (9, 3, 0)
    assert cached["units_written"] == cached["units"] == plan["units"]
    assert cached["bytes"] == plan["bytes"]
    again = _run(capsys, "cache-teacher", tiny_experiment, "--cache", cache)
    assert again == {**cached, "units_written": 0}

    verified = _run(capsys, "cache", "verify", cache)
    assert (verified["ok"], verified["findings"], verified["level"]) == (True, [], "bytes")
    assert verified["fingerprint"] == cached["fingerprint"]

    planned = _run(capsys, "train-student", tiny_experiment, "--plan")
    assert (planned["clips"], planned["steps"]) == (27, 6)  # 4 and 5 clips in every epoch
    runs = {"distilled": ("--cache", cache), "plain": ("--no-distill",)}
    for name, options in runs.items():
        run = home / "runs" / name
        student = _run(capsys, "train-student", tiny_experiment, *options, "--run", run)
        assert student["run"] == str(run)
        assert (student["role"], student["epochs"]) == ("student", 3)

    for run, role, size in (
        (home / "teacher", "teacher", 48),
        (home / "runs" / "distilled", "student", 24),
        (home / "runs" / "plain", "student", 24),
    ):
        result = _run(capsys, "evaluate", run)
        assert result["run"] == str(run)
        assert (result["role"], result["size"], result["split"]) == (role, size, "val")
        assert (result["videos"], result["failed"], result["top5"]) == (3, 0, 1.0)
        assert result["top1"] in [pytest.approx(right / 3) for right in range(4)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train-teacher",),
        ("cache-teacher", "--cache", "cache"),
        ("train-student", "--no-distill", "--run", "run"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_without_index_ends_with_3_and_names_it(
    tiny_experiment: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tiny_experiment.parent)
    index = tiny_experiment.parent / "index.jsonl"
    index.unlink()
    command, *options = arguments
    message = _fail(capsys, 3, command, tiny_experiment, *options)
    assert str(index) in message
    assert "reskd dataset import" in message
    assert not (tiny_experiment.parent / "cache").exists()


def _import(capsys: Capture, exit_code: int, folder: Path) -> str:
    message = _fail(
        capsys, exit_code, "dataset", "import", "folder", folder, "--out", folder / "index.jsonl"
    )
    assert not (folder / "index.jsonl").exists()
    return message


def test_import_of_empty_folder_ends_with_3_and_names_it(capsys: Capture, tmp_path: Path) -> None:
    assert str(tmp_path) in _import(capsys, 3, tmp_path)


def test_import_of_class_with_one_video_ends_with_3_and_names_it(
    tiny_experiment: Path, capsys: Capture
) -> None:
    videos = tiny_experiment.parent / "videos"
    write_video(videos / "lonely" / "only.mp4", numbered_frames(8))
    assert "lonely" in _import(capsys, 3, videos)


def test_import_of_unreadable_video_ends_with_3_and_names_it(
    tiny_experiment: Path, capsys: Capture
) -> None:
    videos = tiny_experiment.parent / "videos"
    (videos / "dive" / "broken.mp4").write_bytes(b"this is no video")
    message = _import(capsys, 3, videos)
    assert "1 of 13 videos" in message
    assert "dive/broken.mp4" in message


def _cut_off_first(experiment: Path) -> str:
    """Cut off the video of row 0 after it was imported, and return its id."""
    cut_off(experiment.parent / "videos" / "climb" / "1.mp4")
    return "climb/1.mp4"


def test_cache_teacher_of_truncated_video_ends_with_5_and_names_it(
    tiny_experiment: Path, capsys: Capture
) -> None:
    broken = _cut_off_first(tiny_experiment)
    cache = tiny_experiment.parent / "cache"
    message = _fail(capsys, 5, "cache-teacher", tiny_experiment, "--cache", cache)
    assert broken in message
    assert "--max-bad" in message


def test_cache_teacher_of_truncated_video_when_allowed_marks_its_row_failed(
    tiny_experiment: Path, capsys: Capture
) -> None:
    _cut_off_first(tiny_experiment)
    cache, run = tiny_experiment.parent / "cache", tiny_experiment.parent / "run"
    cached = _run(capsys, "cache-teacher", tiny_experiment, "--cache", cache, "--max-bad", 1)
    assert cached["failed_videos"] == 1
    reader = CacheReader(cache)
    assert list(reader.failed) == [0]
    assert reader.usable_videos == list(range(1, 9))
    verified = _run(capsys, "cache", "verify", cache)
    assert (verified["ok"], verified["failed_videos"]) == (True, 1)
    _run(capsys, "train-student", tiny_experiment, "--cache", cache, "--run", run)
    assert [event["clips"] for event in read_events(run)] == [8, 8, 8]


@pytest.mark.parametrize("command", ["train-teacher", "train-student"])
def test_training_on_truncated_video_follows_max_bad_of_the_experiment(
    tiny_experiment: Path, capsys: Capture, command: str
) -> None:
    broken = _cut_off_first(tiny_experiment)
    run = tiny_experiment.parent / "run"
    arguments = [command, tiny_experiment, "--run", run]
    if command == "train-student":
        arguments.append("--no-distill")
    assert "--max-bad" in _fail(capsys, 5, *arguments)
    capsys.readouterr()
    assert main([*map(str, arguments), "-o", "data.max_bad=0.2"]) == 0
    assert capsys.readouterr().err.count(broken) == 1
    assert _fail(capsys, 5, *arguments, "--fresh", "-o", "data.max_bad=0.2", "--max-bad", 0)


def test_cache_without_commits_fails_verify_with_4_and_training_with_5(
    tiny_cache: TinyCache, capsys: Capture
) -> None:
    rmtree(tiny_cache.cache / "commits")
    capsys.readouterr()
    assert main(["cache", "verify", str(tiny_cache.cache), "--json"]) == 4
    captured = capsys.readouterr()
    findings = json.loads(captured.out)["findings"]
    unfinished = [item["unit"] for item in findings if "never finished" in item["problem"]]
    assert unfinished == list(range(json.loads(captured.out)["units"]))
    assert "Traceback" not in captured.err
    run = tiny_cache.experiment.parent / "run"
    message = _fail(
        capsys, 5, "train-student", tiny_cache.experiment, "--cache", tiny_cache.cache, "--run", run
    )
    assert str(tiny_cache.cache) in message
    assert "reskd cache-teacher" in message


@pytest.mark.parametrize("made", [True, False], ids=["empty", "absent"])
def test_folder_that_is_no_cache_ends_with_4_and_is_named(
    tiny_experiment: Path, capsys: Capture, made: bool
) -> None:
    folder = tiny_experiment.parent / "nothing"
    if made:
        folder.mkdir()
    run = tiny_experiment.parent / "run"
    training = ("train-student", tiny_experiment, "--cache", folder, "--run", run)
    for arguments in (("cache", "verify", folder), training):
        message = _fail(capsys, 4, *arguments)
        assert f"{folder} is not a teacher cache" in message
    assert not run.exists()


def test_cache_teacher_into_foreign_folder_ends_with_4_and_leaves_it_untouched(
    tiny_experiment: Path, capsys: Capture
) -> None:
    folder = tiny_experiment.parent / "diary"
    folder.mkdir()
    (folder / "monday.txt").write_text("rain")
    message = _fail(capsys, 4, "cache-teacher", tiny_experiment, "--cache", folder)
    assert str(folder) in message
    assert [path.name for path in folder.iterdir()] == ["monday.txt"]
    assert (folder / "monday.txt").read_text() == "rain"


def test_cache_teacher_without_teacher_ends_with_3_and_names_its_maker(
    tiny_experiment: Path, capsys: Capture
) -> None:
    rmtree(load_experiment(str(tiny_experiment)).teacher.checkpoint)
    cache = tiny_experiment.parent / "cache"
    message = _fail(capsys, 3, "cache-teacher", tiny_experiment, "--cache", cache)
    assert "reskd train-teacher" in message
    assert not cache.exists()
