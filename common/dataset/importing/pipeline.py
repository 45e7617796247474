"""From annotations to a video index: labels, files, repetitions, then the lengths of the videos.

What costs nothing is looked at first, so a wrong list is refused before hours of opening videos.
A video that is missing or unreadable is never left out: it stays in the index with 0 frames.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

from reskd.common.console import emit, progress
from reskd.common.dataset.importing.annotations import Annotations
from reskd.common.dataset.importing.class_list import read_class_list
from reskd.common.dataset.importing.copies import copies_across
from reskd.common.dataset.importing.labels import (
    Labelled,
    LabelRules,
    label_rows,
    with_default_classes,
)
from reskd.common.dataset.importing.list_options import ListOptions
from reskd.common.dataset.importing.probe_journal import ProbeJournal, journal_file
from reskd.common.dataset.importing.probing import Probe, Progress, probe_all
from reskd.common.dataset.importing.repeats import PlacedVideo, find_repeats
from reskd.common.dataset.importing.report import (
    Allowed,
    ImportReport,
    empty_classes,
    summary,
    table,
)
from reskd.common.dataset.importing.sources import VideoFolders, parse_video_folders
from reskd.common.dataset.importing.video_tree import VideoTree
from reskd.common.dataset.index import VideoEntry, VideoIndex, write_index
from reskd.common.dataset.quarantine import quarantine_file, read_quarantine
from reskd.common.errors import DataError
from reskd.common.video.reader import Decoder, decoder_identity


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportPlan:
    """Annotated videos and their places; nothing is opened yet."""

    labelled: Labelled
    root: Path
    """Folder that the index's paths start from."""
    videos: tuple[PlacedVideo, ...]
    """Without repetitions."""
    report: ImportReport
    """As far as it is known."""

    @property
    def to_open(self) -> tuple[PlacedVideo, ...]:
        """Videos whose length is to be learnt."""
        return tuple(video for video in self.videos if video.problem is None)


def plan_import(
    annotations: Annotations,
    folders: VideoFolders,
    *,
    rules: LabelRules,
    quarantine: Mapping[str, str],
) -> ImportPlan:
    """Resolve the labels and find the files.

    Args:
        annotations: What the lists say.
        folders: Where the videos lie.
        rules: What the user said about classes.
        quarantine: Reasons by id of videos that must not be opened.

    Raises:
        DataError: If labels or folders do not fit the annotations.
    """
    labelled = label_rows(annotations, rules)
    placed = _place(labelled, folders)
    repeats = find_repeats(placed)
    missing = [video for video in repeats.kept if video.problem is not None]
    barred = [
        replace(video, problem=f"in quarantine: {quarantine[video.id]}")
        if video.id in quarantine and video.problem is None
        else video
        for video in repeats.kept
    ]
    expected = Counter(row.split for row, _ in labelled.rows)
    found = Counter(video.row.split for video in placed if video.problem is None)
    numbers = [label for _, labels in labelled.rows for label in labels]
    report = ImportReport(
        expected=dict(sorted(expected.items())),
        found={split: found[split] for split in sorted(expected)},
        num_classes=len(labelled.classes),
        label_range=(min(numbers), max(numbers)),
        empty_classes=empty_classes(labelled),
        missing=tuple(f"{video.id} ({video.row.where}): {video.problem}" for video in missing),
        unreadable=(),
        quarantined=tuple(
            f"{after.id}: {after.problem}"
            for before, after in zip(repeats.kept, barred, strict=True)
            if after is not before
        ),
        copies=(),
        other_lengths=(),
        parts=tuple(
            f"{video.id} ({video.row.where}): from image {video.row.start_frame} on"
            for video in placed
            if video.row.start_frame
        ),
        ignored=labelled.ignored,
        same=repeats.same,
        contradicting=repeats.contradicting,
        overlapping=repeats.overlapping,
    )
    return ImportPlan(labelled=labelled, root=folders.root, videos=tuple(barred), report=report)


def find_copies(plan: ImportPlan) -> ImportPlan:
    """The plan with its report on files of equal bytes in two splits."""
    by_path = {video.path: video for video in plan.to_open}
    pairs = copies_across({path: video.row.split for path, video in by_path.items()})
    copies = tuple(
        f"{by_path[one].id} (`{by_path[one].row.split}`) and "
        f"{by_path[other].id} (`{by_path[other].row.split}`)"
        for one, other in pairs
    )
    return replace(plan, report=replace(plan.report, copies=copies))


def open_videos(
    plan: ImportPlan,
    *,
    decoder: Decoder,
    jobs: int | None,
    journal: ProbeJournal | None = None,
    progress: Progress | None = None,
) -> tuple[VideoIndex, ImportReport]:
    """Learn the lengths.

    Args:
        plan: From plan_import.
        decoder: Who decodes.
        jobs: Threads; as many as processors when None.
        journal: What an earlier import learnt, if it was stopped.
        progress: Told after each video, in this thread.

    Returns:
        The index with all videos of the plan, and the whole report.
    """
    probes = probe_all(
        {video.id: video.path for video in plan.to_open},
        decoder=decoder,
        jobs=jobs,
        progress=progress,
        journal=journal,
    )
    differing = [video for video in plan.to_open if _differs(video, probes[video.id])]
    report = replace(
        plan.report,
        unreadable=tuple(
            f"{video.id} ({video.row.where}): {probes[video.id].problem}"
            for video in plan.to_open
            if probes[video.id].problem is not None
        ),
        other_lengths=tuple(
            f"{video.id}: {probes[video.id].num_frames} instead of {video.row.num_frames}"
            for video in differing
        ),
        # A list with offsets means the frames it names, not as many as there are.
        parts=tuple(
            f"{video.id} ({video.row.where}): {video.row.num_frames} of "
            f"{probes[video.id].num_frames} images"
            for video in differing
            if video.row.start_frame is not None
        ),
    )
    return _index(plan, probes), report


