"""Folding what was seen of the machines: descriptions, surveys, events, and what they mean for an instance.

A description is EC2's word and moves an instance; an event or an absence is a hint that only raises a doubt, upon
which `plan` has the instance looked at. Nobody is declared gone on one look.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from flambed.desired import Role
from flambed.observed import facts
from flambed.observed.facts import Seen
from flambed.observed.instance import DYING, Ending, Instance, Stage
from flambed.observed.world import World
from flambed.tags import is_proven
from flambed.verdict import Finding

GONE_AFTER_MISSES = 12
GONE_AFTER_SECONDS = 600.0
"""A fresh id may be unknown for up to about five minutes (EC2's eventual consistency).

Both are asked for: so many looks, the later ones a minute apart, take those minutes even where the clock jumps.
"""

FRESH = 10.0
"""Seconds before an `up` in which a look by tag may have begun and still counts for it."""

IDLE_SLACK = 900.0
"""Seconds by which an alarm may act before the service's own reckoning of the end."""


def cluster_surveyed(world: World, fact: facts.ClusterSurveyed) -> World:
    """Fold a look by tag. Only the first one after an `up` adopts: what comes later by itself is a stranger's."""
    first = world.found_at is None and fact.began >= world.requested_at - FRESH
    strangers = []
    for seen in sorted(fact.instances, key=lambda s: (s.launched_at or 0.0, s.id)):
        if seen.id in world.instances:
            world = observe(world, seen, fact.at)
            if first and (instance := world.instances[seen.id]).ended is not None:
                # It was on its way out before this `up`, which replaces it.
                world = world.with_instance(replace(instance, ended=Ending.ASKED))
        elif seen.state in DYING:
            continue
        elif seen.role is not None and (_ours(world, seen) or (first and world.may_adopt)):
            world = _come(world, seen, fact.at)
        elif not _ours(world, seen):
            strangers.append(seen.id)
    present = {seen.id for seen in fact.instances}
    for instance in world.instances.values():
        # Tag filters lag behind, and what is younger than the look cannot be in it: only a doubt.
        absent = instance.id not in present and instance.launched_at < fact.began
        if absent and instance.stage is not Stage.GONE and instance.doubted_at is None:
            world = world.with_instance(replace(instance, doubted_at=fact.at))
    if tuple(strangers) != world.strangers:
        world = replace(world, strangers=tuple(strangers))
    launching = bool(world.intents) or world.converged_at is None
    if first or not world.looked or (launching and fact.began > world.surveyed_at):
        world = replace(world, surveyed_at=fact.began, looked=True)
    return replace(world, found_at=fact.began) if first else world


def cluster_found(world: World, fact: facts.ClusterFound) -> World:
    """Fold the find of a cluster whose record was lost; one that is known is left as it is."""
    if world.desired is not None:
        return world
    world = replace(
        world,
        desired=fact.desired,
        region=fact.region,
        cluster_id=fact.cluster_id,
        host_key=fact.host_key,
        owner=fact.owner,
        recovered=True,
        wanted=True,
        requested_at=fact.at,
        found_at=fact.began,
        surveyed_at=fact.began,
    )
    for seen in sorted(fact.instances, key=lambda s: (s.launched_at or 0.0, s.id)):
        if seen.state not in DYING:
            world = _come(world, seen, fact.at)
    return world


def launched(world: World, seen: Seen, at: float) -> World:
    """Fold one instance out of the answer to RunInstances, which may have ended already."""
    return observe(world, seen, at) if seen.id in world.instances else _come(world, seen, at)


def state_notified(world: World, fact: facts.StateNotified) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage is Stage.GONE:
        return world
    if fact.state == "running":
        if instance.stage in (Stage.REQUESTED, Stage.PENDING) and not instance.ending:
            return world.with_instance(_running(instance, fact.at))
        return world
    known = {"pending": True, "shutting-down": instance.ending, "stopping": instance.state in ("stopping", "stopped")}
    if known.get(fact.state, False) or fact.state == instance.state or instance.doubted_at is not None:
        return world
    return world.with_instance(replace(instance, doubted_at=fact.at))


def interruption_notified(world: World, fact: facts.InterruptionNotified) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage is Stage.GONE:
        return world
    return world.with_instance(replace(instance, why=f"EC2 announced: {fact.action}"))


def instances_described(world: World, fact: facts.InstancesDescribed) -> World:
    for seen in fact.instances:
        world = observe(world, seen, fact.at)
    for missing in fact.missing:
        instance = world.instances.get(missing)
        if instance is None or instance.stage is Stage.GONE:
            continue
        since = instance.missed_at if instance.missed_at is not None else fact.at
        instance = replace(
            instance,
            misses=instance.misses + 1,
            missed_at=since,
            looks=instance.looks + 1,
            looked_at=fact.at,
            doubted_at=None,
        )
        if instance.misses >= GONE_AFTER_MISSES and fact.at - since >= GONE_AFTER_SECONDS:
            instance = replace(instance.to(Stage.GONE, fact.at), state="terminated", absent=True, command=None)
        world = _settle(world, instance, fact.at)
    return world


def termination_accepted(world: World, fact: facts.TerminationAccepted) -> World:
    for subject in fact.instances:
        instance = world.instances.get(subject)
        if instance is not None and instance.stage is not Stage.GONE:
            due = instance.judged is not None and instance.judged.finding is Finding.DUE and world.wanted
            ended = instance.ended or (Ending.IDLE if due else Ending.ASKED)
            first = instance.ending_at if instance.ending_at is not None else fact.at
            stopping = instance.to(Stage.STOPPING, fact.at)
            world = world.with_instance(replace(stopping, ending=True, ending_at=first, asked_at=fact.at, ended=ended))
    return world


def termination_overdue(world: World, fact: facts.TerminationOverdue) -> World:
    instance = world.instances.get(fact.instance)
    if instance is None or instance.stage is Stage.GONE:
        return world
    return world.with_instance(replace(instance, overdue=instance.overdue + 1))


def volumes_removed(world: World, fact: facts.VolumesRemoved) -> World:
    return _without_volumes(world, fact.volumes, kept=())


def volumes_left(world: World, fact: facts.VolumesLeft) -> World:
    return _without_volumes(world, fact.volumes, kept=fact.volumes)


def _without_volumes(world: World, volumes: Collection[str], kept: Collection[str]) -> World:
    """Return the world in which nothing more is to be done about these volumes."""
    for instance in list(world.instances.values()):
        theirs = [v for v in kept if v in (*instance.disposable, *instance.lasting)]
        changed = replace(
            instance,
            disposable=tuple(v for v in instance.disposable if v not in volumes),
            lasting=tuple(v for v in instance.lasting if v not in volumes),
            kept=(*instance.kept, *theirs),
        )
        if changed != instance:
            world = world.with_instance(changed)
    failures = {key: f for key, f in world.failures.items() if key.subject not in volumes}
    return replace(world, failures=failures) if len(failures) != len(world.failures) else world


def start_accepted(world: World, fact: facts.StartAccepted) -> World:
    for subject in fact.instances:
        instance = world.instances.get(subject)
        if instance is not None and instance.stopped:
            world = world.with_instance(
                replace(
                    instance.to(Stage.PENDING, fact.at),
                    state="pending",
                    detailed=False,
                    private_host=None,
                    public_host=None,  # a started instance has another one
                )
            )
    return world


def observe(world: World, seen: Seen, at: float) -> World:
    """Fold one description of an instance that is known."""
    instance = world.instances.get(seen.id)
    if instance is None:
        return world
    if instance.stage is Stage.GONE:
        if not instance.absent or seen.state in DYING:
            return world
        # It was only believed gone. It bills, so it is one of ours again.
        instance = _fresh(instance, at)
    looked = replace(
        instance,
        type=seen.type or instance.type,
        name=seen.name or instance.name,
        private_host=seen.private_host or instance.private_host,
        public_host=seen.public_host or instance.public_host,
        volumes=seen.volumes or instance.volumes,
        disposable=_volumes(instance, seen, instance.disposable, seen.disposable, seen.lasting),
        lasting=_volumes(instance, seen, instance.lasting, seen.lasting, seen.disposable),
        why=seen.why or instance.why,
        doubted_at=None,
        misses=0,
        missed_at=None,
        looked_at=at,
        looks=instance.looks + 1,
        detailed=instance.detailed or (seen.state == "running" and bool(seen.private_host)),
    )
    moved = _moved(looked, seen.state, at)
    if replace(moved, looked_at=instance.looked_at, looks=instance.looks) == instance and not _waits(instance):
        return world
    return _settle(world, moved, at)


def _volumes(
    instance: Instance, seen: Seen, before: Collection[str], now: Collection[str], other: Collection[str]
) -> tuple[str, ...]:
    """Return the volumes of one sort, after a look; an instance that ends is shown with fewer and fewer of them."""
    standing = before if seen.state in DYING or not seen.volumes else ()
    without = {*other, *instance.kept}
    return tuple(volume for volume in dict.fromkeys((*standing, *now)) if volume not in without)


def _waits(instance: Instance) -> bool:
    """Whether a look that tells nothing new is news all the same, since the next one is spaced by it."""
    return instance.stage in (Stage.REQUESTED, Stage.PENDING, Stage.STOPPING) or not instance.detailed


def _ours(world: World, seen: Seen) -> bool:
    return seen.token in world.intents or is_proven(seen.id, seen.token, seen.tags, world.cluster_id)


def _come(world: World, seen: Seen, at: float) -> World:
    """Fold the first sight of an instance that belongs to the cluster."""
    if seen.role is None:
        return world
    intent = world.intents.get(seen.token or "")
    ours = _ours(world, seen)
    launched_at = seen.launched_at or at
    pinned = intent is not None or (ours and launched_at >= world.host_key_since)
    instance = Instance(
        id=seen.id,
        role=seen.role,
        index=_index(world, seen),
        type=seen.type,
        stage_at=at,
        story=((at, Stage.REQUESTED),),
        launched_at=launched_at,
        adopted=not ours,
        found=ours and intent is None,
        alarm_possible=intent is None,
        request=intent.request if intent else world.request,
        host_key=(world.host_key or None) if pinned else None,
    )
    if intent is not None:
        world = replace(world, intents={**world.intents, intent.token: replace(intent, seen=True)})
    return observe(world.with_instance(instance), seen, at)


def _fresh(instance: Instance, at: float) -> Instance:
    """Return an instance as it was at first sight, with what is known of where it comes from."""
    return Instance(
        id=instance.id,
        role=instance.role,
        index=instance.index,
        type=instance.type,
        stage_at=at,
        story=((at, Stage.REQUESTED),),
        launched_at=instance.launched_at,
        adopted=instance.adopted,
        found=instance.found,
        alarm_possible=True,
        request=instance.request,
        host_key=instance.host_key,
        host_key_next=instance.host_key_next,
    )


def _index(world: World, seen: Seen) -> int | None:
    """Return the index that a factory's name claims, else the lowest that is free."""
    if seen.role is Role.ORCHESTRATOR or world.desired is None:
        return None
    taken = {i.index for i in world.instances.values() if i.role is Role.FACTORY and i.stage is not Stage.GONE}
    prefix = f"{world.desired.name}_factory_"
    if seen.name and seen.name.startswith(prefix) and seen.name[len(prefix) :].isdecimal():
        claimed = int(seen.name[len(prefix) :])
        if claimed not in taken:
            return claimed
    return next(index for index in range(len(taken) + 1) if index not in taken)


def _moved(instance: Instance, state: str, at: float) -> Instance:
    """Return the instance in the stage that EC2's word for the machine's state asks for; never back."""
    stage = instance.stage
    match state:
        case "pending" if stage is Stage.REQUESTED:
            return replace(instance.to(Stage.PENDING, at), state=state)
        case "pending" if instance.stopped and instance.state == "stopped":
            return replace(instance.to(Stage.PENDING, at), state=state, detailed=False, public_host=None)
        case "running" if stage in (Stage.REQUESTED, Stage.PENDING) or instance.stopped:
            return instance if instance.ending else _running(instance, at)
        case "shutting-down":
            return replace(instance if stage is Stage.GONE else instance.to(Stage.STOPPING, at), state=state)
        case "stopping" | "stopped" if stage is not Stage.GONE and not instance.ending:
            return replace(instance.to(Stage.STOPPING, at), state=state, command=None)
        case "terminated" if stage is not Stage.GONE:
            return replace(instance.to(Stage.GONE, at), state=state, command=None)
        case _:
            return instance


def _running(instance: Instance, at: float) -> Instance:
    return replace(
        instance.to(Stage.RUNNING, at),
        state="running",
        running_at=at,
        reach_from=at,
        setup_from=at,
        failure=None,
    )


def _settle(world: World, instance: Instance, at: float) -> World:
    """Put an instance into the world; where it is ending, say why, and count it where that is a loss."""
    if instance.state in DYING and instance.ended is None:
        ending = Ending.ASKED if instance.ending else Ending.IDLE if _was_due(world, instance, at) else Ending.LOST
        instance = replace(instance, ended=ending)
        if ending is Ending.LOST and world.wanted and world.converged_at is None:
            world = replace(world, losses=world.losses + 1)
    world = world.with_instance(instance)
    if instance.stage is not Stage.GONE:
        return world
    failures = {key: f for key, f in world.failures.items() if key.subject != instance.id}
    return replace(world, failures=failures) if len(failures) != len(world.failures) else world


def _was_due(world: World, instance: Instance, at: float) -> bool:
    """Whether an instance that ended unasked had been idle for its timeout, as far as is known."""
    minutes = world.desired.timeout_minutes(instance.role) if world.desired else None
    if minutes is None or instance.alarm is None or instance.policy_since is None or instance.ready_at is None:
        return False
    if (world.hold is not None and world.hold.until > at) or instance.busy:
        return False
    if instance.role is Role.ORCHESTRATOR and any(i.alive for i in world.of(Role.FACTORY)):
        return False
    base = max(instance.policy_since, instance.last_busy or 0.0, instance.ready_at, world.requested_at)
    return at >= base + minutes * 60 - min(IDLE_SLACK, minutes * 30)
