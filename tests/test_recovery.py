"""recovery: clusters whose record was lost are found by their tags, and nothing is done to them before somebody says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flambed import daemonid
from flambed.account import REMEMBERED_AS
from flambed.aws import AwsError
from flambed.desired import Role
from flambed.errors import FlambedError, NotKnownError, Reason
from flambed.fleet import Fleet
from flambed.journal import Journal
from flambed.knownregions import FILE, KnownRegions
from flambed.observed import facts
from flambed.observed.facts import ClusterFound, ClusterSurveyed, Seen
from flambed.observed.fold import fold
from flambed.observed.instance import Stage
from flambed.observed.lookout import CONFIRM_AFTER, Lookout
from flambed.observed.survey import seen, survey
from flambed.observed.world import World
from flambed.plan import decide
from flambed.plan.phase import LOST
from flambed.recovery import NOBODY, Lost, Other, UntoldError, differences, lost, others, record_of
from flambed.region import Region
from flambed.service import Service
from flambed.status import status, why
from tests.fakes import Cloud, client_error, cluster_tags, instance
from tests.runningfleet import OURS, THEIRS, running_fleet
from tests.stories.story import KEY, NOON, Story, cluster, see
from tests.virtualtime import START, virtual

Described = dict[str, Any]


def described(number: int, *, state: str = "running", role: str = "Factory", **tags: str) -> Described:
    """Return one of our instances as EC2 describes it, an underscore in a tag's name being a colon."""
    ours = {"flambed:daemon": OURS, "flambed:cluster": "c1", "flambed:owner": "1000"}
    given = {name.replace("_", ":"): value for name, value in tags.items()}
    return instance(number, state=state, tags={**cluster_tags(role=role), **ours, **given}) | {
        "KeyName": "my_key",
        "SubnetId": "subnet-1",
        "SecurityGroups": [{"GroupId": "sg-1", "GroupName": "mine"}],
        "InstanceType": "t3.large" if role == "Orchestrator" else "g5.xlarge",
        "ClientToken": f"{ {**ours, **given}['flambed:cluster'] }-1-r-0",
    }


def found_in(*descriptions: Described, known: tuple[str, ...] = ()) -> list[Lost]:
    """Return the lost clusters of these instances."""
    return lost(map(seen, descriptions), daemons={OURS}, known=known)


def recorded(*descriptions: Described, host_key: str = "") -> ClusterFound:
    """Return what is on record of the one cluster that these instances make."""
    [cluster] = found_in(*descriptions)
    by_id = {description["InstanceId"]: description for description in descriptions}
    return record_of(cluster, by_id, region="us-east-1", host_key=host_key, began=NOON - 1, at=NOON)


# --- what the tags tell ------------------------------------------------------------------------------------------


def test_a_cluster_is_found_by_the_tags_of_its_instances() -> None:
    """Its id, its name, its owner and its living instances."""
    one, two, dead = described(1, role="Orchestrator"), described(2), described(3, state="terminated")
    [cluster] = found_in(two, dead, one)
    assert (cluster.cluster_id, cluster.identity, cluster.owner) == ("c1", ("me", "c"), 1000)
    assert sorted(i.id for i in cluster.instances) == [one["InstanceId"], two["InstanceId"]]


@pytest.mark.parametrize(
    "tags",
    [{"flambed_daemon": THEIRS}, {"flambed_daemon": ""}, {"flambed_cluster": ""}, {"Purpose": "web"}, {"Role": "Boss"}],
    ids=["another service's", "nobody's", "no cluster's", "another purpose", "no role"],
)
def test_what_is_not_ours_by_every_tag_is_not_found(tags: Mapping[str, str]) -> None:
    """The service's id alone does not make an instance ours, nor does a cluster's."""
    assert found_in(described(1, **tags)) == []


def test_a_cluster_that_is_known_is_not_found() -> None:
    """Its own look sees to it, and what was forgotten lately does not come back."""
    assert found_in(described(1), described(2, flambed_cluster="c2"), known=("c1", "c2")) == []


@pytest.mark.parametrize("second", ["1001", "", "root", "-1"])
def test_an_owner_that_the_tags_do_not_agree_upon_is_nobody(second: str) -> None:
    """An admin may act on the cluster then, and nobody else."""
    [cluster] = found_in(described(1), described(2, flambed_owner=second))
    assert cluster.owner == NOBODY


