"""Stories of hosts: looked at, named, set up, told about their cluster, given up, tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flambed.actions import SetUp, Tag
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import IllegalTransitionError, Stage
from tests.stories.story import Story, cluster, see


def launched(story: Story, **changes: object) -> None:
    """Bring a cluster of an orchestrator and one factory to the point where EC2 has answered."""
    story.asks(cluster(factories_num=1, **changes))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.decides()


@pytest.mark.seed("S25")
def test_a_host_is_connected_to_at_the_address_that_the_settings_say() -> None:
    """On a bastion the private address, which the launch already told; else the public one, which needs a look."""
    story = Story()
    launched(story)
    story.runs("i-o")
    story.decides()
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    assert action.address == story.instance("i-o").private_host

    story = Story()
    story.rules = replace(story.rules, address="public")
    launched(story)
    story.runs("i-o", "i-0")
    assert story.decides() == ["describe i-0 i-o"]
    story.described(
        see("i-o", Role.ORCHESTRATOR, "running", public_host="52.0.0.1"),
        see("i-0", Role.FACTORY, "running", public_host="52.0.0.2"),
    )
    story.decides()
    assert sorted(a.address for a in story.running if isinstance(a, SetUp)) == ["52.0.0.1", "52.0.0.2"]


@pytest.mark.seed("C02")
def test_a_pending_instance_is_not_looked_at_while_events_can_come() -> None:
    """With a queue a silent half-minute passes first; without one it is asked after, at growing distances."""
    story = Story(has_events=True)
    launched(story)
    story.passes(29)
    assert story.decides() == []
    story.passes(2)
    assert story.decides() == ["describe i-0 i-o"]

    story = Story(has_events=False)
    launched(story)
    looks = 0
    for _ in range(30):
        story.passes(1)
        if story.decides():
            looks += 1
            story.described(see("i-o", Role.ORCHESTRATOR, "pending"), see("i-0", Role.FACTORY, "pending"))
    assert looks == 5


@pytest.mark.parametrize("has_events", [True, False])
@pytest.mark.parametrize("misses", [0, 5000])
def test_what_was_looked_at_for_days_is_looked_at_again(has_events: bool, misses: int) -> None:
    """A machine may take days to end: the pauses between looks stay pauses, however many there were."""
    story = Story(has_events=has_events)
    launched(story)
    for name in ("i-o", "i-0"):
        story.world = story.world.with_instance(replace(story.instance(name), looks=5000, misses=misses))
    story.passes(301)
    assert story.decides() == ["describe i-0 i-o"]


@pytest.mark.seed("C02")
def test_a_lost_event_is_made_up_for_by_the_survey() -> None:
    """The slow look finds the instance running, and everything goes on."""
    story = Story()
    launched(story)
    seen = (see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.happens(facts.ClusterSurveyed(at=story.now, instances=seen, began=story.now))
    asked = ["tag i-o x_orchestrator", "set up i-o from 0", "tag i-0 x_factory_0", "set up i-0 from 0"]
    assert story.decides() == asked
    assert set(story.stages().values()) == {Stage.RUNNING}


def test_late_doubled_and_reordered_events_change_nothing() -> None:
    """An event is a hint: `running` after the end wakes nobody up, and a second one does nothing."""
    story = Story()
    story.becomes_ready()
    before = story.world
    story.runs("i-0", "i-0")
    story.happens(facts.StateNotified(at=story.now, instance="i-0", state="pending"))
    assert story.world is before
    story.happens(facts.StateNotified(at=story.now, instance="i-1", state="terminated"))
    story.passes(2)
    story.decides()
    story.described(see("i-1", Role.FACTORY, "terminated"))
    story.runs("i-1")
    assert story.stages()["i-1"] is Stage.GONE


def test_an_event_alone_ends_nobody() -> None:
    """`terminated` raises a doubt; EC2 says the instance runs, and it stays."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.StateNotified(at=story.now, instance="i-0", state="terminated"))
    story.passes(2)
    assert story.decides() == ["describe i-0"]
    assert story.stages()["i-0"] is Stage.READY
    story.described(see("i-0", Role.FACTORY, "running"))
    assert story.decides() == []


