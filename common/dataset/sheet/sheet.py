"""The contact sheet: previews of chosen videos, one below the other, on one picture.

A row is a video: its caption, then the same frames three times, side by side: as the teacher sees
them; as the student does, every pixel enlarged to a square so that it can be seen; and the
student's at their own size. matplotlib draws; all places are whole pixels, so that a frame is
shown as it is.
"""

import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reskd.common.console import progress
from reskd.common.dataset.index import VideoIndex
from reskd.common.dataset.sheet.choice import Choice
from reskd.common.dataset.sheet.lettering import fitted, font_families, letters_in
from reskd.common.dataset.sheet.pictures import Picture, Preview, PreviewSpec, preview
from reskd.common.errors import DataError
from reskd.common.storage.atomic_write import atomic_write

MOST_PIXELS: Final = 60_000_000
"""Of a sheet; more is a burden to programs that show pictures."""
MOST_ROWS: Final = 60_000
"""Pixel rows, of which matplotlib draws 65,535."""

MARGIN, GAP, COLUMN_GAP, ROW_GAP = 16, 4, 20, 10
TITLE_HEIGHT, HEADING_HEIGHT, CAPTION_HEIGHT = 62, 30, 38
LEAST_WIDTH: Final = 760
"""Captions need it, however small the frames."""
LEAST_SIDE: Final = 128
"""Smaller frames of a teacher are enlarged, to no more than this."""
NAME_INDENT: Final = 150
"""Room for the number of a class and its counts."""
BAND, ALARM, ALARM_TEXT, GREY = "#e3e7ee", "#f6d5d0", "#8c1c0f", "#555555"
POINTS_PER_INCH: Final = 72
"""As resolution, it makes a letter of size 12 twelve pixels high."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What is on a sheet."""

    path: Path
    width: int
    height: int
    choice: Choice
    problems: Mapping[str, str]
    """Why videos could not be read, by id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Frames of one kind, side by side."""

    title: str
    left: int
    side: int
    """Of each frame, as it is shown."""
    zoom: int
    """Sides of the square that a pixel becomes."""
    is_students: bool

    def left_of(self, number: int) -> int:
        """First pixel column of a frame."""
        return self.left + number * (self.side + GAP)


