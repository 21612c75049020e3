"""Whom to look at, to name, to set up and to tell about the cluster: everything about one host at a time."""

from __future__ import annotations

from flambed.actions import Acquaint, Describe, Inform, LearnHostKey, Peer, SetUp, Tag
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed.facts import HostGivenUp, Key
from flambed.observed.instance import UNDER_WAY, Instance, Stage
from flambed.plan.draft import Draft, growing
from flambed.tags import INSTANCE_TAG, digest_of, tags_of

SPACING = 1.0
"""Seconds between two looks at EC2 at least; what becomes due in between is asked for together."""

MISSED_AGAIN = 60.0
"""Seconds between two looks for an instance that does not appear, at most; most fresh ones appear within seconds."""

DETAILS_AFTER = 5.0
"""Seconds that a running instance waits for its siblings, so that one look serves all of them."""


def attend(draft: Draft) -> None:
    """Name, set up and inform each running host."""
    common = {role: _common_tags(draft, role) for role in Role}
    for instance in draft.world.instances.values():
        _tag(draft, instance, common[instance.role])
        if instance.stage is Stage.READY and instance.setup_done == draft.setup:
            _inform(draft, instance)
            _acquaint(draft, instance)
        elif instance.stage in (Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP, Stage.READY):
            _set_up(draft, instance)


def look(draft: Draft) -> None:
    """Ask EC2 about the instances that an event, an absence or a long silence casts doubt on."""
    due = {i.id: at for i in draft.world.instances.values() if (at := _look_due(draft, i)) is not None}
    if not due:
        return
    last = max((i.looked_at for i in draft.world.instances.values() if i.looks), default=0.0)
    first = max(min(due.values()), last + SPACING)
    if first > draft.now:
        draft.wake(first)
        return
    draft.want(Describe(tuple(sorted(i for i, at in due.items() if at <= draft.now + SPACING))))


def _look_due(draft: Draft, instance: Instance) -> float | None:
    if instance.stage is Stage.GONE:
        return None
    if instance.doubted_at is not None:
        return instance.doubted_at
    if instance.misses:
        return instance.looked_at + growing(1.0, instance.misses - 1, MISSED_AGAIN)
    since = max(instance.stage_at, instance.looked_at if instance.looks else 0.0)
    if instance.stage in (Stage.REQUESTED, Stage.PENDING, Stage.STOPPING) and instance.state != "stopped":
        return since + _patience(draft, instance)
    if draft.address_of(instance) is None and instance.stage is Stage.RUNNING:
        return since + min(float(instance.looks), 15.0)
    if not instance.detailed:
        return since + (DETAILS_AFTER if draft.booting or instance.looks else 0.0)
    return None


def _patience(draft: Draft, instance: Instance) -> float:
    """Return how long an instance may say nothing before it is looked at: an event should come first, if there are any."""
    if draft.rules.has_events and not draft.world.events_lost:
        return growing(30.0, instance.looks, 300.0)
    return growing(2.0, instance.looks, 15.0, by=1.5)


def _common_tags(draft: Draft, role: Role) -> tuple[dict[str, str], str]:
    """Return the tags that all instances of a role share, all but the name, and what stands for them."""
    world = draft.world
    tags = tags_of(draft.desired, role, "", cluster_id=world.cluster_id, daemon=draft.rules.daemon, owner=world.owner)
    return tags, digest_of(tags)


def _tag(draft: Draft, instance: Instance, common: tuple[dict[str, str], str]) -> None:
    """Name the instance and its volumes, and bring their tags up to date, once its volumes are known (S22, S23)."""
    if not (instance.detailed and instance.alive):
        return
    tags, digest = common
    name = draft.desired.instance_name(instance.role, instance.index)
    whole = " ".join((digest, name, *instance.volumes))
    if instance.tagged != whole:
        draft.want(Tag(instance.id, instance.volumes, {**tags, "Name": name, INSTANCE_TAG: instance.id}, whole))