def test_nobody_is_gone_because_a_query_came_back_empty() -> None:
    """A fresh id is unknown for minutes: it takes twelve looks and ten minutes to believe that it is gone."""
    story = Story()
    launched(story)
    story.happens(facts.ClusterSurveyed(at=story.now, instances=(), began=story.now + 1))
    story.passes(2)
    assert story.decides() == ["describe i-0 i-o"]
    for _ in range(11):
        story.described(missing=["i-0", "i-o"])
        assert "gone" not in story.stages().values()
        story.passes(60)
        assert story.decides() == ["describe i-0 i-o"]
    story.described(missing=["i-0", "i-o"])
    assert set(story.stages().values()) == {Stage.GONE}


def test_a_clock_that_jumps_makes_nobody_gone() -> None:
    """Ten minutes of a clock are not ten minutes: so many looks take their time, whatever it shows."""
    story = Story()
    launched(story)
    story.happens(facts.ClusterSurveyed(at=story.now, instances=(), began=story.now + 1))
    story.passes(2)
    story.decides()
    story.described(missing=["i-0", "i-o"])
    story.passes(3600)
    for _ in range(5):
        story.decides()
        story.described(missing=["i-0", "i-o"])
        story.passes(60)
    assert "gone" not in story.stages().values()


@pytest.mark.seed("S22")
def test_names_are_put_once_the_volumes_are_known() -> None:
    """The instance and its volumes get the name; tagged once, it is not tagged again."""
    story = Story()
    launched(story)
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    assert story.decides() == ["tag i-o x_orchestrator", "tag i-0 x_factory_0"]
    assert {a.volumes for a in story.running if hasattr(a, "volumes")} == {("vol-i-o",), ("vol-i-0",)}
    story.tags()
    assert story.decides() == []


@pytest.mark.seed("S23")
def test_an_up_with_other_tags_tags_what_exists() -> None:
    """Existing hosts get the new tags; those that they have stay."""
    story = Story()
    story.becomes_ready()
    story.up(cluster(tags={"project": "p"}))
    assert story.decides() == ["find", "tag i-o x_orchestrator", "tag i-0 x_factory_0", "tag i-1 x_factory_1"]
    assert all(a.tags["project"] == "p" for a in story.running if isinstance(a, Tag))


@pytest.mark.seed("S16")
def test_a_host_whose_set_up_fails_leaves_a_degraded_cluster_that_names_it() -> None:
    """The others become ready; `retry` runs the failed command again, under a new attempt."""
    story = Story()
    launched(story, setup_cmds=("one", "two"))
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    story.tags()
    story.sets_up("i-o")
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    story.happens(
        facts.HostReached(at=story.now, instance="i-0"),
        facts.CommandStarted(at=story.now, instance="i-0", number=0, attempt=0),
        facts.CommandEnded(at=story.now, instance="i-0", number=0, attempt=0, code=0, digest=action.digest),
        facts.CommandStarted(at=story.now, instance="i-0", number=1, attempt=0),
        facts.CommandEnded(at=story.now, instance="i-0", number=1, attempt=0, code=3, digest=action.digest),
    )
    story.ends_one(action, reason=Reason.COMMAND_FAILED, say="set-up command 2 of 2 ended with 3")
    assert story.decides() == []
    assert story.world.phase == "degraded"
    assert story.world.reason is not None
    assert "x_factory_0: set-up command 2 of 2 ended with 3" in story.world.reason
    story.happens(facts.RetryRequested(at=story.now, by=1000))
    assert story.decides() == ["set up i-0 from 1"]
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    assert action.attempt == 1
    assert story.world.phase == "converging"


