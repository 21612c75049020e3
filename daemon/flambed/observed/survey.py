"""Describe* -> facts: what exists, looked up by tag, by id, and all of it now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.desired import PURPOSE, Role
from flambed.observed.facts import ClusterSurveyed, InstancesDescribed, Seen
from flambed.observed.lookout import CONFIRM_AFTER
from flambed.pacing import Rank
from flambed.paging import pages
from flambed.steps.protect import alarm_name

if TYPE_CHECKING:
    from flambed.region import Identity, Region

PAGE: Final = 200
"""Instances a page: the answer for a thousand would keep the loop busy for half a second, being parsed."""

MOST_VALUES: Final = 200
"""Values that a filter takes."""

MOST_NAMES: Final = 100
"""Names that a call about alarms takes."""

Description = Mapping[str, Any]


def seen(description: Description) -> Seen:
    """Return an instance as RunInstances and DescribeInstances tell it.

    Hosts that are missing, as before `running`, are None. The public one is the address, or the DNS name without one.
    """
    tags = tags_of(description)
    launched = description.get("LaunchTime")
    disks = [mapping["Ebs"] for mapping in description.get("BlockDeviceMappings", ()) if "Ebs" in mapping]
    disks = [disk for disk in disks if "VolumeId" in disk]
    return Seen(
        id=description["InstanceId"],
        state=description.get("State", {}).get("Name", "pending"),
        role=Role(tags["Role"]) if tags.get("Role") in set(Role) else None,
        name=tags.get("Name"),
        type=description.get("InstanceType", ""),
        token=description.get("ClientToken") or None,
        launched_at=launched.timestamp() if isinstance(launched, datetime) else None,
        private_host=description.get("PrivateIpAddress") or None,
        public_host=description.get("PublicIpAddress") or description.get("PublicDnsName") or None,
        volumes=tuple(disk["VolumeId"] for disk in disks),
        disposable=tuple(disk["VolumeId"] for disk in disks if disk.get("DeleteOnTermination") is True),
        lasting=tuple(disk["VolumeId"] for disk in disks if disk.get("DeleteOnTermination") is False),
        tags=tags,
        monitored=description.get("Monitoring", {}).get("State") in {"enabled", "pending"},
        why=description.get("StateReason", {}).get("Message") or None,
    )


def tags_of(description: Description) -> dict[str, str]:
    """Return the tags of an instance, a volume or an alarm as a mapping (S21)."""
    return {tag["Key"]: tag["Value"] for tag in description.get("Tags", ())}


async def find(region: Region, creator: str, name: str) -> tuple[tuple[Seen, ...], float]:
    """Look up by tag everything that there is of a cluster, in any state (S19).

    Returns:
        What was found, and when the look began, on the service's clock.

    Raises:
        AwsError: the look was not complete.
    """
    began = region.clock.now()
    filters = [_tag("creator", creator), _tag("Cluster-Name", name), _tag("Purpose", PURPOSE)]
    found = await _describe(region, filters, rank=Rank.LAUNCH, whose=(creator, name))
    return tuple(seen(description) for description in found), began


async def describe(region: Region, instances: Sequence[str], whose: Identity = ("", "")) -> InstancesDescribed:
    """Ask how these instances are.

    They are asked for by a filter, which answers about those that EC2 knows, where a list of ids would fail for all of
    them because of one. An instance is missing for its first moments, and some time after it ended.

    Raises:
        AwsError: not all could be asked.
    """
    found: list[Seen] = []
    for start in range(0, len(instances), MOST_VALUES):
        some = [{"Name": "instance-id", "Values": list(instances[start : start + MOST_VALUES])}]
        found += [seen(description) for description in await _describe(region, some, rank=Rank.LOOK, whose=whose)]
    known = {instance.id for instance in found}
    missing = tuple(instance for instance in instances if instance not in known)
    return InstancesDescribed(at=region.clock.now(), instances=tuple(found), missing=missing)


async def instances(
    region: Region,
    creator: str | None = None,
    host: str | None = None,
    states: Sequence[str] = ("pending", "running"),
) -> list[dict[str, Any]]:
    """Return what runs under Flambé's tags in this region, for the API (S20, S21, S25, S26, S33).

    Args:
        region: where to look.
        creator: only this creator's.
        host: only the instance with this address or DNS name; none is a plain answer, and an empty one matches none.
        states: only in these of EC2's states.

    Returns:
        One JSON object an instance: `id, region, state, type, name, role, cluster, creator, tags` (text or None, tags a
        mapping), `public_host, private_host` (None where missing), `alarm` (whether there is one by our name).

    Raises:
        AwsError: the look was not complete.
    """
    filters = [_tag("Purpose", PURPOSE), {"Name": "instance-state-name", "Values": list(states)}]
    if creator is not None:
        filters.append(_tag("creator", creator))
    found = await _describe(region, filters, rank=Rank.LOOK)
    if host is not None:
        found = [description for description in found if host in _hosts(description)]
    armed = await alarmed(region, [description["InstanceId"] for description in found])
    return [_shown(region, description, armed) for description in found]


async def alarmed(region: Region, ids: Sequence[str]) -> set[str]:
    """Return those of the instances that have an alarm by our name (S33).

    Raises:
        AwsError: not all could be looked up.
    """
    names = {alarm_name(instance): instance for instance in ids}
    described = await describe_alarms(region, list(names))
    return {names[alarm["AlarmName"]] for alarm in described if alarm["AlarmName"] in names}


async def describe_alarms(region: Region, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return those of the alarms that exist, as CloudWatch describes them.

    Raises:
        AwsError: not all could be looked up.
    """
    found: list[Mapping[str, Any]] = []
    for start in range(0, len(names), MOST_NAMES):
        answer = await region.call(
            region.clients.cloudwatch.describe_alarms,
            AlarmNames=list(names[start : start + MOST_NAMES]),
            AlarmTypes=["MetricAlarm"],
            MaxRecords=MOST_NAMES,
        )
        found += answer.get("MetricAlarms", ())
    return found


