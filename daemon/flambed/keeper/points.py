"""Writes CPU points: the fake ones that say "in use", and, where CloudWatch refuses those, a metric of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.keeper.guard import Guard
from flambed.pacing import Rank
from flambed.steps import protect

if TYPE_CHECKING:
    from flambed.keeper.keeper import Keeper

BATCH: Final = 1_000
"""Points that one PutMetricData takes."""

_MOST_MISSED: Final = 24 * 60


class Points:
    """Writes the points of all guards, once a minute and whenever a vote begins."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._region = keeper.region
        self._failures = 0
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Work for ever. Points that could not be written are written later."""
        await self._keeper.recall()
        while True:
            try:
                await self._write()
            except AwsError as error:
                if not self._failures:
                    self._region.emit(
                        "protection.points_failed",
                        region=self._region.name,
                        instances=sum(guard.guarded for guard in self._keeper.guards.values()),
                        reason=error.reason.value,
                        code=error.code,
                        message=error.message,
                    )
                self._failures += 1
                await asyncio.sleep(self._region.pause(self._failures))
                continue
            self._failures = 0
            await self._keeper.until_next_minute(self.wake)

    async def seed(self, guards: Sequence[Guard]) -> None:
        """Write the points of hosts that may have been idle: ten, up to this minute; those that they lack of them.

        Raises:
            AwsError: not all were written.
        """
        now = self._region.now()
        # What was written to a metric of our own may have been the real CPU: nothing of it counts as in use.
        plans: dict[Guard, dict[float, float | None]] = {}
        for guard in guards:
            written = None if self._keeper.own_metric else guard.written
            plans[guard] = dict.fromkeys(protect.vote_minutes(now, now, written), protect.IN_USE)
        await self._carry_out(plans)

    async def _write(self) -> None:
        now, offset = self._region.clock.now(), self._region.offset
        plans: dict[Guard, dict[float, float | None]] = {}
        voted: dict[Guard, bool] = {}  # a vote that begins while these points are written has none of them
        for guard in self._keeper.guards.values():
            vote = voted[guard] = guard.votes(now)
            if guard.guarded and self._keeper.own_metric:
                plans[guard] = _merged(guard, now, offset, vote=vote)
            elif vote:
                until = (guard.wanted.vote_until or now) + offset
                minutes = protect.vote_minutes(now + offset, until, guard.written, guard.wanted.ahead)
                plans[guard] = dict.fromkeys(minutes, protect.IN_USE)
        await self._carry_out(plans)
        for guard in plans:
            guard.voted = voted[guard]

    async def _carry_out(self, plans: Mapping[Guard, Mapping[float, float | None]]) -> None:
        """Write the points of all hosts together, and remember what was written and what nothing is known of yet."""
        await self._put(
            [
                protect.point(guard.instance, at, value)
                for guard, values in plans.items()
                for at, value in values.items()
                if value is not None
            ]
        )
        for guard, values in plans.items():
            if values:
                guard.written = max(values if _is_ahead(guard, self._region.now()) else (guard.written or 0.0, *values))
                guard.missed = [at for at, value in values.items() if value is None][-_MOST_MISSED:]
                oldest = min([*guard.missed, guard.written]) - 2 * protect.BACK * protect.MINUTE
                guard.real = {at: percent for at, percent in guard.real.items() if at >= oldest}

    async def _put(self, entries: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(entries), BATCH):
            try:
                await self._call(entries[start : start + BATCH])
            except AwsError as error:
                about_namespace = error.code == "InvalidParameterValue" and "Namespace" in error.words
                if self._keeper.own_metric or not about_namespace:
                    raise
                await self._keeper.refused(error)
                await self._call(entries[start : start + BATCH])

    async def _call(self, entries: Sequence[dict[str, Any]]) -> None:
        await self._region.call(
            self._region.clients.cloudwatch.put_metric_data,
            rank=Rank.ARM,
            Namespace=self._keeper.namespace,
            MetricData=list(entries),
        )


def _merged(guard: Guard, now: float, offset: float, *, vote: bool) -> dict[float, float | None]:
    """Return our own metric for every minute that is not written yet, with None where nothing is known of it.

    A minute is told to be idle only where the host itself was asked, too: what was missed while the service was away
    would end at once a host whose GPU was busy all the time. While a vote stands nothing that was missed is written
    at all: CloudWatch may look at those minutes before it looks at this one.
    """
    this = protect.minute_of(now + offset)
    first = guard.written + protect.MINUTE if guard.written is not None and not _is_ahead(guard, now + offset) else this
    if vote and not guard.voted:
        first = min(first, this - protect.BACK * protect.MINUTE)  # a vote that begins counts at once
    new = [first + protect.MINUTE * number for number in range(int((this - first) // protect.MINUTE) + 1)]
    if vote:
        return dict.fromkeys(new, protect.IN_USE)
    return {at: protect.merged(at, guard.real) if guard.asked(at - offset) else None for at in [*guard.missed, *new]}


def _is_ahead(guard: Guard, now: float) -> bool:
    """Whether its last point lies further ahead than any should: it was written before AWS's clock was known."""
    return (guard.written or 0.0) > protect.minute_of(now) + protect.MOST_AHEAD * protect.MINUTE
