"""The lab's CloudWatch through boto3 and moto's own server, against literal cases out of aws-facts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.cloudwatch.models import cloudwatch_backends
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.base_backend import BackendDict
from moto.ec2.models import ec2_backends
from moto.server import ThreadedMotoServer

from flambed.lab.clock import Clock
from flambed.lab.watch import Watch

ACCOUNT = "123456789012"
REGION = "us-east-1"
START = 1_767_225_600.0  # 2026-01-01T00:00:00Z
OPERATIONS = [
    "delete_alarms",
    "describe_alarm_history",
    "describe_alarms",
    "describe_alarms_for_metric",
    "disable_alarm_actions",
    "enable_alarm_actions",
    "get_metric_data",
    "get_metric_statistics",
    "list_metrics",
    "put_metric_alarm",
    "put_metric_data",
    "set_alarm_state",
]
TERMINATE = f"arn:aws:automate:{REGION}:ec2:terminate"


@dataclass(frozen=True)
class WoundClock(Clock):
    """A lab clock that a test winds."""

    hands: list[float] = field(default_factory=lambda: [START])

    def now(self) -> float:
        return self.hands[0]


@dataclass
class Bench:
    """A Watch behind moto's server, clients of it, and what the Watch asked of EC2."""

    watch: Watch
    clock: WoundClock
    cloudwatch: Any
    ec2: Any
    terminated: list[str]
    events: list[dict[str, Any]]
    detailed: set[str] = field(default_factory=set)

    def pass_minutes(self, minutes: int) -> None:
        """Let the lab live through so many minutes, each with its tick."""
        for _ in range(minutes):
            self.clock.hands[0] += 60
            self.watch.tick()

    def launch(self, *, detailed: bool = True) -> str:
        """A running instance."""
        answer = self.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
        instance_id: str = answer["Instances"][0]["InstanceId"]
        if detailed:
            self.detailed.add(instance_id)
        return instance_id

    def protect(self, instance_id: str, *, on: bool) -> None:
        """Switch the termination protection of an instance."""
        self.ec2.modify_instance_attribute(InstanceId=instance_id, DisableApiTermination={"Value": on})

    def arm(self, instance_id: str, **changes: Any) -> None:
        """The alarm that ends an instance after three idle minutes, named like it."""
        settings = {
            "AlarmName": instance_id,
            "Namespace": "AWS/EC2",
            "MetricName": "CPUUtilization",
            "Dimensions": [{"Name": "InstanceId", "Value": instance_id}],
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": 3,
            "Threshold": 0.5,
            "ComparisonOperator": "LessThanThreshold",
            "AlarmActions": [TERMINATE],
            **changes,
        }
        self.cloudwatch.put_metric_alarm(**{key: value for key, value in settings.items() if value is not None})

    def put(
        self, instance_id: str, *offsets: int, value: float = 100.0, namespace: str = "AWS/EC2", **more: Any
    ) -> None:
        """Points for an instance at so many minutes from now."""
        data = [
            {
                "MetricName": "CPUUtilization",
                "Dimensions": [{"Name": "InstanceId", "Value": instance_id}],
                "Timestamp": at(self.clock.now() + 60 * offset),
                "Value": value,
                "Unit": "Percent",
                **more,
            }
            for offset in offsets
        ]
        self.cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)

    def alarm(self, name: str) -> dict[str, Any]:
        """One alarm as DescribeAlarms tells it."""
        (alarm,) = self.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        assert isinstance(alarm, dict)
        return alarm

    def state(self, name: str) -> str:
        """The state of one alarm."""
        return str(self.alarm(name)["StateValue"])

    def history(self, name: str, kind: str) -> list[str]:
        """The summaries of an alarm's history, oldest first."""
        answer = self.cloudwatch.describe_alarm_history(
            AlarmName=name, HistoryItemType=kind, ScanBy="TimestampAscending"
        )
        return [item["HistorySummary"] for item in answer["AlarmHistoryItems"]]

    def query(self, instance_id: str, stat: str = "Average", period: int = 60, **more: Any) -> dict[str, Any]:
        """A GetMetricData query for the CPU of an instance."""
        metric = {
            "Namespace": "AWS/EC2",
            "MetricName": "CPUUtilization",
            "Dimensions": [{"Name": "InstanceId", "Value": instance_id}],
        }
        stat_fields = {"Metric": metric, "Period": period, "Stat": stat, "Unit": "Percent"}
        return {"Id": "m" + instance_id.replace("-", "_"), "MetricStat": stat_fields, **more}

    def read(self, *queries: dict[str, Any], minutes: int = 60, **more: Any) -> list[dict[str, Any]]:
        """The results of GetMetricData over the past minutes and ten ahead, oldest points first."""
        answer = self.cloudwatch.get_metric_data(
            MetricDataQueries=list(queries),
            StartTime=at(self.clock.now() - 60 * minutes),
            EndTime=at(self.clock.now() + 600),
            **{"ScanBy": "TimestampAscending", **more},
        )
        results: list[dict[str, Any]] = answer["MetricDataResults"]
        return results


