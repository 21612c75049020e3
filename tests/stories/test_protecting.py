"""Stories of protection: the table that says which alarm and which votes each host should have."""

from __future__ import annotations

import math

import pytest

from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import Ending, Stage
from tests.stories.story import Story, cluster, see

HOURS = 3600.0


def running(story: Story, **changes: object) -> None:
    """Bring an orchestrator and a factory to `running`."""
    story.asks(cluster(factories_num=1, **changes))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.runs("i-o", "i-0")


@pytest.mark.idle("arming")
@pytest.mark.seed("S35")
def test_no_command_starts_on_a_host_that_nobody_would_end() -> None:
    """Set-up waits until the alarm is acknowledged; a host with timeout -1 waits for nothing."""
    story = Story()
    running(story, factories_timeout=1)
    lines = story.decides()
    assert "set up i-o from 0" in lines
    assert "set up i-0 from 0" not in lines
    wanted = story.protection["i-0"]
    assert (wanted.minutes, wanted.threshold, wanted.seed) == (60, 0.5, False)
    assert "i-o" not in story.protection
    story.arms("i-0")
    assert "set up i-0 from 0" in story.decides()


@pytest.mark.idle("arming")
@pytest.mark.seed("S35")
def test_an_alarm_that_cannot_be_put_fails_the_host_by_its_deadline() -> None:
    """The reason is CloudWatch's own."""
    story = Story()
    running(story, factories_timeout=1)
    story.decides()
    story.happens(
        facts.AlarmLacking(
            at=story.now, instance="i-0", reason=Reason.NOT_PERMITTED, code="AccessDenied", message="no PutMetricAlarm"
        )
    )
    story.passes(901)
    story.decides()
    assert story.stages()["i-0"] is Stage.FAILED
    assert story.world.instances["i-0"].failure is not None
    assert "no PutMetricAlarm" in story.world.instances["i-0"].failure.message


@pytest.mark.idle("set-up running")
@pytest.mark.seed("S37")
def test_set_up_is_a_vote_and_ends_with_it() -> None:
    """While a host is set up it counts as in use; from ready on its own clock runs."""
    story = Story()
    running(story, factories_timeout=1)
    story.decides()
    until = story.protection["i-0"].vote_until
    assert until is not None
    assert until > story.now + 4 * HOURS
    story.arms("i-0")
    story.decides()
    story.sets_up("i-0")
    story.decides()
    assert story.protection["i-0"].vote_until is None


@pytest.mark.idle("window", "-1")
@pytest.mark.seed("S14", "S15", "S36")
@pytest.mark.parametrize(
    ("hours", "minutes"), [(0, 5), (0.5, 30), (1, 60), (24, 1440), (168, 10080), (200, 12000), (-1, None)]
)
def test_timeouts_become_minutes_of_idleness(hours: float, minutes: int | None) -> None:
    """Hours of the file are minutes of the alarm; 0 is five of them, and -1 none at all."""
    story = Story()
    running(story, factories_timeout=hours)
    story.decides()
    wanted = story.protection.get("i-0")
    assert (wanted.minutes if wanted else None) == minutes


@pytest.mark.idle("orchestrator before factories")
def test_the_orchestrator_is_in_use_while_a_factory_lives() -> None:
    """Factories go first, whatever the timeouts are."""
    story = Story()
    wanted = cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=1)
    story.becomes_ready(wanted)
    assert story.protection["i-o"].vote_until == math.inf
    assert story.protection["i-0"].vote_until is None
    story.passes(2 * HOURS)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    assert story.instance("i-0").ended is Ending.IDLE
    assert story.protection["i-o"].vote_until is None


