"""Between the threads of the cloud and the event loop of the hosts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from flambed.lab.hosts import HostFault, Hosts
from flambed.lab.machine.machine import Machine

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
        gpus: Sequence[int],
        then: Callable[[], None],
    ) -> None:
        """Let the host answer SSH, then call `then` (on the loop: it must not block). `gpus` are percents."""

        async def boot() -> None:
            await self._hosts.boot(instance_id, address, authorized_keys=authorized_keys, user_data=user_data)
            self._hosts.set_activity(instance_id, gpus=gpus)

        self._submit(instance_id, boot(), then)

    def view(self, instance_id: str) -> dict[str, Any] | None:
        """The host as it is now; None for one that has not booted, or is gone for good."""

        def look() -> dict[str, Any] | None:
            with suppress(KeyError):
                return self._hosts.view(instance_id)
            return None

        return self._call(look)

    def console(self, instance_id: str) -> str:
        """What the host's serial console has shown."""
        return self._call(lambda: self._hosts.console(instance_id))

    def set_fault(self, instance_id: str, fault: HostFault | None) -> None:
        """Give the host a fault, whether or not it has booted; None takes it away."""
        self._call(lambda: self._hosts.set_fault(instance_id, fault))

    def set_gpus(self, instance_id: str, gpus: Sequence[int]) -> None:
        """Set how busy the GPUs of a host that has booted are, in percent."""

        def set_activity() -> None:
            with suppress(KeyError):
                self._hosts.set_activity(instance_id, gpus=gpus)

        self._call(set_activity)

    def change(self, instance_id: str, change: Callable[[Machine], None]) -> None:
        """Change something on a host that has booted."""

        def on_machine() -> None:
            with suppress(KeyError):
                change(self._hosts.machine(instance_id))

        self._call(on_machine)

    def act(self, instance_id: str, **changes: Any) -> None:
        """Change some of a host's `Activity`, whether or not it has booted."""
        self._call(lambda: self._hosts.act(instance_id, **changes))

    def halt(self, instance_id: str, *, forget: bool, then: Callable[[], None]) -> None:
        """Stop the host, for good with `forget`, then call `then` (on the loop: it must not block)."""
        self._submit(instance_id, self._hosts.halt(instance_id, forget=forget), then)

    def _call(self, function: Callable[[], T]) -> T:
        """What `function` returns when called on the loop, where alone the hosts may be touched."""

        async def on_loop() -> T:
            return function()

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
