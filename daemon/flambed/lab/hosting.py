"""Between the threads of the cloud and the event loop of the hosts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from flambed.lab.hosts import Hosts

T = TypeVar("T")


class Hosting:
    """Starts and stops hosts from any thread; what concerns one host happens in the order it was asked for."""

    def __init__(self, hosts: Hosts, loop: asyncio.AbstractEventLoop) -> None:
        self._hosts = hosts
        self._loop = loop
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # asyncio's locks are fair
        self._tasks: set[asyncio.Task[None]] = set()

    def boot(
        self,
        instance_id: str,
        address: str,
        *,
        authorized_keys: Sequence[str],
        user_data: bytes | None,
        then: Callable[[], None],
    ) -> None:
        """Let the host answer SSH, then call `then` (on the loop: it must not block)."""
        boot = self._hosts.boot(instance_id, address, authorized_keys=authorized_keys, user_data=user_data)
        self._submit(instance_id, boot, then)

    def halt(self, instance_id: str, *, forget: bool, then: Callable[[], None]) -> None:
        """Stop the host, for good with `forget`, then call `then` (on the loop: it must not block)."""
        self._submit(instance_id, self._hosts.halt(instance_id, forget=forget), then)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns when called on the loop, where the hosts' state may be read."""

        async def on_loop() -> T:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()

    def _submit(self, instance_id: str, work: Coroutine[Any, Any, None], then: Callable[[], None]) -> None:
        async def in_turn() -> None:
            async with self._turns[instance_id]:
                await work
            then()

        def check(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                task.result()  # raises into the loop's exception handler, which ends the lab

        def start() -> None:
            task = self._loop.create_task(in_turn(), name=f"host {instance_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(check)

        self._loop.call_soon_threadsafe(start)