def test_two_clusters_of_one_name_are_told_apart_by_their_ids() -> None:
    """The older one comes first."""
    old = described(2, flambed_cluster="c2") | {"LaunchTime": described(1)["LaunchTime"].replace(year=2025)}
    assert [cluster.cluster_id for cluster in found_in(described(1), old)] == ["c2", "c1"]


def test_other_services_are_named_with_what_they_have() -> None:
    """Dead instances and ours do not count."""
    theirs = [described(number, flambed_daemon=THEIRS) for number in (1, 2)]
    dead = described(3, flambed_daemon="00000000000000cc", state="terminated")
    assert others(map(seen, [*theirs, dead, described(4), instance(5)]), daemons={OURS}) == [
        Other(daemon=THEIRS, instances=2, clusters=("me/c",))
    ]


def test_the_record_says_what_ec2_tells() -> None:
    """Types, counts and what a launch was made with; the rest is as in a file that leaves it out."""
    fact = recorded(described(1, role="Orchestrator"), described(2), described(3))
    told = fact.desired
    assert (told.name, told.creator, told.region_name) == ("c", "me", "us-east-1")
    assert (told.factories_num, told.orchestrator_type, told.factories_type) == (2, "t3.large", "g5.xlarge")
    assert (told.key_name, told.subnet_id, told.security_group) == ("my_key", "subnet-1", "sg-1")
    assert (fact.cluster_id, fact.owner, fact.region) == ("c1", 1000, "us-east-1")


def test_instances_that_make_no_cluster_are_told_of() -> None:
    """A name that no file can have, for instance; the message names them and what is wrong."""
    odd = described(1, **{"Cluster-Name": "a/b"})
    with pytest.raises(UntoldError, match=rf"{odd['InstanceId']} .*cluster c1 .*name: .*'/'.*terminate them"):
        recorded(odd)


def test_a_file_is_held_against_what_ec2_tells_and_no_more() -> None:
    """A type that no instance shows, or a disk, is not known and cannot differ."""
    found = recorded(described(2)).desired
    file = cluster(factories_type="g5.xlarge", orchestrator_type="c5.large", volume_size=500)
    assert differences(found, {Role.FACTORY}, file) == []
    assert differences(found, set(Role), file) == ["orchestrator_type"]
    assert differences(found, {Role.FACTORY}, cluster(subnet_id="subnet-2")) == ["factories_type", "subnet_id"]


def test_what_ec2_does_not_tell_stands_for_itself_and_differs_from_nothing() -> None:
    """A description that lacks a subnet makes a cluster all the same: it can be taken down, or taken on."""
    bare = {
        name: value for name, value in described(2).items() if name not in {"SubnetId", "KeyName", "SecurityGroups"}
    }
    found = recorded(bare).desired
    assert differences(found, {Role.FACTORY}, cluster(factories_type="g5.xlarge")) == []


# --- what is done about it ---------------------------------------------------------------------------------------

TAGS = {"flambed:cluster": "c1", "flambed:daemon": "d1"}


def mine(subject: str, role: Role, state: str = "running", **changes: Any) -> Seen:
    """Return an instance of the story's cluster, launched under a token that the journal does not know."""
    return see(subject, role, state, tags=TAGS, token=f"c1-1-{subject}", **changes)


ALL = (mine("i-o", Role.ORCHESTRATOR), mine("i-0", Role.FACTORY), mine("i-1", Role.FACTORY))


def found_again(*, host_key: str = "") -> Story:
    """Return a story in which the usual cluster was found by its tags, an hour after its launch."""
    story = Story()
    story.passes(3600)
    story.happens(
        ClusterFound(
            at=story.now,
            desired=cluster(factories_timeout=-1, setup_cmds=()),
            region="us-east-1",
            cluster_id="c1",
            owner=1000,
            host_key=host_key,
            instances=ALL,
            began=story.now,
        )
    )
    return story


