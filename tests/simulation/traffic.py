"""Watches the calls: never a busy loop, and after an outage the service is back soon."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tests.simulation.faults import Outage, Weather
from tests.simulation.story import Teller
from tests.simulation.timeline import Timeline

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch

CALLS_A_MINUTE = 240
"""Calls that two clusters of a handful of machines may make at most."""

RECOVERS_WITHIN = 60.0
"""Seconds after an outage in which what it held up is tried again."""

UNREACHED = frozenset({"Unavailable", "EndpointConnectionError"})
"""The codes of what an outage does to a call."""

CALLS = {
    "launch": "run_instances",
    "terminate": "terminate_instances",
    "judge": "describe_instances",
    "start": "start_instances",
    "tag": "create_tags",
    "find": "describe_instances",
    "describe": "describe_instances",
    "prepare": "describe_images",
}
"""The first call of each kind of action."""


class Traffic:
    """All calls of the service to AWS, whichever process makes them."""

    def __init__(self, timeline: Timeline, weather: Weather, tell: Teller, watch: Watch) -> None:
        self._timeline = timeline
        self._weather = weather
        self._tell = tell
        self._watch = watch
        self._times: deque[float] = deque()
        self._last: dict[str, float] = {}  # by method
        self._refused: dict[Outage, float] = {}
        self._answered: dict[Outage, float] = {}
        self.busiest = 0
        for outage in weather.outages:
            timeline.later(outage.ends + RECOVERS_WITHIN, self._judge, outage)

    def called(self, method: str, error: Exception | None) -> None:
        """Count a call, and remember what it says of the outages."""
        now = self._timeline.now
        self._last[method] = now
        self._times.append(now)
        while self._times[0] < now - 60.0:
            self._times.popleft()
        self.busiest = max(self.busiest, len(self._times))
        if len(self._times) > CALLS_A_MINUTE:
            self._tell.violation(f"a busy loop: {len(self._times)} calls in a minute, the last {method}")
        for outage in self._weather.outages:
            if outage.covers(method, now):
                self._refused[outage] = now
            elif error is None and now >= outage.ends and method.startswith(outage.methods):
                self._answered.setdefault(outage, now)

    def _judge(self, outage: Outage) -> None:
        """Whether the service is back: it had calls refused until the end, was up since, and nothing else was wrong."""
        process, weather, ended = self._watch.process, self._weather, outage.ends
        if process is None or process.dead or process.began > ended - RECOVERS_WITHIN:
            return
        if not weather.works_between(ended, ended + RECOVERS_WITHIN) or weather.is_odd(outage.begins, ended + 3600.0):
            return
        # Without a queue that is always read there may be nothing to ask for minutes.
        busy = "" in outage.methods and weather.has_queue
        if busy and self._refused.get(outage, 0.0) > ended - RECOVERS_WITHIN and outage not in self._answered:
            self._tell.violation(f"{RECOVERS_WITHIN:g} s after the outage of {ended:.0f} no call was answered")
        for member in process.fleet.directory:
            for key, failure in member.world.failures.items():
                if key.kind == "judge":
                    continue  # what was read meanwhile may have put it off
                # What was not tried shortly before the end is not wanted any more, nor is an end once there was an `up`.
                recent = ended - RECOVERS_WITHIN < process.time_of(failure.at) < ended
                wanted = recent and (key.kind == "terminate") != member.world.wanted
                again = self._last.get(CALLS.get(key.kind, ""), 0.0) >= ended
                given_up = member.world.phase == "failed" and key.kind != "terminate"
                if failure.code in UNREACHED and wanted and not (again or given_up):
                    self._tell.violation(
                        f"{RECOVERS_WITHIN:g} s after the outage of {ended:.0f}, {key} was not tried again"
                    )
