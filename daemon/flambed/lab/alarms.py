"""CloudWatch's metric alarms: what PutMetricAlarm accepts, and how an alarm's state follows from a metric's points.

Pure: no clock, no moto, no input or output. Sources: the API reference of PutMetricAlarm; in the CloudWatch User Guide
"Alarm evaluation", "Alarm evaluation window" and "Configuring how CloudWatch alarms treat missing data", whose tables
are test cases of this module.

What bends the truth, or stands where the documentation is silent:
- The evaluation range reaches LOOK_BACK periods further back than EvaluationPeriods. AWS says only that it is longer;
  two is what its tables show.
- Periods slide with the minute of evaluation and the minute that is still running is not looked at.
- With `missing`, a range of too few and too young points, all of them breaching, gives OK: the guide of today says that
  only an empty range gives INSUFFICIENT_DATA; an older edition gave it here as well.
- Metric math, anomaly detection, percentiles, wall clock windows and periods under a minute are refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flambed.lab.metrics import MINUTE, STATISTICS, Metric, Rejected, Series, moment

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
MissingData = Literal["missing", "ignore", "breaching", "notBreaching"]

LOOK_BACK = 2  # periods
DAY = 86_400
WEEK = 604_800
MAX_ACTIONS = 5
SHOWN_DATAPOINTS = 5  # how many values a reason quotes

_COMPARISONS = {
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}
_MISSING_DATA = ("breaching", "notBreaching", "ignore", "missing")
_ARN = re.compile(r"arn:(?P<partition>[\w-]+):(?P<service>[\w-]+):(?P<region>[\w-]*):.+")
_EC2_ACTION = re.compile(
    r"arn:[\w-]+:(?:automate:[\w-]+:ec2:(?P<automate>stop|terminate|reboot|recover)"
    r"|swf:[\w-]+:\d{12}:action/actions/AWS_EC2\.InstanceId\.(?P<swf>Stop|Terminate|Reboot|Recover)/1\.0)"
)


@dataclass(frozen=True)
class Configuration:
    """What a PutMetricAlarm call sets, all of it: another call replaces all of it."""

    name: str
    metric: Metric
    statistic: str
    period: int  # seconds, a multiple of 60
    evaluation_periods: int  # N of "M out of N"
    threshold: float
    comparison: str
    datapoints_to_alarm: int | None = None  # M; None, which is told as such, is N
    missing_data: MissingData | None = None  # None, which is told as such, is "missing"
    unit: str | None = None
    description: str | None = None
    actions_enabled: bool = True
    alarm_actions: tuple[str, ...] = ()
    ok_actions: tuple[str, ...] = ()
    insufficient_data_actions: tuple[str, ...] = ()

    def actions(self, state: State) -> tuple[str, ...]:
        """The ARNs of what is to be done on a change into `state`."""
        if state == "ALARM":
            return self.alarm_actions
        return self.ok_actions if state == "OK" else self.insufficient_data_actions

    @property
    def has_ec2_action(self) -> bool:
        """Whether a change of state would act on an instance."""
        arns = self.alarm_actions + self.ok_actions + self.insufficient_data_actions
        return any(ec2_action(arn) for arn in arns)


@dataclass
class Alarm:
    """One alarm as it stands; `name` and `alarm_arn` are what moto reads of it."""

    configuration: Configuration
    alarm_arn: str
    configured: float  # lab time, UNIX seconds, as the others
    updated: float
    transitioned: float
    state: State = "INSUFFICIENT_DATA"
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: str = "{}"
    rule: None = field(default=None, init=False)  # moto: not a composite alarm

    @property
    def name(self) -> str:
        return self.configuration.name

    def as_api(self) -> dict[str, Any]:
        """The structure MetricAlarm of the API."""
        c = self.configuration
        fields = {
            "AlarmName": c.name,
            "AlarmArn": self.alarm_arn,
            "AlarmDescription": c.description,
            "AlarmConfigurationUpdatedTimestamp": moment(self.configured),
            "ActionsEnabled": c.actions_enabled,
            "OKActions": list(c.ok_actions),
            "AlarmActions": list(c.alarm_actions),
            "InsufficientDataActions": list(c.insufficient_data_actions),
            "StateValue": self.state,
            "StateReason": self.reason,
            "StateReasonData": self.reason_data,
            "StateUpdatedTimestamp": moment(self.updated),
            "StateTransitionedTimestamp": moment(self.transitioned),
            "MetricName": c.metric.name,
            "Namespace": c.metric.namespace,
            "Statistic": c.statistic,
            "Dimensions": c.metric.dimensions_json(),
            "Period": c.period,
            "Unit": c.unit,
            "EvaluationPeriods": c.evaluation_periods,
            "DatapointsToAlarm": c.datapoints_to_alarm,
            "Threshold": c.threshold,
            "ComparisonOperator": c.comparison,
            "TreatMissingData": c.missing_data,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """The outcome of one evaluation; `recent` are the newest real values it saw, newest first."""

    state: State
    reason: str
    recent: tuple[float, ...]


def ec2_action(arn: str) -> str | None:
    """`stop`, `terminate`, `reboot` or `recover` where the ARN is an EC2 action, else None."""
    match = _EC2_ACTION.fullmatch(arn)
    return (match["automate"] or match["swf"].lower()) if match else None


def judge(
    points: Sequence[bool | None],
    *,
    evaluation_periods: int,
    datapoints_to_alarm: int,
    missing_data: MissingData,
    previous: State,
) -> State:
    """The state that the points of one evaluation range give.

    `points`, newest first: True breaches, False does not, None is missing.
    """
    real = [point for point in points if point is not None][:evaluation_periods]
    if not real:
        states: dict[MissingData, State] = {
            "missing": "INSUFFICIENT_DATA",
            "ignore": previous,
            "breaching": "ALARM",
            "notBreaching": "OK",
        }
        return states[missing_data]
    filled = evaluation_periods - len(real)  # as few as possible: only what real points leave open
    breaching = real.count(True) + (filled if missing_data == "breaching" else 0)
    if breaching >= datapoints_to_alarm:
        return "ALARM"
    if False in real or missing_data in ("breaching", "notBreaching"):
        return "OK"
    # All that is known breaches, but it is too little. AWS calls what follows the premature alarm state: it waits until
    # the oldest of these points is as old as the alarm needs points, so that one point after a gap raises no alarm.
    if missing_data == "ignore":
        return previous
    age = max(periods for periods, point in enumerate(points, 1) if point is not None)
    return "ALARM" if age >= datapoints_to_alarm else "OK"


def evaluate(alarm: Configuration, points: Series | None, now: float, previous: State) -> Verdict:
    """Judge an alarm at `now` (UNIX seconds) by its metric's points, None where the metric has never had one."""
    number = alarm.evaluation_periods + LOOK_BACK
    values: Sequence[float | None] = (
        [None] * number
        if points is None
        else points.windows(alarm.statistic, end=int(now // MINUTE), minutes=alarm.period // MINUTE, number=number)
    )
    breaches, words = _COMPARISONS[alarm.comparison]
    flags = [None if value is None else breaches(value, alarm.threshold) for value in values]
    state = judge(
        flags,
        evaluation_periods=alarm.evaluation_periods,
        datapoints_to_alarm=alarm.datapoints_to_alarm or alarm.evaluation_periods,
        missing_data=alarm.missing_data or "missing",
        previous=previous,
    )
    real = [value for value in values if value is not None][: alarm.evaluation_periods]
    recent = tuple(real[:SHOWN_DATAPOINTS])
    return Verdict(state, _reason(alarm, words, state, real, recent), recent)


def _reason(alarm: Configuration, words: str, state: State, real: Sequence[float], recent: Sequence[float]) -> str:
    if not real:
        if alarm.missing_data in ("missing", None):
            return f"Insufficient Data: {alarm.evaluation_periods} datapoints were unknown."
        treated = {"breaching": "Breaching", "notBreaching": "NonBreaching"}.get(str(alarm.missing_data), "ignored")
        return (
            f"Threshold Crossed: no datapoints were received for {alarm.evaluation_periods} periods "
            f"and {alarm.evaluation_periods} missing datapoints were treated as [{treated}]."
        )
    quoted = ", ".join(f"{value:g}" for value in recent) + (", ..." if len(real) > len(recent) else "")
    return (
        f"Threshold Crossed: of the last {alarm.evaluation_periods} datapoints {len(real)} were known [{quoted}]; "
        f"{'at least' if state == 'ALARM' else 'fewer than'} {alarm.datapoints_to_alarm or alarm.evaluation_periods} were "
        f"{words} the threshold ({alarm.threshold:g})."
    )


def parse_alarm(params: Mapping[str, Any], *, region: str, partition: str) -> Configuration:
    """The configuration that the parameters of a PutMetricAlarm call (named as in the API) describe.

    Raises Rejected where AWS, or the lab (see the module's docstring), would not take them. Whether the instance of an
    EC2 action exists is for the caller to see.
    """
    if params.get("Metrics") or params.get("ThresholdMetricId"):
        raise _invalid("The lab has no metric math: name one metric by Namespace, MetricName and Dimensions.")
    if params.get("ExtendedStatistic"):
        raise _invalid("The lab has no percentiles: use Statistic.")
    for key in ("MetricName", "Namespace", "Statistic", "Period", "Threshold"):
        if params.get(key) is None:
            raise _invalid(f"The parameter {key} is required.")
    _check_choice(params, "Statistic", STATISTICS)
    _check_choice(params, "ComparisonOperator", tuple(_COMPARISONS))
    _check_choice(params, "TreatMissingData", _MISSING_DATA)
    periods = int(params["EvaluationPeriods"])
    datapoints = params.get("DatapointsToAlarm")
    if datapoints is not None and not 1 <= datapoints <= periods:
        raise _invalid(f"DatapointsToAlarm ({datapoints}) must lie between 1 and EvaluationPeriods ({periods}).")
    _check_window(int(params["Period"]), periods)
    return Configuration(
        name=params["AlarmName"],
        metric=Metric.of(params["Namespace"], params["MetricName"], params.get("Dimensions")),
        statistic=params["Statistic"],
        period=int(params["Period"]),
        evaluation_periods=periods,
        datapoints_to_alarm=datapoints,
        threshold=float(params["Threshold"]),
        comparison=params["ComparisonOperator"],
        missing_data=params.get("TreatMissingData"),
        unit=params.get("Unit"),
        description=params.get("AlarmDescription"),
        actions_enabled=params.get("ActionsEnabled") is not False,
        alarm_actions=_actions(params, "AlarmActions", region, partition),
        ok_actions=_actions(params, "OKActions", region, partition),
        insufficient_data_actions=_actions(params, "InsufficientDataActions", region, partition),
    )


def _check_choice(params: Mapping[str, Any], key: str, choices: Sequence[str]) -> None:
    value = params.get(key)
    if value is not None and value not in choices:
        raise _invalid(
            f"1 validation error detected: Value '{value}' at '{key[0].lower()}{key[1:]}' failed to satisfy "
            f"constraint: Member must satisfy enum value set: [{', '.join(choices)}]"
        )


def _check_window(period: int, evaluation_periods: int) -> None:
    if period < MINUTE or period % MINUTE:
        raise _invalid(f"Period must be a multiple of 60 (the lab has no high-resolution alarms), not {period}.")
    longest, name = (DAY, "day") if period < 3600 else (WEEK, "week")
    if period * evaluation_periods > longest:
        raise _invalid(
            f"Metrics cannot be checked across more than a {name} (EvaluationPeriods * Period must be <= {longest})."
        )


def _actions(params: Mapping[str, Any], key: str, region: str, partition: str) -> tuple[str, ...]:
    arns = tuple(params.get(key) or ())
    if len(arns) > MAX_ACTIONS:
        raise _invalid(f"{key} must not have more than {MAX_ACTIONS} members, there are {len(arns)}.")
    for arn in arns:
        match = _ARN.fullmatch(arn)
        if match is None or match["partition"] != partition:
            raise _invalid(f"Invalid arn syntax: {arn}")
        if match["region"] != region:
            raise _invalid(f"Invalid region {match['region']} specified. Only {region} is supported.")
        if match["service"] in ("automate", "swf") and ec2_action(arn) is None:
            raise _invalid(f"Invalid arn syntax: {arn}")
    return arns


def _invalid(message: str) -> Rejected:
    return Rejected("ValidationError", message)