def test_a_found_cluster_is_looked_at_and_otherwise_left_as_it_is() -> None:
    """Nothing is launched, tagged, set up, protected or terminated; it is degraded, and says why."""
    story = found_again()
    assert [line for line in story.decides() if not line.startswith("describe")] == []
    assert (story.world.phase, story.world.reason) == ("degraded", LOST)
    assert set(story.stages().values()) == {Stage.RUNNING}
    assert story.protection == {}
    story.passes(7 * 86_400)
    story.happens(facts.ServiceStarted(at=story.now))
    assert [line for line in story.decides() if not line.startswith("describe")] == []
    assert story.protection == {}


def test_a_found_cluster_is_not_shown_as_protected() -> None:
    """Its timeouts are not known: what would end its hosts is not either."""
    story = found_again()
    story.decides()
    document = status("c1", story.world, story.now, story.rules)
    assert {row["protected"] for row in document["instances"]} == {None}
    told = why(story.world, story.now, story.rules, story.instance("i-0"))
    assert "not known" in told["summary"]
    assert {signal["signal"]: signal["value"] for signal in told["signals"]} == {
        "timeout": "not known: the record of its cluster was lost"
    }


def test_down_ends_a_found_cluster_and_its_alarms() -> None:
    """Alarms go when their instance is gone, and not before: they may stand for what is not known."""
    story = found_again()
    story.decides()
    story.happens(facts.DownRequested(at=story.now, by=1000))
    assert "terminate i-0 i-1 i-o" in story.decides()
    assert story.protection == {}
    ids = ("i-o", "i-0", "i-1")
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=ids))
    for one in ALL:
        story.happens(facts.InstancesDescribed(at=story.now, instances=(replace(one, state="terminated", tags={}),)))
    story.decides()
    assert story.world.phase == "gone"
    assert {subject: wanted.gone for subject, wanted in story.protection.items()} == dict.fromkeys(ids, True)


def test_a_found_cluster_whose_hosts_all_ended_is_gone() -> None:
    """Nobody has to take down what is not there."""
    story = found_again()
    story.decides()
    for one in ALL:
        story.happens(facts.InstancesDescribed(at=story.now, instances=(replace(one, state="terminated", tags={}),)))
    story.decides()
    assert story.world.phase == "gone"


def taken_on(story: Story, *, host_key: str = KEY) -> list[str]:
    """Run `up` of the cluster's file, with the look that comes with it; return what is decided."""
    story.up(host_key=host_key)
    story.happens(ClusterSurveyed(at=story.now, instances=ALL, began=story.now))
    return story.decides()


def test_up_takes_a_found_cluster_on_again() -> None:
    """The same instances are set up from the first command on; nothing is launched, and it becomes ready."""
    story = found_again(host_key=KEY)
    story.decides()
    story.passes(86_400)
    lines = taken_on(story)
    assert [line for line in lines if line.startswith(("launch", "prepare", "terminate", "learn"))] == []
    assert [line for line in lines if line.startswith("set up")] == [
        f"set up {i} from 0" for i in ("i-0", "i-1", "i-o")
    ]
    assert not any(i.adopted for i in story.world.instances.values()), "they are ours"
    story.tags()
    story.sets_up("i-o", "i-0", "i-1")
    story.decides()
    assert story.world.phase == "ready", story.world.reason
    assert story.decides() == []


def test_a_host_key_that_was_lost_is_learned_anew() -> None:
    """The pair that is made now is not the one that the hosts were launched with."""
    story = found_again()
    story.decides()
    lines = taken_on(story, host_key="ssh-ed25519 AAAAnew")
    assert [line for line in lines if line.startswith("learn")] == [
        f"learn the host key of {i}" for i in ("i-0", "i-1", "i-o")
    ]


def test_up_before_the_look_that_finds_it_takes_the_cluster_on_all_the_same() -> None:
    """`up` looks by itself; instances from before the new key pair do not get its key pinned."""
    story = Story()
    story.passes(3600)
    story.up(host_key="ssh-ed25519 AAAAnew", host_key_since=story.now)
    story.happens(ClusterSurveyed(at=story.now, instances=ALL[:2], began=story.now))
    assert {i.host_key for i in story.world.instances.values()} == {None}
    lines = story.decides()
    assert [line for line in lines if line.startswith(("launch", "prepare"))] == ["prepare Factory"], "one is missing"