def at(seconds: float) -> datetime:
    """UNIX seconds as boto3 takes and gives them."""
    return datetime.fromtimestamp(seconds, UTC)


def client(service: str, endpoint: str, region: str = REGION) -> Any:
    """A boto3 client of the test's server that tries once."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """moto's server in a thread."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def namespaces() -> str:
    """What the lab does about namespaces that begin with AWS/."""
    return "accept"


@pytest.fixture
def bench(endpoint: str, namespaces: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A fresh lab's CloudWatch, taken out of moto again afterwards."""
    BackendDict.reset()
    for operation in OPERATIONS:  # what install() replaces is put back by monkeypatch
        monkeypatch.setattr(CloudWatchResponse, operation, getattr(CloudWatchResponse, operation, None), raising=False)
    terminated: list[str] = []
    events: list[dict[str, Any]] = []
    detailed: set[str] = set()

    def terminate(region: str, instance_id: str) -> None:
        ec2_backends[ACCOUNT][region].terminate_instances([instance_id])
        terminated.append(instance_id)

    def instance_state(region: str, instance_id: str) -> str | None:
        found = [i for r in ec2_backends[ACCOUNT][region].reservations.values() for i in r.instances]
        return next((i.state for i in found if i.id == instance_id), None)

    clock = WoundClock()
    watch = Watch(
        clock,
        lock=threading.RLock(),
        namespaces=namespaces,
        terminate=terminate,
        instance_state=instance_state,
        monitored=lambda _, instance_id: instance_id in detailed,
        announce=lambda region, detail: events.append({"region": region, **detail}),
        seed=7,
    )
    watch.install()
    made = Bench(watch, clock, client("cloudwatch", endpoint), client("ec2", endpoint), terminated, events, detailed)
    yield made
    made.cloudwatch.close()
    made.ec2.close()
    BackendDict.reset()


def refused(code: str, message: str = "") -> Any:
    """Expect a ClientError with this code, and this in its message."""
    return pytest.raises(ClientError, match=rf"\({code}\).*{message}")


def test_an_idle_instance_is_ended_by_its_alarm_after_the_window_and_only_once(bench: Bench) -> None:
    """The alarm's whole life: no data, data, ALARM, the terminate action, and no data again."""
    instance = bench.launch()
    bench.arm(instance)
    assert bench.state(instance) == "INSUFFICIENT_DATA"
    bench.pass_minutes(2)
    assert (bench.state(instance), bench.terminated) == ("OK", [])
    bench.pass_minutes(1)
    assert (bench.state(instance), bench.terminated) == ("ALARM", [instance])
    bench.pass_minutes(10)
    assert (bench.state(instance), bench.terminated) == ("INSUFFICIENT_DATA", [instance])


def test_the_alarm_of_a_terminated_instance_stays(bench: Bench) -> None:
    """It stays and bills until somebody deletes it."""
    instance = bench.launch()
    bench.arm(instance)
    bench.ec2.terminate_instances(InstanceIds=[instance])
    bench.pass_minutes(3)
    assert bench.alarm(instance)["AlarmArn"] == f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{instance}"


def test_fake_points_hold_the_alarm_off_and_their_end_lets_it_go(bench: Bench) -> None:
    """A vote is points of 100 up to five minutes ahead, averaged with the real ones; it lapses with them."""
    instance = bench.launch()
    bench.pass_minutes(1)
    bench.put(instance, *range(-9, 6))
    bench.arm(instance)
    bench.pass_minutes(8)
    assert bench.state(instance) == "OK"
    bench.pass_minutes(1)
    assert bench.terminated == [instance]


def test_a_point_without_the_metrics_unit_does_not_count(bench: Bench) -> None:
    """Units are aggregated apart: a vote without `Percent` protects nothing."""
    instance = bench.launch()
    bench.pass_minutes(1)
    bench.put(instance, *range(-3, 6), Unit="None")
    bench.arm(instance)
    bench.pass_minutes(3)
    assert bench.terminated == [instance]


def test_a_new_alarm_looks_at_points_from_before_it_was_created_and_acts(bench: Bench) -> None:
    """Why an adopted idle host must be seeded before its alarm is put."""
    instance = bench.launch()
    bench.pass_minutes(5)
    bench.arm(instance)
    assert bench.terminated == [instance]
    assert bench.history(instance, "StateUpdate") == ["Alarm updated from INSUFFICIENT_DATA to ALARM"]


def test_an_update_keeps_the_state_and_replaces_the_whole_configuration(bench: Bench) -> None:
    """What the second PutMetricAlarm leaves out is gone, and a state that stays does not act."""
    instance = bench.launch()
    bench.pass_minutes(3)
    bench.arm(instance, AlarmActions=None, AlarmDescription="first", TreatMissingData="ignore", Unit="Percent")
    assert bench.state(instance) == "ALARM"
    bench.arm(instance, Threshold=0.4)
    alarm = bench.alarm(instance)
    assert (alarm["StateValue"], alarm["Threshold"], alarm["AlarmActions"]) == ("ALARM", 0.4, [TERMINATE])
    assert not {"AlarmDescription", "TreatMissingData", "Unit"} & alarm.keys()
    bench.pass_minutes(3)
    assert bench.terminated == []


def test_enabling_the_actions_of_an_alarm_that_is_in_alarm_does_nothing(bench: Bench) -> None:
    """Actions fire only on a change of state, and only while enabled."""
    instance = bench.launch()
    bench.pass_minutes(3)
    bench.arm(instance, ActionsEnabled=False)
    assert bench.state(instance) == "ALARM"
    bench.cloudwatch.enable_alarm_actions(AlarmNames=[instance, "unknown"])
    bench.pass_minutes(3)
    assert (bench.alarm(instance)["ActionsEnabled"], bench.terminated) == (True, [])
    bench.cloudwatch.disable_alarm_actions(AlarmNames=[instance])
    assert bench.alarm(instance)["ActionsEnabled"] is False


def test_a_terminate_that_termination_protection_refuses_is_not_tried_again(bench: Bench) -> None:
    """It is written to the history; a later end of the protection changes nothing while the state stays."""
    instance = bench.launch()
    bench.protect(instance, on=True)
    bench.arm(instance)
    bench.pass_minutes(3)
    (failed,) = bench.history(instance, "Action")
    assert failed.startswith(f"Failed to execute action {TERMINATE}. Received error: OperationNotPermitted")
    bench.protect(instance, on=False)
    bench.pass_minutes(3)
    assert (bench.state(instance), bench.terminated) == ("ALARM", [])


def test_the_state_set_by_hand_acts_and_lasts_until_the_next_evaluation(bench: Bench) -> None:
    """SetAlarmState."""
    instance = bench.launch()
    bench.watch.set_cpu(instance, 80.0)
    bench.pass_minutes(3)
    bench.arm(instance)
    for reason in ("first", "by hand"):
        bench.cloudwatch.set_alarm_state(AlarmName=instance, StateValue="ALARM", StateReason=reason)
    assert (bench.alarm(instance)["StateReason"], bench.terminated) == ("by hand", [instance])
    bench.pass_minutes(1)
    assert bench.state(instance) == "OK"
    with refused("ResourceNotFound", "no alarm named nobody"):
        bench.cloudwatch.set_alarm_state(AlarmName="nobody", StateValue="OK", StateReason="x")
    with refused("InvalidFormat"):
        bench.cloudwatch.set_alarm_state(AlarmName=instance, StateValue="OK", StateReason="x", StateReasonData="{")


def test_a_change_of_state_is_announced_as_an_event(bench: Bench) -> None:
    """`CloudWatch Alarm State Change`: the new and the previous state."""
    instance = bench.launch()
    bench.pass_minutes(3)
    bench.arm(instance)
    (event,) = bench.events
    assert (event["region"], event["alarmName"]) == (REGION, instance)
    assert (event["previousState"]["value"], event["state"]["value"]) == ("INSUFFICIENT_DATA", "ALARM")


@pytest.mark.parametrize(
    "dimensions",
    [
        [{"Name": "InstanceId", "Value": "i-0123456789abcdef0"}],
        [{"Name": "ImageId", "Value": "ami-12c6146b"}],
        [],
    ],
    ids=["an unknown instance", "another dimension", "no dimension"],
)
def test_an_alarm_with_an_ec2_action_needs_the_metric_of_an_instance_that_exists(
    bench: Bench, dimensions: list[dict[str, str]]
) -> None:
    """PutMetricAlarm refuses an id that is not a valid instance, as happens right after a launch; no alarm comes of it."""
    with refused("ValidationError", "Invalid use of EC2 action"):
        bench.arm("a", Dimensions=dimensions)
    assert bench.cloudwatch.describe_alarms()["MetricAlarms"] == []
    bench.arm("a", Dimensions=dimensions, AlarmActions=[])
    assert bench.state("a") == "INSUFFICIENT_DATA"


@pytest.mark.parametrize("end", ["stop_instances", "terminate_instances"])
def test_an_alarm_with_an_ec2_action_needs_an_instance_that_runs(bench: Bench, end: str) -> None:
    """One that has been stopped or has ended is no valid instance; an alarm that was there already stays."""
    instance = bench.launch()
    bench.arm(instance)
    getattr(bench.ec2, end)(InstanceIds=[instance])
    with refused("ValidationError", f"{instance} is not a valid EC2 instance"):
        bench.arm(instance, Threshold=4.0)
    [alarm] = bench.cloudwatch.describe_alarms()["MetricAlarms"]
    assert alarm["Threshold"] == 0.5


def test_an_alarm_with_an_ec2_action_may_not_watch_another_services_metric(bench: Bench) -> None:
    """AWS/EC2 or a namespace of one's own; without the action any metric will do."""
    instance = bench.launch()
    with refused("ValidationError", "can only be used if the alarm is monitoring an EC2 instance"):
        bench.arm(instance, Namespace="AWS/EBS")
    bench.arm(instance, Namespace="AWS/EBS", AlarmActions=[])
    bench.arm(instance, Namespace="Flambed/EC2")


def test_a_window_of_more_than_a_day_is_refused(bench: Bench) -> None:
    """24 h at most with one-minute periods, 168 h with hours."""
    instance = bench.launch()
    bench.arm(instance, EvaluationPeriods=1440)
    bench.arm(instance, Period=3600, EvaluationPeriods=168)
    with refused("ValidationError", "more than a day"):
        bench.arm(instance, EvaluationPeriods=1441)
    with refused("ValidationError", "more than a week"):
        bench.arm(instance, Period=3600, EvaluationPeriods=169)


def test_an_alarm_in_an_own_namespace_ends_its_instance_too(bench: Bench) -> None:
    """A metric in one's own namespace with an InstanceId dimension; silence does not breach."""
    instance = bench.launch()
    bench.arm(instance, Namespace="Flambed/EC2", TreatMissingData="notBreaching")
    bench.pass_minutes(5)
    assert (bench.state(instance), bench.terminated) == ("OK", [])
    bench.put(instance, -3, -2, -1, value=0.1, namespace="Flambed/EC2")
    bench.watch.tick()
    assert bench.terminated == [instance]


@pytest.mark.parametrize("namespaces", ["refuse"])
def test_points_for_a_reserved_namespace_are_refused_where_the_switch_says_so(bench: Bench) -> None:
    """400 InvalidParameterValue, with AWS's words; the hosts' own CPU is there all the same."""
    instance = bench.launch()
    with refused("InvalidParameterValue", "The value AWS/ for parameter Namespace is invalid.") as error:
        bench.put(instance, 0)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    bench.put(instance, 0, namespace="Flambed/EC2")
    bench.pass_minutes(1)
    assert len(bench.read(bench.query(instance))[0]["Values"]) == 1


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"Timestamp": at(START - 14 * 86_400 - 1), "Value": 1.0}, "InvalidParameterValue", "past two weeks"),
        ({"Timestamp": at(START + 7201), "Value": 1.0}, "InvalidParameterValue", "two hours in the future"),
        ({"Value": float("nan")}, "InvalidParameterValue", "nan"),
        ({"Value": 2.0**361}, "InvalidParameterValue", "is invalid"),
        ({"Values": [1.0, 2.0], "Counts": [1.0]}, "InvalidParameterValue", "same size"),
        ({"Values": [float(i) for i in range(151)]}, "InvalidParameterValue", "150"),
        ({"Value": 1.0, "Values": [1.0]}, "InvalidParameterCombination", "mutually exclusive"),
        ({}, "MissingParameter", "At least one of"),
    ],
)
def test_wrong_points_are_refused_and_none_of_the_call_is_kept(
    bench: Bench, data: dict[str, Any], code: str, message: str
) -> None:
    """PutMetricData takes all or nothing."""
    with refused(code, message):
        bench.cloudwatch.put_metric_data(
            Namespace="N", MetricData=[{"MetricName": "good", "Value": 1.0}, {"MetricName": "bad", **data}]
        )
    assert bench.cloudwatch.list_metrics()["Metrics"] == []


