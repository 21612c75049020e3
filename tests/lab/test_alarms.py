"""The lab's alarm evaluation against literal cases of AWS's documentation."""

from __future__ import annotations

from typing import Any

import pytest

from flambed.lab.alarms import Alarm, Configuration, MissingData, State, ec2_action, evaluate, judge, parse_alarm
from flambed.lab.metrics import Metric, Rejected, Series

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
MINUTE = int(NOW // 60)
METRIC = Metric.of("AWS/EC2", "CPUUtilization", [{"Name": "InstanceId", "Value": "i-1"}])
TREATMENTS: tuple[MissingData, ...] = ("missing", "ignore", "breaching", "notBreaching")
RETAIN = "retain"
OTHER: dict[State, State] = {"OK": "ALARM", "ALARM": "INSUFFICIENT_DATA", "INSUFFICIENT_DATA": "OK"}

# CloudWatch User Guide, "Configuring how CloudWatch alarms treat missing data". Oldest point first: 0 does not breach,
# X breaches, - is missing; then the state for missing, ignore, breaching, notBreaching.
THREE_OUT_OF_THREE = [
    ("0 - X - X", ("OK", "OK", "OK", "OK")),
    ("0 - - - -", ("OK", "OK", "OK", "OK")),
    ("- - - - -", ("INSUFFICIENT_DATA", RETAIN, "ALARM", "OK")),
    ("0 X X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    ("- - X - -", ("ALARM", RETAIN, "ALARM", "OK")),
    ("X - - - -", ("ALARM", RETAIN, "ALARM", "OK")),  # of the guide's edition of 2019
]
TWO_OUT_OF_THREE = [
    ("0 - X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    ("0 0 X 0 X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    ("0 - X - -", ("OK", "OK", "ALARM", "OK")),
    ("- - - - 0", ("OK", "OK", "ALARM", "OK")),
    ("- - - X -", ("ALARM", RETAIN, "ALARM", "OK")),
]
# "Avoiding premature transitions to alarm state": with three datapoints to alarm neither of these alarms.
TOO_YOUNG = ["- - - - X", "- - - X -"]


def flags(points: str) -> list[bool | None]:
    """The table's notation, oldest first, as `judge` takes it, newest first."""
    return [{"0": False, "X": True, "-": None}[point] for point in reversed(points.split())]


def rows() -> list[Any]:
    """Each row and column of both tables, from each state that the alarm may have been in."""
    return [
        pytest.param(points, m, treatment, previous, state, id=f"{m}-of-3 {points} {treatment} {previous}")
        for m, table in ((3, THREE_OUT_OF_THREE), (2, TWO_OUT_OF_THREE))
        for points, states in table
        for treatment, state in zip(TREATMENTS, states, strict=True)
        for previous in OTHER
    ]


@pytest.mark.parametrize(("points", "m", "treatment", "previous", "state"), rows())
def test_every_row_of_awss_tables_on_missing_data_gives_the_state_it_names(
    points: str, m: int, treatment: MissingData, previous: State, state: str
) -> None:
    """The tables of the CloudWatch User Guide, cell by cell."""
    judged = judge(
        flags(points), evaluation_periods=3, datapoints_to_alarm=m, missing_data=treatment, previous=previous
    )
    assert judged == (previous if state == RETAIN else state)


@pytest.mark.parametrize("points", TOO_YOUNG)
@pytest.mark.parametrize("treatment", ["missing", "ignore"])
def test_points_that_breach_after_a_gap_raise_no_alarm_before_they_are_old_enough(
    points: str, treatment: MissingData
) -> None:
    """The guide's examples of a premature transition that is avoided."""
    judged = judge(flags(points), evaluation_periods=3, datapoints_to_alarm=3, missing_data=treatment, previous="OK")
    assert judged == "OK"


def test_the_point_that_holds_an_alarm_off_stops_doing_so_when_it_leaves_the_evaluation_range() -> None:
    """The guide on its second row: with `breaching`, ALARM comes when the good point is no longer among the last five."""
    judged = [
        judge(flags(points), evaluation_periods=3, datapoints_to_alarm=3, missing_data="breaching", previous="OK")
        for points in ("0 - - - -", "- - - - -")
    ]
    assert judged == ["OK", "ALARM"]


def idle_alarm(**changes: Any) -> Configuration:
    """The alarm of a factory: an hour of one-minute averages under 0.5 %."""
    settings: dict[str, Any] = {
        "name": "a",
        "metric": METRIC,
        "statistic": "Average",
        "period": 60,
        "evaluation_periods": 60,
        "threshold": 0.5,
        "comparison": "LessThanThreshold",
        **changes,
    }
    return Configuration(**settings)


def series(values: dict[int, float]) -> Series:
    """One sample for each minute before NOW: `{1: 0.2}` is 0.2 in the last whole minute."""
    made = Series()
    for ago, value in values.items():
        made.add(MINUTE - ago, 1.0, value, value, value)
    return made


def state_of(alarm: Configuration, points: Series | None, previous: State = "INSUFFICIENT_DATA") -> State:
    """The state that an evaluation at NOW gives."""
    return evaluate(alarm, points, NOW, previous).state


def test_an_hour_of_idle_minutes_raises_the_alarm_and_fifty_nine_do_not() -> None:
    """The window is EvaluationPeriods long, no less."""
    assert state_of(idle_alarm(), series(dict.fromkeys(range(1, 61), 0.2))) == "ALARM"
    assert state_of(idle_alarm(), series(dict.fromkeys(range(1, 60), 0.2))) == "OK"


def test_one_busy_minute_in_the_window_keeps_the_alarm_off() -> None:
    """N out of N: a single point that does not breach is enough."""
    points = series(dict.fromkeys(range(1, 61), 0.2) | {60: 100.0})
    assert state_of(idle_alarm(), points) == "OK"


def test_a_busy_minute_just_before_the_window_does_not_count_unless_points_are_missing() -> None:
    """The range reaches further back than the window, but only to make up for gaps."""
    minutes = dict.fromkeys(range(1, 61), 0.2) | {61: 100.0}
    assert state_of(idle_alarm(), series(minutes)) == "ALARM"
    del minutes[30]
    assert state_of(idle_alarm(), series(minutes)) == "OK"


def test_five_minute_points_of_basic_monitoring_raise_a_one_minute_alarm_once_the_oldest_is_an_hour_old() -> None:
    """Missing points are not idleness, but the oldest of a thin row of idle points is."""
    assert state_of(idle_alarm(), series(dict.fromkeys(range(5, 56, 5), 0.2))) == "OK"
    assert state_of(idle_alarm(), series(dict.fromkeys(range(5, 61, 5), 0.2))) == "ALARM"


def test_only_an_empty_range_gives_insufficient_data() -> None:
    """A metric without points, and one whose points are all too old."""
    assert state_of(idle_alarm(), None, "ALARM") == "INSUFFICIENT_DATA"
    assert state_of(idle_alarm(), series({63: 0.2}), "ALARM") == "INSUFFICIENT_DATA"
    assert state_of(idle_alarm(), series({62: 100.0}), "ALARM") == "OK"


def test_silence_never_alarms_where_missing_data_does_not_breach() -> None:
    """What idle protection relies on where AWS/ is refused: a dead daemon's alarm stays off."""
    alarm = idle_alarm(missing_data="notBreaching")
    assert state_of(alarm, None) == "OK"
    assert state_of(alarm, series(dict.fromkeys(range(2, 61), 0.2))) == "OK"
    assert state_of(alarm, series(dict.fromkeys(range(1, 61), 0.2))) == "ALARM"


def test_the_minute_that_is_running_is_not_looked_at() -> None:
    """A point of the present minute, or a vote ahead, counts when its minute is over."""
    idle = dict.fromkeys(range(1, 61), 0.2)
    assert state_of(idle_alarm(), series(idle | {0: 100.0, -5: 100.0})) == "ALARM"


def test_a_fake_full_minute_among_an_hours_samples_averages_under_two_percent() -> None:
    """aws-facts: one 100 among 60 one-minute samples averages 1.7, ten of them more than 14."""
    one_hour = {"period": 3600, "evaluation_periods": 1, "threshold": 2.0}
    minutes = dict.fromkeys(range(1, 61), 0.0)
    assert state_of(idle_alarm(**one_hour), series(minutes | {7: 100.0})) == "ALARM"
    assert state_of(idle_alarm(**one_hour), series(minutes | dict.fromkeys(range(1, 11), 100.0))) == "OK"
    assert series(minutes | {7: 100.0}).statistic("Average", MINUTE - 60, MINUTE) == pytest.approx(100 / 60)


def test_periods_of_an_hour_slide_with_the_minute() -> None:
    """The default evaluation window of AWS is the sliding one."""
    alarm = idle_alarm(period=3600, evaluation_periods=2, statistic="Maximum")
    points = series(dict.fromkeys(range(1, 121), 0.2) | {120: 100.0})
    assert state_of(alarm, points) == "OK"
    assert evaluate(alarm, points, NOW + 59, "OK").state == "OK"
    assert evaluate(alarm, points, NOW + 60, "OK").state == "ALARM"


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("SampleCount", 4.0), ("Sum", 10.0), ("Average", 2.5), ("Minimum", 1.0), ("Maximum", 4.0)],
)
def test_every_statistic_is_taken_over_all_samples_of_the_period(statistic: str, value: float) -> None:
    """The five statistics, by an alarm on a period of two minutes that breaches at exactly this value."""
    points = series({1: 1.0, 2: 4.0})
    points.add(MINUTE - 1, 2.0, 5.0, 2.0, 3.0)
    alarm = idle_alarm(
        statistic=statistic,
        period=120,
        evaluation_periods=1,
        comparison="GreaterThanOrEqualToThreshold",
        threshold=value,
    )
    assert state_of(alarm, points) == "ALARM"
    assert state_of(idle_alarm(**{**vars(alarm), "threshold": value + 0.01}), points) == "OK"


@pytest.mark.parametrize(
    ("comparison", "below", "equal", "above"),
    [
        ("GreaterThanThreshold", "OK", "OK", "ALARM"),
        ("GreaterThanOrEqualToThreshold", "OK", "ALARM", "ALARM"),
        ("LessThanThreshold", "ALARM", "OK", "OK"),
        ("LessThanOrEqualToThreshold", "ALARM", "ALARM", "OK"),
    ],
)
def test_a_point_on_the_threshold_breaches_only_where_the_operator_says_so(
    comparison: str, below: State, equal: State, above: State
) -> None:
    """The four comparison operators at 3.99, 4 and 4.01 against 4."""
    alarm = idle_alarm(evaluation_periods=1, threshold=4.0, comparison=comparison)
    assert [state_of(alarm, series({1: value})) for value in (3.99, 4.0, 4.01)] == [below, equal, above]


def test_a_reason_tells_the_values_the_threshold_and_how_many_it_takes() -> None:
    """What `why` and a person read in StateReason."""
    verdict = evaluate(idle_alarm(evaluation_periods=3), series({1: 0.1, 2: 0.25, 3: 0.3}), NOW, "OK")
    assert verdict.reason == (
        "Threshold Crossed: of the last 3 datapoints 3 were known [0.1, 0.25, 0.3]; "
        "at least 3 were less than the threshold (0.5)."
    )
    assert evaluate(idle_alarm(), None, NOW, "OK").reason == "Insufficient Data: 60 datapoints were unknown."


PUT: dict[str, Any] = {
    "AlarmName": "a",
    "Namespace": "AWS/EC2",
    "MetricName": "CPUUtilization",
    "Dimensions": [{"Name": "InstanceId", "Value": "i-1"}],
    "Statistic": "Average",
    "Period": 60,
    "EvaluationPeriods": 60,
    "Threshold": 0.5,
    "ComparisonOperator": "LessThanThreshold",
}


def put(region: str = "us-east-1", partition: str = "aws", **changes: Any) -> Configuration:
    """The outcome of PutMetricAlarm's checks on an alarm that is right but for the changes."""
    return parse_alarm({**PUT, **changes}, region=region, partition=partition)


@pytest.mark.parametrize(
    ("period", "longest"),
    [(60, 1440), (300, 288), (3540, 24), (3600, 168), (86_400, 7)],
)
def test_a_window_is_a_day_at_most_and_a_week_where_the_period_is_an_hour_or_more(period: int, longest: int) -> None:
    """Period x EvaluationPeriods <= 86,400 s, from 3600 s on <= 604,800 s, else ValidationError."""
    assert put(Period=period, EvaluationPeriods=longest).evaluation_periods == longest
    with pytest.raises(Rejected, match=r"ValidationError: Metrics cannot be checked across more than a (day|week)"):
        put(Period=period, EvaluationPeriods=longest + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Period": 90}, "Period must be a multiple of 60"),
        ({"Period": 10}, "Period must be a multiple of 60"),
        ({"DatapointsToAlarm": 61}, r"DatapointsToAlarm \(61\) must lie between 1 and EvaluationPeriods \(60\)"),
        ({"Statistic": "Median"}, "Value 'Median' at 'statistic'"),
        ({"ComparisonOperator": "Less"}, "Value 'Less' at 'comparisonOperator'"),
        ({"TreatMissingData": "drop"}, "Value 'drop' at 'treatMissingData'"),
        ({"Threshold": None}, "The parameter Threshold is required"),
        ({"Metrics": [{"Id": "m"}]}, "no metric math"),
        ({"ExtendedStatistic": "p99"}, "no percentiles"),
        ({"AlarmActions": ["terminate"]}, "Invalid arn syntax: terminate"),
        ({"AlarmActions": ["arn:aws:automate:us-east-1:ec2:explode"]}, "Invalid arn syntax"),
        ({"AlarmActions": ["arn:aws-cn:automate:us-east-1:ec2:terminate"]}, "Invalid arn syntax"),
        (
            {"AlarmActions": ["arn:aws:automate:eu-west-1:ec2:terminate"]},
            "Invalid region eu-west-1 specified. Only us-east-1 is supported.",
        ),
        ({"OKActions": ["arn:aws:sns:us-east-1:123456789012:t"] * 6}, "OKActions must not have more than 5 members"),
    ],
)
def test_a_wrong_alarm_is_refused_with_a_message_that_names_what_is_wrong(
    changes: dict[str, Any], message: str
) -> None:
    """PutMetricAlarm's ValidationErrors."""
    with pytest.raises(Rejected, match=message) as refused:
        put(**changes)
    assert refused.value.code == "ValidationError"


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_the_terminate_actions_arn_carries_partition_and_region(region: str, partition: str) -> None:
    """arn:aws:automate:REGION:ec2:terminate, and aws-cn and aws-us-gov elsewhere."""
    arn = f"arn:{partition}:automate:{region}:ec2:terminate"
    assert put(region, partition, AlarmActions=[arn]).has_ec2_action
    assert ec2_action(arn) == "terminate"


def test_the_older_form_of_an_ec2_action_is_understood() -> None:
    """arn:aws:swf:REGION:ACCOUNT:action/actions/AWS_EC2.InstanceId.Terminate/1.0."""
    arn = "arn:aws:swf:us-east-1:123456789012:action/actions/AWS_EC2.InstanceId.Terminate/1.0"
    assert ec2_action(arn) == "terminate"
    assert ec2_action("arn:aws:sns:us-east-1:123456789012:topic") is None


def test_what_was_not_given_is_not_told() -> None:
    """DescribeAlarms leaves out what PutMetricAlarm left out, so that a comparison of the two is exact."""
    alarm = Alarm(put(), "arn", configured=NOW, updated=NOW, transitioned=NOW)
    assert not {"Unit", "DatapointsToAlarm", "TreatMissingData", "AlarmDescription"} & alarm.as_api().keys()
    assert alarm.as_api()["ActionsEnabled"] is True