@pytest.mark.idle("adopted, idle for hours")
def test_alarms_of_found_hosts_begin_with_points() -> None:
    """They may have idled for long, unseen: an alarm put at once would end them at once."""
    story = found_again(host_key=KEY)
    story.decides()
    story.passes(60)
    story.up(cluster(factories_timeout=1))
    story.happens(ClusterSurveyed(at=story.now, instances=ALL, began=story.now))
    story.decides()
    assert {subject: wanted.seed for subject, wanted in story.protection.items()} == {
        "i-o": False,  # without a timeout: an alarm that it may have is removed
        "i-0": True,
        "i-1": True,
    }


def test_a_launch_that_fails_leaves_found_hosts_alone() -> None:
    """They were there before: a roll-back gives back what this `up` launched, and nothing else."""
    story = Story()
    story.up()
    story.happens(ClusterSurveyed(at=story.now, instances=ALL[1:2], began=story.now))
    story.decides()
    story.prepares()
    story.decides()
    story.launches(Role.FACTORY, "i-9")
    story.ends("Launch", reason=Reason.BAD_REQUEST)
    assert "terminate i-9" in story.decides()
    assert story.world.phase == "failed"


def test_a_journal_that_is_an_old_copy_launches_nothing_that_is_there() -> None:
    """After a start it is looked by tag before anything is launched: what the copy does not know of is ours."""
    story = Story()
    story.asks()
    [token] = [t for t, i in story.world.intents.items() if i.spec.role is Role.FACTORY]
    copy = replace(story.world, intents={}, launches=0, in_flight={})  # from before the launches were written down
    story.world, story.running = copy, []
    story.passes(600)
    story.happens(facts.ServiceStarted(at=story.now))
    assert story.decides() == ["find"]
    story.finds(*(replace(one, token=token) for one in ALL))
    lines = story.decides()
    assert [line for line in lines if line.startswith("launch")] == []
    assert set(story.stages()) == {"i-o", "i-0", "i-1"}


def test_a_find_changes_nothing_of_a_cluster_that_is_known() -> None:
    """It may come late, after an `up` that found the same."""
    story = Story()
    story.becomes_ready()
    assert fold(story.world, recorded(described(1))) is story.world


def test_nothing_is_decided_of_a_cluster_before_it_is_found() -> None:
    """A member without a record is a name and nothing else."""
    rules = Story().rules
    assert decide(None, World(), NOON, rules).actions == ()


# --- how it is noticed -------------------------------------------------------------------------------------------


class Custodian:
    """Stands for the fleet."""

    daemon = OURS
    daemons = frozenset({OURS})

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.taken: list[Lost] = []
        self.can = True

    async def take_over(self, region: Region, lost: Lost, described: Mapping[str, Any], began: float) -> None:
        """Take note of what was found."""
        assert began >= START
        assert {i.id for i in lost.instances} <= described.keys()
        self.taken.append(lost)
        if self.can:
            self.known.add(lost.cluster_id)


@virtual
async def test_a_lost_cluster_is_taken_over_at_the_second_look() -> None:
    """The first look is at the start, though no cluster is known; the second comes soon after."""
    cloud, fleet = Cloud(), Custodian()
    cloud.ec2.instances = [described(1), described(2, flambed_daemon=THEIRS)]
    async with cloud.region(lookout=Lookout(fleet)):
        await asyncio.sleep(1)
        assert fleet.taken == []
        await asyncio.sleep(CONFIRM_AFTER)
        assert [one.cluster_id for one in fleet.taken] == ["c1"]
        await asyncio.sleep(3600)
    assert len(fleet.taken) == 1
    assert len(cloud.ec2.of("describe_instances")) <= 2 + 3600 / 300


@virtual
async def test_what_only_one_look_shows_is_not_taken_over() -> None:
    """A look that lags behind a `down` must bring nothing back."""
    cloud, fleet = Cloud(), Custodian()
    cloud.ec2.instances = [described(1)]
    async with cloud.region(lookout=Lookout(fleet)):
        await asyncio.sleep(1)
        cloud.ec2.instances = [described(1, state="terminated")]
        await asyncio.sleep(3600)
    assert fleet.taken == []


