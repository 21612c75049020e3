"""A service that dies and is started again, at points that a test chooses.

The lab sends SIGKILL before or after it carries a certain call out, the service is started again as systemd would, and
whoever ran flambectl runs it again where it lost its connection.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from tests.lab.daemonproc import ANSWERS_WITHIN, Document
from tests.lab.serviceproc import Ended, Service

UNREACHABLE: Final = 3
"""flambectl's exit code where there is no service, or no longer."""


class Point(NamedTuple):
    """A moment to die: before or after the lab carries out the nth call (from 1) of an action in a phase of a life."""

    phase: str
    action: str
    nth: int
    when: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.when} {self.action} {self.nth} of {self.phase}"


class Mortal:
    """Kills a service at the points that it is given, one after the other, and starts it again each time.

    Attributes:
        hit: the points at which it died.
        missed: those that never came.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.hit: list[Point] = []
        self.missed: list[Point] = []
        self._coming: deque[Point] = deque()
        self._fault: int | None = None  # the lab's id of the fault for the first of them
        self._since = 0  # where in the ledger the phase began

    def begin(self, points: Iterable[Point] = ()) -> None:
        """Begin a phase, with the points at which to die in it, the first first. Those left of the last one are missed.

        The first phase begins with the start of the service.
        """
        self.service.lab.clear_faults()
        died = [self._coming.popleft()] if self._struck() else []
        self.missed += self._coming
        self._coming = deque(died)
        if died:
            self.revive()
        self._coming = deque(points)
        self._since = len(self.service.lab.calls())
        if self.service.runs:
            self._arm()
        else:
            self._spawn()

    def calls(self) -> list[Document]:
        """The ledger of this phase."""
        return self.service.lab.calls(self._since)

    def revive(self) -> None:
        """Start the service again, if the lab has killed it."""
        service = self.service
        # Asked in this order: what does not run now, and was struck by then, was killed and did not end by itself.
        while (service.runs, struck := self._struck()) != (True, False):
            assert struck, f"it ended by itself: {service.said()}"
            self.hit.append(self._coming.popleft())
            service.kill()
            self._spawn()

    def insist(self, *words: str) -> Ended:
        """Run flambectl, again for as often as the service dies meanwhile."""
        deadline = time.monotonic() + ANSWERS_WITHIN
        while (ended := self.service.ctl(*words)).code == UNREACHABLE:
            assert time.monotonic() < deadline, ended
            self.revive()
        return ended

    def until(self, what: Callable[[], bool]) -> None:
        """Wait for something to come true, however often the service dies meanwhile."""

        def came() -> bool:
            self.revive()
            return what()

        self.service.lab.until(came, within=ANSWERS_WITHIN)

    def _spawn(self) -> None:
        self.service.spawn()
        self._arm()
        self.service.until_started()

    def _arm(self) -> None:
        """Have the lab kill the process at the next point that can still come; its calls so far count."""
        self._fault = None
        counts = Counter(call["action"] for call in self.calls())
        while self._coming:
            point = self._coming[0]
            nth = point.nth - counts[point.action]
            if nth >= 1:
                order = {"kind": "kill", "pid": self.service.pid, "action": point.action, "when": point.when}
                self._fault = self.service.lab.fault({**order, "request": nth})[-1]["id"]
                return
            self.missed.append(self._coming.popleft())

    def _struck(self) -> bool:
        return self._fault is not None and any(self._fault in call["struck"] for call in self.calls())
