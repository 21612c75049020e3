"""Asking once: what several ask for at the same time, or one after the other, is fetched for all of them by one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Values that are fetched once each and kept for a while; a failure is told to all who wait and not kept."""

    def __init__(self, keep: float = 3600.0) -> None:
        self._keep = keep
        self._calls: dict[K, tuple[asyncio.Task[V], float]] = {}

    async def get(self, key: K, fetch: Callable[[], Awaitable[V]]) -> V:
        """Return the value of a key; `fetch` is called if nobody has asked for it within the last `keep` seconds.

        Somebody who is cancelled while waiting does not take the value from the others.
        """
        now = asyncio.get_running_loop().time()
        known = self._calls.get(key)
        if known is None or now - known[1] > self._keep:
            task = asyncio.create_task(_awaited(fetch), name=f"fetch {key}")
            known = self._calls[key] = (task, now)
            task.add_done_callback(lambda done: self._settle(key, done))
        return await asyncio.shield(known[0])

    def _settle(self, key: K, task: asyncio.Task[V]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and (known := self._calls.get(key)) is not None and known[0] is task:
            del self._calls[key]

    async def close(self) -> None:
        """End what is still being fetched."""
        tasks: list[asyncio.Task[Any]] = [task for task, _ in self._calls.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._calls.clear()


async def _awaited(fetch: Callable[[], Awaitable[V]]) -> V:
    return await fetch()
