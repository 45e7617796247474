"""The contact sheet: chosen videos, looked at one after the other, on one picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reskd.common.console import progress
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.sheet.choice import Choice, ChosenClass
from reskd.common.dataset.sheet.drawing import Canvas
from reskd.common.dataset.sheet.layout import (
    BLOCK_GAP,
    CAPTION_HEIGHT,
    HEADING_HEIGHT,
    MARGIN,
    TITLE_HEIGHT,
    Layout,
    layout_of,
)
from reskd.common.dataset.sheet.lettering import fitted, wrapped
from reskd.common.dataset.sheet.pictures import Seeing, Sight, look
from reskd.common.errors import DataError
from reskd.common.storage.atomic_write import atomic_write

MOST_PIXELS: Final = 60_000_000
"""Of a sheet; more is a burden to programs that show pictures."""
MOST_ROWS: Final = 60_000
"""Pixel rows, of which matplotlib draws 65,535."""

NAME_INDENT: Final = 150
"""Room for the number of a class and its counts."""
BAND, ALARM, ALARM_TEXT, GREY = "#e3e7ee", "#f6d5d0", "#8c1c0f", "#555555"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What is on a sheet."""

    path: Path
    width: int
    height: int
    choice: Choice
    problems: Mapping[str, str]
    """Why videos could not be read, by id."""


def draw_sheet(
    path: Path, index: VideoIndex, choice: Choice, seeing: Seeing, *, title: str
) -> Drawn:
    """Look at the chosen videos and write the sheet, a PNG file, whole or not at all.

    Args:
        path: File to write.
        index: Where the videos are listed.
        choice: Those to show.
        seeing: Who looks at them.
        title: First words of the sheet.

    Raises:
        DataError: If the sheet would be too large, before any video is opened; or if the decoder
            or the frame store that the experiment names is not there.
        OSError: If it cannot be written.
    """
    student = seeing.student_size
    layout = layout_of(teacher=seeing.views.size, student=student, num_shown=seeing.num_shown)
    height = layout.height(classes=len(choice.classes), rows=choice.num_videos)
    if height > MOST_ROWS or height * layout.width > MOST_PIXELS:
        raise DataError(
            f"the sheet of {choice.num_videos} videos would have {layout.width}x{height} pixels; "
            f"at most {MOST_PIXELS // 10**6} million and {MOST_ROWS} rows are drawn. Lower "
            "--classes or --per-class"
        )
    canvas = Canvas(width=layout.width, height=height)
    _write_title(canvas, layout, choice, title)
    problems: dict[str, str] = {}
    top = TITLE_HEIGHT
    with progress("looking", choice.num_videos, unit="videos") as advance:
        for chosen in choice.classes:
            _write_heading(canvas, chosen, top)
            top += HEADING_HEIGHT
            for entry in chosen.videos:
                sight = look(index, entry, seeing)
                if sight.problem:
                    problems[entry.id] = sight.problem
                _write_caption(canvas, entry, sight, top, others=_others(index, entry, chosen))
                _draw_row(canvas, layout, sight, top + CAPTION_HEIGHT)
                top += layout.row_height
                advance()
    atomic_write(path, canvas.png())
    return Drawn(path=path, width=layout.width, height=height, choice=choice, problems=problems)


def _write_title(canvas: Canvas, layout: Layout, choice: Choice, title: str) -> None:
    left_out = f", {choice.num_left_out} more left out" if choice.num_left_out else ""
    empty = f", {choice.num_empty} without videos" if choice.num_empty else ""
    counts = f": {choice.num_videos} videos of {len(choice.classes)} classes{left_out}{empty}"
    room = canvas.width - 2 * MARGIN
    canvas.write(
        fitted(title, size=18, width=room - 11 * len(counts)) + counts,
        left=MARGIN,
        middle=20,
        size=18,
    )
    for block in layout.blocks:
        canvas.write(block.title, left=block.left, middle=48, size=13)


def _write_heading(canvas: Canvas, chosen: ChosenClass, top: int) -> None:
    canvas.box(left=0, top=top, width=canvas.width, height=HEADING_HEIGHT - 4, colour=BAND)
    middle = top + HEADING_HEIGHT // 2 - 2
    counts = f"{len(chosen.videos)} of {chosen.num_videos}"
    # Apart from the name: one of a script that runs to the left would turn them around.
    canvas.write(str(chosen.label), left=MARGIN, middle=middle, size=15)
    canvas.write(counts, left=MARGIN + 50, middle=middle, size=13, colour=GREY)
    name = fitted(chosen.name, size=15, width=canvas.width - 2 * MARGIN - NAME_INDENT)
    canvas.write(name, left=MARGIN + NAME_INDENT, middle=middle, size=15)


def _write_caption(
    canvas: Canvas, entry: VideoEntry, sight: Sight, top: int, *, others: str
) -> None:
    room = canvas.width - 2 * MARGIN
    canvas.write(fitted(entry.id, size=13, width=room), left=MARGIN, middle=top + 11, size=13)
    facts = fitted(sight.facts + others, size=11, width=room)
    canvas.write(facts, left=MARGIN, middle=top + 27, size=11, colour=GREY)


def _others(index: VideoIndex, entry: VideoEntry, chosen: ChosenClass) -> str:
    names = [index.classes[label] for label in entry.labels if label != chosen.label]
    return f"  |  also: {', '.join(names)}" if names else ""


def _draw_row(canvas: Canvas, layout: Layout, sight: Sight, top: int) -> None:
    if sight.problem:
        _draw_problem(canvas, layout, sight.problem, top)
        return
    for block in layout.blocks:
        pictures = sight.student if block.is_students else sight.teacher
        for number, pixels in enumerate(pictures):
            canvas.picture(pixels, left=layout.left(block, number), top=top, zoom=block.zoom)


def _draw_problem(canvas: Canvas, layout: Layout, problem: str, top: int) -> None:
    """A marked row without pictures."""
    width = canvas.width - 2 * MARGIN
    height = layout.picture_height
    canvas.box(left=MARGIN, top=top, width=width, height=height, colour=ALARM)
    room = width - 2 * BLOCK_GAP
    for number, line in enumerate(
        wrapped(problem, size=13, width=room, lines=max(1, height // 20))
    ):
        canvas.write(
            line,
            left=MARGIN + BLOCK_GAP,
            middle=top + 16 + 18 * number,
            size=13,
            colour=ALARM_TEXT,
        )
