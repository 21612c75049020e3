"""Removing orphans (`flambectl gc`): instances until EC2 confirms their end, then alarms, then volumes.

Everything is looked at again right before it is removed. Nothing is remembered here: what a removal that was interrupted
has left is found again by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from typing import Any, Final, Literal

from flambed.aws import AwsError
from flambed.errors import Reason, StepError
from flambed.observed import survey
from flambed.observed.facts import Seen
from flambed.observed.instance import DYING
from flambed.observed.orphans import Orphan
from flambed.ownership import Kind
from flambed.region import Region
from flambed.status import rfc3339
from flambed.steps import cleanup, retire

Outcome = Literal["ending", "removed", "refused"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 15.0
"""Seconds between two looks at instances that end: they grow from the first to the longest."""

MISSES: Final = 28
"""Looks in a row at which EC2 does not know an ending instance, until that is taken for its end: they take some minutes,
for which EC2 may not show an instance that there is."""


def document(region: Region, orphan: Orphan) -> dict[str, Any]:
    """Return an orphan as the API shows it."""
    one = orphan.resource
    return {
        "kind": one.kind,
        "id": one.id,
        "region": region.name,
        "state": one.state,
        "name": one.tags.get("Name"),
        "cluster": one.tags.get("Cluster-Name"),
        "creator": one.tags.get("creator"),
        "cluster_id": one.cluster,
        "created_at": rfc3339(one.created_at),
        "removable": orphan.waits is None,
        "reason": orphan.waits,
    }


async def remove(region: Region, ids: Collection[str]) -> AsyncGenerator[dict[str, Any], None]:
    """Remove those of these orphans that still are some; what is not named is not touched.

    Yields:
        What became of each, as it is known: `kind, id, region, outcome, reason`.

    Raises:
        AwsError: they could not be looked at (any more).
    """
    assert region.orphans is not None, "only a region of the service has any"
    found = [orphan for orphan in await region.orphans.look() if orphan.resource.id in ids]
    for orphan in found:
        if orphan.waits is not None:
            yield _told(region, orphan.resource.kind, orphan.resource.id, "refused", orphan.waits)
    ripe = [orphan for orphan in found if orphan.waits is None]
    stay: set[str] = set()  # instances that live on
    instances = [orphan.seen for orphan in ripe if orphan.resource.kind == "instance" and orphan.seen is not None]
    async for told in _end(region, instances):
        if told["outcome"] == "refused":
            stay.add(told["id"])
        yield told
    alarms = {one.resource.id: one.resource.instance for one in ripe if one.resource.kind == "alarm"}
    for name in [name for name, instance in alarms.items() if instance in stay]:
        yield _told(region, "alarm", name, "refused", f"its instance {alarms.pop(name)} lives on")
    async for told in _delete_alarms(region, list(alarms)):
        yield told
    volumes: dict[str, str | None] = {one.resource.id: None for one in ripe if one.resource.kind == "volume"}
    volumes |= {volume: seen.id for seen in instances if seen.id not in stay for volume in seen.disposable}
    async for told in _delete_volumes(region, volumes):
        yield told


async def _end(region: Region, instances: Iterable[Seen]) -> AsyncGenerator[dict[str, Any], None]:
    """End instances, and return when EC2 says that they are; a protected one is told of, and lives on."""
    pending: dict[str, int] = {}  # how often in a row EC2 did not know it
    for seen in instances:
        kept = await cleanup.let_go(region, seen.lasting)
        if kept.refused:
            volume, error = next(iter(kept.refused.items()))
            reason = f"its volume {volume}, which is to outlive it, could not be marked so: {error.message}"
            yield _told(region, "instance", seen.id, "refused", reason)
        else:
            pending[seen.id] = 0
    for told in await _terminate(region, pending, pending):
        yield told
    for instance in pending:
        yield _told(region, "instance", instance, "ending", None)
    pause = FIRST_PAUSE
    while pending:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
        try:
            looked = await survey.describe(region, list(pending))
        except AwsError as error:
            if error.reason not in {Reason.THROTTLED, Reason.TRANSIENT}:
                raise
            continue
        states = {seen.id: seen.state for seen in looked.instances}
        for instance in list(pending):
            pending[instance] = 0 if instance in states else pending[instance] + 1
            if states.get(instance) == "terminated" or pending[instance] >= MISSES:
                del pending[instance]
                yield _removed(region, "instance", instance)
        for told in await _terminate(region, [i for i in pending if states.get(i, "pending") not in DYING], pending):
            yield told


async def _terminate(region: Region, instances: Collection[str], pending: dict[str, int]) -> list[dict[str, Any]]:
    """Ask EC2 to end instances; those that it refuses to end are pending no more."""
    _, refused = await retire.terminate(region, instances)
    final = {i: error for i, error in refused.items() if error.reason not in _PASSING}
    for instance in final:
        pending.pop(instance, None)
    return [_told(region, "instance", instance, "refused", error.message) for instance, error in final.items()]


_PASSING: Final = frozenset({Reason.THROTTLED, Reason.TRANSIENT, Reason.GONE})
"""Refusals after which an instance is looked at again, and asked to end again."""


async def _delete_alarms(region: Region, names: list[str]) -> AsyncGenerator[dict[str, Any], None]:
    there = [alarm["AlarmName"] for alarm in await survey.describe_alarms(region, names)]
    refused: Mapping[str, StepError] = await cleanup.delete_alarms(region, there)
    for name in names:
        if name in refused:
            yield _told(region, "alarm", name, "refused", refused[name].message)
        else:
            yield _removed(region, "alarm", name)


async def _delete_volumes(region: Region, volumes: Mapping[str, str | None]) -> AsyncGenerator[dict[str, Any], None]:
    assert region.orphans is not None, "only a region of the service has any"
    if not volumes:
        return
    done = await cleanup.delete_volumes(region, volumes, daemons=region.orphans.daemons)
    named = {volume for volume, instance in volumes.items() if instance is None}
    for volume in [one for one in done.removed if one in named or one in done.deleted]:
        yield _removed(region, "volume", volume)
    for volume in named.intersection(done.left):
        yield _told(region, "volume", volume, "refused", "it carries no proof that we made it any more")
    for volume, error in done.refused.items():
        if volume in named:
            yield _told(region, "volume", volume, "refused", error.message)


def _removed(region: Region, kind: Kind, name: str) -> dict[str, Any]:
    region.emit("orphan.removed", region=region.name, kind=kind, id=name)
    return _told(region, kind, name, "removed", None)


def _told(region: Region, kind: Kind, name: str, outcome: Outcome, reason: str | None) -> dict[str, Any]:
    return {"kind": kind, "id": name, "region": region.name, "outcome": outcome, "reason": reason}