def test_a_host_with_timeout_0_waits_for_the_experiment_to_begin() -> None:
    """Half an hour from ready; then five idle minutes end it."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=0))
    assert story.protection["i-0"].vote_until == story.now + 1800
    story.passes(1801)
    story.decides()
    assert story.protection["i-0"].vote_until is None


def test_a_host_with_timeout_0_whose_cpu_was_only_ever_idle_has_not_begun() -> None:
    """What was read of its CPU since it is ready is no activity, whether the service was restarted meanwhile or not."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=0))
    ready = story.now
    story.passes(180)
    for _ in range(2):
        story.happens(facts.BecameIdle(at=story.now, instance="i-0", since=None))
        story.decides()
        assert story.protection["i-0"].vote_until == ready + 1800
        story.passes(600)
        story.happens(facts.ServiceStarted(at=story.now))
    story.happens(facts.BecameIdle(at=story.now, instance="i-0", since=story.now - 300))
    story.decides()
    assert story.protection["i-0"].vote_until is None


@pytest.mark.idle("votes")
def test_a_hold_is_a_vote_until_it_ends_or_is_released() -> None:
    """Bounded; released by a person or by time."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.happens(facts.HoldPlaced(at=story.now, by=1000, until=story.now + 4 * HOURS, why="demo"))
    story.decides()
    assert story.protection["i-0"].vote_until == story.now + 4 * HOURS
    story.happens(facts.HoldReleased(at=story.now, by=1000))
    story.decides()
    released = story.protection["i-0"]
    assert released.vote_until is None


@pytest.mark.idle("adopted, idle for hours", "daemon restarted")
@pytest.mark.seed("S34", "S37")
def test_an_adopted_host_is_seeded_once_before_its_alarm() -> None:
    """It may have idled for hours: its clock starts now, and a restart does not start it again."""
    story = Story(may_adopt=True)
    story.up(cluster(factories_num=1, factories_timeout=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    first = story.protection["i-0"]
    assert first.seed
    story.happens(facts.PointsSeeded(at=story.now, instance="i-0", policy=first.policy))
    story.arms("i-0")
    story.decides()
    after = [story.protection["i-0"].seed]
    story.happens(facts.ServiceStarted(at=story.now))
    story.decides()
    after.append(story.protection["i-0"].seed)
    assert after == [False, False]


@pytest.mark.idle("timeout changed on a live cluster", "alarm changed or deleted by others")
@pytest.mark.seed("S34")
def test_a_changed_timeout_starts_the_clock_anew_under_the_same_alarm() -> None:
    """Points first, then the alarm; `policy_since` moves with it, and only with it."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    since = story.instance("i-0").policy_since
    story.passes(600)
    story.happens(facts.AlarmLacking(at=story.now, instance="i-0", reason=Reason.GONE, code="x", message="deleted"))
    story.happens(facts.AlarmArmed(at=story.now, instance="i-0", digest="a", policy="60min<0.5%"))
    assert story.instance("i-0").policy_since == since
    story.up(cluster(factories_num=1, factories_timeout=2))
    story.decides()
    assert story.protection["i-0"].minutes == 120
    assert story.protection["i-0"].seed
    story.happens(facts.PointsSeeded(at=story.now, instance="i-0", policy=story.protection["i-0"].policy))
    story.happens(facts.AlarmArmed(at=story.now, instance="i-0", digest="b", policy="120min<0.5%"))
    assert story.instance("i-0").policy_since == story.now


@pytest.mark.seed("S34")
def test_the_alarm_of_a_gone_instance_is_deleted_and_then_forgotten() -> None:
    """A deleted instance's alarm stays and bills: it is in the table until it is removed."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    assert story.protection["i-0"].gone
    story.happens(facts.AlarmRemoved(at=story.now, instance="i-0"))
    story.decides()
    assert "i-0" not in story.protection


@pytest.mark.idle("loss of an instance", "factories gone")
def test_everything_ended_by_idleness_is_gone_and_not_relaunched() -> None:
    """The cluster says `idle_ended`; a later `up` launches again."""
    story = Story()
    wanted = cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=1)
    story.becomes_ready(wanted)
    story.passes(2 * HOURS)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.decides()
    story.running.clear()
    story.informs()
    assert (story.world.phase, story.world.reason) in {("ready", "idle_ended"), ("converging", None)}
    story.passes(2 * HOURS)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-o", Role.ORCHESTRATOR, "terminated"),)))
    assert [line for line in story.decides() if line.startswith("launch")] == []
    assert (story.world.phase, story.world.reason) == ("gone", "idle_ended")


@pytest.mark.idle("timeout changed on a live cluster", "-1")
@pytest.mark.seed("S34")
def test_a_timeout_that_becomes_never_removes_the_alarm_and_then_asks_for_nothing() -> None:
    """It stays in the table until CloudWatch has confirmed."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.up(cluster(factories_num=1, factories_timeout=-1))
    story.decides()
    wanted = story.protection["i-0"]
    assert (wanted.minutes, wanted.gone) == (None, False)
    story.happens(facts.AlarmRemoved(at=story.now, instance="i-0"))
    story.decides()
    assert "i-0" not in story.protection


