"""Reads the hosts' real CPU, all together and no oftener than it is needed, and tells only what changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flambed.aws import AwsError
from flambed.keeper.guard import Guard
from flambed.observed import cpu
from flambed.observed.facts import BecameBusy, BecameIdle
from flambed.steps import protect

if TYPE_CHECKING:
    from flambed.keeper.keeper import Keeper

LONGEST: Final = 24 * 60
"""Minutes that are looked back at most."""

_EVERY: Final = 5 * protect.MINUTE
_EVERY_MERGED: Final = 2 * protect.MINUTE
"""Seconds between two readings of a host, at most, and where our own metric has its CPU."""

_EXTRA: Final = 10 * protect.MINUTE


class Readings:
    """Reads the CPU of all hosts that have an alarm."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._region = keeper.region
        self._born = self._region.clock.now()
        self._failures = 0

    async def run(self) -> None:
        """Work for ever. A minute that could not be read is read later: no data is not idleness."""
        while True:
            await self._keeper.until_next_minute()
            try:
                await self._read_due()
            except AwsError as error:
                self._warn(error)
                self._failures += 1
                await asyncio.sleep(self._region.pause(self._failures))
            else:
                self._failures = 0

    async def _read_due(self) -> None:
        now = self._region.now()
        due = [guard for guard in self._keeper.guards.values() if guard.guarded and self._due_at(guard) <= now]
        due.sort(key=lambda guard: self._start(guard, now))
        while due:
            start = self._start(due[0], now)
            span = int((now - start) // protect.MINUTE) + 1
            batch, due = due[: cpu.fitting(span)], due[cpu.fitting(span) :]
            await self._read_batch(batch, start, now)

    def _due_at(self, guard: Guard) -> float:
        if guard.read_at is None or guard.read_at > self._region.now():
            return 0.0  # one that lies ahead is from before AWS's clock was known
        longest = _EVERY_MERGED if self._keeper.own_metric else _EVERY
        # Half a second less: the clock of a minute may tick a little early.
        return guard.read_at + min(longest, (guard.wanted.minutes or 0) * protect.MINUTE / 5) - 0.5

    def _start(self, guard: Guard, now: float) -> float:
        """Return the first minute to read: the one after the last that is known, or the whole window at first."""
        longest = protect.minute_of(now) - LONGEST * protect.MINUTE
        if guard.read_until is not None:
            return max(guard.read_until + protect.MINUTE, longest)
        return max(protect.minute_of(now) - (guard.wanted.minutes or 0) * protect.MINUTE - _EXTRA, longest)

    async def _read_batch(self, guards: Sequence[Guard], start: float, now: float) -> None:
        own_metric = self._keeper.own_metric
        # Our own fakes are in the same metric, where it is AWS's: the least sample of a minute is the real one.
        statistic = "Average" if own_metric else "Minimum"
        ids = [guard.instance for guard in guards]
        end = protect.minute_of(now) + protect.MINUTE
        found = await cpu.read(self._region, ids, protect.AWS_NAMESPACE, statistic, start, end)
        lost = [guard for guard in guards if own_metric and guard.recall]
        if lost:
            ids = [guard.instance for guard in lost]
            own = await cpu.read(self._region, ids, protect.OWN_NAMESPACE, "Maximum", start, end)
            for guard in lost:
                guard.recall = False
                guard.missed = sorted({*guard.missed, *protect.gaps(own.get(guard.instance, ()), now)})
        for guard in guards:
            guard.read_at, guard.warned = now, False
            self._take(guard, found.get(guard.instance, ()), now)

    # --- what it means -------------------------------------------------------------------------------------------

    def _take(self, guard: Guard, found: protect.Samples, now: float) -> None:
        since = guard.read_until if guard.read_until is not None else float("-inf")
        samples = [(at, percent) for at, percent in found if at > since]
        real = [sample for sample in samples if not self._may_be_fake(guard, *sample)]
        if not real:
            return
        # Metrics come late, and a minute that has only our own point yet gets its real one shortly: read those again.
        doubtful = [at for at, percent in samples if self._may_be_fake(guard, at, percent) and at > now - _EXTRA]
        guard.read_until = min([real[-1][0], *(at - protect.MINUTE for at in doubtful)])
        if self._keeper.own_metric:
            guard.real |= dict(real)
        self._tell(guard, real)

    def _may_be_fake(self, guard: Guard, at: float, percent: float) -> bool:
        """Whether a sample may be nothing but a point of ours: of this life of the service, or of one shortly before."""
        if self._keeper.own_metric or percent < protect.IN_USE:
            return False
        return at <= (guard.written or 0.0) or at <= self._born + protect.MOST_AHEAD * protect.MINUTE

    def _tell(self, guard: Guard, samples: protect.Samples) -> None:
        busy_at = protect.last_busy(samples, guard.wanted.threshold)
        if busy_at is not None:
            guard.last_busy = max(busy_at, guard.last_busy or 0.0)
        at = self._region.clock.now()
        if samples[-1][1] >= guard.wanted.threshold:
            if not guard.busy:
                guard.busy = True
                self._keeper.tell(guard, BecameBusy(at=at, instance=guard.instance))
            return
        since = guard.last_busy or guard.idle_since or samples[0][0]
        if guard.busy is not False or since != guard.idle_since:
            guard.busy, guard.idle_since = False, since
            self._keeper.tell(guard, BecameIdle(at=at, instance=guard.instance, since=since))

    def _warn(self, error: AwsError) -> None:
        """Say so when the CPU of a host has not been read for half of its window."""
        now = self._region.now()
        for guard in self._keeper.guards.values():
            unread = now - (guard.read_at or self._born)
            if guard.wanted.minutes is None or guard.warned or unread <= guard.wanted.minutes * protect.MINUTE / 2:
                continue
            guard.warned = True
            self._region.emit(
                "protection.lacking",
                instance=guard.instance,
                seconds=unread,
                message=f"its CPU cannot be read, so nobody knows whether it is idle: {error.message}",
            )
