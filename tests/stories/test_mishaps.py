"""Stories of mishaps: what a reviewer, an operator or a bad day came up with, each once and for all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flambed.actions import Launch, SetUp
from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.facts import Key, Seen
from flambed.observed.instance import Ending, Stage
from tests.stories.story import Story, cluster, see

HOUR = 3600.0


def surveyed(story: Story, *seen: Seen) -> None:
    """The region's slow look ends."""
    story.happens(facts.ClusterSurveyed(at=story.now, instances=seen, began=story.now))


def everyone(story: Story) -> list[Seen]:
    """Return all instances that are not gone, running."""
    return [see(i.id, i.role, "running") for i in story.world.instances.values() if i.stage is not Stage.GONE]


def half_ready(story: Story, wanted: Cluster) -> None:
    """Bring a cluster to `degraded`: the set-up of i-0 failed, the others are ready."""
    story.asks(wanted)
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, *(f"i-{number}" for number in range(wanted.factories_num)))
    story.runs(*story.world.instances)
    story.decides()
    story.described(*everyone(story))
    story.arms(*story.world.instances)
    story.decides()
    story.tags()
    story.sets_up(*(i for i in story.world.instances if i != "i-0"))
    story.ends("SetUp", reason=Reason.COMMAND_FAILED)
    story.decides()
    assert story.world.phase == "degraded"


# --- strangers ---------------------------------------------------------------------------------------------------


@pytest.mark.seed("S19")
@pytest.mark.parametrize("may_adopt", [True, False])
@pytest.mark.parametrize("role", [Role.ORCHESTRATOR, Role.FACTORY, None])
def test_what_comes_up_beside_a_ready_cluster_does_it_no_harm(role: Role | None, may_adopt: bool) -> None:
    """Somebody launches a machine with our tags: nothing of ours ends, and the machine is not touched either."""
    story = Story(may_adopt=may_adopt)
    story.becomes_ready(cluster(factories_timeout=1))
    surveyed(story, *everyone(story), see("i-x", role, "running"))
    assert story.decides() == []
    assert story.world.phase == "ready"
    assert story.world.strangers == ("i-x",)
    assert set(story.protection) == {"i-0", "i-1"}


@pytest.mark.seed("S19")
def test_a_stranger_that_is_gone_is_in_nobodys_way() -> None:
    """The user follows our advice, terminates it and runs `up` again."""
    story = Story()
    story.up()
    story.decides()
    story.finds(see("i-x", Role.FACTORY, "running"))
    story.decides()
    assert story.world.phase == "failed"
    story.up()
    story.decides()
    story.finds(see("i-x", Role.FACTORY, "shutting-down"))
    assert story.decides() == ["prepare Orchestrator Factory"]
    assert story.world.phase == "converging"


# --- ends that are not losses, and losses that are no ends ---------------------------------------------------------


@pytest.mark.idle("loss of an instance")
def test_what_ended_by_idleness_is_not_launched_again_by_a_cluster_that_was_never_ready() -> None:
    """One host's set-up failed; the others idle away one by one, and nothing is launched in their place."""
    story = Story()
    half_ready(story, cluster(factories_num=3, factories_timeout=1))
    for subject in ("i-1", "i-2"):
        story.passes(5 * HOUR)
        story.happens(facts.InstancesDescribed(at=story.now, instances=(see(subject, Role.FACTORY, "terminated"),)))
        assert [line for line in story.decides() if line.startswith("launch")] == []
        assert story.instance(subject).ended is Ending.IDLE


def test_a_host_that_dies_while_it_boots_is_a_loss_whatever_its_timeout() -> None:
    """With a timeout of 0 too: three are replaced, not one after the other for ever."""
    story = Story()
    story.asks(cluster(factories_num=1, factories_timeout=0))
    story.launches(Role.ORCHESTRATOR, "i-o")
    launches = 0
    for number in range(8):
        if not any(isinstance(a, Launch) for a in story.running):
            break
        launches += 1
        story.launches(Role.FACTORY, f"i-{number}")
        story.runs(f"i-{number}")
        story.decides()
        story.arms(f"i-{number}")
        story.happens(
            facts.InstancesDescribed(at=story.now, instances=(see(f"i-{number}", Role.FACTORY, "terminated"),))
        )
        assert story.instance(f"i-{number}").ended is Ending.LOST
        story.decides()
    assert launches == 4
    assert story.world.phase == "failed"


