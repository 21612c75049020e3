"""A user of the service: has one cluster, and gives commands at any moment."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from flambed.access import Caller
from flambed.desired import Role
from flambed.errors import FlambedError
from flambed.observed.world import World
from flambed.policy import HOLD_AHEAD
from flambed.ssh import new_host_key
from tests.simulation.cloud import IMAGE, NEVER, Cloud, Identity
from tests.simulation.story import Teller
from tests.simulation.use import Stretch

if TYPE_CHECKING:
    from tests.simulation.process import Process

KEY, _ = new_host_key()

REFUSED_FOR_GOOD = frozenset({"ConflictError", "NotAllowedError", "NotKnownError"})
GIVES_BACK = frozenset({"down", "shrink"})
HOLDS = frozenset({"hold", "release", "down"})
LANDS_WITHIN = 120.0
"""Seconds after which a call of before an `up` has arrived."""

SHORTEST = 300.0
"""Seconds of idleness that a timeout of 0 stands for."""

COMMANDS = ("up", "up", "up", "more", "shrink", "down", "hold", "release", "retry")


class Person:
    """One user and the cluster that they want.

    Attributes:
        identity: the cluster's creator and name.
        process: the service as it runs now.
        most_factories: how many factories were asked for at most since the cluster was last gone.
        commands: those that have no answer yet.
        asked_at: when a command was last given, or answered.
        held: from when until when a hold stands that was acknowledged.
        kept_until: until when a hold may stand, whether it was acknowledged or not.
    """

    def __init__(self, rng: random.Random, caller: Caller, identity: Identity, cloud: Cloud, tell: Teller) -> None:
        self.rng = rng
        self.caller = caller
        self.identity = identity
        self.process: Process | None = None
        self.factories = rng.randint(1, 4)
        self.most_factories = 0
        self.commands: set[asyncio.Task[str]] = set()
        self.held: Stretch | None = None
        self._remembered_since: float | None = None  # the service knows of the cluster since then
        self._gives_back = 0.0  # until when the last `down` or `shrink` may take effect
        self.asked_at = 0.0
        self.kept_until = 0.0
        self._hold_for = 0.0
        self._asked = 0  # how many commands about holds there were
        self._cloud = cloud
        self._tell = tell
        self._file = _file(rng, identity)
        tell.note("file", lambda: str(self._file))

    # --- what the service knows ----------------------------------------------------------------------------------

    @property
    def world(self) -> World | None:
        """What the service knows of the cluster; None where it is down or knows none."""
        if self.process is None or self.process.dead:
            return None
        member = self.process.fleet.directory.get(self.identity)
        return member.world if member is not None else None

    @property
    def phase(self) -> str:
        """What the service says of the cluster."""
        world = self.world
        if world is not None:
            return world.phase
        # A service that knows of no cluster has nothing to give back.
        return "unknown" if self.process is None or self.process.dead else "gone"

    # --- what may be expected of it -------------------------------------------------------------------------------

    def timeout(self, role: Role) -> float | None:
        """Return after how many seconds of idleness a host may end; None: never."""
        hours = self._file["orchestrator_timeout" if role is Role.ORCHESTRATOR else "factories_timeout"]
        return None if hours < 0 else max(hours * 3600.0, SHORTEST)

    def has_given_back(self, now: float) -> bool:
        """Whether the service may end hosts that are in use: somebody asked for it, or the launch failed."""
        return now < self._gives_back or self.phase == "failed"

    @property
    def remembered_since(self) -> float:
        """Since when the service knows what the cluster should be; infinity: its journal is lost."""
        return NEVER if self._remembered_since is None else self._remembered_since

    def is_remembered(self, since: float) -> bool:
        """Whether the service has known all the time since what the cluster should be."""
        return self.remembered_since <= since

    @property
    def commands_to_set_up(self) -> tuple[str, ...]:
        """The set-up commands that every host of it has to run."""
        return tuple(self._file["setup_cmds"])

    def forgotten(self) -> None:
        """The service's journal is lost."""
        self._remembered_since = self.held = None

    # --- commands ------------------------------------------------------------------------------------------------

    def ask_something(self) -> None:
        """Give one of all commands."""
        self.ask(self.rng.choice(COMMANDS))

    def ask(self, name: str) -> None:
        """Give a command, and do not wait for its answer: the service may die on it."""
        if name == "more":
            self.factories = min(self.factories + self.rng.randint(1, 2), 6)
        elif name == "shrink":
            self.factories = max(1, self.factories - 1)
        task = asyncio.create_task(self.answer_to(name), name=name)
        self.commands.add(task)
        task.add_done_callback(self.commands.discard)

    async def answer_to(self, name: str) -> str:
        """Give a command; return the name of the error that it is refused with, or ""."""
        self._asks(name)
        number, call = self._asked, self._call_of(name)
        self._tell.note("user", lambda: f"{self.identity[0]}: {name} ({self.factories} factories)")
        try:
            answer = await call()
        except FlambedError as error:
            words = f"{name}: {type(error).__name__}: {error}"
            self._tell.note("user", lambda: words)
            return type(error).__name__
        except Exception as error:  # noqa: BLE001 - a bug in a command is what we look for
            self._tell.violation(f"`{name}` crashed: {error!r}")
            return "bug"
        self._tell.note("user", lambda: f"{name} is answered: {answer['phase']}")
        self._answered(name, newest=number == self._asked)
        return ""

    def _asks(self, name: str) -> None:
        self.asked_at = self._cloud.now
        if name in GIVES_BACK:
            self._gives_back = NEVER
        if name in HOLDS:
            self._asked += 1
            self.held = None
        if name == "hold":
            self._hold_for = self.rng.uniform(60, 7200)
            self.kept_until = max(self.kept_until, self.asked_at + self._hold_for)

    def _answered(self, name: str, *, newest: bool) -> None:
        self.asked_at = now = self._cloud.now
        if name in ("release", "down"):
            self.held = None
        if name in HOLDS and newest:  # of several commands at once nobody knows which came last
            if name == "hold":
                self.held = now, now + self._hold_for
                self.kept_until = max(self.kept_until, self.held[1])
            else:
                self.kept_until = min(self.kept_until, now + HOLD_AHEAD * 60.0)
        elif name in ("up", "more", "shrink"):
            self._has_adopted()
            self._remembered_since = now if self._remembered_since is None else self._remembered_since
            if not any(task.get_name() in GIVES_BACK for task in self.commands):
                self._gives_back = NEVER if name == "shrink" else now + LANDS_WITHIN

    def _call_of(self, name: str) -> Callable[[], Awaitable[Any]]:
        assert self.process is not None
        service, ref = self.process.service, "/".join(self.identity)
        if name in ("up", "more", "shrink"):
            self._will_want()
            document = json.dumps({**self._file, "factories_num": self.factories})
            return lambda: service.up(self.caller, document, ref=ref, overrides=(), key=KEY, shrink=name == "shrink")
        if name == "hold":
            seconds = self._hold_for
            return lambda: service.hold(self.caller, ref, seconds=seconds, why="a test")
        if name == "retry":
            return lambda: service.retry(self.caller, ref, None)
        return lambda: getattr(service, name)(self.caller, ref)

    def _will_want(self) -> None:
        if self.phase == "gone" and not self._cloud.alive(self.identity) and not self.commands:
            self.most_factories = 0
        self.most_factories = max(self.most_factories, self.factories)

    def _has_adopted(self) -> None:
        """What an admin's `up` found under the cluster's tags belongs to it from now on, however much it is."""
        for machine in self._cloud.machines.values():
            if (
                machine.adoptable
                and machine.cluster == self.identity
                and self.world
                and machine.id in self.world.instances
            ):
                machine.ours = True
        there = sum(machine.role == Role.FACTORY for machine in self._cloud.alive(self.identity))
        self.most_factories = max(self.most_factories, there if any(m.adoptable for m in self._cloud.alive()) else 0)


def _file(rng: random.Random, identity: Identity) -> dict[str, Any]:
    creator, name = identity
    orchestrator = rng.choice([-1, -1, 0, 0.25, 1, 2])
    shorter = [hours for hours in (0, 0.25, 1) if orchestrator == -1 or hours <= orchestrator]
    return {
        "name": name,
        "creator": creator,
        "factories_type": "g5.xlarge",
        "orchestrator_type": "t3.large",
        "key_name": "k",
        "key": "/k",
        "security_group": "sg-1",
        "subnet_id": "subnet-1",
        "orchestrator_ami": IMAGE,
        "factory_ami": IMAGE,
        "orchestrator_timeout": orchestrator,
        "factories_timeout": rng.choice([*shorter, -1] if orchestrator == -1 else shorter),
        "setup_cmds": ["prepare", "install"][: rng.randint(0, 2)],
        "setup": {"timeout": "15m"},
        "launch": {"minimum": rng.choice([1, 1, "100%"])},
    }
