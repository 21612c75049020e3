"""Orphans: whose a thing is, when it is certain that it belongs to nobody, and how it is removed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from flambed import garbage
from flambed.ownership import Known, Resource, made_by_us, orphans
from flambed.region import Region
from flambed.steps import cleanup
from flambed.steps.protect import alarm_name
from tests.fakes import Cloud, client_error, cluster_tags, ids, instance, volume
from tests.virtualtime import START, virtual

OURS = {"flambed:daemon": "d1", "flambed:cluster": "lost"}
MADE = {**OURS, "Purpose": "flambe", "flambed:launch": "lost-1-0"}
INTERVAL, GRACE = 300.0, 3600.0


def known(*clusters: str, tokens: tuple[str, ...] = (), instances: tuple[str, ...] = ()) -> Known:
    """Return what is known to a service d1."""
    return Known(
        daemons=frozenset({"d1"}),
        clusters=frozenset(clusters),
        tokens=frozenset(tokens),
        instances=frozenset(instances),
    )


def region_of(cloud: Cloud, what: Known | None = None) -> Region:
    """Return a region that looks for orphans."""
    about = what if what is not None else known("c1")
    return cloud.region(known=lambda: about, grace=GRACE, survey_interval=INTERVAL)


def lost(number: int, *, state: str = "running", **tags: str) -> dict[str, Any]:
    """Return an instance of a cluster that nobody knows, launched when everything began."""
    described = instance(number, state=state, tags=cluster_tags(name="lost", **{**MADE, **tags}))
    described["ClientToken"] = f"{ {**MADE, **tags}['flambed:cluster'] }-1-r-0"
    described["LaunchTime"] = datetime.fromtimestamp(START, UTC)
    described["BlockDeviceMappings"] = [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": f"vol-{number:017x}", "DeleteOnTermination": True}}
    ]
    return described


async def arm(cloud: Cloud, number: int, tags: dict[str, str] = OURS) -> str:
    """Put an alarm by our name, with tags; return the name."""
    name = alarm_name(ids([number])[0])
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    await cloud.cloudwatch.put_metric_alarm(AlarmName=name, Tags=listed)
    return name


async def ripe(region: Region) -> list[str]:
    """Look twice, a survey interval apart and after the grace time; return what may be removed."""
    assert region.orphans is not None
    await region.orphans.look()
    await asyncio.sleep(GRACE)
    return [orphan.resource.id for orphan in await region.orphans.look() if orphan.waits is None]


async def removed(region: Region, *names: str) -> list[tuple[str, str, str | None]]:
    """Remove, and return what became of each: id, outcome, reason."""
    async with aclosing(garbage.remove(region, names)) as outcomes:
        return [(told["id"], told["outcome"], told["reason"]) async for told in outcomes]


# --- whose it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["flambed:daemon", "flambed:cluster", "Purpose", "flambed:launch"])
def test_only_all_tags_together_prove_that_a_volume_is_ours(lacking: str) -> None:
    """One that is missing, or another service's id, and it is somebody else's."""
    assert made_by_us({"d1"}, MADE)
    assert not made_by_us({"d2"}, MADE)
    assert not made_by_us({"d1"}, {key: value for key, value in MADE.items() if key != lacking})


@pytest.mark.parametrize("state", ["in-use", "creating", "deleting", "error"])
def test_a_volume_that_is_not_available_is_no_orphan(state: str) -> None:
    """It is attached to something, or on its way."""
    one = Resource(kind="volume", id="vol-1", state=state, created_at=0.0, tags=MADE)
    assert orphans([], [], [one], known()) == ()


@virtual
async def test_what_belongs_to_a_known_cluster_is_never_an_orphan() -> None:
    """By the cluster's id, by the token of a launch that has no answer yet, or by the instance's own id."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    cloud.ec2.volumes = {"vol-9": volume(9, MADE)}
    await arm(cloud, 9)
    assert await ripe(region_of(cloud, known("lost"))) == [alarm_name(ids([9])[0])], "that of a host that is gone"
    assert ids([1])[0] in await ripe(region_of(cloud))
    assert ids([1])[0] not in await ripe(region_of(cloud, known(tokens=("lost-1-r-0",))))
    assert ids([1])[0] not in await ripe(region_of(cloud, known(instances=(ids([1])[0],))))