@virtual
async def test_a_cluster_that_cannot_be_taken_over_does_not_hurry_the_looks() -> None:
    """Another one may have its name; it comes again with each survey, and no oftener."""
    cloud, fleet = Cloud(), Custodian()
    fleet.can = False
    cloud.ec2.instances = [described(1)]
    async with cloud.region(lookout=Lookout(fleet)):
        await asyncio.sleep(3600)
    assert 10 <= len(fleet.taken) <= 13


@virtual
async def test_after_a_loss_the_second_look_comes_soon_whatever_the_first_shows() -> None:
    """Until then nobody can say which clusters there are."""
    cloud, lookout = Cloud(), Lookout(Custodian(), twice=True)
    async with cloud.region(lookout=lookout):
        await asyncio.sleep(1)
        assert lookout.looks == 1
        await asyncio.sleep(CONFIRM_AFTER)
        assert lookout.looks == 2
        await asyncio.sleep(100)
        assert lookout.looks == 2


@virtual
async def test_the_first_look_is_made_up_for_where_aws_does_not_answer() -> None:
    """By the next survey, and the log says so."""
    cloud, fleet = Cloud(), Custodian()
    cloud.ec2.instances = [described(1)]
    cloud.ec2.fail("describe_instances", client_error("InternalError", status=500))
    async with cloud.region(lookout=Lookout(fleet)):
        await asyncio.sleep(600)
    assert "region.survey_failed" in cloud.heard.names()
    assert len(fleet.taken) == 1


@virtual
async def test_another_service_is_named_once() -> None:
    """That is legitimate, and left alone; it is shown for as long as it is there."""
    cloud, fleet = Cloud(), Custodian()
    cloud.ec2.instances = [described(1, flambed_daemon=THEIRS)]
    shown: list[tuple[Other, ...]] = []
    async with cloud.region(lookout=Lookout(fleet)) as region:
        await asyncio.sleep(1800)
        shown.append(region.others)
        cloud.ec2.instances = []
        await asyncio.sleep(300)
        shown.append(region.others)
    assert shown == [(Other(daemon=THEIRS, instances=1, clusters=("me/c",)),), ()]
    told = [fields for name, fields in cloud.heard.events if name == "daemon.other_seen"]
    assert [(one["daemon"], one["instances"], one["clusters"]) for one in told] == [(THEIRS, 1, ["me/c"])]


# --- who looks after it then -------------------------------------------------------------------------------------


async def find(fleet: Fleet, *descriptions: Described) -> None:
    """Let the fleet take over the one cluster that these instances make, and wait for what becomes of it."""
    [cluster] = lost(map(seen, descriptions), daemons=fleet.daemons, known=fleet.known)
    changed = fleet.changes()
    by_id = {description["InstanceId"]: description for description in descriptions}
    await fleet.take_over(await fleet.region(), cluster, by_id, NOON)
    member = fleet.directory.get(cluster.identity)
    while member is not None and member.world.desired is None:
        await asyncio.wait_for(changed.wait(), 5)
        changed = fleet.changes()


async def test_a_region_that_had_a_cluster_is_looked_into_when_the_journal_is_lost(tmp_path: Path) -> None:
    """It is neither the default one nor does it have a queue; one that was only asked about is not kept."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, told):
        await fleet.region("eu-west-2")
        await fleet.take_on(("me", "c"), "c1", World(), await fleet.region("eu-west-1"))
    for file in (tmp_path / "state").glob("journal.sqlite*"):
        file.unlink()
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, told):
        assert sorted(fleet.regions) == ["eu-west-1", "us-east-1"]
        assert "region.not_kept" not in [event for event, _ in told.told]


async def test_a_setting_names_regions_for_the_day_on_which_the_folder_is_lost(tmp_path: Path) -> None:
    """They are opened at the start, so that clusters are found there."""
    async with running_fleet(tmp_path, Cloud(), regions=("us-west-2",)) as (fleet, _, _told):
        assert sorted(fleet.regions) == ["us-east-1", "us-west-2"]


async def test_the_service_is_not_well_in_another_account_than_it_remembers(tmp_path: Path) -> None:
    """The account is kept in the journal, so that a restart with another profile's credentials is noticed."""
    cloud = Cloud()
    async with running_fleet(tmp_path, cloud) as (fleet, journal, _):
        assert await (await fleet.region()).account() == "123456789012"
        assert journal.memory[REMEMBERED_AS] == "123456789012"
        journal.memory[REMEMBERED_AS] = "210987654321"
    async with running_fleet(tmp_path, cloud) as (fleet, journal, told):
        with pytest.raises(AwsError, match="210987654321"):
            await survey(await fleet.region())
        service = Service(fleet, bench=vars(fleet)["_bench"], journal=journal, clock=fleet.clock)
        health = service.health()
        assert not health["ok"]
        assert "credentials belong to AWS account 123456789012" in health["message"]
        assert [event for event, _ in told.told].count("aws.other_account") == 1


