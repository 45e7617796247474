"""Partial files: who wrote one is told by its name; dead writers' go, all others stay."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reskd.common.storage import partial
from reskd.common.storage.atomic_write import atomic_folder, atomic_write, write_partial
from reskd.common.storage.partial import (
    clear_beside,
    clear_dead_partials,
    clear_partials_in,
    is_partial_of,
    partial_name,
)

WRITE_AND_WAIT = (
    "import sys; from pathlib import Path\n"
    "from reskd.common.storage.atomic_write import write_partial\n"
    "print(write_partial(Path(sys.argv[1]), b'half').name, flush=True); sys.stdin.read()"
)
DAY = 24 * 3600


class OtherWriter:
    """Another process that has begun to write a file."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITE_AND_WAIT, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.partial = path.with_name(self.process.stdout.readline().strip())

    def kill(self, *, reap: bool = True) -> None:
        self.process.kill()
        if reap:
            self.process.wait()
        else:
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def end(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherWriter]:
    writer = OtherWriter(tmp_path / "file")
    yield writer
    writer.end()


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "not waited for"])
def test_partial_of_another_process_stays_while_it_lives_and_goes_when_it_is_dead(
    other: OtherWriter, tmp_path: Path, reap: bool
) -> None:
    def clear() -> bool:
        clear_dead_partials(list(tmp_path.iterdir()))
        return not other.partial.exists()

    os.utime(other.partial, (time.time() - 9 * DAY,) * 2)  # it lives, however long it takes
    assert not clear()
    other.kill(reap=reap)
    assert clear()


def test_own_partial_files_stay(tmp_path: Path) -> None:
    own = write_partial(tmp_path / "file", b"half")
    clear_partials_in(tmp_path)
    assert own.read_bytes() == b"half"


def with_another_start(name: str) -> str:
    host, process, start, _ = name.removesuffix(".partial").rsplit(".", 1)[1].split("-")
    return name.replace(f"{host}-{process}-{start}", f"{host}-{process}-{int(start) + 1}")


def of_another_host(name: str) -> str:
    host = name.removesuffix(".partial").rsplit(".", 1)[1].split("-")[0]
    return name.replace(host, "0badcafe")


def of_before(name: str) -> str:
    return f"{name.split('.')[0]}.0badcafe.partial"


def a_person_s(name: str) -> str:
    return f"{name.split('.')[0]}.mp4.partial"


def not_at_the_end(name: str) -> str:
    return f"{with_another_start(name)}.partial"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(
    ("renamed", "age", "goes"),
    [
        (with_another_start, 0, True),
        (of_another_host, DAY - 600, False),
        (of_another_host, DAY + 600, True),
        (of_before, DAY - 600, False),
        (of_before, DAY + 600, True),
        (a_person_s, 9 * DAY, False),
        (not_at_the_end, 9 * DAY, False),
    ],
    ids=[
        "number given to another process",
        "another host's, young",
        "another host's, old",
        "of before, young",
        "of before, old",
        "somebody else's",
        "another name",
    ],
)
def test_what_goes_of_partials_whose_writer_cannot_be_asked(
    tmp_path: Path, renamed: Callable[[str], str], age: float, goes: bool, kind: str
) -> None:
    path = tmp_path / renamed(partial_name(tmp_path / "file").name)
    if kind == "folder":
        path.mkdir()
        (path / "inside").write_bytes(b"half")
        os.utime(path / "inside", (time.time() - age,) * 2)
    else:
        path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    clear_partials_in(tmp_path)
    assert path.exists() != goes


def test_old_folder_in_which_something_is_young_stays(tmp_path: Path) -> None:
    folder = tmp_path / of_another_host(partial_name(tmp_path / "file").name)
    folder.mkdir()
    (folder / "inside").write_bytes(b"half")
    os.utime(folder, (time.time() - 9 * DAY,) * 2)
    clear_partials_in(tmp_path)
    assert folder.exists()


def test_next_writer_in_a_folder_clears_what_a_dead_one_left(
    other: OtherWriter, tmp_path: Path
) -> None:
    other.kill()
    atomic_write(tmp_path / "another file", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["another file"]


def test_next_writer_of_a_folder_clears_what_a_dead_one_left(
    other: OtherWriter, tmp_path: Path
) -> None:
    other.kill()
    with atomic_folder(tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_folder_is_looked_at_once_by_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(partial, "clear_dead_partials", lambda names: looked.append(list(names)))
    for number in range(3):
        atomic_write(tmp_path / str(number), b"")
    clear_beside(tmp_path)
    assert looked == [[]]


def test_process_of_another_user_is_taken_to_live(
    other: OtherWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    other.kill()
    monkeypatch.setattr(os, "kill", refuse)
    clear_partials_in(tmp_path)
    assert other.partial.exists()


@pytest.mark.parametrize("name", ["a" * 255, "跳" * 85, "short"])
def test_name_of_any_length_gets_a_partial_one_that_is_not_too_long(
    tmp_path: Path, name: str
) -> None:
    atomic_write(tmp_path / name, b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_partials_of_one_path_are_told_from_those_of_others(tmp_path: Path) -> None:
    own = partial_name(tmp_path / "cache")
    assert is_partial_of(own, tmp_path / "cache")
    assert is_partial_of(tmp_path / "cache.0badcafe.partial", tmp_path / "cache")
    assert not is_partial_of(own, tmp_path / "cac")
    assert not is_partial_of(partial_name(tmp_path / "cache.x"), tmp_path / "cache")
