"""A fleet that runs against AWS in memory, with a journal on disk and a log that is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from flambed.aws import Aws, Clients
from flambed.bench import Bench
from flambed.catalogue import event_of
from flambed.clock import Clock
from flambed.fleet import MADE_ANEW, Fleet
from flambed.journal import Entry, Journal
from flambed.keys import KeyStore
from flambed.knownregions import KnownRegions
from flambed.log import Log
from flambed.outputs import Outputs
from flambed.settings import Settings
from tests.fakes import Cloud, Recorder

OURS, THEIRS = "00000000000000aa", "00000000000000bb"


class Told(Log):
    """A log that is remembered: each event with its fields, a fact as the event that tells it."""

    def __init__(self) -> None:
        super().__init__()
        self._recorder = Recorder()
        self._came = asyncio.Event()
        self.told = self._recorder.events

    def bind(self, **_about: Any) -> Log:
        return self

    def emit(self, event: str, /, **fields: Any) -> None:
        self._recorder.emit(event, **fields)
        self._came.set()

    def tell(self, entry: Entry) -> None:
        event, fields = event_of(entry.fact)
        self._recorder.emit(event, **fields)
        self._came.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of all events of a name."""
        return [fields for name, fields in self.told if name == event]

    async def until(self, event: str, *, count: int = 1, within: float = 30.0) -> list[dict[str, Any]]:
        """Wait until an event has come so often, and return the fields of each."""
        async with asyncio.timeout(within):
            while len(self.of(event)) < count:
                self._came.clear()
                await self._came.wait()
        return self.of(event)


class OneRegion:
    """Stands for `aws.Aws`."""

    default_region = "us-east-1"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def clients(self, _region: str) -> Clients:
        """Return the clients of the only region."""
        return self._cloud.clients


@asynccontextmanager
async def running_fleet(
    folder: Path, cloud: Cloud, *, anew: bool = False, regions: tuple[str, ...] = (), log: Log | None = None
) -> AsyncIterator[tuple[Fleet, Journal, Told]]:
    """A fleet of the service `OURS` with its journal, which has started; `anew`: it takes the place of a lost one."""
    journal, told = Journal.open(folder / "state" / "journal.sqlite", daemon_id=OURS), Told()
    if anew:
        journal.memory[MADE_ANEW] = str(Clock().now())
    bench = Bench(
        settings=Settings(regions=regions),
        daemon=OURS,
        memory=journal.memory,
        keys=KeyStore(folder / "state"),
        outputs=Outputs(folder / "state"),
        ssh_slots=asyncio.Semaphore(1),
        predecessors=frozenset({THEIRS}),
    )
    fleet = Fleet(
        aws=cast("Aws", OneRegion(cloud)),
        bench=bench,
        journal=journal,
        clock=Clock(),
        log=log or told,
        known_regions=KnownRegions(folder / "state"),
    )
    try:
        await fleet.start()
        yield fleet, journal, told
    finally:
        await fleet.close()
        await journal.close()
