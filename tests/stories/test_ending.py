"""Stories of the end by idleness: what the service does where an alarm did not act, and what keeps it from that."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import Ending, Stage
from flambed.verdict import Finding
from tests.stories.story import Story, cluster, see

HOUR = 3600.0
GRACE = 600.0


def idle_cluster(**changes: object) -> Story:
    """Tell the life of a cluster whose only factory has a timeout of an hour, up to ready."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1, **changes))
    return story


def judged(story: Story, subject: str, finding: Finding, *, last_busy: float | None = None) -> None:
    """The examination of a host ends."""
    found = facts.Judged(at=story.now, instance=subject, finding=finding, why="because", last_busy=last_busy)
    look = facts.InstancesDescribed(at=story.now, instances=(see(subject, Role.FACTORY, "running"),))
    story.ends("Judge", look, found)


def waits(story: Story, seconds: float, step: float = 30.0) -> list[str]:
    """Let time pass, and return what was decided meanwhile."""
    until, lines = story.now + seconds, []
    while story.now < until:
        story.passes(min(step, until - story.now))
        lines += story.decides()
    return lines


@pytest.mark.idle("the alarm did not act", "loss of an instance")
def test_the_alarm_did_not_act() -> None:
    """Ten minutes after it was due the host is examined, and what is found due is ended and told as idle."""
    story = idle_cluster()
    assert waits(story, HOUR + GRACE - 30) == []
    assert waits(story, 60) == ["judge i-0"]
    judged(story, "i-0", Finding.DUE)
    assert story.decides() == ["terminate i-0"]
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-0",)))
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    story.informs()
    assert story.decides() == []
    assert story.instance("i-0").ended is Ending.IDLE
    assert (story.world.phase, story.world.reason) == ("ready", "idle_ended")


@pytest.mark.idle("the alarm did not act", "CloudWatch unreachable")
@pytest.mark.parametrize("finding", [Finding.UNKNOWN, Finding.NOT_DUE])
def test_what_is_not_due_or_not_known_is_not_ended_and_examined_ever_less_often(finding: Finding) -> None:
    """No data is not idleness. Ten minutes, twenty, forty, then once an hour."""
    story = idle_cluster()
    waits(story, HOUR + GRACE)
    asked = []
    for _ in range(60 * 6):
        story.decides()
        if any(type(action).__name__ == "Judge" for action in story.running):
            asked.append(story.now)
            judged(story, "i-0", finding)
            assert "terminate i-0" not in story.decides()
        story.passes(60)
    pauses = [round((later - earlier) / 60) for earlier, later in pairwise(asked)]
    assert pauses[:3] == [10, 20, 40]
    assert set(pauses[3:]) == {60}


@pytest.mark.idle("the alarm did not act")
def test_a_busy_minute_that_the_examination_finds_moves_the_end() -> None:
    """The world had missed it: the host has its whole timeout from there."""
    story = idle_cluster()
    waits(story, HOUR + GRACE)
    busy_at = story.now - 600
    story.decides()
    judged(story, "i-0", Finding.NOT_DUE, last_busy=busy_at)
    lines = waits(story, busy_at + HOUR + GRACE - story.now - 60)
    assert lines == []
    assert waits(story, 90) == ["judge i-0"]


@pytest.mark.idle("votes", "the alarm did not act")
def test_a_vote_that_begins_after_the_verdict_saves_the_host() -> None:
    """The verdict is about the past; what begins now counts."""
    story = idle_cluster()
    waits(story, HOUR + GRACE)
    judged(story, "i-0", Finding.DUE)
    story.happens(facts.VoteBegan(at=story.now, instance="i-0", vote="terminal"))
    assert story.decides() == []
    story.happens(facts.VoteEnded(at=story.now, instance="i-0", vote="terminal", why="no more input"))
    assert waits(story, HOUR) == []


@pytest.mark.idle("the alarm did not act")
def test_an_old_verdict_ends_nobody() -> None:
    """The call failed for a while: the host is examined again before it is ended."""
    story = idle_cluster()
    waits(story, HOUR + GRACE)
    judged(story, "i-0", Finding.DUE)
    assert story.decides() == ["terminate i-0"]
    story.ends("Terminate", reason=Reason.THROTTLED)
    story.passes(300)
    assert story.decides() == ["judge i-0"]