def test_an_idle_end_is_told_as_such_from_its_beginning() -> None:
    """While EC2 shuts the machine down nothing is said to be degraded."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.passes(2 * HOUR)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "shutting-down"),)))
    story.decides()
    story.informs()
    story.decides()
    assert (story.world.phase, story.world.reason) == ("ready", "idle_ended")


# --- protection --------------------------------------------------------------------------------------------------


@pytest.mark.idle("timeout changed on a live cluster")
@pytest.mark.seed("S37")
def test_a_host_that_lived_without_a_timeout_is_seeded_when_it_gets_one() -> None:
    """Its CPU may have idled for hours: the new alarm would fire at once."""
    story = Story()
    story.becomes_ready()
    story.passes(5 * HOUR)
    story.up(cluster(factories_timeout=1))
    story.decides()
    assert story.protection["i-0"].seed


@pytest.mark.idle("adopted, idle for hours")
@pytest.mark.seed("S37")
def test_a_host_that_booted_while_the_service_was_away_is_seeded() -> None:
    """Hours of idleness passed before its first alarm."""
    story = Story()
    story.asks(cluster(factories_num=1, factories_timeout=1))
    story.launches(Role.FACTORY, "i-0")
    story.runs("i-0")
    story.passes(8 * HOUR)
    story.happens(facts.ServiceStarted(at=story.now))
    story.decides()
    assert story.protection["i-0"].seed


@pytest.mark.seed("S34")
def test_an_alarm_of_which_nothing_is_known_is_removed_when_the_timeout_becomes_never() -> None:
    """A put may have been under way: the host stays in the table until CloudWatch has confirmed that there is none."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.happens(
        facts.AlarmLacking(at=story.now, instance="i-0", reason=Reason.GONE, code="Changed", message="changed")
    )
    story.up(cluster(factories_num=1, factories_timeout=-1))
    story.decides()
    assert story.protection["i-0"].minutes is None
    story.happens(facts.AlarmRemoved(at=story.now, instance="i-0"))
    story.decides()
    assert "i-0" not in story.protection


@pytest.mark.idle("timeout changed on a live cluster")
@pytest.mark.seed("S34")
def test_an_acknowledgement_of_the_old_alarm_is_not_credited_to_the_new_policy() -> None:
    """It came late; the new policy is seeded all the same."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=24))
    story.up(cluster(factories_num=1, factories_timeout=1))
    story.decides()
    story.happens(facts.AlarmArmed(at=story.now, instance="i-0", digest="a", policy="1440min<0.5%"))
    story.decides()
    assert story.protection["i-0"].seed


@pytest.mark.idle("set-up running")
def test_new_commands_on_a_ready_host_are_a_vote() -> None:
    """It idled for ten hours; what it does now is not idleness."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=24))
    story.passes(10 * HOUR)
    story.up(cluster(factories_num=1, factories_timeout=24, setup_cmds=("prepare", "more")))
    story.decides()
    assert (story.protection["i-0"].vote_until or 0.0) > story.now
    story.happens(
        facts.CommandStarted(at=story.now, instance="i-0", number=0, attempt=0),
    )
    story.decides()
    assert (story.protection["i-0"].vote_until or 0.0) > story.now


# --- what was believed gone, and what may exist ----------------------------------------------------------------------


def test_an_instance_that_was_only_believed_gone_is_taken_back_and_given_back() -> None:
    """EC2 did not show it for ten minutes, and then did: it bills, so `down` ends it."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.happens(facts.StateNotified(at=story.now, instance="i-0", state="stopping"))
    for _ in range(12):
        story.happens(facts.InstancesDescribed(at=story.now, instances=(), missing=("i-0",)))
        story.passes(60)
    assert story.stages()["i-0"] is Stage.GONE
    surveyed(story, see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    assert story.stages()["i-0"] is Stage.RUNNING
    story.happens(facts.DownRequested(at=story.now, by=1))
    assert any(line.startswith("terminate") and "i-0" in line for line in story.decides())


def test_what_ec2_said_is_terminated_never_comes_back() -> None:
    """A lagging answer does not raise the dead."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    surveyed(story, *everyone(story), see("i-0", Role.FACTORY, "running"))
    assert story.stages()["i-0"] is Stage.GONE