def _set_up(draft: Draft, instance: Instance) -> None:
    key = Key("setup", instance.id)
    if key in draft.world.in_flight:
        return
    reach_by = (instance.reach_from or instance.stage_at) + draft.rules.reach_deadline
    if instance.stage is not Stage.RUNNING:  # it was reached before, and the link was lost
        reach_by = draft.now + draft.rules.reach_deadline
    address = draft.address_of(instance)
    if not instance.host_keys:
        draft.want(LearnHostKey(instance.id))
    if not instance.host_keys or address is None or not _may_start(draft, instance):
        draft.wake(reach_by)
        if draft.now >= reach_by:
            draft.conclusions.append(_given_up(draft, instance))
        return
    draft.want(
        SetUp(
            instance=instance.id,
            address=address,
            host_keys=instance.host_keys,
            rekey=_rekey(draft, instance),
            first=instance.commands_done if instance.setup_digest == draft.setup else 0,
            attempt=instance.attempt,
            commands=draft.desired.setup_cmds,
            digest=draft.setup,
            description=draft.description_text,
            description_digest=draft.description_digest,
            lets_in=draft.world.peer_key if instance.role is Role.FACTORY and draft.world.peer_key else None,
            lets_in_digest=digest_of({"peer_key": draft.world.peer_key}),
            reach_by=reach_by,
        )
    )


def _may_start(draft: Draft, instance: Instance) -> bool:
    """Whether an enforcer is seen to stand: nothing is set up on a host that nobody would end (row "arming")."""
    if draft.policies[instance.role].minutes is None or instance.alarm is not None:
        return True
    return instance.timer == "renewed"


def _given_up(draft: Draft, instance: Instance) -> HostGivenUp:
    if not instance.host_keys:
        failure = draft.world.failures.get(Key("host_key", instance.id))
        said = f" ({failure.message})" if failure else ""
        message = f"nothing vouches for its host key{said}; it is never trusted blindly"
        return HostGivenUp(at=draft.now, instance=instance.id, reason=Reason.HOST_KEY_UNKNOWN, message=message)
    if draft.address_of(instance) is None:
        message = f"it has no {draft.rules.address} address; see the setting `address` and the subnet"
        return HostGivenUp(at=draft.now, instance=instance.id, reason=Reason.UNREACHABLE, message=message)
    lacking = instance.alarm_lacking
    said = f": {lacking.message} ({lacking.code})" if lacking else ""
    message = f"its idle-termination alarm could not be put, so it was not set up{said}"
    reason = lacking.reason if lacking else Reason.TIMED_OUT
    return HostGivenUp(at=draft.now, instance=instance.id, reason=reason, message=message)


def _inform(draft: Draft, instance: Instance) -> None:
    """Tell a ready host who belongs to the cluster now, unless that is still changing."""
    digest, rekey = draft.description_digest, _rekey(draft, instance)
    if (instance.informed == digest and not rekey) or draft.world.intents:
        return
    address = draft.address_of(instance)
    if address is not None and instance.host_keys:
        draft.want(Inform(instance.id, address, instance.host_keys, rekey, draft.description_text, digest))


def _acquaint(draft: Draft, instance: Instance) -> None:
    """Let the orchestrator know its factories, as soon as none of them is under way, and let them know it."""
    world, address = draft.world, draft.address_of(instance)
    if not world.peer_key or address is None or not instance.host_keys:
        return
    if instance.role is Role.FACTORY:
        peers, digest = None, digest_of({"peer_key": world.peer_key})
    else:
        factories = [i for i in world.of(Role.FACTORY) if i.private_host is not None and i.host_keys]
        if world.intents or any(i.stage in UNDER_WAY for i in world.of(Role.FACTORY)):
            return
        peers = tuple(_peer(draft, factory) for factory in factories if factory.stage is not Stage.STOPPING)
        known = {peer.instance: (peer.name, peer.address, *peer.host_keys) for peer in peers}
        digest = digest_of({"peer_key": world.peer_key, "username": draft.desired.username, "peers": known})
    if instance.acquainted != digest:
        draft.want(Acquaint(instance.id, address, instance.host_keys, peers, digest))


def _peer(draft: Draft, factory: Instance) -> Peer:
    return Peer(
        instance=factory.id,
        name=draft.desired.instance_name(factory.role, factory.index),
        address=factory.private_host or "",
        host_keys=factory.host_keys,
    )


def _rekey(draft: Draft, instance: Instance) -> bool:
    """Whether it has the key of its user data still, which many may know, and can make itself another."""
    return instance.host_key == draft.world.host_key and instance.host_key_kept is None