def test_a_call_takes_a_thousand_metrics_and_timestamps_from_two_weeks_back_to_two_hours_ahead(bench: Bench) -> None:
    """The limits themselves are inside."""
    ends = [at(START - 14 * 86_400), at(START + 7200)] * 500
    data = [{"MetricName": f"m{i}", "Timestamp": end, "Value": 1.0} for i, end in enumerate(ends)]
    bench.cloudwatch.put_metric_data(Namespace="N", MetricData=data)
    with refused("InvalidParameterValue", "must not have a size greater than 1000"):
        bench.cloudwatch.put_metric_data(Namespace="N", MetricData=[*data, {"MetricName": "m", "Value": 1.0}])
    pages = list(bench.cloudwatch.get_paginator("list_metrics").paginate(Namespace="N"))
    assert [len(page["Metrics"]) for page in pages] == [500, 500]
    (page,) = bench.cloudwatch.get_paginator("list_metrics").paginate(Namespace="N", MetricName="m7")
    assert page["Metrics"] == [{"Namespace": "N", "MetricName": "m7", "Dimensions": []}]


def test_all_three_forms_of_a_datum_add_up_in_their_minute(bench: Bench) -> None:
    """Value, Values with Counts, and StatisticValues; the timestamp is kept to the minute."""
    common = {"MetricName": "m", "Timestamp": at(START + 42)}
    summary = {"SampleCount": 5.0, "Sum": 50.0, "Minimum": -1.0, "Maximum": 40.0}
    bench.cloudwatch.put_metric_data(
        Namespace="N",
        MetricData=[
            {**common, "Value": 7.0},
            {**common, "Values": [1.0, 3.0], "Counts": [2.0, 1.0]},
            {**common, "Timestamp": at(START + 3), "StatisticValues": summary},
        ],
    )
    statistics = ["SampleCount", "Sum", "Average", "Minimum", "Maximum"]
    (point,) = bench.cloudwatch.get_metric_statistics(
        Namespace="N", MetricName="m", StartTime=at(START), EndTime=at(START + 60), Period=60, Statistics=statistics
    )["Datapoints"]
    values = [point[statistic] for statistic in statistics]
    assert values == [9.0, 62.0, pytest.approx(62 / 9), -1.0, 40.0]
    assert (point["Timestamp"], point["Unit"]) == (at(START), "None")


