"""A good video is never marked bad because the system could not read it for a while."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.storage.kinds import open_file
from reskd.common.video.facts import opened
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import training_videos


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize(
    ("command", "records"),
    [
        (["cache-teacher", "EXPERIMENT", "--cache", "OUT", "--max-bad", "1"], "OUT/commits"),
        (["train-teacher", "EXPERIMENT", "--run", "OUT", "--max-bad", "1"], "OUT/states"),
        (
            ["dataset", "extract-frames", "INDEX", "--out", "OUT.h5", "--allow-unreadable"],
            "OUT.h5",
        ),
        (["dataset", "import", "folder", "VIDEOS", "--out", "OUT.jsonl"], "OUT.jsonl"),
    ],
    ids=["cache-teacher", "train-teacher", "extract-frames", "import"],
)
def test_video_that_the_system_cannot_read_stops_the_command_and_is_not_recorded(
    tiny_experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    records: str,
    number: int,
) -> None:
    folder, video = tiny_experiment.parent, training_videos(tiny_experiment)[0]
    places = {
        "EXPERIMENT": str(tiny_experiment),
        "INDEX": str(folder / "index.jsonl"),
        "VIDEOS": str(folder / "videos"),
    }
    words = [places.get(word, word.replace("OUT", str(folder / "out"))) for word in command]
    monkeypatch.setattr("reskd.common.video.attempts.WAITS_SECONDS", [0.0])
    with monkeypatch.context() as failing:

        def plainly(path: Path) -> Any:
            if path == video:
                raise OSError(number, os.strerror(number), os.fspath(path))
            return open_file(path)

        def decoded(path: Path, *args: Any) -> Any:
            if path == video:  # decoders give text, and no errno
                raise IndexError("tuple index out of range")
            return opened(path, *args)

        failing.setattr("reskd.common.video.attempts.open_file", plainly)
        failing.setattr("reskd.common.video.facts.opened", decoded)
        assert main(words) == 5
    message = capsys.readouterr().err
    assert f"{video}: {os.strerror(number)} ({errno.errorcode[number]})" in message
    made = folder / records.replace("OUT", "out")
    assert not made.exists() or not list(made.iterdir())
    assert main(words) == 0
    if command[0] == "cache-teacher":
        assert CacheReader(folder / "out").failed == {}
