"""One life: a user, a service that crashes, and an AWS in whatever weather the seed has drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from flambed import hands
from flambed import loop as loop_module
from flambed.desired import Cluster
from flambed.errors import FlambedError
from flambed.observed.world import World
from flambed.plan import Decision, Rules
from flambed.ssh import new_host_key
from tests.simulation.cloud import IMAGE, Cloud
from tests.simulation.disk import Disk
from tests.simulation.eventloop import SimulationLoop
from tests.simulation.faults import Weather
from tests.simulation.hosts import Hosts
from tests.simulation.invariants import DECISIONS, Watch
from tests.simulation.process import USER, Process
from tests.simulation.story import Teller

NAME, CREATOR = "demo", "user@example.com"
KEY, _ = new_host_key()

AT_REST = frozenset({"ready", "degraded", "failed", "gone"})
RESTS_WITHIN = 6000.0
"""Seconds from the end of all faults until a cluster has come to rest: launch, boot and set-up at their slowest."""

ENDS_WITHIN = 6000.0
QUIET_FOR = 900.0
SETTLED_AFTER = 400.0
"""Seconds after the last fault in which a late event may still come, and the queue is found to be readable again."""
STEP = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a life."""

    seed: int
    violations: tuple[str, ...]
    phase: str
    crashes: int
    decisions: int
    seconds: float  # of virtual time
    tell: Teller

    def told(self, last: int | None = None) -> str:
        """Return the whole story, what was wrong in it, and how it is seen again."""
        wrong = "\n".join(f"  {violation}" for violation in self.violations)
        return f"{self.tell.text(last)}\n\nBroken in the life of seed {self.seed}:\n{wrong}\nAgain: python -m tests.simulation {self.seed}"


