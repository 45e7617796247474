"""Put the report of an evaluation together and write it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reskd.common.storage.atomic_write import atomic_write
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.report.caches import caches_section
from reskd.student_train.report.logs import training_logs
from reskd.student_train.report.page import Content, Markup, name, page, section, tag
from reskd.student_train.report.records import curves_section, repeat_section, unreadable_section
from reskd.student_train.report.sections import (
    classes_section,
    confusions_section,
    differences_section,
    results_section,
)
from reskd.student_train.report.sheets import CLIPS_PER_RUN, IMAGE_BYTES, contact_sheets

PAGE_FILE: Final = "index.html"


def write_report(
    folder: Path, results: Sequence[RunResult], *, command: Sequence[str], cache: Path | None
) -> Path:
    """Write folder/index.html: one page without scripts that needs no network and no other file.

    Some videos are decoded again for its pictures.

    Args:
        folder: Made if absent.
        results: The measured runs, in the order to show them.
        command: What was typed.
        cache: Where a teacher cache has moved to since a run learned from it; those that are still
            where the runs have recorded them are shown without it.

    Returns:
        The page.

    Raises:
        CacheError: If the cache is none.
    """
    logs = training_logs(results)
    parts: list[tuple[str, str, Markup | None]] = [
        ("results", "Results", results_section(results)),
        ("differences", "Differences", differences_section(results) if results[1:] else None),
        ("training", "Training", curves_section(logs)),
        ("classes", "Worst classes", classes_section(results)),
        ("confusions", "Confusions", confusions_section(results)),
        ("clips", "Wrong answers", _clips_section(results)),
        ("unreadable", "Unreadable videos", unreadable_section(results)),
        ("cache", "Teacher cache", caches_section(logs, cache)),
        ("repeat", "Do it again", repeat_section(results, logs, command)),
    ]
    first = results[0].measured
    lead = tag(
        "p",
        f"{len(results)} network{'s' if results[1:] else ''} on {first.figures['videos']} videos, "
        f"{len(first.index.classes)} classes, of the experiment ",
        name(first.experiment.name),
        ".",
    )
    shown = [(anchor, title, content) for anchor, title, content in parts if content is not None]
    path = folder / PAGE_FILE
    atomic_write(path, page(f"Evaluation of {first.experiment.name}", lead, shown))
    return path


def _clips_section(results: Sequence[RunResult]) -> Markup:
    """Contact sheets of the students; of all runs where there is no student."""
    students = [result for result in results if result.json["role"] == "student"]
    teacher = next((result for result in results if result.json["role"] == "teacher"), None)
    wanted = students or list(results)
    room = IMAGE_BYTES // len(wanted)
    parts: list[Content] = [
        tag(
            "p",
            f"For each network up to {CLIPS_PER_RUN} videos that it answers wrongly, those it was "
            "surest of first. Of one clip some frames are shown, as they were cut and as the "
            "network sees them.",
        )
    ]
    for result in wanted:
        sheets = contact_sheets(result, teacher if students else None, room=room)
        told = f"{sheets.shown} of {sheets.wrong} videos answered wrongly are shown."
        parts += [tag("h3", name(result.name)), tag("p", told), sheets.content]
    return section("clips", "Wrong answers", *parts)
