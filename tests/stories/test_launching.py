"""Stories of launching: who is asked for, when, and what becomes of a launch that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import Stage
from tests.stories.story import Story, cluster, see

pytestmark = pytest.mark.seed("S18")


def test_a_cluster_comes_to_life_and_then_nothing_more_is_decided() -> None:
    """From `up` to ready: each thing is asked for once, and a converged cluster asks for nothing."""
    story = Story()
    story.up()
    assert story.decides() == ["find"]
    story.finds()
    assert story.decides() == ["prepare Orchestrator Factory"]
    story.prepares()
    assert story.decides() == ["launch 1 Orchestrator (c1-1-r-0)", "launch 2 Factory (c1-1-r-1)"]
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0", "i-1")
    assert story.decides() == []
    story.runs("i-o")
    assert story.decides() == ["set up i-o from 0"]
    story.runs("i-0", "i-1")
    assert story.decides() == ["set up i-0 from 0", "set up i-1 from 0", "describe i-0 i-1 i-o"]
    story.described(
        see("i-o", Role.ORCHESTRATOR, "running"), *(see(i, Role.FACTORY, "running") for i in ("i-0", "i-1"))
    )
    assert story.decides() == ["tag i-o x_orchestrator", "tag i-0 x_factory_0", "tag i-1 x_factory_1"]
    story.tags()
    story.sets_up("i-o", "i-0", "i-1")
    assert story.decides() == []
    assert (story.world.phase, story.world.reason) == ("ready", None)
    story.passes(3600)
    assert story.decides() == []


def test_a_second_up_of_the_same_file_launches_nothing() -> None:
    """What exists is found and kept."""
    story = Story()
    story.becomes_ready()
    story.passes(60)
    story.up()
    assert story.decides() == ["find"]
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), *(see(i, Role.FACTORY, "running") for i in ("i-0", "i-1")))
    assert story.decides() == []
    assert story.world.phase == "ready"


def test_an_up_with_more_factories_launches_only_the_missing_ones() -> None:
    """Two of four are there: two are asked for, and everybody learns of them."""
    story = Story()
    story.becomes_ready()
    story.up(cluster(factories_num=4))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), *(see(i, Role.FACTORY, "running") for i in ("i-0", "i-1")))
    assert story.decides() == ["launch 2 Factory (c1-2-r-2)"]
    story.launches(Role.FACTORY, "i-2", "i-3")
    assert [story.instance(i).index for i in ("i-2", "i-3")] == [2, 3]
    story.decides()
    story.runs("i-2", "i-3")
    story.decides()
    story.described(see("i-2", Role.FACTORY, "running"), see("i-3", Role.FACTORY, "running"))
    story.decides()
    story.tags()
    story.sets_up("i-2", "i-3")
    story.informs()
    assert story.decides() == []
    assert story.world.phase == "ready"


def test_an_up_with_fewer_factories_keeps_them_unless_it_may_shrink() -> None:
    """Nobody loses machines because of a number in a file; with --shrink the highest indices go."""
    story = Story()
    story.becomes_ready()
    everyone = (see("i-o", Role.ORCHESTRATOR, "running"), *(see(i, Role.FACTORY, "running") for i in ("i-0", "i-1")))
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(*everyone)
    assert story.decides() == []
    story.up(cluster(factories_num=1), shrink=True)
    story.decides()
    story.finds(*everyone)
    assert story.decides() == ["terminate i-1"]
    assert story.world.phase == "converging"
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-1",)))
    story.decides()
    assert story.world.phase == "converging"
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-1", Role.FACTORY, "terminated"),)))
    story.decides()
    story.informs()
    assert story.decides() == []
    assert story.world.phase == "ready"


@pytest.mark.seed("S31")
@pytest.mark.parametrize("reason", [Reason.BAD_REQUEST, Reason.NOT_PERMITTED, Reason.QUOTA])
def test_a_launch_that_cannot_succeed_is_rolled_back_at_once(reason: Reason) -> None:
    """Only factories came: they are given back, and the user is told AWS's own words."""
    story = Story()
    story.asks()
    story.launches(Role.FACTORY, "i-0", "i-1")
    story.ends("Launch", reason=reason, say="EC2 refuses t3.large")
    assert story.decides() == ["terminate i-0 i-1"]
    assert story.world.phase == "failed"
    assert story.world.reason == "orchestrator: EC2 refuses t3.large (Code)"
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-0", "i-1")))
    story.passes(120)
    assert story.decides() == ["describe i-0 i-1"]
    story.described(see("i-0", Role.FACTORY, "terminated"), see("i-1", Role.FACTORY, "terminated"))
    assert story.decides() == []
    assert story.world.phase == "failed"


