"""One life: users, a service that crashes, and an AWS in whatever weather the seed has drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from flambed import hands
from flambed import loop as loop_module
from flambed.access import Caller
from flambed.desired import Cluster
from flambed.observed.world import World
from flambed.plan import Decision, Rules
from tests.simulation.cloud import Cloud
from tests.simulation.disk import Disk, Killed
from tests.simulation.eventloop import SimulationLoop
from tests.simulation.faults import Weather
from tests.simulation.hosts import Hosts
from tests.simulation.idleness import Idleness
from tests.simulation.invariants import DECISIONS, Watch
from tests.simulation.person import REFUSED_FOR_GOOD, Person
from tests.simulation.process import Process
from tests.simulation.story import Teller
from tests.simulation.timeline import Timeline
from tests.simulation.traffic import Traffic

USER = Caller(uid=1000, gid=1000, pid=1, name="user")
OTHER = Caller(uid=1001, gid=1001, pid=1, name="other")
ADMIN = Caller(uid=0, gid=0, pid=1, name="root")

AT_REST = frozenset({"ready", "degraded", "failed", "gone"})
RESTS_WITHIN = 6000.0
"""Seconds from the end of all faults until a cluster has come to rest: launch, boot and set-up at their slowest."""

ENDS_WITHIN = 6000.0
QUIET_FOR = 900.0
IDLES_FOR = 2.5 * 3600.0
SETTLED_AFTER = 1000.0
"""Seconds after the last fault, and the last start, in which a late event may still come, the queue is found to be readable again, an instance
that is not shown any more is believed gone, and its volume is looked for."""
STEP = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a life."""

    seed: int
    violations: tuple[str, ...]
    rested: str  # the phase in which the first cluster came to rest
    phase: str  # and its last
    crashes: int
    decisions: int
    busiest: int  # calls in a minute
    seconds: float  # of virtual time
    tell: Teller

    def told(self, last: int | None = None) -> str:
        """Return the whole story, what was wrong in it, and how it is seen again."""
        again = f"Again: python -m tests.simulation {self.seed}"
        if not self.violations:
            return f"{self.tell.text(last)}\n\nThe life of seed {self.seed} kept every promise.\n{again}"
        wrong = "\n".join(f"  {violation}" for violation in self.violations)
        return f"{self.tell.text(last)}\n\nBroken in the life of seed {self.seed}:\n{wrong}\n{again}"


def live(seed: int, weather: Weather | None = None) -> Outcome:
    """Live the life of a seed."""
    with asyncio.Runner(loop_factory=SimulationLoop) as runner:
        loop = runner.get_loop()
        life = _Life(seed, weather)
        loop.set_exception_handler(life.crashed)
        return runner.run(life.run())


class _BrokenError(Exception):
    """A promise was broken: what comes after it tells nothing any more."""


