"""Imports from beginning to end: a format's annotations are planned, opened and written.

One way for every format, see `_carry_out`. Annotation files and folders of class folders differ in
what they refuse and in how they say it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from reskd.common.console import emit, in_lines, progress, say
from reskd.common.dataset.importing.annotations import Annotations
from reskd.common.dataset.importing.class_list import read_class_list
from reskd.common.dataset.importing.formats.folder import read_folder
from reskd.common.dataset.importing.former_splits import with_former_splits
from reskd.common.dataset.importing.labels import LabelRules, with_default_classes
from reskd.common.dataset.importing.list_options import ListOptions
from reskd.common.dataset.importing.plan import ImportPlan, find_copies, plan_import
from reskd.common.dataset.importing.probing import VideoProbe, probe_all
from reskd.common.dataset.importing.repeats import PlacedVideo
from reskd.common.dataset.importing.replacing import check_replaces_none, former_index
from reskd.common.dataset.importing.report import (
    Allowed,
    ImportReport,
    folder_refusal,
    summary,
    text_of,
)
from reskd.common.dataset.importing.sources import VideoFolders, parse_video_folders
from reskd.common.dataset.index import VideoEntry, VideoIndex, write_index
from reskd.common.dataset.quarantine import quarantine_file, read_quarantine
from reskd.common.errors import DataError
from reskd.common.storage.journal import Journal, journal_file
from reskd.common.video.reader import Decoder
from reskd.common.video.video_file import decoder_identity


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
        only_classes: Leave out rows of other classes than the user's without being asked to.

    Raises:
        DataError: If something is wrong that was not allowed; the report is printed before.
    """
    allowed = Allowed(
        missing=options.allow_missing,
        repetitions=options.merge_duplicates,
        copies=options.allow_copies,
    )

    def refuse(report: ImportReport) -> None:
        if refusals := report.refusals(allowed):
            if options.as_json:
                emit({"index": None, "report": report.record()}, as_json=True, text="")
            raise DataError(in_lines("no index was written.", *refusals))

    rules = LabelRules(
        classes=read_class_list(options.classes) if options.classes else None,
        num_classes=options.num_classes,
        labels=options.labels,
        labels_from=options.labels_from,
        only_classes=only_classes or options.only_classes,
    )
    plan = plan_import(
        annotations,
        parse_video_folders(options.videos),
        rules=rules if num_classes is None else with_default_classes(rules, num_classes),
        quarantine=_quarantine(options),
    )
    index, report = _carry_out(
        plan,
        refuse,
        out=options.out,
        overwrite=options.overwrite,
        decoder=options.decoder,
        jobs=options.jobs,
    )
    emit(
        {**summary(options.out, index), "report": report.record()},
        as_json=options.as_json,
        text=text_of(options.out, index, report.lines()),
    )


def import_folder(
    directory: Path,
    out: Path,
    *,
    val_fraction: float,
    allow_unreadable: bool = False,
    overwrite: bool = False,
    decoder: Decoder = "auto",
    jobs: int | None = None,
) -> tuple[VideoIndex, ImportReport]:
    """Make an index of a folder of class folders.

    Args:
        directory: The folder, see `read_folder`.
        out: The index to write.
        val_fraction: Share of each class that becomes split `val`, in [0, 1), where the folder is
            not split already.
        allow_unreadable: Keep a video that cannot be read, with 0 frames and a warning in the log,
            so that it counts as failed later.
        overwrite: Replace another index in the same place; videos that it lists, under whatever
            name, keep the split that was drawn for them.
        decoder: Who decodes.
        jobs: Threads; as many as processors when None.

    Returns:
        What was written and what was found.

    Raises:
        DataError: If the folder is laid out otherwise, holds a video in two splits, or one that
            cannot be read and may not be kept; or another index would be replaced.
    """

    def refuse(report: ImportReport) -> None:
        if problem := folder_refusal(report, directory, allow_unreadable=allow_unreadable):
            raise DataError(problem)

    found = read_folder(directory, val_fraction=val_fraction)
    plan = plan_import(
        found,
        VideoFolders(common=directory, by_split={}),
        rules=LabelRules(),
        quarantine={},
    )
    index, report = _carry_out(
        plan,
        refuse,
        out=out,
        overwrite=overwrite,
        keep_splits=overwrite and found.drawn_splits,
        decoder=decoder,
        jobs=jobs,
    )
    for problem in report.unreadable:
        say(f"kept as unreadable: {problem}")
    return index, report


