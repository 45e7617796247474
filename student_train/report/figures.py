"""Figures as inline SVG: they follow the page's colours, and name lines at their ends.

Nothing is told by colour alone: lines differ in dashes, points in shape, and each has its name
beside it. The drawing is narrow, so that its letters stay readable on a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, log10, pi, sin
from typing import Final

from reskd.student_train.report.page import Markup, tag
from reskd.student_train.report.style import SERIES

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 48, 124, 14, 44
_LABEL_STEP: Final = 16.0
"""Least distance of two names, in units of the drawing."""
_LABEL_LETTERS: Final = 14
_DASHES: Final = (None, "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
_CORNERS: Final = (0, 4, 3, -4, -3, 5)
"""Shapes of marks: a circle, squares and triangles with a corner or an edge up, a pentagon."""

Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line, or a point with an interval, that has a name."""

    name: str
    points: Sequence[Place]
    """(x, y) in the figure's units; at least one."""
    interval: tuple[float, float] | None = None
    """Low and high of a single point."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values of an axis to places on it."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = log10(low), log10(high), log10(at)
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within it."""
        if not self.logarithmic:
            step = _round_step((self.high - self.low) / 5)
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            return [number * step for number in range(first, last + 1)]
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        inside: list[float] = []
        for steps in ((1,), (1, 3), (1, 2, 5)):
            marks = [step * 10.0**decade for decade in decades for step in steps]
            inside = [mark for mark in marks if self.low <= mark <= self.high]
            if len(inside) >= 3:
                break
        return inside


def accuracy_against_cost(series: Sequence[Series], *, title: str, y_label: str) -> Markup:
    """One point with its interval per series, at (GMACs, share); GMACs on a log scale."""
    costs = [one.points[0][0] for one in series]
    values = [value for one in series for value in (one.points[0][1], *(one.interval or ()))]
    x = _Scale(min(costs) / 1.7, max(costs) * 1.7, LEFT, WIDTH - RIGHT, logarithmic=True)
    y = _share_scale(values)
    marks, ends = [], []
    for number, one in enumerate(series):
        cost, value = one.points[0]
        room = (WIDTH - RIGHT - x(cost)) / costs.count(cost)
        beside = min(11, room) * costs[:number].count(cost)  # of equal cost: side by side
        place = x(cost) + beside, y(value)
        ends.append(place)
        bar = []
        if one.interval is not None:
            low, high = map(y, one.interval)
            bar.append(tag("path", d=_bar(place[0], low, high), class_="line"))
        marks.append(tag("g", *bar, _mark(number, place), class_=f"s{number % SERIES}"))
    told = "; ".join(
        f"{one.name}: {one.points[0][1]:.3f} at {one.points[0][0]:.3g} GMACs" for one in series
    )
    axes = _axes(x, y, x_label="GMACs per video, log scale", y_label=y_label)
    return _drawing(title, told, [*axes, *_names(series, ends), *marks])


def curves(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """One line per series, its name at its end."""
    longest = max(point[0] for one in series for point in one.points)
    first = min(point[0] for one in series for point in one.points)
    x = _Scale(first, max(longest, first + 1), LEFT, WIDTH - RIGHT)
    y = _any_scale([point[1] for one in series for point in one.points])
    lines, ends = [], []
    for number, one in enumerate(series):
        places = [(x(at), y(value)) for at, value in one.points]
        ends.append(places[-1])
        lines.append(
            tag(
                "g",
                tag(
                    "polyline",
                    points=" ".join(f"{left:.1f},{top:.1f}" for left, top in places),
                    class_="line",
                    stroke_dasharray=_DASHES[number % SERIES],
                ),
                _mark(number, places[-1]),
                class_=f"s{number % SERIES}",
            )
        )
    told = "; ".join(f"{one.name}: {one.points[-1][1]:.3g} at the end" for one in series)
    axes = _axes(x, y, x_label=x_label, y_label=y_label)
    return _drawing(title, told, [*axes, *_names(series, ends), *lines])


def _share_scale(values: Sequence[float]) -> _Scale:
    """The whole range of shares where they spread over it, else a part that is stated."""
    low, high = min(values), max(values)
    room = max(0.05, (high - low) * 0.15)
    low = 0.0 if low - room < 0.25 * (high + room) else floor((low - room) * 20) / 20
    return _Scale(low, min(1.0, ceil((high + room) * 20) / 20), HEIGHT - BOTTOM, TOP)


def _any_scale(values: Sequence[float]) -> _Scale:
    """From nought up, or from the least value where that is below."""
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:
        high = 1.0
    step = _round_step((high - low) / 5)
    return _Scale(floor(low / step) * step, ceil(high / step) * step, HEIGHT - BOTTOM, TOP)


def _round_step(raw: float) -> float:
    size = 10.0 ** floor(log10(raw))
    return float(next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999))