@pytest.mark.idle("orchestrator gone first", "loss of an instance")
def test_factories_keep_their_alarms_when_the_orchestrator_is_gone_first() -> None:
    """Degraded, and said so; nothing is launched, and each factory's own clock goes on as it was."""
    story = Story()
    story.becomes_ready(cluster(factories_num=2, factories_timeout=1))
    before = {subject: story.protection[subject] for subject in ("i-0", "i-1")}
    lost = see("i-o", Role.ORCHESTRATOR, "terminated", why="Server.InternalError")
    story.happens(facts.InstancesDescribed(at=story.now, instances=(lost,)))
    assert story.decides() == ["inform i-0", "inform i-1"]
    story.informs()
    story.passes(HOURS / 2)
    assert story.decides() == []
    assert story.world.phase == "degraded"
    assert "the orchestrator missing" in (story.world.reason or "")
    assert {subject: story.protection[subject] for subject in ("i-0", "i-1")} == before


@pytest.mark.idle("factories gone")
def test_an_orchestrator_that_never_ends_stays_when_its_factories_have_idled_away() -> None:
    """The status says `idle_ended`, and asks for nothing more."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1, orchestrator_timeout=-1))
    story.passes(2 * HOURS)
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, "terminated"),)))
    story.happens(facts.AlarmRemoved(at=story.now, instance="i-0"))
    assert story.decides() == ["inform i-o"]
    story.informs()
    story.passes(100 * HOURS)
    assert story.decides() == []
    assert story.stages()["i-o"] is Stage.READY
    assert story.protection == {}
    assert (story.world.phase, story.world.reason) == ("ready", "idle_ended")


@pytest.mark.idle("a maximum lifetime")
def test_no_host_in_use_has_a_maximum_lifetime() -> None:
    """No file asks for one: a host that is busy for a year is neither examined nor ended."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=1))
    story.happens(facts.BecameBusy(at=story.now, instance="i-0"))
    for _ in range(365):
        story.passes(24 * HOURS)
        assert story.decides() == []
    assert story.stages()["i-0"] is Stage.READY
    assert not {name for name in Cluster.model_fields if "life" in name}


@pytest.mark.idle("window")
@pytest.mark.parametrize(("hours", "vote"), [(168, None), (200, 32 * HOURS)])
def test_a_timeout_of_more_than_a_week_is_an_alarm_of_a_week_and_a_vote_before_it(
    hours: float, vote: float | None
) -> None:
    """Until a week before it is due the host counts as in use; a busy hour moves that."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1, factories_timeout=hours))
    since = story.instance("i-0").policy_since or 0.0
    assert story.protection["i-0"].vote_until == (since + vote if vote else None)
    if vote is None:
        return
    story.passes(20 * HOURS)
    story.happens(facts.BecameBusy(at=story.now, instance="i-0"))
    story.passes(HOURS)
    story.happens(facts.BecameIdle(at=story.now, instance="i-0", since=story.now - 60))
    story.decides()
    assert story.protection["i-0"].vote_until == story.now - 60 + vote
    story.passes(vote)
    story.decides()
    assert story.protection["i-0"].vote_until is None
