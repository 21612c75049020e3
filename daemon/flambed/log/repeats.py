"""A line that comes again and again is written ten times a minute, and counted from then on. Reads one clock, writes nothing.

Lines are the same where they say the same but for their time; so of those that are left out nothing is lost but the times:
when their minute is over the last of them is written with their number, under `repeated`. Errors are never left out, nor
what tells a fact or follows from one: there each line is a part of a cluster's story.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flambed.log.line import REPEATED

Line = dict[str, Any]

MINUTE: Final = 60.0
"""Seconds from a line on in which others count as its repetitions."""

AT_ONCE: Final = 10
"""So many of them are written as they come, the first included: a line every six seconds is a rhythm, and no flood."""

MOST: Final = 1_000
"""Different lines that are remembered at most; with one more the minute of the oldest is over early."""


@dataclass(slots=True)
class _Minute:
    """What came of one line."""

    until: float
    came: int = 0
    last: Line | None = None  # of those that were left out

    def counted(self) -> list[Line]:
        """Return the line that stands for those that were left out, where any was."""
        return [] if self.last is None else [self.last | {REPEATED: self.came - AT_ONCE}]


class Repeats:
    """Keeps the lines that are to be written apart from those that are only counted. Threads may share it.

    Args:
        now: a clock that is never set, seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._minutes: OrderedDict[str, _Minute] = OrderedDict()  # by what the line says; they end in this order
        self._lock = threading.Lock()

    def take(self, line: Line) -> list[Line]:
        """Return what is to be written now that this line has come: counts that are due, and itself or not."""
        if line["level"] == "error" or line["fact"] is not None or line["cause"] is not None:
            return [line]
        says = repr(line | {"timestamp": None})
        with self._lock:
            counts = self._ended()
            minute = self._minutes.setdefault(says, _Minute(self._now() + MINUTE))
            minute.came += 1
            if minute.came <= AT_ONCE:
                return [*counts, line]
            minute.last = line
            return counts

    def due(self) -> list[Line]:
        """Return the counts whose minute is over."""
        with self._lock:
            return self._ended()

    def all(self) -> list[Line]:
        """Return all counts: nothing is kept back any more."""
        with self._lock:
            return self._ended(keep=0)

    def pause(self) -> float:
        """Return in how many seconds a count may be due."""
        with self._lock:
            first = next(iter(self._minutes.values()), None)
            return MINUTE if first is None else max(0.0, first.until - self._now())

    def _ended(self, keep: int = MOST) -> list[Line]:
        """Forget the minutes that are over, and the oldest of more than are to be kept; return their counts."""
        counts: list[Line] = []
        while self._minutes:
            oldest = next(iter(self._minutes.values()))
            if oldest.until > self._now() and len(self._minutes) <= keep:
                break
            self._minutes.popitem(last=False)
            counts += oldest.counted()
        return counts
