"""Boxes and letters drawn by matplotlib, and pictures laid over them pixel by pixel."""

import warnings
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from reskd.common.dataset.sheet.lettering import font_families

POINTS_PER_INCH: Final = 72
"""As resolution, it makes a letter of size 12 twelve pixels high."""


@dataclass(frozen=True, slots=True)
class _Letters:
    text: str
    left: int
    middle: int
    size: int
    colour: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """A white picture to put things on; places are in pixels from the upper left."""

    width: int
    height: int
    _letters: list[_Letters] = field(default_factory=list)
    _boxes: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    _pictures: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list)

    def write(
        self,
        text: str,
        *,
        left: int,
        middle: int,
        size: int = 12,
        colour: str = "black",
    ) -> None:
        """A line of text, centred on row `middle`."""
        self._letters.append(_Letters(text, left, middle, size, colour))

    def box(self, *, left: int, top: int, width: int, height: int, colour: str) -> None:
        """A filled rectangle, below everything else."""
        self._boxes.append((left, top, width, height, colour))

    def picture(self, pixels: NDArray[np.uint8], *, left: int, top: int, zoom: int = 1) -> None:
        """(H, W, 3) RGB, above everything else, each pixel a square of `zoom` x `zoom`."""
        self._pictures.append((left, top, pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)))

    def png(self) -> bytes:
        """The whole as a PNG file."""
        sheet = self._lettered()
        for left, top, pixels in self._pictures:
            height, width, _ = pixels.shape
            sheet[top : top + height, left : left + width] = pixels
        file = BytesIO()
        imsave(file, sheet, format="png")
        return file.getvalue()

    def _lettered(self) -> NDArray[np.uint8]:
        # Half a pixel more, since the size is cut to whole pixels after a division.
        inches = ((self.width + 0.5) / POINTS_PER_INCH, (self.height + 0.5) / POINTS_PER_INCH)
        figure = Figure(figsize=inches, dpi=POINTS_PER_INCH, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        for left, top, width, height, colour in self._boxes:
            corner = (left, self.height - top - height)
            figure.add_artist(
                Rectangle(corner, width, height, transform=None, facecolor=colour, linewidth=0)
            )
        families = font_families(letters.text for letters in self._letters)
        for letters in self._letters:
            figure.text(
                letters.left,
                self.height - letters.middle,
                letters.text,
                transform=None,
                fontsize=letters.size,
                color=letters.colour,
                fontfamily=families,
                verticalalignment="center_baseline",
                parse_math=False,  # a $ in a file name is a $
                usetex=False,
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            canvas.draw()  # type: ignore[no-untyped-call]
        rgba = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return rgba[..., :3].copy()
