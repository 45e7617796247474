"""The card of a cache: whose outputs it holds, what is stored, how good it is, what it cost.

Free of torch and of the teacher: accuracy comes from the stored class scores alone.

As JSON the card has these keys; a null always has its reason in a text beside it or is explained:

    cache, fingerprint, format   absolute path, digest of the identity, name of the format
    identity                     the whole of it, see `cache_identity`
    split, use                   cached split; "training", or "agreement" (no student may learn
                                 from it, it serves agreement metrics only)
    classes                      how many the teacher's scores are of
    complete                     whether every unit of every run is there
    videos, usable_videos        N, and how many of them have rows now
    views, block_views           V and V0
    units, videos_per_unit       their number, and S
    codec                        none or zstd
    row_checksums                whether rows are bound to their places; where they are not, swapped
                                 objects are found by `cache verify --level bytes` alone
    arrays                       name, row_shape, dtype, attributes, committed bytes of each
    bytes, bytes_by_target       committed bytes; scale and residual count to the features
    runs                         number, views, arrays, units (first, and one past the last),
                                 units_finished and complete of each
    devices                      device, torch_threads, units of each, most first: what computed
                                 how many; device is null where no record tells, or no teacher ran,
                                 torch_threads on a GPU too
    failed_videos                video (number), id (null in the first format), reason
    labels                       index (its path), problem (why it is of no use, else null)
    teacher                      see `teacher_quality`; null without stored class scores, or before
                                 the first unit
    precision_check              precision, device, clips, differences (largest of a clip, by
                                 array): how far the teacher was from float32 before the cache was
                                 filled; null for float32 and without a run log
    cost                         hours, bytes_per_second, logged_runs; null without a run log
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from reskd.common.console import progress
from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.errors import CacheError, ReskdError
from reskd.common.metrics import correct_predictions, top_k_hits
from reskd.teacher_cache.format.commits import Commit, bytes_by_array, failures, read_commits
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.row_checksums import TABLE
from reskd.teacher_cache.format.videos import CachedVideo, read_videos
from reskd.teacher_cache.read.contents import cached_videos, matched_videos
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.run_log import log_path, read_runs, recorded_experiment

TOP = 5
"""Of the best classes, how many may hold a right one in top5."""
NUMBERS_AT_ONCE = 1 << 20
"""Class scores that are looked at together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedCheck:
    """How far a teacher was from float32, as the log of runs has it."""

    precision: str
    device: str
    clips: int
    differences: dict[str, float]
    """Largest of a clip, by array."""


_LOGGED_CHECK: Final = TypeAdapter(LoggedCheck)


