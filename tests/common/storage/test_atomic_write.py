"""A file appears whole or not at all."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

import pytest

from reskd.common.storage.atomic_write import (
    atomic_folder,
    atomic_write,
    put_in_place,
    write_partial,
)
from reskd.common.storage.partial import PARTIAL_SUFFIX


@pytest.mark.parametrize(
    "chunks",
    [b"abcdef", memoryview(b"abcdef"), [b"abc", memoryview(b"def")], iter([b"ab", b"", b"cdef"])],
)
def test_atomic_write_of_any_chunks_writes_them_in_order(tmp_path: Path, chunks: object) -> None:
    path = tmp_path / "new" / "folder" / "file"
    atomic_write(path, chunks)  # type: ignore[arg-type]
    assert path.read_bytes() == b"abcdef"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_write_over_a_longer_file_replaces_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), RuntimeError("odd")]
)
def test_atomic_write_that_fails_half_way_leaves_the_old_file_alone(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[str] = []

    def chunks() -> Iterator[bytes]:
        yield b"half"
        seen.extend(entry.name for entry in tmp_path.iterdir() if entry != path)
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, chunks())
    assert len(seen) == 1
    assert seen[0].endswith(PARTIAL_SUFFIX)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_that_cannot_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "no", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        atomic_write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_syncs_content_before_renaming_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    calls: list[tuple[str, bool]] = []  # what is synced, and whether the file has its name yet
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        kind = "folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append((kind, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    atomic_write(path, b"new")
    assert calls == [("file", False), ("folder", True)]


def test_atomic_write_on_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        atomic_write(tmp_path / "file", chunks())
    assert caught.value.filename == str(tmp_path / "file")


def test_folder_gets_its_name_only_when_it_is_filled(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "state") as partial:
        atomic_write(partial / "a", b"1")
        assert not (tmp_path / "deep" / "state").exists()
    assert (tmp_path / "deep" / "state" / "a").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state"]


def test_writers_of_one_name_never_take_each_other_s_partial_files(tmp_path: Path) -> None:
    # Nor what a killed one left: in a container a program often has the number it had.
    first = write_partial(tmp_path / "file", b"first")
    second = write_partial(tmp_path / "file", b"second")
    assert first != second
    put_in_place(second, tmp_path / "file")
    with atomic_folder(tmp_path / "state"), atomic_folder(tmp_path / "state") as partial:
        atomic_write(partial / "a", b"1")
        assert len(list(tmp_path.glob("state.*"))) == 2
        (partial / "a").unlink()
    assert (tmp_path / "file").read_bytes() == b"second"
    assert first.read_bytes() == b"first"


def test_folder_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        with atomic_folder(folder) as partial:
            atomic_write(partial / "a", b"1")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
