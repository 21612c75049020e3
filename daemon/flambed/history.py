"""The past as events: journaled facts, and what became of the instances by them, read back in their order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from flambed.cluster import moved, stage_event
from flambed.journal import Entry, Journal
from flambed.log import to_event, to_line
from flambed.observed.fold import fold
from flambed.observed.world import World


class History:
    """Reads the journal as events, and goes on where it stopped."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._worlds: dict[str, World] = {}
        self._seq = 0

    async def read(self, cluster_id: str | None, since: float | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield what was committed since the last call, as cluster id and event; nothing from before `since`."""
        while batch := await self._journal.entries(cluster=cluster_id, after_seq=self._seq):
            for entry in batch:
                self._seq = entry.seq
                for event in self._events(entry):
                    if since is None or entry.at >= since:
                        yield entry.cluster, event

    def _events(self, entry: Entry) -> Iterable[dict[str, Any]]:
        before = self._worlds.get(entry.cluster, World())
        after = self._worlds[entry.cluster] = fold(before, entry.fact)
        name = after.desired.name if after.desired else entry.cluster
        yield to_event(entry, cluster=name)
        for instance, was in moved(before, after):
            event, fields = stage_event(after, instance, was)
            yield to_line(event, at=entry.at, cluster=name, instance=instance.id, cause=entry.seq, fields=fields)
