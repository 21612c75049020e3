"""Faults of events, of fresh instances and of hosts."""

from __future__ import annotations

import json
from typing import Any

import asyncssh
import pytest

from tests.lab.labproc import LabProcess, refused, start_lab


def _events(lab: LabProcess, wait: int = 1) -> list[dict[str, Any]]:
    """The queue's events in the order they came; the queue is empty then."""
    sqs, url = lab.boto("sqs"), lab.info["queues"]["us-east-1"]
    events: list[dict[str, Any]] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait).get("Messages"):
        events += [json.loads(message["Body"]) for message in messages]
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    return events


def _drain(lab: LabProcess, wait: int = 1) -> list[str]:
    """The states that the queue's events tell, in the order they came; the queue is empty then."""
    return [event["detail"]["state"] for event in _events(lab, wait)]


@pytest.mark.parametrize(
    ("order", "states"),
    [
        ({"mode": "drop", "count": 1}, ["running"]),
        ({"mode": "double", "count": 1}, ["pending", "pending", "running"]),
        ({"mode": "reverse", "seconds": 0.4}, ["running", "pending"]),
        ({"mode": "delay", "seconds": 0.4, "count": 1}, ["running", "pending"]),
    ],
)
def test_events_go_astray_as_asked(lab: LabProcess, order: dict[str, Any], states: list[str]) -> None:
    """Lost, doubled, reversed or late, as EventBridge's best effort allows."""
    _drain(lab, wait=0)
    lab.fault({"kind": "events", **order})
    lab.launch()
    assert _drain(lab) == states


def test_a_disabled_rule_delivers_nothing(lab: LabProcess) -> None:
    """And an enabled one again does."""
    events = lab.boto("events")
    _drain(lab, wait=0)
    events.disable_rule(Name="flambed-instances")
    lab.launch()
    assert _drain(lab) == []
    events.enable_rule(Name="flambed-instances")
    lab.launch()
    assert _drain(lab) == ["pending", "running"]


def test_a_queue_gets_only_what_its_policy_allows(lab: LabProcess) -> None:
    """A target without a policy for events.amazonaws.com gets nothing, as on AWS."""
    sqs, events = lab.boto("sqs"), lab.boto("events")
    url = sqs.create_queue(QueueName="closed")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule = events.put_rule(Name="second", EventPattern=json.dumps({"source": ["aws.ec2"]}))["RuleArn"]
    events.put_targets(Rule="second", Targets=[{"Id": "closed", "Arn": arn}])
    lab.launch()
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
                 "Resource": arn, "Condition": {"ArnEquals": {"aws:SourceArn": rule}}}  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    lab.launch()
    assert sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)["Messages"]


def test_without_events_the_queue_stays_empty() -> None:
    """--events off."""
    with start_lab("--events", "off") as lab:
        ids = lab.launch()
        lab.until_state(ids, "running")
        assert _drain(lab) == []


def test_fresh_instances_are_not_found_at_first(lab: LabProcess) -> None:
    """Ids, tag filters and the private address lag for as long as asked."""
    ec2 = lab.boto("ec2")
    lab.fault({"kind": "fresh", "seconds": 1})
    [instance] = ec2.run_instances(**lab.request())["Instances"]
    ids = [instance["InstanceId"]]
    assert "PrivateIpAddress" not in instance
    for call in (ec2.describe_instances, ec2.terminate_instances):
        with refused("InvalidInstanceID.NotFound"):
            call(InstanceIds=ids)
    with refused("InvalidInstanceID.NotFound"):
        ec2.create_tags(Resources=ids, Tags=[{"Key": "k", "Value": "v"}])
    lab.clear_faults()
    assert ec2.describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"][0]["PrivateIpAddress"]


def test_tags_may_lag_behind_ids(lab: LabProcess) -> None:
    """With ids visible, a tag filter still finds nothing, and does later."""
    ec2 = lab.boto("ec2")
    lab.fault({"kind": "fresh", "seconds": 0.8, "ids": False, "address": False})
    [instance_id] = lab.launch(role="Lagging")
    by_tag = [{"Name": "tag:Role", "Values": ["Lagging"]}]
    assert ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    assert ec2.describe_instances(Filters=by_tag)["Reservations"] == []
    lab.until(lambda: ec2.describe_instances(Filters=by_tag)["Reservations"])


