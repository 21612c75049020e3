"""The event loop of a life: virtual time, and no threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.virtualtime import VirtualLoop

TURNS = 100_000
"""Turns of the loop at one instant after which something waits for a time that never comes."""


class StandstillError(RuntimeError):
    """Virtual time does not go on."""


class SimulationLoop(VirtualLoop):
    """A virtual loop without threads: what is handed to one is done at once, so that a seed always tells the same story."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = 0
        self._last = 0.0

    def _run_once(self) -> None:
        if not self._ready and not self._scheduled:  # type: ignore[attr-defined]
            raise StandstillError(f"at {self.time():.3f} s nothing is left that could happen")
        super()._run_once()
        self._turns = self._turns + 1 if self.time() == self._last else 0
        self._last = self.time()
        if self._turns > TURNS:
            raise StandstillError(f"{TURNS} turns at {self.time():.3f} s, and time does not go on")

    def run_in_executor(  # type: ignore[override] # the same, without its type variables
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does, it is for whoever awaits the future
            future.set_exception(error)
        return future
