"""Whom to launch, and when a launch has failed."""

from __future__ import annotations

from dataclasses import replace

from flambed.actions import Find, Launch, Prepare, Start
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed.facts import Key, LaunchAbandoned
from flambed.observed.instance import Ending, Failure, Instance
from flambed.observed.world import Intent, World
from flambed.plan.draft import Draft, again_at
from flambed.plan.retiring import created, roll_back, shrink

ATTEMPTS = 3
"""How many instances that ended before the cluster was first ready are replaced."""

BATCH = 100
"""Instances that one RunInstances asks for at most, as AWS advises."""

TOKEN_LIFETIME = 20 * 3600.0
"""Seconds for which a client token surely stands; after that the same call may launch anew."""

APPEARS_WITHIN = 300.0
"""Seconds after which a look by tag shows whatever was launched before."""

HOPELESS = frozenset({Reason.BAD_REQUEST, Reason.NOT_PERMITTED, Reason.QUOTA})
"""Refusals of a launch that waiting does not mend."""


def launch(draft: Draft) -> None:
    """Bring the number of instances to what is wanted, or roll back a launch that has failed."""
    world = draft.world
    if world.found_at is None:
        draft.want(Find())
        return
    replay(draft)
    if conflict(draft) is not None:
        _wait_in_conflict(draft)
        return
    if (why := trouble(draft)) is not None:
        roll_back(draft, why)
        return
    _start_stopped(draft)
    shrink(draft)
    if world.converged_at is None and world.losses <= ATTEMPTS:
        _launch_missing(draft)
    if world.converged_at is None and draft.now < deadline(draft):
        draft.wake(deadline(draft))


def _wait_in_conflict(draft: Draft) -> None:
    """Leave strangers alone; where they stay, what this launch created does not wait for them for ever.

    Of two orchestrators nobody knows which is the cluster's, so that all is left to a person (S19).
    """
    world = draft.world
    if not (world.strangers and created(world)) or _orchestrators(world)[1:]:
        return
    if draft.now < deadline(draft):
        draft.wake(deadline(draft))
        return
    roll_back(draft, f"{_strangers(world)}; given up after {draft.desired.launch.deadline:g} s (launch.deadline)")


def missing(draft: Draft, role: Role) -> int:
    """Return how many instances of a role are neither alive nor being launched, nor ended by their idleness."""
    asked = sum(intent.spec.count for intent in draft.world.intents.values() if intent.spec.role is role)
    return max(0, lacking(draft, role) - asked)


def lacking(draft: Draft, role: Role) -> int:
    """Return how many instances of a role should be there and are not; those that ended by their idleness should not."""
    idle = sum(1 for i in draft.world.instances.values() if i.role is role and i.ended is Ending.IDLE)
    return max(0, draft.desired.count_of(role) - len(_alive(draft.world, role)) - idle)


def enough(draft: Draft, role: Role) -> bool:
    """Whether so many instances of a role are alive that the launch is not rolled back for want of more (S31)."""
    least = 1 if role is Role.ORCHESTRATOR else draft.desired.minimum_factories
    return len(_alive(draft.world, role)) >= min(max(least, 1), draft.desired.count_of(role))


def deadline(draft: Draft) -> float:
    """Return the time at which a launch that is not complete has failed or stays as it is."""
    return draft.world.requested_at + draft.desired.launch.deadline


def conflict(draft: Draft) -> str | None:
    """Return why what exists cannot be this cluster, so that none of it may be touched (S19); None where it can.

    That is for an `up` to say. What comes up beside a cluster that is ready does it no harm.
    """
    world, desired = draft.world, draft.desired
    if world.converged_at is not None:
        return None
    orchestrators = _orchestrators(world)
    if len(orchestrators) > 1:
        return (
            f"two orchestrators carry the name {desired.name}: {' and '.join(orchestrators)}; neither was touched. "
            "Terminate one of them, or give one's cluster another name in its tag Cluster-Name, then run `up` again"
        )
    return _strangers(world) if world.strangers else None


def _orchestrators(world: World) -> list[str]:
    return [i.id for i in _alive(world, Role.ORCHESTRATOR)]


def _strangers(world: World) -> str:
    return (
        f"{', '.join(world.strangers)} carry the tags of this cluster and were not launched by this service; "
        "a member of the admin group may adopt them with `up`, or terminate them first"
    )


def trouble(draft: Draft) -> str | None:
    """Return why the launch has failed for good, in words for the user; None while there is hope (S31)."""
    world = draft.world
    if (why := conflict(draft)) is not None:
        return why
    if world.rolled_back is not None:
        return world.rolled_back
    if world.converged_at is not None:
        return None
    if (failure := world.failures.get(Key("prepare"))) and failure.reason in HOPELESS:
        return failure.message
    for role in Role:
        if (why := _role_failed(draft, role)) is not None:
            return why
    return None


def _role_failed(draft: Draft, role: Role) -> str | None:
    world = draft.world
    failure = world.launch_failures.get(role) or world.failures.get(Key("prepare")) or _open_failure(world, role)
    if enough(draft, role):
        return None
    if world.losses > ATTEMPTS:
        return f"{world.losses} instances ended before the cluster was ready; the last: {_last_loss(world)}"
    if failure is None:
        return None
    words = f"{role.value.lower()}: {failure.message} ({failure.code})"
    if (
        failure.reason in HOPELESS
        and not _alive(world, role)
        and not any(i.spec.role is role for i in world.intents.values())
    ):
        return words
    if draft.now >= deadline(draft):
        return f"{words}; given up after {draft.desired.launch.deadline:g} s (launch.deadline)"
    return None