def _carry_out(
    plan: ImportPlan,
    refuse: Callable[[ImportReport], None],
    *,
    out: Path,
    overwrite: bool,
    keep_splits: bool = False,
    decoder: Decoder,
    jobs: int | None,
) -> tuple[VideoIndex, ImportReport]:
    """Look for copies, open the videos and write the index; what costs little is done first.

    Args:
        plan: From plan_import.
        refuse: Raises a DataError if a report holds what stops the import; asked as soon as more
            is known.
        out: The index to write; what opening videos told is kept beside it until then.
        overwrite: Replace another index there.
        keep_splits: Videos that it lists keep their split.
        decoder: Who decodes.
        jobs: Threads; as many as processors when None.

    Returns:
        The index with all videos of the plan, and the whole report.
    """
    refuse(plan.report)
    plan = find_copies(plan)
    refuse(plan.report)
    header = {"format": "reskd-probes/5", "decoder": decoder_identity(decoder)}
    with (
        Journal(journal_file(out, "probes"), VideoProbe, header) as journal,
        progress("opening", len(plan.to_open), unit="videos") as advance,
    ):
        probes = probe_all(
            {video.id: video.path for video in plan.to_open},
            root=plan.root,
            decoder=decoder,
            jobs=jobs,
            journal=journal,
            advance=advance,
        )
        report = _whole_report(plan, probes)
        refuse(report)
        index = _index(plan, probes)
        if keep_splits and (former := former_index(out)) is not None:
            index = with_former_splits(former, index)
        if not overwrite:
            check_replaces_none(out, index)
        write_index(out, index)
        journal.remove()
    return index, report


def _whole_report(plan: ImportPlan, probes: Mapping[str, VideoProbe]) -> ImportReport:
    differing = [video for video in plan.to_open if _differs(video, probes[video.id])]
    return replace(
        plan.report,
        unreadable=tuple(
            f"{video.name}: {probes[video.id].problem}"
            for video in plan.to_open
            if probes[video.id].problem is not None
        ),
        other_lengths=tuple(
            f"{video.id}: {probes[video.id].num_frames} instead of {video.row.num_frames}"
            for video in differing
        ),
        # A list with offsets means the frames it names, not as many as there are.
        parts=tuple(
            f"{video.name}: {video.row.num_frames} of {probes[video.id].num_frames} images"
            for video in differing
            if video.row.start_frame is not None
        ),
    )


def _differs(video: PlacedVideo, probe: VideoProbe) -> bool:
    return video.row.num_frames not in {None, probe.num_frames} and not probe.problem


def _index(plan: ImportPlan, probes: Mapping[str, VideoProbe]) -> VideoIndex:
    failed = VideoProbe()
    videos = [
        VideoEntry(
            id=video.id,
            path=_relative(video.path, plan.root),
            labels=video.labels,
            split=video.row.split,
            num_frames=probes.get(video.id, failed).num_frames,
            fps=probes.get(video.id, failed).fps,
            content=probes.get(video.id, failed).content,
        )
        for video in plan.videos
    ]
    return VideoIndex(
        classes=plan.classes,
        root=plan.root,
        videos=tuple(sorted(videos, key=lambda video: (video.split, video.id))),
    )


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _quarantine(options: ListOptions) -> dict[str, str]:
    if options.quarantine is not None and not options.quarantine.is_file():
        raise DataError(f"there is no quarantine list {options.quarantine}")
    path = options.quarantine or quarantine_file(options.out)
    return {bad.id: bad.reason for bad in read_quarantine(path)}