@pytest.mark.parametrize("then", [Reason.THROTTLED, Reason.NOT_PERMITTED, Reason.BAD_REQUEST, Reason.MISMATCH])
def test_a_launch_whose_answer_was_lost_is_not_dropped_because_a_later_call_was_refused(then: Reason) -> None:
    """It may have created machines: `down` is not done before it is certain what became of it."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.TRANSIENT)
    story.passes(2)
    assert story.decides() == ["launch 2 Factory (c1-1-r-1)"]
    story.ends("Launch", reason=then)
    story.happens(facts.DownRequested(at=story.now, by=1))
    assert story.decides() == ["terminate i-o"]
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-o",)))
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-o", Role.ORCHESTRATOR, "terminated"),)))
    story.decides()
    assert story.world.phase == "stopping"
    if then is Reason.THROTTLED:
        story.passes(5)
        assert story.decides() == ["launch 2 Factory (c1-1-r-1)"]
        return
    story.passes(301)
    assert story.decides() == ["find"]
    tags = {"flambed:cluster": "c1"}
    story.finds(*(see(i, Role.FACTORY, "running", tags=tags) for i in ("i-0", "i-1")))
    assert story.decides() == ["terminate i-0 i-1"]
    assert story.world.intents == {}


def test_a_launch_under_way_at_a_crash_is_not_dropped_as_throttled() -> None:
    """The first call was throttled, the second one may have been accepted."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.THROTTLED)
    story.passes(5)
    story.decides()
    story.running.clear()
    story.happens(facts.ServiceStarted(at=story.now), facts.DownRequested(at=story.now, by=1))
    story.passes(60)
    assert "launch 2 Factory (c1-1-r-1)" in story.decides()


def test_a_token_that_has_expired_is_not_used_again() -> None:
    """After a day the same call would launch anew: what it made is looked up by tag instead."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.running.clear()
    story.passes(30 * HOUR)
    story.happens(facts.ServiceStarted(at=story.now))
    assert story.decides() == []
    story.passes(300)
    assert story.decides() == ["find"]
    tags = {"flambed:cluster": "c1"}
    story.finds(see("i-o", Role.ORCHESTRATOR, "running", tags=tags), see("i-0", Role.FACTORY, "running", tags=tags))
    assert [line for line in story.decides() if line.startswith("launch")] == []
    assert story.world.intents == {}


@pytest.mark.seed("S31")
def test_a_second_up_does_not_spare_the_first_ones_machines_a_roll_back() -> None:
    """Nothing was ready in between: all that was launched for this cluster goes."""
    story = Story()
    story.asks()
    story.launches(Role.FACTORY, "i-0", "i-1")
    story.ends("Launch", reason=Reason.NO_CAPACITY)
    story.decides()
    story.up()
    story.decides()
    story.finds(*(see(i, Role.FACTORY, "running", tags={"flambed:cluster": "c1"}) for i in ("i-0", "i-1")))
    story.decides()
    story.ends("Launch", reason=Reason.QUOTA)
    assert "terminate i-0 i-1" in story.decides()


@pytest.mark.seed("S31")
def test_a_late_answer_does_not_stop_a_roll_back_half_way() -> None:
    """The factories come after all, a minute too late: they go the way of the orchestrator, until the next `up`."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.TRANSIENT)
    story.passes(900)
    assert "terminate i-o" in story.decides()
    story.launches(Role.FACTORY, "i-0")
    assert "terminate i-0" in story.decides()
    assert story.world.phase == "failed"
    story.up(cluster(factories_num=1))
    story.decides()
    assert story.world.phase == "converging"