def cache_info(folder: Path, *, index_path: Path | None = None) -> dict[str, Any]:
    """Everything the card says, for JSON.

    Args:
        folder: The cache; may be incomplete.
        index_path: Video index that knows the labels; None takes the recorded experiment's.

    Raises:
        CacheError: If there is no cache, or a record or row of it is damaged.
        DataError: If the index that was named cannot be read.
    """
    manifest = read_manifest(folder)
    layout = manifest.layout
    written = {
        one.number: read_commits(folder, one.number, manifest.units_of(one))
        for one in manifest.generations
    }
    commits = [commit for units in written.values() for commit in units.values()]
    reader = CacheReader(folder)
    cached = read_videos(folder, manifest.videos)
    labels, facts = _labels_of(folder, manifest, index_path, cached)
    ids = {row: cached[row].id for row in failures(commits) if row in cached}
    counted = bytes_by_array(commits)
    by_array = {array.name: counted[array.name] for array in manifest.stored_arrays}
    return {
        "cache": str(folder.absolute()),
        "fingerprint": manifest.fingerprint,
        "format": manifest.format,
        "identity": manifest.identity,
        "split": manifest.split,
        "use": manifest.identity.get("index", {}).get("use"),
        "classes": len(manifest.class_names),
        "complete": all(
            len(written[one.number]) == len(manifest.units_of(one)) for one in manifest.generations
        ),
        "videos": layout.num_videos,
        "usable_videos": len(reader.usable_videos),
        "views": layout.num_views,
        "block_views": layout.block_views,
        "units": layout.num_units,
        "videos_per_unit": layout.unit_videos,
        "codec": manifest.codec,
        "row_checksums": manifest.row_checksums,
        "arrays": [
            {**asdict(array), "bytes": by_array[array.name]} for array in manifest.stored_arrays
        ],
        "bytes": sum(by_array.values()),
        "bytes_by_target": _bytes_by_target(by_array),
        "runs": [
            {
                **asdict(one),
                "units": (manifest.units_of(one).start, manifest.units_of(one).stop),
                "units_finished": len(written[one.number]),
                "complete": len(written[one.number]) == len(manifest.units_of(one)),
            }
            for one in manifest.generations
        ],
        "devices": [
            {"device": device, "torch_threads": threads, "units": units}
            for (device, threads), units in Counter(map(_computed_on, commits)).most_common()
        ],
        "failed_videos": [
            {"video": video, "id": ids.get(video), "reason": reason}
            for video, reason in sorted(failures(commits).items())
        ],
        "labels": facts,
        "teacher": teacher_quality(reader, labels),
        "precision_check": _precision_check(folder),
        "cost": _cost(folder),
    }


