"""An `up`, from the cluster file to the fact: it is let in (see `admission`), its keys are kept, and it is written down.

A plan goes the same way and stops before anything is kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flambed import status
from flambed.access import Caller
from flambed.admission import Admission
from flambed.bench import Bench
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.desired import Cluster
from flambed.fleet import Fleet
from flambed.journal import Journal, ReadOnlyError, unwritable
from flambed.keys import KeyPair
from flambed.observed import facts
from flambed.observed.fold import fold
from flambed.observed.world import World
from flambed.recovery import NOBODY, Lost
from flambed.region import Region


class BringUp:
    """Brings clusters up, new ones and those that shall be something else."""

    def __init__(self, fleet: Fleet, *, bench: Bench, journal: Journal, clock: Clock) -> None:
        self._fleet = fleet
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._directory = fleet.directory
        self._admission = Admission(
            lambda: bench.access,
            journal,
            bench.keys,
            fleet,
            directory=self._directory,
            limits=lambda: bench.settings.limits,
        )

    async def up(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], key: str | None, shrink: bool
    ) -> Member:
        """Accept a cluster file; return the cluster, for which it is written down."""
        wanted = self._admission.read(caller, document, ref, overrides)
        self._journal.health.check()
        async with self._fleet.lock(wanted.identity):
            member = self._directory.get(wanted.identity)
            region = await self._fleet.region_of(wanted)
            self._admission.check_fits(caller, wanted, member, region)
            past = member if member and self._admission.is_past(caller, member, region) else None
            member = None if past else member
            look, lost = await self._admission.look(caller, wanted, member, region)
            async with self._admission.within_limits(caller, wanted, member, region, shrink=shrink):
                return await self._accept(caller, wanted, region, member, past, look, lost, key=key, shrink=shrink)

    async def _accept(  # noqa: PLR0917 - what `up` has found out
        self,
        caller: Caller,
        wanted: Cluster,
        region: Region,
        member: Member | None,
        past: Member | None,
        look: facts.ClusterSurveyed,
        lost: Lost | None,
        *,
        key: str | None,
        shrink: bool,
    ) -> Member:
        """Write down what shall be, for a cluster that was let in."""
        cluster_id = member.cluster_id if member else lost.cluster_id if lost else secrets.token_hex(8)
        owner = lost.owner if lost and lost.owner != NOBODY else caller.uid
        self._admission.check_key(cluster_id, key)
        known_key, pair, peer_key = await asyncio.to_thread(
            self._keep_keys, cluster_id, key, fresh=member is None and lost is None
        )
        if past is not None:
            await self._fleet.forget(past)
        if member is None:
            member = await self._fleet.take_on(wanted.identity, cluster_id, World(), region)
        self._journal.claim(wanted.creator, owner)
        known = member.world.desired is not None and member.world.phase != "gone" and member.world.owner != NOBODY
        asked = replace(
            self._asked(caller, wanted, region, shrink=shrink),
            cluster_id=cluster_id,
            host_key=pair.public,
            peer_key=peer_key,
            host_key_since=0.0 if known_key else self._clock.now(),
            owner=member.world.owner if known else owner,
        )
        try:
            await asyncio.gather(member.loop.take(asked), member.loop.take(look))
        except ReadOnlyError:
            if member.world.desired is None:  # nothing was taken in: no such cluster is known
                await self._fleet.drop(member)
                if lost is None:  # the hosts of one whose record was lost still show these keys
                    self._bench.keys.forget(cluster_id)
            raise
        return member

    def _keep_keys(self, cluster_id: str, key: str | None, *, fresh: bool) -> tuple[str | None, KeyPair, str]:
        """Keep the keys of an `up`; return the public host key that was kept before, the pair that is now, and the
        public key of the orchestrator.

        Raises:
            ReadOnlyError: the disk refuses; nothing of a fresh cluster's is left.
        """
        keys = self._bench.keys
        try:
            if key is not None:
                keys.keep_login_key(cluster_id, key)
            return keys.kept_host_key(cluster_id), keys.host_key(cluster_id), keys.peer_key(cluster_id).public
        except OSError as error:
            if fresh:
                keys.forget(cluster_id)
            raise unwritable(self._journal.path.parent, error) from error

    async def plan(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], shrink: bool
    ) -> dict[str, Any]:
        """Return what `up` would do, without doing it."""
        wanted = self._admission.read(caller, document, ref, overrides)
        member = self._directory.get(wanted.identity)
        region = await self._fleet.region_of(wanted)
        self._admission.check_fits(caller, wanted, member, region)
        look, lost = await self._admission.look(caller, wanted, member, region)
        async with self._admission.within_limits(caller, wanted, member, region, shrink=shrink):
            pass  # nothing is written down
        before = member.world if member else World()
        asked = replace(
            self._asked(caller, wanted, region, shrink=shrink),
            cluster_id=member.cluster_id if member else lost.cluster_id if lost else "",
            host_key=before.host_key,
        )
        world = fold(fold(before, asked), look)
        return {"name": wanted.name, "region": region.name, **status.changes(before, wanted, world, shrink)}

    def _asked(self, caller: Caller, wanted: Cluster, region: Region, *, shrink: bool) -> facts.UpRequested:
        """Return an `up` of a cluster that is not known yet."""
        return facts.UpRequested(
            at=self._clock.now(),
            desired=wanted,
            region=region.name,
            cluster_id="",
            host_key="",
            owner=caller.uid,
            by=caller.uid,
            may_adopt=self._bench.access.may_adopt(caller, wanted.creator),
            shrink=shrink,
        )