@pytest.mark.seed("S31")
def test_a_launch_does_not_wait_for_ever_for_strangers_to_go() -> None:
    """What this launch made is given back at its deadline; the stranger, and what a person must decide, are left alone."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.FACTORY, "i-0")
    surveyed(story, see("i-0", Role.FACTORY, "running"), see("i-x", Role.FACTORY, "running"))
    assert [line for line in story.decides() if line.startswith("terminate")] == []
    assert story.world.phase == "failed"
    story.passes(900)
    assert [line for line in story.decides() if line.startswith("terminate")] == ["terminate i-0"]
    assert "given up after 900 s (launch.deadline)" in (story.world.rolled_back or "")


def test_a_launch_without_an_answer_that_nobody_needs_any_more_is_looked_up_and_not_called_again() -> None:
    """An adopted host has taken the place: calling again would make one factory too many."""
    story = Story(may_adopt=True)
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.TRANSIENT)
    token = next(iter(story.world.intents))
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-x", Role.FACTORY, "running"))
    assert [line for line in story.decides() if line.startswith("launch")] == []
    assert token in story.world.intents
    story.passes(300)
    assert "find" in story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-x", Role.FACTORY, "running"))
    assert [line for line in story.decides() if line.startswith("launch")] == []
    assert story.world.intents == {}


def test_a_launch_whose_instances_were_seen_is_called_again_for_its_answer() -> None:
    """Nothing is lacking, and the call makes nothing more: its token tells the same instances once more."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.TRANSIENT)
    token = next(iter(story.world.intents))
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running", token=token))
    assert f"launch 1 Factory ({token})" in story.decides()


# --- phases ------------------------------------------------------------------------------------------------------


def test_a_ready_host_that_cannot_be_reached_for_new_commands_is_failed() -> None:
    """`up` ends, with the reason."""
    story = Story()
    story.becomes_ready()
    story.up(cluster(setup_cmds=("prepare", "more")))
    story.decides()
    story.finds(*everyone(story))
    for action in [a for a in story.running if isinstance(a, SetUp)]:
        story.ends_one(action, reason=Reason.UNREACHABLE, say="no answer")
    story.decides()
    assert story.world.phase == "degraded"
    assert "no answer" in (story.world.reason or "")


@pytest.mark.parametrize("reason", [Reason.NOT_PERMITTED, Reason.NO_CAPACITY])
def test_a_stopped_instance_that_cannot_be_started_leaves_a_degraded_cluster(reason: Reason) -> None:
    """At once where waiting does not help, at the deadline where it might have."""
    story = Story(may_adopt=True)
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "stopped"))
    story.decides()
    story.happens(facts.HostKeyLearned(at=story.now, instance="i-o", public_key="ssh-ed25519 AAAA", source="console"))
    story.decides()
    story.sets_up("i-o")
    story.ends("Start", reason=reason, say="cannot start")
    for _ in range(40):
        story.passes(60)
        if "start i-0" in story.decides():
            story.ends("Start", reason=reason, say="cannot start")
        story.tags()
        story.informs()
    story.decides()
    assert story.world.phase == "degraded"
    assert "x_factory_0 cannot be started: cannot start" in (story.world.reason or "")


def test_a_cluster_that_lacks_some_factories_stays_degraded_while_it_asks_again() -> None:
    """It does not flap between two phases."""
    story = Story()
    story.asks()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.runs("i-o", "i-0")
    story.decides()
    story.described(*everyone(story))
    story.decides()
    story.tags()
    story.sets_up("i-o", "i-0")
    story.decides()
    phases = []
    for _ in range(20):
        story.passes(20)
        if any(line.startswith("launch") for line in story.decides()):
            phases.append(story.world.phase)
            story.ends("Launch", reason=Reason.NO_CAPACITY)
            story.decides()
        phases.append(story.world.phase)
    assert set(phases) == {"degraded"}


@pytest.mark.seed("S25")
def test_a_started_instance_is_connected_to_at_its_new_public_address() -> None:
    """The old one may be somebody else's by now."""
    story = Story()
    story.becomes_ready()
    story.happens(
        facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "stopped", public_host="3.3.3.3"),))
    )
    story.happens(facts.StartAccepted(at=story.now, instances=("i-0",)))
    assert story.instance("i-0").public_host is None


