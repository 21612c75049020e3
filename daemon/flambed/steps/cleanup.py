"""What outlived its instance: volumes that were to go with it and are ours are deleted, others let go of; and alarms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.errors import Reason, StepError
from flambed.observed.survey import MOST_NAMES, describe_volumes, tags_of
from flambed.ownership import made_by_us
from flambed.pacing import Rank
from flambed.tags import LAUNCH_TAG

if TYPE_CHECKING:
    from flambed.region import Identity, Region

_GOING: Final = frozenset({"deleting", "deleted"})


@dataclass(slots=True)
class CleanedUp:
    """What became of volumes, by id."""

    removed: list[str] = field(default_factory=list)  # they do not exist any more
    deleted: list[str] = field(default_factory=list)  # those of them that we deleted
    left: list[str] = field(default_factory=list)  # they are not ours to delete
    refused: dict[str, StepError] = field(default_factory=dict)  # they are still there, and should not be


async def delete_volumes(
    region: Region, volumes: Mapping[str, str | None], *, daemons: Collection[str], whose: Identity = ("", "")
) -> CleanedUp:
    """Delete volumes whose instance has ended. One that is not `available`, or not proven to be ours, is never touched.

    Args:
        region: where they are.
        volumes: volume -> the instance that it was of; None where that is not known.
        daemons: the ids that are ours, one of which a volume of ours carries.
        whose: the cluster that this is for.

    Raises:
        AwsError: they could not be looked at.
    """
    found = {described["VolumeId"]: described for described in await describe_volumes(region, list(volumes), whose)}
    result = CleanedUp()
    for volume, instance in volumes.items():
        described = found.get(volume)
        if described is None or described["State"] in _GOING:
            result.removed.append(volume)
        elif not made_by_us(daemons, tags_of(described)):
            result.left.append(volume)
        elif described["State"] == "available":
            await _delete(region, volume, whose, result)
        elif instance is not None and _is_of_another(described, instance):
            await _let_go(region, volume, whose, result)
        else:
            message = (
                f"{volume} is {described['State']}: it has outlived {instance or 'its instance'}, and EC2 holds it"
            )
            result.refused[volume] = StepError(Reason.TIMED_OUT, "VolumeInUse", message)
    return result


async def let_go(region: Region, volumes: Iterable[str], whose: Identity = ("", "")) -> CleanedUp:
    """Take the proof that a launch of ours created them off volumes. They keep all other tags."""
    result = CleanedUp()
    for volume in volumes:  # one by one: an id that does not exist any more fails its call
        await _let_go(region, volume, whose, result)
    return result


async def delete_alarms(region: Region, names: Sequence[str]) -> Mapping[str, AwsError]:
    """Delete alarms that exist, and return those that CloudWatch refused to delete."""
    refused: dict[str, AwsError] = {}
    for start in range(0, len(names), MOST_NAMES):
        some = list(names[start : start + MOST_NAMES])
        try:
            await region.call(region.clients.cloudwatch.delete_alarms, rank=Rank.ARM, AlarmNames=some)
        except AwsError as error:
            refused |= dict.fromkeys(some, error)
    return refused


async def _let_go(region: Region, volume: str, whose: Identity, result: CleanedUp) -> None:
    try:
        await region.call(
            region.clients.ec2.delete_tags,
            rank=Rank.ARM,
            whose=whose,
            Resources=[volume],
            Tags=[{"Key": LAUNCH_TAG}],
        )
    except AwsError as error:
        if error.reason is Reason.NOT_FOUND_YET:
            result.removed.append(volume)
        else:
            result.refused[volume] = error
    else:
        result.left.append(volume)


async def _delete(region: Region, volume: str, whose: Identity, result: CleanedUp) -> None:
    try:
        await region.call(region.clients.ec2.delete_volume, rank=Rank.TERMINATE, whose=whose, VolumeId=volume)
    except AwsError as error:
        if error.reason is not Reason.NOT_FOUND_YET:
            result.refused[volume] = error
            return
    else:
        result.deleted.append(volume)
    result.removed.append(volume)


def _is_of_another(described: Mapping[str, Any], instance: str) -> bool:
    attachments: Sequence[Mapping[str, Any]] = described.get("Attachments", ())
    return any(attachment.get("InstanceId") != instance for attachment in attachments)
