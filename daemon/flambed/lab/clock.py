"""The lab's clock: CloudWatch time may run faster than the wall clock.

Metrics, alarm evaluation, the hosts' CPU points and what a host itself takes for the time live in lab time. Boot, SSH and latency delays are real
seconds at any speed, because the programs under test measure those with their own clocks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

ANCHOR: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""UNIX time at which lab time and real time agree at every speed: 2026-01-01T00:00:00Z."""


@dataclass(frozen=True)
class Clock:
    """Lab time as a function of real time; any process that knows `minute` computes the same."""

    minute: float = 60.0
    """Real seconds that one lab minute lasts."""

    def __post_init__(self) -> None:
        if self.minute <= 0:
            raise ValueError(f"a lab minute must last more than 0 seconds, not {self.minute}")

    def now(self) -> float:
        """Lab time in UNIX seconds."""
        real = time.time()
        return real if self.minute == 60 else ANCHOR + (real - ANCHOR) * 60 / self.minute

    def real(self, lab_seconds: float) -> float:
        """Real seconds that `lab_seconds` take."""
        return lab_seconds * self.minute / 60
