"""What people are shown of a cluster: the status document, why a host is alive, what an `up` would do. Pure.

Everybody who can open the socket may read these, so there is no output of a command in them, and no command.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flambed import eventkind
from flambed.desired import Cluster, Role
from flambed.hostkey import fingerprint
from flambed.observed.instance import Ending, Instance, Stage
from flambed.observed.world import World
from flambed.plan.draft import Draft, Rules
from flambed.plan.protecting import ends_at, votes
from flambed.policy import IdlePolicy

_RUNS = frozenset({Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP, Stage.READY, Stage.FAILED})


def rfc3339(at: float | None) -> str | None:
    """Return a UNIX time as RFC 3339 in UTC, to the millisecond; None for None and for times that never come."""
    if at is None or math.isinf(at):
        return None
    return eventkind.rfc3339(at)


def summary(cluster_id: str, world: World, now: float, rules: Rules) -> dict[str, Any]:
    """Return the status document without its instances: one row of `flambectl list`."""
    draft = _draft(world, now, rules)
    living = [i for i in world.instances.values() if i.stage is not Stage.GONE]
    stages = Counter(i.stage.value for i in living)
    stages[Stage.REQUESTED.value] += sum(intent.spec.count for intent in world.intents.values())
    hold = world.hold if world.hold and world.hold.until > now else None
    return {
        "name": draft.desired.name,
        "creator": draft.desired.creator,
        "region": world.region,
        "phase": world.phase,
        "reason": world.reason,
        "id": cluster_id,
        "owner": world.owner,
        "up": world.request,
        "requested_at": rfc3339(world.requested_at),
        "changed_at": rfc3339(world.changed_at or None),
        "factories": {"wanted": draft.desired.factories_num, "ready": _ready(living, Role.FACTORY)},
        "stages": {stage: count for stage, count in sorted(stages.items()) if count},
        "strangers": list(world.strangers),
        "hold": {"until": rfc3339(hold.until), "why": hold.why, "by": hold.by} if hold else None,
    }


def status(cluster_id: str, world: World, now: float, rules: Rules) -> dict[str, Any]:
    """Return the status document of a cluster (`flambectl status NAME --json`)."""
    draft = _draft(world, now, rules)
    shown = [i for role in Role for i in world.of(role)]
    gone = [i for i in world.instances.values() if i.stage is Stage.GONE and not i.past]
    rows = [_row(draft, i) for i in (*shown, *sorted(gone, key=lambda i: i.stage_at))]
    asked = [
        _requested(draft.desired, intent.spec.role, intent.spec.type)
        for intent in world.intents.values()
        for _ in range(intent.spec.count)
    ]
    return {**summary(cluster_id, world, now, rules), "instances": [*rows, *asked]}


def reason_of(draft: Draft, instance: Instance) -> str | None:
    """Return what there is to say about one instance, in words; None where all is as it should be."""
    if instance.ended is Ending.IDLE:
        return "idle_ended"
    if instance.stage is Stage.GONE:
        return None if instance.ended is Ending.ASKED else f"ended from outside: {instance.why or 'no reason given'}"
    if instance.failure is not None:
        return instance.failure.message
    if (refused := refusal_of(instance)) is not None:
        return refused
    if instance.alarm_lacking is not None and instance.stage in _RUNS:
        return f"its alarm is lacking: {instance.alarm_lacking.message}"
    if instance.overdue and instance.ending:
        return f"it does not end: EC2 agreed to, and says {instance.state} still"
    if instance.stopped:
        return "the machine is stopped"
    for key, failure in draft.world.failures.items():
        if key.subject == instance.id:
            return f"{key.kind.replace('_', ' ')}: {failure.message}"
    return None


def refusal_of(instance: Instance) -> str | None:
    """Return what key a host shows in the place of the pinned one, in words; None where it does not."""
    if instance.host_key_refused is None or instance.stage not in _RUNS:
        return None
    shown = fingerprint(instance.host_key_refused) if instance.host_key_refused else "one of another kind"
    pinned = " or ".join(fingerprint(key) for key in instance.host_keys)
    return (
        f"it shows the host key {shown}, not the pinned {pinned}, and is not logged in to: check it on the host itself, "
        "then `flambectl trust`, or replace the host"
    )


def why(
    world: World, now: float, rules: Rules, instance: Instance, seen: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return why one host is alive, failed or about to end, and when (`flambectl why NAME HOST`).

    `seen` are the signals that the region's keeper has beside what is in the world: the alarm's state, the last probe.
    """
    draft = _draft(world, now, rules)
    policy = draft.policies[instance.role]
    live = votes(draft, instance) if instance.stage in _RUNS else {}
    end = ends_at(draft, instance)
    return {
        "instance": instance.id,
        "name": draft.desired.instance_name(instance.role, instance.index),
        "stage": instance.stage.value,
        "summary": _words(draft, instance, policy.minutes, live, end),
        "terminates_at": rfc3339(end),
        "signals": [*_signals(instance, policy, recovered=world.recovered), *seen, *_live(live)],
        "story": [{"stage": stage.value, "at": rfc3339(at)} for at, stage in instance.story],
    }


