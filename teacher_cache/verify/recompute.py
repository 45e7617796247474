"""Prove that a cache says what its teacher says: run the teacher again on some random rows.

A row is compared array by array (tolerance.py). Frames and view parameters must be equal; floats
may differ by twice the largest of three things: what two live runs differ by, measured first on a
few of the rows at two batch sizes (in mode batch: on a group in two orders), what the teacher's
precision adds on the same clips (precision.py), and what the number type on disk may add.

Rows are drawn uniformly, without replacement, so n clean ones bound the share of defective rows:
were it d or more, all n would be clean with a probability of at most (1 - d)^n.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, isfinite, log
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reskd.common.console import progress, say
from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.differences import JUDGED, LARGEST_DIFFERENCE, live_differences
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment, Precision
from reskd.common.rng import keyed_generator
from reskd.common.video.preprocess import shrink
from reskd.teacher_cache.fill.computed import computed_here, say_differences
from reskd.teacher_cache.fill.cut import CutVideo
from reskd.teacher_cache.fill.job import RunOptions, job_on_cache, teacher_for
from reskd.teacher_cache.format.layout import object_key
from reskd.teacher_cache.format.manifest import first_generation
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.precision import PrecisionMeasure, largest, replay_precision
from reskd.teacher_cache.verify.replay import Address, Repeated, Replay
from reskd.teacher_cache.verify.report import ArrayLimit, Finding, Report, Sample
from reskd.teacher_cache.verify.tolerance import (
    FACTOR,
    differences,
    encode_errors,
)
from reskd.teacher_cache.verify.verify import verify_cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Which rows to compare."""

    rows: int | None = None
    """How many; None takes as many clean ones as the statement below needs."""
    confidence: float = 0.95
    """Of the statement, in (0, 1)."""
    defect_rate: float = 0.001
    """Share of defective rows that there shall be fewer than, in (0, 1)."""
    seed: int
    """Key of the draw."""


def rows_needed(confidence: float, defect_rate: float) -> int:
    """Clean rows after which the share of defective ones is below a rate: 2995 for 95 %, 0.1 %."""
    return ceil(log(1 - confidence) / log(1 - defect_rate))


def defect_rate_below(rows: int, confidence: float) -> float:
    """The rate that so many clean rows bound, at least one; the inverse of `rows_needed`."""
    bound: float = 1 - (1 - confidence) ** (1 / rows)
    return bound


