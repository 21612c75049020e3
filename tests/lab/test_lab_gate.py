"""The gate of the lab: quotas, faults of the API, latency, and the ledger."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest
from botocore.exceptions import ClientError

from flambed.lab.quotas import Bucket
from tests.lab.labproc import LabProcess, refused, start_lab


@pytest.fixture(scope="module")
def strict() -> Iterator[LabProcess]:
    """A lab with quotas."""
    with start_lab("--shutdown", "0") as lab:
        yield lab


def _codes(client_call: object, times: int) -> list[str]:
    """The error codes of so many calls in a row, "" for those that went through."""
    codes = []
    for _ in range(times):
        try:
            client_call()  # type: ignore[operator]
            codes.append("")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    return codes


def test_a_bucket_empties_and_refills() -> None:
    """5 at once, then 2 a second, never more than 5."""
    bucket = Bucket(capacity=5, refill=2, checked=100.0)
    bucket.tokens -= 5
    assert bucket.level(100.0) == 0
    assert bucket.level(101.0) == 2
    assert bucket.level(1000.0) == 5


def test_five_launches_go_through_at_once_and_the_sixth_is_throttled(strict: LabProcess) -> None:
    """RunInstances: a bucket of 5, refilled with 2 a second, in each region of its own."""
    ec2, request = strict.boto("ec2", "eu-west-1"), strict.request(region="eu-west-1")
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: _codes(lambda: ec2.run_instances(**request), 1)[0], range(8)))
    assert codes.count("") in {5, 6}  # one may have been refilled meanwhile
    assert set(codes) == {"", "RequestLimitExceeded"}
    [refused_call, *_] = strict.calls(action="RunInstances", error="RequestLimitExceeded")
    assert refused_call["status"] == 503
    assert strict.launch()


def test_unfiltered_descriptions_have_the_smaller_bucket(strict: LabProcess) -> None:
    """50 unfiltered DescribeInstances at once, while filtered ones still go through."""
    ec2 = strict.boto("ec2")
    codes = _codes(ec2.describe_instances, 90)
    assert "RequestLimitExceeded" not in codes[:50]
    assert "RequestLimitExceeded" in codes
    assert ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])


def test_descriptions_by_id_count_as_unfiltered(strict: LabProcess) -> None:
    """Ids are no filter: 50 such calls at once, in the bucket of those that name nothing."""
    ec2 = strict.boto("ec2", "eu-west-1")
    with refused("InvalidInstanceID.NotFound"):
        ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"])
    codes = _codes(lambda: ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"]), 90)
    assert "RequestLimitExceeded" not in codes[:49]
    assert "RequestLimitExceeded" in codes
    assert ec2.describe_instances(MaxResults=5)


def test_a_call_of_more_than_a_mebibyte_of_points_is_refused(lab: LabProcess) -> None:
    """PutMetricData says how large it was; compressed it is small enough, as the SDK sends it by default."""
    points = [{"MetricName": f"{'m' * 240}{number}", "Value": 1.0, "Unit": "Percent",
               "Dimensions": [{"Name": f"{'d' * 250}{part}", "Value": "v" * 1_000} for part in range(2)],
               } for number in range(700)]  # fmt: skip
    with refused("RequestEntityTooLarge", 413):
        lab.boto("cloudwatch", compress=False).put_metric_data(Namespace="Large", MetricData=points)
    lab.boto("cloudwatch").put_metric_data(Namespace="Large", MetricData=points)


def test_alarms_go_at_three_a_second(strict: LabProcess) -> None:
    """CloudWatch says Throttling with status 400."""
    watch = strict.boto("cloudwatch")
    codes = _codes(lambda: watch.delete_alarms(AlarmNames=["none"]), 6)
    assert codes[:3] == ["", "", ""]
    assert "Throttling" in codes
    assert strict.calls(action="DeleteAlarms", error="Throttling")[0]["status"] == 400


def test_launching_more_than_a_thousand_instances_at_once_is_throttled(strict: LabProcess) -> None:
    """The resource bucket counts instances, not calls."""
    with refused("RequestLimitExceeded", 503):
        strict.launch(MinCount=1, MaxCount=1001)


def test_an_error_strikes_as_often_and_as_late_as_asked(lab: LabProcess) -> None:
    """after 1, count 2: the second and third call fail."""
    lab.fault({"kind": "error", "service": "ec2", "action": "DescribeInstances", "code": "InternalError",
               "status": 500, "after": 1, "count": 2})  # fmt: skip
    codes = _codes(lab.boto("ec2").describe_instances, 4)
    assert codes == ["", "InternalError", "InternalError", ""]


def test_an_error_before_the_deed_does_nothing(lab: LabProcess) -> None:
    """No instance comes of a launch that failed."""
    before = len(lab.instances(hosts=False))
    lab.fault({"kind": "error", "action": "RunInstances", "code": "Unavailable", "status": 503})
    with refused("Unavailable", 503):
        lab.launch()
    assert len(lab.instances(hosts=False)) == before


def test_an_answer_that_is_lost_leaves_the_deed_done(lab: LabProcess) -> None:
    """The same token then finds the instances of the lost answer."""
    before = len(lab.instances(hosts=False))
    lab.fault({"kind": "error", "action": "RunInstances", "code": "reset", "when": "after"})
    with pytest.raises(botocore.exceptions.HTTPClientError):
        lab.launch(ClientToken="lost answer", MaxCount=2)
    assert len(lab.instances(hosts=False)) == before + 2
    assert len(lab.launch(ClientToken="lost answer", MaxCount=2)) == 2
    assert len(lab.instances(hosts=False)) == before + 2


@pytest.mark.parametrize("service", ["ec2", "cloudwatch", "sqs", "ssm", "sts"])
def test_errors_speak_each_services_protocol(lab: LabProcess, service: str) -> None:
    """The SDK reads code and status of an injected error from XML and JSON alike."""
    calls = {
        "ec2": lambda: lab.boto("ec2").describe_instances(),
        "cloudwatch": lambda: lab.boto("cloudwatch").describe_alarms(),
        "sqs": lambda: lab.boto("sqs").list_queues(),
        "ssm": lambda: lab.boto("ssm").get_parameter(Name="x"),
        "sts": lambda: lab.boto("sts").get_caller_identity(),
    }
    lab.fault({"kind": "error", "service": service, "code": "AccessDenied", "status": 403})
    with refused("AccessDenied", 403):
        calls[service]()


def test_an_outage_lets_no_call_through_until_it_is_over(lab: LabProcess) -> None:
    """Connections are reset, the control endpoint still answers, and then all is well."""
    lab.fault({"kind": "outage", "seconds": 0.5})
    with pytest.raises(botocore.exceptions.HTTPClientError):
        lab.boto("ec2").describe_instances()
    lab.until(lambda: not lab.http("GET", "/lab/faults"))
    assert lab.boto("ec2").describe_instances()


def test_in_silence_a_call_waits_for_the_end_of_the_outage_and_is_never_answered(lab: LabProcess) -> None:
    """A black hole: the client hears nothing until its connection is reset, and the ledger names the fault."""
    [outage] = lab.fault({"kind": "outage", "seconds": 0.6, "mode": "silence"})
    with pytest.raises(botocore.exceptions.HTTPClientError):
        lab.boto("ec2").describe_instances()
    call = lab.calls(action="DescribeInstances")[-1]
    assert (call["struck"], call["error"]) == ([outage["id"]], "reset")
    assert call["time"] + call["duration"] >= outage["until"]
    assert lab.boto("ec2").describe_instances()


@pytest.mark.parametrize("mode", ["reset", "503", "silence"])
def test_an_outage_takes_the_answer_of_a_call_that_came_before_it(lab: LabProcess, mode: str) -> None:
    """A long poll under way is lost with the message that it would have brought."""
    sqs = lab.boto("sqs")
    url = sqs.create_queue(QueueName=f"cut-{mode}")["QueueUrl"]
    seen = len(lab.calls())
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=1)
        lab.until(lambda: lab.calls(seen, action="ReceiveMessage"))
        [outage] = lab.fault({"kind": "outage", "seconds": 1.5, "mode": mode})
        with pytest.raises((botocore.exceptions.HTTPClientError, ClientError)):
            poll.result()
    [call] = lab.calls(seen, action="ReceiveMessage")
    assert call["struck"] == [outage["id"]]


def test_latency_is_added_before_the_deed(lab: LabProcess) -> None:
    """A call that matches takes at least so long, others do not."""
    lab.fault({"kind": "latency", "action": "DescribeImages", "seconds": 0.3})
    began = time.monotonic()
    lab.boto("ec2").describe_images(Owners=["self"])
    assert time.monotonic() - began >= 0.3
    assert lab.calls(action="DescribeImages")[-1]["duration"] >= 0.3


@pytest.mark.parametrize(("when", "launched"), [("before", 1), ("after", 2)])
def test_a_process_dies_with_a_certain_call(lab: LabProcess, when: str, launched: int) -> None:
    """The second launch kills a process, before or after it is carried out."""
    before = len(lab.instances(hosts=False))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        lab.fault({"kind": "kill", "pid": victim.pid, "action": "RunInstances", "request": 2, "when": when})
        lab.launch()
        assert victim.poll() is None
        lab.fault({"kind": "capacity", "count": launched - 1})
        _codes(lab.launch, 1)
        assert victim.wait(5) == -9
    assert len(lab.instances(hosts=False)) == before + launched


def test_a_process_that_has_ended_is_not_struck(lab: LabProcess) -> None:
    """The ledger says which calls killed somebody; one that came too late did not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        order = {"kind": "kill", "pid": victim.pid, "action": "DescribeImages"}
        [kill] = lab.fault(order)
        lab.boto("ec2").describe_images(Owners=["self"])
        assert victim.wait(5) == -9
    assert lab.calls(action="DescribeImages")[-1]["struck"] == [kill["id"]]
    lab.fault(order)
    lab.boto("ec2").describe_images(Owners=["self"])
    assert lab.calls(action="DescribeImages")[-1]["struck"] == []


