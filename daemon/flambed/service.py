"""The service: all clusters of this machine, and what may be asked of them.

It finds clusters by name, lets in whom `access` lets in, and turns a command into a fact for the cluster's loop. What
it answers is read off the clusters' worlds. It serves the control API (see `control.service`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from flambed import __version__, access, desired, doctor, history, ssh, status
from flambed.access import Caller
from flambed.aws import Aws
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.desired import Cluster, Role
from flambed.directory import Directory, host_of
from flambed.errors import ClusterConfigurationError, ConflictError, NotAllowedError, Problem
from flambed.hands import Bench
from flambed.journal import Journal
from flambed.log import Log
from flambed.observed import facts, survey
from flambed.observed.facts import Seen
from flambed.observed.fold import fold
from flambed.observed.world import World
from flambed.plan import Rules
from flambed.region import Region

FORGET_EVERY = 3600.0
"""Seconds between two looks for clusters that have been gone for long enough to be forgotten."""


class Service:
    """All clusters of this machine."""

    def __init__(self, *, aws: Aws, bench: Bench, journal: Journal, clock: Clock, log: Log) -> None:
        self._aws = aws
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._log = log
        self._settings = bench.settings
        self._access = access.Rules(self._settings.admin_group, self._settings.creators)
        self._directory = Directory()
        self._regions: dict[str, Region] = {}
        self._opening = asyncio.Lock()
        self._commands: dict[tuple[str, str], asyncio.Lock] = {}

    # --- its life ------------------------------------------------------------------------------------------------

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
                await self._take_on(world.desired.identity, cluster_id, world)

    async def run(self) -> None:
        """Forget what has been gone for long, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_EVERY)
            await self._forget_gone()

    async def close(self) -> None:
        """Let go of everything; clusters go on without us."""
        await asyncio.gather(*(member.close() for member in self._directory))
        await asyncio.gather(*(region.close() for region in self._regions.values()))

    async def _region(self, name: str) -> Region:
        async with self._opening:
            if name not in self._regions:
                region = Region(
                    name,
                    await self._aws.clients(name),
                    emit=self._log.emit,
                    clock=self._clock,
                    queue=self._settings.events.queues.get(name),
                    image_owners=self._settings.images.owners,
                    survey_interval=self._settings.survey.interval,
                    memory=self._bench.memory,
                )
                await region.start()
                self._regions[name] = region
            return self._regions[name]

    async def _take_on(self, identity: tuple[str, str], cluster_id: str, world: World, region: str = "") -> Member:
        name = world.region or region
        rules = Rules(
            daemon=self._bench.daemon,
            address=self._settings.address,
            reach_deadline=self._settings.ssh.deadline,
            has_events=name in self._settings.events.queues,
        )
        member = Member(
            identity,
            cluster_id,
            world,
            region=await self._region(name),
            rules=rules,
            bench=self._bench,
            journal=self._journal,
            log=self._log,
        )
        self._directory.add(member)
        member.start()
        return member

    async def _forget_gone(self) -> None:
        oldest = self._clock.now() - self._settings.keep_gone
        for member in list(self._directory):
            if member.world.phase == "gone" and member.world.changed_at < oldest:
                await member.close()
                self._directory.remove(member)
                self._bench.outputs.forget(member.cluster_id)
                self._bench.keys.forget(member.cluster_id)
                self._journal.forget(member.cluster_id)
        await self._journal.commit()

    # --- what is shown -------------------------------------------------------------------------------------------

    def clusters(self) -> list[dict[str, Any]]:
        """Return the status documents of all clusters, without their instances."""
        now = self._clock.now()
        return [
            status.summary(m.cluster_id, m.world, now, m.rules)
            for m in sorted(self._directory, key=lambda m: m.identity)
            if m.world.desired is not None
        ]

    def status(self, ref: str) -> dict[str, Any]:
        """Return the status document of one cluster."""
        return self._status(self._directory.find(ref))

    def _status(self, member: Member) -> dict[str, Any]:
        return status.status(member.cluster_id, member.world, self._clock.now(), member.rules)

    async def follow(self, ref: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the status document now, and again whenever it changes."""
        member = self._directory.find(ref)
        last: dict[str, Any] | None = None
        while True:
            changed = member.changes()
            document = self._status(member)
            if document != last:
                yield document
                last = document
            await changed.wait()

    def logs(self, caller: Caller, ref: str, host: str | None) -> list[dict[str, Any]]:
        """Return the kept output of set-up commands."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"read the output of {ref}")
        only = host_of(member.world, host, ref).id if host is not None else None
        found = []
        for output in self._bench.outputs.read(member.cluster_id, only):
            instance = member.world.instances.get(output.instance)
            name = desired_of(member).instance_name(instance.role, instance.index) if instance is not None else None
            found.append(
                {
                    "instance": output.instance,
                    "name": name,
                    "number": output.number,
                    "attempt": output.attempt,
                    "command": output.command,
                    "code": output.code,
                    "output": output.text,
                }
            )
        return found

    def why(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return why hosts are alive, failed or about to end."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"ask why {ref} lives")
        world = member.world
        hosts = [host_of(world, host, ref)] if host is not None else [i for role in Role for i in world.of(role)]
        now = self._clock.now()
        return {
            "name": member.identity[1],
            "creator": member.identity[0],
            "phase": world.phase,
            "reason": world.reason,
            "hosts": [status.why(world, now, member.rules, instance) for instance in hosts],
        }

    def ssh(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return how to log in to a host; without `host`: the orchestrator."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"log in to {ref}")
        instance = host_of(member.world, host, ref)
        wanted = desired_of(member)
        name = wanted.instance_name(instance.role, instance.index)
        address = instance.public_host if self._settings.address == "public" else instance.private_host
        if address is None or instance.host_key is None:
            raise ConflictError(f"{name} is {instance.stage.value}: there is no address or host key to log in with yet")
        return {
            "instance": instance.id,
            "name": name,
            "address": address,
            "port": self._settings.ssh_port,
            "username": wanted.username,
            "host_keys": [instance.host_key],
            "key_path": wanted.key,
        }

    def events(
        self, caller: Caller, *, ref: str | None, since: float | None, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of one cluster, or of all that the caller may act on, the oldest first."""
        member = self._directory.find(ref) if ref is not None else None
        if member is not None:
            self._access.check_act(caller, member.world.owner, f"see the events of {ref}")
        return self._events(caller, member, since, follow)

    async def _events(
        self, caller: Caller, member: Member | None, since: float | None, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        told = history.History(self._journal)
        while True:
            changed = [m.changes() for m in self._directory]
            async for cluster_id, event in told.read(member.cluster_id if member else None, since):
                owner = next((m.world.owner for m in self._directory if m.cluster_id == cluster_id), access.ROOT)
                if self._access.may_act(caller, owner):
                    yield event
            if not follow:
                return
            await history.first_of(changed)

    async def instances(self, caller: Caller, *, creator: str | None, host: str | None) -> list[dict[str, Any]]:
        """Return instances with their tags, hosts and alarm (S20, S21, S26)."""
        if not self._access.is_admin(caller):
            if creator is None:
                raise NotAllowedError(f"{caller} may not see everybody's instances: name a creator of your own")
            self._access.check_creator(caller, creator, self._claims())
        regions = self._regions or {"": await self._region(self._aws.default_region)}
        found = [await survey.instances(region, creator=creator, host=host) for region in regions.values()]
        return [instance for some in found for instance in some]

    async def doctor(self) -> list[dict[str, Any]]:
        """Check everything that the service needs."""
        names = {self._aws.default_region, *self._regions, *self._settings.events.queues}
        return await doctor.examine(
            self._settings, [await self._region(name) for name in sorted(names)], self._journal.path.parent
        )

    def health(self) -> dict[str, Any]:
        """Return how the service itself is."""
        stuck = sorted("/".join(m.identity) for m in self._directory if not m.writable)
        return {
            "ok": not stuck,
            "version": __version__,
            "clusters": len(self._directory),
            "regions": sorted(self._regions),
            "message": f"the journal cannot be written; nothing new is begun: {', '.join(stuck)}" if stuck else None,
        }

    # --- what is done --------------------------------------------------------------------------------------------

    async def up(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], key: str | None, shrink: bool
    ) -> dict[str, Any]:
        """Accept a cluster file; return the status of after that."""
        wanted = self._read(caller, document, ref, overrides)
        async with self._commands.setdefault(wanted.identity, asyncio.Lock()):
            member = self._directory.get(wanted.identity)
            region = await self._region(self._region_of(wanted))
            self._check_fits(caller, wanted, member, region)
            cluster_id = member.cluster_id if member else secrets.token_hex(8)
            self._check_key(wanted, cluster_id, key)
            look = await self._look(caller, wanted, member, region)
            if key is not None:
                await asyncio.to_thread(self._bench.keys.keep_login_key, cluster_id, key)
            pair = await asyncio.to_thread(self._bench.keys.host_key, cluster_id)
            if member is not None and member.region is not region:  # it is gone, and comes back somewhere else
                await member.close()
                self._directory.remove(member)
                member = None
            if member is None:
                member = await self._take_on(wanted.identity, cluster_id, World(), region.name)
            self._journal.claim(wanted.creator, caller.uid)
            known = member.world.desired is not None and member.world.phase != "gone"
            asked = facts.UpRequested(
                at=self._clock.now(),
                desired=wanted,
                region=region.name,
                cluster_id=cluster_id,
                host_key=pair.public,
                owner=member.world.owner if known else caller.uid,
                by=caller.uid,
                may_adopt=self._access.may_adopt(caller, wanted.creator),
                shrink=shrink,
            )
            await asyncio.gather(member.loop.take(asked), member.loop.take(look))
            return self._status(member)

    async def plan(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], shrink: bool
    ) -> dict[str, Any]:
        """Return what `up` would do, without doing it."""
        wanted = self._read(caller, document, ref, overrides)
        member = self._directory.get(wanted.identity)
        region = await self._region(self._region_of(wanted))
        self._check_fits(caller, wanted, member, region)
        look = await self._look(caller, wanted, member, region)
        before = member.world if member else World()
        asked = facts.UpRequested(
            at=self._clock.now(),
            desired=wanted,
            region=region.name,
            cluster_id=member.cluster_id if member else "",
            host_key=before.host_key,
            owner=before.owner,
            by=caller.uid,
            may_adopt=self._access.may_adopt(caller, wanted.creator),
            shrink=shrink,
        )
        world = fold(before, asked)
        world = fold(world, look)
        return {"name": wanted.name, "region": region.name, **status.changes(before, wanted, world, shrink)}

    async def down(self, caller: Caller, ref: str) -> dict[str, Any]:
        """Give a cluster back; the status that it returns is `stopping` or `gone`."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"take down {ref}")
        async with self._commands.setdefault(member.identity, asyncio.Lock()):
            if member.world.wanted:
                await member.loop.take(facts.DownRequested(at=self._clock.now(), by=caller.uid))
            return self._status(member)

    async def hold(self, caller: Caller, ref: str, *, seconds: float, why: str) -> dict[str, Any]:
        """Keep idle termination off for so long; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"hold {ref}")
        longest = self._settings.idle.max_hold
        if not 0 < seconds <= longest:
            message = f"a hold of {seconds:g} s is out of bounds: more than 0 and at most {longest:g} s (idle.max_hold)"
            raise ClusterConfigurationError([Problem(message, field="for")], "hold")
        now = self._clock.now()
        await member.loop.take(facts.HoldPlaced(at=now, by=caller.uid, until=now + seconds, why=why))
        return self._status(member)

    async def release(self, caller: Caller, ref: str) -> dict[str, Any]:
        """End a hold; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"release {ref}")
        await member.loop.take(facts.HoldReleased(at=self._clock.now(), by=caller.uid))
        return self._status(member)

    async def retry(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Run the set-up of failed hosts again; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"retry {ref}")
        only = (host_of(member.world, host, ref).id,) if host is not None else ()
        await member.loop.take(facts.RetryRequested(at=self._clock.now(), by=caller.uid, instances=only))
        return self._status(member)

    # --- checks before an `up` -----------------------------------------------------------------------------------

    def _read(self, caller: Caller, document: str, ref: str, overrides: Sequence[str]) -> Cluster:
        wanted = desired.parse(document, source="cluster file", overrides=overrides)
        if ref not in (wanted.name, "/".join(wanted.identity)):
            message = f"the file's name is {wanted.name!r} and the request is about {ref!r}: make them the same"
            raise ClusterConfigurationError([Problem(message, field="name")])
        self._access.check_creator(caller, wanted.creator, self._claims())
        return wanted

    def _claims(self) -> dict[str, int]:
        return self._journal.claims()

    def _region_of(self, wanted: Cluster) -> str:
        return wanted.region_name or self._aws.default_region

    def _check_fits(self, caller: Caller, wanted: Cluster, member: Member | None, region: Region) -> None:
        """Refuse what contradicts the cluster that there is."""
        if member is None or member.world.desired is None:
            return
        world, before = member.world, member.world.desired
        if world.phase == "gone":
            return
        self._access.check_act(caller, world.owner, f"change {wanted.name}")
        if world.phase == "stopping" or not world.wanted:
            raise ConflictError(f"{wanted.name} is being taken down; wait for `flambectl down {wanted.name}` to end")
        if world.region != region.name:
            raise ConflictError(
                f"{wanted.name} of {wanted.creator} lives in {world.region}; take it down first, or give the one in "
                f"{region.name} another name"
            )
        old, new = before.machine_fields(), wanted.machine_fields()
        changed = sorted(name for name in new if old[name] != new[name])
        if changed and any(i.alive for i in world.instances.values()):
            raise ConflictError(
                f"{', '.join(changed)} cannot change on machines that exist: take {wanted.name} down and up again, or "
                "give the new one another name"
            )

    def _check_key(self, wanted: Cluster, cluster_id: str, key: str | None) -> None:
        if key is None:
            if not self._bench.keys.has_login_key(cluster_id):
                message = f"key: {wanted.key}: its contents were not sent with the request, as `flambectl up` does"
                raise ClusterConfigurationError([Problem(message, field="key")])
            return
        try:
            ssh.check_private_key(key)
        except ValueError as error:
            raise ClusterConfigurationError([Problem(f"key: {wanted.key}: {error}", field="key")]) from error

    async def _look(
        self, caller: Caller, wanted: Cluster, member: Member | None, region: Region
    ) -> facts.ClusterSurveyed:
        """Look up what exists, before anything is said or launched; refuse what may not be adopted."""
        found, began = await survey.find(region, wanted.creator, wanted.name)
        known = member.world.instances if member else {}
        ours = member.cluster_id if member else None
        foreign = [s for s in found if s.id not in known and _exists(s) and s.tags.get("flambed:cluster") != ours]
        if foreign and not self._access.may_adopt(caller, wanted.creator):
            ids = ", ".join(s.id for s in foreign)
            raise NotAllowedError(
                f"{ids} carry the tags of {wanted.name} of {wanted.creator} and were not launched by this service: "
                f"{caller} may not adopt them. Ask a member of {self._settings.admin_group}, or use another name"
            )
        orchestrators = sorted(s.id for s in found if s.role is Role.ORCHESTRATOR and _exists(s))
        if len(orchestrators) > 1:
            raise ConflictError(
                f"two orchestrators are called {wanted.name}: {' and '.join(orchestrators)}. Neither was touched: "
                "terminate one, or change its tag Cluster-Name"
            )
        return facts.ClusterSurveyed(at=self._clock.now(), instances=found, began=began)


def _exists(seen: Seen) -> bool:
    return seen.state not in ("shutting-down", "terminated")


def desired_of(member: Member) -> Cluster:
    """Return what a known cluster shall be."""
    assert member.world.desired is not None, "a cluster is known from its first `up` on"
    return member.world.desired