class _Life:
    def __init__(self, seed: int, weather: Weather | None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.weather = weather if weather is not None else Weather.of(self.rng)
        self.crashes = 0
        self.rested = "unknown"

    def crashed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell of a callback that crashed; the tasks of the dead end in all ways, and what matters is told in the story."""
        error = context.get("exception")
        if "handle" in context and not isinstance(error, Killed):
            self.tell.violation(f"a callback crashed: {error!r}")

    # --- the whole of it -----------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        self.timeline = Timeline()
        self.disk = Disk()
        self.tell = Teller(lambda: self.timeline.now)
        self.watch = Watch(self.disk, self.weather, self.tell)
        self.traffic = Traffic(self.timeline, self.weather, self.tell, self.watch)
        self.cloud = self.watch.cloud = Cloud(self.weather, self.watch, self.timeline)
        self.hosts = Hosts(self.cloud, self.weather)
        self.process: Process | None = None
        self.tell.note("weather", lambda: str(self.weather))
        self.people = self.watch.people = self._people()
        self.watch.idleness = Idleness(self.cloud, self.hosts, self.weather, self.tell, self.people, self.watch.served)
        with self._in_place():
            with contextlib.suppress(_BrokenError):
                await self._live()
            phase = self.people[0].phase
            await self._bury()
        self.tell.violations += [one for one in dict.fromkeys(self.hosts.wrong) if one not in self.tell.violations]
        return Outcome(
            seed=self.seed,
            violations=tuple(self.tell.violations),
            rested=self.rested,
            phase=phase,
            crashes=self.crashes,
            decisions=self.watch.decisions,
            busiest=self.traffic.busiest,
            seconds=self.timeline.now,
            tell=self.tell,
        )

    def _people(self) -> list[Person]:
        first = ADMIN if self.weather.adopts else USER
        people = [Person(self.rng, first, ("user@example.com", "demo"), self.cloud, self.tell)]
        if self.weather.two_users:
            name = self.rng.choice(["demo", "other"])
            people.append(Person(self.rng, OTHER, ("other@example.com", name), self.cloud, self.tell))
        return people

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Put the simulation's outside in its place, and look on at every decision."""
        inner: Callable[..., Decision] = vars(loop_module)["decide"]

        def watched(desired: Cluster | None, world: World, now: float, rules: Rules) -> Decision:
            decision = inner(desired, world, now, rules)
            self.watch.decided(decision, world)
            return decision

        with (
            mock.patch.object(loop_module, "decide", watched),
            mock.patch.object(hands, "connect_when_up"),
            mock.patch.object(secrets, "token_hex", lambda size: f"{self.rng.getrandbits(8 * size):0{2 * size}x}"),
        ):
            yield

    def _foresee(self) -> None:
        """Have happen what will happen by itself."""
        weather, clock = self.weather, asyncio.get_running_loop()
        for at in weather.strangers:
            self.timeline.later(at, self._stranger)
        for at in weather.robbed:
            self.timeline.later(at, self._rob)
        for at in weather.restarts:
            self.timeline.later(at, self._restart)
        for at, seconds in weather.sleeps:
            clock.call_at(at, self._sleep, seconds)  # the loop's time, for the world's goes on meanwhile
        self.timeline.later(self.rng.uniform(0, weather.calm_at), self.disk.back_up)

    async def _live(self) -> None:
        weather = self.weather
        self._foresee()
        self._leave_behind()
        await self._start()
        await self._until(self.rng.uniform(0, 5))
        for person in self.people:
            person.ask("up")
        times = [self.rng.uniform(0, weather.calm_at) for _ in range(self.rng.choice([0, 1, 3, 6]))]
        for at in sorted(times):
            await self._until(at)
            self.rng.choice(self.people).ask_something()
        while self.timeline.now < weather.calm_at:  # a machine that sleeps puts it off
            await self._until(weather.calm_at)
        self.cloud.unprotect()
        if self.rng.random() < 0.7:
            await self._all_at_rest()
            await self._all_ask("up")
        await self._all_at_rest()
        self.rested = self.people[0].phase
        await self._stays_quiet()
        if self.rng.random() < 0.1:
            await self._idles_out()
        await self._all_ask("down")
        ends_by = self.timeline.now + ENDS_WITHIN
        while not self._is_over() and self.timeline.now < ends_by:
            await self._until(self.timeline.now + STEP)
            if self.disk.lost:
                await self._collect_garbage()
        if not self._is_over():
            phases = ", ".join(person.phase for person in self.people)
            self.tell.violation(f"{ENDS_WITHIN:g} s after `down` the clusters are {phases}")
        self.watch.nothing_is_left()

    def _is_over(self) -> bool:
        return (
            all(person.phase == "gone" for person in self.people)
            and not any(m.ours and m.id in self.cloud.watch.alarms for m in self.cloud.machines.values())
            and not self.watch.volumes_left()
        )

    async def _collect_garbage(self) -> None:
        """Remove what nobody remembers, as an admin does after a day on which the journal was lost."""
        assert self.process is not None
        service = self.process.service
        ripe = [one["id"] for one in await service.orphans(ADMIN) if one["removable"]]
        if ripe:
            removed = [(one["id"], one["outcome"]) async for one in service.remove_orphans(ADMIN, ripe)]
            self.tell.note("user", lambda: f"gc: {removed}")

    async def _all_at_rest(self) -> None:
        rests_by = self.timeline.now + RESTS_WITHIN
        for person in self.people:
            while person.phase not in AT_REST:
                if self.timeline.now >= rests_by:
                    why = person.world and person.world.reason
                    self.tell.violation(f"a cluster is {person.phase} for {RESTS_WITHIN:g} s without any fault: {why}")
                    return
                await self._until(self.timeline.now + STEP)

    async def _stays_quiet(self) -> None:
        """A cluster that has converged decides nothing, for as long as nothing happens to its machines."""
        assert self.process is not None
        since = max(self.weather.calm_at, self.process.began)
        await self._until(max(self.timeline.now + STEP, since + SETTLED_AFTER))
        before = [self._decided(person) for person in self.people]
        quiet = [self._may_be_quiet(person) for person in self.people]
        await self._until(self.timeline.now + QUIET_FOR)
        for person, was, is_quiet in zip(self.people, before, quiet, strict=True):
            moves, actions, facts = self._decided(person)
            told = facts[len(was[2]) :]
            if is_quiet and moves == was[0] and (told or actions != was[1]):
                self.tell.violation(f"a cluster that is ready decides: {actions - was[1]} actions, facts {told}")

    async def _idles_out(self) -> None:
        """Wait until the hosts have ended that nobody uses any more."""
        waits_until = self.timeline.now + IDLES_FOR
        while self.timeline.now < waits_until and self.watch.idleness.expects_an_end():
            await self._until(self.timeline.now + STEP)

    def _decided(self, person: Person) -> tuple[int, int, list[str]]:
        """Return how often a cluster's machines moved, how many actions it began, and what facts that led to."""
        cluster_id = person.world.cluster_id if person.world is not None else ""
        facts = [
            row[3]
            for row in self.disk.rows
            if row[1] == cluster_id and row[3] in DECISIONS and not _only_examines(row[3], row[4])
        ]
        return self.watch.moves[person.identity], self.watch.actions[person.identity], facts

    def _may_be_quiet(self, person: Person) -> bool:
        last = self.watch.moved_at.get(person.identity, 0.0)
        leaving = any(m.state == "shutting-down" for m in self.cloud.machines.values())
        return person.phase == "ready" and self.timeline.now - last > SETTLED_AFTER and not leaving

    # --- the service ---------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        while True:
            self.tell.note("service", lambda: "starts")
            process = Process(self.disk, self.cloud, self.hosts, self.weather, self.tell, self.traffic)
            self.process = process
            self.watch.follow(process)
            for person in self.people:
                person.process = process
            starting = asyncio.create_task(process.start(), name="start")
            died = asyncio.create_task(process.died.wait())
            await asyncio.wait({starting, died}, return_when=asyncio.FIRST_COMPLETED)
            if not process.dead:
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
            if self.tell.violations:
                raise _BrokenError
            left = at - self.timeline.now
            if left <= 0 and not self.process.dead:
                return
            try:
                async with asyncio.timeout(max(0.0, min(left, STEP))):
                    await self.process.died.wait()
            except TimeoutError:
                self.watch.look()
                self.watch.idleness.look()
                continue
            await self._bury()
            self.crashes += 1
            damaged = self._damage()
            if self.crashes == 1 and self.weather.long_down:
                await asyncio.sleep(self.weather.long_down)
            else:
                await asyncio.sleep(self.rng.choice([0.1, 1.0, 5.0, 60.0, 900.0]))
            if damaged:
                await asyncio.sleep(300.0)  # as the documentation asks of who puts an old copy back
            await self._start()

    def _damage(self) -> bool:
        """Now and then the state folder does not outlive the crash: it is gone, or comes out of an old backup; then True."""
        weather = self.weather
        if self.timeline.now < weather.calm_at and weather.chance(weather.journal_lost):
            old = self.rng.random() < 0.5
            self.tell.note("disk", lambda: "an old copy is put back" if old else "everything on it is lost")
            self.disk.lose(put_back=old)
            self.hosts.forgotten()
            for person in self.people:
                person.forgotten()
            return old
        return False

    def _sleep(self, seconds: float) -> None:
        if self.timeline.now >= self.weather.calm_at:
            return
        self.tell.note("machine", lambda: f"sleeps for {seconds:g} s")
        self.weather.slept.append((self.timeline.now, self.timeline.now + seconds))
        self.timeline.sleep(seconds)
        self.watch.overslept()
        self.weather.calm_at = max(self.weather.calm_at, self.timeline.now + 60.0)
        self.tell.note("machine", lambda: "wakes up")

    # --- people --------------------------------------------------------------------------------------------------

    async def _all_ask(self, name: str) -> None:
        """Give a command until it is accepted, as a person does; a refusal that will stand is an answer, too."""
        for person in self.people:
            for _ in range(40):
                answer = await person.answer_to(name)
                if not answer or answer in REFUSED_FOR_GOOD:
                    break
                await self._until(self.timeline.now + STEP)

    def _stranger(self) -> None:
        """Somebody else launches a machine under a cluster's own tags, and one that has nothing to do with it."""
        creator, name = self.rng.choice(self.people).identity
        tags = {"creator": creator, "Cluster-Name": name, "Purpose": "flambe", "Role": "Factory"}
        machine = self.cloud.launch("theirs", tags, ours=False)
        machine.adoptable = bool(self.weather.adopts) and machine.cluster == self.people[0].identity
        self.cloud.launch("others", {"Name": "else"}, ours=False)

    def _restart(self) -> None:
        """Kill the service; `_until` starts it again."""
        if self.process is not None and not self.process.dead and self.timeline.now < self.weather.calm_at:
            self.process.kill("it is restarted")

    def _rob(self) -> None:
        """Somebody changes an alarm."""
        if alarms := self.cloud.watch.alarms:
            instance = self.rng.choice(list(alarms))
            self.tell.note("robber", lambda: f"the alarm of {instance}")
            self.cloud.watch.rob(instance)

    def _leave_behind(self) -> None:
        """Machines of the cluster from before there was this service; the first is its orchestrator."""
        creator, name = self.people[0].identity
        for number in range(self.weather.adopts):
            tags = {
                "creator": creator,
                "Cluster-Name": name,
                "Purpose": "flambe",
                "Role": "Factory" if number else "Orchestrator",
            }
            machine = self.cloud.launch("before", tags, kind="g5.xlarge" if number else "t3.large", ours=False)
            machine.adoptable = True
            machine.shown_from = machine.tags_from = self.timeline.now  # they are old


def _only_examines(kind: str, text: str) -> bool:
    """Whether a fact says that hosts whose alarms did not act are being examined, and nothing else."""
    return kind == "ActionsBegan" and {began["kind"] for began in json.loads(text)["keys"]} == {"judge"}


def clear_weather(calm_at: float = 600.0) -> Weather:
    """Return a life's weather without any fault."""
    return Weather(random.Random(0), calm_at=calm_at)


__all__ = ["Outcome", "clear_weather", "live"]
