"""Whether the service's credentials may do all that it does, asked of AWS without doing anything.

EC2 tells whether a call would be permitted (DryRun). Other services have nothing like it: there a look is taken, or
something is deleted that cannot exist. The shipped policy allows most changes only on what carries our tags, and an id that
nobody has carries none: so changes are tried on what this service has launched, and a refusal proves something only there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from flambed.aws import DRY_RUN, AwsError
from flambed.errors import Reason
from flambed.observed.world import World
from flambed.region import Region
from flambed.steps import protect
from flambed.steps.launch import creation_name, run_instances_params
from flambed.tags import LAUNCH_TAG, tags_of

NO_INSTANCE: Final = "i-00000000000000000"
NO_VOLUME: Final = "vol-00000000000000000"
PUBLIC_PARAMETER: Final = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What there is of ours in a region to try permissions on; None where there is nothing."""

    instance: str | None = None  # that this service launched
    volume: str | None = None  # that was launched with it
    launch: Mapping[str, Any] | None = None  # a call of RunInstances as the service makes it


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one action: `allowed` is None where that could not be told, and `why` says so then."""

    action: str  # as a policy names it
    allowed: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Attempt:
    call: Callable[[], Awaitable[object]]
    proves: bool = True  # whether a refusal would be about the permission


def sample(worlds: Iterable[World], daemon: str) -> Sample:
    """Return what these clusters of one region offer; `daemon` is the service's id."""
    found = Sample()
    for world in worlds:
        for one in world.instances.values():
            if found.instance is None and one.alive and not (one.adopted or one.found):
                found = replace(found, instance=one.id, volume=next(iter(one.disposable), None))
        if found.launch is None and world.desired is not None and world.specs:
            role, spec = next(iter(world.specs.items()))
            name = creation_name(world.desired, role)
            tags = tags_of(world.desired, role, name, cluster_id=world.cluster_id, daemon=daemon, owner=world.owner)
            launch = run_instances_params(world.desired, replace(spec, count=1), "flambed-doctor", tags, b"")
            found = replace(found, launch=launch)
    return found


async def examine(region: Region, account: str, sample: Sample) -> list[Finding]:
    """Return what is known of each action of the service in a region; a missing permission is no error."""
    attempts = {**_looks(region, account), **_changes(region, sample)}
    # One after the other: at once each would open a connection, which is kept.
    return [await _try(action, attempt) for action, attempt in attempts.items()]


def _looks(region: Region, account: str) -> dict[str, _Attempt]:
    ec2, cloudwatch, call = region.clients.ec2, region.clients.cloudwatch, region.call
    name = protect.alarm_name(NO_INSTANCE)
    arn = f"arn:{protect.partition(region.name)}:cloudwatch:{region.name}:{account}:alarm:{name}"
    now = region.now()
    span: dict[str, Any] = {
        "StartTime": datetime.fromtimestamp(now - 300, UTC),
        "EndTime": datetime.fromtimestamp(now, UTC),
    }
    queries = protect.queries([NO_INSTANCE], protect.AWS_NAMESPACE, "Average")
    return {
        "ec2:DescribeInstances": _Attempt(lambda: call(ec2.describe_instances, DryRun=True, MaxResults=5)),
        "ec2:DescribeVolumes": _Attempt(lambda: call(ec2.describe_volumes, DryRun=True, MaxResults=5)),
        "ec2:DescribeImages": _Attempt(lambda: call(ec2.describe_images, DryRun=True, Owners=["self"])),
        "ec2:DescribeInstanceTypes": _Attempt(lambda: call(ec2.describe_instance_types, DryRun=True, MaxResults=5)),
        "ec2:DescribeInstanceTypeOfferings": _Attempt(
            lambda: call(ec2.describe_instance_type_offerings, DryRun=True, MaxResults=5)
        ),
        "ssm:GetParameters": _Attempt(lambda: call(region.clients.ssm.get_parameters, Names=[PUBLIC_PARAMETER])),
        "cloudwatch:DescribeAlarms": _Attempt(lambda: call(cloudwatch.describe_alarms, MaxRecords=1)),
        "cloudwatch:GetMetricData": _Attempt(
            lambda: call(cloudwatch.get_metric_data, MetricDataQueries=queries, **span)
        ),
        "cloudwatch:ListTagsForResource": _Attempt(lambda: call(cloudwatch.list_tags_for_resource, ResourceARN=arn)),
        "cloudwatch:DeleteAlarms": _Attempt(lambda: call(cloudwatch.delete_alarms, AlarmNames=[name])),
    }


def _changes(region: Region, sample: Sample) -> dict[str, _Attempt]:
    ec2, call = region.clients.ec2, region.call
    instance, volume = sample.instance or NO_INSTANCE, sample.volume or NO_VOLUME
    on_instance, on_volume = sample.instance is not None, sample.volume is not None
    tag = [{"Key": "Purpose", "Value": "flambe"}]
    found = {
        "ec2:CreateTags": _Attempt(
            lambda: call(ec2.create_tags, DryRun=True, Resources=[instance], Tags=tag), on_instance
        ),
        "ec2:TerminateInstances": _Attempt(
            lambda: call(ec2.terminate_instances, DryRun=True, InstanceIds=[instance]), on_instance
        ),
        "ec2:StartInstances": _Attempt(
            lambda: call(ec2.start_instances, DryRun=True, InstanceIds=[instance]), on_instance
        ),
        "ec2:MonitorInstances": _Attempt(
            lambda: call(ec2.monitor_instances, DryRun=True, InstanceIds=[instance]), on_instance
        ),
        "ec2:GetConsoleOutput": _Attempt(
            lambda: call(ec2.get_console_output, DryRun=True, InstanceId=instance), on_instance
        ),
        "ec2:DeleteVolume": _Attempt(lambda: call(ec2.delete_volume, DryRun=True, VolumeId=volume), on_volume),
        "ec2:DeleteTags": _Attempt(
            lambda: call(ec2.delete_tags, DryRun=True, Resources=[volume], Tags=[{"Key": LAUNCH_TAG}])
        ),
    }
    if (launch := sample.launch) is not None:
        found["ec2:RunInstances"] = _Attempt(lambda: call(ec2.run_instances, DryRun=True, **launch))
    return found


async def _try(action: str, attempt: _Attempt) -> Finding:
    try:
        await attempt.call()
    except AwsError as error:
        if error.code == DRY_RUN:
            return Finding(action, True)
        if error.reason is Reason.NOT_PERMITTED:
            return Finding(action, False if attempt.proves else None, str(error) if attempt.proves else "")
        # CloudWatch looks for an alarm after it has looked at the permission; of EC2 that is not known.
        if error.reason is Reason.GONE:
            return Finding(action, True)
        return Finding(action, None, "" if error.reason is Reason.NOT_FOUND_YET else str(error))
    return Finding(action, True)