@pytest.mark.parametrize("missing", ["flambed:daemon", "flambed:cluster", "Purpose"])
@virtual
async def test_an_instance_without_one_of_our_tags_is_not_ours(missing: str) -> None:
    """Whatever its name, and whatever else it carries."""
    cloud = Cloud()
    stranger = lost(1)
    stranger["Tags"] = [tag for tag in stranger["Tags"] if tag["Key"] != missing]
    other = lost(2, **{"flambed:daemon": "d2"})
    cloud.ec2.instances = [stranger, other]
    assert await ripe(region_of(cloud)) == []


@virtual
async def test_an_alarm_is_an_orphan_only_with_our_tags_and_without_its_instance() -> None:
    """Flambé's own alarms have our names, too: by the name alone nothing is ours."""
    cloud = Cloud()
    cloud.ec2.instances = [
        instance(1),  # alive, and of no cluster: it has lost its tags
        lost(2, **{"flambed:cluster": "c1"}),
        instance(3, state="terminated"),
        lost(5),
    ]
    for number in (1, 2, 3, 4, 5):
        await arm(cloud, number)
    await arm(cloud, 6, tags={})
    await arm(cloud, 7, tags={**OURS, "flambed:daemon": "d2"})
    await arm(cloud, 8, tags={**OURS, "flambed:cluster": "c1"})
    await cloud.cloudwatch.put_metric_alarm(AlarmName=alarm_name("mine"), Tags=[])
    found = await ripe(region_of(cloud, known("c1", instances=(ids([2])[0],))))
    assert found == [ids([5])[0], *map(alarm_name, ids([3, 4, 5, 8]))]
    assert len(cloud.cloudwatch.of("list_tags_for_resource")) == 7, "once each, and never of a known instance"


# --- when that is certain ----------------------------------------------------------------------------------------


@virtual
async def test_an_orphan_is_seen_twice_a_survey_apart_before_it_counts() -> None:
    """A look that was a moment too early or too late proves nothing; one in between starts the count anew."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    region = region_of(cloud)
    assert region.orphans is not None
    await asyncio.sleep(2 * GRACE)

    async def waits() -> str | None:
        assert region.orphans is not None
        [orphan] = await region.orphans.look()
        return orphan.waits

    assert await waits() == "seen once; it has to be seen again, in 5 min"
    await asyncio.sleep(INTERVAL - 60.0)
    assert await waits() == "seen once; it has to be seen again, in 1 min"
    cloud.ec2.instances, present = [], cloud.ec2.instances
    assert await region.orphans.look() == ()
    cloud.ec2.instances = present
    assert await waits() == "seen once; it has to be seen again, in 5 min"
    await asyncio.sleep(INTERVAL)
    assert await waits() is None


@virtual
async def test_an_orphan_younger_than_the_grace_time_waits() -> None:
    """However often it is seen."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    region = region_of(cloud)
    assert region.orphans is not None
    await region.orphans.look()
    await asyncio.sleep(GRACE - 600.0)
    [orphan] = await region.orphans.look()
    assert orphan.waits == "younger than 1 h (gc.grace), for 10 min"


