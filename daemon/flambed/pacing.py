"""Asking AWS no faster than it lets an account ask: token buckets, served by rank and fairly between clusters.

The numbers are AWS's published ones (EC2 API throttling, CloudWatch service quotas). Others may use the same account, so
an answer "throttled" empties the bucket for a moment all the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol


class Rank(IntEnum):
    """What goes first where all cannot go at once: ending what costs, then protecting it, then making more of it."""

    TERMINATE = 0
    ARM = 1
    LAUNCH = 2
    LOOK = 3


@dataclass(frozen=True, slots=True)
class Quota:
    """How much may be taken at once, and how much of it comes back each second."""

    capacity: float
    refill: float


_MUTATING: Final = "mutating"
_FILTERED: Final = "describe"
_UNFILTERED: Final = "describe everything"
_LAUNCHED: Final = "launched instances"
_TERMINATED: Final = "terminated instances"

QUOTAS: Final[Mapping[str, Quota]] = {
    "run_instances": Quota(5, 2),
    "terminate_instances": Quota(100, 5),
    "create_tags": Quota(100, 10),
    _FILTERED: Quota(100, 20),
    _UNFILTERED: Quota(50, 10),
    _MUTATING: Quota(50, 5),
    _LAUNCHED: Quota(1000, 2),
    _TERMINATED: Quota(1000, 20),
    "put_metric_alarm": Quota(3, 3),
    "delete_alarms": Quota(3, 3),
    "describe_alarms": Quota(9, 9),
    "list_tags_for_resource": Quota(9, 9),
    "put_metric_data": Quota(500, 500),
    "get_metric_data": Quota(50, 50),
    "get_parameters": Quota(40, 40),
}
"""Every bucket of an account in a region. A call without one, such as SQS's, is not paced."""

_BUCKETS: Final[Mapping[str, tuple[str, ...]]] = {
    "run_instances": (_LAUNCHED, "run_instances"),
    "terminate_instances": (_TERMINATED, "terminate_instances"),
    "start_instances": (_MUTATING,),
    "monitor_instances": (_MUTATING,),
    "get_console_output": (_MUTATING,),
    "delete_tags": (_MUTATING,),
    "delete_volume": (_MUTATING,),
    "describe_volumes": (_FILTERED,),
    "describe_images": (_FILTERED,),
    "describe_instance_types": (_FILTERED,),
    "describe_instance_type_offerings": (_FILTERED,),
}
"""Which buckets a call takes from, where it is not the one of its own name."""

_NARROWING: Final = frozenset({"Filters", "MaxResults"})  # ids are no filter: AWS counts such a call as unfiltered


def buckets_of(method: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the buckets that a call takes from, in the order in which it takes.

    Those that hold instances come first: whoever waits for a thousand of them should not keep a request meanwhile.
    """
    if method == "describe_instances":
        return (_FILTERED,) if _NARROWING & params.keys() else (_UNFILTERED,)
    if method in _BUCKETS:
        return _BUCKETS[method]
    return (method,) if method in QUOTAS else ()


class Timer(Protocol):
    """What is needed of an event loop: its monotonic seconds, and being called later."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any: ...


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: float
    turn: asyncio.Future[None]


class _Line:
    """Who waits for one bucket: by rank, within a rank one of each cluster in turn, of one cluster in order."""

    def __init__(self) -> None:
        self._ranks: dict[Rank, OrderedDict[Hashable, deque[_Waiter]]] = {rank: OrderedDict() for rank in Rank}

    def join(self, waiter: _Waiter, rank: Rank, whose: Hashable) -> None:
        self._ranks[rank].setdefault(whose, deque()).append(waiter)

    def leave(self, waiter: _Waiter, rank: Rank, whose: Hashable) -> None:
        queue = self._ranks[rank].get(whose)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._ranks[rank][whose]

    def head(self) -> _Waiter | None:
        for clusters in self._ranks.values():
            for queue in clusters.values():
                return queue[0]
        return None

    def pop(self) -> None:
        """Take the head out; its cluster goes to the end of its rank."""
        clusters = next(clusters for clusters in self._ranks.values() if clusters)
        whose, queue = next(iter(clusters.items()))
        queue.popleft()
        if queue:
            clusters.move_to_end(whose)
        else:
            del clusters[whose]


class Bucket:
    """A token bucket. It starts full, and holds one token less than AWS's own, whose full quota it is given.

    AWS counts calls as they arrive: one that is quicker on its way than the one before it - and the first of all opens a
    connection - would be one too many.
    """

    PENALTY: Final = 1.0
    """Seconds for which a throttled bucket stays empty."""

    def __init__(self, quota: Quota, timer: Timer) -> None:
        self._refill = quota.refill
        self._capacity = max(1.0, quota.capacity - 1.0)
        self._timer = timer
        self._tokens = self._capacity
        self._counted_at = timer.time()
        self._line = _Line()
        self._alarm: Any = None

    async def take(self, tokens: float, rank: Rank, whose: Hashable) -> None:
        """Return when these tokens may be used; more than the bucket holds count as all that it holds."""
        waiter = _Waiter(min(tokens, self._capacity), asyncio.get_running_loop().create_future())
        self._line.join(waiter, rank, whose)
        self._serve()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._tokens += waiter.tokens  # its turn had come, and nobody used it
            self._line.leave(waiter, rank, whose)
            self._serve()
            raise

    def throttled(self) -> None:
        """AWS said that we were too fast: the bucket is empty, and begins to fill a moment later."""
        self._tokens = 0.0
        self._counted_at = self._timer.time() + self.PENALTY

    def _serve(self) -> None:
        self._count()
        while (head := self._line.head()) is not None:
            lacking = head.tokens - self._tokens
            if lacking > 1e-6:  # less than that may be too short a wait for a float of seconds to tell
                self._wake_in(lacking / self._refill)
                return
            self._line.pop()
            if not head.turn.done():
                self._tokens -= head.tokens
                head.turn.set_result(None)

    def _count(self) -> None:
        now = self._timer.time()
        if now > self._counted_at:
            self._tokens = min(self._capacity, self._tokens + (now - self._counted_at) * self._refill)
            self._counted_at = now

    def _wake_in(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        empty_for = max(0.0, self._counted_at - self._timer.time())
        self._alarm = self._timer.call_later(empty_for + seconds, self._serve)

    def close(self) -> None:
        """Wake nobody any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class Pacer:
    """All buckets of one account in one region."""

    def __init__(self, timer: Timer | None = None) -> None:
        clock = timer if timer is not None else asyncio.get_running_loop()
        self._buckets = {name: Bucket(quota, clock) for name, quota in QUOTAS.items()}

    async def pace(self, method: str, params: Mapping[str, Any], rank: Rank, whose: Hashable, units: int = 1) -> None:
        """Return when this call may be made. `units` is how many instances it launches or terminates."""
        for name in buckets_of(method, params):
            await self._buckets[name].take(units if name in (_LAUNCHED, _TERMINATED) else 1, rank, whose)

    def throttled(self, method: str, params: Mapping[str, Any]) -> None:
        """AWS answered this call with "too fast".

        Only its bucket of requests is emptied: one of instances would take minutes to fill again.
        """
        for name in buckets_of(method, params)[-1:]:
            self._buckets[name].throttled()

    def close(self) -> None:
        """Wake nobody any more."""
        for bucket in self._buckets.values():
            bucket.close()
