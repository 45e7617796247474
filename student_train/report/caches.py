"""The cards of the teacher caches that the measured runs learned from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reskd.common.errors import CacheError
from reskd.student_train.report.page import render
from reskd.student_train.report.records import TrainingLog
from reskd.teacher_cache.format.manifest import MANIFEST_FILE
from reskd.teacher_cache.read.reader import CacheReader


@dataclass(slots=True)
class _Recorded:
    """One cache as the logs of runs name it."""

    fingerprint: str
    runs: list[str] = field(default_factory=list)
    """Names of those that learned from it."""
    folders: list[str] = field(default_factory=list)
    """Where they read it; several if it was copied or moved in between."""
    facts: list[tuple[str, str]] | None = None
    """Its card, or None where it was not found."""
    reasons: list[str] = field(default_factory=list)
    """Why it was not found, of each folder."""

    def look(self) -> None:
        """Look for it where the runs read it."""
        for folder in map(Path, self.folders):
            try:
                if not (folder / MANIFEST_FILE).exists():
                    self.reasons.append(f"{folder} is gone")
                    continue
                reader = CacheReader(folder)
            except (CacheError, OSError, ValueError) as error:
                self.reasons.append(f"{folder} cannot be read: {error}".rstrip("."))
                continue
            found = reader.manifest.fingerprint
            if found == self.fingerprint:
                self.facts = _card(reader)
                return
            self.reasons.append(f"{folder} is another cache now, with fingerprint {found}")


def caches_section(logs: Mapping[str, TrainingLog], given: Path | None) -> Markup | None:
    """The cards of the caches that runs learned from, and of a given one; None without any.

    A recorded cache that is gone, damaged or by now another one gets a line instead of a card.

    Args:
        logs: Of the runs, by their names.
        given: Where a cache has moved to. It is shown in any case, with a line if all caches on
            record are others.

    Raises:
        CacheError: If the given folder is no cache, or a damaged one.
    """
    caches = _recorded_caches(logs)
    foreign = None
    if given is not None:
        reader = CacheReader(given)
        own = reader.manifest.fingerprint
        if caches and own not in caches:
            foreign = given
        shown = caches.pop(own, _Recorded(own))
        shown.facts = _card(reader)
        caches = {own: shown, **caches}
    if not caches:
        return None
    for cache in caches.values():
        if cache.facts is None:
            cache.look()
    return render("cache.html", foreign=foreign, caches=caches.values())


def check_cache(folder: Path) -> None:
    """Refuse a folder that is no cache, or a damaged one.

    Raises:
        CacheError: If it is.
    """
    CacheReader(folder)


def _recorded_caches(logs: Mapping[str, TrainingLog]) -> dict[str, _Recorded]:
    """By fingerprint, in the order of the runs."""
    recorded: dict[str, _Recorded] = {}
    for run, log in logs.items():
        start = log.start
        if start is None or start.learned_from != "cache":
            continue
        if start.cache is not None and start.fingerprint is not None:
            cache = recorded.setdefault(start.fingerprint, _Recorded(start.fingerprint))
            cache.runs.append(run)
            if start.cache not in cache.folders:
                cache.folders.append(start.cache)
    return recorded


def _card(reader: CacheReader) -> list[tuple[str, str]]:
    """A cache from its own records."""
    manifest = reader.manifest
    layout, identity = manifest.layout, manifest.identity
    teacher, index = identity.get("teacher", {}), identity.get("index", {})
    model, known = teacher.get("model", {}), identity.get("videos") or index.get("digest")
    return [
        ("folder", str(reader.folder.absolute())),
        ("fingerprint", manifest.fingerprint),
        (
            "data",
            f"split {manifest.split}, {layout.num_videos} videos, digest {known}",
        ),
        ("readable", f"{len(reader.usable_videos)} of {layout.num_videos} videos have rows"),
        ("teacher", f"{model.get('recognizer')} of {model.get('backbone')}"),
        ("its weights", str(teacher.get("weights_sha256"))),
        ("its mode", f"{teacher.get('mode')}, {teacher.get('precision')}"),
        ("clip", _pairs(identity.get("clip", {}))),
        ("view", _pairs(identity.get("views", {}))),
        ("decoder", _pairs(identity.get("decoder", {}))),
        ("store", f"{layout.num_views} views, {layout.num_units} units, codec {manifest.codec}"),
        ("arrays", ", ".join(f"{array.name} {array.dtype}" for array in manifest.arrays)),
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
