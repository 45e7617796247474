"""What the mount table tells of locks."""

from pathlib import Path

import pytest

from reskd.common.storage.lock_reach import why_locks_stay_here

ROOT = r"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        pytest.param("", "/data/cache", None, id="local disk"),
        pytest.param(
            "30 21 0:40 / /data rw - nfs4 server:/d rw,vers=4.2,local_lock=none",
            "/data/cache",
            None,
            id="NFS",
        ),
        pytest.param(
            "30 21 0:40 / /data rw - nfs server:/d rw,nolock,vers=3,local_lock=all",
            "/data/cache",
            "is on nfs mounted with local_lock=all, whose locks no other machine sees",
            id="NFS without locks",
        ),
        pytest.param(
            "30 21 0:40 / /data rw - nfs server:/d rw,local_lock=all",
            "/database/cache",
            None,
            id="another folder of a like name",
        ),
        pytest.param(
            "30 21 0:40 / /data rw - nfs server:/d rw,local_lock=all\n"
            "31 30 8:2 / /data/disk rw - xfs /dev/sdb1 rw",
            "/data/disk/cache",
            None,
            id="a disk mounted inside",
        ),
        pytest.param(
            "30 21 0:40 / /lus rw,localflock - lustre m@tcp:/l rw",
            "/lus/cache",
            "is on lustre mounted with localflock, whose locks no other machine sees",
            id="Lustre",
        ),
        pytest.param(
            r"30 21 0:40 / /my\040data rw - fuse.s3fs s3fs rw,user_id=0",
            "/my data/cache",
            "is on fuse.s3fs, whose locks no other machine sees",
            id="bucket, a space in the name",
        ),
        pytest.param("30 21 0:40 / /j rw - fuse.juicefs j rw", "/j/cache", None, id="JuiceFS"),
    ],
)
def test_why_locks_stay_here(tmp_path: Path, lines: str, path: str, expected: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(ROOT + lines)
    assert why_locks_stay_here(Path(path), table) == expected


def test_without_a_table_nothing_is_told(tmp_path: Path) -> None:
    assert why_locks_stay_here(tmp_path, tmp_path / "none") is None