async def test_a_region_that_cannot_be_written_down_is_told_and_keeps_no_cluster_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next cluster there tries again."""

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    async with running_fleet(tmp_path, Cloud()) as (fleet, _, told):
        region = await fleet.region("eu-west-1")
        with monkeypatch.context() as disk:
            disk.setattr("flambed.knownregions.write_atomically", full)
            await fleet.take_on(("me", "c"), "c1", World(), region)
        assert [fields["region"] for event, fields in told.told if event == "region.not_kept"] == ["eu-west-1"]
        await fleet.take_on(("me", "d"), "d1", World(), region)
    assert (tmp_path / "state" / FILE).read_text() == "eu-west-1\n"


def test_a_file_of_regions_that_cannot_be_read_is_told_and_lines_that_are_no_regions_are_left_out(
    tmp_path: Path,
) -> None:
    """A folder in its place is no file."""
    (tmp_path / FILE).write_text("eu-west-1\nnowhere\n\n")
    assert KnownRegions(tmp_path).read() == {"eu-west-1"}
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(FlambedError, match="cannot be read"):
        KnownRegions(tmp_path).read()


async def test_a_found_cluster_is_looked_after_and_its_creator_is_its_owners_again(tmp_path: Path) -> None:
    """It is written down, so that it is known after the next start; a predecessor's is taken over like our own."""
    cloud = Cloud()
    async with running_fleet(tmp_path, cloud) as (fleet, journal, _):
        await find(fleet, described(1, flambed_daemon=THEIRS))
        member = fleet.directory.find("c")
        assert (member.cluster_id, member.world.recovered, member.world.owner) == ("c1", True, 1000)
        assert journal.claims() == {"me": 1000}
    async with running_fleet(tmp_path, cloud) as (fleet, _, _):
        assert fleet.directory.find("c").world.recovered
        assert "c1" in fleet.known


async def test_a_machine_in_a_state_that_has_no_name_here_counts_as_asked_for_and_is_looked_at_again(
    tmp_path: Path,
) -> None:
    """EC2 may come to say more than it does; what the machine is shows once the state is one that we know."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, log):
        await find(fleet, described(1, state="thawing"))
        [told] = await log.until("instance.requested")
        member = fleet.directory.find("c")
        [found] = member.world.instances.values()
        assert (found.stage, told["role"], told["was"]) == (Stage.REQUESTED, "Factory", None)
        member.loop.submit(facts.InstancesDescribed(at=NOON + 60, instances=(seen(described(1)),)))
        [told] = await log.until("instance.running")
        assert told["was"] == "requested"


async def test_a_cluster_whose_owner_is_not_told_claims_no_creator(tmp_path: Path) -> None:
    """Whoever uses the creator first has it then, and an admin sees to the cluster."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, _):
        await find(fleet, described(1, flambed_owner="?"))
        assert fleet.directory.find("c").world.owner == NOBODY
        assert journal.claims() == {}


async def test_a_found_cluster_does_not_take_the_name_of_one_that_lives(tmp_path: Path) -> None:
    """It is a stranger to that one, and comes again when that is gone; who is being asked for is not disturbed either."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, _):
        async with fleet.lock(("me", "c")):
            await find(fleet, described(1))
            assert len(fleet.directory) == 0, "an `up` of that name is under way"
        await find(fleet, described(1))
        await find(fleet, described(2, flambed_cluster="c2"))
        assert fleet.directory.find("c").cluster_id == "c1"


async def test_a_found_cluster_takes_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    """The old one is forgotten, as when an `up` takes its name; it is not found again, whatever EC2 still shows."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, _):
        gone = replace(Story().world, desired=cluster(name="c", creator="me"), region="us-east-1", phase="gone")
        await fleet.take_on(("me", "c"), "c0", gone, await fleet.region())
        await find(fleet, described(1))
        assert fleet.directory.find("c").cluster_id == "c1"
        assert {"c0", "c1"} <= fleet.known


