"""How far locks on a file reach: what the mount table tells of file systems that others share.

A lock that only its own machine sees is granted like any other, so nothing but the table tells.
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
_LOCAL_LOCKS: Final = frozenset(
    {"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"}
)
"""Options of NFS, Lustre and CIFS mounts whose locks stay on the machine."""
_WITHOUT_LOCKS: Final = re.compile(
    r"fuse\.(sshfs|rclone|s3fs|goofys|gcsfuse|mountpoint-s3|blobfuse2?)|9p"
)
"""File systems of which the kernel keeps the locks, for the programs of one machine."""


class Mount(NamedTuple):
    """A line of the mount table."""

    point: str
    kind: str
    options: frozenset[str]


def why_locks_stay_here(path: Path, table: Path = _MOUNT_TABLE) -> str | None:
    """Why other machines do not see a lock on a file; None if nothing tells that they do not."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    real = os.path.realpath(path)
    over = [
        mount
        for mount in map(_mount, lines)
        if mount.point == "/" or real == mount.point or real.startswith(f"{mount.point}/")
    ]
    if not over:
        return None
    mount = max(over, key=lambda one: len(one.point))  # the last one of several in one place
    local = sorted(mount.options & _LOCAL_LOCKS)
    if local:
        return f"is on {mount.kind} mounted with {local[0]}, whose locks no other machine sees"
    if _WITHOUT_LOCKS.fullmatch(mount.kind):
        return f"is on {mount.kind}, whose locks no other machine sees"
    return None


def _mount(line: str) -> Mount:
    """A line of mountinfo: ids, root, mount point, options, tags, -, kind, source, options."""
    own, _, shared = line.partition(" - ")
    fields, others = own.split(" "), shared.split(" ")
    point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
    options = ",".join((fields[5], *others[2:]))
    return Mount(point, others[0], frozenset(options.split(",")))
