"""Folding what happened on the hosts: names, set-up, and the protection that stands for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.instance import Ending, Failure, Instance, Judgement, Stage
from flambed.observed.world import World

PASSING = frozenset({Reason.CONNECTION_LOST, Reason.TRANSIENT})
"""Failures of set-up that are tried again by themselves; the others wait for a person."""

MOST_TRIES = 5
"""How often in a row that is done."""


def instance_tagged(world: World, fact: facts.InstanceTagged) -> World:
    return _change(world, fact.instance, tagged=fact.digest)


# --- hosts -------------------------------------------------------------------------------------------------------


def host_key_learned(world: World, fact: facts.HostKeyLearned) -> World:
    instance = world.instances.get(fact.instance)
    if fact.source == "console" and instance is not None and instance.host_key is not None:
        return world  # a person was faster
    return _pinned(world, fact.instance, fact.public_key)


def host_key_made(world: World, fact: facts.HostKeyMade) -> World:
    return _change(world, fact.instance, host_key_next=fact.public_key)


def host_key_kept(world: World, fact: facts.HostKeyKept) -> World:
    return _change(world, fact.instance, host_key_kept=fact.why)


def host_key_refused(world: World, fact: facts.HostKeyRefused) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or _may_learn_anew(instance) or fact.pinned != instance.host_keys:
        return world
    return _change(world, fact.instance, host_key_refused=fact.shown or "")


def host_key_trusted(world: World, fact: facts.HostKeyTrusted) -> World:
    learning = facts.Key("host_key", fact.instance)
    world = replace(world, failures={key: failure for key, failure in world.failures.items() if key != learning})
    return _pinned(world, fact.instance, fact.public_key)


def _pinned(world: World, subject: str, public_key: str) -> World:
    return _change(world, subject, host_key=public_key, host_key_next=None, host_key_kept=None, host_key_refused=None)


def _may_learn_anew(instance: Instance) -> bool:
    """Whether it was found by its tags, and may be of a launch that the journal has lost: its console tells its key."""
    return instance.found and not instance.key_doubted


def host_reached(world: World, fact: facts.HostReached) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage is not Stage.RUNNING:
        return world
    return world.with_instance(replace(instance.to(Stage.REACHABLE, fact.at), host_key_refused=None))


def host_informed(world: World, fact: facts.HostInformed) -> World:
    return _change(world, fact.instance, informed=fact.digest)


def host_acquainted(world: World, fact: facts.HostAcquainted) -> World:
    return _change(world, fact.instance, acquainted=fact.digest)


def command_started(world: World, fact: facts.CommandStarted) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage not in (Stage.REACHABLE, Stage.SETTING_UP, Stage.READY):
        return world
    # Set-up that goes on where it was keeps its protection off no longer than it would have.
    setup_from = instance.setup_from if instance.stage is Stage.SETTING_UP else fact.at
    return world.with_instance(
        replace(
            instance.to(Stage.SETTING_UP, fact.at), command=fact.number, attempt=fact.attempt, setup_from=setup_from
        )
    )


def command_ended(world: World, fact: facts.CommandEnded) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None:
        return world
    done = fact.number + 1 if fact.code == 0 else fact.number
    return world.with_instance(replace(instance, command=None, commands_done=done, setup_digest=fact.digest))


def setup_done(world: World, fact: facts.SetupDone) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage not in (Stage.REACHABLE, Stage.SETTING_UP, Stage.READY):
        return world
    return world.with_instance(
        replace(
            instance.to(Stage.READY, fact.at),
            setup_done=fact.digest,
            command=None,
            failure=None,
            ready_at=instance.ready_at or fact.at,
        )
    )


def setup_failed(world: World, subject: str, failure: Failure) -> World:
    instance = world.instances.get(subject)
    if instance is None or instance.stage not in (Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP, Stage.READY):
        return world
    if failure.reason is Reason.HOST_KEY_CHANGED and _may_learn_anew(instance):
        return world.with_instance(replace(instance, host_key=None, host_key_next=None, key_doubted=True))
    if failure.reason in PASSING and failure.tries < MOST_TRIES:
        return world
    return _give_up(world, instance, failure)


def _give_up(world: World, instance: Instance, failure: Failure) -> World:
    return world.with_instance(replace(instance.to(Stage.FAILED, failure.at), failure=failure, command=None))


def host_given_up(world: World, fact: facts.HostGivenUp) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage not in (Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP):
        return world
    failure = Failure(reason=fact.reason, code="", message=fact.message, at=fact.at, since=fact.at, tries=1)
    return _give_up(world, instance, failure)


# --- protection --------------------------------------------------------------------------------------------------


def alarm_armed(world: World, fact: facts.AlarmArmed) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None:
        return world
    policy = fact.policy
    since = fact.at if instance.policy != policy else instance.policy_since
    if instance.alarm == fact.digest and instance.policy == policy and instance.alarm_lacking is None:
        return world
    return world.with_instance(
        replace(
            instance,
            alarm=fact.digest,
            alarm_removed=False,
            alarm_possible=True,
            alarm_lacking=None,
            policy=policy,
            policy_since=since,
        )
    )


def alarm_lacking(world: World, fact: facts.AlarmLacking) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None:
        return world
    tries = instance.alarm_lacking.tries + 1 if instance.alarm_lacking else 1
    failure = Failure(reason=fact.reason, code=fact.code, message=fact.message, at=fact.at, since=fact.at, tries=tries)
    return world.with_instance(replace(instance, alarm=None, alarm_lacking=failure))


def alarm_fired(world: World, fact: facts.AlarmFired) -> World:
    """Fold what ended an instance: no news where it was due, for then that is what its alarm is for."""
    instance = world.instances.get(fact.instance)
    if instance is None or instance.ended is not Ending.LOST or instance.fired:
        return world
    why = f"its alarm ended it while it was in use: {fact.why}"
    return world.with_instance(replace(instance, fired=True, why=why))


def alarm_removed(world: World, fact: facts.AlarmRemoved) -> World:
    return _change(
        world,
        fact.instance,
        alarm=None,
        alarm_removed=True,
        alarm_possible=False,
        alarm_lacking=None,
        policy=None,
        seeded=None,
    )


def points_seeded(world: World, fact: facts.PointsSeeded) -> World:
    return _change(world, fact.instance, seeded=fact.policy)


def became_busy(world: World, fact: facts.BecameBusy) -> World:
    return _change(world, fact.instance, busy=True, last_busy=fact.at)


def became_idle(world: World, fact: facts.BecameIdle) -> World:
    known = {} if fact.since is None else {"last_busy": fact.since}
    return _change(world, fact.instance, busy=False, **known)


def vote_began(world: World, fact: facts.VoteBegan) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or fact.vote in instance.votes:
        return world
    return world.with_instance(replace(instance, votes={**instance.votes, fact.vote: fact.at}))


def vote_ended(world: World, fact: facts.VoteEnded) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or fact.vote not in instance.votes:
        return world
    left = {vote: since for vote, since in instance.votes.items() if vote != fact.vote}
    return world.with_instance(replace(instance, votes=left, vote_ended_at=fact.at))


def timer_seen(world: World, fact: facts.TimerSeen) -> World:
    return _change(world, fact.instance, timer=fact.state, timer_minutes=fact.minutes)


def host_mute(world: World, fact: facts.HostMute) -> World:
    return _change(world, fact.instance, mute_since=fact.since)


def host_heard(world: World, fact: facts.HostHeard) -> World:
    return _change(world, fact.instance, mute_since=None)


def judged(world: World, fact: facts.Judged) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage is Stage.GONE:
        return world
    before = instance.judged
    times = before.times + 1 if before and before.finding is fact.finding else 1
    known = [at for at in (instance.last_busy, fact.last_busy) if at is not None]
    return world.with_instance(
        replace(
            instance,
            judged=Judgement(finding=fact.finding, why=fact.why, at=fact.at, times=times),
            last_busy=max(known, default=None),
        )
    )


def _change(world: World, subject: str, **changes: Any) -> World:
    """Return the world with fields of one instance changed; the same object where nothing changes."""
    instance = world.instances.get(subject)
    if instance is None or all(getattr(instance, name) == value for name, value in changes.items()):
        return world
    return world.with_instance(replace(instance, **changes))
