"""How CloudWatch is asked about its metrics: GetMetricData, GetMetricStatistics, ListMetrics, and pages of answers.

Each function takes and returns what the API's reference names, as dicts; moto puts it into the client's protocol.
Both kinds of statistics cut their periods from StartTime on, rounded down to the minute; a period without samples has
no data point. Without a unit GetMetricStatistics answers for each unit, GetMetricData for the one that was seen first.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from flambed.lab.metrics import MINUTE, STATISTICS, Metric, Metrics, Rejected, Series, moment, unix

MAX_QUERIES = 500  # in a GetMetricData call
MAX_DATA_POINTS = 100_800  # in its answer, and the default
MAX_STATISTICS_POINTS = 1_440  # in a GetMetricStatistics answer
METRICS_PAGE = 500  # of ListMetrics
KEPT_PAGES = 1_000

_QUERY_ID = re.compile(r"[a-z][a-zA-Z0-9_]*")


class Pages:
    """What is still to be told of answers that were cut: a token stands for the rest of one, as it was when asked."""

    def __init__(self) -> None:
        self._rests: OrderedDict[str, list[Any]] = OrderedDict()

    def cut(self, items: Sequence[Any], size: int, token: str | None = None) -> tuple[list[Any], str | None]:
        """The first `size` of the items, or of the rest that `token` stands for, and the token of what then remains."""
        if token is None:
            rest = list(items)
        elif token in self._rests:
            rest = self._rests[token]
        else:
            raise Rejected("InvalidNextToken", "The value for parameter NextToken is invalid.")
        if len(rest) <= size:
            return rest, None
        onward = secrets.token_urlsafe(24)
        self._rests[onward] = rest[size:]
        if len(self._rests) > KEPT_PAGES:
            self._rests.popitem(last=False)
        return rest[:size], onward


def get_metric_data(metrics: Metrics, pages: Pages, params: Mapping[str, Any]) -> dict[str, Any]:
    """Answer GetMetricData. A page holds MaxDatapoints points over all queries, which are `PartialData` until the last."""
    queries = params.get("MetricDataQueries") or []
    _check_queries(queries)
    start, end = _range(params, "ValidationError")
    newest_first = params.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    points: list[tuple[int, int, float]] = []  # minute, index of the query, value
    token = params.get("NextToken")
    if token is None:
        for index, query in enumerate(queries):
            stat = query["MetricStat"]
            series = metrics.series(_metric(stat["Metric"]), stat.get("Unit"))
            step = int(stat["Period"]) // MINUTE
            points += [(m, index, v) for m, v in _statistics(series, stat["Stat"], start, end, step)]
        points.sort(key=lambda point: point[0], reverse=newest_first)
    page, onward = pages.cut(points, min(params.get("MaxDatapoints") or MAX_DATA_POINTS, MAX_DATA_POINTS), token)
    told: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for minute, index, value in page:
        told[index].append((minute, value))
    results = [
        {
            "Id": query["Id"],
            "Label": query.get("Label") or query["MetricStat"]["Metric"]["MetricName"],
            "Timestamps": [moment(minute * MINUTE) for minute, _ in told[index]],
            "Values": [value for _, value in told[index]],
            "StatusCode": "PartialData" if onward else "Complete",
        }
        for index, query in enumerate(queries)
        if query.get("ReturnData") is not False
    ]
    return {"MetricDataResults": results, "NextToken": onward, "Messages": []}


def _check_queries(queries: Sequence[Mapping[str, Any]]) -> None:
    if len(queries) > MAX_QUERIES:
        raise Rejected(
            "ValidationError", f"The collection MetricDataQueries must not have a size greater than {MAX_QUERIES}."
        )
    seen = set()
    for number, query in enumerate(queries, 1):
        where = f"MetricDataQueries.member.{number}"
        if not _QUERY_ID.fullmatch(query.get("Id", "")):
            raise Rejected(
                "ValidationError",
                f"The value {query.get('Id')} for parameter {where}.Id must match /^[a-z][a-zA-Z0-9_]*$/.",
            )
        if query["Id"] in seen:
            raise Rejected(
                "ValidationError", f"The values for parameter id in MetricDataQueries are not unique: {where}."
            )
        seen.add(query["Id"])
        if "Expression" in query:
            raise Rejected("ValidationError", f"The lab has no metric math: {where} must have a MetricStat.")
        if "MetricStat" not in query:
            raise Rejected("ValidationError", f"The parameter {where}.MetricStat is required.")
        _check_period(query["MetricStat"]["Period"], "ValidationError")
        _check_statistic(query["MetricStat"]["Stat"], "ValidationError")


def get_metric_statistics(metrics: Metrics, params: Mapping[str, Any]) -> dict[str, Any]:
    """Answer GetMetricStatistics: a data point a period and unit, with all statistics asked for."""
    statistics = params.get("Statistics") or []
    if not statistics:
        raise Rejected("InvalidParameterCombination", "At least one of the parameters Statistics must be specified.")
    for statistic in statistics:
        _check_statistic(statistic, "InvalidParameterValue")
    _check_period(params["Period"], "InvalidParameterValue")
    start, end = _range(params, "InvalidParameterValue")
    step = int(params["Period"]) // MINUTE
    asked = -(-(end - start) // step)
    if asked > MAX_STATISTICS_POINTS:
        raise Rejected(
            "InvalidParameterCombination",
            f"You have requested up to {asked:,} datapoints, which exceeds the limit of {MAX_STATISTICS_POINTS:,}. You "
            "may reduce the datapoints requested by increasing Period, or decreasing the time range.",
        )
    points: list[dict[str, Any]] = []
    for unit, series in metrics.units(_metric(params)).items():
        if params.get("Unit") not in (None, unit):
            continue
        columns = {statistic: dict(_statistics(series, statistic, start, end, step)) for statistic in statistics}
        points += [
            {
                "Timestamp": moment(minute * MINUTE),
                "Unit": unit,
                **{name: values[minute] for name, values in columns.items()},
            }
            for minute in columns[statistics[0]]
        ]
    return {"Label": params["MetricName"], "Datapoints": points}


def list_metrics(metrics: Metrics, pages: Pages, params: Mapping[str, Any]) -> dict[str, Any]:
    """Answer ListMetrics, by namespace, name and dimensions (a dimension without a value matches any)."""
    wanted = [(d["Name"], d.get("Value")) for d in params.get("Dimensions") or ()]
    found = [
        {"Namespace": metric.namespace, "MetricName": metric.name, "Dimensions": metric.dimensions_json()}
        for metric in metrics
        if params.get("Namespace") in (None, metric.namespace)
        and params.get("MetricName") in (None, metric.name)
        and all(
            metric.dimension(name) is not None and value in (None, metric.dimension(name)) for name, value in wanted
        )
    ]
    page, onward = pages.cut(found, METRICS_PAGE, params.get("NextToken"))
    return {"Metrics": page, "NextToken": onward}


def _metric(named: Mapping[str, Any]) -> Metric:
    return Metric.of(named["Namespace"], named["MetricName"], named.get("Dimensions"))


def _statistics(series: Series | None, statistic: str, start: int, end: int, step: int) -> list[tuple[int, float]]:
    """(minute, value) of each period of `step` minutes that begins in [start, end) and has samples before `end`."""
    if series is None:
        return []
    start += max(0, (series.first - start) // step) * step  # nothing is known before: a fast way over empty weeks
    values = (
        (minute, series.statistic(statistic, minute, min(minute + step, end))) for minute in range(start, end, step)
    )
    return [(minute, value) for minute, value in values if value is not None]


def _range(params: Mapping[str, Any], code: str) -> tuple[int, int]:
    """[StartTime, EndTime) in minutes: the start rounded down, the end up, as the points in its minute count."""
    start, end = unix(params["StartTime"]), unix(params["EndTime"])
    if start >= end:
        raise Rejected(code, "The parameter StartTime must be less than the parameter EndTime.")
    return int(start // MINUTE), int(-(-end // MINUTE))


def _check_period(period: int, code: str) -> None:
    if int(period) < MINUTE or int(period) % MINUTE:
        raise Rejected(code, f"The parameter Period must be a multiple of {MINUTE}, not {period}.")


def _check_statistic(statistic: str, code: str) -> None:
    if statistic not in STATISTICS:
        raise Rejected(code, f"The lab knows the statistics {', '.join(STATISTICS)}, not {statistic}.")
