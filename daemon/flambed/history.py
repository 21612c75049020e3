"""The past as events: journaled facts, and what became of the instances by them, read back in their order.

Of the time before a cluster's checkpoint there are only audit lines: what people asked for, launches, ends, phases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from flambed.catalogue import CATALOGUE
from flambed.cluster import moved, stage_event
from flambed.journal import AuditLine, Checkpoint, Entry, Journal
from flambed.log import of_audit, to_event, to_line
from flambed.observed.fold import fold
from flambed.observed.world import World


class History:
    """Reads the journal as events, and goes on where it stopped."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._starts: dict[str, Checkpoint] = {}  # upon which the next entries of these clusters follow
        self._worlds: dict[str, World] = {}
        self._names: dict[str, str] = {}
        self._seq = 0

    async def read(self, cluster_id: str | None, since: float | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield what was committed since the last call, as cluster id and event; nothing from before `since`."""
        while (page := await self._journal.page(cluster=cluster_id, after=self._seq)).items:
            self._starts.update(page.checkpoints)
            for item in page.items:
                self._seq = item.seq
                for event in self._told(item) if isinstance(item, AuditLine) else self._events(item):
                    if since is None or item.at >= since:
                        yield item.cluster, event

    def _told(self, line: AuditLine) -> Iterable[dict[str, Any]]:
        if line.identity:
            self._names[line.cluster] = line.identity[1]
        if line.event in CATALOGUE:  # else another version told it
            yield of_audit(line, cluster=self._names.get(line.cluster, line.cluster))

    def _events(self, entry: Entry) -> Iterable[dict[str, Any]]:
        start = self._starts.pop(entry.cluster, None)
        before = start.world if start else self._worlds.get(entry.cluster, World())
        after = self._worlds[entry.cluster] = fold(before, entry.fact)
        name = after.desired.name if after.desired else entry.cluster
        yield to_event(entry, cluster=name)
        for instance, was in moved(before, after):
            event, fields = stage_event(after, instance, was)
            yield to_line(event, at=entry.at, cluster=name, instance=instance.id, cause=entry.seq, fields=fields)