def test_a_fresh_id_that_terminate_does_not_know_is_asked_to_terminate_again() -> None:
    """Not found is not gone: EC2 may not know it everywhere yet."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.FACTORY, "i-0")
    story.happens(facts.DownRequested(at=story.now, by=1))
    story.decides()
    story.ends("Terminate", reason=Reason.GONE)
    story.passes(31)
    assert any(line == "terminate i-0" for line in story.decides())
    assert Key("terminate", "i-0") in story.world.in_flight


def test_an_up_tries_failed_hosts_again_with_the_mended_commands() -> None:
    """The user corrects the file and runs `up`: that is enough."""
    story = Story()
    half_ready(story, cluster(factories_num=2, factories_timeout=1))
    story.up(cluster(factories_num=2, factories_timeout=1, setup_cmds=("mended",)))
    lines = story.decides()
    assert "set up i-0 from 0" in lines
    assert story.world.phase == "converging"
    [action] = [a for a in story.running if isinstance(a, SetUp) and a.instance == "i-0"]
    assert (action.commands, action.attempt) == (("mended",), 1)


def test_hosts_that_failed_alike_are_told_of_in_one_go() -> None:
    """Thirty hosts with one cause are one line, not thirty."""
    story = Story()
    story.asks(cluster(factories_num=30))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, *(f"i-{number}" for number in range(30)))
    story.runs(*story.world.instances)
    story.decides()
    story.described(*everyone(story))
    story.decides()
    story.tags()
    story.sets_up("i-o")
    story.ends("SetUp", reason=Reason.COMMAND_FAILED, say="set-up command 1 of 1 ended with 3")
    story.decides()
    told = "30 hosts (x_factory_0, x_factory_1, x_factory_2, ...): set-up command 1 of 1 ended with 3"
    assert story.world.reason == told


@pytest.mark.seed("C02")
def test_while_events_cannot_be_read_instances_are_looked_at_instead() -> None:
    """A queue that cannot be read is as good as none; once it can, everything is looked at, once."""
    story = Story(has_events=True)
    story.happens(facts.EventsLost(at=story.now))
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.decides()
    story.passes(2)
    assert story.decides() == ["describe i-0 i-o"]
    story.described(*everyone(story))
    story.decides()
    story.happens(facts.EventsResumed(at=story.now))
    story.passes(2)
    assert "describe i-0 i-o" in story.decides()


def test_a_cluster_that_lost_too_many_and_has_enough_is_degraded() -> None:
    """Nothing more is launched, so nothing is awaited: `up` ends."""
    story = Story()
    story.asks(cluster(factories_num=2))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0", "i-1")
    story.runs("i-o", "i-0")
    story.decides()
    seen = tuple(see(i, story.instance(i).role, "running") for i in ("i-o", "i-0"))
    story.happens(facts.InstancesDescribed(at=story.now, instances=seen))
    story.decides()
    story.tags()
    story.sets_up("i-o", "i-0")
    for number in range(1, 5):
        lost = see(f"i-{number}", Role.FACTORY, "terminated", why="Server.InternalError")
        story.happens(facts.InstancesDescribed(at=story.now, instances=(lost,)))
        story.decides()
        if number < 4:
            story.launches(Role.FACTORY, f"i-{number + 1}")
    story.informs()
    story.decides()
    assert story.world.phase == "degraded"
    assert "Server.InternalError" in (story.world.reason or "")


def test_what_fails_late_about_an_instance_that_is_gone_is_nothing() -> None:
    """A step that ends after its machine leaves no failure behind."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    late = facts.ActionFailed(
        at=story.now, key=Key("inform", "i-0"), reason=Reason.UNREACHABLE, code="Timeout", message="no answer"
    )
    story.happens(late)
    assert story.world.failures == {}


