"""The day the record is lost: clusters are found again by what their instances carry. Pure.

The journal keeps what we said; EC2 keeps the instances, and on each the tags that say whose it is: `flambed:daemon` (the
id of the service), `flambed:cluster` and `flambed:owner`. So a service whose journal was lost, or is an old copy, knows
its clusters by their tags, and nothing more of them than EC2 describes. What carries another service's id is never ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from flambed.desired import PURPOSE, Cluster, Role
from flambed.errors import FlambedError
from flambed.observed.facts import ClusterFound, Seen
from flambed.observed.instance import DYING
from flambed.tags import CLUSTER_TAG, DAEMON_TAG, OWNER_TAG, is_proven

NOBODY: Final = -1
"""The owner of a cluster whose tag does not say who that is: an admin may act on it."""

UNKNOWN: Final[Mapping[str, str]] = {
    "key": "(not known: the record of this cluster was lost)",  # AWS never saw that path
    "key_name": "(not known)",
    "security_group": "sg-unknown",
    "subnet_id": "subnet-unknown",
}
"""What stands in a found cluster for fields that every file has, where EC2 does not tell them."""

TOLD_BY_EC2: Final = ("orchestrator_type", "factories_type", "key_name", "subnet_id")
"""The fields of a found cluster that its instances tell and that can never change on them."""


class UntoldError(FlambedError):
    """What instances carry does not make a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A cluster of ours that there is no record of. Its instances are alive, the oldest first."""

    cluster_id: str
    identity: tuple[str, str]
    owner: int
    instances: tuple[Seen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another service's instances in our account and region."""

    daemon: str
    instances: int
    clusters: tuple[str, ...]  # CREATOR/NAME, sorted


def lost(seen: Iterable[Seen], *, daemons: Collection[str], known: Collection[str]) -> list[Lost]:
    """Return the clusters that are ours by their tags and are not known, the oldest first.

    Args:
        seen: instances, in any state, anybody's.
        daemons: the ids that are ours: this service's, and those of services that it succeeds.
        known: the ids of the clusters that there is a record of.
    """
    groups: dict[tuple[str, str, str], list[Seen]] = {}
    for instance in sorted(seen, key=lambda i: (i.launched_at or 0.0, i.id)):
        tags = instance.tags
        cluster_id = tags.get(CLUSTER_TAG)
        if not _lives(instance) or instance.role is None or tags.get(DAEMON_TAG) not in daemons:
            continue
        if not cluster_id or cluster_id in known:
            continue
        if is_proven(instance.id, instance.token, tags, cluster_id):
            key = (cluster_id, tags.get("creator", ""), tags.get("Cluster-Name", ""))
            groups.setdefault(key, []).append(instance)
    return [
        Lost(cluster_id=cluster_id, identity=(creator, name), owner=_owner(found), instances=tuple(found))
        for (cluster_id, creator, name), found in groups.items()
    ]


def others(seen: Iterable[Seen], *, daemons: Collection[str]) -> list[Other]:
    """Return the services that are not ours and have instances here, by id."""
    groups: dict[str, list[Seen]] = {}
    for instance in seen:
        daemon = instance.tags.get(DAEMON_TAG)
        if daemon and daemon not in daemons and _lives(instance):
            groups.setdefault(daemon, []).append(instance)
    return [
        Other(
            daemon=daemon,
            instances=len(found),
            clusters=tuple(sorted({f"{i.tags.get('creator')}/{i.tags.get('Cluster-Name')}" for i in found})),
        )
        for daemon, found in sorted(groups.items())
    ]


def record_of(
    cluster: Lost,
    described: Mapping[str, Mapping[str, Any]],
    *,
    region: str,
    host_key: str,
    began: float,
    at: float,
) -> ClusterFound:
    """Return what is on record of a found cluster from now on.

    Args:
        cluster: what was found.
        described: its instances as EC2 describes them, by id.
        region: where they are.
        host_key: the public half of the kept bootstrap host key, "" without one.
        began: when the look began, UNIX seconds; `at`: when it was done.

    Raises:
        UntoldError: what they carry does not make a cluster.
    """
    return ClusterFound(
        at=at,
        desired=_desired(cluster, [described[instance.id] for instance in cluster.instances], region),
        region=region,
        cluster_id=cluster.cluster_id,
        owner=cluster.owner,
        host_key=host_key,
        instances=cluster.instances,
        began=began,
    )


def differences(found: Cluster, instances: Iterable[Role], wanted: Cluster) -> list[str]:
    """Return the fields in which machines that exist differ from what a file asks for, as far as EC2 tells.

    Args:
        found: the cluster as its instances tell it.
        instances: the roles that it has instances of.
        wanted: what the file says.
    """
    lacking = {f"{_PREFIX[role]}_type" for role in Role} - {f"{_PREFIX[role]}_type" for role in instances}
    return [
        name
        for name in TOLD_BY_EC2
        if name not in lacking and getattr(found, name) not in {UNKNOWN.get(name), getattr(wanted, name)}
    ]


_PREFIX: Final = {Role.ORCHESTRATOR: "orchestrator", Role.FACTORY: "factories"}


def _lives(instance: Seen) -> bool:
    return instance.state not in DYING and instance.tags.get("Purpose") == PURPOSE


def _owner(instances: Sequence[Seen]) -> int:
    """Return the uid that all instances name; where they do not agree it is nobody's."""
    named = {instance.tags.get(OWNER_TAG, "") for instance in instances}
    text = named.pop() if len(named) == 1 else ""
    return int(text) if text.isascii() and text.isdecimal() else NOBODY


def _desired(cluster: Lost, descriptions: Sequence[Mapping[str, Any]], region: str) -> Cluster:
    """Return the least cluster that these instances are. What EC2 does not tell is as in a file that leaves it out."""
    creator, name = cluster.identity
    types = {seen.role: seen.type for seen in cluster.instances}
    some = descriptions[0]
    groups = [group["GroupId"] for group in some.get("SecurityGroups", ())]
    any_type = next(iter(types.values()))
    try:
        return Cluster.model_validate(
            {
                "name": name,
                "creator": creator,
                "region_name": region,
                "factories_num": max(1, sum(seen.role is Role.FACTORY for seen in cluster.instances)),
                "orchestrator_type": types.get(Role.ORCHESTRATOR, any_type),
                "factories_type": types.get(Role.FACTORY, any_type),
                "key_name": some.get("KeyName") or UNKNOWN["key_name"],
                "key": UNKNOWN["key"],
                "security_group": groups[0] if groups else UNKNOWN["security_group"],
                "subnet_id": some.get("SubnetId") or UNKNOWN["subnet_id"],
                "factories_timeout": -1,  # not known: nothing is put or removed in its name (see `plan.protecting`)
            }
        )
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)
        )
        ids = ", ".join(instance.id for instance in cluster.instances)
        raise UntoldError(
            f"{ids} carry the tags of cluster {cluster.cluster_id} of this service, of which there is no record, and do not "
            f"tell what it is ({problems}): terminate them, or correct their tags"
        ) from error