@pytest.mark.seed("S31")
def test_no_capacity_is_asked_for_again_until_the_deadline_and_then_rolled_back() -> None:
    """The orchestrator waits for factories for 15 minutes, not for ever."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.NO_CAPACITY, say="no g3.4xlarge in us-east-1a")
    assert story.decides() == []
    assert story.world.phase == "converging"
    assert story.world.reason == "factory: no g3.4xlarge in us-east-1a (Code); asked for again"
    story.passes(16)
    assert story.decides() == ["launch 2 Factory (c1-1-r-2)"]
    story.ends("Launch", reason=Reason.NO_CAPACITY, say="no g3.4xlarge in us-east-1a")
    story.passes(900)
    assert story.decides() == ["terminate i-o", "describe i-o"]
    assert story.world.phase == "failed"


@pytest.mark.seed("S31")
def test_an_orchestrator_that_is_set_up_waits_for_the_first_factories_and_is_not_degraded() -> None:
    """What may still be rolled back is not settled: `up` goes on waiting until the deadline."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.NO_CAPACITY, say="no g3.4xlarge in us-east-1a")
    story.runs("i-o")
    story.decides()
    story.sets_up("i-o")
    story.decides()
    assert story.instance("i-o").stage is Stage.READY
    assert story.world.phase == "converging"
    assert story.world.reason == "factory: no g3.4xlarge in us-east-1a (Code); asked for again"
    story.passes(900)
    assert story.decides() == ["terminate i-o"]
    assert story.world.phase == "failed"


@pytest.mark.seed("S31")
def test_what_existed_before_is_left_alone_by_a_roll_back() -> None:
    """An orchestrator that was there outlives a failed launch of factories."""
    story = Story(may_adopt=True)
    story.up()
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"))
    story.decides()
    story.prepares()
    story.decides()
    story.ends("Launch", reason=Reason.QUOTA, say="no more vCPUs")
    assert story.decides() == []
    assert story.world.phase == "failed"
    assert story.stages()["i-o"] is Stage.RUNNING


def test_some_but_not_all_factories_are_a_degraded_cluster_that_asks_again() -> None:
    """EC2 gave one of two: it is set up and used, and the other one is asked for under a new token."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    assert story.decides() == []
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    story.tags()
    story.sets_up("i-o", "i-0")
    story.decides()
    assert story.world.phase == "degraded"
    assert story.world.reason is not None
    assert "1 of 2 factories missing: EC2 launched 1 of 2 instances" in story.world.reason
    story.passes(20)
    assert story.decides() == ["launch 1 Factory (c1-1-r-2)"]
    story.ends("Launch", reason=Reason.NO_CAPACITY, say="no g3.4xlarge in us-east-1a")
    story.passes(900)
    assert story.decides() == [], "after launch.deadline it stays as it is"
    assert story.world.phase == "degraded"


@pytest.mark.idle("loss of an instance")
def test_an_instance_lost_before_ready_is_replaced_three_times() -> None:
    """Launches that die are tried again, not for ever; the reason is EC2's."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    for number in range(4):
        story.launches(Role.FACTORY, f"i-{number}")
        story.decides()
        story.happens(facts.StateNotified(at=story.now, instance=f"i-{number}", state="terminated"))
        assert story.decides() == [f"describe i-{number}"]
        story.described(see(f"i-{number}", Role.FACTORY, "terminated", why="VolumeLimitExceeded"))
        story.passes(2)
        if number < 3:
            assert story.decides() == [f"launch 1 Factory (c1-1-r-{number + 2})"]
            assert story.world.phase == "converging"
    assert story.decides() == ["terminate i-o"]
    assert story.world.phase == "failed"
    assert story.world.reason is not None
    assert "VolumeLimitExceeded" in story.world.reason