def _signals(instance: Instance, policy: IdlePolicy, *, recovered: bool) -> list[dict[str, Any]]:
    if recovered:  # what stands as its timeout is nobody's wish
        return [{"signal": "timeout", "value": "not known: the record of its cluster was lost", "at": None}]
    found = _key_signals(instance)
    timeout = "never ends by itself" if policy.minutes is None else f"{policy.minutes} idle minutes"
    found.append({"signal": "timeout", "value": timeout, "at": None})
    if policy.minutes is None:
        return found
    cpu = f"{'over' if instance.busy else 'under'} {policy.threshold:g} %, as far as it was read"
    found.append({"signal": "cpu", "value": cpu, "at": rfc3339(instance.last_busy)})
    lacking = instance.alarm_lacking
    alarm = "armed" if instance.alarm else f"lacking: {lacking.message}" if lacking else "not put yet"
    found.append({"signal": "alarm", "value": alarm, "at": rfc3339(instance.policy_since)})
    timer = _TIMERS[instance.timer] if not instance.adopted else "none: this service did not launch the host"
    found.append({"signal": "timer", "value": timer, "at": None})
    if (judged := instance.judged) is not None:
        value = f"{judged.finding.value.replace('_', ' ')}: {judged.why}"
        found.append({"signal": "verdict", "value": value, "at": rfc3339(judged.at)})
    return found


def _key_signals(instance: Instance) -> list[dict[str, Any]]:
    said = refusal_of(instance)
    if said is None and instance.host_key_kept is not None:
        said = f"the one out of its user data, which everybody on the host can read: {instance.host_key_kept}"
    return [{"signal": "host key", "value": said, "at": None}] if said is not None else []


_TIMERS = {
    None: "not seen yet",
    "renewed": "renewed by the last probe",
    "off": "off",
    "absent": "absent: the host has none",
}


def _live(live: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"signal": f"vote: {kind}", "value": _VOTES[kind], "at": rfc3339(until)} for kind, until in sorted(live.items())
    ]


def changes(before: World, desired: Cluster, world: World, shrink: bool) -> dict[str, Any]:
    """Return what an `up` of `desired` would do to what exists (`flambectl plan FILE`)."""
    alive = {role: [i for i in world.of(role) if i.alive] for role in Role}
    launch = {role.value: max(0, desired.count_of(role) - len(alive[role])) for role in Role}
    surplus = alive[Role.FACTORY][desired.factories_num :]
    retired = surplus if shrink else []
    known = before.desired
    return {
        "launch": launch,
        "keep": [i.id for role in Role for i in alive[role] if i not in retired],
        "retire": [i.id for i in retired],
        "surplus": [i.id for i in surplus if i not in retired],
        "start": [i.id for role in Role for i in alive[role] if i.stopped],
        "adopt": [i.id for role in Role for i in alive[role] if i.adopted and i.id not in before.instances],
        "setup": known is None or known.setup_cmds != desired.setup_cmds,
        "alarms": {role.value: desired.timeout_minutes(role) for role in Role},
    }


def _draft(world: World, now: float, rules: Rules) -> Draft:
    assert world.desired is not None, "a cluster is known from its first `up` on"
    return Draft(world.desired, world, rules, now)


def _ready(living: list[Instance], role: Role) -> int:
    return sum(1 for i in living if i.role is role and i.stage is Stage.READY)


