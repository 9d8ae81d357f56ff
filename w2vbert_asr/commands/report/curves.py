"""The geometry of the curves: where lines, ticks and labels stand. The template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300, 180  # of a chart, about the pixels of one on the page
LEFT, RIGHT, TOP, BOTTOM = 40, 288, 8, 158  # edges of the field
MAX_POINTS = 250
_LOG_RANGE = 20.0  # a quantity that spans more than this factor may be drawn on a logarithmic scale

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """(step, value) pairs of one quantity; `color` is an index, one for each experiment."""

    label: str
    color: int
    split: str
    points: Points


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series on the page: `path` is what an SVG polyline takes, `dots` are (x, y, tooltip)."""

    color: int
    split: str
    path: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """`x_ticks` and `y_ticks` are (position, label)."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def chart(title: str, series: Sequence[Series], log_scale: bool = False) -> Chart | None:
    """A chart of the finite values of `series`; None if there are none.

    `log_scale` allows a logarithmic scale, which is taken where values are positive and range widely. Dev series, whose
    points are few, have dots with tooltips.
    """
    finite = [(one, [point for point in one.points if math.isfinite(point[1])]) for one in series]
    xs = [x for _, points in finite for x, _ in points]
    thinned = [(one, _thin(points)) for one, points in finite]
    ys = [y for _, points in thinned for _, y in points]
    if not ys:
        return None
    logarithmic = log_scale and min(ys) > 0 and max(ys) / min(ys) > _LOG_RANGE
    y_ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    x_low, x_high = min(xs), max(xs)

    def place_x(x: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * _share(x, x_low, x_high), 1)

    def place_y(y: float) -> float:
        share = _share(math.log(y), math.log(y_low), math.log(y_high)) if logarithmic else _share(y, y_low, y_high)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    lines = [
        Line(
            color=one.color,
            split=one.split,
            path=" ".join(f"{place_x(x):g},{place_y(y):g}" for x, y in points),
            dots=[
                (place_x(x), place_y(y), f"{one.label}, {one.split}, step {x:g}: {y:.4g}")
                for x, y in (points if one.split == "dev" or len(points) == 1 else ())
            ],
        )
        for one, points in thinned
        if points
    ]
    return Chart(
        title=title,
        lines=lines,
        x_ticks=[(place_x(x), short(x)) for x in _ticks(x_low, x_high, 4) if x_low <= x <= x_high],
        y_ticks=[(place_y(y), short(y)) for y in y_ticks],
    )


def short(value: float) -> str:
    """A number as short as a label wants it: 1.5k, 2M, 0.003, 5e-5."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}"


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _thin(points: Points) -> Points:
    """At most MAX_POINTS points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(_mean(x for x, _ in group), _mean(y for _, y in group)) for group in groups]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, from at most `low` to at least `high`."""
    span = high - low
    if span <= 1e-9 * abs(high):
        return [low - (abs(low) or 1.0), low, low + (abs(low) or 1.0)]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * wanted >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten (or the powers alone, if that is enough) that enclose `low` to `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 6:
            break
    below = [tick for tick in ticks if tick < low][-1:]
    above = [tick for tick in ticks if tick > high][:1]
    return below + inside + above
