"""What a decision is made of, and the sheet on which it is drafted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from flambed.actions import Action, Protection
from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.observed.facts import Fact, Key
from flambed.observed.instance import Failure, Instance, Stage
from flambed.observed.world import World
from flambed.policy import IdlePolicy, policy_of
from flambed.setupkeys import setup_digest
from flambed.tags import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the service's settings add to a decision. Durations in seconds."""

    daemon: str  # the id of this service, for the tags
    run: str = "0"  # random, another one each time that the service starts: no journal can make it use a token twice
    launch_from: float = 0.0  # before this nothing is launched: what a lost record launched may not be visible yet
    address: Literal["private", "public"] = "private"
    reach_deadline: float = 900.0  # by when a running host has to answer SSH
    has_events: bool = True  # a queue tells of state changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What `decide` says: what to do now, which protection there should be, and when to decide again at the latest."""

    actions: tuple[Action, ...]
    conclusions: tuple[Fact, ...]  # what follows from the world and has to be remembered
    protection: Mapping[str, Protection]
    wake_at: float | None


_PAUSES: Mapping[Reason, tuple[float, float]] = {
    Reason.THROTTLED: (2.0, 60.0),
    Reason.TRANSIENT: (1.0, 30.0),  # an outage: that it is over should be noticed soon
    Reason.NOT_FOUND_YET: (1.0, 15.0),
    Reason.NO_CAPACITY: (15.0, 60.0),
    Reason.CONNECTION_LOST: (1.0, 30.0),
    Reason.MISMATCH: (1.0, 30.0),
    Reason.HOST_KEY_UNKNOWN: (5.0, 60.0),
}
_LONG_PAUSE = (30.0, 600.0)


def again_at(failure: Failure) -> float:
    """Return when what failed may be tried again: pauses double with each try in a row, up to a limit by reason."""
    first, most = _PAUSES.get(failure.reason, _LONG_PAUSE)
    return failure.at + growing(first, failure.tries - 1, most)


def growing(first: float, times: int, most: float, by: float = 2.0) -> float:
    """Return a pause that was multiplied so many times, up to a limit; however often, as what fails may fail for days."""
    return min(first * by ** min(times, 64), most)


@dataclass
class Draft:
    """A decision in the making. What many of its parts ask for is found out once."""

    desired: Cluster
    world: World
    rules: Rules
    now: float
    actions: list[Action] = field(default_factory=list)
    asked: set[Key] = field(default_factory=set)
    conclusions: list[Fact] = field(default_factory=list)
    protection: dict[str, Protection] = field(default_factory=dict)
    wake_at: float = math.inf

    @cached_property
    def policies(self) -> Mapping[Role, IdlePolicy]:
        """The idle policy of each role."""
        return {role: policy_of(self.desired, role) for role in Role}

    @cached_property
    def setup(self) -> str:
        """What stands for the set-up commands that every host should have run."""
        return setup_digest(self.desired.setup_cmds)

    @cached_property
    def booting(self) -> bool:
        """Whether there are instances that do not run yet."""
        return any(i.stage in (Stage.REQUESTED, Stage.PENDING) for i in self.world.instances.values())

    @cached_property
    def description(self) -> Mapping[str, object]:
        """What every host is told of its cluster: who belongs to it, and where."""
        desired, world = self.desired, self.world
        known = [i for role in Role for i in world.of(role) if i.stage is not Stage.STOPPING and i.private_host]
        rows = [
            {
                "id": i.id,
                "role": i.role.value,
                "index": i.index,
                "name": desired.instance_name(i.role, i.index),
                "type": i.type,
                "address": i.private_host,
            }
            for i in known
        ]
        return {
            "name": desired.name,
            "creator": desired.creator,
            "region": world.region,
            "username": desired.username,
            "orchestrator": next((row for row in rows if row["index"] is None), None),
            "factories": [row for row in rows if row["index"] is not None],
        }

    @cached_property
    def description_digest(self) -> str:
        """What stands for the description."""
        return digest_of(self.description)

    @cached_property
    def description_text(self) -> str:
        """The description as it is written to ~/.flambed/cluster.json."""
        return json.dumps(self.description, indent=2) + "\n"

    def want(self, action: Action) -> None:
        """Ask for an action, unless the like of it is under way or failed a moment ago."""
        ready_at = max((self._ready_at(key) for key in action.keys), default=self.now)
        if self.asked.intersection(action.keys):
            return
        if ready_at <= self.now:
            self.actions.append(action)
            self.asked.update(action.keys)
        else:
            self.wake(ready_at)

    def free(self, key: Key) -> bool:
        """Whether nothing with this key is under way or waits for its next try; wakes up when it does."""
        ready_at = self._ready_at(key)
        if ready_at > self.now:
            self.wake(ready_at)
        return ready_at <= self.now

    def wake(self, at: float) -> None:
        """Decide again at this time at the latest; infinity never."""
        self.wake_at = min(self.wake_at, at)

    def address_of(self, instance: Instance) -> str | None:
        """Return the address to connect to (S25)."""
        return instance.public_host if self.rules.address == "public" else instance.private_host

    def _ready_at(self, key: Key) -> float:
        if key in self.world.in_flight:
            return math.inf
        failure = self.world.failures.get(key)
        return again_at(failure) if failure else self.now

    def done(self) -> Decision:
        """Return the decision."""
        return Decision(
            actions=tuple(self.actions),
            conclusions=tuple(self.conclusions),
            protection=self.protection,
            wake_at=None if math.isinf(self.wake_at) else self.wake_at,
        )
