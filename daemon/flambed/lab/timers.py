"""Actions of the lab that are due later: one thread, one heap, the lab's one lock."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timers(threading.Thread):
    """Runs actions when they are due, in order of time and then of request, each under `lock`.

    An action that raises ends this thread, which the server's excepthook turns into the end of the lab.
    """

    def __init__(self, lock: threading.RLock) -> None:
        super().__init__(name="lab-timers", daemon=True)
        self._lock = lock
        self._changed = threading.Condition()  # a lock of its own: `after` never waits for a request under way
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` `seconds` (real ones) from now; 0 is as soon as the lock is free. From any thread."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), action))
            self._changed.notify()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` each `seconds` until the lab ends, without drift; turns missed under load are skipped."""
        due = time.monotonic() + seconds

        def turn() -> None:
            nonlocal due
            action()
            due += seconds * max(1, int((time.monotonic() - due) // seconds) + 1)
            self.after(due - time.monotonic(), turn)

        self.after(seconds, turn)

    def close(self) -> None:
        """Run nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def run(self) -> None:
        while (action := self._next()) is not None:
            with self._lock:
                action()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(wait)
        return None
