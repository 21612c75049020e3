"""The time of a life: the world's own, and what the service's machine takes for it."""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flambed.clock import Clock
from tests.virtualtime import START

Due = tuple[float, int, Callable[[], None]]
"""When something happens in the world, the how manieth of all it is, and what."""


class Timeline:
    """The world's time, seconds since the life began.

    It is the loop's, until the service's machine sleeps: then the world goes on, and the loop, as the monotonic clock of
    a machine that is suspended, stands.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead = 0.0
        self._due: list[Due] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> float:
        """Seconds since the life began."""
        return self._loop.time() + self._ahead

    def later(self, seconds: float, what: Callable[..., None], *args: object) -> None:
        """Have something happen in the world."""
        due: Due = (self.now + seconds, next(self._numbers), functools.partial(what, *args))
        heapq.heappush(self._due, due)
        self._arm()

    def sleep(self, seconds: float) -> None:
        """Let the world go on for so long, while the service's machine sleeps."""
        wakes_at = self.now + seconds
        while self._due and self._due[0][0] <= wakes_at:
            at, _, what = heapq.heappop(self._due)
            self._ahead = max(self._ahead, at - self._loop.time())
            what()
        self._ahead = wakes_at - self._loop.time()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._due:
            self._timer = self._loop.call_at(self._due[0][0] - self._ahead, self._happen)

    def _happen(self) -> None:
        while self._due and self._due[0][0] <= self.now + 1e-6:  # the sum of two floats may fall short
            heapq.heappop(self._due)[2]()
        self._arm()


@dataclass(frozen=True, slots=True)
class MachineClock(Clock):
    """The service's clock, on a machine that has been up since the life began."""

    timeline: Timeline = field(kw_only=True)

    def system(self) -> float:
        return self.timeline.now + self.ahead


def machine_clock(timeline: Timeline, jumps: Sequence[tuple[float, float]]) -> MachineClock:
    """Return the clock of a service that starts now.

    Args:
        timeline: the world's time.
        jumps: when somebody set the machine's time of day, and how much further ahead it is since then.
    """
    wrong = sum(by for since, by in jumps if since <= timeline.now)
    return MachineClock(ahead=START + wrong, timeline=timeline)
