"""Stories of giving back: `down`, at any moment, until EC2 has confirmed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts
from tests.stories.story import Story, cluster, see

pytestmark = pytest.mark.seed("S30")


def test_down_ends_when_ec2_has_confirmed() -> None:
    """All are terminated in one call; gone is what EC2 says is terminated."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.DownRequested(at=story.now, by=1000))
    assert story.decides() == ["terminate i-o i-0 i-1"]
    assert story.world.phase == "stopping"
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-o", "i-0", "i-1")))
    assert story.decides() == []
    story.happens(*(facts.StateNotified(at=story.now, instance=i, state="terminated") for i in ("i-o", "i-0", "i-1")))
    story.passes(2)
    assert story.decides() == ["describe i-0 i-1 i-o"]
    assert story.world.phase == "stopping"
    story.described(*(see(i, story.instance(i).role, "terminated") for i in ("i-o", "i-0", "i-1")))
    assert story.decides() == []
    assert story.world.phase == "gone"
    assert story.decides() == []


def test_down_in_the_middle_of_a_launch_learns_what_it_created_and_ends_it() -> None:
    """A RunInstances without an answer is asked again, for what it made has to be given back."""
    story = Story()
    story.asks()
    story.happens(facts.DownRequested(at=story.now, by=1000))
    assert story.decides() == []
    story.launches(Role.ORCHESTRATOR, "i-o")
    assert story.decides() == ["terminate i-o"]
    story.ends("Launch", reason=Reason.TRANSIENT)
    story.decides()
    assert story.world.phase == "stopping"
    story.passes(2)
    assert story.decides() == ["launch 2 Factory (c1-1-r-1)"]
    story.launches(Role.FACTORY, "i-0", "i-1")
    assert story.decides() == ["terminate i-0 i-1"]


def test_a_throttled_launch_is_dropped_by_down() -> None:
    """Throttled means that nothing was created: nothing has to be asked again."""
    story = Story()
    story.asks()
    story.ends("Launch", reason=Reason.THROTTLED)
    story.happens(facts.DownRequested(at=story.now, by=1000))
    assert story.decides() == []
    assert story.world.phase == "gone"


def test_a_termination_that_fails_is_tried_for_ever_and_told() -> None:
    """A protected instance is reported, not fought; the others go."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    story.happens(facts.TerminationAccepted(at=story.now, instances=("i-0",)))
    [action] = story.running
    story.running.clear()
    first, second = action.keys
    story.happens(facts.ActionEnded(at=story.now, key=second))
    story.happens(
        facts.ActionFailed(
            at=story.now, key=first, reason=Reason.PROTECTED, code="OperationNotPermitted", message="protected"
        )
    )
    assert story.decides() == []
    assert (story.world.phase, story.world.reason) == ("stopping", "i-o: protected")
    for _ in range(5):
        story.passes(600)
        lines = story.decides()
        assert "terminate i-o" in lines
        story.ends("Terminate", reason=Reason.PROTECTED, say="protected")
        if any(line.startswith("describe") for line in lines):
            story.described(see("i-0", Role.FACTORY, "terminated"))


def test_an_instance_that_is_no_longer_known_counts_as_gone_only_after_looks() -> None:
    """EC2 does not know the id, which may be too fresh: terminated again and looked at until it is certainly gone."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    story.ends("Terminate", reason=Reason.GONE)
    assert story.decides() == ["describe i-0 i-o"]
    for _ in range(11):
        story.described(missing=["i-o", "i-0"])
        assert story.world.phase == "stopping"
        story.passes(60)
        lines = story.decides()
        assert lines[-1] == "describe i-0 i-o"
        if "terminate i-o i-0" in lines:
            story.ends("Terminate", reason=Reason.GONE)
    story.described(missing=["i-o", "i-0"])
    assert story.decides() == []
    assert story.world.phase == "gone"


def test_a_cluster_can_come_back_after_it_is_gone() -> None:
    """The same name, new machines, new tokens."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-o", "i-0")))
    story.happens(
        facts.InstancesDescribed(
            at=story.now,
            instances=(see("i-o", Role.ORCHESTRATOR, "terminated"), see("i-0", Role.FACTORY, "terminated")),
        )
    )
    story.decides()
    assert story.world.phase == "gone"
    story.up(cluster(factories_num=1), host_key="ssh-ed25519 AAAAnew")
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "terminated"))
    assert story.decides() == ["prepare Orchestrator Factory"]
    story.prepares()
    story.decides()
    assert not story.world.instances
    assert [a.token for a in story.running if hasattr(a, "token")] == ["c1-2-r-2", "c1-2-r-3"]


def test_a_termination_that_takes_too_long_is_told_again_and_again_ever_less_often() -> None:
    """After 15 minutes, 30, an hour...: each is an error in the log, and `status` says what EC2 says."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    began = story.now
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-o", "i-0")))
    dying = [see("i-o", Role.ORCHESTRATOR, "shutting-down"), see("i-0", Role.FACTORY, "terminated")]
    story.happens(facts.InstancesDescribed(at=story.now, instances=tuple(dying)))
    told = []
    while story.now < began + 4 * 3600:
        before = story.instance("i-o").overdue
        lines = story.decides()
        if any(line.startswith("describe") for line in lines):
            story.described(dying[0])
        assert not any(line.startswith("terminate") for line in lines), "EC2 has begun to end it"
        told += [story.now - began] if story.instance("i-o").overdue > before else []
        story.passes(60)
    assert told == [minutes * 60 for minutes in (15, 30, 60, 120)]
    assert (story.world.phase, story.instance("i-0").overdue) == ("stopping", 0)
    assert story.world.reason == "i-o: EC2 agreed to end it, and says shutting-down still"


def test_a_machine_that_goes_on_running_is_asked_to_end_once_more() -> None:
    """EC2 agreed to end it, and five minutes later it runs: an agreement is no end."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    both = ("i-o", "i-0")
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=both))
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    asked = []
    for _ in range(31):
        lines = story.decides()
        if any(line.startswith("describe") for line in lines):
            story.described(see("i-o", Role.ORCHESTRATOR, "running"))
        if "terminate i-o" in lines:
            asked.append(story.now)
            story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-o",)))
        story.passes(30)
    assert [later - earlier for earlier, later in pairwise(asked)] == [300.0, 300.0]


def test_a_machine_that_ec2_refuses_to_end_is_told_of() -> None:
    """Its protection is reported, and nobody takes it off but a person."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    story.decides()
    story.ends("Terminate", reason=Reason.PROTECTED, code="OperationNotPermitted", say="it is protected")
    story.passes(899)
    story.decides()
    assert story.instance("i-0").overdue == 0
    story.passes(1)
    story.decides()
    assert story.instance("i-0").overdue == 1
    assert story.world.reason == "i-0: it is protected; i-o: it is protected"
