"""What has to hold at every step of every life. A promise that is broken becomes a line of the story."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from flambed.actions import Judge
from flambed.desired import Role
from flambed.errors import Reason
from flambed.observed.facts import Key
from flambed.observed.instance import Stage
from flambed.observed.world import World
from flambed.plan import Decision
from flambed.tags import INSTANCE_TAG
from tests.simulation.cloud import OWN_TAGS, Cloud, Identity, Machine
from tests.simulation.disk import Disk
from tests.simulation.faults import Weather
from tests.simulation.idleness import Idleness
from tests.simulation.person import Person
from tests.simulation.process import Process, Served
from tests.simulation.story import Teller

UNKNOWN_FOR = 900.0
"""Seconds for which a working service may not know of a machine of its own."""

UNPROTECTED_FOR = 600.0
"""Seconds for which a working service may leave a running host without the alarm that it should have."""

ORPHANED_FOR = 1800.0
"""Seconds for which factories may live on under a working service that ended their orchestrator."""

AWAY_FOR = 900.0
"""Seconds of undisturbed work after which an alarm fires only because the service let it."""

DECISIONS_A_MINUTE = 240
"""Decisions about one cluster, whose machines may all die while it boots, at most."""

DECISIONS = frozenset({"ActionsBegan", "LaunchIntended", "LaunchAbandoned", "HostGivenUp", "PhaseChanged"})
"""The facts that a decision leads to."""


class Watch:
    """Looks on."""

    def __init__(self, disk: Disk, weather: Weather, tell: Teller) -> None:
        self._disk = disk
        self._weather = weather
        self._tell = tell
        self.cloud: Cloud
        self.idleness: Idleness
        self.people: Sequence[Person] = ()
        self.process: Process | None = None
        self.served: list[Served] = []
        self.decisions = 0
        self.actions: Counter[Identity] = Counter()
        self.moves: Counter[Identity] = Counter()  # of machines of the cluster, and when the last was
        self.moved_at: dict[Identity, float] = {}
        self._times: deque[float] = deque()
        self._looked_at = 0.0
        self._unknown: Counter[str] = Counter()
        self._unprotected: Counter[str] = Counter()
        self._orphaned: Counter[Identity] = Counter()
        self._orchestrator_ended_by: dict[Identity, str | None] = {}

    def follow(self, process: Process) -> None:
        """Another process runs from now on."""
        self.process = process
        self.served.append(process.served)

    # --- what happens to the cloud -------------------------------------------------------------------------------

    def launching(self, token: str, params: Mapping[str, Any], cluster: Identity) -> None:
        """The intent is written before the deed, and what is launched can be found by its tags."""
        if token not in self._disk.intents:
            self._tell.violation(f"RunInstances under the token {token}, which was not written down before")
        for one in params["TagSpecifications"]:
            lacking = set(OWN_TAGS) - {tag["Key"] for tag in one["Tags"]}
            if lacking:
                self._tell.violation(f"RunInstances of a {one['ResourceType']} without the tags {sorted(lacking)}")
        if cluster not in {person.identity for person in self.people}:
            self._tell.violation(f"RunInstances for {cluster}, which nobody asked for")

    def touched(self, machine: Machine, how: str) -> None:
        """Nothing is done to what is not ours, nor before it was written down, nor for another cluster's sake."""
        if not machine.ours and not machine.adoptable:
            self._tell.violation(f"{machine.id}, which belongs to somebody else, was {how}")
        kind = {"terminated": "terminate", "started": "start", "tagged": "tag"}.get(how)
        if kind is None:
            return
        key = Key(kind, machine.id)
        if key not in self._disk.begun:
            self._tell.violation(f"{machine.id} was {how}, which was not written down before")
        world = self._world(machine.cluster)
        if world is not None and machine.exists and machine.id not in world.instances:
            self._tell.violation(f"{machine.id} was {how} by another cluster than its own")

    def unguarded(self, machine: Machine) -> None:
        """No alarm of a host is deleted before that is gone: nobody changes a timeout here."""
        if machine.exists:
            self._tell.violation(f"the alarm of {machine.id}, which runs, was deleted")

    def moved(self, machine: Machine, state: str, why: str) -> None:
        """Never more machines than were asked for; no orchestrator goes before its factories."""
        self._tell.note("cloud", lambda: f"{machine.id} ({machine.role}) is {state}: {why}")
        if state == "shutting-down":
            self.idleness.ended(machine)
        person = self._person(machine.cluster)
        if person is None or not (machine.ours or machine.adoptable):
            return
        identity = machine.cluster
        self.moves[identity] += 1
        self.moved_at[identity] = self.cloud.now
        if not machine.ours:
            return
        alive = Counter(m.role for m in self.cloud.alive(identity))
        adopted = sum(m.adoptable and m.role == Role.FACTORY for m in self.cloud.alive(identity))
        if alive[Role.FACTORY] > max(person.most_factories, adopted):
            self._tell.violation(f"{alive[Role.FACTORY]} factories exist, and {person.most_factories} were asked for")
        if alive[Role.ORCHESTRATOR] > 1:
            self._tell.violation(f"{alive[Role.ORCHESTRATOR]} orchestrators exist")
        if machine.role == Role.ORCHESTRATOR and state == "shutting-down":
            # An alarm fires by itself where the service was away for longer than the points that it writes ahead.
            # A cluster whose record was lost is looked after once somebody says again what it should be.
            world = self._world(identity)
            worked = self._has_worked_for(AWAY_FOR) and world is not None and not world.recovered
            away = machine.ended_by == "alarm" and not worked
            self._orchestrator_ended_by[identity] = None if away else machine.ended_by
            if machine.ended_by == "alarm" and alive[Role.FACTORY] and not away:
                self._tell.violation(f"its alarm ended the orchestrator {machine.id} before its factories")

    def _has_worked_for(self, seconds: float) -> bool:
        """Whether the service is up, and nothing was in its way for so long."""
        process, weather, now = self.process, self._weather, self.cloud.now
        since = now - seconds
        return (
            process is not None
            and not process.dead
            and process.began <= since
            and weather.works_between(since, now)
            and not weather.is_odd(since, now)
        )

    # --- what is decided -----------------------------------------------------------------------------------------

    def decided(self, decision: Decision, world: World) -> None:
        """No busy loop; nothing by another name than AWS's; and a look at everything."""
        at = self.cloud.now
        identity = world.desired.identity if world.desired is not None else ("", "")
        self.decisions += 1
        # A host whose alarm does not act is examined now and then for as long as it lives: that is no decision yet.
        self.actions[identity] += sum(not isinstance(action, Judge) for action in decision.actions)
        if decision.actions:
            names = ", ".join(f"{type(a).__name__} {' '.join(k.subject for k in a.keys)}" for a in decision.actions)
            self._tell.note("decide", lambda: names)
        self._times.append(at)
        while self._times[0] < at - 60.0:
            self._times.popleft()
        if len(self._times) > DECISIONS_A_MINUTE * len(self.people):
            self._tell.violation(f"a busy loop: {len(self._times)} decisions in a minute")
        if identity not in self.cloud.lacks:
            for failure in (*world.launch_failures.values(), *world.failures.values()):
                if failure.reason is Reason.NO_CAPACITY:
                    self._tell.violation(f"{failure.code} is reported as lacking capacity, and EC2 never lacked it")
        self.look()

    def overslept(self) -> None:
        """The machine was suspended, so nobody could do anything: that time does not count."""
        self._looked_at = self.cloud.now

    def look(self) -> None:
        """Look at everything that may only last so long."""
        now = self.cloud.now
        passed, self._looked_at = now - self._looked_at, now
        process = self.process
        begins, ends = self._weather.disk_full
        if process is None or process.dead or not self._weather.works(now) or begins <= now < ends:
            return
        passed = min(passed, now - process.began)
        for person in self.people:
            if (world := person.world) is not None:
                self._look_at(person, world, passed)

    def _look_at(self, person: Person, world: World, passed: float) -> None:
        alive = self.cloud.alive(person.identity)
        for machine in alive:
            if self._is_forgotten(machine):
                continue
            self._count(
                self._unknown, machine, passed, _knows(world, machine), UNKNOWN_FOR, "is not known to the service"
            )
            timed = world.desired is not None and world.desired.timeout_minutes(Role(machine.role)) is not None
            # What may not be the cluster's after all is left alone.
            doubtful = bool(world.strangers) and (machine.adoptable or machine.id in world.strangers)
            safe = machine.state != "running" or not timed or doubtful or machine.id in self.cloud.watch.alarms
            self._count(self._unprotected, machine, passed, safe, UNPROTECTED_FOR, "runs without its alarm")
        # A launch that fails gives back what it created; what was there before, or found again, goes on.
        before = [i for i in world.instances.values() if i.request <= world.converged_request or i.adopted or i.found]
        spared = {i.id for i in before if world.rolled_back}
        orphans = [
            m for m in alive if m.role == Role.FACTORY and not m.protected and not m.adoptable and m.id not in spared
        ]
        ended_by = self._orchestrator_ended_by.get(person.identity)
        left = (
            orphans
            and not world.recovered
            and all(m.role == Role.FACTORY for m in alive)
            and ended_by in ("service", "alarm")
        )
        orphaned = self._orphaned[person.identity] + passed if left else 0
        self._orphaned[person.identity] = orphaned  # type: ignore[assignment] # seconds
        if orphaned > ORPHANED_FOR:
            self._tell.violation(f"{orphans[0].id} outlives its orchestrator, which was ended by its {ended_by}")

    def _count(self, since: Counter[str], machine: Machine, passed: float, well: bool, most: float, what: str) -> None:
        since[machine.id] = 0 if well else since[machine.id] + passed  # type: ignore[assignment] # seconds
        if since[machine.id] > most:
            self._tell.violation(f"{machine.id} {what}, for {most:g} s in which everything works")

    def _person(self, cluster: Identity) -> Person | None:
        return next((person for person in self.people if person.identity == cluster), None)

    def _world(self, cluster: Identity) -> World | None:
        person = self._person(cluster)
        return person.world if person is not None else None

    # --- at the end ----------------------------------------------------------------------------------------------

    def volumes_left(self) -> list[str]:
        """Return the volumes of the clusters' own machines, as far as the service ever saw them, that outlive those."""
        worlds = [member.world for member in self.process.fleet.directory] if self.process else []
        seen = {volume for world in worlds for i in world.instances.values() for volume in i.volumes}
        return [
            name
            for name, volume in self.cloud.volumes.all.items()
            if volume.state == "available" and name in seen and not volume.machine.adoptable
        ]

    def _is_forgotten(self, machine: Machine) -> bool:
        """Whether it was to be taken over, that is forgotten with the journal, and nothing on the machine tells so."""
        return self._disk.lost and machine.adoptable and INSTANCE_TAG not in machine.tags

    def nothing_is_left(self) -> None:
        """After `down`, nothing bills any more."""
        for machine in self.cloud.machines.values():
            if self._is_forgotten(machine):
                continue
            # What the lost journal launched and was dying by itself is nobody's to wait for.
            dying = self._disk.lost and machine.state == "shutting-down" and machine.ended_by == "fate"
            if machine.ours and machine.state != "terminated" and not dying:
                self._tell.violation(f"after `down`, {machine.id} is {machine.state}")
            if machine.ours and machine.id in self.cloud.watch.alarms:
                self._tell.violation(f"after `down`, the alarm of {machine.id} is left")
            if not machine.ours and not machine.adoptable and machine.ended_by not in (None, "fate"):
                self._tell.violation(f"{machine.id}, which belongs to somebody else, was ended by {machine.ended_by}")
        for volume in self.volumes_left():
            self._tell.violation(f"after `down`, {volume} is left")


def _knows(world: World, machine: Machine) -> bool:
    known = world.instances.get(machine.id)
    # What came after the `up` of a journal that is new is told as a stranger, and needs an admin.
    told = machine.id in world.strangers
    return told or machine.token in world.intents or (known is not None and known.stage is not Stage.GONE)