def teacher_quality(
    reader: CacheReader, labels: Mapping[int, Sequence[int]] | None
) -> dict[str, Any] | None:
    """What the stored class scores say, over all rows there are.

    Args:
        reader: The cache.
        labels: For every video by its row the places of its classes in the scores; any of them is
            right. None leaves accuracies out.

    Returns:
        rows: how many. top1, top5: share of rows with a right class first, or among the best five;
        top5 is null with five classes or fewer. top1_by_view: top1 of each view. agreement: share
        of videos of whose views all have the same best class, null with one view. entropy_nats:
        mean of the softmax's. None as a whole without class scores or rows.
    """
    manifest, videos = reader.manifest, np.array(reader.usable_videos, np.int64)
    if not len(videos) or all(array.name != "logits" for array in manifest.arrays):
        return None
    (num_classes,), views = manifest.array("logits").row_shape, manifest.layout.num_views
    targets_NK = None if labels is None else _targets(labels, videos, num_classes)
    hits = {k: np.zeros(views, np.int64) for k in (1, TOP)}
    agreeing, entropy = np.ones(len(videos), bool), 0.0
    first, best = np.empty(len(videos), np.int64), np.empty(len(videos), np.int64)
    step = max(1, NUMBERS_AT_ONCE // num_classes)
    with progress("reading class scores", views * len(videos), unit="rows") as advance:
        for view in range(views):
            for start in range(0, len(videos), step):
                own = slice(start, start + step)
                part, there = videos[own], np.ones(len(videos[own]), bool)
                out = reader.empty("logits", len(part))
                scores_BK = reader.gather("logits", [view] * len(part), part, out).astype(float)
                if not np.isfinite(scores_BK).all():
                    raise CacheError(
                        f"Cache {reader.folder}: class scores of view {view} are not finite, which "
                        "no teacher's are that `reskd cache-teacher` keeps; write the cache again."
                    )
                best[own] = scores_BK.argmax(axis=1)
                entropy += float(entropies(scores_BK).sum())
                if targets_NK is not None:
                    targets_BK = targets_NK[own]
                    hits[1][view] += correct_predictions(
                        scores_BK, targets_BK, predicted_N=there
                    ).sum()
                    hits[TOP][view] += top_k_hits(
                        scores_BK, targets_BK, k=TOP, predicted_N=there
                    ).sum()
                advance(len(part))
            if not view:
                first[:] = best
            agreeing &= best == first
    known, rows = targets_NK is not None, views * len(videos)
    return {
        "rows": rows,
        "top1": float(hits[1].sum() / rows) if known else None,
        "top5": float(hits[TOP].sum() / rows) if known and num_classes > TOP else None,
        "top1_by_view": (hits[1] / len(videos)).tolist() if known else None,
        "agreement": float(agreeing.mean()) if views > 1 else None,
        "entropy_nats": entropy / rows,
    }


def entropies(logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of the softmax of each row, (B,), in nats: 0 for certainty, log K for none."""
    shifted = logits_BK - logits_BK.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    # -sum p log p with log p = shifted - log total
    found: NDArray[np.float64] = np.log(total) - (weights * shifted).sum(axis=1) / total
    return found


def _targets(
    labels: Mapping[int, Sequence[int]], videos: NDArray[np.int64], num_classes: int
) -> NDArray[np.bool_]:
    """(N, K): whether a class is a label of a video."""
    targets_NK = np.zeros((len(videos), num_classes), bool)
    for row, video in enumerate(videos.tolist()):
        targets_NK[row, list(labels[video])] = True
    return targets_NK


def _labels_of(
    folder: Path, manifest: Manifest, named: Path | None, cached: Mapping[int, CachedVideo]
) -> tuple[dict[int, list[int]] | None, dict[str, str | None]]:
    """Places of every video's classes in the stored scores, by row, or why they are not known.

    An index that is at hand tells them; videos that it does not list have those they had.
    """
    path, problem, labels = named, None, None
    try:
        if path is None:
            path = recorded_experiment(folder.absolute()).data.index
        labels = _labels_by_index(folder, manifest, read_index(path), cached)
    except ReskdError as error:
        if named is not None and not isinstance(error, CacheError):
            raise
        problem = str(error)
    return labels, {"index": None if path is None else str(path.absolute()), "problem": problem}


def _labels_by_index(
    folder: Path, manifest: Manifest, index: VideoIndex, cached: Mapping[int, CachedVideo]
) -> dict[int, list[int]]:
    if manifest.split not in index.split_names():
        raise CacheError(f"the index has no split {manifest.split}")
    cached = cached or cached_videos(folder, manifest, index)
    matched = matched_videos(folder, manifest, index, cached=cached)
    columns = matched.columns
    if columns is None:
        raise CacheError("the classes of the index are not those of the stored scores one to one")
    labels = {row: list(video.labels) for row, video in cached.items()}
    for row, entry in matched.entries.items():
        labels[row] = [columns[label] for label in entry.labels]
    return labels


def _computed_on(commit: Commit) -> tuple[str | None, int | None]:
    """Device and, where they compute, threads of torch; nothing where the record does not tell."""
    computed = commit.computed
    if computed is None:
        return None, None
    on_cpu = computed.device.startswith("cpu")
    return computed.device, computed.torch_threads if on_cpu else None


def _bytes_by_target(by_array: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, size in by_array.items():
        targets = ("logit_map", "feature", TABLE)  # these have several arrays, named after them
        target = next((target for target in targets if name.startswith(target)), name)
        total["features" if target == "feature" else target] += size
    return dict(total)


def _precision_check(folder: Path) -> dict[str, Any] | None:
    """What `check_precision` found before the cache was filled, if it is logged."""
    for run in reversed(read_runs(folder.absolute())):
        with suppress(ValidationError):  # of a line without one, or a damaged one
            return asdict(_LOGGED_CHECK.validate_python(run.get("precision_check")))
    return None


def _cost(folder: Path) -> dict[str, Any] | None:
    """What the logged runs took together; None if nothing was logged."""
    runs = [
        run
        for run in read_runs(folder.absolute())
        if all(type(run.get(name)) in (int, float) for name in ("seconds", "bytes"))
    ]
    seconds = sum(run["seconds"] for run in runs)
    if not seconds:
        return None
    return {
        "hours": seconds / 3600,
        "bytes_per_second": sum(run["bytes"] for run in runs) / seconds,
        "logged_runs": len(runs),
        "log": str(log_path(folder.absolute())),
    }