def test_a_killed_client_does_not_take_a_message_with_it(lab: LabProcess) -> None:
    """A long poll whose connection is gone leaves the message for the next one."""
    url = lab.boto("sqs").create_queue(QueueName="poll")["QueueUrl"]
    code = (
        "import boto3; from botocore.config import Config\n"
        f"boto3.client('sqs').receive_message(QueueUrl={url!r}, WaitTimeSeconds=20)"
    )
    seen = len(lab.calls())
    with subprocess.Popen([sys.executable, "-c", code], env=lab.env()) as client:
        lab.until(lambda: lab.calls(seen, action="ReceiveMessage"))
        client.kill()
    lab.boto("sqs").send_message(QueueUrl=url, MessageBody="news")
    [message] = lab.boto("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == "news"


def test_the_ledger_tells_each_call_without_its_secrets(lab: LabProcess) -> None:
    """Service, region, action, nested parameters, status and duration; of user data the length only."""
    seen = len(lab.calls())
    lab.launch(UserData="the key to the kingdom", ClientToken="ledger", region="eu-west-1")
    with refused("InvalidInstanceID.NotFound"):
        lab.boto("ec2").describe_instances(InstanceIds=["i-0123456789abcdef0"])
    launch, describe = lab.calls(seen)
    assert (launch["index"], launch["service"], launch["region"]) == (seen, "ec2", "eu-west-1")
    assert (launch["action"], launch["status"], launch["error"]) == ("RunInstances", 200, None)
    assert launch["params"]["ClientToken"] == "ledger"
    assert launch["params"]["TagSpecification"][0]["Tag"] == [{"Key": "Role", "Value": "Factory"}]
    assert launch["params"]["UserData"] == "<32 characters>"
    assert launch["duration"] > 0
    assert (describe["status"], describe["error"]) == (400, "InvalidInstanceID.NotFound")
    assert describe["params"] == {"InstanceId": ["i-0123456789abcdef0"]}


def test_large_metric_calls_arrive_compressed_and_are_read(lab: LabProcess) -> None:
    """The SDK gzips PutMetricData above 10 KB."""
    data = [{"MetricName": f"m{n}", "Value": 1.0, "Unit": "Percent"} for n in range(300)]
    lab.boto("cloudwatch").put_metric_data(Namespace="Lab/Test", MetricData=data)
    found = lab.boto("cloudwatch").get_paginator("list_metrics").paginate(Namespace="Lab/Test")
    assert sum(len(page["Metrics"]) for page in found) == 300
    assert len(lab.calls(action="PutMetricData")[-1]["params"]["MetricData"]) == 51


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"kind": "flood"}, "kind is one of error"),
        ({"kind": "latency"}, "missing 1 required"),
        ({"kind": "latency", "seconds": 1, "colour": "red"}, "unknown colour"),
        ({"kind": "cpu", "percent": 5}, "give either instance or match"),
        ({"kind": "cpu", "percent": 5, "match": {"age": 3}}, "match knows role"),
        ({"kind": "cpu", "percent": 5, "instance": "i-0123456789abcdef0"}, "no instance"),
        ({"kind": "host", "match": {}, "fault": {"kind": "explode"}}, "explode"),
        ({"kind": "kill", "pid": 1}, "pid must be above 1"),
        ({"kind": "outage", "seconds": 1, "mode": "rain"}, "mode is reset, 503 or silence, not rain"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(lab: LabProcess, order: dict[str, object], message: str) -> None:
    """The message says what is wrong with it, and nothing becomes active."""
    with pytest.raises(RuntimeError, match=message):
        lab.fault(order)
    assert lab.http("GET", "/lab/faults") == []


def test_twenty_concurrent_calls_are_not_slow(lab: LabProcess) -> None:
    """20 launches and 20 taggings at once, each within a second on two shared cores (measured: 0.2 s)."""
    [instance_id] = lab.launch()
    ec2 = lab.boto("ec2")

    def tag(number: int) -> None:
        ec2.create_tags(Resources=[instance_id], Tags=[{"Key": f"k{number}", "Value": ""}])

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: lab.launch(), range(20)))
        list(pool.map(tag, range(20)))
    calls = lab.calls(action="RunInstances")[-20:] + lab.calls(action="CreateTags")[-20:]
    assert max(call["duration"] for call in calls) < 1
    assert len(lab.instance(instance_id)["tags"]) == 21
