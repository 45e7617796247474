"""One process at a time: others are refused, a dead one is no obstacle."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reskd.common.errors import StoppedShortError
from reskd.common.storage.folder_lock import locked
from reskd.common.storage.system_errors import tell
from tests.processes import started

HOLD = """
import sys
from pathlib import Path
from reskd.common.storage.folder_lock import locked
with locked(Path(sys.argv[1]), task="busy", advice=""):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["folder", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is locked: a folder, or a file that is made for it."""
    return tmp_path if request.param == "folder" else tmp_path / ".lock"


def _hold(path: Path) -> None:
    with locked(path, task=f"writing {path}", advice="Wait for it."):
        pass


def test_second_holder_is_refused_until_the_first_is_killed(path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StoppedShortError) as refused:
            _hold(path)
        first.kill()
        first.wait(30)
    holder = "Another process" if path.is_dir() else f"Process {first.pid} on {os.uname().nodename}"
    assert str(refused.value) == f"{holder} is writing {path}. Wait for it."
    _hold(path)


def test_end_of_the_block_lets_the_next_one_in_however_it_ends(path: Path) -> None:
    with pytest.raises(BlockingIOError), locked(path, task="busy", advice=""):
        raise BlockingIOError  # of something else
    _hold(path)


def test_file_system_without_locks_is_told_and_does_not_stop_the_work(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    _hold(path)
    assert f"{tmp_path} is on a file system without locks" in capsys.readouterr().err


def test_long_name_in_a_lock_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("x" * 500)
    _hold(tmp_path / ".lock")
    assert (tmp_path / ".lock").read_text().startswith(f"Process {os.getpid()} on ")
    assert "x" * 100 not in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE])
@pytest.mark.parametrize("call", ["flock", "open", "pwrite"])
def test_storage_that_fails_is_told_by_path_and_ends_with_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl if call == "flock" else os, call, fail)
    path = tmp_path / ".lock"
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        _hold(path)
    told = tell(caught.value)
    assert told.exit_code == 5
    assert f"cannot write {path}: {os.strerror(number)} ({errno.errorcode[number]})" in told.message
