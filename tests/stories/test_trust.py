"""Stories of trust: a host's own key, one that cannot have any, one that shows another, and the orchestrator's guide."""

from __future__ import annotations

from typing import Any

import pytest

from flambed.actions import Acquaint, Inform, SetUp
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import Stage
from flambed.status import status, why
from tests.stories.story import KEY, Story, cluster, see

OWN = "ssh-ed25519 AAAAown"
OTHER = "ssh-ed25519 AAAAother"
PEER = "ssh-ed25519 AAAApeer"


def running(story: Story) -> SetUp:
    """A cluster of an orchestrator and one factory whose set-up has begun; return that of the factory."""
    story.asks(cluster(factories_num=1))
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0")
    story.decides()
    story.runs("i-0")
    story.decides()
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    return action


def keys_of(story: Story, subject: str) -> tuple[str, ...]:
    """The keys that a host may show."""
    return story.instance(subject).host_keys


def rows(story: Story) -> list[dict[str, Any]]:
    """The instances of the status document."""
    found: list[dict[str, Any]] = status("c1", story.world, story.now, story.rules)["instances"]
    return found


def test_the_first_connection_takes_the_key_of_the_user_data_and_asks_for_another() -> None:
    """Once that was shown only it counts, and nobody is asked for one again."""
    story = Story()
    action = running(story)
    assert (action.host_keys, action.rekey) == ((KEY,), True)
    story.happens(facts.HostKeyMade(at=story.now, instance="i-0", public_key=OWN))
    assert keys_of(story, "i-0") == (KEY, OWN)
    story.happens(facts.HostKeyLearned(at=story.now, instance="i-0", public_key=OWN, source="replaced"))
    assert keys_of(story, "i-0") == (OWN,)
    story.ends_one(action, reason=Reason.CONNECTION_LOST)
    story.passes(1)
    story.decides()
    [again] = [a for a in story.running if isinstance(a, SetUp)]
    assert (again.host_keys, again.rekey) == ((OWN,), False)


def test_a_service_that_ended_in_the_middle_takes_both_keys_and_goes_on() -> None:
    """Nobody knows which of them the host shows by now."""
    story = Story()
    running(story)
    story.happens(facts.HostKeyMade(at=story.now, instance="i-0", public_key=OWN), facts.ServiceStarted(at=story.now))
    story.running.clear()
    story.decides()
    [again] = [a for a in story.running if isinstance(a, SetUp)]
    assert (again.host_keys, again.rekey) == ((KEY, OWN), True)


def test_a_host_that_cannot_have_a_key_of_its_own_is_set_up_all_the_same() -> None:
    """`why` says so; it is not tried again before the next `up`."""
    story = Story()
    action = running(story)
    story.happens(facts.HostKeyKept(at=story.now, instance="i-0", why="it has no sudo"))
    story.ends_one(
        action,
        facts.HostReached(at=story.now, instance="i-0"),
        facts.HostInformed(at=story.now, instance="i-0", digest=action.description_digest),
        facts.SetupDone(at=story.now, instance="i-0", digest=action.digest),
    )
    assert story.stages()["i-0"] is Stage.READY
    story.decides()
    assert not [a for a in story.running if isinstance(a, Inform)]
    signals = why(story.world, story.now, story.rules, story.instance("i-0"))["signals"]
    [said] = [signal["value"] for signal in signals if signal["signal"] == "host key"]
    assert "it has no sudo" in said
    story.up(cluster(factories_num=1))
    story.decides()
    assert [a.rekey for a in story.running if isinstance(a, Inform)] == [True]


def test_a_changed_key_is_told_once_and_stays_refused_until_a_person_vouches_for_it() -> None:
    """The host that was ready stays as it is, and its reason names both keys."""
    story = Story()
    story.becomes_ready()
    [pinned] = keys_of(story, "i-0")
    refused = facts.HostKeyRefused(at=story.now, instance="i-0", pinned=(pinned,), shown=OTHER)
    story.happens(refused)
    world = story.world
    story.happens(refused)
    assert story.world is world, "the same news is none"
    assert keys_of(story, "i-0") == (pinned,)
    assert story.stages()["i-0"] is Stage.READY
    assert story.decides() == []
    assert any("shows the host key" in (row["reason"] or "") for row in rows(story))
    story.happens(facts.HostKeyTrusted(at=story.now, instance="i-0", public_key=OTHER, was=pinned, by=0))
    assert keys_of(story, "i-0") == (OTHER,)
    assert not any(row["reason"] for row in rows(story))
    assert story.instance("i-0").host_key_refused is None
    assert story.decides() == []


