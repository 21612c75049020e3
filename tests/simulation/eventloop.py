"""The event loop of a life: virtual time, and no threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.virtualtime import VirtualLoop


class SimulationLoop(VirtualLoop):
    """A virtual loop without threads: what is handed to one is done at once, so that a seed always tells the same story."""

    def run_in_executor(  # type: ignore[override] # the same, without its type variables
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does, it is for whoever awaits the future
            future.set_exception(error)
        return future