def test_an_instance_may_be_described_before_it_can_be_tagged(lab: LabProcess) -> None:
    """CreateTags does not know an id that DescribeInstances and its tag filters show, and does later."""
    ec2 = lab.boto("ec2")
    lab.fault({"kind": "fresh", "seconds": 60, "ids": False, "tags": False, "address": False, "tagging": True})
    [instance_id] = lab.launch()
    tag = {"Resources": [instance_id], "Tags": [{"Key": "k", "Value": "v"}]}
    assert ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    for call in (ec2.create_tags, ec2.delete_tags):
        with refused("InvalidInstanceID.NotFound"):
            call(**tag)
    lab.clear_faults()
    ec2.create_tags(**tag)
    assert lab.instance(instance_id)["tags"]["k"] == "v"


def test_a_spot_instance_is_warned_and_taken_back(lab: LabProcess) -> None:
    """The warning has the zone in its ARN; the end and its reason come the given time later."""
    [instance_id] = lab.launch()
    lab.until_state([instance_id], "running")
    _drain(lab, wait=0)
    lab.fault({"kind": "interruption", "instance": instance_id, "notice": "interruption", "seconds": 0.3})
    warning, *ends = _events(lab)
    assert warning["detail-type"] == "EC2 Spot Instance Interruption Warning"
    assert warning["resources"] == [f"arn:aws:ec2:us-east-1a:instance/{instance_id}"]
    assert warning["detail"] == {"instance-id": instance_id, "instance-action": "terminate"}
    assert [event["detail"]["state"] for event in ends] == ["shutting-down", "terminated"]
    assert lab.instance(instance_id)["reason"] == "Server.SpotInstanceTermination"


def test_a_rebalance_recommendation_ends_nothing(lab: LabProcess) -> None:
    """It is told, and the instance goes on; a notice that there is not is refused."""
    [instance_id] = lab.launch()
    lab.until_state([instance_id], "running")
    _drain(lab, wait=0)
    lab.fault({"kind": "interruption", "instance": instance_id, "notice": "rebalance", "seconds": 0})
    [event] = _events(lab)
    assert (event["detail-type"], event["detail"]) == (
        "EC2 Instance Rebalance Recommendation",
        {"instance-id": instance_id},
    )
    assert lab.instance(instance_id)["state"] == "running"
    with pytest.raises(RuntimeError, match="notice is interruption or rebalance, not soon"):
        lab.fault({"kind": "interruption", "instance": instance_id, "notice": "soon"})


def test_an_instance_may_end_instead_of_running(lab: LabProcess) -> None:
    """pending to terminated, and StateReason says why."""
    _drain(lab, wait=0)
    lab.fault({"kind": "die", "match": {"role": "Doomed"}, "reason": "Client.VolumeLimitExceeded"})
    [doomed] = lab.launch(role="Doomed")
    [fine] = lab.launch()
    lab.until_state([doomed], "terminated")
    lab.until_state([fine], "running")
    answer = lab.boto("ec2").describe_instances(InstanceIds=[doomed])["Reservations"][0]["Instances"][0]
    assert answer["StateReason"]["Code"] == "Client.VolumeLimitExceeded"
    assert "shutting-down" not in _drain(lab)


async def _login(lab: LabProcess, instance_id: str) -> str:
    async with asyncssh.connect(
        lab.instance(instance_id)["address"], lab.info["ssh_port"], username="ubuntu", client_keys=[lab.info["key"]],
        known_hosts=None, config=None, agent_path=None, login_timeout=1,
    ) as connection:  # fmt: skip
        return str((await connection.run("echo hello", check=True)).stdout)


async def test_a_host_fault_waits_for_the_host_it_is_meant_for(lab: LabProcess) -> None:
    """nth 1 of the role: of three launched, the second refuses logins, until the faults end."""
    lab.fault({"kind": "host", "match": {"role": "Factory", "nth": 1}, "fault": {"kind": "deny"}})
    [other] = lab.launch(role="Orchestrator")
    ids = lab.launch(MaxCount=3)
    lab.until(lambda: all(lab.instance(i)["ssh_since"] for i in [other, *ids]))
    for instance_id in (other, ids[0], ids[2]):
        assert await _login(lab, instance_id) == "hello\n"
    with pytest.raises(asyncssh.PermissionDenied):
        await _login(lab, ids[1])
    lab.clear_faults()
    assert await _login(lab, ids[1]) == "hello\n"


def test_a_cpu_fault_is_told(lab: LabProcess) -> None:
    """By instance, and shown with the instance."""
    [instance_id] = lab.launch()
    lab.fault({"kind": "cpu", "instance": instance_id, "percent": 55.0})
    assert lab.instance(instance_id)["cpu"] == 55.0