async def alarms_named(region: Region, prefix: str) -> list[Mapping[str, Any]]:
    """Return the alarms whose names begin like that, as CloudWatch describes them.

    Raises:
        AwsError: not all could be looked up.
    """
    found: list[Mapping[str, Any]] = []
    params: dict[str, Any] = {"AlarmNamePrefix": prefix, "AlarmTypes": ["MetricAlarm"], "MaxRecords": MOST_NAMES}
    async for answer in pages(region, region.clients.cloudwatch.describe_alarms, **params):
        found += answer.get("MetricAlarms", ())
    return found


async def tagged(region: Region, key: str, values: Iterable[str]) -> list[Seen]:
    """Return the instances with one of these values of a tag, in any state.

    Raises:
        AwsError: the look was not complete.
    """
    return [seen(description) for description in await _describe(region, [_tag(key, *values)], rank=Rank.LOOK)]


async def loose_volumes(region: Region, key: str, values: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the volumes with one of these values of a tag that are attached to nothing, as EC2 describes them.

    Raises:
        AwsError: the look was not complete.
    """
    return await _describe_volumes(region, [_tag(key, *values), {"Name": "status", "Values": ["available"]}])


async def describe_volumes(
    region: Region, volumes: Sequence[str], whose: Identity = ("", "")
) -> list[Mapping[str, Any]]:
    """Return those of the volumes that exist, as EC2 describes them. By a filter: one bad id does not fail the call.

    Raises:
        AwsError: not all could be looked up.
    """
    found: list[Mapping[str, Any]] = []
    for start in range(0, len(volumes), MOST_VALUES):
        some = [{"Name": "volume-id", "Values": list(volumes[start : start + MOST_VALUES])}]
        found += await _describe_volumes(region, some, whose)
    return found


async def _describe_volumes(
    region: Region, filters: Sequence[Mapping[str, Any]], whose: Identity = ("", "")
) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    params: dict[str, Any] = {"Filters": list(filters), "MaxResults": PAGE}
    async for answer in pages(region, region.clients.ec2.describe_volumes, whose=whose, **params):
        found += answer.get("Volumes", ())
    return found


async def keep_surveying(region: Region) -> None:
    """Look at everything now and then, for as long as it runs: what events lost is seen then.

    Where there is a lookout the first look is at once: what this service does not know of may have run for long.
    """
    pause = region.survey_interval if region.lookout is None else 0.0
    failures = 0
    while True:
        await asyncio.sleep(pause)
        pause = region.survey_interval
        try:
            await survey(region)
        except AwsError as error:
            if not failures:
                region.emit("region.survey_failed", region=region.name, code=error.code, message=error.message)
            failures += 1
            pause = min(pause, region.pause(failures))
        else:
            failures = 0
        if region.lookout is not None and region.lookout.unsure:
            pause = min(pause, CONFIRM_AFTER)


async def survey(region: Region) -> None:
    """Look at everything of all clusters at once, and tell each what there is of it; an empty answer is told, too.

    Raises:
        AwsError: the look was not complete, and nobody was told anything.
    """
    clusters = region.clusters
    if not clusters and region.lookout is None:
        return
    began = region.clock.now()
    by_cluster: dict[tuple[str, str], list[Seen]] = {cluster: [] for cluster in clusters}
    found = await _describe(region, [_tag("Purpose", PURPOSE)], rank=Rank.LOOK)
    instances = [seen(description) for description in found]
    for instance in instances:
        cluster = (instance.tags.get("creator", ""), instance.tags.get("Cluster-Name", ""))
        if cluster in by_cluster:
            by_cluster[cluster].append(instance)
    region.keeper.check()
    for cluster, members in by_cluster.items():
        region.tell(cluster, ClusterSurveyed(at=region.clock.now(), instances=tuple(members), began=began))
    if region.lookout is not None:
        described = {description["InstanceId"]: description for description in found}
        await region.lookout.take(region, instances, described, began)
    if region.orphans is not None:
        await region.orphans.watch(instances)
    region.surveyed_at = region.clock.now()
    region.emit("region.survey_done", region=region.name, instances=len(found), clusters=len(clusters))


async def _describe(
    region: Region, filters: Iterable[Mapping[str, Any]], *, rank: Rank, whose: Identity = ("", "")
) -> list[Description]:
    found: list[Description] = []
    params: dict[str, Any] = {"Filters": list(filters), "MaxResults": PAGE}
    async for answer in pages(region, region.clients.ec2.describe_instances, rank=rank, whose=whose, **params):
        found += [instance for group in answer.get("Reservations", ()) for instance in group["Instances"]]
    return found


def _tag(key: str, *values: str) -> dict[str, Any]:
    # A filter reads * and ? as wildcards: a tag is to be that text, and nothing like it.
    escaped = [value.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?") for value in values]
    return {"Name": f"tag:{key}", "Values": escaped}


def _hosts(description: Description) -> set[str]:
    keys = ("PublicIpAddress", "PublicDnsName", "PrivateIpAddress", "PrivateDnsName")
    return {description[key] for key in keys if description.get(key)}


def _shown(region: Region, description: Description, armed: set[str]) -> dict[str, Any]:
    instance = seen(description)
    return {
        "id": instance.id,
        "region": region.name,
        "state": instance.state,
        "type": instance.type,
        "name": instance.name,
        "role": instance.tags.get("Role"),
        "cluster": instance.tags.get("Cluster-Name"),
        "creator": instance.tags.get("creator"),
        "tags": dict(instance.tags),
        "public_host": instance.public_host,
        "private_host": instance.private_host,
        "alarm": instance.id in armed,
    }
