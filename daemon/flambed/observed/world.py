"""The world of one cluster: everything known of it, as one immutable value.

It is made by folding the cluster's facts, one after the other (see `fold`), and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flambed.desired import Cluster, Role
from flambed.observed.facts import Key, LaunchSpec
from flambed.observed.instance import Failure, Instance, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A RunInstances that was written down; it stays until AWS answered it for certain."""

    token: str
    spec: LaunchSpec
    desired: Cluster  # as it was then: the same call needs the same parameters
    at: float
    request: int
    uncertain: bool = False  # an answer was lost: it may have created instances
    refused_at: float | None = None  # refused since, though it may have been accepted before
    seen: bool = False  # an instance that it created was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A person's word that the cluster is in use."""

    until: float
    why: str
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything known of one cluster. Empty before the first `up`."""

    desired: Cluster | None = None
    region: str = ""
    cluster_id: str = ""
    host_key: str = ""
    owner: int = -1
    may_adopt: bool = False
    host_key_since: float = 0.0  # hosts that were launched before carry another key
    peer_key: str = ""  # public half of the key with which the orchestrator logs in to the factories
    recovered: bool = False  # its record was lost: no more is known of it than its instances tell, until the next `up`
    wanted: bool = False  # up, and not down since
    shrink: bool = False
    request: int = 0  # counts the `up`s
    requested_at: float = 0.0
    found_at: float | None = None  # when the first look by tag since that began
    surveyed_at: float = 0.0  # when the last look by tag began
    started_at: float = 0.0  # when the service last came up
    looked: bool = True  # there was a look by tag since the service came up
    converged_at: float | None = None  # first ready since that
    converged_request: int = 0  # the number of the last `up` that became ready
    changed_at: float = 0.0  # when the phase last changed

    specs: Mapping[Role, LaunchSpec] = field(default_factory=dict)
    intents: Mapping[str, Intent] = field(default_factory=dict)
    launches: int = 0  # counts the intents, for the tokens
    launch_failures: Mapping[Role, Failure] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()  # carry our tags, and are not ours; as of the last look
    losses: int = 0  # instances that ended before the cluster was first ready
    rolled_back: str | None = None  # why this launch has failed for good

    events_lost: bool = False  # the queue that tells of state changes cannot be read
    in_flight: Mapping[Key, float] = field(default_factory=dict)
    failures: Mapping[Key, Failure] = field(default_factory=dict)
    hold: Hold | None = None
    hold_ended_at: float | None = None  # when somebody ended the last one
    phase: str = "converging"
    reason: str | None = None

    def of(self, role: Role) -> list[Instance]:
        """Return the instances of a role that are not gone, by index."""
        found = [i for i in self.instances.values() if i.role is role and i.stage is not Stage.GONE]
        return sorted(found, key=lambda i: (i.index if i.index is not None else -1, i.launched_at, i.id))

    def with_instance(self, instance: Instance) -> World:
        """Return the world with this instance in it; the same object where it is there already."""
        if self.instances.get(instance.id) is instance:
            return self
        return replace(self, instances={**self.instances, instance.id: instance})