@pytest.mark.idle("loss of an instance")
def test_an_instance_lost_after_ready_is_reported_and_not_replaced() -> None:
    """What ran experiments is not silently exchanged; `up` restores it."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.StateNotified(at=story.now, instance="i-1", state="terminated"))
    story.passes(2)
    assert story.decides() == ["describe i-1"]
    story.described(see("i-1", Role.FACTORY, "terminated", why="Server.SpotInstanceTermination"))
    assert story.decides() == ["inform i-o", "inform i-0"]
    story.informs()
    assert story.decides() == []
    assert story.world.phase == "degraded"
    story.up()
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    assert story.decides() == ["launch 1 Factory (c1-2-r-2)"]


def test_a_crash_after_the_intent_calls_again_with_the_same_token() -> None:
    """Nobody knows whether RunInstances was called: it is called again, and AWS answers with the same instances."""
    story = Story()
    story.up()
    story.decides()
    story.finds()
    story.decides()
    story.prepares()
    before = story.decides()
    story.running.clear()
    story.happens(facts.ServiceStarted(at=story.now))
    assert story.decides() == before


@pytest.mark.parametrize("reason", [Reason.THROTTLED, Reason.TRANSIENT])
def test_a_launch_without_a_certain_answer_is_repeated_with_its_token(reason: Reason) -> None:
    """A throttled or lost call is the same call the next time."""
    story = Story()
    story.asks()
    story.launches(Role.FACTORY, "i-0", "i-1")
    story.ends("Launch", reason=reason)
    assert story.decides() == []
    story.passes(5)
    assert story.decides() == ["launch 1 Orchestrator (c1-1-r-0)"]


@pytest.mark.seed("S19")
def test_two_orchestrators_of_one_name_are_named_and_neither_is_touched() -> None:
    """The user decides which one it is."""
    story = Story(may_adopt=True)
    story.up()
    story.decides()
    story.finds(see("i-a", Role.ORCHESTRATOR, "running"), see("i-b", Role.ORCHESTRATOR, "running"))
    assert story.decides() == []
    assert story.protection == {}
    assert story.world.phase == "failed"
    assert story.world.reason is not None
    assert "i-a" in story.world.reason
    assert "i-b" in story.world.reason


@pytest.mark.seed("S19")
def test_pending_and_stopped_instances_count_and_stopped_ones_are_started() -> None:
    """A second run during `pending` launches nothing twice."""
    story = Story(may_adopt=True)
    story.up()
    story.decides()
    story.finds(
        see("i-o", Role.ORCHESTRATOR, "pending"),
        see("i-0", Role.FACTORY, "stopped"),
        see("i-1", Role.FACTORY, "stopping"),
    )
    assert story.decides() == ["start i-0"]
    story.ends("Start", facts.StartAccepted(at=story.now, instances=("i-0",)))
    story.happens(facts.StateNotified(at=story.now, instance="i-1", state="stopped"))
    story.passes(2)
    assert story.decides() == ["describe i-1"]
    story.described(see("i-1", Role.FACTORY, "stopped"))
    assert story.decides() == ["start i-1"]


@pytest.mark.seed("S19")
def test_instances_of_strangers_stop_the_launch_and_are_left_alone() -> None:
    """Who may not adopt is told so, and nothing is launched beside what exists."""
    story = Story(may_adopt=False)
    story.up()
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"))
    assert story.decides() == []
    assert story.world.phase == "failed"
    assert "i-o carry the tags" in (story.world.reason or "")


@pytest.mark.seed("S22")
def test_an_adopted_cluster_keeps_its_indices_and_new_hosts_take_the_lowest_free_one() -> None:
    """Flambé counted from 1: 0 is free."""
    story = Story(may_adopt=True)
    story.up(cluster(factories_num=3))
    story.decides()
    story.finds(
        see("i-o", Role.ORCHESTRATOR, "running", name="x_orchestrator"),
        see("i-a", Role.FACTORY, "running", name="x_factory_1"),
        see("i-b", Role.FACTORY, "running", name="x_factory_2"),
    )
    assert "prepare Factory" in story.decides()
    story.prepares()
    story.decides()
    story.launches(Role.FACTORY, "i-c")
    assert [story.instance(i).index for i in ("i-o", "i-a", "i-b", "i-c")] == [None, 1, 2, 0]


def test_a_service_whose_journal_was_made_anew_waits_for_what_the_lost_one_launched() -> None:
    """Tag filters lag: for five minutes nothing is launched, and `status` says why."""
    story = Story()
    story.rules = replace(story.rules, launch_from=story.now + 300)
    story.up()
    story.decides()
    story.finds()
    assert story.decides() == []
    assert story.world.phase == "converging"
    assert story.world.reason is not None
    assert "journal was made anew" in story.world.reason
    story.passes(301)
    assert story.decides() == ["find"], "what the first look did not show may be there by now"
    story.finds()
    assert story.decides() == ["prepare Orchestrator Factory"]
    assert story.world.reason is None


def test_what_the_lost_journal_launched_and_was_seen_too_late_is_not_launched_again() -> None:
    """The first look by tag saw nothing of it; the one after the wait does, and it is nobody's to adopt without an admin."""
    story = Story()
    story.rules = replace(story.rules, launch_from=story.now + 300)
    story.up()
    story.decides()
    story.finds()
    story.decides()
    story.passes(301)
    assert story.decides() == ["find"]
    story.finds(see("i-lost", Role.ORCHESTRATOR, "running"))
    assert story.decides() == []
    assert "i-lost" in (story.world.reason or "")