def test_a_host_that_never_answers_is_failed_and_the_others_are_ready() -> None:
    """Nothing hangs: the deadline makes it `failed`, and the reason says what was seen."""
    story = Story()
    launched(story)
    story.runs("i-o", "i-0")
    story.decides()
    story.described(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    story.tags()
    story.sets_up("i-o")
    story.passes(900)
    story.ends("SetUp", reason=Reason.UNREACHABLE, say="127.10.0.5 port 22: connection refused")
    assert story.decides() == []
    assert story.world.phase == "degraded"
    assert "connection refused" in (story.world.reason or "")


def test_a_lost_link_is_made_anew_and_set_up_goes_on_where_it_was() -> None:
    """What was finished is not begun again."""
    story = Story()
    launched(story, setup_cmds=("one", "two"))
    story.runs("i-0")
    story.decides()
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    story.happens(
        facts.HostReached(at=story.now, instance="i-0"),
        facts.CommandStarted(at=story.now, instance="i-0", number=0, attempt=0),
        facts.CommandEnded(at=story.now, instance="i-0", number=0, attempt=0, code=0, digest=action.digest),
        facts.CommandStarted(at=story.now, instance="i-0", number=1, attempt=0),
    )
    story.ends_one(action, reason=Reason.CONNECTION_LOST)
    assert story.decides() == []
    story.passes(1)
    assert story.decides() == ["set up i-0 from 1"]


def test_a_restart_in_the_middle_of_set_up_goes_on_where_it_was() -> None:
    """The command that was running is attached to: same number, same attempt."""
    story = Story()
    launched(story, setup_cmds=("one", "two"))
    story.runs("i-0")
    story.decides()
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    story.happens(
        facts.HostReached(at=story.now, instance="i-0"),
        facts.CommandStarted(at=story.now, instance="i-0", number=0, attempt=0),
        facts.CommandEnded(at=story.now, instance="i-0", number=0, attempt=0, code=0, digest=action.digest),
        facts.CommandStarted(at=story.now, instance="i-0", number=1, attempt=0),
        facts.ServiceStarted(at=story.now),
    )
    story.running.clear()
    assert story.decides() == ["set up i-0 from 1", "describe i-0 i-o"]
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    assert action.attempt == 0


def test_edited_commands_are_run_on_the_hosts_that_there_are() -> None:
    """An `up` with another list of commands sets every host up again, and machines stay."""
    story = Story()
    story.becomes_ready()
    story.up(cluster(setup_cmds=("prepare", "and more")))
    assert story.decides() == ["find", "set up i-o from 0", "set up i-0 from 0", "set up i-1 from 0"]
    story.finds(*(see(i, story.instance(i).role, "running") for i in ("i-o", "i-0", "i-1")))
    assert story.world.phase == "converging"
    story.sets_up("i-o", "i-0", "i-1")
    assert story.decides() == []
    assert story.world.phase == "ready"


def test_a_host_key_that_nobody_vouches_for_is_never_trusted() -> None:
    """An adopted host's key is read from its console; without one the host fails by its deadline."""
    story = Story(may_adopt=True)
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    assert "learn the host key of i-o" in story.decides()
    story.ends("LearnHostKey", reason=Reason.HOST_KEY_UNKNOWN, say="the console shows none")
    assert not any(isinstance(a, SetUp) for a in story.running)
    story.passes(900)
    story.decides()
    assert set(story.stages().values()) == {Stage.FAILED}
    assert "never trusted blindly" in (story.world.reason or "")
    story.happens(facts.HostKeyLearned(at=story.now, instance="i-0", public_key="ssh-ed25519 AAAA", source="console"))
    story.happens(facts.RetryRequested(at=story.now, by=0))
    assert "set up i-0 from 0" in story.decides()


def test_an_illegal_step_of_an_instance_is_an_error_with_its_story() -> None:
    """The table of legal stages holds, and the error tells how it came to this."""
    story = Story()
    story.becomes_ready()
    instance = story.instance("i-o")
    with pytest.raises(IllegalTransitionError, match=r"i-o .*from ready to pending.*requested .* -> ready"):
        instance.to(Stage.PENDING, story.now)


@pytest.mark.parametrize(
    "reason", [Reason.BAD_REQUEST, Reason.HOST_KEY_CHANGED, Reason.LOGIN_REFUSED, Reason.TIMED_OUT]
)
def test_what_waiting_does_not_mend_fails_the_host_at_once(reason: Reason) -> None:
    """It waits for a person, and the cluster does not converge for ever."""
    story = Story()
    launched(story)
    story.runs("i-0")
    story.decides()
    story.ends("SetUp", reason=reason)
    assert story.stages()["i-0"] is Stage.FAILED


def test_a_link_that_drops_again_and_again_fails_the_host_in_the_end() -> None:
    """Five times in a row; nothing is tried for ever."""
    story = Story()
    launched(story)
    story.runs("i-0")
    for _ in range(5):
        assert story.stages()["i-0"] is Stage.RUNNING
        story.passes(30)
        assert "set up i-0 from 0" in story.decides()
        story.ends("SetUp", reason=Reason.CONNECTION_LOST)
    assert story.stages()["i-0"] is Stage.FAILED
