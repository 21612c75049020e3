"""The service: what may be asked of the clusters of this machine.

It finds clusters by name, lets in whom `access` lets in, and turns a command into a fact for the cluster's loop. What
it answers is read off the clusters' worlds. It serves the control API (see `control.service`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from typing import Any

from flambed import access, durations, garbage, history, status, trust
from flambed.access import Caller
from flambed.bench import Bench
from flambed.bringup import BringUp
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.desired import Role
from flambed.directory import host_of
from flambed.errors import ClusterConfigurationError, ConflictError, NotAllowedError, NotKnownError, Problem
from flambed.fleet import Fleet
from flambed.journal import Journal
from flambed.observed import facts, survey
from flambed.observed.instance import Stage
from flambed.plan.phase import LOST
from flambed.settings import Settings
from flambed.vitals import Vitals


class Service:
    """What may be asked of the clusters of this machine."""

    def __init__(self, fleet: Fleet, *, bench: Bench, journal: Journal, clock: Clock) -> None:
        self._fleet = fleet
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._directory = fleet.directory
        self._bringup = BringUp(fleet, bench=bench, journal=journal, clock=clock)
        self._vitals = Vitals(fleet, bench=bench, journal=journal, clock=clock)

    @property
    def _settings(self) -> Settings:
        return self._bench.settings

    @property
    def _access(self) -> access.Rules:
        return self._bench.access

    # --- what is shown -------------------------------------------------------------------------------------------

    def clusters(self) -> list[dict[str, Any]]:
        """Return the status documents of all clusters, without their instances."""
        now = self._clock.now()
        return [
            {**status.summary(m.cluster_id, m.world, now, m.rules), "read_only": self._journal.health.read_only}
            for m in sorted(self._directory, key=lambda m: m.identity)
            if m.world.desired is not None
        ]

    def status(self, ref: str) -> dict[str, Any]:
        """Return the status document of one cluster."""
        return self._status(self._directory.find(ref))

    def _status(self, member: Member) -> dict[str, Any]:
        document = status.status(member.cluster_id, member.world, self._clock.now(), member.rules)
        return {**document, "read_only": self._journal.health.read_only}

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
            if instance is None or instance.past:  # of the cluster's life before the last `down`
                continue
            name = member.desired.instance_name(instance.role, instance.index)
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

    async def why(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return why hosts are alive, failed or about to end."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"ask why {ref} lives")
        world = member.world
        hosts = [host_of(world, host, ref)] if host is not None else [i for role in Role for i in world.of(role)]
        seen = await member.region.keeper.signals([instance.id for instance in hosts])
        now, world = self._clock.now(), member.world
        return {
            "name": member.identity[1],
            "creator": member.identity[0],
            "phase": world.phase,
            "reason": world.reason,
            "hosts": [
                status.why(world, now, member.rules, world.instances.get(host.id, host), seen.get(host.id, ()))
                for host in hosts
            ],
        }

    def ssh(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return how to log in to a host; without `host`: the orchestrator."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"log in to {ref}")
        instance = host_of(member.world, host, ref)
        if not instance.alive:
            raise NotKnownError(f"{host or ref} is {instance.stage.value}: nobody can log in there any more")
        wanted = member.desired
        name = wanted.instance_name(instance.role, instance.index)
        address = instance.public_host if self._settings.address == "public" else instance.private_host
        if address is None or not instance.host_keys:
            raise ConflictError(f"{name} is {instance.stage.value}: there is no address or host key to log in with yet")
        return {
            "instance": instance.id,
            "name": name,
            "address": address,
            "port": self._settings.ssh_port,
            "username": wanted.username,
            "host_keys": list(instance.host_keys),
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
            changed = self._fleet.changes()
            async for cluster_id, event in told.read(member.cluster_id if member else None, since):
                owner = next((m.world.owner for m in self._directory if m.cluster_id == cluster_id), access.ROOT)
                if self._access.may_act(caller, owner):
                    yield event
            if not follow:
                return
            await changed.wait()

    async def instances(self, caller: Caller, *, creator: str | None, host: str | None) -> list[dict[str, Any]]:
        """Return instances with their tags, hosts and alarm (S20, S21, S26): an admin's answer has everybody's."""
        claims = self._journal.claims()
        if creator is not None and not self._access.owns_creator(caller, creator, claims):
            raise NotAllowedError(f"{caller} may not see the instances of {creator!r}: name a creator of your own")
        found = [
            instance
            for region in await self._fleet.all_regions()
            for instance in await survey.instances(region, creator=creator, host=host)
        ]
        return [one for one in found if self._access.owns_creator(caller, one["creator"] or "", claims)]

    async def orphans(self, caller: Caller) -> list[dict[str, Any]]:
        """Return what carries this service's tags and belongs to no cluster that is known."""
        self._access.check_admin(caller, "see what is left over")
        return [
            garbage.document(region, orphan)
            for region in await self._fleet.all_regions()
            if region.orphans is not None
            for orphan in await region.orphans.look()
        ]

    def remove_orphans(self, caller: Caller, ids: Collection[str]) -> AsyncIterator[dict[str, Any]]:
        """Remove orphans, and yield what becomes of each; what it raises, it raises at the call."""
        self._access.check_admin(caller, "remove what is left over")
        self._journal.health.check()
        return self._remove_orphans(frozenset(ids))

    async def _remove_orphans(self, ids: frozenset[str]) -> AsyncIterator[dict[str, Any]]:
        told: set[str] = set()
        for region in await self._fleet.all_regions():
            async with aclosing(garbage.remove(region, ids)) as outcomes:
                async for outcome in outcomes:
                    told.add(outcome["id"])
                    yield outcome
        for name in sorted(ids - told):
            reason = "it is no orphan (any more)"
            yield {"kind": None, "id": name, "region": None, "outcome": "refused", "reason": reason}

    async def doctor(self, caller: Caller) -> list[dict[str, Any]]:
        """Check everything that the service needs."""
        theirs = [member for member in self._directory if self._access.may_act(caller, member.world.owner)]
        if not theirs:
            self._access.check_admin(caller, "have the service examined")
        return await self._vitals.examine(theirs)

    def health(self) -> dict[str, Any]:
        """Return how the service itself is."""
        return self._vitals.health()

    def metrics(self) -> bytes:
        """Return the service's metrics in Prometheus' text format: counts, and no names."""
        return self._vitals.metrics()

    # --- what is done --------------------------------------------------------------------------------------------

    async def up(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], key: str | None, shrink: bool
    ) -> dict[str, Any]:
        """Accept a cluster file; return the status of after that."""
        member = await self._bringup.up(caller, document, ref=ref, overrides=overrides, key=key, shrink=shrink)
        return self._status(member)

    async def plan(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], shrink: bool
    ) -> dict[str, Any]:
        """Return what `up` would do, without doing it."""
        return await self._bringup.plan(caller, document, ref=ref, overrides=overrides, shrink=shrink)

    async def trust(self, caller: Caller, ref: str, host: str, fingerprint: str | None) -> dict[str, Any]:
        """Pin the host key with this fingerprint, if the host shows it; without one only tell what it shows."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"vouch for hosts of {ref}")
        instance = host_of(member.world, host, ref)
        name = member.desired.instance_name(instance.role, instance.index)
        return await trust.trust(member, self._settings, instance, name, wanted=fingerprint, by=caller.uid)

    async def down(self, caller: Caller, ref: str) -> dict[str, Any]:
        """Give a cluster back; the status that it returns is `stopping` or `gone`."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"take down {ref}")
        async with self._fleet.lock(member.identity):
            if member.world.wanted:
                await member.loop.take(facts.DownRequested(at=self._clock.now(), by=caller.uid))
            return self._status(member)

    async def hold(self, caller: Caller, ref: str, *, seconds: float, why: str) -> dict[str, Any]:
        """Keep idle termination off for so long; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"hold {ref}")
        _check_wanted(member, "held")
        if member.world.recovered:
            raise ConflictError(f"{ref} cannot be held: {LOST}")
        longest = self._settings.idle.max_hold
        if not 0 < seconds <= longest:
            much = "longer than the longest hold," if seconds else "no time: a hold may last at most"
            message = f"{durations.words(seconds)} is {much} {durations.words(longest)} (idle.max_hold)"
            raise ClusterConfigurationError([Problem(message, field="for")], "hold")
        now = self._clock.now()
        held = member.world.hold
        if held is not None and held.until > now + seconds:
            raise ConflictError(
                f"{ref} is held until {status.rfc3339(held.until)} already ({held.why}); end that first: "
                f"`flambectl release {ref}`"
            )
        await member.loop.take(facts.HoldPlaced(at=now, by=caller.uid, until=now + seconds, why=why))
        return self._status(member)

    async def release(self, caller: Caller, ref: str) -> dict[str, Any]:
        """End a hold; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"release {ref}")
        if member.world.hold is None or member.world.hold.until <= self._clock.now():
            raise ConflictError(f"{ref} is not held")
        await member.loop.take(facts.HoldReleased(at=self._clock.now(), by=caller.uid))
        return self._status(member)

    async def retry(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Run the set-up of failed hosts again; return the status."""
        member = self._directory.find(ref)
        self._access.check_act(caller, member.world.owner, f"retry {ref}")
        _check_wanted(member, "set up again")
        only = (host_of(member.world, host, ref).id,) if host is not None else ()
        failed = [i for i in member.world.instances.values() if i.stage is Stage.FAILED and (not only or i.id in only)]
        if not failed and not member.world.launch_failures:
            raise ConflictError(f"there is nothing to retry: no host of {ref} has failed")
        await member.loop.take(facts.RetryRequested(at=self._clock.now(), by=caller.uid, instances=only))
        return self._status(member)


def _check_wanted(member: Member, what: str) -> None:
    if not member.world.wanted or member.world.phase == "gone":
        name = "/".join(member.identity)
        raise ConflictError(f"{name} is {member.world.phase}, so it cannot be {what}; `flambectl up` brings it back")
