"""How a world changes: `fold(world, fact) -> world`.

It takes values and returns values; it returns the very same object where a fact tells nothing new, which is how the
loop knows what need not be journaled. Nothing here goes backwards because an old event or a late answer arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed import facts, hosts, sightings
from flambed.observed.facts import Fact, Key
from flambed.observed.instance import Ending, Failure, Instance, Stage
from flambed.observed.world import Hold, Intent, World

CLOSING = frozenset({
    Reason.NO_CAPACITY, Reason.QUOTA, Reason.NOT_PERMITTED, Reason.BAD_REQUEST,
})  # fmt: skip
"""Answers to RunInstances that say for certain that this call created nothing."""

ABOUT_THIS_CALL = frozenset({Reason.NOT_PERMITTED, Reason.BAD_REQUEST})
"""Those among them that say nothing of an earlier call under the same token."""


def fold(world: World, fact: Fact) -> World:
    """Return the world after `fact`; the same object where it tells nothing new.

    Raises:
        IllegalTransitionError: the fact would move an instance where it cannot go, which is a bug.
    """
    return _FOLDS[type(fact)](world, fact)


# --- what people asked for ---------------------------------------------------------------------------------------


def _up_requested(world: World, fact: facts.UpRequested) -> World:
    before = world.desired
    same_machines = (
        before is not None
        and before.machine_fields() == fact.desired.machine_fields()
        and world.host_key == fact.host_key  # the user data was made with it, and with the timeouts
        and all(before.timeout_minutes(role) == fact.desired.timeout_minutes(role) for role in Role)
    )
    return replace(
        world,
        desired=fact.desired,
        region=fact.region,
        cluster_id=fact.cluster_id,
        host_key=fact.host_key,
        host_key_since=fact.host_key_since or world.host_key_since,
        owner=fact.owner,
        may_adopt=fact.may_adopt,
        recovered=False,
        wanted=True,
        shrink=fact.shrink,
        request=world.request + 1,
        requested_at=fact.at,
        found_at=None,
        converged_at=None,
        specs=world.specs if same_machines else {},
        launch_failures={},
        instances={
            i.id: _tried_again(i, fact.at)
            for i in (_earlier(world, i, fact.at) for i in world.instances.values())
            if i is not None
        },
        strangers=(),
        losses=0,
        rolled_back=None,
        failures={key: f for key, f in world.failures.items() if key.kind == "terminate"},
    )


def _earlier(world: World, instance: Instance, at: float) -> Instance | None:
    """Return what is left of an instance for a new `up`: of one that is gone only what it left behind."""
    timed = world.desired is not None and world.desired.timeout_minutes(instance.role) is not None
    possible = instance.alarm_left or (timed and not instance.alarm_removed)
    if instance.stage is not Stage.GONE:
        # What is ending belongs to the past: this `up` replaces it.
        instance = replace(instance, alarm_possible=possible, ended=Ending.ASKED if instance.ended else None)
        # Nobody tried to reach the hosts of a cluster whose record was lost.
        return replace(instance, reach_from=at, setup_from=at) if world.recovered else instance
    if possible or instance.volumes_left:
        return replace(instance, alarm_possible=possible, ended=Ending.ASKED, past=True)
    return None


def _down_requested(world: World, fact: facts.DownRequested) -> World:
    return replace(world, wanted=False, hold=None, requested_at=fact.at, converged_at=None)


def _retry_requested(world: World, fact: facts.RetryRequested) -> World:
    for instance in list(world.instances.values()):
        if fact.instances and instance.id not in fact.instances:
            continue
        world = _without_failure(world.with_instance(_tried_again(instance, fact.at)), Key("setup", instance.id))
        world = _without_failure(world, Key("host_key", instance.id))
    if not world.wanted:
        return world
    return replace(world, launch_failures={}, losses=0, rolled_back=None, requested_at=fact.at)


def _tried_again(instance: Instance, at: float) -> Instance:
    """Return a failed host as one that is to be set up, the command that ended badly under a new attempt."""
    if instance.stage is not Stage.FAILED:
        return instance
    ended = instance.failure is not None and instance.failure.reason is Reason.COMMAND_FAILED
    return replace(
        instance.to(Stage.RUNNING, at),
        reach_from=at,
        setup_from=at,
        failure=None,
        attempt=instance.attempt + (1 if ended else 0),
    )


def _hold_placed(world: World, fact: facts.HoldPlaced) -> World:
    return replace(world, hold=Hold(until=fact.until, why=fact.why, by=fact.by))


def _hold_released(world: World, fact: facts.HoldReleased) -> World:
    return replace(world, hold=None, hold_ended_at=min(fact.at, world.hold.until)) if world.hold else world


# --- actions -----------------------------------------------------------------------------------------------------


def _service_started(world: World, fact: facts.ServiceStarted) -> World:
    for instance in list(world.instances.values()):
        if instance.stage is Stage.GONE:
            continue
        # Nobody listened to events meanwhile, and nobody tried to reach a host.
        reach_from = fact.at if instance.stage is Stage.RUNNING else instance.reach_from
        # How long ago an earlier look missed it nobody knows for certain: the clock may have been set meanwhile.
        world = world.with_instance(
            replace(instance, doubted_at=fact.at, reach_from=reach_from, misses=0, missed_at=None)
        )
    for key in world.in_flight:
        if key.kind == "launch":  # it may have been called, and its answer lost
            world = _change_intent(world, key.subject, uncertain=True)
    return replace(world, in_flight={}, events_lost=False, looked=False, started_at=fact.at)


def _events_lost(world: World, _fact: facts.EventsLost) -> World:
    return world if world.events_lost else replace(world, events_lost=True)


def _events_resumed(world: World, fact: facts.EventsResumed) -> World:
    if not world.events_lost:
        return world
    for instance in list(world.instances.values()):
        if instance.stage is not Stage.GONE and instance.doubted_at is None:  # nobody listened meanwhile
            world = world.with_instance(replace(instance, doubted_at=fact.at))
    return replace(world, events_lost=False)


def _actions_began(world: World, fact: facts.ActionsBegan) -> World:
    return replace(world, in_flight={**world.in_flight, **dict.fromkeys(fact.keys, fact.at)})


def _action_ended(world: World, fact: facts.ActionEnded) -> World:
    return _without_failure(_landed(world, fact.key), fact.key)


def _action_failed(world: World, fact: facts.ActionFailed) -> World:
    world = _landed(world, fact.key)
    instance = world.instances.get(fact.key.subject)
    if instance is not None and instance.stage is Stage.GONE:
        return world  # nothing is left to be tried again
    before = world.failures.get(fact.key)
    failure = Failure(
        reason=fact.reason,
        code=fact.code,
        message=fact.message,
        at=fact.at,
        since=before.since if before else fact.at,
        tries=before.tries + 1 if before else 1,
    )
    world = replace(world, failures={**world.failures, fact.key: failure})
    react = _FAILURES.get(fact.key.kind)
    return react(world, fact.key.subject, failure) if react else world


def _launch_failed(world: World, token: str, failure: Failure) -> World:
    intent = world.intents.get(token)
    if intent is None:
        return world
    if failure.reason is Reason.GONE:  # it was accepted, and what it created has ended since: that is a loss
        return _close(replace(world, losses=world.losses + 1), token)
    before = world.launch_failures.get(intent.spec.role)
    counted = replace(failure, tries=before.tries + 1 if before else 1)
    world = replace(world, launch_failures={**world.launch_failures, intent.spec.role: counted})
    if failure.reason is Reason.TRANSIENT:
        return _change_intent(world, token, uncertain=True)
    if failure.reason is Reason.MISMATCH or (intent.uncertain and failure.reason in ABOUT_THIS_CALL):
        # Refused now, but it, or an earlier call under its token, may have been accepted: looked up by tag (see `plan`).
        return _change_intent(world, token, uncertain=True, refused_at=intent.refused_at or failure.at)
    return _close(world, token) if failure.reason in CLOSING else world


def _change_intent(world: World, token: str, **changes: Any) -> World:
    intent = world.intents.get(token)
    if intent is None or all(getattr(intent, name) == value for name, value in changes.items()):
        return world
    return replace(world, intents={**world.intents, token: replace(intent, **changes)})


def _terminate_failed(world: World, subject: str, failure: Failure) -> World:
    instance = world.instances.get(subject)
    if instance is None or failure.reason is not Reason.GONE:
        return world
    # A fresh id may be unknown for minutes: it is looked at, and asked to terminate again until it is certainly gone.
    return world.with_instance(replace(instance, doubted_at=failure.at))


_FAILURES: Mapping[str, Callable[[World, str, Failure], World]] = {
    "launch": _launch_failed,
    "setup": hosts.setup_failed,
    "terminate": _terminate_failed,
}


def _phase_changed(world: World, fact: facts.PhaseChanged) -> World:
    converged = world.converged_at
    if fact.phase == "ready" and converged is None:
        converged = fact.at
    return replace(
        world,
        phase=fact.phase,
        reason=fact.reason,
        changed_at=fact.at,
        converged_at=converged,
        converged_request=world.request if fact.phase == "ready" else world.converged_request,
    )


# --- launching ---------------------------------------------------------------------------------------------------


def _launch_prepared(world: World, fact: facts.LaunchPrepared) -> World:
    return replace(world, specs={**world.specs, **{spec.role: spec for spec in fact.specs}})


def _launch_intended(world: World, fact: facts.LaunchIntended) -> World:
    assert world.desired is not None, "nothing is launched before the first `up`"
    intent = Intent(token=fact.token, spec=fact.spec, desired=world.desired, at=fact.at, request=world.request)
    return replace(world, intents={**world.intents, fact.token: intent}, launches=world.launches + 1)


def _launch_answered(world: World, fact: facts.LaunchAnswered) -> World:
    intent = world.intents.get(fact.token)
    role = intent.spec.role if intent else None
    for seen in fact.instances:
        world = sightings.launched(world, replace(seen, role=seen.role or role, token=fact.token), fact.at)
    if intent is None:
        return world
    failures = world.launch_failures
    if len(fact.instances) >= intent.spec.count:
        failures = {r: f for r, f in failures.items() if r is not role}
    elif fact.instances:
        short = Failure(
            reason=Reason.NO_CAPACITY,
            code="PartialLaunch",
            message=f"EC2 launched {len(fact.instances)} of {intent.spec.count} instances of type {intent.spec.type}",
            at=fact.at,
            since=fact.at,
            tries=1,
        )
        failures = {**failures, intent.spec.role: short}
    return replace(
        world,
        intents={t: i for t, i in world.intents.items() if t != fact.token},
        launch_failures=failures,
    )


def _launch_abandoned(world: World, fact: facts.LaunchAbandoned) -> World:
    return _close(world, fact.token)


def _launch_rolled_back(world: World, fact: facts.LaunchRolledBack) -> World:
    return replace(world, rolled_back=fact.why) if world.rolled_back is None else world


def _close(world: World, token: str) -> World:
    world = _without_failure(world, Key("launch", token))
    return replace(world, intents={t: i for t, i in world.intents.items() if t != token})


def _landed(world: World, key: Key) -> World:
    if key not in world.in_flight:
        return world
    return replace(world, in_flight={k: at for k, at in world.in_flight.items() if k != key})


def _without_failure(world: World, key: Key) -> World:
    if key not in world.failures:
        return world
    return replace(world, failures={k: f for k, f in world.failures.items() if k != key})


_FOLDS: Mapping[type[Fact], Callable[[World, Any], World]] = {
    facts.UpRequested: _up_requested,
    facts.DownRequested: _down_requested,
    facts.RetryRequested: _retry_requested,
    facts.HoldPlaced: _hold_placed,
    facts.HoldReleased: _hold_released,
    facts.ClusterFound: sightings.cluster_found,
    facts.ServiceStarted: _service_started,
    facts.EventsLost: _events_lost,
    facts.EventsResumed: _events_resumed,
    facts.ActionsBegan: _actions_began,
    facts.ActionEnded: _action_ended,
    facts.ActionFailed: _action_failed,
    facts.PhaseChanged: _phase_changed,
    facts.ClusterSurveyed: sightings.cluster_surveyed,
    facts.LaunchPrepared: _launch_prepared,
    facts.LaunchIntended: _launch_intended,
    facts.LaunchAnswered: _launch_answered,
    facts.LaunchAbandoned: _launch_abandoned,
    facts.LaunchRolledBack: _launch_rolled_back,
    facts.StateNotified: sightings.state_notified,
    facts.InterruptionNotified: sightings.interruption_notified,
    facts.InstancesDescribed: sightings.instances_described,
    facts.InstanceTagged: hosts.instance_tagged,
    facts.TerminationAccepted: sightings.termination_accepted,
    facts.TerminationOverdue: sightings.termination_overdue,
    facts.VolumesRemoved: sightings.volumes_removed,
    facts.VolumesLeft: sightings.volumes_left,
    facts.StartAccepted: sightings.start_accepted,
    facts.HostKeyLearned: hosts.host_key_learned,
    facts.HostReached: hosts.host_reached,
    facts.HostInformed: hosts.host_informed,
    facts.CommandStarted: hosts.command_started,
    facts.CommandEnded: hosts.command_ended,
    facts.SetupDone: hosts.setup_done,
    facts.HostGivenUp: hosts.host_given_up,
    facts.AlarmArmed: hosts.alarm_armed,
    facts.AlarmLacking: hosts.alarm_lacking,
    facts.AlarmFired: hosts.alarm_fired,
    facts.AlarmRemoved: hosts.alarm_removed,
    facts.PointsSeeded: hosts.points_seeded,
    facts.BecameBusy: hosts.became_busy,
    facts.BecameIdle: hosts.became_idle,
    facts.VoteBegan: hosts.vote_began,
    facts.VoteEnded: hosts.vote_ended,
    facts.TimerSeen: hosts.timer_seen,
    facts.HostMute: hosts.host_mute,
    facts.HostHeard: hosts.host_heard,
    facts.Judged: hosts.judged,
}
