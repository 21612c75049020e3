"""The lab's volumes and the tags of its alarms: what EC2 and CloudWatch refuse, and what outlives an instance."""

from __future__ import annotations

from typing import Any

from tests.lab.labproc import LabProcess, refused


def running(lab: LabProcess) -> tuple[str, str]:
    """A new instance that runs, and its root volume."""
    [instance] = lab.boto("ec2").run_instances(**lab.request())["Instances"]
    lab.until_state([instance["InstanceId"]], "running")
    [volume] = volumes(lab, {"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]})
    return instance["InstanceId"], volume["VolumeId"]


def volumes(lab: LabProcess, *filters: dict[str, Any]) -> list[dict[str, Any]]:
    """The volumes that pass filters."""
    found: list[dict[str, Any]] = lab.boto("ec2").describe_volumes(Filters=list(filters))["Volumes"]
    return found


def end(lab: LabProcess, instance: str) -> None:
    """Terminate an instance."""
    lab.boto("ec2").terminate_instances(InstanceIds=[instance])
    lab.until_state([instance], "terminated")


def test_a_volume_goes_with_its_instance_unless_it_is_to_stay(lab: LabProcess) -> None:
    """DeleteOnTermination decides; what stays is available, and can be deleted once."""
    ec2 = lab.boto("ec2")
    one, gone = running(lab)
    other, kept = running(lab)
    device = ec2.describe_instances(InstanceIds=[other])["Reservations"][0]["Instances"][0]["BlockDeviceMappings"][0]
    lasting = {"DeviceName": device["DeviceName"], "Ebs": {"DeleteOnTermination": False}}
    ec2.modify_instance_attribute(InstanceId=other, BlockDeviceMappings=[lasting])
    with refused("VolumeInUse"):
        ec2.delete_volume(VolumeId=kept)
    end(lab, one)
    end(lab, other)
    by_id = {"Name": "volume-id", "Values": [gone, kept]}
    assert [(v["VolumeId"], v["State"], v["Attachments"]) for v in volumes(lab, by_id)] == [(kept, "available", [])]
    ec2.delete_volume(VolumeId=kept)
    with refused("InvalidVolume.NotFound"):
        ec2.delete_volume(VolumeId=kept)
    assert volumes(lab, by_id) == []


def test_volumes_can_be_made_to_outlive_their_instance(lab: LabProcess) -> None:
    """A fault leaves them available, with the tags that they had."""
    instance, volume = running(lab)
    lab.boto("ec2").create_tags(Resources=[volume], Tags=[{"Key": "x", "Value": "1"}, {"Key": "y", "Value": "2"}])
    lab.boto("ec2").delete_tags(Resources=[volume], Tags=[{"Key": "y"}])
    lab.fault({"kind": "outliving", "instance": instance})
    end(lab, instance)
    [left] = volumes(lab, {"Name": "tag:x", "Values": ["1"]}, {"Name": "status", "Values": ["available"]})
    tags = {tag["Key"]: tag["Value"] for tag in left["Tags"]}
    assert (left["VolumeId"], tags) == (volume, {"Role": "Factory", "x": "1"})
    lab.boto("ec2").delete_volume(VolumeId=volume)


def test_describing_volumes_is_as_strict_as_ec2(lab: LabProcess) -> None:
    """An unknown id fails the call, unknown filters and too many values are refused, and pages come in order."""
    ec2 = lab.boto("ec2")
    with refused("InvalidVolume.NotFound"):
        ec2.describe_volumes(VolumeIds=["vol-00000000000000000"])
    with refused("InvalidParameterValue"):
        ec2.describe_volumes(Filters=[{"Name": "colour", "Values": ["red"]}])
    with refused("FilterLimitExceeded"):
        ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [f"vol-{n:017x}" for n in range(201)]}])
    with refused("InvalidParameterValue"):
        ec2.describe_volumes(MaxResults=4)
    made = sorted(running(lab)[1] for _ in range(6))
    mine = [{"Name": "volume-id", "Values": made}]
    first = ec2.describe_volumes(Filters=mine, MaxResults=5)
    second = ec2.describe_volumes(Filters=mine, MaxResults=5, NextToken=first["NextToken"])
    assert [v["VolumeId"] for v in first["Volumes"] + second["Volumes"]] == made
    assert "NextToken" not in second


def test_alarms_have_tags_from_their_creation_only(lab: LabProcess) -> None:
    """PutMetricAlarm of one that exists passes over tags; an alarm that does not exist has none to list."""
    cloudwatch = lab.boto("cloudwatch")
    alarm = {
        "AlarmName": "tagged",
        "Namespace": "mine",
        "MetricName": "m",
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "LessThanThreshold",
    }
    cloudwatch.put_metric_alarm(**alarm, Tags=[{"Key": "a", "Value": "1"}])
    cloudwatch.put_metric_alarm(**alarm, Tags=[{"Key": "a", "Value": "2"}])
    [described] = cloudwatch.describe_alarms(AlarmNames=["tagged"])["MetricAlarms"]
    assert cloudwatch.list_tags_for_resource(ResourceARN=described["AlarmArn"])["Tags"] == [{"Key": "a", "Value": "1"}]
    cloudwatch.delete_alarms(AlarmNames=["tagged"])
    with refused("ResourceNotFoundException", 404):
        cloudwatch.list_tags_for_resource(ResourceARN=described["AlarmArn"])
