"""One life of the service's process: the product's own fleet and service on the simulation's outside, until it is killed."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any, Protocol, cast

from flambed import hands
from flambed.aws import Aws, Clients
from flambed.bench import Bench
from flambed.catalogue import event_of
from flambed.fleet import MADE_ANEW, Fleet
from flambed.journal import Entry
from flambed.log import Log
from flambed.service import Service
from flambed.settings import Settings
from flambed.tasks import supervise
from tests.eventsseen import saw
from tests.fakes import QUEUE
from tests.simulation.cloud import Cloud
from tests.simulation.disk import Disk, MemoryJournal, MemoryKeys, MemoryOutputs
from tests.simulation.faults import Weather
from tests.simulation.hosts import Hosts
from tests.simulation.story import Teller
from tests.simulation.timeline import machine_clock
from tests.simulation.wire import Wire

REGION = "us-east-1"

BUGS = frozenset({"step.crashed", "loop.crashed", "log.undeclared"})


class OneRegion:
    """Stands for `aws.Aws`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.default_region = REGION

    async def clients(self, _region: str) -> Clients:
        """Return the clients of the only region."""
        return self._wire.clients


class StoryLog(Log):
    """The service's log, which becomes part of the story; an event that tells of a bug is one."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def bind(self, **_about: Any) -> Log:
        return self

    def emit(self, event: str, /, **fields: Any) -> None:
        if self._process.dead:
            return
        saw(event)
        if event in BUGS:
            self._process.tell.violation(f"{event}: {fields}")
        elif not event.startswith(("journal.replayed", "region.survey_done")):
            self._process.tell.note("log", functools.partial("{} {}".format, event, fields))

    def tell(self, entry: Entry) -> None:
        saw(event_of(entry.fact)[0])
        if not self._process.dead:
            self._process.tell.note("fact", functools.partial(_fact, entry))


def _fact(entry: Entry) -> str:
    return f"{entry.seq} (of {entry.cause}) {entry.fact}"


class Traffic(Protocol):
    """Who watches the calls."""

    def called(self, method: str, error: Exception | None) -> None:
        """A call was answered, or refused."""


@dataclass(slots=True)
class Served:
    """From when until when a process ran, seconds of the life."""

    began: float
    ended: float | None = None


class Process:
    """The service, from its start until it is killed.

    Attributes:
        served: from when until when it runs.
    """

    def __init__(
        self, disk: Disk, cloud: Cloud, hosts: Hosts, weather: Weather, tell: Teller, traffic: Traffic
    ) -> None:
        self.tell = tell
        self.dead = False
        self.died = asyncio.Event()
        self._weather = weather
        self._hosts = hosts
        self._timeline = cloud.timeline
        self._traffic = traffic
        self.served = Served(self._timeline.now)
        self.wire = Wire(cloud, weather, self)
        self.journal = MemoryJournal(
            disk,
            alive=lambda: not self.dead,
            full=self._disk_is_full,
            point=self.point,
            kill_here=self.kill_here,
            latency=lambda: weather.rng.uniform(0.0005, 0.005),
        )
        settings = Settings.model_validate({"events": {"queues": {REGION: QUEUE} if weather.has_queue else {}}})
        self._bench = bench = Bench(
            settings=settings,
            daemon="d1",
            memory=self.journal.memory,
            keys=MemoryKeys(disk, lambda: not self.dead),
            outputs=MemoryOutputs(),
            ssh_slots=asyncio.Semaphore(settings.ssh.parallel),
        )
        clock = machine_clock(cloud.timeline, weather.clock_jumps)
        if self.journal.new and disk.lost:  # the daemon's id is kept beside it
            self.journal.memory[MADE_ANEW] = str(clock.now())
        self.fleet = Fleet(
            aws=cast("Aws", OneRegion(self.wire)), bench=bench, journal=self.journal, clock=clock, log=StoryLog(self)
        )
        self.service: Service

    @property
    def began(self) -> float:
        """When it was started, seconds of the life."""
        return self.served.began

    async def start(self) -> None:
        """Come up, as `app.serve` does."""
        vars(hands)["connect_when_up"] = self._hosts.connector(
            self
        )  # `life` has put a stand-in there, and takes it away
        await self.fleet.start()
        self.service = Service(self.fleet, bench=self._bench, journal=self.journal, clock=self.fleet.clock)
        region = await self.fleet.region()
        assert region.name == REGION
        self._forgetting = asyncio.create_task(supervise(self.fleet.run, self._crashed), name="forgetting")

    def _crashed(self, error: BaseException, _pause: float) -> None:
        self.tell.violation(f"the fleet crashed: {error!r}")

    def kill_here(self, what: str) -> bool:
        """Kill the process at this point, if its seed says so."""
        if not self.dead and self._weather.crashes_here(what, self._timeline.now):
            self.kill(what)
        return self.dead

    def kill(self, where: str) -> None:
        """Kill the process: from now on it reaches nothing."""
        self.tell.note("KILLED", lambda: where)
        self.dead = True
        self.served.ended = self._timeline.now
        self.died.set()

    async def point(self, what: str) -> None:
        """Go on, unless the process is killed here; who is dead never goes on."""
        if self.kill_here(what):
            await asyncio.get_running_loop().create_future()

    def call(self, line: str) -> None:
        """Note a call."""
        self.tell.note("call", lambda: line)

    def called(self, method: str, error: Exception | None) -> None:
        """Note what became of a call."""
        self._traffic.called(method, error)

    def time_of(self, clock: float) -> float:
        """Return the second of the life at which the machine's clock showed this, if it was not set meanwhile."""
        return clock - self.fleet.clock.now() + self._timeline.now

    def _disk_is_full(self) -> bool:
        begins, ends = self._weather.disk_full
        return begins <= self._timeline.now < ends