def _row(draft: Draft, instance: Instance) -> dict[str, Any]:
    alarm, timer = _enforcers(instance)
    return {
        "id": instance.id,
        "role": instance.role.value,
        "index": instance.index,
        "name": draft.desired.instance_name(instance.role, instance.index),
        "type": instance.type,
        "stage": instance.stage.value,
        "public_host": instance.public_host,
        "private_host": instance.private_host,
        "protected": _is_protected(draft, instance),
        "protection": {"alarm": alarm, "timer": timer},
        "terminates_at": rfc3339(ends_at(draft, instance)),
        "reason": reason_of(draft, instance),
        "adopted": instance.adopted,
        "since": rfc3339(instance.stage_at),
        "setup": {
            "done": instance.commands_done,
            "of": len(draft.desired.setup_cmds),
            "running": instance.command,
        },
    }


def _enforcers(instance: Instance) -> tuple[bool, bool]:
    """Return whether an alarm, and whether its own timer, stands for an instance."""
    return instance.alarm is not None, instance.timer == "renewed"


def _is_protected(draft: Draft, instance: Instance) -> bool | None:
    never_ends = draft.policies[instance.role].minutes is None
    return any(_enforcers(instance)) or (None if draft.world.recovered else never_ends)


def unprotected(world: World, now: float, rules: Rules) -> int:
    """Return how many instances run that nothing would end for idleness, and something should."""
    if world.desired is None:
        return 0
    draft = _draft(world, now, rules)
    running = [i for i in world.instances.values() if i.alive and i.running_at is not None]
    return sum(_is_protected(draft, instance) is False for instance in running)


def _requested(desired: Cluster, role: Role, kind: str) -> dict[str, Any]:
    """Return the row of an instance that was asked for and has no id yet."""
    return {
        "id": None,
        "role": role.value,
        "index": None,
        "name": f"{desired.name}_{role.value.lower()}",
        "type": kind,
        "stage": Stage.REQUESTED.value,
        "public_host": None,
        "private_host": None,
        "protected": False,
        "protection": {"alarm": False, "timer": False},
        "terminates_at": None,
        "reason": None,
        "adopted": False,
        "since": None,
        "setup": {"done": 0, "of": len(desired.setup_cmds), "running": None},
    }


_VOTES = {
    "setup": "it is being set up",
    "factories": "factories of its cluster are alive",
    "hold": "somebody holds the cluster",
    "up": "somebody has just asked for it",
    "beginning": "its experiment may still begin",
    "window": "its timeout is longer than an alarm can look back",
    "gpu": "its GPU is in use",
    "terminal": "somebody typed on a terminal within half an hour",
    "experiment": "its experiment runs",
}


def _words(draft: Draft, instance: Instance, minutes: int | None, live: dict[str, float], end: float | None) -> str:
    """Return the whole story of a host's end in one sentence for a person."""
    name = draft.desired.instance_name(instance.role, instance.index)
    if instance.stage is Stage.GONE:
        return f"{name} is gone: {reason_of(draft, instance) or 'it was given back'}."
    if instance.stage not in _RUNS:
        return f"{name} is {instance.stage.value}."
    failed = f" It failed: {instance.failure.message}." if instance.failure else ""
    if draft.world.recovered:
        return (
            f"{name} was found by its tags: what would end it is not known, and an alarm that it has is left as it is."
        )
    if minutes is None:
        return f"{name} runs until somebody ends it (its timeout is -1).{failed}"
    if live:
        said = " and ".join(
            _VOTES[kind] + (f" (until {rfc3339(until)})" if not math.isinf(until) else "")
            for kind, until in sorted(live.items())
        )
        return f"{name} is kept because {said}.{failed}"
    if instance.busy:
        return f"{name} is in use: its CPU is over {draft.policies[instance.role].threshold:g} %.{failed}"
    return f"{name} ends at {rfc3339(end)} if it stays idle ({minutes} minutes of it){_by(instance)}.{failed}"


def _by(instance: Instance) -> str:
    """Return who ends an idle host, where it is not its alarm."""
    if instance.mute_since is not None:
        return f"; it has answered nobody since {rfc3339(instance.mute_since)}"
    return (
        ""
        if instance.alarm is not None
        else "; it has no alarm yet, so the service itself would end it, ten minutes later"
    )
