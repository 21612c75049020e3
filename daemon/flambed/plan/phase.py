"""What is to be said of the cluster as a whole: its phase and the reason, in words."""

from __future__ import annotations

from flambed.desired import Role
from flambed.observed.facts import Key
from flambed.observed.instance import UNDER_WAY, Ending, Instance, Stage
from flambed.plan.draft import Draft
from flambed.plan.launching import ATTEMPTS, HOPELESS, deadline, enough, lacking, missing, trouble

LOST = (
    "its record was lost: found by its tags; `flambectl up` with its file takes it on again, `flambectl down` ends it"
)
"""What is said of a cluster that is known by its instances alone."""

FEW = 3
"""How many hosts are named one by one in a reason."""


def phase_of(draft: Draft) -> tuple[str, str | None]:
    """Return the phase (converging, ready, degraded, failed, stopping or gone) and the reason, if there is one to give."""
    world = draft.world
    left = [i for i in world.instances.values() if i.stage is not Stage.GONE]
    if not world.wanted:
        if left or world.intents:
            return "stopping", _stubborn(draft)
        return "gone", None
    if world.recovered:
        return ("degraded", LOST) if left else ("gone", None)
    if world.found_at is None and not left:
        failure = world.failures.get(Key("find"))
        return "converging", f"cannot look for the cluster: {failure.message}" if failure else None
    if (why := trouble(draft)) is not None:
        return "failed", why
    idle = [i for i in world.instances.values() if i.ended is Ending.IDLE]
    if not left and idle and world.converged_at is not None:
        return "gone", "idle_ended"
    if _moving(draft):
        return "converging", _waiting_for(draft)
    problems = _problems(draft)
    if problems:
        return "degraded", "; ".join(problems)
    return "ready", "idle_ended" if idle else None


def _moving(draft: Draft) -> bool:
    """Whether something is under way that leads on without anybody's help."""
    world = draft.world
    if world.found_at is None or any(_first_asked(draft, intent.spec.role) for intent in world.intents.values()):
        return True
    if any(i.stage in UNDER_WAY or _will_start(draft, i) for i in world.instances.values()):
        return True
    if world.converged_at is None and world.losses <= ATTEMPTS and _will_launch(draft):
        return True
    if world.shrink and _shrinking(draft):
        return True
    told = draft.description_digest
    return any(
        i.stage is Stage.READY and (i.setup_done != draft.setup or (i.informed != told and not _cannot_tell(draft, i)))
        for i in world.instances.values()
    )


def _shrinking(draft: Draft) -> bool:
    """Whether factories that are too many are on their way out."""
    factories = draft.world.of(Role.FACTORY)
    surplus = [i for i in factories if i.alive][draft.desired.factories_num :]
    stuck = any(Key("terminate", i.id) in draft.world.failures for i in surplus)
    return (bool(surplus) and not stuck) or any(i.stage is Stage.STOPPING and i.ending for i in factories)


def _will_launch(draft: Draft) -> bool:
    return any(missing(draft, role) and _first_asked(draft, role) for role in Role)


def _first_asked(draft: Draft, role: Role) -> bool:
    """Whether a launch of this role decides what becomes of the cluster.

    One that only completes it, after a first answer said that there is not enough, goes on beside a degraded one (S31).
    """
    return role not in draft.world.launch_failures or not enough(draft, role)


def _will_start(draft: Draft, instance: Instance) -> bool:
    """Whether a stopped instance is going to be started by this `up`."""
    if not instance.stopped or draft.world.converged_at is not None:
        return False
    failure = draft.world.failures.get(Key("start", instance.id))
    return failure is None or (failure.reason not in HOPELESS and draft.now < deadline(draft))


def _cannot_tell(draft: Draft, instance: Instance) -> bool:
    return Key("inform", instance.id) in draft.world.failures


def _waiting_for(draft: Draft) -> str | None:
    """Return what holds the cluster up, where that is not simply time."""
    world = draft.world
    if draft.now < draft.rules.launch_from and any(missing(draft, role) for role in Role):
        return (
            "the service's journal was made anew: launching waits five minutes, for what the lost one launched to show"
        )
    if (failure := world.failures.get(Key("prepare"))) is not None:
        return failure.message
    for role, failure in world.launch_failures.items():
        return f"{role.value.lower()}: {failure.message} ({failure.code}); asked for again"
    return None


def _problems(draft: Draft) -> list[str]:
    world, desired = draft.world, draft.desired
    found = []
    for role in Role:
        short = lacking(draft, role)
        if short:
            failure = world.launch_failures.get(role)
            lost = [i for i in world.instances.values() if i.role is role and i.ended is Ending.LOST]
            why = failure.message if failure else (lost[-1].why if lost and lost[-1].why else "ended from outside")
            names = "the orchestrator" if role is Role.ORCHESTRATOR else f"{short} of {desired.factories_num} factories"
            found.append(f"{names} missing: {why}; `flambectl up` launches what is missing")
    failed: dict[str, list[str]] = {}
    for instance in world.instances.values():
        name = desired.instance_name(instance.role, instance.index)
        if instance.stage is Stage.FAILED and instance.failure is not None:
            failed.setdefault(instance.failure.message.replace(instance.id, "it"), []).append(name)
        elif instance.stopped:
            failure = world.failures.get(Key("start", instance.id))
            why = f"cannot be started: {failure.message}" if failure else "was stopped from outside"
            found.append(f"{name} {why}; `flambectl up` starts it")
        elif instance.stage is Stage.READY and (failure := world.failures.get(Key("inform", instance.id))):
            found.append(f"{name} does not know who belongs to the cluster: {failure.message}")
    found += [f"{_some(names)}: {message}" for message, names in failed.items()]
    return found


def _some(names: list[str]) -> str:
    """Return hosts' names; of many only their number and the first ones."""
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{len(names)} hosts ({', '.join(names[:FEW])}, ...)"


def _stubborn(draft: Draft) -> str | None:
    """Return what keeps instances from ending."""
    told = {key.subject: f.message for key, f in draft.world.failures.items() if key.kind == "terminate"}
    for instance in draft.world.instances.values():
        if instance.overdue and instance.ending and instance.stage is not Stage.GONE:
            told.setdefault(instance.id, f"EC2 agreed to end it, and says {instance.state} still")
    return "; ".join(f"{instance}: {why}" for instance, why in sorted(told.items())) or None