def _place(labelled: Labelled, folders: VideoFolders) -> list[PlacedVideo]:
    folder_of = {
        split: folders.of(split).absolute()
        for split in dict.fromkeys(row.split for row, _ in labelled.rows)
    }
    # Splits in one folder share what was listed of it.
    trees = {folder: VideoTree(folder) for folder in folder_of.values()}
    placed: list[PlacedVideo] = []
    for row, labels in labelled.rows:
        tree = trees[folder_of[row.split]]
        place = tree.find(row)
        # With a folder per split, equal names are different videos.
        id_ = f"{row.split}/{row.id}" if folders.by_split else row.id
        placed.append(
            PlacedVideo(
                row=row,
                id=id_,
                labels=labels,
                path=tree.folder / place.path,
                problem=place.problem,
            )
        )
    return placed


def _differs(video: PlacedVideo, probe: Probe) -> bool:
    """Whether a list is wrong about a folder; of videos it counts the frames once extracted."""
    stated = video.row.num_frames
    return stated not in {None, probe.num_frames} and not probe.problem and video.path.is_dir()


def _index(plan: ImportPlan, probes: Mapping[str, Probe]) -> VideoIndex:
    failed = Probe()
    videos: Sequence[VideoEntry] = [
        VideoEntry(
            id=video.id,
            path=_relative(video.path, plan.root),
            labels=video.labels,
            split=video.row.split,
            num_frames=probes.get(video.id, failed).num_frames,
            fps=probes.get(video.id, failed).fps,
        )
        for video in plan.videos
    ]
    return VideoIndex(
        classes=plan.labelled.classes,
        root=plan.root,
        videos=tuple(sorted(videos, key=lambda video: (video.split, video.id))),
    )


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def run_import(
    annotations: Annotations,
    options: ListOptions,
    *,
    num_classes: int | None = None,
    only_classes: bool = False,
) -> None:
    """Make an index from annotations and print what was found.

    Args:
        annotations: What the files say.
        options: What the user said.
        num_classes: Number of classes of the data set, where the user states none.
        only_classes: Leave out rows of other classes than the user's even if he does not say so.

    Raises:
        DataError: If something is wrong that was not allowed; the report is printed before.
    """
    allowed = Allowed(
        missing=options.allow_missing,
        repetitions=options.merge_duplicates,
        copies=options.allow_copies,
    )
    plan = plan_import(
        annotations,
        parse_video_folders(options.videos),
        rules=_rules(options, num_classes, only_classes),
        quarantine=_quarantine(options),
    )
    if plan.report.refusals(allowed):
        _refuse(plan.report, allowed, options)
    plan = find_copies(plan)
    if plan.report.refusals(allowed):
        _refuse(plan.report, allowed, options)
    with (
        ProbeJournal(journal_file(options.out), decoder_identity(options.decoder)) as journal,
        progress("opening", len(plan.to_open), unit="videos") as advance,
    ):
        index, report = open_videos(
            plan,
            decoder=options.decoder,
            jobs=options.jobs,
            journal=journal,
            progress=lambda done, of: advance(),
        )
        if report.refusals(allowed):
            _refuse(report, allowed, options)
        write_index(options.out, index)
        journal.remove()
    count = f"{options.out}: {len(index.videos)} videos of {len(index.classes)} classes"
    emit(
        {**summary(options.out, index), "report": report.record()},
        as_json=options.as_json,
        text="\n".join([count, table(index), *report.lines()]),
    )


def _rules(options: ListOptions, num_classes: int | None, only_classes: bool) -> LabelRules:
    rules = LabelRules(
        classes=read_class_list(options.classes) if options.classes else None,
        num_classes=options.num_classes,
        labels_from=options.labels_from,
        only_classes=options.only_classes,
    )
    if only_classes:
        rules = replace(rules, only_classes=True)
    return rules if num_classes is None else with_default_classes(rules, num_classes)


def _quarantine(options: ListOptions) -> dict[str, str]:
    if options.quarantine is not None and not options.quarantine.is_file():
        raise DataError(f"there is no quarantine list {options.quarantine}")
    path = options.quarantine or quarantine_file(options.out)
    return {bad.id: bad.reason for bad in read_quarantine(path)}


def _refuse(report: ImportReport, allowed: Allowed, options: ListOptions) -> Never:
    if options.as_json:
        emit({"index": None, "report": report.record()}, as_json=True, text="")
    raise DataError("\n".join(["no index was written.", *report.refusals(allowed)]))
