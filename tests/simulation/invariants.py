"""What has to hold at every step of every life. A promise that is broken becomes a line of the story."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from flambed.desired import Role
from flambed.observed.instance import Stage
from flambed.observed.world import World
from flambed.plan import Decision
from tests.simulation.cloud import Cloud, Machine
from tests.simulation.disk import Disk
from tests.simulation.faults import Weather
from tests.simulation.process import Process
from tests.simulation.story import Teller

UNKNOWN_FOR = 900.0
"""Seconds for which a working service may not know of a machine of its own."""

UNPROTECTED_FOR = 900.0
"""Seconds for which a working service may leave a running host without the alarm that it should have."""

ORPHANED_FOR = 1800.0
"""Seconds for which factories may live on under a working service that ended their orchestrator."""

DECISIONS_A_MINUTE = 240

DECISIONS = frozenset({"ActionsBegan", "LaunchIntended", "LaunchAbandoned", "HostGivenUp", "PhaseChanged"})
"""The facts that a decision leads to."""


class Watch:
    """Looks on."""

    def __init__(self, disk: Disk, weather: Weather, tell: Teller) -> None:
        self._disk = disk
        self._weather = weather
        self._tell = tell
        self.cloud: Cloud
        self.process: Process | None = None
        self.most_factories = 0
        self.actions = 0
        self.decisions = 0
        self.moves = 0  # of machines of ours, and when the last was
        self.moved_at = 0.0
        self._times: deque[float] = deque()
        self._looked_at = 0.0
        self._unknown: Counter[str] = Counter()
        self._unprotected: Counter[str] = Counter()
        self._orphaned = 0.0
        self._orchestrator_ended_by: str | None = None

    # --- what happens to the cloud -------------------------------------------------------------------------------

    def launching(self, token: str, params: Mapping[str, Any]) -> None:
        """The intent is written before the deed."""
        if token not in self._disk.intents:
            self._tell.violation(f"RunInstances under the token {token}, which was not written down before")

    def touched(self, machine: Machine, how: str) -> None:
        """Nothing is ever done to what is not ours."""
        if not machine.ours:
            self._tell.violation(f"{machine.id}, which belongs to somebody else, was {how}")

    def moved(self, machine: Machine, state: str, why: str) -> None:
        """Never more machines than were asked for; no orchestrator goes before its factories."""
        self._tell.note("cloud", lambda: f"{machine.id} ({machine.role}) is {state}: {why}")
        if not machine.ours:
            return
        self.moves, self.moved_at = self.moves + 1, self.cloud.now
        alive = Counter(m.role for m in self.cloud.alive())
        if alive[Role.FACTORY] > self.most_factories:
            self._tell.violation(f"{alive[Role.FACTORY]} factories exist, and {self.most_factories} were asked for")
        if alive[Role.ORCHESTRATOR] > 1:
            self._tell.violation(f"{alive[Role.ORCHESTRATOR]} orchestrators exist")
        if machine.role == Role.ORCHESTRATOR and state == "shutting-down":
            # An alarm fires by itself where the service was away for longer than the points that it writes ahead.
            away = machine.ended_by == "alarm" and not self._has_worked_for(UNPROTECTED_FOR)
            self._orchestrator_ended_by = None if away else machine.ended_by
            if machine.ended_by == "alarm" and alive[Role.FACTORY] and not away:
                self._tell.violation(f"its alarm ended the orchestrator {machine.id} before its factories")

    def _has_worked_for(self, seconds: float) -> bool:
        """Whether the service is up, and nothing was in its way for so long."""
        process, since = self.process, self.cloud.now - seconds
        return process is not None and not process.dead and process.began <= since and self._weather.calm_at <= since

    # --- what is decided -----------------------------------------------------------------------------------------

    def decided(self, decision: Decision, world: World, now: float) -> None:
        """No busy loop; and a look at everything."""
        at = self.cloud.now
        self.decisions += 1
        self.actions += len(decision.actions)
        if decision.actions:
            names = ", ".join(f"{type(a).__name__} {' '.join(k.subject for k in a.keys)}" for a in decision.actions)
            self._tell.note("decide", lambda: names)
        self._times.append(at)
        while self._times[0] < at - 60.0:
            self._times.popleft()
        if len(self._times) > DECISIONS_A_MINUTE:
            self._tell.violation(f"a busy loop: {len(self._times)} decisions in a minute")
        self.look()

    def look(self) -> None:
        """Look at everything that may only last so long."""
        now = self.cloud.now
        passed, self._looked_at = now - self._looked_at, now
        process = self.process
        begins, ends = self._weather.disk_full
        works = process is not None and not process.dead and self._weather.works(now) and not begins <= now < ends
        world = self.world
        if not works or world is None:
            return
        assert process is not None
        passed = min(passed, now - process.began)
        alive = self.cloud.alive()
        for machine in alive:
            self._count(
                self._unknown, machine, passed, _knows(world, machine), UNKNOWN_FOR, "is not known to the service"
            )
            timed = world.desired is not None and world.desired.timeout_minutes(Role(machine.role)) is not None
            safe = machine.state != "running" or not timed or machine.id in self.cloud.watch.alarms
            self._count(self._unprotected, machine, passed, safe, UNPROTECTED_FOR, "runs without its alarm")
        orphans = [m for m in alive if m.role == Role.FACTORY and not m.protected]
        left = (
            orphans
            and all(m.role == Role.FACTORY for m in alive)
            and self._orchestrator_ended_by in ("service", "alarm")
        )
        self._orphaned = self._orphaned + passed if left else 0.0
        if self._orphaned > ORPHANED_FOR:
            self._tell.violation(
                f"{orphans[0].id} outlives its orchestrator, which was ended by its {self._orchestrator_ended_by}"
            )

    def _count(self, since: Counter[str], machine: Machine, passed: float, well: bool, most: float, what: str) -> None:
        since[machine.id] = 0 if well else since[machine.id] + passed  # type: ignore[assignment] # seconds
        if since[machine.id] > most:
            self._tell.violation(f"{machine.id} {what}, for {most:g} s in which everything works")

    @property
    def world(self) -> World | None:
        """What the service knows of the cluster; None where it is down or knows none."""
        if self.process is None or self.process.dead:
            return None
        return next((member.world for member in self.process.fleet.directory), None)

    # --- at the end ----------------------------------------------------------------------------------------------

    def nothing_is_left(self) -> None:
        """After `down`, nothing bills any more."""
        for machine in self.cloud.machines.values():
            if machine.ours and machine.state != "terminated":
                self._tell.violation(f"after `down`, {machine.id} is {machine.state}")
            if machine.ours and machine.id in self.cloud.watch.alarms:
                self._tell.violation(f"after `down`, the alarm of {machine.id} is left")
            if not machine.ours and machine.ended_by not in (None, "fate"):
                self._tell.violation(f"{machine.id}, which belongs to somebody else, was ended by {machine.ended_by}")


def _knows(world: World, machine: Machine) -> bool:
    known = world.instances.get(machine.id)
    return machine.token in world.intents or (known is not None and known.stage is not Stage.GONE)
