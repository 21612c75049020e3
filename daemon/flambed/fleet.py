"""The fleet: all clusters that this service looks after, and the regions that they share.

It reads the journal back at the start and goes on with every cluster where it was, and forgets in the end what has been
gone for long.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flambed.account import Account
from flambed.aws import Aws, AwsError
from flambed.bench import Bench
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.desired import Cluster
from flambed.directory import Directory
from flambed.journal import Journal, JournalError
from flambed.knownregions import KnownRegions
from flambed.log import Log
from flambed.observed.fold import fold
from flambed.observed.lookout import SURE_AFTER, Lookout
from flambed.observed.world import World
from flambed.ownership import Known
from flambed.plan import Rules
from flambed.plan.launching import APPEARS_WITHIN
from flambed.recovery import NOBODY, Lost, UntoldError, record_of
from flambed.region import Identity, Region
from flambed.settings import Settings

MADE_ANEW = "made anew"
"""Under which the journal remembers that it took the place of a lost one, and when (UNIX seconds)."""

FORGET_EVERY = 3600.0
"""Seconds between two looks for clusters that have been gone for long enough to be forgotten."""

DRAIN_SECONDS = 15.0
"""For calls to AWS under way when the service stops: a part of the unit's TimeoutStopSec=."""


class Fleet:
    """All clusters of this machine.

    Attributes:
        directory: the clusters, by name.
        regions: those that are open, by name.
        account: the AWS account that all regions are in.
        clock: the service's clock; from `start` on it is not behind what the journal tells.
    """

    def __init__(
        self,
        *,
        aws: Aws,
        bench: Bench,
        journal: Journal,
        clock: Clock,
        log: Log,
        known_regions: KnownRegions | None = None,
    ) -> None:
        self.directory = Directory(self.searching)
        self.regions: dict[str, Region] = {}
        self._aws = aws
        self._bench = bench
        self._journal = journal
        self.clock = clock
        self._log = log
        self._known_regions = known_regions
        self.account = Account(bench.memory, named=bench.settings.aws_account, emit=log.emit)
        self.daemon = bench.daemon
        self.daemons = frozenset({bench.daemon, *bench.predecessors})
        self._locks: dict[Identity, asyncio.Lock] = {}
        self._ended: set[str] = set()  # ids of clusters that were forgotten: what EC2 shows of them still is no find
        self._untold: set[str] = set()  # ids of clusters that were found and cannot be looked after, as was told
        self._opening = asyncio.Lock()
        self._unopened: set[str] = set()  # regions that were to be looked into at the start, and could not be
        # The record of clusters that run was lost; a journal without this mark is the first one that there ever was.
        self._anew = journal.new and MADE_ANEW in bench.memory
        self._run = secrets.token_hex(3)
        self._changed = asyncio.Event()
        journal.health.watch(self._journal_told)
        journal.tell_lost = self._journal_lost

    @property
    def _settings(self) -> Settings:
        return self._bench.settings

    async def start(self) -> None:
        """Read the journal back, and go on with every cluster where it was.

        Raises:
            JournalError: the journal cannot be read.
            AwsError: a region cannot be opened.
            FlambedError: the file of known regions cannot be read.
        """
        began = time.monotonic()
        worlds = {start.cluster: start.world for start in self._journal.checkpoints()}
        count = 0
        last = max((world.changed_at for world in worlds.values()), default=0.0)
        for entry in self._journal.load():
            count += 1
            last = max(last, entry.fact.at)
            worlds[entry.cluster] = fold(worlds.get(entry.cluster, World()), entry.fact)
        self._log.emit(
            "journal.replayed",
            entries=count,
            clusters=len(worlds),
            seconds=time.monotonic() - began,
            unknown=dict(self._journal.unknown),
        )
        # A machine's clock may have been set back while the service was down: what is remembered is not ahead of us.
        self.clock = self.clock.not_before(last)
        for cluster_id, world in worlds.items():
            if world.desired is not None:
                await self.take_on(world.desired.identity, cluster_id, world, await self.region(world.region))
        for name in sorted(self.looked_into - self.regions.keys()):
            await self._look_into(name)

    async def run(self) -> None:
        """Forget what has been gone for long, and keep the journal small, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_EVERY)
            if self._journal.health.read_only is None:
                await self._tidy()

    async def close(self) -> None:
        """Let go of everything, once calls to AWS that are under way are answered; clusters go on without us."""
        await asyncio.gather(*(member.close(DRAIN_SECONDS) for member in self.directory))
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
                    clock=self.clock,
                    queue=self._settings.events.queues.get(name),
                    image_owners=self._settings.images.owners,
                    survey_interval=self._settings.survey.interval,
                    memory=self._bench.memory,
                    gpu_percent=self._settings.idle.gpu_percent,
                    lookout=Lookout(self, twice=self._anew),
                    known=self.owned,
                    grace=self._settings.gc.grace,
                    aws=self._aws,
                    account=self.account,
                )
                await region.start()
                self.regions[name] = region
                self._unopened.discard(name)
            return self.regions[name]

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each event of the log came since the service started."""
        return self._log.counts

    async def region_of(self, wanted: Cluster) -> Region:
        """Return the region that a cluster shall live in (S09)."""
        return await self.region(wanted.region_name)

    @property
    def default_region(self) -> str:
        """The locally configured region, else us-east-1."""
        return self._aws.default_region

    @property
    def looked_into(self) -> frozenset[str]:
        """The regions in which clusters may be, known or not; they are opened at the start."""
        kept = self._known_regions.read() if self._known_regions is not None else ()
        return frozenset(
            {self.default_region, *self._settings.events.queues, *self._settings.regions, *kept, *self.regions}
        )

    async def all_regions(self) -> list[Region]:
        """Return the regions in which clusters may be; those that are not open yet are opened."""
        return [await self.region(name) for name in sorted(self.looked_into)]

    def _keep_region(self, name: str) -> None:
        try:
            if self._known_regions is not None:
                self._known_regions.keep(name)
        except OSError as error:  # the next cluster there, or the next start, tries again
            self._log.emit("region.not_kept", region=name, error=str(error))

    def _launch_from(self) -> float:
        """Return from when on something may be launched: a journal that was made anew knows nothing of the last minutes."""
        made_at = self._bench.memory.get(MADE_ANEW)
        return float(made_at) + APPEARS_WITHIN if made_at is not None else 0.0

    async def take_on(self, identity: tuple[str, str], cluster_id: str, world: World, region: Region) -> Member:
        """Look after a cluster from now on."""
        self._keep_region(region.name)
        rules = replace(
            rules_of(self._settings, region.name, daemon=self._bench.daemon, run=self._run),
            launch_from=self._launch_from(),
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

    # --- clusters whose record was lost ----------------------------------------------------------------------------

    @property
    def known(self) -> frozenset[str]:
        """The ids of the clusters that there is, or was, a record of."""
        return frozenset(member.cluster_id for member in self.directory) | self._ended

    def searching(self) -> str | None:
        """Say, of a service whose journal was lost, that clusters that run may not be known yet; None once they are."""
        behind = {name for name, region in self.regions.items() if region.lookout and region.lookout.looks < SURE_AFTER}
        names = sorted(behind | self._unopened)
        if not self._anew or not names:
            return None
        return (
            f"the journal is new, and {', '.join(names)} {'is' if len(names) == 1 else 'are'} still being looked at for "
            "clusters whose record was lost: look again in half a minute"
        )

    def owned(self) -> Known:
        """Return what belongs to a cluster that there is a record of: none of it is an orphan (see `ownership`)."""
        worlds = [member.world for member in self.directory]
        return Known(
            daemons=self.daemons,
            clusters=frozenset(member.cluster_id for member in self.directory),
            tokens=frozenset(token for world in worlds for token in world.intents),
            instances=frozenset(instance for world in worlds for instance in world.instances),
        )

    def lock(self, identity: Identity) -> asyncio.Lock:
        """Return what whoever changes what is known under a name holds."""
        return self._locks.setdefault(identity, asyncio.Lock())

    async def take_over(
        self, region: Region, lost: Lost, described: Mapping[str, Mapping[str, Any]], began: float
    ) -> None:
        """Look after a cluster that was found by its tags, unless another one has its name."""
        if self.lock(lost.identity).locked():
            return  # somebody's `up` is about to
        async with self.lock(lost.identity):
            before = self.directory.get(lost.identity)
            if before is not None and (before.world.phase != "gone" or before.leftovers):
                return  # as strangers it is shown in the status of the one that has the name
            kept = self._bench.keys.kept_host_key(lost.cluster_id) or ""
            try:
                found = record_of(lost, described, region=region.name, host_key=kept, began=began, at=self.clock.now())
            except UntoldError as error:
                if lost.cluster_id not in self._untold:
                    self._untold.add(lost.cluster_id)
                    self._log.emit("cluster.unclear", region=region.name, message=str(error))
                return
            if before is not None:
                await self.forget(before)
            member = await self.take_on(lost.identity, lost.cluster_id, World(), region)
            if lost.owner != NOBODY:
                self._journal.claim(lost.identity[0], lost.owner)
            member.loop.submit(found)

    async def _look_into(self, name: str) -> None:
        """Open a region in which no cluster is known: there may be one all the same."""
        try:
            await self.region(name)
        except AwsError as error:  # `doctor` tells more, and an `up` tries again
            self._unopened.add(name)
            self._log.emit("region.survey_failed", region=name, code=error.code, message=error.message)

    def changes(self) -> asyncio.Event:
        """Return an event that is set at the next change of any cluster."""
        return self._changed

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def drop(self, member: Member) -> None:
        """Look after a cluster no longer; if it exists all the same, it can be found again by its tags."""
        await member.close()
        self.directory.remove(member)

    async def forget(self, member: Member) -> None:
        """Look after a cluster no longer, and keep nothing of it: it is gone."""
        await self.drop(member)
        self._ended.add(member.cluster_id)
        self._bench.outputs.forget(member.cluster_id)
        self._bench.keys.forget(member.cluster_id)
        self._journal.forget(member.cluster_id)

    def _journal_told(self, why: str | None) -> None:
        """Say that the service is read-only, or is so no more; who watches a cluster is shown it, too."""
        if why is not None:
            self._log.emit("journal.read_only", message=why)
        else:
            self._log.emit("journal.writable")
        for member in self.directory:
            member.notify()
        self._change()

    def _journal_lost(self, lost: Mapping[str, Counter[str]]) -> None:
        """Say what was not written down when the service ended."""
        names = {member.cluster_id: "/".join(member.identity) for member in self.directory}
        self._log.emit(
            "journal.lost",
            facts=sum(kinds.total() for kinds in lost.values()),
            clusters={
                names.get(cluster, cluster): ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
                for cluster, kinds in lost.items()
            },
        )

    async def _tidy(self) -> None:
        """Forget what has been gone for long enough, and have the journal compacted."""
        oldest = self.clock.now() - self._settings.keep_gone
        for member in list(self.directory):
            async with self.lock(member.identity):  # an `up` may be about to bring it back
                if member.world.phase == "gone" and member.world.changed_at < oldest and not member.leftovers:
                    await self.forget(member)
        try:
            await self._journal.commit()
            compacted = await self._journal.compact(self.clock.now())
        except JournalError as error:  # the next time makes up for it
            self._log.emit("journal.not_compacted", message=str(error))
        else:
            if compacted:
                self._log.emit("journal.compacted", clusters=compacted)


def rules_of(settings: Settings, region: str, *, daemon: str, run: str) -> Rules:
    """Return what the settings add to the decisions about a cluster of this region."""
    return Rules(
        daemon=daemon,
        run=run,
        address=settings.address,
        reach_deadline=settings.ssh.deadline,
        has_events=region in settings.events.queues,
    )
