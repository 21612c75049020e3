"""The tags of a cluster's instances and volumes: how they are found again, by us, by Flambé and by people (S19, S23)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from flambed.desired import PURPOSE, Cluster, Role

CLUSTER_TAG: Final = "flambed:cluster"
"""The id of the cluster that a thing belongs to."""

DAEMON_TAG: Final = "flambed:daemon"
"""The id of the service that looks after it."""

OWNER_TAG: Final = "flambed:owner"
"""The uid of the cluster's owner."""

LAUNCH_TAG: Final = "flambed:launch"
"""The client token of the launch that created a thing. It is given at the creation and never later: what carries it
was made by us, where what was attached or adopted since carries all the other tags."""

INSTANCE_TAG: Final = "flambed:instance"
"""The id of the very instance that a service took into a cluster: the same tags on another machine prove nothing."""


def is_proven(instance: str, token: str | None, tags: Mapping[str, str], cluster_id: str) -> bool:
    """Whether an instance is a cluster's own: its launch was one of the cluster's, or it was taken in.

    Tags are copied easily ("launch more like this"). Nobody can give an instance another client token, and ours begin
    with the cluster's id; what was adopted carries its own id in a tag.
    """
    launched = token is not None and token.startswith(f"{cluster_id}-")
    return tags.get(CLUSTER_TAG) == cluster_id and (launched or tags.get(INSTANCE_TAG) == instance)


def tags_of(cluster: Cluster, role: Role, name: str, *, cluster_id: str, daemon: str, owner: int) -> dict[str, str]:
    """Return all tags of one instance: the user's, Flambé's own and those that prove that it is ours.

    Args:
        cluster: what the file says.
        role: the instance's role.
        name: its `Name` tag.
        cluster_id: tells this cluster from an earlier one of the same name.
        daemon: the id of this service, which proves who launched it.
        owner: uid of the owner, for the day on which the journal is lost.
    """
    return {
        **cluster.user_tags,
        "creator": cluster.creator,
        "Purpose": PURPOSE,
        "Cluster-Name": cluster.name,
        "Role": role.value,
        "Name": name,
        CLUSTER_TAG: cluster_id,
        DAEMON_TAG: daemon,
        OWNER_TAG: str(owner),
    }


def digest_of(value: Mapping[str, object]) -> str:
    """Return a short digest of a JSON value, equal for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
