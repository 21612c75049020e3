"""Alarms and fake CPU points as values: what CloudWatch is told (idle protection; S33, S35, S37). Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flambed.policy import HOLD_AHEAD, VOTE_AHEAD

MINUTE: Final = 60.0
METRIC: Final = "CPUUtilization"
AWS_NAMESPACE: Final = "AWS/EC2"
OWN_NAMESPACE: Final = "Flambed/EC2"
"""Where points go where CloudWatch refuses to take any into a namespace of its own."""

IN_USE: Final = 100.0
"""Percent: what a fake point says."""

MOST_AHEAD: Final = max(VOTE_AHEAD, HOLD_AHEAD)
"""Minutes ahead of now for which any point is written."""

BACK: Final = 9
"""Minutes before now for which a vote that begins has points: with this minute's own they are ten."""

_DAY: Final = 24 * 60
_WEEK: Final = 168 * 60
"""Minutes that CloudWatch evaluates at most, with periods under an hour and with whole ones."""

_PARTITIONS: Final[Mapping[str, str]] = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}

Config = Mapping[str, Any]


def alarm_name(instance: str) -> str:
    """Return the name of an instance's alarm. Flambé's own: by another name its alarm would live on beside ours."""
    return f"Flambe_Instance_Terminate_CPU_Utilization_{instance}"


def terminate_action(region: str) -> str:
    """Return the ARN of the action by which an alarm ends its instance, in the partition of the region."""
    return f"arn:{partition(region)}:automate:{region}:ec2:terminate"