def test_dimensions_make_metrics_apart(bench: Bench) -> None:
    """A query with fewer dimensions than were published finds nothing."""
    instance = bench.launch()
    bench.put(instance, -1)
    query = bench.query(instance)
    query["MetricStat"]["Metric"]["Dimensions"] = []
    assert bench.read(query)[0]["Values"] == []
    assert bench.read(bench.query(instance))[0]["Values"] == [100.0]


def test_missing_points_are_absent_and_periods_start_with_the_request(bench: Bench) -> None:
    """GetMetricData over a gap, in both orders, with and without labels, and a range that ends before a point."""
    instance = bench.launch()
    for offset, value in ((-10, 10.0), (-9, 30.0), (-2, 50.0)):
        bench.put(instance, offset, value=value)
    (result,) = bench.read(bench.query(instance, period=300), minutes=10)
    assert list(zip(result["Timestamps"], result["Values"], strict=True)) == [
        (at(START - 600), 20.0),
        (at(START - 300), 50.0),
    ]
    assert (result["Label"], result["StatusCode"]) == ("CPUUtilization", "Complete")
    (result,) = bench.read(bench.query(instance, "Maximum", Label="cpu"), ScanBy="TimestampDescending")
    assert (result["Label"], result["Values"]) == ("cpu", [50.0, 30.0, 10.0])
    assert bench.read(bench.query(instance, ReturnData=False)) == []