async def test_instances_that_make_no_cluster_are_told_of_once(tmp_path: Path) -> None:
    """They are looked after by nobody, and each survey shows them."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, log):
        odd = described(1, **{"Cluster-Name": "a/b"})
        await find(fleet, odd)
        await find(fleet, odd)
        assert [event for event, _ in log.told].count("cluster.unclear") == 1
        assert len(fleet.directory) == 0


async def until_looked(fleet: Fleet, looks: int) -> None:
    """Let the only region be surveyed so many times."""
    region = await fleet.region()
    assert region.lookout is not None
    while region.lookout.looks < looks:
        await survey(region)


async def test_a_service_whose_journal_was_lost_denies_no_cluster_before_it_has_looked(tmp_path: Path) -> None:
    """Two looks at every region make it sure; one that cannot be opened leaves it in doubt."""
    async with running_fleet(tmp_path, Cloud(), anew=True) as (fleet, _, _):
        assert "us-east-1 is still being looked at" in str(fleet.searching())
        with pytest.raises(NotKnownError, match="no cluster 'c' is known: the journal is new, and us-east-1 is still"):
            fleet.directory.find("c")
        await until_looked(fleet, 2)
        assert fleet.searching() is None
        with pytest.raises(NotKnownError, match="there is no cluster 'c'"):
            fleet.directory.find("c")


async def test_a_service_whose_journal_was_not_lost_is_in_no_doubt(tmp_path: Path) -> None:
    """Neither the first one there ever was, nor one that was started again."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, _):
        assert fleet.searching() is None
    async with running_fleet(tmp_path, Cloud(), anew=True) as (fleet, _, _):
        assert fleet.searching() is None


# --- the service's own id ----------------------------------------------------------------------------------------


async def opened(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Open the journal of a state folder as the service does; return its id, and the earlier ones."""
    kept = daemonid.read(folder)
    journal = Journal.open(folder / "journal.sqlite", daemon_id=kept[0] if kept else None)
    await journal.close()
    return journal.daemon_id, daemonid.keep(folder, journal.daemon_id, kept)


def lose_journal(folder: Path) -> None:
    """Remove the journal, as a disk might."""
    for file in folder.glob("journal.sqlite*"):
        file.unlink()


async def test_a_journal_that_is_made_anew_keeps_the_services_id(tmp_path: Path) -> None:
    """The file beside it has it; else nothing would tell that its instances are its own."""
    folder = tmp_path / "state"
    first, _ = await opened(folder)
    assert (folder / daemonid.FILE).stat().st_mode & 0o777 == 0o600
    lose_journal(folder)
    assert await opened(folder) == (first, ())


async def test_the_id_file_is_written_anew_from_the_journal(tmp_path: Path) -> None:
    """Folders of earlier versions have none, and one that was garbled is none."""
    folder = tmp_path / "state"
    first, _ = await opened(folder)
    (folder / daemonid.FILE).write_text("?\n")
    assert await opened(folder) == (first, ())
    assert daemonid.read(folder) == (first,)


async def test_an_id_from_between_is_kept_as_an_earlier_one(tmp_path: Path) -> None:
    """Both were lost, a new one was begun, and then the old journal was put back: what the new one launched is ours."""
    folder = tmp_path / "state"
    first, _ = await opened(folder)
    backup = (folder / "journal.sqlite").read_bytes()
    lose_journal(folder)
    (folder / daemonid.FILE).unlink()
    between, _ = await opened(folder)
    assert between != first
    lose_journal(folder)
    (folder / "journal.sqlite").write_bytes(backup)
    assert await opened(folder) == (first, (between,))
    assert await opened(folder) == (first, (between,))


def test_an_id_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The service does not begin under another id in silence."""
    (tmp_path / daemonid.FILE).mkdir()
    with pytest.raises(FlambedError, match="daemon-id cannot be read"):
        daemonid.read(tmp_path)