def _open_failure(world: World, role: Role) -> Failure | None:
    for intent in world.intents.values():
        if intent.spec.role is role and (failure := world.failures.get(Key("launch", intent.token))):
            return failure
    return None


def _alive(world: World, role: Role) -> list[Instance]:
    return [i for i in world.of(role) if i.alive]


def _last_loss(world: World) -> str:
    lost = [i for i in world.instances.values() if i.ended is Ending.LOST]
    if not lost:
        return "it was not even seen (IdempotentInstanceTerminated)"
    last = max(lost, key=lambda i: i.stage_at)
    return f"{last.id}: {last.why or 'EC2 gives no reason'}"


def replay(draft: Draft) -> None:
    """Call again what was written down and has no answer, until it is certain what became of it."""
    surplus = _surplus(draft)
    for token, intent in draft.world.intents.items():
        if (doubtful := _doubtful_since(draft, intent)) is not None:
            _look_for(draft, token, doubtful)
        elif token in surplus and intent.uncertain:
            _look_for(draft, token, _last_called(draft, token))
        elif _is_moot(draft, token, surplus):
            draft.conclusions.append(LaunchAbandoned(at=draft.now, token=token, why="it is not wanted any more"))
        else:
            draft.want(Launch(token, intent.spec))


def _surplus(draft: Draft) -> frozenset[str]:
    """Return the launches that would make more instances than are lacking by now, if an earlier call created none yet.

    What came meanwhile, an adopted host for example, may have taken their place.
    """
    world = draft.world
    if not world.wanted:
        return frozenset()  # what a call creates is given back at once, and its answer is certain
    room = {role: lacking(draft, role) for role in Role}
    surplus = set()
    for token, intent in world.intents.items():
        if intent.seen:
            continue  # calling again only tells what it created
        if intent.spec.count > room[intent.spec.role] and Key("launch", token) not in world.in_flight:
            surplus.add(token)
        else:
            room[intent.spec.role] -= intent.spec.count
    return frozenset(surplus)


def _last_called(draft: Draft, token: str) -> float:
    """Return the last time at which a call under this token may have been made."""
    failure = draft.world.failures.get(Key("launch", token))
    return max(draft.world.requested_at, draft.world.started_at, failure.at if failure else 0.0)


def _doubtful_since(draft: Draft, intent: Intent) -> float | None:
    """Return from when on a call tells nothing any more of what an earlier one under its token created."""
    expired = intent.at + TOKEN_LIFETIME
    if draft.now < expired:
        return intent.refused_at
    # The clock may have been set ahead: what a call just before the start created has five minutes to appear all the same.
    return max(intent.refused_at or expired, draft.world.started_at)


def _look_for(draft: Draft, token: str, since: float) -> None:
    """Look up by tag what a launch may have created; once that had time to appear, the launch is done with."""
    world = draft.world
    if world.surveyed_at >= since + APPEARS_WITHIN:
        why = "it is not called again; what it may have created would have been found by its tags"
        draft.conclusions.append(LaunchAbandoned(at=draft.now, token=token, why=why))
    elif draft.now < since + APPEARS_WITHIN:
        draft.wake(since + APPEARS_WITHIN)
    else:
        draft.want(Find())


def _is_moot(draft: Draft, token: str, surplus: frozenset[str]) -> bool:
    """Whether nobody wants this launch any more, and it has certainly created nothing: it was only ever throttled."""
    world, key = draft.world, Key("launch", token)
    failure = world.failures.get(key)
    if key in world.in_flight or failure is None or failure.reason is not Reason.THROTTLED:
        return False
    unwanted = not world.wanted or token in surplus or trouble(draft) is not None
    return not world.intents[token].uncertain and unwanted


def _launch_missing(draft: Draft) -> None:
    world = draft.world
    wanted = {role: missing(draft, role) for role in Role}
    needed = tuple(role for role, count in wanted.items() if count)
    if not needed:
        return
    if draft.now < draft.rules.launch_from:
        draft.wake(draft.rules.launch_from)
        return
    if not world.looked or world.surveyed_at < draft.rules.launch_from:
        draft.want(Find())  # the journal may be an old copy, or a new one: what it does not know of comes first
        return
    if unknown := tuple(role for role in needed if role not in world.specs):
        draft.want(Prepare(unknown))
        return
    number = world.launches
    for role in needed:
        failure = world.launch_failures.get(role)
        if failure is not None and (failure.reason in HOPELESS or draft.now >= deadline(draft)):
            continue
        if failure is not None and again_at(failure) > draft.now:
            draft.wake(again_at(failure))
            continue
        for count in _batches(wanted[role]):
            token = f"{world.cluster_id}-{world.request}-{draft.rules.run}-{number}"
            draft.want(Launch(token, replace(world.specs[role], count=count)))
            number += 1


def _batches(count: int) -> list[int]:
    return [min(BATCH, count - done) for done in range(0, count, BATCH)]


def _start_stopped(draft: Draft) -> None:
    stopped = tuple(i.id for i in draft.world.instances.values() if i.stopped and i.state == "stopped")
    free = tuple(i for i in stopped if draft.free(Key("start", i)))
    if free and draft.world.converged_at is None:
        draft.want(Start(free))