@virtual
async def test_surveys_look_and_tell_of_each_orphan_once() -> None:
    """The log warns when it is certain, and not at every survey."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    async with region_of(cloud) as region:
        region.subscribe(("me", "c"), cloud.heard.take)
        await asyncio.sleep(GRACE - 600.0)
        assert "orphan.found" not in cloud.heard.names()
        await asyncio.sleep(3 * GRACE)
    about = {"region": "us-east-1", "kind": "instance", "id": ids([1])[0], "cluster_id": "lost"}
    assert [fields for name, fields in cloud.heard.events if name == "orphan.found"] == [about]


@virtual
async def test_a_look_that_fails_counts_for_nothing_and_is_told_once() -> None:
    """Without a permission every survey would fail alike; the survey itself goes on."""
    cloud = Cloud()
    for _ in range(3):
        cloud.ec2.fail("describe_volumes", client_error("UnauthorizedOperation", status=403))
    async with region_of(cloud) as region:
        region.subscribe(("me", "c"), cloud.heard.take)
        await asyncio.sleep(4.5 * INTERVAL)
    assert cloud.heard.names().count("region.survey_failed") == 1
    assert cloud.heard.names().count("region.survey_done") >= 4


# --- how it is removed -------------------------------------------------------------------------------------------


@virtual
async def test_instances_end_before_alarms_and_volumes_go() -> None:
    """Each is told of when AWS confirms it; what was not named stays."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1), lost(2)]
    cloud.ec2.volumes = {v["VolumeId"]: v for v in (volume(1, MADE, state="in-use", of=ids([1])[0]), volume(9, MADE))}
    name = await arm(cloud, 1)
    region = region_of(cloud)
    first = ids([1])[0]
    assert await ripe(region) == [*ids([1, 2]), name, volume(9, MADE)["VolumeId"]]

    async def ends() -> None:
        await asyncio.sleep(40.0)
        cloud.ec2.instances[0]["State"]["Name"] = "shutting-down"
        await asyncio.sleep(60.0)
        assert name in cloud.cloudwatch.alarms, "it protects its instance for as long as that may live"
        cloud.ec2.instances[0]["State"]["Name"] = "terminated"
        cloud.ec2.volumes[volume(1, MADE)["VolumeId"]]["State"] = "available"

    ending = asyncio.create_task(ends())
    outcomes = await removed(region, first, name, volume(9, MADE)["VolumeId"])
    await ending
    left = sorted(volume(number, MADE)["VolumeId"] for number in (1, 9))
    assert outcomes[:3] == [(first, "ending", None), (first, "removed", None), (name, "removed", None)]
    assert sorted(outcomes[3:]) == [(volume_id, "removed", None) for volume_id in left]
    assert set(cloud.ec2.terminated) == {first}
    assert cloud.cloudwatch.alarms == {}
    assert cloud.ec2.volumes == {}
    assert cloud.heard.names().count("orphan.removed") == 4


@virtual
async def test_a_protected_instance_is_reported_and_keeps_its_alarm() -> None:
    """It is not fought."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    cloud.ec2.protected = {ids([1])[0]}
    name = await arm(cloud, 1)
    region = region_of(cloud)
    await ripe(region)
    [instance_told, alarm_told] = await removed(region, ids([1])[0], name)
    assert instance_told[:2] == (ids([1])[0], "refused")
    assert "may not be terminated" in (instance_told[2] or "")
    assert alarm_told == (name, "refused", f"its instance {ids([1])[0]} lives on")
    assert set(cloud.cloudwatch.alarms) == {name}


@virtual
async def test_what_has_changed_since_it_was_listed_is_not_touched() -> None:
    """It is looked at again: its cluster may be known by now, a volume attached, and a person may name anything."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1), instance(2, tags=cluster_tags())]
    cloud.ec2.volumes = {v["VolumeId"]: v for v in (volume(8, MADE), volume(9, MADE))}
    clusters: set[str] = set()
    region = cloud.region(known=lambda: known(*clusters), grace=GRACE, survey_interval=INTERVAL)
    names = await ripe(region)
    assert len(names) == 3
    clusters.add("lost")
    assert await removed(region, *names, ids([2])[0]) == []
    clusters.clear()
    await ripe(region)
    cloud.ec2.volumes[volume(8, MADE)["VolumeId"]]["State"] = "in-use"
    del cloud.ec2.volumes[volume(9, MADE)["VolumeId"]]["Tags"][-1]
    assert await removed(region, volume(8, MADE)["VolumeId"], volume(9, MADE)["VolumeId"]) == []
    assert [name for name, _ in cloud.ec2.calls if not name.startswith("describe_")] == []


