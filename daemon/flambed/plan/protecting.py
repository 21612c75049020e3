"""Which protection each host should have, and when it is to end: the table that the region's keeper makes true."""

from __future__ import annotations

import math

from flambed.actions import Protection, Question
from flambed.desired import Role
from flambed.observed.instance import Instance, Stage
from flambed.plan.draft import Draft
from flambed.plan.launching import conflict, deadline, lacking, trouble
from flambed.policy import (
    ASKED_FOR,
    EXPERIMENT_MAY_BEGIN,
    EXPERIMENT_MAY_IDLE,
    HOLD_AHEAD,
    LONGEST_WINDOW,
    VOTE_AHEAD,
    IdlePolicy,
)

ARMED_WITHIN = 240.0
"""Seconds after `running` within which an alarm cannot see idleness enough to fire, whatever the timeout (5 min at least)."""

UP = frozenset({Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP, Stage.READY, Stage.FAILED})


def protect(draft: Draft) -> None:
    """Write down the protection of every host that runs, and the removal of what outlived its instance."""
    for instance in draft.world.instances.values():
        if instance.stage in UP and _concerns_keeper(draft, instance):
            draft.protection[instance.id] = _wanted(draft, instance)
        elif instance.stage is Stage.GONE and _may_have_alarm(draft, instance):
            policy = draft.policies[instance.role]
            draft.protection[instance.id] = Protection(
                instance=instance.id,
                minutes=None,
                threshold=policy.threshold,
                vote_until=None,
                seed=False,
                policy="gone",
                gone=True,
            )


def votes(draft: Draft, instance: Instance) -> dict[str, float]:
    """Return what says that a host is in use, and until when each of it counts (UNIX seconds, infinity: until it ends)."""
    world, policy = draft.world, draft.policies[instance.role]
    if policy.minutes is None:
        return {}
    found: dict[str, float] = dict.fromkeys(instance.votes, math.inf)
    if "experiment" in found:
        found["experiment"] = _last_use(draft, instance) + EXPERIMENT_MAY_IDLE
    longest = draft.rules.reach_deadline + draft.desired.setup.timeout * len(draft.desired.setup_cmds)
    if instance.stage in (Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP):
        found["setup"] = (instance.setup_from or instance.stage_at) + longest
    elif instance.stage is Stage.READY and instance.setup_done != draft.setup:
        found["setup"] = world.requested_at + longest
    if instance.role is Role.ORCHESTRATOR and (until := _factories_until(draft)) is not None:
        found["factories"] = until
    if instance.ready_at is not None and instance.ready_at < world.requested_at:
        found["up"] = world.requested_at + ASKED_FOR
    if world.hold is not None:
        found["hold"] = world.hold.until
    if instance.ready_at and _timeout_is_zero(draft, instance) and not _has_begun(instance):
        found["beginning"] = instance.ready_at + EXPERIMENT_MAY_BEGIN
    if policy.minutes > LONGEST_WINDOW:
        base = max(instance.policy_since or instance.stage_at, instance.last_busy or 0.0)
        found["window"] = base + (policy.minutes - LONGEST_WINDOW) * 60.0
    return {kind: until for kind, until in found.items() if until > draft.now}


def _factories_until(draft: Draft) -> float | None:
    """Return until when the orchestrator is needed by factories: those that live, and those that are being launched."""
    if any(i.alive for i in draft.world.of(Role.FACTORY)):
        return math.inf
    coming = draft.world.converged_at is None and lacking(draft, Role.FACTORY) and trouble(draft) is None
    return deadline(draft) if coming else None


def idle_from(draft: Draft, instance: Instance) -> float:
    """Return from when on a host's idleness counts, if nothing keeps it: its policy, its set-up, its last use, its votes."""
    world = draft.world
    # Before an alarm stands for the policy, it began when somebody asked for it.
    policy_since = instance.policy_since if instance.policy == draft.policies[instance.role].digest else None
    moments = [
        policy_since if policy_since is not None else max(world.requested_at, instance.running_at or 0.0),
        world.requested_at,
        instance.last_busy,
        instance.vote_ended_at,
        instance.ready_at,
        instance.stage_at if instance.stage is Stage.FAILED else None,
        world.hold_ended_at,
        world.hold.until if world.hold is not None and world.hold.until <= draft.now else None,
    ]
    if instance.role is Role.ORCHESTRATOR:
        moments += [i.stage_at for i in world.instances.values() if i.role is Role.FACTORY and i.stage is Stage.GONE]
    if instance.ready_at and _timeout_is_zero(draft, instance) and not _has_begun(instance):
        moments.append(instance.ready_at + EXPERIMENT_MAY_BEGIN)
    return max(moment for moment in moments if moment is not None)


