"""How the service itself is: its health, its metrics, and what `doctor` finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from flambed import __version__, doctor, metrics, status
from flambed.bench import Bench
from flambed.clock import Clock
from flambed.cluster import Member
from flambed.fleet import Fleet
from flambed.journal import Journal
from flambed.observed.instance import Stage


class Vitals:
    """Looks at the running service as a whole."""

    def __init__(self, fleet: Fleet, *, bench: Bench, journal: Journal, clock: Clock) -> None:
        self._fleet = fleet
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._started_at = clock.now()

    def health(self) -> dict[str, Any]:
        """Return how the service itself is."""
        read_only = self._journal.health.read_only
        regions = self._fleet.regions
        shared = [r.inbox.shared for r in regions.values() if r.inbox is not None and r.inbox.shared is not None]
        wrong = [message for message in (read_only, self._fleet.account.trouble, *shared) if message is not None]
        return {
            "ok": not wrong,
            "version": __version__,
            "clusters": len(self._fleet.directory),
            "regions": sorted(regions),
            "read_only": read_only is not None,
            "searching": self._fleet.searching(),
            "others": [
                {"region": name, "daemon": other.daemon, "instances": other.instances, "clusters": list(other.clusters)}
                for name, region in sorted(regions.items())
                for other in region.others
            ],
            "message": "; ".join(wrong) or None,
        }

    def metrics(self) -> bytes:
        """Return the service's metrics in Prometheus' text format: counts, and no names."""
        now = self._clock.now()
        worlds = [(m.world, m.rules) for m in self._fleet.directory if m.world.desired is not None]
        living = [one for world, _ in worlds for one in world.instances.values() if one.stage is not Stage.GONE]
        return metrics.render(
            metrics.Snapshot(
                version=__version__,
                started_at=self._started_at,
                events=self._fleet.counts,
                clusters=Counter(world.phase for world, _ in worlds),
                instances=Counter(one.stage.value for one in living),
                unprotected=sum(status.unprotected(world, now, rules) for world, rules in worlds),
                read_only=self._journal.health.read_only is not None,
                regions={
                    name: metrics.OfRegion(surveyed_at=region.surveyed_at, calls=region.calls)
                    for name, region in sorted(self._fleet.regions.items())
                },
            )
        )

    async def examine(self, of: Iterable[Member]) -> list[dict[str, Any]]:
        """Check everything that the service needs, and the host keys of these clusters."""
        found = await doctor.examine(
            self._bench.settings,
            await self._fleet.all_regions(),
            self._journal.path.parent,
            self._bench.daemon,
            read_only=self._journal.health.read_only,
            worlds=[member.world for member in self._fleet.directory],
        )
        return found + [
            doctor.check(f"host key of {m.desired.instance_name(i.role, i.index)} ({i.id})", False, said, doctor.TRUST)
            for m in of
            if m.world.desired is not None
            for i in m.world.instances.values()
            if (said := status.refusal_of(i)) is not None
        ]
