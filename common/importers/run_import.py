"""An import from annotation files, as a command: plan, open, write, report."""

from dataclasses import replace
from typing import Never

from common.console import emit, progress
from common.errors import DataError
from common.importers.annotations import Annotations
from common.importers.class_list import read_class_list
from common.importers.labels import LabelRules, with_default_classes
from common.importers.list_options import ListOptions
from common.importers.listed import find_copies, open_videos, plan_import
from common.importers.probe_journal import ProbeJournal, journal_file
from common.importers.report import Allowed, ImportReport
from common.importers.sources import parse_video_folders
from common.importers.summary import summary, table
from common.video.index import write_index
from common.video.quarantine import quarantine_file, read_quarantine
from common.video.reader import decoder_identity


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
