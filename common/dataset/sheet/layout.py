"""Where everything lies on a contact sheet: integer arithmetic, in pixels from the upper left.

A row is a video: its caption, then the same frames three times, side by side: as the teacher sees
them; as the student does, every pixel enlarged to a square so that it can be seen; and the
student's at their own size.
"""

from dataclasses import dataclass, replace
from typing import Final

MARGIN: Final = 16
GAP: Final = 4
"""Between frames of a block."""
BLOCK_GAP: Final = 20
TITLE_HEIGHT: Final = 62
HEADING_HEIGHT: Final = 30
"""Band with the name of a class."""
CAPTION_HEIGHT: Final = 38
ROW_GAP: Final = 10
LEAST_WIDTH: Final = 760
"""Captions need it, however small the frames."""
LEAST_SIDE: Final = 128
"""Smaller frames of a teacher are enlarged, to no more than this."""
TITLE_LETTER: Final = 8
"""Room for a letter of a block's title."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Frames of one kind, side by side."""

    title: str
    left: int
    side: int
    """Of each frame."""
    zoom: int
    """Sides of the square that a pixel becomes."""
    is_students: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Sizes that all rows share."""

    blocks: tuple[Block, ...]
    width: int
    """Of the sheet."""

    def left(self, block: Block, number: int) -> int:
        """First column of a frame."""
        return block.left + number * (block.side + GAP)

    @property
    def picture_height(self) -> int:
        """Of a row without its caption."""
        return max(block.side for block in self.blocks)

    @property
    def row_height(self) -> int:
        """Of a row, with the gap to the next."""
        return CAPTION_HEIGHT + self.picture_height + ROW_GAP

    def height(self, *, classes: int, rows: int) -> int:
        """Of a sheet."""
        return TITLE_HEIGHT + classes * HEADING_HEIGHT + rows * self.row_height + MARGIN


def layout_of(*, teacher: int, student: int | None, num_shown: int) -> Layout:
    """Lay out frames of `teacher` and `student` pixels, `num_shown` of each video.

    Small frames of a teacher are enlarged too; the student's by the whole number that brings them
    nearest to them.
    """
    zoom = max(1, LEAST_SIDE // teacher)
    blocks = [_block("teacher", teacher, zoom)]
    if student is not None:
        student_zoom = max(1, round(zoom * teacher / student))
        if student_zoom > 1:
            blocks.append(_block("student", student, student_zoom))
        blocks.append(_block("student", student, 1))
    placed: list[Block] = []
    left = MARGIN
    for block in blocks:
        placed.append(replace(block, left=left))
        left += max(num_shown * (block.side + GAP) - GAP, TITLE_LETTER * len(block.title))
        left += BLOCK_GAP
    width = max(LEAST_WIDTH, left - BLOCK_GAP + MARGIN)
    return Layout(blocks=tuple(placed), width=width)


def _block(who: str, size: int, zoom: int) -> Block:
    enlarged = f"enlarged {zoom} times" if zoom > 1 else "not enlarged"
    return Block(
        title=f"{who}: {size} px, {enlarged}",
        left=0,
        side=size * zoom,
        zoom=zoom,
        is_students=who == "student",
    )
