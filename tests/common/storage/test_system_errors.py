"""What an errno becomes: exit code and words, for inputs, outputs and what is no file."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.storage.atomic_write import atomic_folder, atomic_write
from reskd.common.storage.kinds import NotAFileError, open_file, read_file
from reskd.common.storage.system_errors import input_problem, tell, writing

MISSING = [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO]
SYSTEM = {
    errno.EIO: "disk or network mount",
    errno.ESTALE: "Mount its network",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "limit of open files",
    errno.EACCES: "Allow this user",
    errno.EPERM: "Allow this user",
    errno.EROFS: "Mount it so that",
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room",
    errno.ENOMEM: "memory",
    errno.ETIMEDOUT: "disk or network mount",
    errno.ENODEV: "disk or network mount",
}


def raised(number: int, path: str | None = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), path)


def name_of(number: int) -> str:
    return errno.errorcode[number]


@pytest.mark.parametrize("number", MISSING, ids=name_of)
def test_input_that_is_missing_or_no_file_ends_with_3(number: int) -> None:
    told = tell(raised(number))
    assert told.exit_code == 3
    assert f"/data/x: {os.strerror(number)} ({name_of(number)})" in told.message
    assert "Name a file that is there" in told.message
    assert input_problem(raised(number)) == os.strerror(number)


@pytest.mark.parametrize("number", SYSTEM, ids=name_of)
@pytest.mark.parametrize("path", ["/data/x", None])
def test_errno_of_an_input_ends_with_5_and_what_to_do(number: int, path: str | None) -> None:
    told = tell(raised(number, path))
    assert told.exit_code == 5
    assert f"{path or 'a file'}: {os.strerror(number)} ({name_of(number)})" in told.message
    assert SYSTEM[number] in told.message
    assert "run the same command again" in told.message
    with pytest.raises(OSError, match=os.strerror(number)[:8]):
        input_problem(raised(number, path))


@pytest.mark.parametrize("number", [*MISSING, *SYSTEM], ids=name_of)
def test_errno_of_an_output_ends_with_5_and_names_it(number: int) -> None:
    with pytest.raises(OSError, match="x") as caught, writing(Path("/out/x")):
        raise raised(number, None)
    told = tell(caught.value)
    assert told.exit_code == 5
    assert f"cannot write /out/x: {os.strerror(number)} ({name_of(number)})" in told.message


def test_error_without_a_number_keeps_its_words() -> None:
    with pytest.raises(OSError, match="odd") as caught, writing(Path("/out/x")):
        raise OSError("odd words")
    assert tell(caught.value).exit_code == 5
    assert "odd words" in tell(caught.value).message


LONG = "n" * 300


@pytest.mark.parametrize(
    ("write", "operation"),
    [
        (lambda path: atomic_write(path / LONG, b""), "write"),
        (lambda path: (path / LONG).mkdir(), "make the folder"),
        (lambda path: (path / LONG).write_bytes(b""), "write"),
        (lambda path: (path / LONG).open("a"), "write"),
        (lambda path: (path / "absent").rename(path / "x"), "rename"),
        (lambda path: (path / "absent").unlink(), "remove"),
        (lambda path: atomic_folder(path / LONG).__enter__(), "make the folder"),
    ],
    ids=["atomic", "mkdir", "write_bytes", "append", "rename", "unlink", "atomic folder"],
)
def test_operation_on_an_output_is_told_by_what_was_called(
    tmp_path: Path, write: Callable[[Path], object], operation: str
) -> None:
    with pytest.raises(OSError, match=r"Errno") as caught:
        write(tmp_path)
    told = tell(caught.value)
    assert told.exit_code == 5
    assert f"cannot {operation} {tmp_path}" in told.message


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a pipe (FIFO)"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
    ids=["folder", "pipe", "socket", "device"],
)
@pytest.mark.parametrize("use", [open_file, read_file])
def test_what_is_no_file_is_never_opened_and_ends_with_3(
    tmp_path: Path,
    make: Callable[[Path], None],
    kind: str,
    use: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x")
    with pytest.raises(NotAFileError) as caught:
        use(tmp_path / "x")
    told = tell(caught.value)
    assert told.exit_code == 3
    assert f"{tmp_path / 'x'}: it is {kind}, not a file" in told.message


def test_error_while_a_file_is_read_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *exception: object) -> None:
            return None

        def read(self) -> bytes:
            raise raised(errno.EIO, None)

    monkeypatch.setattr("reskd.common.storage.kinds.open_file", lambda path: Failing())
    with pytest.raises(OSError, match="Input/output") as caught:
        read_file(tmp_path / "x")
    assert f"{tmp_path / 'x'}: Input/output error (EIO)" in tell(caught.value).message