def test_a_query_takes_five_hundred_metrics_and_pages_by_data_points(bench: Bench) -> None:
    """500 queries a call; MaxDatapoints cuts, `PartialData` says so, and the pages together are the whole."""
    for offset in (-3, -2, -1):
        bench.put("i-1", offset, value=float(-offset))
        bench.put("i-2", offset, value=float(-offset) * 10)
    queries = [bench.query("i-1"), bench.query("i-2")]
    pages = list(
        bench.cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, StartTime=at(START - 600), EndTime=at(START), MaxDatapoints=4
        )
    )
    told = [[(r["Id"], r["Values"], r["StatusCode"]) for r in page["MetricDataResults"]] for page in pages]
    assert told == [
        [("mi_1", [1.0, 2.0], "PartialData"), ("mi_2", [10.0, 20.0], "PartialData")],
        [("mi_1", [3.0], "Complete"), ("mi_2", [30.0], "Complete")],
    ]
    many = [{**bench.query("i-1"), "Id": f"m{i}"} for i in range(501)]
    assert len(bench.read(*many[:500])) == 500
    with refused("ValidationError", "must not have a size greater than 500"):
        bench.read(*many)
    with refused("InvalidNextToken"):
        bench.read(*queries, NextToken="stale")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Id": "i-1"}, "must match"),
        ({"Expression": "m1 + m2", "MetricStat": None}, "no metric math"),
        ({"MetricStat": None}, "MetricStat is required"),
    ],
)
def test_a_wrong_query_is_refused(bench: Bench, change: dict[str, Any], message: str) -> None:
    """An instance id is no query id, for one."""
    query = {key: value for key, value in {**bench.query("i-1"), **change}.items() if value is not None}
    with refused("ValidationError", message):
        bench.read(query)