def live(seed: int, weather: Weather | None = None) -> Outcome:
    """Live the life of a seed."""
    with asyncio.Runner(loop_factory=SimulationLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # of the dead: what matters is told in the story
        return runner.run(_Life(seed, weather).run())


class _Life:
    def __init__(self, seed: int, weather: Weather | None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.weather = weather if weather is not None else Weather.of(self.rng)
        self.factories = self.rng.randint(1, 4)
        self.crashes = 0
        self.commands: set[asyncio.Task[str]] = set()
        self.file = self._file()

    def _file(self) -> dict[str, Any]:
        rng = self.rng
        orchestrator = rng.choice([-1, -1, 0, 0.25, 1, 2])
        shorter = [hours for hours in (0, 0.25, 1) if orchestrator == -1 or hours <= orchestrator]
        return {
            "name": NAME,
            "creator": CREATOR,
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

    # --- the whole of it -----------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        self.disk = Disk()
        self.tell = Teller(loop.time)
        self.watch = Watch(self.disk, self.weather, self.tell)
        self.cloud = self.watch.cloud = Cloud(self.weather, self.watch)
        self.hosts = Hosts(self.cloud, self.weather)
        self.process: Process | None = None
        self.tell.note("weather", lambda: str(self.weather))
        self.tell.note("file", lambda: str(self.file))
        for at in self.weather.strangers:
            self.cloud.later(at, self._stranger)
        with self._in_place():
            await self._live()
            phase = self.phase
            await self._bury()
        self.tell.violations += [one for one in dict.fromkeys(self.hosts.twice) if one not in self.tell.violations]
        return Outcome(
            self.seed, tuple(self.tell.violations), phase, self.crashes, self.watch.decisions, loop.time(), self.tell
        )

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Put the simulation's outside in its place, and look on at every decision."""
        inner: Callable[..., Decision] = vars(loop_module)["decide"]

        def watched(desired: Cluster | None, world: World, now: float, rules: Rules) -> Decision:
            decision = inner(desired, world, now, rules)
            self.watch.decided(decision, world, now)
            return decision

        with (
            mock.patch.object(loop_module, "decide", watched),
            mock.patch.object(hands, "connect_when_up"),
            mock.patch.object(secrets, "token_hex", lambda size: f"{self.rng.getrandbits(8 * size):0{2 * size}x}"),
        ):
            yield

    async def _live(self) -> None:
        await self._start()
        await self._until(self.rng.uniform(0, 5))
        await self._command("up")
        for at in sorted(self.rng.uniform(0, self.weather.calm_at) for _ in range(self.rng.choice([0, 1, 3, 6]))):
            await self._until(at)
            await self._command(
                self.rng.choice(["up", "up", "up", "more", "shrink", "down", "hold", "release", "retry"])
            )
        await self._until(self.weather.calm_at)
        self.cloud.unprotect()
        if self.rng.random() < 0.7:
            await self._until_at_rest()
            await self._insist("up")
        await self._until_at_rest()
        await self._stays_quiet()
        if self.tell.violations:
            return
        await self._insist("down")
        ended_by = self.cloud.now + ENDS_WITHIN
        while not self._is_over() and self.cloud.now < ended_by and not self.tell.violations:
            await self._until(self.cloud.now + STEP)
        if not self._is_over():
            self.tell.violation(f"{ENDS_WITHIN:g} s after `down` the cluster is {self.phase}")
        self.watch.nothing_is_left()

    def _is_over(self) -> bool:
        return self.phase == "gone" and not any(
            m.ours and m.id in self.cloud.watch.alarms for m in self.cloud.machines.values()
        )

    async def _until_at_rest(self) -> None:
        rests_by = self.cloud.now + RESTS_WITHIN
        while self.phase not in AT_REST and not self.tell.violations:
            if self.cloud.now >= rests_by:
                world = self.watch.world
                self.tell.violation(
                    f"the cluster is {self.phase} for {RESTS_WITHIN:g} s without any fault: {world and world.reason}"
                )
                return
            await self._until(self.cloud.now + STEP)

    async def _stays_quiet(self) -> None:
        """A cluster that has converged decides nothing, for as long as nothing happens to its machines."""
        await self._until(max(self.cloud.now + STEP, self.weather.calm_at + SETTLED_AFTER))
        first, actions, moves = len(self.disk.rows), self.watch.actions, self.watch.moves
        quiet = self.phase == "ready" and self.cloud.now - self.watch.moved_at > SETTLED_AFTER
        if any(machine.state == "shutting-down" for machine in self.cloud.machines.values()):
            quiet = False
        await self._until(self.cloud.now + QUIET_FOR)
        told = [row[3] for row in self.disk.rows[first:] if row[3] in DECISIONS]
        decided = self.watch.actions - actions
        if quiet and moves == self.watch.moves and (told or decided):
            self.tell.violation(f"a cluster that is ready decides: {decided} actions, facts {told}")

    @property
    def phase(self) -> str:
        """What the service says of the cluster."""
        world = self.watch.world
        if world is not None:
            return world.phase
        # A service that knows of no cluster has nothing to give back.
        return "unknown" if self.process is None or self.process.dead else "gone"

    # --- the service ---------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        while True:
            self.tell.note("service", lambda: "starts")
            self.process = self.watch.process = Process(self.disk, self.cloud, self.hosts, self.weather, self.tell)
            starting = asyncio.create_task(self.process.start(), name="start")
            died = asyncio.create_task(self.process.died.wait())
            await asyncio.wait({starting, died}, return_when=asyncio.FIRST_COMPLETED)
            if not self.process.dead:
                died.cancel()
                starting.result()
                return
            await self._bury()
            await asyncio.sleep(self.rng.choice([0.1, 5.0]))

    async def _bury(self) -> None:
        """End all that the process was doing; it has no effect any more."""
        assert self.process is not None
        self.process.dead = True
        mine = asyncio.current_task()
        while tasks := [task for task in asyncio.all_tasks() if task is not mine]:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until(self, at: float) -> None:
        """Let time pass; a service that is killed meanwhile comes up again after a while."""
        while True:
            assert self.process is not None
            left = at - self.cloud.now
            if left <= 0 and not self.process.dead:
                return
            try:
                async with asyncio.timeout(max(0.0, min(left, STEP))):
                    await self.process.died.wait()
            except TimeoutError:
                self.watch.look()
                continue
            await self._bury()
            self.crashes += 1
            await asyncio.sleep(self.rng.choice([0.1, 1.0, 5.0, 60.0, 900.0]))
            await self._start()

    # --- the user ------------------------------------------------------------------------------------------------

    async def _command(self, name: str) -> None:
        """Give a command, and do not wait for its answer: the service may die on it."""
        assert self.process is not None
        if name == "more":
            self.factories = min(self.factories + self.rng.randint(1, 2), 6)
        elif name == "shrink":
            self.factories = max(1, self.factories - 1)
        task = asyncio.create_task(self._ask(name, self._call_of(name)), name=name)
        self.commands.add(task)
        task.add_done_callback(self.commands.discard)

    async def _insist(self, name: str) -> None:
        """Give a command until it is accepted, as a person does; a refusal that will stand is an answer, too."""
        for _ in range(40):
            answer = await self._ask(name, self._call_of(name))
            if answer in ("", "ConflictError", "NotAllowedError", "NotKnownError") or self.tell.violations:
                return
            await self._until(self.cloud.now + STEP)

    async def _ask(self, name: str, call: Callable[[], Awaitable[Any]]) -> str:
        self.tell.note("user", lambda: f"{name} ({self.factories} factories)")
        try:
            answer = await call()
        except FlambedError as error:
            words = f"{name}: {type(error).__name__}: {error}"
            self.tell.note("user", lambda: words)
            return type(error).__name__
        except Exception as error:  # noqa: BLE001 - a bug in a command is what we look for
            self.tell.violation(f"`{name}` crashed: {error!r}")
            return "bug"
        self.tell.note("user", lambda: f"{name} is answered: {answer['phase']}")
        return ""

    def _call_of(self, name: str) -> Callable[[], Awaitable[Any]]:
        assert self.process is not None
        service = self.process.service
        if name in ("up", "more", "shrink"):
            if self.phase == "gone" and not self.cloud.alive() and not self.commands:
                self.watch.most_factories = 0
            self.watch.most_factories = max(self.watch.most_factories, self.factories)
            document = json.dumps({**self.file, "factories_num": self.factories})
            return lambda: service.up(USER, document, ref=NAME, overrides=(), key=KEY, shrink=name == "shrink")
        if name == "hold":
            seconds = self.rng.uniform(60, 7200)
            return lambda: service.hold(USER, NAME, seconds=seconds, why="a test")
        if name == "retry":
            return lambda: service.retry(USER, NAME, None)
        return lambda: getattr(service, name)(USER, NAME)

    def _stranger(self) -> None:
        """Somebody else launches a machine under the cluster's own tags, and one that has nothing to do with it."""
        tags = {"creator": CREATOR, "Cluster-Name": NAME, "Purpose": "flambe", "Role": "Factory"}
        self.cloud.launch("theirs", tags, ours=False)
        self.cloud.launch("others", {"Name": "else"}, ours=False)


def clear_weather(calm_at: float = 600.0) -> Weather:
    """Return a life's weather without any fault."""
    return Weather(random.Random(0), calm_at=calm_at)


__all__ = ["Outcome", "clear_weather", "live"]
