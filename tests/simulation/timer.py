"""The dead-man's timer of a host: what `steps/idle-timer.sh` does, on the world's time."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation import use
from tests.simulation.use import TYPED_WITHIN, Way

if TYPE_CHECKING:
    from tests.simulation.cloud import Cloud, Machine

NEVER_RENEWED = 2 * 3600.0
RENEWED = 24 * 3600.0
SHORTEST = 60
"""Minutes that a host is idle at least before its timer ends it."""

_INSTALLED = re.compile(rb"set -- install (\d+) [0-9.]+\n")


@dataclass(slots=True)
class Timer:
    """The timer of one host. Times are seconds of the life."""

    cloud: Cloud
    machine: Machine
    minutes: int | None  # None: it ends nothing
    renewed_at: float | None = None
    hold: float = 0.0
    set: bool = False  # it will look at the host again

    def booted(self) -> None:
        """The host has booted, so that what was left of its lease begins anew."""
        if self.renewed_at is not None:
            self.renewed_at = self.cloud.now
        self._set()

    def renew(self, minutes: int, hold: float) -> str:
        """Take a lease; return what the host says of its timer."""
        self.minutes = minutes if minutes >= 0 else None
        self.renewed_at, self.hold = self.cloud.now, hold
        self._set()
        return "off" if self.minutes is None else "renewed"

    def _set(self) -> None:
        if not self.set and self.minutes is not None:
            self.set = True
            self.cloud.later(max(60.0, self._due() - self.cloud.now), self._look)

    def _look(self) -> None:
        self.set = False
        if self.machine.state != "running" or self.minutes is None:
            return
        if self._due() <= self.cloud.now:
            self.cloud.end(self.machine, "Client.InstanceInitiatedShutdown: Instance initiated shutdown", by="timer")
        else:
            self._set()

    def _due(self) -> float:
        machine, now = self.machine, self.cloud.now
        assert machine.running_at is not None, "it is set on a host that runs"
        assert self.minutes is not None, "it may end the host"
        lasts = NEVER_RENEWED if self.renewed_at is None else max(RENEWED, self.hold)
        typed = use.last(machine, Way.TERMINAL, now)
        used = [machine.running_at, use.last(machine, Way.CPU, now), use.last(machine, Way.GPU, now)]
        used.append(None if typed is None else typed + TYPED_WITHIN)
        idle_since = max(at for at in used if at is not None)
        return max(idle_since + max(self.minutes, SHORTEST) * 60.0, (self.renewed_at or machine.running_at) + lasts)


def minutes_in(params: Mapping[str, Any]) -> int | None:
    """Return the timeout of the timer that a launch's user data installs; None where it installs none."""
    found = _INSTALLED.search(gzip.decompress(params["UserData"]))
    return int(found[1]) if found else None