def test_statistics_of_too_many_points_or_of_none_are_refused(bench: Bench) -> None:
    """GetMetricStatistics gives 1,440 data points at most."""
    request = {"Namespace": "N", "MetricName": "m", "StartTime": at(START - 86_400), "Period": 60}
    assert bench.cloudwatch.get_metric_statistics(**request, EndTime=at(START), Statistics=["Sum"])["Datapoints"] == []
    with refused("InvalidParameterCombination", "up to 1,441 datapoints"):
        bench.cloudwatch.get_metric_statistics(**request, EndTime=at(START + 60), Statistics=["Sum"])
    with refused("InvalidParameterCombination", "Statistics"):
        bench.cloudwatch.get_metric_statistics(**request, EndTime=at(START))
    with refused("InvalidParameterValue", "StartTime must be less"):
        bench.cloudwatch.get_metric_statistics(**{**request, "EndTime": request["StartTime"]}, Statistics=["Sum"])


def test_detailed_monitoring_gives_a_point_a_minute_and_basic_one_each_five(bench: Bench) -> None:
    """Idle hosts are at 0.1 to 0.3 %, the same for the same seed; two hosts differ."""
    detailed, basic = bench.launch(), bench.launch(detailed=False)
    bench.pass_minutes(10)
    fine, coarse = bench.read(bench.query(detailed), bench.query(basic))
    assert fine["Timestamps"] == [at(START + 60 * minute) for minute in range(10)]
    assert coarse["Timestamps"] == [at(START), at(START + 300)]
    assert all(0.1 <= value <= 0.3 for value in fine["Values"] + coarse["Values"])
    assert len(set(fine["Values"] + coarse["Values"])) == 12


