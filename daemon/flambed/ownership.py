"""Whose a thing in AWS is: what proves that it is ours, and what belongs to no cluster that is known (orphans).

Pure. A name proves nothing, and neither does a cluster's name in a tag: ownership is the id of this very service in the
tag `flambed:daemon`, beside the tag of a cluster. (What to do with whole clusters that are found by their tags is told in
`recovery`; what is left here could not be taken on as one.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from flambed.desired import PURPOSE
from flambed.observed.facts import Seen
from flambed.observed.instance import DYING
from flambed.tags import CLUSTER_TAG, DAEMON_TAG, LAUNCH_TAG, is_proven

Kind = Literal["instance", "alarm", "volume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this service knows of: nothing that is in here is ever an orphan."""

    daemons: frozenset[str]  # the ids that are ours: this service's, and those of services that it succeeds
    clusters: frozenset[str]  # ids of clusters
    tokens: frozenset[str]  # client tokens of launches that have no answer yet
    instances: frozenset[str]  # ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """An instance, an alarm or a volume, as AWS tells it."""

    kind: Kind
    id: str  # of an alarm its name
    state: str  # AWS's word
    created_at: float  # UNIX seconds of AWS's clock: the launch, the creation, or the last change of an alarm
    tags: Mapping[str, str]
    instance: str | None = None  # that it is or is of; None for a volume

    @property
    def cluster(self) -> str | None:
        """The id of the cluster that its tags name."""
        return self.tags.get(CLUSTER_TAG)


def is_ours(daemons: Collection[str], tags: Mapping[str, str]) -> bool:
    """Whether tags say that something belongs to a cluster of this service."""
    return tags.get(DAEMON_TAG) in daemons and bool(tags.get(CLUSTER_TAG))


def made_by_us(daemons: Collection[str], tags: Mapping[str, str]) -> bool:
    """Whether tags prove that a launch of this service created it; what was attached or adopted carries no such tag."""
    return is_ours(daemons, tags) and tags.get("Purpose") == PURPOSE and bool(tags.get(LAUNCH_TAG))


def unclaimed(instances: Iterable[Seen], known: Known) -> tuple[Seen, ...]:
    """Return those of a region's instances that carry a cluster's tags and belong to no known cluster, whoever's they are.

    What is ending already is left out: it loses its tags and stays visible for an hour.
    """
    return tuple(
        seen
        for seen in instances
        if seen.state not in DYING
        and seen.tags.get("Purpose") == PURPOSE
        and seen.tags.get(CLUSTER_TAG, "") not in {"", *known.clusters}
        and seen.id not in known.instances
        and (seen.token is None or seen.token not in known.tokens)
    )


def orphans(
    instances: Iterable[Seen], alarms: Iterable[Resource], volumes: Iterable[Resource], known: Known
) -> tuple[Resource, ...]:
    """Return the orphans of a region; instances come first, volumes last.

    Args:
        instances: all that exist under Flambé's tags, and all that exist of those that the alarms are of.
        alarms: those by our name, with their tags.
        volumes: with their tags; one that is attached is no orphan.
        known: what belongs to somebody.
    """
    instances = tuple(instances)
    ending = [
        seen
        for seen in unclaimed(instances, known)
        if is_ours(known.daemons, seen.tags) and is_proven(seen.id, seen.token, seen.tags, seen.tags[CLUSTER_TAG])
    ]
    living = {seen.id for seen in instances if seen.state not in DYING} | known.instances
    living -= {seen.id for seen in ending}
    return (
        *map(_resource, ending),
        # A cluster that was found again after its record was lost knows nothing of its hosts that were gone by then.
        *(one for one in alarms if is_ours(known.daemons, one.tags) and one.instance not in living),
        *(
            one
            for one in volumes
            if one.state == "available" and made_by_us(known.daemons, one.tags) and one.cluster not in known.clusters
        ),
    )


def _resource(seen: Seen) -> Resource:
    return Resource(
        kind="instance",
        id=seen.id,
        state=seen.state,
        created_at=seen.launched_at or 0.0,
        tags=seen.tags,
        instance=seen.id,
    )
