"""Put the report of an evaluation together and write it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reskd.common.storage.atomic_write import atomic_write
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.report.caches import caches_section
from reskd.student_train.report.clips import clips_section
from reskd.student_train.report.page import render
from reskd.student_train.report.records import (
    TrainingLog,
    repeat_section,
    training_section,
    unreadable_section,
)
from reskd.student_train.report.sections import (
    classes_section,
    confusions_section,
    differences_section,
    results_section,
)

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
    logs = {result.name: TrainingLog.of(result.measured.run) for result in results}
    sections = [
        ("results", "Results", results_section(results)),
        ("differences", "Differences", differences_section(results)),
        ("training", "Training", training_section(logs)),
        ("classes", "Worst classes", classes_section(results)),
        ("confusions", "Confusions", confusions_section(results)),
        ("clips", "Wrong predictions", clips_section(results)),
        ("unreadable", "Unreadable videos", unreadable_section(results)),
        ("cache", "Teacher cache", caches_section(logs, cache)),
        ("repeat", "Do it again", repeat_section(results, logs, command)),
    ]
    first = results[0].measured
    page = render(
        "page.html",
        experiment=first.experiment.name,
        networks=len(results),
        videos=first.figures["videos"],
        classes=len(first.index.classes),
        sections=[section for section in sections if section[2] is not None],
    )
    path = folder / PAGE_FILE
    atomic_write(path, page.encode())
    return path