@pytest.mark.idle("the alarm did not act")
def test_a_protected_host_is_reported_and_not_fought() -> None:
    """It is asked for again ever less often, and told of as overdue; nobody takes its protection off."""
    story = idle_cluster()
    waits(story, HOUR + GRACE)
    for _ in range(100):
        if any(type(action).__name__ == "Judge" for action in story.running):
            judged(story, "i-0", Finding.DUE)
        if any(type(action).__name__ == "Terminate" for action in story.running):
            story.ends("Terminate", reason=Reason.PROTECTED, say="it is protected")
        story.decides()
        story.passes(60)
    assert story.instance("i-0").overdue >= 2
    assert story.instance("i-0").stage is Stage.READY


@pytest.mark.idle("votes")
@pytest.mark.parametrize("vote", ["gpu", "terminal", "experiment"])
def test_what_a_probe_finds_in_use_keeps_the_host(vote: str) -> None:
    """GPU busy with the CPU at 0 %, somebody typing, the experiment's process: a vote, and points of 100."""
    story = idle_cluster()
    story.happens(facts.VoteBegan(at=story.now, instance="i-0", vote=vote))
    assert waits(story, 5 * HOUR, 600) == []
    assert (story.protection["i-0"].vote_until or 0.0) > story.now
    story.happens(facts.VoteEnded(at=story.now, instance="i-0", vote=vote, why="it was not seen any more"))
    story.decides()
    assert story.protection["i-0"].vote_until is None
    assert waits(story, HOUR + GRACE - 60) == []
    assert waits(story, 120) == ["judge i-0"]


@pytest.mark.idle("votes")
def test_an_experiment_that_does_nothing_keeps_its_host_for_a_day() -> None:
    """A process that hangs must not bill for ever."""
    story = idle_cluster()
    story.happens(facts.VoteBegan(at=story.now, instance="i-0", vote="experiment"))
    assert waits(story, 24 * HOUR - 600, 600) == []
    story.happens(facts.BecameBusy(at=story.now, instance="i-0"))
    story.passes(600)
    story.happens(facts.BecameIdle(at=story.now, instance="i-0", since=story.now - 60))
    assert waits(story, 24 * HOUR - 600, 600) == []
    assert (story.protection["i-0"].vote_until or 0.0) > story.now
    waits(story, 1200, 600)
    assert story.protection["i-0"].vote_until is None


