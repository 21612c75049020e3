"""Whom to give back: terminated, asked for again, and told of, until EC2 says that it is gone."""

from __future__ import annotations

from collections.abc import Iterable

from flambed.actions import Terminate
from flambed.desired import Role
from flambed.observed.facts import Key, LaunchRolledBack, TerminationOverdue
from flambed.observed.instance import DYING, Instance, Stage
from flambed.observed.world import World
from flambed.plan.draft import Draft

OVERDUE = 900.0
"""Seconds that an end may take before it is told of; then again each time that twice as much has passed."""

ASK_AGAIN = 300.0
"""Seconds after which a machine that EC2 agreed to end and that still runs is asked to end once more."""


def give_back(draft: Draft) -> None:
    """Give everything back."""
    terminate(draft, draft.world.instances.values())


def roll_back(draft: Draft, why: str) -> None:
    """Give back what this launch created; what existed before is left alone.

    That it failed is remembered: a late answer that mends the reason does not stop it half-way.
    """
    if draft.world.rolled_back is None:
        draft.conclusions.append(LaunchRolledBack(at=draft.now, why=why))
    terminate(draft, created(draft.world))


def created(world: World) -> list[Instance]:
    """Return what exists through this launch alone."""
    young = [i for i in world.instances.values() if i.request > world.converged_request and i.stage is not Stage.GONE]
    return [i for i in young if not (i.adopted or i.found)]


def shrink(draft: Draft) -> None:
    """Give back the factories with the highest indices, if the `up` said that the cluster may shrink."""
    if draft.world.shrink:
        factories = [i for i in draft.world.of(Role.FACTORY) if i.alive]
        terminate(draft, factories[draft.desired.factories_num :])


def terminate(draft: Draft, instances: Iterable[Instance]) -> None:
    """Terminate those that EC2 has not agreed to end yet, and tell of those that it refuses to end for long."""
    wanted = [i for i in instances if i.stage is not Stage.GONE and not i.ending]
    _ask(draft, wanted)
    for instance in wanted:
        if (failure := draft.world.failures.get(Key("terminate", instance.id))) is not None:
            _tell(draft, instance, failure.since, failure.message)


def insist(draft: Draft) -> None:
    """See to those that EC2 agreed to end: ask again for what goes on running, and tell of what does not end."""
    ending = [i for i in draft.world.instances.values() if i.ending and i.stage is not Stage.GONE]
    due = {i.id: (i.asked_at or draft.now) + ASK_AGAIN for i in ending if i.state not in DYING}
    for at in due.values():
        if at > draft.now:
            draft.wake(at)
    _ask(draft, [i for i in ending if due.get(i.id, draft.now + 1) <= draft.now])
    for instance in ending:
        since = instance.ending_at if instance.ending_at is not None else instance.stage_at
        _tell(draft, instance, since, f"EC2 agreed to end it, and says {instance.state} still")


def _ask(draft: Draft, instances: Iterable[Instance]) -> None:
    free = tuple(i.id for i in instances if draft.free(Key("terminate", i.id)))
    if free:
        draft.want(Terminate(free))


def _tell(draft: Draft, instance: Instance, since: float, why: str) -> None:
    tell_at = since + OVERDUE * 2.0**instance.overdue
    if draft.now < tell_at:
        draft.wake(tell_at)
        return
    draft.conclusions.append(TerminationOverdue(at=draft.now, instance=instance.id, since=since, why=why))
