"""Caches that say of themselves that they were written under other circumstances."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.format.identity import Identity
from reskd.teacher_cache.format.manifest import read_manifest, write_manifest


def edit_identity(cache: Path, *keys: str, value: object) -> None:
    """Set one field of a cache's identity, and seal every record anew."""
    identity = deepcopy(read_manifest(cache).identity)
    node = identity
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    set_identity(cache, identity)


def set_identity(cache: Path, identity: Identity) -> None:
    """Replace a cache's identity, and seal every record anew."""
    manifest = replace(read_manifest(cache), identity=identity)
    write_manifest(cache, manifest)
    for record in (cache / "commits").iterdir():
        write_record(record, {**read_record(record), "fingerprint": manifest.fingerprint})