@pytest.mark.idle("orchestrator before factories", "factories gone")
def test_orchestrator_before_factories() -> None:
    """While a factory lives the orchestrator is in use, and its own clock runs from the last one's end."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=1))
    story.happens(facts.BecameBusy(at=story.now, instance="i-0"))
    assert waits(story, 5 * HOUR, 600) == []
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    story.informs()
    assert not [line for line in waits(story, HOUR + GRACE - 60) if "judge" in line]
    assert "judge i-o" in waits(story, 120)


@pytest.mark.idle("-1")
@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (cluster(factories_num=1, factories_timeout=-1), "its timeout is -1"),
        (cluster(factories_num=1), "its timeout is -1"),
    ],
)
def test_minus_one(wanted: Cluster, kept: str) -> None:
    """No alarm, no timer, no lifetime: nobody is ever examined."""
    story = Story()
    story.becomes_ready(wanted)
    assert waits(story, 100 * HOUR, HOUR) == [], kept
    assert story.protection == {}


@pytest.mark.idle("votes")
def test_a_hold_is_not_outlived_by_its_points_alone() -> None:
    """It ends when a person ends it, and the clock starts there."""
    story = idle_cluster()
    story.happens(facts.HoldPlaced(at=story.now, by=1, until=story.now + 4 * HOUR, why="debugging"))
    story.decides()
    assert story.protection["i-0"].ahead == 30
    assert waits(story, 2 * HOUR, 600) == []
    story.happens(facts.HoldReleased(at=story.now, by=1))
    story.decides()
    assert story.protection["i-0"].ahead == 5
    assert waits(story, HOUR + GRACE - 60) == []
    assert waits(story, 120) == ["judge i-0"]


@pytest.mark.idle("arming")
def test_a_timer_that_is_seen_stands_for_an_alarm_that_cannot_be_put() -> None:
    """Set-up begins when one enforcer is seen to stand, whichever."""
    story = Story()
    story.asks(cluster(factories_num=1, factories_timeout=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.decides()
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    assert "set up i-0 from 0" not in story.decides()
    question = story.protection["i-0"].question
    assert question is not None
    assert (question.minutes, question.experiment) == (60, False)
    story.happens(facts.TimerSeen(at=story.now, instance="i-0", state="absent", minutes=None))
    assert "set up i-0 from 0" not in story.decides()
    story.happens(facts.TimerSeen(at=story.now, instance="i-0", state="renewed", minutes=60))
    assert "set up i-0 from 0" in story.decides()


@pytest.mark.idle("timeout changed on a live cluster", "-1")
def test_a_timeout_that_becomes_never_is_told_to_the_hosts_timer() -> None:
    """It would end the host a day after the service was lost; it is asked until it has acknowledged."""
    story = idle_cluster()
    story.happens(facts.TimerSeen(at=story.now, instance="i-0", state="renewed", minutes=60))
    story.up(cluster(factories_num=1, factories_timeout=-1))
    story.decides()
    story.happens(facts.AlarmRemoved(at=story.now, instance="i-0"))
    story.decides()
    question = story.protection["i-0"].question
    assert question is not None
    assert question.minutes is None
    story.happens(facts.TimerSeen(at=story.now, instance="i-0", state="off", minutes=None))
    story.decides()
    assert "i-0" not in story.protection


def test_an_alarm_that_fires_during_set_up_makes_a_loss_that_is_replaced_and_told_of() -> None:
    """Points that did not arrive, or a person's hand on the alarm: the host was in use, and the user reads why it went."""
    story = Story()
    story.asks(cluster(factories_num=1, factories_timeout=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.decides()
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.arms("i-0")
    story.decides()
    assert story.instance("i-0").stage is Stage.RUNNING
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    assert [line for line in story.decides() if line.startswith("launch")] == ["launch 1 Factory (c1-1-r-2)"]
    story.happens(facts.AlarmFired(at=story.now, instance="i-0", why="Threshold Crossed"))
    assert story.instance("i-0").why == "its alarm ended it while it was in use: Threshold Crossed"
    assert story.world.losses == 1
    before = story.world
    story.happens(facts.AlarmFired(at=story.now, instance="i-0", why="Threshold Crossed"))
    assert story.world is before


def test_an_alarm_that_fires_when_it_is_due_is_no_news() -> None:
    """That is what it is for."""
    story = idle_cluster()
    story.passes(2 * HOUR)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    assert story.instance("i-0").ended is Ending.IDLE
    before = story.world
    story.happens(facts.AlarmFired(at=story.now, instance="i-0", why="Threshold Crossed"))
    assert story.world is before


def test_whoever_asks_for_a_cluster_again_does_not_see_it_end_that_minute() -> None:
    """It has idled for nearly its hour; `up` is somebody's word that it is wanted, and the hour begins anew."""
    story = idle_cluster()
    story.passes(59 * 60)
    story.up(cluster(factories_num=1, factories_timeout=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    assert story.protection["i-0"].vote_until == story.now + 300
    assert waits(story, HOUR + GRACE - 60) == []
    assert waits(story, 90) == ["judge i-0"]


def test_an_orchestrator_that_is_due_waits_for_the_factories_that_are_being_launched() -> None:
    """Seed 4930: its factory had ended by idleness, and the next `up` launched another one while it was being ended."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=1))
    story.passes(2 * HOUR)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    story.informs()
    story.passes(HOUR + GRACE - 1)
    story.up(cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"))
    story.decides()
    story.passes(400)
    lines = story.decides()
    assert [line for line in lines if line.startswith(("judge", "terminate"))] == []
    assert story.protection["i-o"].vote_until == story.world.requested_at + 900


def test_timeout_0_counts_from_the_first_activity() -> None:
    """The experiment began and ended within the half hour in which it may begin: five minutes after it the host is due."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=0))
    story.passes(300)
    story.happens(facts.BecameBusy(at=story.now, instance="i-0"))
    story.passes(300)
    story.happens(facts.BecameIdle(at=story.now, instance="i-0", since=story.now - 60))
    story.decides()
    assert story.protection["i-0"].vote_until is None
    assert "judge i-0" in waits(story, 300 + GRACE)


@pytest.mark.idle("host mute and no CPU data")
def test_host_mute_and_no_cpu_data() -> None:
    """It is not examined before a day is over: nobody can have read that it is idle."""
    story = idle_cluster()
    story.happens(facts.HostMute(at=story.now, instance="i-0", since=story.now, why="no answer"))
    assert waits(story, 24 * HOUR, 600) == []
    assert "judge i-0" in waits(story, 1200)
    judged(story, "i-0", Finding.UNKNOWN)
    story.happens(facts.HostHeard(at=story.now, instance="i-0"))
    story.decides()
    assert story.instance("i-0").mute_since is None