@virtual
async def test_a_volume_that_is_to_outlive_an_orphan_is_let_go_of_first() -> None:
    """Else the next `gc` would take it for ours; where that fails its instance is left alone."""
    cloud = Cloud()
    cloud.ec2.instances = [lost(1)]
    cloud.ec2.instances[0]["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] = False
    cloud.ec2.volumes = {volume(1, MADE)["VolumeId"]: volume(1, MADE, state="in-use", of=ids([1])[0])}
    region = region_of(cloud)
    await ripe(region)
    cloud.ec2.fail("delete_tags", client_error("UnauthorizedOperation", status=403))
    [(_, outcome, reason)] = await removed(region, ids([1])[0])
    assert outcome == "refused"
    assert "which is to outlive it, could not be marked so" in (reason or "")
    assert cloud.ec2.terminated == []

    cloud.ec2.instances[0]["State"]["Name"] = "shutting-down"
    assert await removed(region, ids([1])[0]) == [], "it is ending already"
    cloud.ec2.instances[0]["State"]["Name"] = "running"
    await ripe(region)
    task = asyncio.create_task(removed(region, ids([1])[0]))
    await asyncio.sleep(30.0)
    cloud.ec2.instances[0]["State"]["Name"] = "terminated"
    cloud.ec2.volumes[volume(1, MADE)["VolumeId"]]["State"] = "available"
    assert [told[1] for told in await task] == ["ending", "removed"]
    assert await ripe(region) == []
    assert volume(1, MADE)["VolumeId"] in cloud.ec2.volumes


# --- the step that deletes volumes -------------------------------------------------------------------------------


@virtual
async def test_volumes_are_looked_at_together_and_judged_one_by_one() -> None:
    """One look for all of them; what is gone, ours, somebody's, held or attached elsewhere has each its own answer."""
    cloud = Cloud()
    gone, ours, theirs, held, elsewhere, racing = (f"vol-{n:017x}" for n in range(1, 7))
    cloud.ec2.volumes = {
        ours: volume(2, MADE),
        theirs: volume(3, OURS),
        held: volume(4, MADE, state="in-use", of="i-1"),
        elsewhere: volume(5, MADE, state="in-use", of="i-2"),
        racing: volume(6, MADE),
    }
    cloud.ec2.PAGE = 100
    cloud.ec2.fail("delete_volume", client_error("InvalidVolume.NotFound"))
    of = dict.fromkeys((gone, racing, ours, theirs, held, elsewhere), "i-1")
    done = await cleanup.delete_volumes(cloud.region(), of, daemons={"d1"})
    assert sorted(done.removed) == sorted([gone, ours, racing])
    assert done.deleted == [ours]
    assert done.left == [theirs, elsewhere]
    assert list(done.refused) == [held]
    assert len(cloud.ec2.of("describe_volumes")) == 1
    assert [params["Resources"] for params in cloud.ec2.of("delete_tags")] == [[elsewhere]]
    assert "flambed:launch" not in {tag["Key"] for tag in cloud.ec2.volumes[elsewhere]["Tags"]}


@virtual
async def test_two_hundred_volumes_are_asked_for_in_a_call() -> None:
    """As many values as a filter takes."""
    cloud = Cloud()
    await cleanup.delete_volumes(cloud.region(), dict.fromkeys(f"vol-{n:017x}" for n in range(450)), daemons={"d1"})
    assert [len(params["Filters"][0]["Values"]) for params in cloud.ec2.of("describe_volumes")] == [200, 200, 50]
