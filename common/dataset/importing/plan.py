"""From annotations to the videos that an import opens: labels, files, repetitions, copies.

Nothing is decoded here, so a wrong list is refused before hours of opening videos. A video that is
missing is never left out: it stays in the index with 0 frames.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reskd.common.dataset.importing.annotations import Annotations
from reskd.common.dataset.importing.labels import Labelled, LabelRules, label_rows
from reskd.common.dataset.importing.repeats import PlacedVideo, copies_across, find_repeats
from reskd.common.dataset.importing.report import ImportReport, empty_classes
from reskd.common.dataset.importing.sources import VideoFolders
from reskd.common.dataset.importing.video_tree import VideoTree


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportPlan:
    """Annotated videos and their places; nothing is opened yet."""

    classes: tuple[str, ...]
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
    barred = {
        video.id: f"in quarantine: {quarantine[video.id]}"
        for video in repeats.kept
        if video.id in quarantine and video.problem is None
    }
    expected = Counter(row.split for row, _ in labelled.rows)
    found = Counter(video.row.split for video in placed if video.problem is None)
    numbers = [label for _, labels in labelled.rows for label in labels]
    report = ImportReport(
        expected=dict(sorted(expected.items())),
        found={split: found[split] for split in sorted(expected)},
        num_classes=len(labelled.classes),
        label_range=(min(numbers), max(numbers)),
        empty_classes=empty_classes(labelled),
        missing=tuple(
            f"{video.name}: {video.problem}" for video in repeats.kept if video.problem is not None
        ),
        quarantined=tuple(f"{id_}: {problem}" for id_, problem in barred.items()),
        parts=tuple(
            f"{video.name}: from image {video.row.start_frame} on"
            for video in placed
            if video.row.start_frame
        ),
        ignored=labelled.ignored,
        same=repeats.same,
        contradicting=repeats.contradicting,
        overlapping=repeats.overlapping,
    )
    return ImportPlan(
        classes=labelled.classes,
        root=folders.root,
        videos=tuple(
            replace(video, problem=video.problem or barred.get(video.id)) for video in repeats.kept
        ),
        report=report,
    )


def find_copies(plan: ImportPlan) -> ImportPlan:
    """The plan with its report on files of equal bytes in two splits."""
    by_path = {video.path: video for video in plan.to_open}
    pairs = copies_across({path: video.row.split for path, video in by_path.items()})
    copies = tuple((by_path[one], by_path[other]) for one, other in pairs)
    return replace(plan, report=replace(plan.report, copies=copies))


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
        placed.append(
            PlacedVideo(
                row=row,
                # With a folder per split, equal names are different videos.
                id=f"{row.split}/{row.id}" if folders.by_split else row.id,
                labels=labels,
                path=tree.folder / place.path,
                problem=place.problem,
            )
        )
    return placed