def partition(region: str) -> str:
    """Return AWS's word for the part of the world that a region's ARNs begin with."""
    return next((name for prefix, name in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def window(minutes: int, *, detailed: bool = True) -> tuple[int, int]:
    """Return the period, in seconds, and the number of periods of an alarm that looks back so many minutes.

    Up to a day in minutes, or in fives where there is no more than basic monitoring (then two at least, for one point
    may be late); up to a week in hours, rounded up; a longer timeout has an alarm of a week, and a vote before it.
    """
    if minutes <= _DAY:
        return (60, minutes) if detailed else (300, max(2, math.ceil(minutes / 5)))
    return 3600, math.ceil(min(minutes, _WEEK) / 60)


def alarm(
    instance: str,
    minutes: int = 60,
    threshold: float = 0.1,
    *,
    region: str,
    own_metric: bool = False,
    detailed: bool = True,
) -> dict[str, Any]:
    """Return the whole configuration of an alarm that ends an idle instance, as PutMetricAlarm takes it (S35).

    Args:
        instance: its id.
        minutes: of consecutive idleness after which it ends.
        threshold: percent of average CPU below which a minute is idle.
        region: the region of both.
        own_metric: watch the metric that the service writes, whose silence counts as use, and not EC2's own.
        detailed: the instance has a CPU point every minute, and not every five.
    """
    period, periods = window(minutes, detailed=detailed or own_metric)
    return {
        "AlarmName": alarm_name(instance),
        "AlarmDescription": f"flambed: terminates {instance} after {minutes} minutes below {threshold:g} % of CPU",
        "ActionsEnabled": True,
        "OKActions": [],
        "AlarmActions": [terminate_action(region)],
        "InsufficientDataActions": [],
        "Namespace": OWN_NAMESPACE if own_metric else AWS_NAMESPACE,
        "MetricName": METRIC,
        "Dimensions": [{"Name": "InstanceId", "Value": instance}],
        "Statistic": "Average",
        "Unit": "Percent",
        "Period": period,
        "EvaluationPeriods": periods,
        "Threshold": threshold,
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "notBreaching" if own_metric else "missing",
    }


def digest_of(config: Config) -> str:
    """Return a short digest of a configuration, the same for the same one."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def differences(config: Config, described: Config) -> tuple[str, ...]:
    """Return the names of the settings that an alarm, as DescribeAlarms tells it, has otherwise than it should.

    Everything we set is compared, the description apart, and what we leave out and others could have set.
    """
    unset = ("DatapointsToAlarm", "ExtendedStatistic", "Metrics", "EvaluateLowSampleCountPercentile")
    wrong = [name for name, value in config.items() if name != "AlarmDescription" and described.get(name) != value]
    extra = [name for name in unset if described.get(name) not in (None, "", [], config["EvaluationPeriods"])]
    return tuple(sorted(wrong + extra))


def minute_of(at: float) -> float:
    """Return the beginning of a minute, UNIX seconds."""
    return at - at % MINUTE


def point(instance: str, at: float, value: float) -> dict[str, Any]:
    """Return one point of CPU, as PutMetricData takes it."""
    return {
        "MetricName": METRIC,
        "Dimensions": [{"Name": "InstanceId", "Value": instance}],
        "Timestamp": datetime.fromtimestamp(at, UTC),
        "Value": value,
        # Units are aggregated apart: a point of another one would not be seen.
        "Unit": "Percent",
    }


def fake_points(instance: str, value: float = IN_USE, points: int = 10, *, now: float) -> list[dict[str, Any]]:
    """Return fake points for the past minutes, one a minute, this one the last of them (S37)."""
    last = minute_of(now)
    return [point(instance, last - back * MINUTE, value) for back in reversed(range(points))]


def vote_minutes(now: float, until: float, written: float | None, ahead: int = 5) -> list[float]:
    """Return the minutes that a vote needs points for and has none: from nine before now to so many ahead.

    Args:
        now: UNIX seconds.
        until: when the vote ends; infinity if that is not known. No point says "in use" of a later minute.
        written: the last minute that has a point, or None.
        ahead: how many minutes ahead of now have points.
    """
    first = minute_of(now) - BACK * MINUTE
    last = min(minute_of(now) + ahead * MINUTE, minute_of(until) if math.isfinite(until) else math.inf)
    # What lies further ahead was written before AWS's clock was known, and holds nothing off now.
    if written is not None and written <= minute_of(now) + MOST_AHEAD * MINUTE:
        first = max(first, written + MINUTE)
    return [first + MINUTE * number for number in range(int((last - first) // MINUTE) + 1)]


Samples = Sequence[tuple[float, float]]
"""Minutes and their CPU in percent, the oldest first."""


def queries(
    ids: Iterable[str], namespace: str, statistic: str, period: int = 60, prefix: str = "m"
) -> list[dict[str, Any]]:
    """Return one query of GetMetricData for each instance, named `m0`, `m1`... in order."""
    return [
        {
            "Id": f"{prefix}{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": METRIC,
                    "Dimensions": [{"Name": "InstanceId", "Value": instance}],
                },
                "Period": period,
                "Stat": statistic,
                "Unit": "Percent",
            },
            "ReturnData": True,
        }
        for number, instance in enumerate(ids)
    ]


def last_busy(samples: Samples, threshold: float) -> float | None:
    """Return the last minute that was not idle, or None."""
    return next((at for at, percent in reversed(samples) if percent >= threshold), None)


def gaps(own: Samples, now: float) -> list[float]:
    """Return the minutes since our own metric began that have no point in it: what was lost while we were away."""
    known = {at for at, _ in own}
    if not known:
        return []
    first, last = min(known), minute_of(now)
    every = (first + MINUTE * number for number in range(int((last - first) // MINUTE)))
    return [minute for minute in every if minute not in known]


def merged(minute: float, real: Mapping[float, float]) -> float | None:
    """Return what our own metric says of a minute without a vote: the real CPU if it is no older than ten minutes.

    It is the greater of the last known minute and the one before: the CPU is read every other minute, and what was busy
    in one alone is to be seen all the same.

    Args:
        minute: UNIX seconds.
        real: percent of CPU by minute.
    """
    recent = (minute - MINUTE * back for back in range(BACK + 2))
    last = next((at for at in recent if at in real), None)
    return None if last is None else max(real[last], real.get(last - MINUTE, 0.0))
