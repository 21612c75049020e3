"""The fleet: all clusters that this service looks after, and the regions that they share.

It reads the journal back at the start and goes on with every cluster where it was, and forgets in the end what has been
gone for long.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from flambed.aws import Aws
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.desired import Cluster
from flambed.directory import Directory
from flambed.hands import Bench
from flambed.journal import Journal, JournalError
from flambed.log import Log
from flambed.observed.fold import fold
from flambed.observed.world import World
from flambed.plan import Rules
from flambed.region import Region

FORGET_EVERY = 3600.0
"""Seconds between two looks for clusters that have been gone for long enough to be forgotten."""


class Fleet:
    """All clusters of this machine.

    Attributes:
        directory: the clusters, by name.
        regions: those that are open, by name.
    """

    def __init__(self, *, aws: Aws, bench: Bench, journal: Journal, clock: Clock, log: Log) -> None:
        self.directory = Directory()
        self.regions: dict[str, Region] = {}
        self._aws = aws
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._log = log
        self._settings = bench.settings
        self._opening = asyncio.Lock()
        self._run = secrets.token_hex(3)
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Read the journal back, and go on with every cluster where it was.

        Raises:
            JournalError: the journal cannot be read.
            AwsError: a region cannot be opened.
        """
        began = time.monotonic()
        worlds: dict[str, World] = {}
        count = 0
        for entry in self._journal.load():
            count += 1
            worlds[entry.cluster] = fold(worlds.get(entry.cluster, World()), entry.fact)
        self._log.emit(
            "journal.replayed",
            entries=count,
            clusters=len(worlds),
            seconds=time.monotonic() - began,
            unknown=dict(self._journal.unknown),
        )
        for cluster_id, world in worlds.items():
            if world.desired is not None:
                await self.take_on(world.desired.identity, cluster_id, world, await self.region(world.region))

    async def run(self) -> None:
        """Forget what has been gone for long, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_EVERY)
            await self._forget_gone()

    async def close(self) -> None:
        """Let go of everything; clusters go on without us."""
        await asyncio.gather(*(member.close() for member in self.directory))
        await asyncio.gather(*(region.close() for region in self.regions.values()))

    async def region(self, name: str | None = None) -> Region:
        """Return a region, by default the locally configured one; it is opened at the first call.

        Raises:
            AwsError: there is no such region, or the local configuration cannot be used.
        """
        name = name or self.default_region
        async with self._opening:
            if name not in self.regions:
                region = Region(
                    name,
                    await self._aws.clients(name),
                    emit=self._log.emit,
                    clock=self._clock,
                    queue=self._settings.events.queues.get(name),
                    image_owners=self._settings.images.owners,
                    survey_interval=self._settings.survey.interval,
                    memory=self._bench.memory,
                    gpu_percent=self._settings.idle.gpu_percent,
                )
                await region.start()
                self.regions[name] = region
            return self.regions[name]

    async def region_of(self, wanted: Cluster) -> Region:
        """Return the region that a cluster shall live in (S09)."""
        return await self.region(wanted.region_name)

    @property
    def default_region(self) -> str:
        """The locally configured region, else us-east-1."""
        return self._aws.default_region

    async def take_on(self, identity: tuple[str, str], cluster_id: str, world: World, region: Region) -> Member:
        """Look after a cluster from now on."""
        rules = Rules(
            daemon=self._bench.daemon,
            run=self._run,
            address=self._settings.address,
            reach_deadline=self._settings.ssh.deadline,
            has_events=region.name in self._settings.events.queues,
        )
        member = Member(
            identity,
            cluster_id,
            world,
            region=region,
            rules=rules,
            bench=self._bench,
            journal=self._journal,
            log=self._log,
            on_change=self._change,
        )
        self.directory.add(member)
        self._change()
        member.start()
        return member

    def changes(self) -> asyncio.Event:
        """Return an event that is set at the next change of any cluster."""
        return self._changed

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def forget(self, member: Member) -> None:
        """Look after a cluster no longer, and keep nothing of it: it is gone."""
        await member.close()
        self.directory.remove(member)
        self._bench.outputs.forget(member.cluster_id)
        self._bench.keys.forget(member.cluster_id)
        self._journal.forget(member.cluster_id)

    async def _forget_gone(self) -> None:
        oldest = self._clock.now() - self._settings.keep_gone
        for member in list(self.directory):
            if member.world.phase == "gone" and member.world.changed_at < oldest:
                await self.forget(member)
        try:
            await self._journal.commit()
        except JournalError as error:  # the next time makes up for it
            self._log.emit("journal.failed", message=str(error))