def test_the_cpu_of_a_host_is_what_the_test_sets_and_none_is_no_data(bench: Bench) -> None:
    """set_cpu, minute by minute; a minute without a tick is made up."""
    instance = bench.launch()
    bench.pass_minutes(1)
    bench.watch.set_cpu(instance, 42.0)
    bench.clock.hands[0] += 120
    bench.watch.tick()
    bench.watch.set_cpu(instance, None)
    bench.pass_minutes(5)
    (result,) = bench.read(bench.query(instance))
    assert result["Values"][1:] == [42.0, 42.0]


def test_an_instance_that_is_not_running_has_no_cpu(bench: Bench) -> None:
    """Stopped for three minutes of five: two points, and no made-up ones after its start."""
    instance = bench.launch()
    bench.pass_minutes(1)
    bench.ec2.stop_instances(InstanceIds=[instance])
    bench.pass_minutes(3)
    bench.ec2.start_instances(InstanceIds=[instance])
    bench.pass_minutes(1)
    assert bench.read(bench.query(instance))[0]["Timestamps"] == [at(START), at(START + 240)]


def test_alarms_are_described_in_pages_and_by_name_prefix_state_and_action(bench: Bench) -> None:
    """100 names a call, 100 a page at most, 50 by default, in the order of their names."""
    names = [f"a{i:03}" for i in range(120)]
    for name in names:
        bench.arm(name, AlarmActions=None, OKActions=[f"arn:aws:sns:{REGION}:{ACCOUNT}:t"])
    bench.arm("b", AlarmActions=[f"arn:aws:sns:{REGION}:{ACCOUNT}:t"])
    describe = bench.cloudwatch.describe_alarms
    pages = list(bench.cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix="a"))
    assert [len(page["MetricAlarms"]) for page in pages] == [50, 50, 20]
    assert [alarm["AlarmName"] for page in pages for alarm in page["MetricAlarms"]] == names
    assert len(describe(AlarmNames=names[:100])["MetricAlarms"]) == 100
    assert len(describe(MaxRecords=100)["MetricAlarms"]) == 100
    assert [a["AlarmName"] for a in describe(ActionPrefix="arn:aws:sns")["MetricAlarms"]] == ["b"]
    assert describe(StateValue="OK")["MetricAlarms"] == []
    assert describe(AlarmNames=["none"])["MetricAlarms"] == []
    for call in ("describe_alarms", "delete_alarms", "enable_alarm_actions", "disable_alarm_actions"):
        with refused("ValidationError", "length less than or equal to 100"):
            getattr(bench.cloudwatch, call)(AlarmNames=names[:101])
    metric = {"Namespace": "AWS/EC2", "MetricName": "CPUUtilization"}
    (found,) = bench.cloudwatch.describe_alarms_for_metric(**metric, Dimensions=[{"Name": "InstanceId", "Value": "b"}])[
        "MetricAlarms"
    ]
    assert found["AlarmName"] == "b"


