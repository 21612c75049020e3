"""Volumes after their instances: what was to go with them is deleted, what was to stay is let go of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flambed.actions import CleanUp
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.facts import Seen
from flambed.plan.leftovers import SETTLES_IN
from tests.stories.story import Story, cluster, see


def owning(subject: str, role: Role, *, disposable: bool = True, state: str = "running") -> Seen:
    """Return an instance whose root volume goes with it, or does not."""
    volume = (f"vol-{subject}",)
    goes, stays = (volume, ()) if disposable else ((), volume)
    return replace(see(subject, role, state), volumes=volume, disposable=goes, lasting=stays)


def lived(*lasting: str) -> Story:
    """Tell the life of a cluster of i-o and i-0, whose volumes go with them, but for these, up to `down`."""
    story = Story()
    story.becomes_ready(cluster(factories_num=1))
    seen = tuple(owning(i, story.instance(i).role, disposable=i not in lasting) for i in ("i-o", "i-0"))
    story.happens(facts.ClusterSurveyed(at=story.now, instances=seen, began=story.now))
    return story


def taken_down(*lasting: str) -> Story:
    """Tell that life up to the end of its instances."""
    story = lived(*lasting)
    story.decides()
    if lasting:
        story.ends("LetGo", facts.VolumesLeft(at=story.now, volumes=tuple(f"vol-{i}" for i in lasting)))
    story.happens(facts.DownRequested(at=story.now, by=1000))
    assert story.decides() == ["terminate i-o i-0"]
    story.ends("Terminate", facts.TerminationAccepted(at=story.now, instances=("i-0", "i-o")))
    story.decides()
    gone = tuple(see(i, story.instance(i).role, "terminated") for i in ("i-o", "i-0"))
    story.happens(facts.InstancesDescribed(at=story.now, instances=gone))
    return story


def test_after_down_one_look_sees_to_the_volumes_of_all() -> None:
    """The cluster is gone when EC2 says so; its volumes are looked at a minute later, once, and then no more."""
    story = taken_down()
    assert story.decides() == []
    assert story.world.phase == "gone"
    story.passes(SETTLES_IN)
    assert story.decides() == ["clean up vol-i-o vol-i-0"]
    story.ends("CleanUp", facts.VolumesRemoved(at=story.now, volumes=("vol-i-o", "vol-i-0"), deleted=("vol-i-0",)))
    story.passes(86_400.0)
    assert story.decides() == []
    assert not any(i.volumes_left for i in story.world.instances.values())


def test_what_cannot_be_deleted_is_tried_again_with_growing_pauses() -> None:
    """EC2 may hold a volume for long; each try waits longer than the one before, and none is the last."""
    story = taken_down()
    story.passes(SETTLES_IN)
    pauses = []
    for _ in range(8):
        assert story.decides() == ["clean up vol-i-o vol-i-0"]
        story.ends("CleanUp", reason=Reason.TIMED_OUT)
        assert story.decides() == []
        assert story.decision is not None
        assert story.decision.wake_at is not None
        pauses.append(story.decision.wake_at - story.now)
        story.passes(pauses[-1])
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (30.0, 600.0)


def test_a_volume_that_is_to_stay_is_let_go_of_and_never_deleted() -> None:
    """Somebody switched DeleteOnTermination off: it loses the proof that we made it while its host still lives."""
    story = lived("i-0")
    assert story.decides() == ["let go vol-i-0"]
    story.ends("LetGo", facts.VolumesLeft(at=story.now, volumes=("vol-i-0",)))
    assert story.decides() == []
    again = owning("i-0", Role.FACTORY)  # switched on again: it is theirs all the same
    story.happens(facts.InstancesDescribed(at=story.now, instances=(again,)))
    assert story.instance("i-0").disposable == ()

    story = taken_down("i-0")
    story.decides()
    story.passes(SETTLES_IN)
    assert story.decides() == ["clean up vol-i-o"]


def test_the_volumes_of_adopted_hosts_are_nobodys_business() -> None:
    """Somebody else launched them, whatever tags they carry now."""
    story = taken_down()
    host = story.instance("i-0")
    story.world = story.world.with_instance(replace(host, adopted=True))
    story.passes(SETTLES_IN)
    assert story.decides() == ["clean up vol-i-o"]


def test_what_is_left_of_an_earlier_life_is_cleaned_up_in_the_next() -> None:
    """A new `up` forgets hosts that are gone, unless there are volumes of theirs to see to."""
    story = taken_down()
    story.up(cluster(factories_num=1))
    assert {i.id for i in story.world.instances.values()} == {"i-o", "i-0"}
    story.passes(SETTLES_IN)
    story.decides()
    [action] = [a for a in story.running if isinstance(a, CleanUp)]
    story.ends_one(action, facts.VolumesRemoved(at=story.now, volumes=action.volumes))
    story.up(cluster(factories_num=1))
    assert story.world.instances == {}


@pytest.mark.parametrize("state", ["shutting-down", "terminated"])
def test_an_ending_host_lets_go_of_its_volumes_one_by_one(state: str) -> None:
    """What EC2 shows no more of a host that ends is not taken for what was to stay, nor forgotten."""
    story = lived()
    story.happens(facts.InstancesDescribed(at=story.now, instances=(see("i-0", Role.FACTORY, state),)))
    assert story.instance("i-0").disposable == ("vol-i-0",)
