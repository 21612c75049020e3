"""Tasks that should never end: none is lost, none fails in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
CALM = 600.0
"""Seconds: after a crash, at most after a crash, and without one until the pauses begin anew."""


async def supervise(work: Callable[[], Awaitable[None]], crashed: Callable[[BaseException, float], None]) -> None:
    """Run what should never end; if it crashes, tell, and start it again after a pause that grows with each crash.

    Args:
        work: is called for each start.
        crashed: is told the error, and the pause in seconds.
    """
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE
    while True:
        began = loop.time()
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task})
        finally:
            # We may be the one that is cancelled: what we started ends with us.
            if not task.done():
                await end(task)
        error = asyncio.CancelledError("it was cancelled from inside") if task.cancelled() else task.exception()
        pause = FIRST_PAUSE if loop.time() - began > CALM else pause
        crashed(error or RuntimeError("it ended, and should not have"), pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def end(*tasks: asyncio.Future[None]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
