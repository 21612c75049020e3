"""The lab's store of metric points."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.lab.metric_queries import KEPT_PAGES, Pages
from flambed.lab.metrics import KEPT_MINUTES, STATISTICS, Metric, Metrics, Rejected, Series, parse_data, unix

Points = list[tuple[int, float]]
POINTS = st.lists(st.tuples(st.integers(-50, 50), st.floats(0, 100)), max_size=60)


def series(points: Points) -> Series:
    """A series of single samples, put in the order given."""
    made = Series()
    for minute, value in points:
        made.add(minute, 1.0, value, value, value)
    return made


@given(points=POINTS, start=st.integers(-60, 60), length=st.integers(1, 40))
def test_a_statistic_is_that_of_the_samples_in_its_minutes_in_whatever_order_they_came(
    points: Points, start: int, length: int
) -> None:
    """Late points are put before, between and after the others."""
    inside = [value for minute, value in points if start <= minute < start + length]
    told = {name: series(points).statistic(name, start, start + length) for name in STATISTICS}
    if not inside:
        assert set(told.values()) == {None}
    else:
        total = sum(inside)
        expected = (len(inside), total / len(inside), total, min(inside), max(inside))
        assert tuple(told[name] for name in STATISTICS) == pytest.approx(expected)


@given(
    points=POINTS,
    end=st.integers(-60, 60),
    minutes=st.integers(1, 7),
    number=st.integers(1, 70),
    statistic=st.sampled_from(STATISTICS),
)
def test_windows_are_the_statistics_of_the_periods_newest_first(
    points: Points, end: int, minutes: int, number: int, statistic: str
) -> None:
    """The short way for one-minute averages agrees with the general one."""
    made = series(points)
    starts = [end - minutes * i for i in range(1, number + 1)]
    expected = [made.statistic(statistic, start, start + minutes) for start in starts]
    assert made.windows(statistic, end=end, minutes=minutes, number=number) == expected


def test_a_minute_is_forgotten_after_fifteen_days_and_a_long_silence_costs_no_memory() -> None:
    """At most twice the time that points are kept is held, and a gap longer than it is not filled."""
    made = Series()
    for minute in range(2 * KEPT_MINUTES + 10):
        made.add(minute, 1.0, 1.0, 1.0, 1.0)
    assert made.first == 10
    assert made.statistic("SampleCount", 0, 2 * KEPT_MINUTES + 10) == 2 * KEPT_MINUTES
    made.add(10**9, 1.0, 2.0, 2.0, 2.0)
    assert (made.first, made.statistic("Sum", 0, 10**9 + 1)) == (10**9, 2.0)


def test_units_are_kept_apart_and_a_reader_without_a_unit_gets_the_one_that_was_first() -> None:
    """Points of another unit never count."""
    metrics, metric = Metrics(), Metric.of("N", "m", None)
    for unit, value in (("Percent", 1.0), ("None", 5.0), ("Percent", 3.0)):
        for datum in parse_data("N", [{"MetricName": "m", "Unit": unit, "Value": value}], 600.0):
            metrics.add(datum)
    told = [
        found and found.statistic("Sum", 0, 99)
        for unit in ("Percent", "None", "Count", None)
        for found in [metrics.series(metric, unit)]
    ]
    assert told == [4.0, 5.0, None, 4.0]


def test_a_page_can_be_asked_for_again_and_its_token_is_forgotten_after_many_others() -> None:
    """A client that retries gets the same page."""
    pages = Pages()
    first, token = pages.cut(range(5), 2)
    assert (first, [pages.cut((), 2, token)[0] for _ in range(2)]) == ([0, 1], [[2, 3], [2, 3]])
    for _ in range(KEPT_PAGES):
        pages.cut(range(2), 1)
    with pytest.raises(Rejected, match="InvalidNextToken"):
        pages.cut((), 2, token)


def test_a_time_without_a_zone_is_in_utc() -> None:
    """moto hands over times without a zone."""
    assert unix(datetime(1970, 1, 1, 0, 1)) == unix(datetime(1970, 1, 1, 0, 1, tzinfo=UTC)) == 60.0  # noqa: DTZ001