def test_a_refusal_of_a_key_that_is_not_pinned_any_more_is_old_news() -> None:
    """The connection had begun before the key was replaced."""
    story = Story()
    story.becomes_ready()
    story.happens(facts.HostKeyRefused(at=story.now, instance="i-0", pinned=(KEY,), shown=keys_of(story, "i-0")[0]))
    assert story.instance("i-0").host_key_refused is None


def test_a_person_vouches_for_an_adopted_host_whose_console_shows_nothing() -> None:
    """What the console tells later does not undo it."""
    story = Story(may_adopt=True)
    story.up(cluster(factories_num=1))
    story.decides()
    story.finds(see("i-o", Role.ORCHESTRATOR, "running"), see("i-0", Role.FACTORY, "running"))
    story.decides()
    story.happens(facts.HostKeyTrusted(at=story.now, instance="i-0", public_key=OWN, was=None, by=0))
    assert "set up i-0 from 0" in story.decides()
    [action] = [a for a in story.running if isinstance(a, SetUp)]
    assert (action.host_keys, action.rekey) == ((OWN,), False)
    story.happens(facts.HostKeyLearned(at=story.now, instance="i-0", public_key=OTHER, source="console"))
    assert keys_of(story, "i-0") == (OWN,)


@pytest.mark.parametrize("trouble", [False, True], ids=["all well", "one failed"])
def test_the_orchestrator_is_told_its_factories_once_none_is_under_way(*, trouble: bool) -> None:
    """With their pinned keys; again when one has another, and not before."""
    story = Story()
    wanted = cluster(factories_num=2)
    story.up(wanted, peer_key=PEER)
    story.decides()
    story.finds()
    story.decides()
    story.prepares()
    story.decides()
    story.launches(Role.ORCHESTRATOR, "i-o")
    story.launches(Role.FACTORY, "i-0", "i-1")
    story.decides()
    story.runs("i-o", "i-0", "i-1")
    story.decides()
    assert {a.instance: a.lets_in for a in story.running if isinstance(a, SetUp)} == {
        "i-o": None,
        "i-0": PEER,
        "i-1": PEER,
    }
    story.described(*(see(i, story.instance(i).role, "running") for i in ("i-o", "i-0", "i-1")))
    story.arms("i-o", "i-0", "i-1")
    story.decides()
    story.tags()
    story.sets_up("i-o", "i-0")
    assert not [line for line in story.decides() if line.startswith("acquaint")], "one is under way"
    if trouble:
        story.ends("SetUp", reason=Reason.COMMAND_FAILED)
    else:
        story.sets_up("i-1")
    assert [line for line in story.decides() if line.startswith("acquaint")] == ["acquaint i-o with i-0 i-1"]
    [action] = [a for a in story.running if isinstance(a, Acquaint)]
    assert [peer.host_keys for peer in action.peers or ()] == [keys_of(story, "i-0"), keys_of(story, "i-1")]
    story.ends_one(action, facts.HostAcquainted(at=story.now, instance="i-o", digest=action.digest))
    assert not [line for line in story.decides() if line.startswith("acquaint")]
    story.happens(facts.HostKeyTrusted(at=story.now, instance="i-0", public_key=OTHER, was=OWN, by=0))
    assert [line for line in story.decides() if line.startswith("acquaint")] == ["acquaint i-o with i-0 i-1"]


def test_the_reason_of_a_refused_host_names_what_it_shows() -> None:
    """Everybody sees it in the status."""
    story = Story()
    story.becomes_ready()
    [pinned] = keys_of(story, "i-0")
    story.happens(facts.HostKeyRefused(at=story.now, instance="i-0", pinned=(pinned,), shown=None))
    [said] = [row["reason"] for row in rows(story) if row["id"] == "i-0"]
    assert "one of another kind" in said
    assert "flambectl trust" in said