def test_a_launch_whose_machines_have_ended_since_is_done_with() -> None:
    """IdempotentInstanceTerminated: the token is used up, and what is wanted still is launched under another one."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.GONE, code="IdempotentInstanceTerminated")
    assert story.decides() == ["launch 1 Factory (c1-1-r-2)"]
    for number in (3, 4):
        story.ends("Launch", reason=Reason.GONE, code="IdempotentInstanceTerminated")
        assert story.decides() == [f"launch 1 Factory (c1-1-r-{number})"]
    story.ends("Launch", reason=Reason.GONE, code="IdempotentInstanceTerminated")
    assert story.decides() == ["terminate i-o"], "not for ever"
    assert story.world.phase == "failed"
    assert story.world.reason is not None
    assert "4 instances ended before the cluster was ready" in story.world.reason


def test_a_launch_with_other_parameters_than_before_is_looked_up_and_what_is_missing_is_launched_anew() -> None:
    """IdempotentParameterMismatch: an earlier call under the token was accepted; what it made is found by its tags."""
    story = Story()
    story.asks(cluster(factories_num=2))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.ends("Launch", reason=Reason.MISMATCH, code="IdempotentParameterMismatch")
    assert not [line for line in story.decides() if "launch" in line or "terminate" in line]
    assert story.world.phase == "converging"
    story.passes(301)
    assert "find" in story.decides()
    tags = {"flambed:cluster": "c1"}
    known = see("i-o", Role.ORCHESTRATOR, "running", tags=tags)
    story.finds(known, see("i-0", Role.FACTORY, "running", tags=tags))
    assert "launch 1 Factory (c1-1-r-2)" in story.decides()


def test_a_service_that_starts_anew_uses_no_token_of_an_earlier_one() -> None:
    """A journal restored from an old copy counts its launches from there: the run's own part keeps tokens apart."""
    story = Story()
    story.asks(cluster(factories_num=1))
    tokens = set(story.world.intents)
    again = Story()
    again.rules = replace(again.rules, run="s")
    again.asks(cluster(factories_num=1))
    assert not tokens & set(again.world.intents)


def test_a_restart_on_a_clock_that_was_set_ahead_launches_nothing_twice() -> None:
    """A token looks expired a second after its call: what the call created has its five minutes to appear all the same."""
    story = Story()
    story.asks(cluster(factories_num=1))
    story.running.clear()
    story.passes(24 * HOUR)
    story.happens(facts.ServiceStarted(at=story.now))
    for _ in range(9):
        if any(type(action).__name__ == "Find" for action in story.running):
            story.finds()  # tag filters lag
        assert not [line for line in story.decides() if line.startswith("launch")]
        story.passes(30)
    story.passes(60)
    assert story.decides() == ["find"]
    tags = {"flambed:cluster": "c1"}
    story.finds(
        *(see(i, role, "running", tags=tags) for i, role in (("i-o", Role.ORCHESTRATOR), ("i-0", Role.FACTORY)))
    )
    assert not [line for line in story.decides() if line.startswith("launch")]


@pytest.mark.parametrize("token", [None, "console-1", "c2-1-r-0"])
def test_a_machine_with_copied_tags_is_a_strangers(token: str | None) -> None:
    """ "Launch more like this" copies every tag: it is not set up, not tagged, and `down` does not end it."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    tags = {"flambed:cluster": "c1", "flambed:daemon": "d1", "flambed:launch": "c1-1-r-1", "flambed:instance": "i-0"}
    surveyed(story, *everyone(story), see("i-f", Role.FACTORY, "running", tags=tags, token=token))
    assert story.world.strangers == ("i-f",)
    assert story.decides() == []
    story.happens(facts.DownRequested(at=story.now, by=1))
    assert story.decides() == ["terminate i-o i-0"]


def test_what_was_adopted_once_is_proven_by_its_own_id() -> None:
    """Its launch was somebody else's; the tag with its id was put by the service that took it in."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    tags = {"flambed:cluster": "c1", "flambed:instance": "i-f"}
    surveyed(story, *everyone(story), see("i-f", Role.FACTORY, "running", tags=tags, token="console-1"))
    assert story.world.strangers == ()
    assert "i-f" in story.world.instances


def test_a_found_host_with_another_key_than_the_clusters_is_asked_for_its_own_once() -> None:
    """It may be of a launch that a restored journal does not know: its console tells its key, and that one is pinned."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    surveyed(story, *everyone(story), see("i-f", Role.FACTORY, "running", tags={"flambed:cluster": "c1"}))
    assert "set up i-f from 0" in story.decides()
    story.ends("SetUp", reason=Reason.HOST_KEY_CHANGED)
    assert "learn the host key of i-f" in story.decides()
    story.ends("LearnHostKey", facts.HostKeyLearned(at=story.now, instance="i-f", public_key="other", source="console"))
    story.passes(30)
    assert "set up i-f from 0" in story.decides()
    story.ends("SetUp", reason=Reason.HOST_KEY_CHANGED)
    story.decides()
    assert story.stages()["i-f"] is Stage.FAILED