def test_deleting_passes_over_unknown_names_and_keeps_the_history(bench: Bench) -> None:
    """The API reference: alarms with correct names are still deleted."""
    bench.arm("a", AlarmActions=None)
    bench.cloudwatch.delete_alarms(AlarmNames=["unknown", "a"])
    assert bench.cloudwatch.describe_alarms()["MetricAlarms"] == []
    assert bench.history("a", "ConfigurationUpdate") == ['Alarm "a" created', 'Alarm "a" deleted']


def test_tags_of_an_alarm_are_taken_at_its_creation_only(bench: Bench) -> None:
    """Tags in the update of an alarm are ignored."""
    bench.arm("a", AlarmActions=None, Tags=[{"Key": "creator", "Value": "first"}])
    bench.arm("a", AlarmActions=None, Tags=[{"Key": "creator", "Value": "second"}])
    arn = bench.alarm("a")["AlarmArn"]
    assert bench.cloudwatch.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "creator", "Value": "first"}]
    bench.cloudwatch.tag_resource(ResourceARN=arn, Tags=[{"Key": "more", "Value": "1"}])
    assert len(bench.cloudwatch.list_tags_for_resource(ResourceARN=arn)["Tags"]) == 2


def test_regions_do_not_share_alarms_or_points(bench: Bench, endpoint: str) -> None:
    """The same names in two regions, and an ARN of the wrong one."""
    elsewhere = client("cloudwatch", endpoint, "eu-west-1")
    bench.arm("a", AlarmActions=None)
    bench.put("i-1", -1)
    assert elsewhere.describe_alarms()["MetricAlarms"] == []
    assert elsewhere.list_metrics()["Metrics"] == []
    elsewhere.close()
    instance = bench.launch()
    with refused("ValidationError", "Invalid region eu-west-1 specified"):
        bench.arm(instance, AlarmActions=["arn:aws:automate:eu-west-1:ec2:terminate"])


def test_the_control_endpoint_gets_every_alarm_with_its_history_as_json(bench: Bench) -> None:
    """alarms_json survives json.dumps and names region, state and history."""
    instance = bench.launch()
    bench.pass_minutes(3)
    bench.arm(instance)
    (alarm,) = json.loads(json.dumps(bench.watch.alarms_json()))
    assert (alarm["Region"], alarm["AlarmName"], alarm["StateValue"]) == (REGION, instance, "ALARM")
    assert alarm["StateUpdatedTimestamp"] == "2026-01-01T00:03:00+00:00"
    kinds = [item["HistoryItemType"] for item in alarm["History"]]
    assert kinds == ["ConfigurationUpdate", "StateUpdate", "Action"]


def test_a_moto_without_a_seam_stops_the_lab_and_is_told_which(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """install() asserts its seams instead of quietly leaving moto's behaviour."""
    monkeypatch.delattr(CloudWatchResponse, "get_metric_data")
    with pytest.raises(RuntimeError, match=r"CloudWatchResponse\.get_metric_data"):
        bench.watch.install()


def test_a_tick_over_a_thousand_alarms_takes_less_than_a_third_of_a_second(bench: Bench) -> None:
    """Windows of an hour, all full of idle points, so that none is cut short; processor time, not the machine's load."""
    backend = cloudwatch_backends[ACCOUNT][REGION]
    for i in range(1000):
        metric = {
            "Namespace": "AWS/EC2",
            "MetricName": "CPUUtilization",
            "Dimensions": [{"Name": "InstanceId", "Value": f"i-{i:017x}"}],
        }
        data = [{**metric, "Timestamp": at(START - 60 * ago), "Value": 0.2} for ago in range(1, 62)]
        bench.watch.put_metric_data(backend, {"Namespace": "AWS/EC2", "MetricData": data})
        alarm = {
            "AlarmName": f"a{i}",
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": 60,
            "Threshold": 0.5,
            "ComparisonOperator": "LessThanThreshold",
        }
        bench.watch._alarms.put_metric_alarm(backend, {**metric, **alarm})
    began = time.process_time()
    bench.watch.tick()
    assert time.process_time() - began < 0.3
    assert {alarm["StateValue"] for alarm in bench.watch.alarms_json()} == {"ALARM"}
