"""The store of CloudWatch's metrics: what PutMetricData may say, and statistics over what it said.

Pure: no clock, no moto, no input or output. Source of the rules: the API reference of PutMetricData.

What bends the truth: points can be read the moment they are put (the real service takes up to minutes), high-resolution
points are kept to the minute like all others, and nothing is aggregated with age: a minute is forgotten after 15 days.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MINUTE = 60
PAST_LIMIT = 14 * 24 * 3600  # seconds: the oldest timestamp that PutMetricData takes
FUTURE_LIMIT = 2 * 3600  # seconds: the furthest one ahead
KEPT_MINUTES = 15 * 24 * 60  # how long one-minute points can be read
MAX_DATA = 1000  # metrics in a PutMetricData call
MAX_VALUES = 150  # unique values in one datum's array
LARGEST = 2.0**360
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")


class Rejected(Exception):  # noqa: N818 - it is what the service answers, not an error of the lab
    """AWS would refuse this request: `code` is the error's code as clients see it, `message` its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Metric:
    """A metric's identity: every different set of dimensions is a metric of its own."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Sequence[Mapping[str, str]] | None) -> Metric:
        """The metric that a request names; `dimensions` in the API's form: `[{"Name": ..., "Value": ...}]`."""
        return cls(namespace, name, frozenset((d["Name"], d["Value"]) for d in dimensions or ()))

    def dimension(self, name: str) -> str | None:
        """The value of one dimension, None where the metric has no such dimension."""
        return next((value for key, value in self.dimensions if key == name), None)

    def dimensions_json(self) -> list[dict[str, str]]:
        """The dimensions in the API's form, sorted by name."""
        return [{"Name": name, "Value": value} for name, value in sorted(self.dimensions)]


@dataclass(frozen=True)
class Datum:
    """One accepted metric of a PutMetricData call: `count` samples that share a minute (UNIX time / 60)."""

    metric: Metric
    unit: str
    minute: int
    count: float
    total: float
    minimum: float
    maximum: float


class Series:
    """The samples of one metric in one unit, added up by minute.

    Four lists that begin at the minute `first`; a minute without samples counts 0. Lists, not a dict of minutes:
    a thousand alarms read a window each, every minute, and slices of floats add up at the speed of C.
    """

    __slots__ = ("_counts", "_maxima", "_minima", "_totals", "first")

    def __init__(self) -> None:
        self.first = 0
        self._clear()

    def _clear(self) -> None:
        self._counts: list[float] = []
        self._totals: list[float] = []
        self._minima: list[float] = []
        self._maxima: list[float] = []

    def add(self, minute: int, count: float, total: float, minimum: float, maximum: float) -> None:
        """Add samples to a minute; samples that are there already stay (CloudWatch never replaces one)."""
        index = self._reach(minute)
        self._counts[index] += count
        self._totals[index] += total
        self._minima[index] = min(self._minima[index], minimum)
        self._maxima[index] = max(self._maxima[index], maximum)

    def _reach(self, minute: int) -> int:
        """The index of a minute, after the lists were made to cover it."""
        if minute >= self.first + len(self._counts) + KEPT_MINUTES:
            self._clear()  # everything so far is past remembering; do not fill the gap with empty minutes
        if not self._counts:
            self.first = minute
        for values, nothing in self._columns():
            if minute < self.first:
                values[:0] = [nothing] * (self.first - minute)
            values.extend([nothing] * (minute - self.first - len(values) + 1))
        self.first = min(self.first, minute)
        surplus = len(self._counts) - 2 * KEPT_MINUTES
        if surplus > 0 and minute - self.first >= surplus:
            for values, _ in self._columns():
                del values[:surplus]
            self.first += surplus
        return minute - self.first

    def _columns(self) -> Iterator[tuple[list[float], float]]:
        yield self._counts, 0.0
        yield self._totals, 0.0
        yield self._minima, math.inf
        yield self._maxima, -math.inf

    def statistic(self, name: str, start: int, end: int) -> float | None:
        """One of STATISTICS over the minutes [start, end); None where no sample lies in them."""
        low, high = max(start - self.first, 0), min(end - self.first, len(self._counts))
        count = sum(self._counts[low:high]) if low < high else 0.0
        if not count:
            return None
        if name == "SampleCount":
            return count
        if name == "Minimum":
            return min(self._minima[low:high])
        if name == "Maximum":
            return max(self._maxima[low:high])
        total = sum(self._totals[low:high])
        return total / count if name == "Average" else total

    def windows(self, statistic: str, *, end: int, minutes: int, number: int) -> list[float | None]:
        """The statistic over `number` periods of so many minutes that lead up to the minute `end`, newest first."""
        if minutes == 1 and statistic == "Average":  # what idle alarms ask, 1,000 of them each minute: one pass
            start = end - number
            low, high = max(start - self.first, 0), min(end - self.first, len(self._counts))
            if low >= high:
                return [None] * number
            known = [
                total / count if count else None
                for count, total in zip(self._counts[low:high], self._totals[low:high], strict=True)
            ]
            before: list[float | None] = [None] * (self.first + low - start)
            after: list[float | None] = [None] * (end - self.first - high)
            return (before + known + after)[::-1]
        return [
            self.statistic(statistic, last - minutes, last) for last in range(end, end - number * minutes, -minutes)
        ]


