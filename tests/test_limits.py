"""Limits per user: whom they hold, what counts, and that two requests at once cannot get past them together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flambed import limits
from flambed.access import Caller, Rules
from flambed.admission import Admission
from flambed.cluster import Member
from flambed.desired import Cluster
from flambed.directory import Directory
from flambed.errors import ClusterConfigurationError, NotAllowedError, OverLimitError
from flambed.observed.world import World
from flambed.region import Region
from flambed.settings import Limit
from tests.clusterfiles import cluster
from tests.fakes import Cloud

ANN = Caller(uid=1001, gid=1001, pid=1, name="ann")
EVE = Caller(uid=1003, gid=1003, pid=1, name="eve", groups=frozenset({"flambed-admin"}))
VCPUS = {("us-east-1", "g5.xlarge"): 4, ("us-east-1", "t3.large"): 2}


def exceeded(limit: Limit, wanted: Cluster, others: limits.Machines | None = None) -> list[tuple[str, str]]:
    """The settings that a fresh cluster exceeds, and what is told of each."""
    machines = limits.total([limits.asked(wanted, "us-east-1", None, shrink=False), others or {}])
    try:
        limits.check(ANN, "ann", limit, wanted=wanted, region="us-east-1", machines=machines, vcpus=VCPUS)
    except OverLimitError as error:
        return [(problem.field or "", problem.message) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (Limit(instances=5), None),
        (Limit(instances=4), ("instances", "is 4, and with c there would be 5")),
        (Limit(vcpus=18), None),
        (Limit(vcpus=17), ("vcpus", "is 17, and with c there would be 18")),
        (Limit(types=("t3.*", "g?.xlarge")), None),
        (Limit(types=("t3.*",)), ("types", "is t3.*, and g5.xlarge is asked for")),
        (Limit(types=("g5.*",)), ("types", "is g5.*, and t3.large is asked for")),
        (Limit(regions=("us-east-1",)), None),
        (Limit(regions=()), ("regions", "is nothing, and us-east-1 is asked for")),
        (Limit(subnets=("subnet-1",)), None),
        (Limit(subnets=("subnet-2",)), ("subnets", "is subnet-2, and subnet-1 is asked for")),
        (Limit(), None),
    ],
    ids=str,
)
def test_each_limit_allows_its_value_and_nothing_beyond(limit: Limit, told: tuple[str, str] | None) -> None:
    """An orchestrator and four factories, 5 machines of 18 vCPUs, against one limit at a time."""
    wanted = [] if told is None else [(f"limits.ann.{told[0]}", f"limits.ann.{told[0]} {told[1]}")]
    assert exceeded(limit, cluster()) == wanted


def test_every_limit_that_is_exceeded_is_told_at_once() -> None:
    """As every mistake in a file is; and the whole is one sentence for a person."""
    found = exceeded(Limit(instances=1, vcpus=1, regions=("eu-west-1",)), cluster())
    assert [field.rpartition(".")[2] for field, _ in found] == ["instances", "vcpus", "regions"]


def test_what_other_clusters_have_counts_as_well() -> None:
    """Four more machines of another cluster are too many."""
    others = {("us-east-1", "g5.xlarge"): 4}
    assert exceeded(Limit(instances=9), cluster(), others) == []
    [(field, message)] = exceeded(Limit(instances=8), cluster(), others)
    assert (field, message) == ("limits.ann.instances", "limits.ann.instances is 8, and with c there would be 9")


def test_a_user_is_held_by_the_own_line_else_by_the_default_and_an_admin_only_by_the_own() -> None:
    """The default is for everybody who is not named, admins apart."""
    both = {"default": Limit(instances=1), "ann": Limit(vcpus=1), "eve": Limit()}
    assert limits.line_of(ANN, both, admin=False) == "ann"
    assert limits.line_of(ANN, {"default": Limit()}, admin=False) == "default"
    assert limits.line_of(EVE, {"default": Limit()}, admin=True) is None
    assert limits.line_of(EVE, both, admin=True) == "eve"
    assert limits.line_of(ANN, {}, admin=False) is None


def up(**changes: Any) -> World:
    """A cluster that was asked for and has no machine yet."""
    return World(desired=cluster(**changes), region="us-east-1", owner=ANN.uid, wanted=True, phase="converging")


def test_a_cluster_on_its_way_counts_as_it_is_to_be_and_one_that_stands_as_it_is() -> None:
    """So nobody gets twice as much by asking quickly, and what ended by idleness is free for others."""
    assert limits.machines(up()) == {("us-east-1", "t3.large"): 1, ("us-east-1", "g5.xlarge"): 4}
    for over in (replace(up(), phase="ready"), replace(up(), wanted=False), replace(up(), phase="gone")):
        assert limits.total([limits.machines(over)]) == {}


# --- through the door --------------------------------------------------------------------------------------------


def admission(region: Region, said: Mapping[str, Limit], *worlds: World) -> tuple[Admission, Directory]:
    """An admission that knows these clusters; of its other parts a limit needs none."""
    directory = Directory()
    for world in worlds:
        assert world.desired is not None
        directory.add(member(region, world))
    nothing = cast("Any", None)
    return Admission(Rules, nothing, nothing, nothing, directory=directory, limits=lambda: said), directory


def member(region: Region, world: World) -> Member:
    """What a limit sees of a cluster."""
    assert world.desired is not None
    return cast("Member", SimpleNamespace(identity=world.desired.identity, world=world, region=region))


@pytest.fixture
async def cloud() -> Cloud:
    """A cloud with two instance types."""
    made = Cloud()
    made.ec2.types = {kind: {"VCpuInfo": {"DefaultVCpus": number}} for (_, kind), number in VCPUS.items()}
    return made


async def test_the_vcpus_are_those_that_ec2_tells(cloud: Cloud) -> None:
    """Two clusters of 18 fit into 36 and not into 35; each type is asked for once."""
    region = cloud.region()
    for most, fits in ((36, True), (35, False)):
        door, _ = admission(region, {"default": Limit(vcpus=most)}, up())
        wanted = cluster(name="d")
        if fits:
            async with door.within_limits(ANN, wanted, None, region, shrink=False):
                pass
        else:
            with pytest.raises(NotAllowedError, match=r"limits\.default\.vcpus is 35, and with d there would be 36"):
                async with door.within_limits(ANN, wanted, None, region, shrink=False):
                    raise AssertionError("it was let in")
    assert len(cloud.ec2.of("describe_instance_types")) == len(VCPUS)


async def test_a_type_that_does_not_exist_is_a_mistake_in_the_file(cloud: Cloud) -> None:
    """Its vCPUs cannot be counted, and the message names the nearest type that there is."""
    region = cloud.region()
    door, _ = admission(region, {"default": Limit(vcpus=100)})
    with pytest.raises(ClusterConfigurationError, match=r"no instance type 'g5.xlage'.*nearest is g5.xlarge"):
        async with door.within_limits(ANN, cluster(factories_type="g5.xlage"), None, region, shrink=False):
            raise AssertionError("it was let in")


async def test_others_clusters_do_not_count_and_a_changed_one_counts_once(cloud: Cloud) -> None:
    """The limit of 5 has room for the user's one cluster, whoever else has what."""
    region = cloud.region()
    mine, others = up(), replace(up(name="x"), owner=1002)
    door, directory = admission(region, {"default": Limit(instances=5)}, mine, others)
    async with door.within_limits(ANN, cluster(), directory.get(("me", "c")), region, shrink=False):
        pass
    with pytest.raises(OverLimitError):
        async with door.within_limits(ANN, cluster(name="d"), None, region, shrink=False):
            raise AssertionError("it was let in")


async def test_two_requests_at_once_do_not_get_past_a_limit_together(cloud: Cloud) -> None:
    """The second is counted when the first is written down."""
    region = cloud.region()
    door, directory = admission(region, {"default": Limit(instances=5)})
    let_in = []

    async def ask(name: str) -> None:
        async with door.within_limits(ANN, cluster(name=name), None, region, shrink=False):
            await asyncio.sleep(0)
            directory.add(member(region, up(name=name)))
            let_in.append(name)

    outcomes = await asyncio.gather(ask("c"), ask("d"), return_exceptions=True)
    assert let_in == ["c"]
    assert [type(one) for one in outcomes] == [type(None), OverLimitError]