def ends_at(draft: Draft, instance: Instance) -> float | None:
    """Return when a host ends if nothing more happens; None: never, or not while a vote lives."""
    policy = draft.policies[instance.role]
    if policy.minutes is None or instance.stage not in UP or instance.busy or votes(draft, instance):
        return None
    return idle_from(draft, instance) + policy.minutes * 60.0


def _last_use(draft: Draft, instance: Instance) -> float:
    """Return when a host's CPU or GPU was last in use, as far as is known."""
    if instance.busy or "gpu" in instance.votes:
        return draft.now
    return max(instance.votes.get("experiment", 0.0), instance.last_busy or 0.0, instance.vote_ended_at or 0.0)


def _has_begun(instance: Instance) -> bool:
    """Whether a host did anything since it was ready."""
    ready = instance.ready_at or math.inf
    seen = max(instance.last_busy or 0.0, instance.vote_ended_at or 0.0, *instance.votes.values())
    return instance.busy or seen > ready


def _timeout_is_zero(draft: Draft, instance: Instance) -> bool:
    desired = draft.desired
    return (desired.orchestrator_timeout if instance.role is Role.ORCHESTRATOR else desired.factories_timeout) == 0


def _concerns_keeper(draft: Draft, instance: Instance) -> bool:
    """Whether there is an alarm to put or to remove, or a timer to renew or to switch off.

    Nothing is done to what may not even be this cluster's, nor to alarms that stand for a policy that is not known.
    """
    if draft.world.recovered:
        return False
    if instance.adopted and instance.alarm is None and conflict(draft) is not None:
        return False
    timed = draft.policies[instance.role].minutes is not None
    return timed or instance.alarm_left or timer_counts(instance)


def timer_counts(instance: Instance) -> bool:
    """Whether the host's own timer may still end it, as far as is known."""
    return instance.timer == "renewed" and instance.timer_minutes is not None


def _wanted(draft: Draft, instance: Instance) -> Protection:
    policy = draft.policies[instance.role]
    live = votes(draft, instance)
    until = max(live.values(), default=None)
    if until is not None:
        draft.wake(min(live.values()))
    return Protection(
        instance=instance.id,
        minutes=policy.minutes,
        threshold=policy.threshold,
        vote_until=until,
        ahead=HOLD_AHEAD if "hold" in live else VOTE_AHEAD,
        seed=_must_seed(draft, instance, policy),
        policy=policy.digest,
        question=_question(draft, instance, policy, live.get("hold")),
    )


def _question(draft: Draft, instance: Instance, policy: IdlePolicy, hold: float | None) -> Question | None:
    """Return how the host itself is to be asked whether it is in use; None where it cannot be, or need not be."""
    address = draft.address_of(instance)
    if address is None or not instance.host_keys or (policy.minutes is None and not timer_counts(instance)):
        return None
    return Question(
        instance=instance.id,
        address=address,
        host_keys=instance.host_keys,
        username=draft.desired.username,
        minutes=policy.minutes,
        threshold=policy.threshold,
        hold_until=hold,
        experiment=instance.role is Role.ORCHESTRATOR,
        votes=tuple(sorted(instance.votes)),
        mute=instance.mute_since is not None,
    )


def _must_seed(draft: Draft, instance: Instance, policy: IdlePolicy) -> bool:
    """Whether the host may have idled before this policy began, so that its alarm would fire at once (S37)."""
    if policy.minutes is None or policy.digest in (instance.seeded, instance.policy):
        return False
    if instance.adopted or instance.found or instance.policy is not None or instance.ready_at is not None:
        return True
    return draft.now - (instance.running_at or draft.now) > ARMED_WITHIN


def _may_have_alarm(draft: Draft, instance: Instance) -> bool:
    timed = draft.policies[instance.role].minutes is not None
    return instance.alarm_left or (timed and not instance.alarm_removed)
