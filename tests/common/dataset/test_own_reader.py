"""Videos that only the user's code finds: imported, cached, trained on and measured."""

import errno
import re
import tarfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reskd.common import own_code
from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.dataset.open import open_entry
from reskd.common.dataset.own_reader import OwnReader, open_shelved
from reskd.common.errors import DataError, ExperimentError, StoppedShortError
from reskd.common.experiment import DataSpec
from reskd.common.own_code import trust_code
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.video_file import open_video
from tests.own_networks import write_module

WEBDATASET = "tests.webdataset_shelf:WebDataset"


@pytest.fixture(autouse=True)
def _no_trust_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_code, "_trusted", set())


def pack(experiment: Path, tars: Path) -> None:
    """The videos of the tiny experiment as WebDataset tars, one per split."""
    tars.mkdir()
    index = read_index(experiment.parent / "index.jsonl")
    for split in index.split_names():
        with tarfile.open(tars / f"{split}-000000.tar", "w") as tar:
            for entry in index.split(split):
                key = entry.id.removesuffix(".mp4").replace("/", "_")
                content = index.path_of(entry).read_bytes()
                label = index.classes[entry.labels[0]].encode()
                for kind, data in (("mp4", content), ("cls", label)):
                    member = tarfile.TarInfo(f"{key}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))


@pytest.fixture
def tar_experiment(tiny_experiment: Path) -> Path:
    pack(tiny_experiment, tiny_experiment.parent / "tars")
    tars = tiny_experiment.with_name("tars.yaml")
    text = tiny_experiment.read_text().replace(
        "data: {index: index.jsonl", f"data: {{index: tars.jsonl, reader: '{WEBDATASET}'"
    )
    tars.write_text(text)
    return tars


def import_tars(experiment: Path) -> int:
    out = str(experiment.parent / "tars.jsonl")
    return main(
        ["dataset", "import", "reader", WEBDATASET, str(experiment.parent / "tars"), "--out", out]
    )


def test_an_import_finds_what_the_files_say(tar_experiment: Path) -> None:
    assert import_tars(tar_experiment) == 0
    files = read_index(tar_experiment.parent / "index.jsonl")
    tars = read_index(tar_experiment.parent / "tars.jsonl")
    assert tars.classes == files.classes
    for split in files.split_names():
        for file, packed in zip(files.split(split), tars.split(split), strict=True):
            assert packed.id.endswith(file.id.removesuffix(".mp4").replace("/", "_"))
            assert (packed.labels, packed.num_frames, packed.fps) == (
                file.labels,
                file.num_frames,
                file.fps,
            )
            assert packed.content is not None
            with open_video(files.path_of(file), "pyav") as video:
                expected = video.frames([3, 0, 3])
            data = DataSpec(index=Path("unused"), reader=WEBDATASET)
            with open_entry(tars, packed, data) as video:
                assert np.array_equal(video.frames([3, 0, 3]), expected)


@pytest.mark.slow  # five commands and worker processes
def test_a_cache_and_a_student_are_made_of_tars(tar_experiment: Path, tmp_path: Path) -> None:
    assert import_tars(tar_experiment) == 0
    cache, run = str(tmp_path / "cache"), str(tmp_path / "run")
    one = ["-o", "student.training.epochs=1"]
    assert main(["cache-teacher", str(tar_experiment), "--cache", cache]) == 0
    student = ["train-student", str(tar_experiment), "--run", run, "--cache", cache, *one]
    assert main(student) == 0
    decoding = ["train-student", str(tar_experiment), "--run", f"{run}2", "--no-distill", *one]
    assert main([*decoding, "-o", "student.training.workers=1"]) == 0
    own_code._trusted.clear()
    assert main(["evaluate", run]) == 3, "the run names the reader, the user does not"
    assert main(["evaluate", run, "--trust-code"]) == 0
    verify = ["cache", "verify", cache, "--level", "semantic", "--rows", "9"]
    assert main([*verify, "--experiment", str(tar_experiment)]) == 0


def test_an_index_says_who_opens_its_videos(
    tar_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_tars(tar_experiment) == 0
    index = str(tar_experiment.parent / "tars.jsonl")
    assert main(["dataset", "check", index]) == 3
    assert "only files are checked" in capsys.readouterr().err
    assert not list(tar_experiment.parent.glob("*quarantine*")), "no video was put there"
    cache = str(tar_experiment.parent / "cache")
    wrong = ["-o", "data.reader=null"]
    assert main(["cache-teacher", str(tar_experiment), "--cache", cache, *wrong]) == 3
    assert f"set it to {WEBDATASET} in the" in capsys.readouterr().err


def test_what_the_code_raises_makes_a_video_unreadable(
    tar_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tar_experiment.parent / "tars" / "train-1.tar", "w") as tar:
        for name, data in (("bad.mp4", b"no video"), ("bad.cls", b"run")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    assert import_tars(tar_experiment) == 3
    assert "train-1.tar/bad: InvalidDataError" in capsys.readouterr().err


def video(**changes: object) -> SimpleNamespace:
    def frames(indices: list[int]) -> np.ndarray:
        return np.zeros((len(indices), 4, 5, 3), np.uint8)

    facts = {"num_frames": 3, "height": 4, "width": 5, "fps": 2.0, "frames": frames}
    return SimpleNamespace(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "0 frames of 4 x 5"),
        ({"height": 6}, r"2 frames of \(6, 5, 3\) were expected, \(2, 4, 5, 3\) came out"),
        ({"frames": lambda _: np.zeros((2, 4, 5, 3))}, "array of uint8, got float64"),
        ({"frames": lambda _: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_video_that_is_none_is_unreadable(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnreadableVideoError, match=message):
        OwnReader(Path("key"), "mine:Shelf", video(**changes)).frames([0, 2])


@pytest.mark.parametrize("broken", [2, 9])
def test_a_system_that_fails_is_asked_again_and_no_fault_of_the_video(
    broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def frames(indices: list[int]) -> np.ndarray:
        asked.append(indices)
        if len(asked) <= broken:
            raise OSError(errno.EIO, "Input/output error")
        return np.zeros((len(indices), 4, 5, 3), np.uint8)

    monkeypatch.setattr("reskd.common.dataset.own_reader.WAITS_SECONDS", [0.0, 0.0, 0.0])
    opened = OwnReader(Path("key"), "mine:Shelf", video(frames=frames))
    if broken == 2:
        assert opened.frames([0, 2]).shape == (2, 4, 5, 3)
        return
    with pytest.raises(StoppedShortError, match="mine:Shelf cannot read key"):
        opened.frames([0, 2])
    assert len(asked) == 4


SHELF = """
class Shelf:
    def __init__(self, root):
        {make}
    def videos(self):
        return {videos}
    def open(self, key):
        raise KeyError(key)
"""


@pytest.mark.parametrize(
    ("make", "videos", "message"),
    [
        ("1 / 0", "[]", "fails: ZeroDivisionError"),
        ("pass", "[]", "lists no videos"),
        ("pass", "[('a', 'run')]", r"lists \('a', 'run'\) as video 0; \(key, class"),
        ("pass", "[('a', 'run', 'train')] * 2", "lists 'a' twice"),
        ("pass", "[('a', ['run'], 'train')]", "1 of 1 videos cannot be read"),
    ],
)
def test_a_shelf_that_lists_nothing_of_use_is_refused(
    make: str,
    videos: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = f"own_shelf_{abs(hash(videos + make))}"
    write_module(tmp_path, module, SHELF.format(make=make, videos=videos), monkeypatch)
    out = str(tmp_path / "index.jsonl")
    assert (
        main(["dataset", "import", "reader", f"{module}:Shelf", str(tmp_path), "--out", out]) == 3
    )
    assert re.search(message, capsys.readouterr().err)
    assert not Path(out).exists()


def test_a_reader_that_only_an_experiment_read_elsewhere_names_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="--trust-code"):
        open_shelved("json:loads", tmp_path, "key")
    trust_code("json:loads")
    with pytest.raises(DataError, match="fails: TypeError"):
        open_shelved("json:loads", tmp_path / "other", "key")