class Metrics:
    """All metrics of one account and region."""

    def __init__(self) -> None:
        self._series: dict[Metric, dict[str, Series]] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._series)

    def add(self, datum: Datum) -> None:
        """Keep one datum, apart from those in other units."""
        units = self._series.setdefault(datum.metric, {})
        series = units.setdefault(datum.unit, Series())
        series.add(datum.minute, datum.count, datum.total, datum.minimum, datum.maximum)

    def units(self, metric: Metric) -> Mapping[str, Series]:
        """The series of a metric by unit, in the order in which the units were first seen; empty if unknown."""
        return self._series.get(metric, {})

    def series(self, metric: Metric, unit: str | None) -> Series | None:
        """The series of a metric in a unit. Where the caller names none, CloudWatch leaves undefined what several
        units give; here it is the unit that was seen first, so that units never mix."""
        units = self.units(metric)
        return next(iter(units.values()), None) if unit is None else units.get(unit)


def parse_data(namespace: str, data: Sequence[Mapping[str, Any]], now: float) -> list[Datum]:
    """Check the metrics of one PutMetricData call (as the API names them) against its rules, at `now` (UNIX seconds).

    Raises Rejected at the first that breaks one: the real service too takes all of a call or nothing.
    """
    if len(data) > MAX_DATA:
        raise Rejected(
            "InvalidParameterValue", f"The collection MetricData must not have a size greater than {MAX_DATA}."
        )
    return [_parse_datum(namespace, member, f"MetricData.member.{i}", now) for i, member in enumerate(data, 1)]


def _parse_datum(namespace: str, member: Mapping[str, Any], where: str, now: float) -> Datum:
    timestamp = now if (given := member.get("Timestamp")) is None else unix(given)
    if timestamp < now - PAST_LIMIT:
        raise Rejected(
            "InvalidParameterValue", f"The parameter {where}.Timestamp must specify a time within the past two weeks."
        )
    if timestamp > now + FUTURE_LIMIT:
        raise Rejected(
            "InvalidParameterValue",
            f"The parameter {where}.Timestamp must specify a time no more than two hours in the future.",
        )
    count, total, minimum, maximum = _samples(member, where)
    for value in (count, total, minimum, maximum):
        if not -LARGEST <= value <= LARGEST:  # false for NaN and the infinities too
            raise Rejected("InvalidParameterValue", f"The value {value} for parameter {where}.Value is invalid.")
    return Datum(
        metric=Metric.of(namespace, member["MetricName"], member.get("Dimensions")),
        unit=member.get("Unit") or "None",
        minute=int(timestamp // MINUTE),
        count=count,
        total=total,
        minimum=minimum,
        maximum=maximum,
    )


def _samples(member: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    """Sample count, sum, minimum and maximum of a datum in any of its three forms."""
    forms = [form for form in ("Value", "Values", "StatisticValues") if member.get(form) not in (None, [])]
    if len(forms) > 1:
        raise Rejected(
            "InvalidParameterCombination",
            f"The parameters {where}.{forms[0]} and {where}.{forms[1]} are mutually exclusive "
            "and you have specified both.",
        )
    if not forms:
        raise Rejected(
            "MissingParameter",
            f"At least one of the parameters {where}.Value, {where}.Values or {where}.StatisticValues must be specified.",
        )
    if forms == ["Value"]:
        value = float(member["Value"])
        return 1.0, value, value, value
    if forms == ["StatisticValues"]:
        summary = member["StatisticValues"]
        return tuple(float(summary[key]) for key in ("SampleCount", "Sum", "Minimum", "Maximum"))  # type: ignore[return-value]  # four keys
    values = [float(value) for value in member["Values"]]
    counts = [float(count) for count in member.get("Counts") or [1.0] * len(values)]
    if len(values) != len(counts):
        raise Rejected(
            "InvalidParameterValue",
            f"The parameters {where}.Values and {where}.Counts must be of the same size.",
        )
    if len(values) > MAX_VALUES:
        raise Rejected(
            "InvalidParameterValue", f"The collection {where}.Values must not have a size greater than {MAX_VALUES}."
        )
    total = sum(value * count for value, count in zip(values, counts, strict=True))
    return sum(counts), total, min(values), max(values)


def unix(moment: datetime) -> float:
    """UNIX seconds of a moment; one without a zone is in UTC, as all times of AWS are."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def moment(seconds: float) -> datetime:
    """UNIX seconds as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
