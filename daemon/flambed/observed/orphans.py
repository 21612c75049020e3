"""Looking for orphans: the instances, alarms and volumes of ours in a region that belong to no known cluster.

What one look shows is no orphan yet: a second one, a survey interval later, has to show it again, and it has to be older
than the grace time. The surveys look; what they saw is kept in memory, so a restart begins anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from flambed import durations
from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.observed import survey
from flambed.observed.facts import Seen
from flambed.ownership import Known, Resource, is_ours, orphans
from flambed.steps.protect import alarm_name
from flambed.tags import DAEMON_TAG

if TYPE_CHECKING:
    from flambed.region import Region

_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8,17}")
_PREFIX: Final = alarm_name("")


@dataclass(frozen=True, slots=True)
class Orphan:
    """A thing that belongs to no known cluster."""

    resource: Resource
    waits: str | None  # why it may not be removed yet, in words; None: it may
    seen: Seen | None = None  # an instance, as EC2 described it


class Orphans:
    """One region's: what was seen when."""

    def __init__(self, region: Region, known: Callable[[], Known], grace: float) -> None:
        """Prepare; nothing is called yet.

        Args:
            region: where to look.
            known: tells what belongs to somebody, at the time it is called.
            grace: seconds that an orphan has to be old.
        """
        self._region = region
        self._known = known
        self._grace = grace
        self._first: dict[tuple[str, str], float] = {}  # when an orphan was first seen, on the loop's clock
        self._told: set[tuple[str, str]] = set()
        self._alarm_tags: dict[
            tuple[str, object], Mapping[str, str]
        ] = {}  # tags never change, an alarm may be made anew
        self._failed: str | None = None

    @property
    def daemons(self) -> Collection[str]:
        """The ids that are ours."""
        return self._known().daemons

    async def watch(self, instances: Sequence[Seen]) -> None:
        """Look, as a part of the survey that saw these instances; a failure is told once, and tried again with the next."""
        try:
            await self.look(instances)
        except AwsError as error:
            if error.code != self._failed:
                self._region.emit(
                    "region.survey_failed", region=self._region.name, code=error.code, message=error.message
                )
            self._failed = error.code
        else:
            self._failed = None

    async def look(self, instances: Sequence[Seen] | None = None) -> tuple[Orphan, ...]:
        """Return the orphans that there are: instances, then alarms, then volumes.

        Args:
            instances: those under Flambé's tags, where somebody has just asked; None asks EC2.

        Raises:
            AwsError: the look was not complete, and counts for nothing.
        """
        began = asyncio.get_running_loop().time()
        if instances is None:
            instances = await survey.tagged(self._region, DAEMON_TAG, self.daemons)
        alarms = await self._alarms()
        described = {alarm.instance or "" for alarm in alarms} - {seen.id for seen in instances}
        if described:
            instances = [*instances, *(await survey.describe(self._region, sorted(described))).instances]
        volumes = [_volume(one) for one in await survey.loose_volumes(self._region, DAEMON_TAG, self.daemons)]
        # What is known is asked last: what was launched since the look began is known by then, and no orphan.
        found = orphans(instances, alarms, volumes, self._known())
        self._first = {_key(one): self._first.get(_key(one), began) for one in found}
        seen = {one.id: one for one in instances}
        result = tuple(Orphan(one, self._waits(one, began), seen.get(one.id)) for one in found)
        for orphan in result:
            self._tell(orphan)
        return result

    def _waits(self, one: Resource, now: float) -> str | None:
        known_for = now - self._first[_key(one)]
        # A volume that somebody detached to rescue what is on it may be old: its grace begins when it is first seen loose.
        age = known_for if one.kind == "volume" else self._region.now() - one.created_at
        young = self._grace - age
        again = self._region.survey_interval - (now - self._first[_key(one)])
        if again > 0 and again >= young:
            return f"seen once; it has to be seen again, in {durations.words(max(round(again), 1))}"
        if young > 0:
            return (
                f"younger than {durations.words(self._grace)} (gc.grace), for {durations.words(max(round(young), 1))}"
            )
        return None

    def _tell(self, orphan: Orphan) -> None:
        one = orphan.resource
        if orphan.waits is None and _key(one) not in self._told:
            self._told.add(_key(one))
            self._region.emit(
                "orphan.found", region=self._region.name, kind=one.kind, id=one.id, cluster_id=one.cluster or ""
            )

    async def _alarms(self) -> list[Resource]:
        """Return the alarms that are ours and whose instance is none that a cluster knows."""
        known = self._known()
        strange = [
            alarm
            for alarm in await survey.alarms_named(self._region, _PREFIX)
            if (instance := _instance_of(alarm)) is not None and instance not in known.instances
        ]
        keys = {(alarm["AlarmArn"], alarm.get("AlarmConfigurationUpdatedTimestamp")): alarm for alarm in strange}
        self._alarm_tags = {key: tags for key, tags in self._alarm_tags.items() if key in keys}
        for key in keys.keys() - self._alarm_tags.keys():
            self._alarm_tags[key] = await self._tags_of_alarm(key[0])
        return [
            Resource(
                kind="alarm",
                id=alarm["AlarmName"],
                state=alarm.get("StateValue", ""),
                created_at=_unix(alarm.get("AlarmConfigurationUpdatedTimestamp")),
                tags=self._alarm_tags[key],
                instance=_instance_of(alarm),
            )
            for key, alarm in keys.items()
            if is_ours(known.daemons, self._alarm_tags[key])
        ]

    async def _tags_of_alarm(self, arn: str) -> Mapping[str, str]:
        try:
            answer = await self._region.call(self._region.clients.cloudwatch.list_tags_for_resource, ResourceARN=arn)
        except AwsError as error:
            if error.reason is not Reason.GONE:
                raise
            return {}  # it was deleted meanwhile
        return survey.tags_of(answer)


def _key(one: Resource) -> tuple[str, str]:
    return one.kind, one.id


def _instance_of(alarm: Mapping[str, Any]) -> str | None:
    """Return the instance that an alarm is of; None where its name is not one that we give."""
    instance = str(alarm["AlarmName"]).removeprefix(_PREFIX)
    return instance if _INSTANCE.fullmatch(instance) else None


def _volume(described: Mapping[str, Any]) -> Resource:
    return Resource(
        kind="volume",
        id=described["VolumeId"],
        state=described["State"],
        created_at=_unix(described.get("CreateTime")),
        tags=survey.tags_of(described),
    )


def _unix(when: object) -> float:
    """Return UNIX seconds; a time that is not told is long ago."""
    return when.timestamp() if isinstance(when, datetime) else 0.0
