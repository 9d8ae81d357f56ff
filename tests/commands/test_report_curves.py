"""Where the lines and ticks of a chart stand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vbert_asr.commands.report.curves import (
    BOTTOM,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    Series,
    _log_ticks,
    _ticks,
    chart,
    short,
)


def series(points: list[tuple[float, float]], split: str = "train") -> Series:
    return Series(label="run", color=0, split=split, points=points)


def test_points_stand_where_the_axes_say() -> None:
    drawn = chart("loss", [series([(0, 0.0), (50, 2.5), (100, 10.0)]), series([(100, 5.0)], "dev")])
    assert drawn is not None
    middle = (TOP + BOTTOM) / 2
    quarter = BOTTOM - (BOTTOM - TOP) / 4
    assert drawn.lines[0].path == f"{LEFT},{BOTTOM} {(LEFT + RIGHT) / 2:g},{quarter:g} {RIGHT},{TOP}"
    assert drawn.lines[1].dots == [(RIGHT, middle, "run, dev, step 100: 5")]
    assert drawn.y_ticks[0] == (BOTTOM, "0")
    assert drawn.y_ticks[-1] == (TOP, "10")
    assert drawn.x_ticks[0] == (LEFT, "0")
    assert drawn.x_ticks[-1] == (RIGHT, "100")


def test_wide_positive_values_may_be_logarithmic() -> None:
    points = [(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)]
    drawn, plain = chart("loss", [series(points)], log_scale=True), chart("loss", [series(points)])
    assert drawn is not None
    assert plain is not None
    assert drawn.lines[0].path.split()[1] == f"{(LEFT + RIGHT) / 2:g},{(TOP + BOTTOM) / 2:g}"
    assert plain.lines[0].path.split()[1] != drawn.lines[0].path.split()[1]
    with_zero = chart("loss", [series([*points, (3.0, 0.0)])], log_scale=True)
    assert with_zero is not None
    assert with_zero.y_ticks[0][1] == "0"


def test_what_is_not_finite_is_left_out() -> None:
    drawn = chart("loss", [series([(0, math.nan), (1, 2.0), (2, math.inf), (3, 3.0)]), series([(0, math.nan)])])
    assert drawn is not None
    assert [len(line.path.split()) for line in drawn.lines] == [2]
    assert chart("loss", [series([(0, math.nan)])]) is None
    assert chart("loss", []) is None


def test_one_point_is_a_dot() -> None:
    drawn = chart("loss", [series([(7, 3.0)])])
    assert drawn is not None
    assert len(drawn.lines[0].dots) == 1
    assert drawn.x_ticks


def test_long_series_are_thinned_to_means() -> None:
    drawn = chart("loss", [series([(float(step), float(step % 2)) for step in range(10 * MAX_POINTS)])])
    assert drawn is not None
    heights = {point.split(",")[1] for point in drawn.lines[0].path.split()}
    assert len(drawn.lines[0].path.split()) == MAX_POINTS
    assert heights == {f"{(TOP + BOTTOM) / 2:g}"}


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_values_and_are_few(low: float, span: float) -> None:
    ticks = _ticks(low, low + span)
    tolerance = 1e-6 * max(abs(low), span)
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= low + span - tolerance
    assert 2 <= len(ticks) <= 8


@settings(max_examples=300, deadline=None)
@given(st.floats(-6, 6), st.floats(1.4, 5))
def test_logarithmic_ticks_enclose_the_values(low: float, decades: float) -> None:
    ticks = _log_ticks(10**low, 10 ** (low + decades))
    assert ticks == sorted(ticks)
    assert ticks[0] <= 10**low
    assert ticks[-1] >= 10 ** (low + decades)
    assert 3 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"),
        (1500, "1.5k"),
        (2e6, "2M"),
        (0.25, "0.25"),
        (0.0005, "5e-4"),
        (-2.5e-5, "-2.5e-5"),
        (0.30000000000004, "0.3"),
    ],
)
def test_labels_are_short(value: float, label: str) -> None:
    assert short(value) == label
