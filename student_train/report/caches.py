"""The cards of the teacher caches that the measured runs learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reskd.common.errors import CacheError
from reskd.student_train.report.logs import TrainingLog
from reskd.student_train.report.page import Content, Markup, card, joined, name, section, tag
from reskd.teacher_cache.format.manifest import MANIFEST_FILE
from reskd.teacher_cache.read.reader import CacheReader


@dataclass(slots=True)
class _Recorded:
    """One cache as the logs of runs name it."""

    runs: list[str] = field(default_factory=list)
    """Names of those that learned from it."""
    folders: list[str] = field(default_factory=list)
    """Where they read it; several if it was copied or moved in between."""


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
    recorded = _recorded_caches(logs)
    parts: list[Content] = []
    shown = None
    if given is not None:
        reader = CacheReader(given)
        shown = reader.manifest.fingerprint
        if recorded and shown not in recorded:
            parts.append(
                _told("No run here learned from ", name(str(given)), ", named with --cache.")
            )
        parts += _card_of(reader, recorded.get(shown))
    for fingerprint, cache in recorded.items():
        if fingerprint != shown:
            parts += _card_or_reason(fingerprint, cache)
    return section("cache", "Teacher cache", *parts) if parts else None


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
            cache = recorded.setdefault(start.fingerprint, _Recorded())
            cache.runs.append(run)
            if start.cache not in cache.folders:
                cache.folders.append(start.cache)
    return recorded


def _card_or_reason(fingerprint: str, cache: _Recorded) -> list[Content]:
    reasons = []
    for folder in cache.folders:
        found = _opened(Path(folder), fingerprint)
        if isinstance(found, CacheReader):
            return _card_of(found, cache)
        reasons.append(found)
    return [
        _told(
            *_names(cache.runs),
            f" learned from the cache with fingerprint {fingerprint}. It is not shown: ",
            name("; ".join(reasons)),
            ". Where it has moved, name its new folder with --cache.",
        )
    ]


def _opened(folder: Path, fingerprint: str) -> CacheReader | str:
    """The cache with that fingerprint, or why it is not there."""
    try:
        if not (folder / MANIFEST_FILE).exists():
            return f"{folder} is gone"
        reader = CacheReader(folder)
    except (CacheError, OSError, ValueError) as error:
        return f"{folder} cannot be read: {error}".rstrip(".")
    if reader.manifest.fingerprint != fingerprint:
        return f"{folder} is another cache now, with fingerprint {reader.manifest.fingerprint}"
    return reader


def _card_of(reader: CacheReader, recorded: _Recorded | None) -> list[Content]:
    """The card of a cache from its own records, and who learned from it."""
    manifest = reader.manifest
    layout, identity = manifest.layout, manifest.identity
    teacher, index = identity.get("teacher", {}), identity.get("index", {})
    model = teacher.get("model", {})
    facts: list[tuple[str, str]] = [
        ("folder", str(reader.folder.absolute())),
        ("fingerprint", manifest.fingerprint),
        (
            "data",
            f"split {manifest.split}, {layout.num_videos} videos, digest {index.get('digest')}",
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
    learned = [] if recorded is None else [_told(*_names(recorded.runs), " learned from it.")]
    return [*learned, card(facts)]


def _told(*words: Content) -> Markup:
    return tag("p", *words)


def _names(runs: Sequence[str]) -> list[Content]:
    return [name(runs[0]), *(joined([", ", name(run)]) for run in runs[1:])]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