def columns_of(*, teacher: int, student: int | None, num_shown: int) -> tuple[list[Column], int]:
    """Columns for frames of `teacher` and `student` pixels, and the width of the sheet.

    Small frames of a teacher are enlarged too; the student's by the whole number that brings them
    nearest to them.
    """
    zoom = max(1, LEAST_SIDE // teacher)
    wanted = [("teacher", teacher, zoom)]
    if student is not None:
        times = max(1, round(zoom * teacher / student))
        wanted += [("student", student, times), ("student", student, 1)]
    columns, left = [], MARGIN
    for who, size, times in dict.fromkeys(wanted):
        title = f"{who}: {size} px, {f'enlarged {times} times' if times > 1 else 'not enlarged'}"
        column = Column(
            title=title, left=left, side=size * times, zoom=times, is_students=who == "student"
        )
        columns.append(column)
        left = max(column.left_of(num_shown) - GAP, left + 8 * len(title)) + COLUMN_GAP
    return columns, max(LEAST_WIDTH, left - COLUMN_GAP + MARGIN)


def draw_sheet(
    path: Path, index: VideoIndex, choice: Choice, spec: PreviewSpec, *, title: str
) -> Drawn:
    """Look at the chosen videos and write the sheet, a PNG file, whole or not at all.

    Args:
        path: File to write.
        index: Where the videos are listed.
        choice: Those to show.
        spec: What is shown of each.
        title: First words of the sheet.

    Raises:
        DataError: If the sheet would be too large, before any video is opened; or if the decoder
            or the frame store that the experiment names is not there.
        OSError: If it cannot be written.
    """
    columns, width = columns_of(
        teacher=spec.views.size, student=spec.student_size, num_shown=spec.num_shown
    )
    pictures_height = max(column.side for column in columns)
    row_height = CAPTION_HEIGHT + pictures_height + ROW_GAP
    height = TITLE_HEIGHT + len(choice.classes) * HEADING_HEIGHT + MARGIN
    height += choice.num_videos * row_height
    if height > MOST_ROWS or height * width > MOST_PIXELS:
        raise DataError(
            f"the sheet of {choice.num_videos} videos would have {width}x{height} pixels; "
            f"at most {MOST_PIXELS // 10**6} million and {MOST_ROWS} rows are drawn. Lower "
            "--classes or --per-class"
        )
    page = _Page(width=width, height=height)
    page.write_title(title, choice, columns)
    problems: dict[str, str] = {}
    top = TITLE_HEIGHT
    with progress("looking", choice.num_videos, unit="videos") as advance:
        for chosen in choice.classes:
            counts = f"{len(chosen.videos)} of {chosen.num_videos}"
            page.write_heading(chosen.label, counts, chosen.name, top=top)
            top += HEADING_HEIGHT
            for entry in chosen.videos:
                shown = preview(index, entry, spec)
                others = [index.classes[one] for one in entry.labels if one != chosen.label]
                also = f"  |  also: {', '.join(others)}" if others else ""
                page.write_caption(entry.id, shown.facts + also, top=top)
                if shown.problem:
                    problems[entry.id] = shown.problem
                    page.write_problem(
                        shown.problem, top=top + CAPTION_HEIGHT, height=pictures_height
                    )
                page.draw_frames(shown, columns, top=top + CAPTION_HEIGHT)
                top += row_height
                advance()
    atomic_write(path, page.png())
    return Drawn(path=path, width=width, height=height, choice=choice, problems=problems)


class _Page:
    """A white picture that is written on; places are in pixels from the upper left."""

    def __init__(self, *, width: int, height: int) -> None:
        self.height = height
        self.room = width - 2 * MARGIN
        # Half a pixel more, since the size is cut to whole pixels after a division.
        inches = (width + 0.5) / POINTS_PER_INCH, (height + 0.5) / POINTS_PER_INCH
        self.figure = Figure(figsize=inches, dpi=POINTS_PER_INCH, facecolor="white")

    def write_title(self, title: str, choice: Choice, columns: list[Column]) -> None:
        left_out = f", {choice.num_left_out} more left out" if choice.num_left_out else ""
        empty = f", {choice.num_empty} without videos" if choice.num_empty else ""
        counts = f": {choice.num_videos} videos of {len(choice.classes)} classes{left_out}{empty}"
        named = fitted(title, size=18, width=self.room - 11 * len(counts))
        self._write(named + counts, left=0, middle=20, size=18)
        for column in columns:
            self._write(column.title, left=column.left - MARGIN, middle=48, size=13)

    def write_heading(self, label: int, counts: str, name: str, *, top: int) -> None:
        """Number and name of a class on a band."""
        band = HEADING_HEIGHT - 4
        self._box(left=0, top=top, width=self.room + 2 * MARGIN, height=band, colour=BAND)
        middle = top + band // 2
        # Apart from the name: one of a script that runs to the left would turn them around.
        self._write(str(label), left=0, middle=middle, size=15)
        self._write(counts, left=50, middle=middle, size=13, colour=GREY)
        self._write(name, left=NAME_INDENT, middle=middle, size=15)

    def write_caption(self, video: str, facts: str, *, top: int) -> None:
        self._write(video, left=0, middle=top + 11, size=13)
        self._write(facts, left=0, middle=top + 27, size=11, colour=GREY)

    def write_problem(self, problem: str, *, top: int, height: int) -> None:
        """A marked row without pictures."""
        self._box(left=MARGIN, top=top, width=self.room, height=height, colour=ALARM)
        room, lines = self.room - 2 * COLUMN_GAP, max(1, height // 20)
        text = fitted(problem, size=13, width=lines * room * 9 // 10)
        wrapped = textwrap.wrap(text, letters_in(room, text, size=13))
        for number, line in enumerate(wrapped[:lines]):
            middle = top + 16 + 18 * number
            self._write(line, left=COLUMN_GAP, middle=middle, size=13, colour=ALARM_TEXT)

    def draw_frames(self, shown: Preview, columns: list[Column], *, top: int) -> None:
        for column in columns:
            frames = shown.student if column.is_students else shown.teacher
            for number, pixels in enumerate(frames):
                enlarged = pixels.repeat(column.zoom, axis=0).repeat(column.zoom, axis=1)
                self._place(enlarged, left=column.left_of(number), top=top)

    def png(self) -> bytes:
        """The whole as a PNG file."""
        families = font_families(text.get_text() for text in self.figure.texts)
        for text in self.figure.texts:
            text.set_fontfamily(families)
        file = BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self.figure.savefig(file, format="png", dpi=POINTS_PER_INCH)
        return file.getvalue()

    def _write(
        self, text: str, *, left: int, middle: int, size: int, colour: str = "black"
    ) -> None:
        """A line of text beside the margin, centred on row `middle`, cut to the room."""
        self.figure.text(
            MARGIN + left,
            self.height - middle,
            fitted(text, size=size, width=self.room - left),
            transform=None,
            fontsize=size,
            color=colour,
            verticalalignment="center_baseline",
            parse_math=False,  # a $ in a file name is a $
            usetex=False,
        )

    def _box(self, *, left: int, top: int, width: int, height: int, colour: str) -> None:
        corner = (left, self.height - top - height)
        self.figure.add_artist(
            Rectangle(corner, width, height, transform=None, facecolor=colour, linewidth=0)
        )

    def _place(self, pixels: Picture, *, left: int, top: int) -> None:
        bottom = self.height - top - len(pixels)
        self.figure.figimage(pixels, left, bottom, origin="upper")
