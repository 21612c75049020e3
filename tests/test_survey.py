"""survey: instances as EC2 describes them, and how they are found."""

from __future__ import annotations

from typing import Any

import pytest

from flambed.desired import Role
from flambed.observed import survey
from flambed.observed.facts import Seen
from flambed.steps.protect import alarm_name
from tests.fakes import Cloud, cluster_tags, ids, instance
from tests.virtualtime import START, virtual


@pytest.mark.seed("S21")
@pytest.mark.seed("S25")
def test_everything_that_matters_of_an_instance_is_seen() -> None:
    """Both hosts, tags as a mapping, volumes, and why it is as it is."""
    described = instance(1, tags=cluster_tags(Name="c_factory_0", project="p"))
    described["StateReason"] = {"Code": "Client.UserInitiatedShutdown", "Message": "User initiated (2026-01-01)"}
    assert survey.seen(described) == Seen(
        id="i-00000000000000001",
        state="running",
        role=Role.FACTORY,
        name="c_factory_0",
        type="g5.xlarge",
        token="token",
        launched_at=1_767_225_600.0,
        private_host="10.0.0.1",
        public_host="203.0.113.1",
        volumes=("vol-00000000000000001",),
        tags={**cluster_tags(), "Name": "c_factory_0", "project": "p"},
        monitored=True,
        why="User initiated (2026-01-01)",
    )


@pytest.mark.parametrize("missing", [{}, {"PublicIpAddress": "", "PublicDnsName": "", "PrivateIpAddress": ""}])
def test_what_a_fresh_instance_has_not_yet_is_none(missing: dict[str, Any]) -> None:
    """The answer to RunInstances may lack hosts, volumes and tags, or hold them empty."""
    seen = survey.seen({"InstanceId": "i-1", "State": {"Name": "pending"}, **missing})
    assert seen == Seen(id="i-1", state="pending")


def test_a_role_that_is_none_of_ours_is_none() -> None:
    """A tag Role that a person wrote does not break the look."""
    assert survey.seen(instance(1, tags=cluster_tags(role="Boss"))).role is None


@pytest.mark.seed("S19")
@virtual
async def test_a_cluster_is_found_by_creator_name_and_purpose_in_any_state() -> None:
    """Pending and stopped instances count, and page after page is read."""
    cloud = Cloud()
    cloud.ec2.instances = [
        instance(1, state="pending", tags=cluster_tags()),
        instance(2, state="stopped", tags=cluster_tags()),
        instance(3, state="terminated", tags=cluster_tags()),
        instance(4, tags=cluster_tags(creator="you")),
        instance(5, tags=cluster_tags(name="d")),
        instance(6, tags={**cluster_tags(), "Purpose": "x"}),
    ]
    found, began = await survey.find(cloud.region(), "me", "c")
    assert [(i.id, i.state) for i in found] == list(
        zip(ids([1, 2, 3]), ("pending", "stopped", "terminated"), strict=True)
    )
    assert began == START


@virtual
async def test_a_creator_with_a_wildcard_in_it_finds_nobody_elses() -> None:
    """EC2's filters read * and ? as wildcards; here they are letters."""
    cloud = Cloud()
    await survey.find(cloud.region(), "m*", "c?")
    (params,) = cloud.ec2.of("describe_instances")
    assert [f["Values"] for f in params["Filters"]] == [["m\\*"], ["c\\?"], ["flambe"]]


@virtual
async def test_instances_that_ec2_does_not_know_are_told_as_missing() -> None:
    """One unknown id does not spoil the look at the others, of which 200 are asked for at once."""
    cloud = Cloud()
    wanted = ids(range(1, 451))
    cloud.ec2.instances = [instance(n) for n in (1, 2, 450)]
    fact = await survey.describe(cloud.region(), wanted)
    assert [i.id for i in fact.instances] == ids([1, 2, 450])
    assert len(fact.missing) == 447
    sizes = [len(params["Filters"][0]["Values"]) for params in cloud.ec2.of("describe_instances")]
    assert sizes == [200, 200, 50]


@pytest.mark.seed("S20")
@pytest.mark.seed("S33")
@virtual
async def test_own_running_instances_are_listed_with_role_cluster_and_alarm() -> None:
    """The list of the API: what runs, whose it is, and whether an alarm would end it."""
    cloud = Cloud()
    cloud.ec2.instances = [
        instance(1, tags=cluster_tags(role="Orchestrator", Name="c_orchestrator")),
        instance(2, tags=cluster_tags(Name="c_factory_0")),
        instance(3, state="stopped", tags=cluster_tags()),
        instance(4, tags=cluster_tags(creator="you", name="d")),
    ]
    name = "Flambe_Instance_Terminate_CPU_Utilization_i-00000000000000002"
    cloud.cloudwatch.alarms[name] = {"AlarmName": name}
    mine = await survey.instances(cloud.region(), creator="me")
    assert [(i["id"], i["role"], i["cluster"], i["alarm"]) for i in mine] == [
        ("i-00000000000000001", "Orchestrator", "c", False),
        ("i-00000000000000002", "Factory", "c", True),
    ]
    assert mine[0]["tags"]["Name"] == mine[0]["name"] == "c_orchestrator"
    assert (mine[0]["public_host"], mine[0]["private_host"]) == ("203.0.113.1", "10.0.0.1")
    assert len(await survey.instances(cloud.region())) == 3


@pytest.mark.seed("S26")
@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("203.0.113.2", ["i-00000000000000002"]),
        ("ec2-203-0-113-1.example", ["i-00000000000000001"]),
        ("10.0.0.1", ["i-00000000000000001"]),
        ("203.0.113.9", []),
        ("", []),
    ],
)
@virtual
async def test_an_instance_is_looked_up_by_its_host(host: str, found: list[str]) -> None:
    """Nothing found is a plain answer, and instances without a host match none."""
    cloud = Cloud()
    bare = instance(3, tags=cluster_tags())
    bare |= {"PublicIpAddress": "", "PublicDnsName": ""}
    cloud.ec2.instances = [instance(1, tags=cluster_tags()), instance(2, tags=cluster_tags()), bare]
    assert [i["id"] for i in await survey.instances(cloud.region(), host=host)] == found


@pytest.mark.seed("S33")
@virtual
async def test_alarms_are_looked_up_a_hundred_at_a_time() -> None:
    """By the name that Flambé gave them."""
    cloud = Cloud()
    hosts = ids(range(1, 251))
    for host in hosts[::2]:
        cloud.cloudwatch.alarms[alarm_name(host)] = {"AlarmName": alarm_name(host)}
    assert await survey.alarmed(cloud.region(), hosts) == set(hosts[::2])
    assert [len(params["AlarmNames"]) for params in cloud.cloudwatch.of("describe_alarms")] == [100, 100, 50]
