"""Every command on videos and classes whose names are made for terminals and for forged lines."""

import csv
import json
import re
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from tests.tiny_experiment import make_tiny_experiment

FORGED = "FORGED LINE"
CLASS = f"cl\x1b[31mimb\r\n{FORGED} | x | <b>\x9b2J\u202e"
VIDEO = f"\x1b]0;title\x07a\n{FORGED}\x7f.mp4"
CONTROLLING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
ONE_EPOCH = ("-o", "student.training.epochs=1", "-o", "teacher.training.epochs=1")


def assert_harmless(text: str, where: str) -> None:
    """Nothing that a terminal obeys, and no line that a name has made."""
    assert CONTROLLING.findall(text) == [], where
    assert [line for line in text.split("\n") if line.lstrip().startswith(FORGED)] == [], where


class Commands:
    """Runs commands, looks at all that they say, and counts where the hostile names are shown."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.shown: set[str] = set()

    def __call__(self, *words: object, codes: tuple[int, ...] = (0,)) -> None:
        self._capsys.readouterr()
        found = main([str(word) for word in words])
        out, err = self._capsys.readouterr()
        where = " ".join(map(repr, words))
        assert found in codes, f"{where}: {err}"
        assert_harmless(out, where)
        assert_harmless(err, where)
        if FORGED in out + err:
            self.shown.add(" ".join(map(str, words[:2])))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An experiment, of which one class and one video in it have such names."""
    home = make_tiny_experiment(tmp_path / "home").parent
    (home / "index.jsonl").unlink()
    folder = (home / "videos" / "climb").rename(home / "videos" / CLASS)
    (folder / "0.mp4").rename(folder / VIDEO)
    (folder / f"broken {VIDEO}").write_bytes(b"no video")
    return home


@pytest.mark.slow  # all commands
def test_no_command_and_no_page_lets_a_name_through(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Commands(capsys)
    index, experiment, student = home / "index.jsonl", home / "experiment.yaml", home / "student"
    video = home / "videos" / CLASS / VIDEO
    imported = ("dataset", "import", "folder", home / "videos", "--out", index)
    run(*imported, codes=(3,))  # a video that cannot be read
    run(*imported, "--allow-unreadable", "--val", "0.25")
    run("dataset", "show", index)
    run("dataset", "show", index, "--out", home / "sheet.png", codes=(0, 5))
    run("dataset", "check", index, "--all", codes=(3,))
    run("dataset", "extract-frames", index, "--out", home / "frames.h5", "--plan", codes=(0, 5))
    (index.with_name(f"{index.name}.quarantine.json")).unlink()
    run("dataset", "extract-frames", index, "--out", home / "frames.h5", codes=(5,))
    retrain = ("--fresh", "--replace", "teacher", "--max-bad", 1, *ONE_EPOCH)
    run("train-teacher", experiment, *retrain)
    run("cache-teacher", experiment, "--cache", home / "cache", codes=(5,))
    run("cache-teacher", experiment, "--cache", home / "cache", "--max-bad", 1)
    run("cache", "info", home / "cache")
    run("cache", "verify", home / "cache")
    run("cache", "verify", home / "cache", "--level", "semantic", "--rows", 3)
    training = ("--cache", home / "cache", "--max-bad", 1, *ONE_EPOCH)
    run("train-student", experiment, *training, "--run", student)
    measured = ("--max-bad", 1, "--split", "train", "--clips", 1)
    outputs = ("--per-class", home / "classes.csv", "--report", home / "report")
    run("evaluate", student, home / "teacher", *measured, *outputs)
    run("predict", student, video)
    run("predict", student, video, "--window", 0.5)
    run("predict", student, video.with_name(f"broken {VIDEO}"), codes=(3, 5))
    run("predict", student, video.with_name(f"absent {VIDEO}"), codes=(3, 5))
    run("extract-features", student, index, home / f"a\n{FORGED}.npz", codes=(0, 5))
    run("export", student, home / f"a\n{FORGED}\x1b[2J.pt2", "--no-check")
    run("import-checkpoint", home / f"absent\n{FORGED}\x1b[2J", home / "imported", codes=(3,))
    assert len(run.shown) > 10

    for page in ("student/README.md", "teacher/README.md", "report/index.html"):
        assert_harmless((home / page).read_text(), page)
        assert FORGED in (home / page).read_text()
    table = (home / "classes.csv").read_text()
    assert_harmless(table.replace("\r\n", "\n"), "classes.csv")
    rows = list(csv.DictReader(table.splitlines()))
    assert any(FORGED in row["class"] for row in rows)
    # What programs read back says the name itself.
    assert CLASS in json.loads((student / "labels.json").read_text())