def _axes(x: _Scale, y: _Scale, *, x_label: str, y_label: str) -> list[Markup]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(_text(f"{value:.4g}", LEFT - 5, at + 4, anchor="end"))
    for value in x.ticks():
        at = x(value)
        parts.append(tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(_text(f"{value:.4g}", at, bottom + 17, anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(_text(x_label, (LEFT + right) / 2, HEIGHT - 6, anchor="middle"))
    middle = (TOP + bottom) / 2
    turned = f"rotate(-90 11 {middle:.0f})"
    parts.append(tag("text", y_label, x=11, y=middle, text_anchor="middle", transform=turned))
    return parts


def _names(series: Sequence[Series], ends: Sequence[Place]) -> list[Markup]:
    """Names in a column at the right, pushed apart, each led to its end."""
    order = sorted(range(len(series)), key=lambda number: ends[number][1])
    heights = _pushed_apart([ends[number][1] for number in order])
    left = WIDTH - RIGHT + 16
    parts = []
    for number, height in zip(order, heights, strict=True):
        x, y = ends[number]
        lead = f"M{x + 6:.1f} {y:.1f}L{left - 3:.1f} {height:.1f}"
        parts.append(tag("path", d=lead, class_="lead", fill="none"))
        text = series[number].name
        short = text if len(text) <= _LABEL_LETTERS else f"…{text[1 - _LABEL_LETTERS :]}"
        parts.append(_text(short, left, height + 4, anchor="start"))
    return parts


def _pushed_apart(heights: Sequence[float]) -> list[float]:
    """The same in order, a step apart, within the drawing; closer where there are too many."""
    lowest = float(HEIGHT - 8)
    step = min(_LABEL_STEP, (lowest - TOP) / len(heights))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step) if placed else max(height, TOP))
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], lowest)
        lowest = placed[number] - step
    return placed


def _mark(number: int, place: Place) -> Markup:
    """A shape that few other series have; the second round of shapes is filled."""
    x, y = place
    corners = _CORNERS[number % SERIES]
    class_ = "mark full" if number // SERIES % 2 else "mark"
    if not corners:
        return tag("circle", cx=x, cy=y, r=4.5, class_=class_)
    count, turn = abs(corners), 0.0 if corners > 0 else pi / abs(corners)
    points = [
        (x + 5.5 * sin(turn + 2 * pi * k / count), y - 5.5 * cos(turn + 2 * pi * k / count))
        for k in range(count)
    ]
    return tag("path", d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + "Z", class_=class_)


def _bar(x: float, low: float, high: float) -> str:
    """An upright line with caps."""
    caps = "".join(f"M{x - 4:.1f} {end:.1f}h8" for end in (low, high))
    return f"M{x:.1f} {low:.1f}V{high:.1f}{caps}"


def _text(text: str, x: float, y: float, *, anchor: str) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor)


def _drawing(title: str, told: str, parts: Sequence[Markup]) -> Markup:
    """One image to a screen reader: what it shows and its values; its table stands beside it."""
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}. {told}.",
    )
    return tag("figure", drawing, tag("figcaption", title))
