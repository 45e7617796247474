"""Plots as SVG within the page: matplotlib draws them, the page's style sheet colours them.

Nothing is told by colour alone: series differ in dashes and in the shape of their marks. A plot is
narrow, so that its letters stay readable on a phone.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from math import ceil, floor
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from reskd.common.console import one_line
from reskd.student_train.report.page import cleaned

WIDTH, HEIGHT = 360, 230
"""Of a plot without its legend, in units of the drawing."""
LEGEND_ROW: Final = 20
LEGEND_LETTERS: Final = 34
"""Of a longer name the end is shown: the last folders of a path tell runs apart."""

MARKS: Final = "osv^Dp"
DASHES: Final[Sequence[Any]] = ("-", (0, (4, 2)), (0, (1, 1)), "-.", (0, (2, 1)), (0, (7, 2)))
COLOURS: Final = {
    **{f"#0000f{number}": f"var(--s{number})" for number in range(len(MARKS))},
    "#00f000": "var(--paper)",
    "#f00000": "var(--edge)",
}
"""Those that matplotlib is given, and what stands for them in the page's style sheet."""
*SERIES, PAPER, EDGE = COLOURS

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.edgecolor": EDGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": EDGE,
    "grid.alpha": 0.4,
    "lines.linewidth": 2,
    "lines.markeredgewidth": 2,
    "errorbar.capsize": 4,
    "legend.frameon": False,
    "legend.handlelength": 3,
}
_NO_METADATA: Final[dict[str, Any]] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Equal results give an equal page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line, or a point with an interval, that has a name."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y); at least one."""
    interval: tuple[float, float] | None = None
    """Low and high of a single point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """An image, and for a screen reader what it shows."""

    title: str
    values: str
    width: int
    height: int
    """In units of the drawing."""
    drawing: Markup
    """What stands between <svg> and </svg>."""


def accuracy_against_cost(series: Sequence[Series], *, title: str, y_label: str) -> Plot:
    """One point with its interval per series, at (GMACs, share); GMACs on a log scale."""
    costs = [one.points[0][0] for one in series]
    low, high = min(costs) / 1.7, max(costs) * 1.7
    aside = (high / low) ** min(0.04, 0.4 / len(series))
    with mpl.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure, axes = _figure(len(series), x_label="GMACs per video, log scale", y_label=y_label)
        axes.set(xscale="log", xlim=(low, high), ylim=_share_limits(series))
        axes.xaxis.set_major_locator(_cost_locator(high / low))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        for number, one in enumerate(series):
            cost, share = one.points[0]
            least, most = one.interval or (share, share)
            axes.errorbar(
                cost * aside ** costs[:number].count(cost),  # of equal cost: side by side
                share,
                yerr=[[max(0, share - least)], [max(0, most - share)]],
                **_look(number) | {"linestyle": "none"},
            )
        told = [f"{one.points[0][1]:.3f} at {one.points[0][0]:.3g} GMACs" for one in series]
        return _plot(figure, axes.containers, series, told, title=title)


def curves(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Plot:
    """One line per series, with a mark at its end."""
    first = min(x for one in series for x, _ in one.points)
    last = max(x for one in series for x, _ in one.points)
    least = min(0.0, *(y for one in series for _, y in one.points))
    most = max(0.0, *(y for one in series for _, y in one.points))
    if least == most:
        most = 1.0
    with mpl.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure, axes = _figure(len(series), x_label=x_label, y_label=y_label)
        axes.set(xlim=(first, max(last, first + 1)), ylim=(least * 1.05, most * 1.05))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for number, one in enumerate(series):
            end = [len(one.points) - 1]
            axes.plot(*zip(*one.points, strict=True), markevery=end, **_look(number))
        told = [f"{one.points[-1][1]:.3g} at the end" for one in series]
        return _plot(figure, axes.lines, series, told, title=title)


def _share_limits(series: Sequence[Series]) -> tuple[float, float]:
    """The whole range of shares where they spread over it, else a part of it."""
    shares = [share for one in series for share in (one.points[0][1], *(one.interval or ()))]
    low, high = min(shares), max(shares)
    room = max(0.05, (high - low) * 0.15)
    low = 0.0 if low - room < 0.25 * (high + room) else floor((low - room) * 20) / 20
    return low, min(1.0, ceil((high + room) * 20) / 20)


def _cost_locator(ratio: float) -> Locator:
    """A few round costs on a log scale whose end is that many times its start."""
    if ratio < 10:
        return MaxNLocator(4)
    return LogLocator(subs=(1, 3) if ratio < 1000 else (1,))


def _figure(num_series: int, *, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A figure with room for its legend; one unit is a point."""
    size = WIDTH / 72, (HEIGHT + LEGEND_ROW * num_series) / 72
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _look(number: int) -> dict[str, Any]:
    """A line and a mark that few other series have; the second round of marks is filled."""
    turn, kind = divmod(number, len(MARKS))
    return {
        "color": SERIES[kind],
        "linestyle": DASHES[kind],
        "marker": MARKS[kind],
        "markerfacecolor": SERIES[kind] if turn % 2 else PAPER,
        "clip_on": False,  # marks on the axis are shown whole, and above it
        "zorder": 3,
    }


def _plot(
    figure: Figure,
    artists: Iterable[Any],
    series: Sequence[Series],
    told: Sequence[str],
    *,
    title: str,
) -> Plot:
    """The finished figure with its legend below."""
    handles = [*artists]
    legend = figure.legend(handles, [""] * len(handles), loc="outside lower left", ncols=1)
    for text, one in zip(legend.get_texts(), series, strict=True):
        # Set here, since a legend passes over labels that begin with an underscore.
        text.set_text(_short(cleaned(one_line(one.name))))
    file = StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    width, height = figure.get_size_inches() * 72
    return Plot(
        title=title,
        values="; ".join(f"{one.name}: {text}" for one, text in zip(series, told, strict=True)),
        width=round(width),
        height=round(height),
        drawing=_for_page(file.getvalue()),
    )


def _short(name: str) -> str:
    return name if len(name) <= LEGEND_LETTERS else f"…{name[1 - LEGEND_LETTERS :]}"


def _for_page(svg: str) -> Markup:
    """What stands within <svg>, coloured by the page's style sheet and without names of parts.

    Several drawings stand in one page, so only those names stay that are referred to; they are made
    from the title.
    """
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.tag == "g":
            element.attrib.pop("id", None)
        for key in [*element.keys()]:
            value = element.attrib.pop(key)
            if key == "style":
                for colour, variable in COLOURS.items():
                    value = value.replace(colour, variable)
            element.set(key.rpartition("}")[2], value)
    parts = [part for part in root if part.find("style") is None]
    return Markup("".join(ElementTree.tostring(part, "unicode") for part in parts))
