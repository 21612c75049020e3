"""The tags of a cluster's instances and volumes: how they are found again, by us, by Flambé and by people (S19, S23)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from flambed.desired import PURPOSE, Cluster, Role


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
        "flambed:cluster": cluster_id,
        "flambed:daemon": daemon,
        "flambed:owner": str(owner),
    }


def digest_of(value: Mapping[str, object]) -> str:
    """Return a short digest of a JSON value, equal for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
