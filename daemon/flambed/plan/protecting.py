"""Which protection each host should have: the table that the region's keeper makes true (idle protection)."""

from __future__ import annotations

import math

from flambed.actions import Protection
from flambed.desired import Role
from flambed.observed.instance import Instance, Stage
from flambed.plan.draft import Draft
from flambed.plan.launching import conflict
from flambed.policy import LONGEST_WINDOW, IdlePolicy

EXPERIMENT_MAY_BEGIN = 30 * 60.0
"""Seconds after ready that a host with timeout 0 waits for the experiment to begin."""

ARMED_WITHIN = 240.0
"""Seconds after `running` within which an alarm cannot see idleness enough to fire, whatever the timeout (5 min at least)."""

_UP = frozenset({Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP, Stage.READY, Stage.FAILED})


def protect(draft: Draft) -> None:
    """Write down the protection of every host that runs, and the removal of what outlived its instance."""
    for instance in draft.world.instances.values():
        if instance.stage in _UP and _concerns_keeper(draft, instance):
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
    found: dict[str, float] = {}
    longest = draft.rules.reach_deadline + draft.desired.setup.timeout * len(draft.desired.setup_cmds)
    if instance.stage in (Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP):
        found["setup"] = (instance.setup_from or instance.stage_at) + longest
    elif instance.stage is Stage.READY and instance.setup_done != draft.setup:
        found["setup"] = world.requested_at + longest
    if instance.role is Role.ORCHESTRATOR and any(i.alive for i in world.of(Role.FACTORY)):
        found["factories"] = math.inf
    if world.hold is not None:
        found["hold"] = world.hold.until
    if policy.minutes == 5 and instance.ready_at and _timeout_is_zero(draft, instance):
        found["beginning"] = instance.ready_at + EXPERIMENT_MAY_BEGIN
    if policy.minutes > LONGEST_WINDOW:
        base = max(instance.policy_since or instance.stage_at, instance.last_busy or 0.0)
        found["window"] = base + (policy.minutes - LONGEST_WINDOW) * 60.0
    return {kind: until for kind, until in found.items() if until > draft.now}


def ends_at(draft: Draft, instance: Instance) -> float | None:
    """Return when a host ends if nothing more happens; None: never, or not while a vote lives."""
    policy = draft.policies[instance.role]
    if policy.minutes is None or instance.alarm is None or instance.stage not in _UP:
        return None
    if instance.busy or votes(draft, instance):
        return None
    base = max(instance.policy_since or 0.0, instance.last_busy or 0.0, instance.ready_at or 0.0)
    return base + policy.minutes * 60.0


def _timeout_is_zero(draft: Draft, instance: Instance) -> bool:
    hours = (
        draft.desired.orchestrator_timeout if instance.role is Role.ORCHESTRATOR else draft.desired.factories_timeout
    )
    return hours == 0


def _concerns_keeper(draft: Draft, instance: Instance) -> bool:
    """Whether there is an alarm to put or to remove: one that we launched to live for ever never had one.

    Nothing is done to what may not even be this cluster's, nor to alarms that stand for a policy that is not known.
    """
    if draft.world.recovered:
        return False
    if instance.adopted and instance.alarm is None and conflict(draft) is not None:
        return False
    return draft.policies[instance.role].minutes is not None or instance.alarm_left


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
        seed=_must_seed(draft, instance, policy),
        policy=policy.digest,
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
