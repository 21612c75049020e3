"""An event loop on which waiting takes no time: when nothing is left to do, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import functools
import heapq
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec

from flambed.clock import ANCHOR, Clock

P = ParamSpec("P")

START = ANCHOR + 3600.0
"""The time of day at which a virtual loop begins: a full minute."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that does not wait for its timers."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            # Else the loop would jump to a timer that is none, and really wait for the next one.
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False
        if not self._ready and scheduled:  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class VirtualClock(Clock):
    """The time of day on a virtual loop."""

    def now(self) -> float:
        return START + asyncio.get_running_loop().time()


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a virtual loop, and fail if it leaves a task behind."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await test(*args, **kwargs)
            left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert not left, f"left behind: {left}"

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(whole())

    return run