def draw_rows(num_views: int, videos: list[int], draw: Draw) -> list[Address]:
    """Rows of some videos, uniformly and without replacement; all of them if they are too few."""
    total = num_views * len(videos)
    wanted = rows_needed(draw.confidence, draw.defect_rate) if draw.rows is None else draw.rows
    if not total:
        return []
    generator = keyed_generator(draw.seed, "semantic")
    numbers = generator.choice(total, min(wanted, total), replace=False).tolist()
    return [(number // len(videos), videos[number % len(videos)]) for number in numbers]


def verify_semantic(
    experiment: Experiment, folder: Path, draw: Draw, *, device: torch.device, threads: int
) -> Report:
    """Level bytes first, then the teacher again on rows of the units that are whole.

    Args:
        experiment: The one the cache was written for.
        folder: The cache.
        draw: Which rows.
        device: Where the teacher runs; need not be what it ran on.
        threads: Threads that decode.

    Raises:
        CacheError: If this is another experiment's cache, or its cache.json is damaged.
        DataError: If the index or the teacher is missing or does not fit.
    """
    options = RunOptions(max_bad=0.0, threads=threads, device=device, force=False)
    job, manifest, model = job_on_cache(experiment, folder, options)
    report = replace(verify_cache(folder, "bytes"), level="semantic")
    if any(finding.path in manifest.zarr_sha256 for finding in report.findings):
        return report  # what rows look like is not known
    try:
        reader = CacheReader(folder)
    except CacheError:
        if not report.findings:
            raise
        return report  # what hinders the reader is among them
    damaged = {finding.unit for finding in report.findings}
    layout = reader.manifest.layout
    videos = [
        video
        for video in reader.usable_videos
        if layout.locate(video)[0] not in damaged and video not in job.gone
    ]
    rows = draw_rows(layout.num_views, videos, draw)
    needs_teacher = {array.name for array in reader.manifest.arrays} - FROM_VIDEO_ALONE

    def teacher_in(precision: Precision) -> Teacher:
        return teacher_for(experiment, model, reader.manifest, device, precision=precision)

    precision = experiment.teacher.precision
    teacher = teacher_in(replay_precision(precision, device)) if needs_teacher else None
    plan = reader.manifest.plan_of(first_generation(reader.manifest.arrays, layout))
    measure = PrecisionMeasure(plan, precision if needs_teacher else "float32", teacher_in, device)
    check = _Check(Replay(job=job, reader=reader, teacher=teacher), plan, measure)
    say(f"{len(rows)} of {len(videos) * layout.num_views} rows drawn with seed {draw.seed}")
    check.run(rows)
    return replace(
        report,
        findings=(*report.findings, *check.findings),
        semantic=check.sample(draw, drawn=len(rows), rows_in_all=len(videos) * layout.num_views),
    )


def _of(name: str, found: Mapping[str, float]) -> float:
    """A measured difference of an array; kept classes are judged by their scores, so by theirs."""
    return found.get("logit_map_values" if name == "logit_map_ids" else name, 0.0)


def _why_not_cut(cut: CutVideo, view: int) -> str:
    """Why a view has no clip."""
    if cut.failure is not None:
        return f"cannot be decoded any more: {cut.failure}"
    return cut.misfits[view]


@dataclass
class _Extremes:
    """The largest numbers met of one array."""

    precision: float = 0.0
    encode_error: float = 0.0
    limit: float = 0.0
    difference: float = 0.0


class _Check:
    """Compares rows and keeps what it finds."""

    def __init__(self, replay: Replay, plan: TargetPlan, measure: PrecisionMeasure) -> None:
        self._replay, self._reader = replay, replay.reader
        self._plan, self._measure = plan, measure
        self._live: dict[str, float] = {}
        self._precision: dict[str, float] = {}
        self._extremes: dict[str, _Extremes] = defaultdict(_Extremes)
        self._seen: set[Address] = set()
        self._skipped: set[Address] = set()
        self.findings: list[Finding] = []

    def run(self, rows: list[Address]) -> None:
        """Compare rows; what is wrong goes to `findings`."""
        groups, lost = self._replay.clip_groups(rows)
        for row in lost:
            self._skip(row, "cannot be repeated: the record of its unit does not name its group")
        if self._replay.teacher is not None:
            say_differences(
                (one.computed for one in groups), computed_here(self._replay.teacher, 0)
            )
            # On the same few clips.
            clips_BT3HW = self._replay.few_clips(groups)
            pairs = self._replay.twice(self._replay.teacher, clips_BT3HW)
            self._live = live_differences(self._plan, pairs)
            self._precision = largest(self._measure.by_clip(clips_BT3HW))
        total = sum(len(group.rows) for group in groups)
        with progress("comparing with the live teacher", total, unit="rows") as advance:
            for repeated in self._replay.repeated(self._replay.teacher, groups):
                self._compare(repeated)
                advance(len(repeated.group.rows))

    def sample(self, draw: Draw, *, drawn: int, rows_in_all: int) -> Sample:
        """What was looked at, for the report."""
        compared = len(self._seen - self._skipped)
        below: float | None = None
        if compared and not self.findings:
            whole = compared == rows_in_all
            below = 0.0 if whole else defect_rate_below(compared, draw.confidence)
        order = [array.name for array in self._plan.arrays if array.name in self._extremes]
        return Sample(
            rows=compared,
            drawn=drawn,
            rows_in_all=rows_in_all,
            seed=draw.seed,
            confidence=draw.confidence,
            defect_rate_below=below,
            limits={name: self._limit_of(name) for name in order},
        )

    def _limit_of(self, name: str) -> ArrayLimit:
        met = self._extremes[name]
        numbers = {
            "live_difference": _of(name, self._live),
            "precision_difference": met.precision,
            "encode_error": met.encode_error,
            "limit": met.limit,
            "largest_difference": met.difference,
        }
        return ArrayLimit(
            **{key: number if isfinite(number) else None for key, number in numbers.items()}
        )

    def _compare(self, repeated: Repeated) -> None:
        group, cuts, outputs = repeated
        for row, names in group.rows.items():
            view, video = row
            cut = cuts[video]
            stored = {name: self._stored(name, row) for name in names}
            if "views" in stored and view in cut.drawn:
                self._compare_views(row, stored["views"], cut.drawn[view].to_row())
            if view not in cut.params:
                self._skip(row, _why_not_cut(cut, view))
                continue
            if "frames" in stored:
                self._compare_frames(row, stored["frames"], cut.clip(view))
            if stored.keys() <= FROM_VIDEO_ALONE:
                self._seen.add(row)
            elif row in outputs:
                self._seen.add(row)
                clips_BT3HW = torch.stack([cuts[one].clip(view) for one in group.videos])
                place = group.videos.index(video)
                self._compare_floats(row, stored, outputs[row], clips_BT3HW, place)
            else:
                other = next(one for one in group.videos if view not in cuts[one].params)
                problem = _why_not_cut(cuts[other], view)
                self._skip(row, f"cannot be repeated: video {other} of its group {problem}")

    def _stored(self, name: str, row: Address) -> Row:
        view, video = row
        rows: Row = self._reader.gather(name, [view], [video], self._reader.empty(name, 1))
        return rows.reshape(self._reader.manifest.array(name).row_shape)

    def _compare_views(self, row: Address, stored: Row, drawn: Row) -> None:
        different = np.flatnonzero(stored != drawn)
        if len(different):
            column = int(different[0])
            names = self._reader.manifest.array("views").attributes.get("columns", [])
            name = names[column] if column < len(names) else f"column {column}"
            problem = f"has {name} {stored[column]}; seed, video and view give {drawn[column]}"
            self._find("views", row, problem)

    def _compare_frames(self, row: Address, stored: Row, clip_T3HW: Tensor) -> None:
        live = shrink(clip_T3HW, self._plan.student_size).numpy().astype(np.int16)
        off = np.abs(live - stored.astype(np.int16))
        if off.any():
            self._find(
                "frames",
                row,
                f"differs from the video in {np.count_nonzero(off)} of {off.size} grey levels, by "
                f"up to {off.max()}; none may differ",
            )

    def _compare_floats(
        self,
        row: Address,
        stored: Mapping[str, Row],
        output: TeacherOutput,
        clips_BT3HW: Tensor,
        place: int,
    ) -> None:
        """Compare one row; the clips are those the teacher sees together, the row's at a place."""
        errors = encode_errors(self._plan, output)
        found = differences(self._plan, stored, output)
        precision = self._precision
        limits = self._limits(precision, errors)
        over = [name for name in found if found[name] > limits[name]]
        if over and all(found[name] <= FACTOR * LARGEST_DIFFERENCE for name in JUDGED & {*over}):
            # Few clips were measured: this one may be further from float32 than all of them.
            precision = largest([precision, self._measure.by_clip(clips_BT3HW)[place]])
            limits = self._limits(precision, errors)
        for name, difference in found.items():
            met = self._extremes[name]
            met.precision = max(met.precision, _of(name, precision))
            met.encode_error = max(met.encode_error, errors[name])
            met.limit = max(met.limit, limits[name])
            met.difference = max(met.difference, difference)
            if difference > limits[name]:
                problem = (
                    f"differs from the live teacher by {difference:.2e}, limit {limits[name]:.2e}"
                )
                self._find(name, row, problem)

    def _limits(
        self, precision: Mapping[str, float], errors: Mapping[str, float]
    ) -> dict[str, float]:
        """How far each array of a row may be from the live teacher."""
        return {
            name: FACTOR * max(_of(name, self._live), _of(name, precision), error)
            for name, error in errors.items()
        }

    def _skip(self, row: Address, problem: str) -> None:
        if row not in self._skipped:
            self._skipped.add(row)
            self._find("views", row, problem)

    def _find(self, name: str, row: Address, problem: str) -> None:
        manifest, (view, video) = self._reader.manifest, row
        array, layout = manifest.array(name), manifest.layout
        unit, _ = layout.locate(video)
        writer = next(
            one.number
            for one in manifest.generations_of(unit)
            if name in one.arrays and view in one.view_range
        )
        self.findings.append(
            Finding(
                path=object_key(array, view // layout.block_views, unit),
                problem=problem,
                array=name,
                unit=unit,
                generation=writer,
                view=view,
                video=video,
            )
        )
